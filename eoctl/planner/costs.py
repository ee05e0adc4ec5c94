"""What a checkpoint costs: bytes, seconds, throughput. The formulas are told in docs/planning.md."""

from __future__ import annotations

from msgspec import Struct

from formats.errors import UsageError


class Checkpoint(Struct, frozen=True, kw_only=True):
    """One checkpoint in figures.

    Bytes: `state_bytes` in full, `added_bytes` that are uploaded, `offsets_bytes` and `metadata_bytes` beside them.
    Seconds: `propagation_seconds` until the last operator has the barriers (alignment), `snapshot_seconds` of the
    synchronous part, in which an operator stands still; the upload goes on beside the processing at
    `upload_bytes_per_second` and takes `upload_share` of its processor time meanwhile. Raises: UsageError.
    """

    state_bytes: int
    added_bytes: int
    upload_bytes_per_second: float
    offsets_bytes: int = 0
    metadata_bytes: int = 0
    propagation_seconds: float = 0.0
    snapshot_seconds: float = 0.0
    upload_share: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name} cannot be {value}", hint="a number from 0")
        if self.upload_bytes_per_second == 0 and self.uploaded_bytes:
            raise UsageError("nothing can be uploaded at 0 bytes in a second", hint="give the rate of the uploads")
        if self.upload_share > 1:
            raise UsageError(f"upload_share cannot be {self.upload_share}", hint="a share from 0 to 1")

    @property
    def full_bytes(self) -> int:
        """size = state + offsets + metadata."""
        return self.state_bytes + self.offsets_bytes + self.metadata_bytes

    @property
    def uploaded_bytes(self) -> int:
        return self.added_bytes + self.offsets_bytes + self.metadata_bytes

    @property
    def upload_seconds(self) -> float:
        return self.uploaded_bytes / self.upload_bytes_per_second if self.uploaded_bytes else 0.0

    @property
    def duration_seconds(self) -> float:
        """duration = propagation of the barriers + snapshot + upload."""
        return self.propagation_seconds + self.snapshot_seconds + self.upload_seconds

    @property
    def lost_seconds(self) -> float:
        """Processing time that one checkpoint takes: all of the snapshot, a share of the upload."""
        return self.snapshot_seconds + self.upload_share * self.upload_seconds


def throughput_share(interval_seconds: float, lost_seconds: float) -> float:
    """How much of the throughput is left, 0 to 1: `1 - lost / interval`, at 60 s and 5 s 91.7 %.

    `interval_seconds` is from one start to the next. Raises: UsageError.
    """
    if not 0 < interval_seconds < float("inf"):
        raise UsageError(f"an interval cannot be {interval_seconds} s", hint="a duration above 0")
    return max(0.0, 1 - lost_seconds / interval_seconds)
