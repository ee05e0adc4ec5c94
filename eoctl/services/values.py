"""What the services answer: frozen values whose fields are the JSON documents of the command line.

Bytes and counts are integers, durations seconds, times RFC 3339 UTC, digests 64 hex digits. A field is never
renamed or removed.
"""

from __future__ import annotations

from msgspec import Struct


class SnapshotRow(Struct, frozen=True, kw_only=True):
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


class ForeignRow(SnapshotRow, frozen=True, kw_only=True):
    """One snapshot as another engine wrote it, at `path`; `pipeline` is what that engine calls it, or ""."""

    path: str

    @property
    def address(self) -> str:
        return self.path


class StateRow(Struct, frozen=True, kw_only=True):
    """A named state of an operator; None where its engine does not tell."""

    name: str
    kind: str
    bytes: int | None
    entries: int | None


class OperatorRow(Struct, frozen=True, kw_only=True):
    """One operator of a snapshot."""

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


class SourceRow(Struct, frozen=True, kw_only=True):
    """Where one source stands."""

    uid: str
    offsets: dict[str, int | str]


class TransactionRow(Struct, frozen=True, kw_only=True):
    """One committable of a sink."""

    id: str
    state: str
    checkpoint: int


class SinkRow(Struct, frozen=True, kw_only=True):
    """One sink's transactions."""

    uid: str
    transactions: tuple[TransactionRow, ...]


class FileNames(Struct, frozen=True, kw_only=True):
    """New here, referenced from earlier checkpoints, in the parent but not here: names as `OPERATOR/SUBTASK/NAME`."""

    new: tuple[str, ...]
    referenced: tuple[str, ...]
    obsolete: tuple[str, ...]


class Metrics(Struct, frozen=True, kw_only=True):
    """Seconds and bytes of one checkpoint."""

    duration_seconds: float
    alignment_seconds: float
    snapshot_seconds: float
    upload_seconds: float
    stored_bytes: int
    in_flight_bytes: int


class Inspection(Struct, frozen=True, kw_only=True):
    """One snapshot, explained. `references`: earlier checkpoint id -> names of the files here that it first stored."""

    snapshot: SnapshotRow
    parent: int | None
    metadata_version: int | None
    metrics: Metrics
    operators: tuple[OperatorRow, ...]
    sources: tuple[SourceRow, ...]
    sinks: tuple[SinkRow, ...]
    files: FileNames
    references: dict[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()  # what could not be told: the parent has left the store, or is damaged


class FileRow(Struct, frozen=True, kw_only=True, gc=False):
    """`place`: inline, blob, pack or blocks. `stored_bytes` counts what this file takes, packs by slice."""

    operator: str
    subtask: int
    name: str
    bytes: int
    digest: str
    stored_bytes: int
    place: str
    first_stored_in: int


class ForeignFileRow(FileRow, frozen=True, kw_only=True, gc=False):
    """A file of a snapshot that another engine wrote. `place`: inline, file or segment; `path`: where; no digest."""

    path: str


class ChangedFile(Struct, frozen=True, kw_only=True):
    """A file of the same name and other content."""

    name: str
    old_bytes: int
    new_bytes: int


class Difference(Struct, frozen=True, kw_only=True):
    """What B has and A has not (`added`), the reverse (`removed`), and same names with other content (`changed`).

    `added_bytes` counts the content of added files and the new content of changed ones, `removed_bytes` that of removed
    files and the old content of changed ones. `shared_stored_bytes`: blobs that both name.
    """

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


class BlobUse(Struct, frozen=True, kw_only=True):
    """One stored blob of the file or snapshot asked about, by its name in the store; and the snapshots that need it."""

    key: str
    stored_bytes: int
    snapshots: tuple[str, ...]


class Explanation(Struct, frozen=True, kw_only=True):
    """Who needs what, and what deleting the snapshot would free.

    `kind`: snapshot, or file. `stored_bytes`: what the subject takes, of a file in a pack its slice; `shared_bytes`:
    how much of that lies in blobs that other snapshots name too. `frees_bytes`: how much goes once the snapshot has
    left the trash (and with it what is in the trash already, and holds that have expired), and gc has run with the
    floor above; a pack goes only when no slice of it is needed. `shares_with`: snapshot -> bytes. `kept_because`: one
    sentence for each reason that keeps the subject's blobs until then.
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


class DamagedFile(Struct, frozen=True, kw_only=True):
    """One damaged content, and all snapshots that it hurts.

    `name`: OPERATOR/SUBTASK/NAME, the first of its names; `manifest`, `HEAD`, `hook` or `restore`; or the name of the
    blob where no file of a snapshot is hurt. `digest`: of the file's content; of the stored bytes where it is no
    file; "" for HEAD. `blob`: the damaged value's name in the store.
    """

    digest: str
    name: str
    snapshots: tuple[str, ...]
    reason: str
    blob: str = ""
    other_names: tuple[str, ...] = ()


class Verification(Struct, frozen=True, kw_only=True):
    """What was looked at, and the damage.

    `checked_files` and `checked_blobs` were looked at as hard as the level says; `checked_bytes` were read and compared
    with digests. `turn` of `turns`: which part of the blobs a sample read. `report`: where the result is kept in the
    store, or `report_skipped` says why it is not.
    """

    pipeline: str
    level: str
    snapshots: tuple[str, ...]
    checked_files: int
    checked_bytes: int
    damaged: tuple[DamagedFile, ...]
    seconds: float
    checked_blobs: int = 0
    turn: int | None = None
    turns: int | None = None
    restore_seconds: float | None = None  # of a drill: what its restores took
    report: str = ""
    report_skipped: str = ""


class RestoredOperator(Struct, frozen=True, kw_only=True):
    """Where one subtask's files were put."""

    uid: str
    subtask: int
    path: str


class Transactions(Struct, frozen=True, kw_only=True):
    """Ids to commit because the restored snapshot exists, and to abort because they came after it."""

    commit: tuple[str, ...] = ()
    abort: tuple[str, ...] = ()


class FellBack(Struct, frozen=True, kw_only=True):
    """A snapshot that was to be restored and was not, as it is damaged."""

    snapshot: str
    reason: str


class Restored(Struct, frozen=True, kw_only=True):
    """What a restore put where, and where the sources go on.

    `fell_back_from`: damaged snapshots that were passed over, the one asked for first; empty where that was restored.
    """

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
    fell_back_from: tuple[FellBack, ...] = ()
    notes: tuple[str, ...] = ()  # what the caller should know: no hold was taken, one was left


class Created(Struct, frozen=True, kw_only=True):
    """A checkpoint that now exists. `existed`: an earlier try of the same command had committed it."""

    snapshot: SnapshotRow
    stored_bytes: int
    read_bytes: int
    seconds: float
    existed: bool = False


class PipelineRow(Struct, frozen=True, kw_only=True):
    """One pipeline, as its HEAD knows it. `state`: active, destroyed; or why HEAD cannot be read, and then all is 0.

    `newest`, `newest_at` and `full_bytes` are those of the newest live checkpoint.
    """

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


class HoldRow(Struct, frozen=True, kw_only=True):
    """One hold on a snapshot."""

    id: str
    snapshot: str
    reason: str
    created_at: str
    expires_at: str | None


class EntryChange(Struct, frozen=True, kw_only=True):
    """One snapshot after a change. `changed`: it was otherwise before; `newest`: it was the newest live checkpoint."""

    snapshot: SnapshotRow
    changed: bool
    newest: bool = False


class Release(Struct, frozen=True, kw_only=True):
    """Holds that are gone."""

    pipeline: str
    released: tuple[HoldRow, ...]


class Deletion(Struct, frozen=True, kw_only=True):
    """Snapshots that are in the trash now, or would be (`dry_run`).

    `frees_bytes`: as in `Explanation`, of all of them together; None where it is not known (a manifest is damaged:
    `notes` says which).
    """

    pipeline: str
    dry_run: bool
    entries: tuple[EntryChange, ...]
    frees_blobs: int | None
    frees_bytes: int | None
    notes: tuple[str, ...] = ()


class PipelineDetail(Struct, frozen=True, kw_only=True):
    """A pipeline with its holds, its writers and its snapshots."""

    row: PipelineRow
    seq: int
    last_id: int
    writers: tuple[str, ...] = ()  # fresh pins: who uploads now
    hold_rows: tuple[HoldRow, ...] = ()
    snapshots: tuple[SnapshotRow, ...] = ()
