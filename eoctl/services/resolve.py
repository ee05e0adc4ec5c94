"""Addresses of snapshots: `PIPELINE@42`, `PIPELINE@latest`, `PIPELINE@NAME`; `PIPELINE@` left out where it is plain."""

from __future__ import annotations

from msgspec import Struct

from eoctl.services.values import SnapshotRow
from formats.errors import SnapshotNotFoundError, UsageError
from formats.head import Head, HeadEntry
from formats.ids import PipelineId
from storage.edits import find
from storage.head import CommittedHead
from storage.store import Store

LATEST = "latest"
_FOREIGN_PREFIXES = ("flink:", "file:")


class Resolved(Struct, frozen=True):
    """A root of a pipeline, in the value of HEAD that named it."""

    pipeline: PipelineId
    committed: CommittedHead
    entry: HeadEntry

    @property
    def head(self) -> Head:
        return self.committed.head

    @property
    def address(self) -> str:
        return f"{self.pipeline}@{self.entry.label}"


def is_foreign(address: str) -> bool:
    """`address` is a path or URL (`/x/chk-7`, `./chk-7`, `file:///x`, `flink:x`), and so no snapshot of the store."""
    return "/" in address or address in {".", ".."} or address.startswith(_FOREIGN_PREFIXES)


def pick_pipeline(store: Store, name: str | None) -> PipelineId:
    """The pipeline of that name, or the only one of the store.

    Raises: BadNameError, UsageError, SnapshotNotFoundError.
    """
    if name:
        return PipelineId(name)
    pipelines = list(store.pipelines())
    if not pipelines:
        raise SnapshotNotFoundError(
            f"the store has no pipeline yet: {store.place.url}",
            hint="eoctl checkpoint create DIR -p PIPELINE makes the first",
        )
    if len(pipelines) > 1:
        names = ", ".join(pipeline.name for pipeline in pipelines[:5])
        raise UsageError(
            f"the store has {len(pipelines)} pipelines: {names}", hint="say which: -p PIPELINE, or PIPELINE@ID"
        )
    return pipelines[0]


def resolve(store: Store, address: str, pipeline: str | None = None) -> Resolved:
    """The snapshot at `address`, from live entries, trash or holds.

    Raises: UsageError, BadNameError, SnapshotNotFoundError.
    """
    before, at, after = address.rpartition("@")
    name, label = (before, after) if at else ("", address)
    if not label or (at and not name):
        raise UsageError(f"not a snapshot: {address!r}", hint="PIPELINE@42, PIPELINE@latest or PIPELINE@NAME")
    if name and pipeline and name != pipeline:
        raise UsageError(f"{address!r} and -p {pipeline} name two pipelines")
    chosen = pick_pipeline(store, name or pipeline)
    committed = store.head(chosen)
    if label == LATEST:
        return Resolved(chosen, committed, latest(committed.head))
    return Resolved(chosen, committed, find(committed.head, label.removeprefix("#")))


def live(store: Store, pipeline: PipelineId) -> list[Resolved]:
    """Every live snapshot of the pipeline, in order of commit. Raises: SnapshotNotFoundError where there is none."""
    committed = store.head(pipeline)
    if not committed.head.live:
        raise SnapshotNotFoundError(
            f"the pipeline {pipeline} has no snapshot", hint=f"eoctl checkpoint list -p {pipeline}"
        )
    return [Resolved(pipeline, committed, entry) for entry in committed.head.live]


def latest(head: Head) -> HeadEntry:
    """The newest complete checkpoint. Raises: SnapshotNotFoundError."""
    for entry in reversed(head.live):
        if entry.kind == "checkpoint":
            return entry
    raise SnapshotNotFoundError(
        f"the pipeline {head.pipeline} has no checkpoint", hint=f"eoctl checkpoint list -p {head.pipeline}"
    )


def rows_of(head: Head) -> tuple[SnapshotRow, ...]:
    """Every snapshot of the pipeline in order of commit, those in the trash too, each once."""
    held = {hold.entry.label for hold in head.holds}
    rows = [_row(head, entry, "held" if entry.label in held else "complete") for entry in head.live]
    rows += [_row(head, trashed.entry, "trash") for trashed in head.trash]
    known = {row.name or str(row.id) for row in rows}
    kept = {hold.entry.label: hold.entry for hold in head.holds if hold.entry.label not in known}
    rows += [_row(head, entry, "held") for entry in kept.values()]
    return tuple(rows)


def row_of(head: Head, entry: HeadEntry) -> SnapshotRow:
    """The row of a snapshot that was committed; `trash` where it has left HEAD again since."""
    address = f"{head.pipeline}@{entry.label}"
    return next((row for row in rows_of(head) if row.address == address), _row(head, entry, "trash"))


def _row(head: Head, entry: HeadEntry, status: str) -> SnapshotRow:
    return SnapshotRow(
        pipeline=head.pipeline,
        id=entry.id,
        kind=entry.kind,
        name=entry.name,
        created_at=entry.created_at,
        attempt=entry.attempt,
        full_bytes=entry.full_bytes,
        added_bytes=entry.added_bytes,
        files=entry.files,
        added_files=entry.added_files,
        referenced_files=entry.referenced_files,
        tags=entry.tags,
        status=status,
        engine=entry.engine,
    )
