"""What travels through channels: batches of records, and the marks between them.

A batch is columns of equal length: values, and where the pipeline has them timestamps (milliseconds since 1970) and
keys. Nobody changes a list that he was given; an operator makes new ones. Flink's times: a watermark `t` says that no
record with a timestamp of at most `t` follows.
"""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

NO_TIME = -(1 << 63)  # no watermark yet
END_OF_TIME = (1 << 63) - 1  # no record follows


class Batch(Struct, frozen=True, gc=False):
    """Records in their order. `keys`: after `key_by`."""

    values: list[object]
    timestamps: list[int] | None = None
    keys: list[object] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, places: list[int]) -> Batch:
        """The records at these places."""
        if len(places) == len(self.values):
            return self
        values, timestamps, keys = self.values, self.timestamps, self.keys
        return Batch(
            [values[place] for place in places],
            None if timestamps is None else [timestamps[place] for place in places],
            None if keys is None else [keys[place] for place in places],
        )


class Barrier(Struct, frozen=True, gc=False):
    """The end of an epoch: what is before it in the channel belongs to the checkpoint. Unaligned, it overtakes."""

    checkpoint: int
    unaligned: bool = False


class Watermark(Struct, frozen=True, gc=False):
    """No record with a timestamp of at most `time` follows."""

    time: int


Element: TypeAlias = Batch | Barrier | Watermark
