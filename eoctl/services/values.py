"""What the services answer: frozen values whose fields are the JSON documents of the command line.

Bytes and counts are integers, durations seconds, times RFC 3339 UTC, digests 64 hex digits. A field is never
renamed or removed.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRow:
    """One snapshot, as HEAD knows it. `status`: complete, held or trash."""

    pipeline: str
    id: int
    kind: str
    name: str
    created_at: str
    attempt: int
    full_bytes: int
    added_bytes: int
    files: int
    added_files: int
    referenced_files: int
    tags: tuple[str, ...]
    status: str
    engine: str

    @property
    def address(self) -> str:
        return f"{self.pipeline}@{self.name or self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRow:
    name: str
    kind: str
    bytes: int | None
    entries: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    uid: str
    id: str
    name: str
    parallelism: int
    max_parallelism: int
    subtasks: int
    full_bytes: int
    in_flight_bytes: int
    files: int
    engine: str
    properties: dict[str, str]
    states: tuple[StateRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    uid: str
    offsets: dict[str, int | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionRow:
    id: str
    state: str
    checkpoint: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRow:
    uid: str
    transactions: tuple[TransactionRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNames:
    """New here, referenced from earlier checkpoints, in the parent but not here: names as `OPERATOR/SUBTASK/NAME`."""

    new: tuple[str, ...]
    referenced: tuple[str, ...]
    obsolete: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Seconds and bytes of one checkpoint."""

    duration_seconds: float
    alignment_seconds: float
    snapshot_seconds: float
    upload_seconds: float
    stored_bytes: int
    in_flight_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """One snapshot, explained. `references`: checkpoint id -> names of files that it first stored."""

    snapshot: SnapshotRow
    parent: int | None
    metadata_version: int | None
    metrics: Metrics
    operators: tuple[OperatorRow, ...]
    sources: tuple[SourceRow, ...]
    sinks: tuple[SinkRow, ...]
    files: FileNames
    references: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """`place`: inline, blob, pack or blocks. `stored_bytes` counts what this file takes, packs by slice."""

    operator: str
    subtask: int
    name: str
    bytes: int
    digest: str
    stored_bytes: int
    place: str
    first_stored_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedFile:
    name: str
    old_bytes: int
    new_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What B has and A has not (`added`), the reverse (`removed`), and same names with other content (`changed`)."""

    a: str
    b: str
    added: tuple[FileRow, ...]
    removed: tuple[FileRow, ...]
    changed: tuple[ChangedFile, ...]
    same_files: int
    added_bytes: int
    removed_bytes: int
    shared_stored_bytes: int

    @property
    def differs(self) -> bool:
        return bool(self.added or self.removed or self.changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobUse:
    """One stored blob of the file or snapshot asked about, and the snapshots that need it."""

    key: str
    stored_bytes: int
    snapshots: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Who needs what, and what deleting it would free.

    `frees_bytes`: stored bytes that only the subject needs, once gc has run; `kept_because`: one sentence
    for each reason that keeps the subject's blobs (live entries, trash, holds, young eras).
    """

    subject: str
    kind: str
    stored_bytes: int
    shared_bytes: int
    frees_bytes: int
    frees_blobs: int
    referenced_by: tuple[str, ...]
    shares_with: dict[str, int]
    kept_because: tuple[str, ...]
    blobs: tuple[BlobUse, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DamagedFile:
    digest: str
    name: str
    snapshots: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    pipeline: str
    level: str
    snapshots: tuple[str, ...]
    checked_files: int
    checked_bytes: int
    damaged: tuple[DamagedFile, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredOperator:
    uid: str
    subtask: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Transactions:
    """Ids to commit because the restored snapshot exists, and to abort because they came after it."""

    commit: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a restore put where, and where the sources go on."""

    snapshot: str
    target: str
    files: int
    bytes: int
    linked_files: int
    seconds: float
    operators: tuple[RestoredOperator, ...]
    source_offsets: dict[str, dict[str, int | str]]
    transactions: Transactions
    non_restored: tuple[str, ...] = ()
    fell_back_from: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # what the caller should know: no hold was taken, one was left


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A checkpoint that now exists. `existed`: an earlier try of the same command had committed it."""

    snapshot: SnapshotRow
    stored_bytes: int
    read_bytes: int
    seconds: float
    existed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreInfo:
    """`capabilities`: what was found of the place: atomic create, swap, hard links, reflinks, free bytes."""

    url: str
    id: str
    format_version: int
    hash: str
    created_at: str
    pipelines: int
    capabilities: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStats:
    """`logical_bytes`: sum of the full sizes; `unique_bytes`: stored bytes that the roots name, each once."""

    pipeline: str
    checkpoints: int
    savepoints: int
    trash: int
    holds: int
    logical_bytes: int
    referenced_blobs: int
    referenced_bytes: int
    stored_blobs: int
    stored_bytes: int
    orphan_blobs: int
    orphan_bytes: int
    saved_by_sharing: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    url: str
    pipelines: tuple[PipelineStats, ...]
    last_good_drill_age_seconds: int | None
    unfinished_uploads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRow:
    """One pipeline, as its HEAD knows it."""

    pipeline: str
    state: str
    checkpoints: int
    savepoints: int
    newest: str
    newest_at: str
    full_bytes: int
    attempt: int
    era: int
    floor: int
    trash: int
    holds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldRow:
    id: str
    snapshot: str
    reason: str
    created_at: str
    expires_at: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineDetail:
    row: PipelineRow
    seq: int
    last_id: int
    writers: tuple[str, ...] = ()  # fresh pins: who uploads now
    hold_rows: tuple[HoldRow, ...] = ()
    snapshots: tuple[SnapshotRow, ...] = field(default=())
