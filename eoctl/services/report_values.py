"""What `report` answers (see values.py): how a pipeline's checkpoints went, over time."""

from __future__ import annotations

from msgspec import Struct


class ReportRow(Struct, frozen=True, kw_only=True):
    """One snapshot. `exclusive_bytes`: stored bytes that no other snapshot needs, its manifest's too.

    `operators`: uid, or id where it has none -> bytes. `duration_seconds`: None where it was not recorded.
    """

    snapshot: str
    kind: str
    status: str
    created_at: str
    full_bytes: int
    added_bytes: int
    stored_bytes: int
    exclusive_bytes: int
    files: int
    duration_seconds: float | None
    operators: dict[str, int]


class OperatorShare(Struct, frozen=True, kw_only=True):
    """An operator of the newest snapshot. `growth_bytes`: since the oldest; None where it was not there yet."""

    operator: str
    full_bytes: int
    growth_bytes: int | None


class Origin(Struct, frozen=True, kw_only=True):
    """How many bytes of the newest snapshot a checkpoint stored first."""

    snapshot: str
    bytes: int
    files: int


class Report(Struct, frozen=True, kw_only=True):
    """A pipeline's snapshots in order of commit, up to `newest`.

    `logical_bytes`: sum of the full sizes; `referenced_bytes`: stored bytes that they need, each blob once;
    `saved_by_sharing`: the part that this saves. `timeout_seconds`: the newest one's, where it records one.
    """

    pipeline: str
    made_at: str
    newest: str
    newest_age_seconds: int
    snapshots: tuple[ReportRow, ...]
    operators: tuple[OperatorShare, ...]
    origins: tuple[Origin, ...]
    logical_bytes: int
    referenced_bytes: int
    saved_by_sharing: float
    timeout_seconds: float | None
