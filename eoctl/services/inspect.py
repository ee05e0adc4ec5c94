"""What one snapshot consists of: its operators, where its files came from, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Iterator

from eoctl.services.resolve import Resolved, row_of
from eoctl.services.values import (
    FileNames,
    FileRow,
    Inspection,
    Metrics,
    OperatorRow,
    SinkRow,
    SourceRow,
    StateRow,
    TransactionRow,
)
from formats.errors import CorruptError, UsageError
from formats.head import roots
from formats.manifest import (
    Blocks,
    Inline,
    Manifest,
    OperatorState,
    Slice,
    StateFile,
    SubtaskState,
    Whole,
    files_of,
    stored_bytes_of,
)
from storage.blobs import Blobs
from storage.references import full_name, obsolete_files
from storage.store import Store

COORDINATOR_SUBTASK = -1
_MICRO = 1_000_000


def inspect(store: Store, resolved: Resolved) -> Inspection:
    """The snapshot, as its manifest tells it; no blob is read. Obsolete files are known while the parent is a root.

    Raises: CorruptError, BlobGoneError.
    """
    manifest = store.manifest(resolved.head, resolved.entry)
    parent, notes = _parent(store, resolved, manifest)
    return Inspection(
        snapshot=row_of(resolved.head, resolved.entry),
        parent=manifest.base or None,
        metadata_version=_metadata_version(manifest),
        metrics=_metrics(manifest),
        operators=_operator_rows(store, resolved, manifest),
        sources=tuple(SourceRow(uid=source.uid, offsets=dict(source.offsets)) for source in manifest.sources),
        sinks=tuple(
            SinkRow(
                uid=sink.uid,
                transactions=tuple(
                    TransactionRow(id=found.id, state=found.state, checkpoint=found.checkpoint)
                    for found in sink.transactions
                ),
            )
            for sink in manifest.sinks
        ),
        files=_file_names(manifest, parent),
        references=_references(manifest),
        notes=notes,
    )


def list_files(store: Store, resolved: Resolved, operator: str | None = None) -> tuple[FileRow, ...]:
    """Every state file, by operator, subtask and name; of one operator (uid or id) where it is given.

    Block tables are read, to know what their files take. Raises: UsageError, CorruptError, BlobGoneError.
    """
    manifest = store.manifest(resolved.head, resolved.entry)
    if operator is not None and all(operator not in {state.uid, state.id} for state in manifest.operators):
        known = ", ".join(state.uid or state.id for state in manifest.operators) or "none"
        raise UsageError(f"{resolved.address} has no operator {operator!r}", hint=f"its operators: {known}")
    blobs = Blobs(store.backend, resolved.pipeline, store.hash)
    return tuple(
        file_row(blobs, state, subtask, file)
        for state, subtask, file in files_of(manifest)
        if operator in {None, state.uid, state.id}
    )


def file_row(blobs: Blobs, operator: OperatorState, subtask: SubtaskState | None, file: StateFile) -> FileRow:
    """The row of one file; what belongs to no subtask has the subtask -1."""
    return FileRow(
        operator=operator.uid or operator.id,
        subtask=COORDINATOR_SUBTASK if subtask is None else subtask.index,
        name=file.name,
        bytes=file.bytes,
        digest=file.digest,
        stored_bytes=sum(size for _, size in stored_parts(blobs, file)),
        place=_PLACES[type(file.place)],
        first_stored_in=file.first_stored_in,
    )


_PLACES = {Inline: "inline", Whole: "blob", Slice: "pack", Blocks: "blocks"}


def stored_parts(blobs: Blobs, file: StateFile) -> Iterator[tuple[str, int]]:
    """What the file takes: blob key and stored bytes of each part; of inline data the key is "".

    A block that occurs again in the file counts once, as it is stored once. Block tables do not count.
    """
    match file.place:
        case Inline(data=data):
            yield "", len(data)
        case Whole(era=era, digest=digest) as place:
            yield f"{digest or file.digest}.{era}", stored_bytes_of(file, place)
        case Slice(pack=pack, length=length):
            yield pack, length
        case Blocks(tables=tables):
            found = {(block.pack, block.offset): block.length for table in tables for block in blobs.table(table)}
            by_pack: dict[str, int] = {}
            for (pack_key, _), size in found.items():
                by_pack[str(pack_key)] = by_pack.get(str(pack_key), 0) + size
            yield from by_pack.items()


def _operator_rows(store: Store, resolved: Resolved, manifest: Manifest) -> tuple[OperatorRow, ...]:
    """As the manifest has them; of a folder of Flink's those that its `_metadata` names."""
    if all(state.engine.kind != "flink" for state in manifest.operators):
        return tuple(map(_operator_row, manifest.operators))
    from eoctl.services.imported import imported_operators  # noqa: PLC0415  (start-up)

    blobs = Blobs(store.backend, resolved.pipeline, store.hash)
    rows: list[OperatorRow] = []
    for state in manifest.operators:
        rows += imported_operators(blobs, state) if state.engine.kind == "flink" else [_operator_row(state)]
    return tuple(rows)


def _operator_row(state: OperatorState) -> OperatorRow:
    files = [*state.coordinator, *(file for subtask in state.subtasks for file in subtask.files)]
    return OperatorRow(
        uid=state.uid,
        id=state.id,
        name=state.name,
        parallelism=state.parallelism,
        max_parallelism=state.max_parallelism,
        subtasks=len(state.subtasks),
        full_bytes=sum(file.bytes for file in files),
        in_flight_bytes=sum(file.bytes for file in files if file.role == "in-flight"),
        files=len(files),
        engine=state.engine.kind,
        properties=dict(state.engine.properties),
        states=tuple(
            StateRow(name=info.name, kind=info.kind, bytes=info.bytes, entries=info.entries) for info in state.states
        ),
    )


def _metrics(manifest: Manifest) -> Metrics:
    metrics = manifest.metrics
    return Metrics(
        duration_seconds=metrics.duration_micros / _MICRO,
        alignment_seconds=metrics.alignment_micros / _MICRO,
        snapshot_seconds=metrics.snapshot_micros / _MICRO,
        upload_seconds=metrics.upload_micros / _MICRO,
        stored_bytes=metrics.stored_bytes,
        in_flight_bytes=metrics.in_flight_bytes,
    )


def _metadata_version(manifest: Manifest) -> int | None:
    """Of a Flink checkpoint that was taken in: the version of its `_metadata`."""
    told = (state.engine.properties.get("metadata_version", "") for state in manifest.operators)
    return next((int(version) for version in told if version.isdecimal()), None)


def _file_names(manifest: Manifest, parent: Manifest | None) -> FileNames:
    new: list[str] = []
    referenced: list[str] = []
    for operator, subtask, file in files_of(manifest):
        names = new if file.first_stored_in == manifest.id else referenced
        names.append(full_name(operator, subtask, file))
    return FileNames(
        new=tuple(sorted(new)),
        referenced=tuple(sorted(referenced)),
        obsolete=() if parent is None else obsolete_files(parent, manifest),
    )


def _parent(store: Store, resolved: Resolved, manifest: Manifest) -> tuple[Manifest | None, tuple[str, ...]]:
    """The manifest of the checkpoint that this one was taken on top of, and what to know where it is not at hand."""
    if not manifest.base:
        return None, ()
    for entry in roots(resolved.head):
        if entry.kind == "checkpoint" and entry.id == manifest.base:
            try:
                return store.manifest(resolved.head, entry), ()
            except CorruptError as error:
                return None, (f"which files became obsolete is not known: {error.message}",)
    return None, (f"which files became obsolete is not known: the parent {manifest.base} has left the store",)


def _references(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Earlier checkpoint -> the files here that it first stored."""
    found: dict[int, list[str]] = {}
    for operator, subtask, file in files_of(manifest):
        if file.first_stored_in != manifest.id:
            found.setdefault(file.first_stored_in, []).append(full_name(operator, subtask, file))
    return {str(number): tuple(sorted(names)) for number, names in sorted(found.items())}
