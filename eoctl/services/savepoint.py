"""Savepoints: portable copies of state, owned by the user, that retention never touches.

One is written as a folder first, beside its place or in the store's scratch space; then it is renamed to its place, or
its files are stored and one commit makes them a snapshot. So there is all of it or nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from eoctl.engines.directory import capture_tree
from eoctl.services.resolve import Resolved, row_of, rows_of
from eoctl.services.restore import held
from eoctl.services.savepoint_build import SnapshotSource, Told, build, names_of
from eoctl.services.savepoint_records import head_of, operators_of, paths_of, properties_of
from eoctl.services.savepoint_sources import source_of_folder, source_of_snapshot
from eoctl.services.savepoint_values import MoveRow, SavedOperator, SavedState, SavepointCreated, SavepointDetail
from eoctl.services.values import ForeignRow, SnapshotRow, Transactions
from formats.errors import ConflictError, CorruptError, UsageError
from formats.ids import HashAlgorithm, PipelineId, check_name
from formats.manifest import Engine, Manifest, Metrics, PackRef, Role, StateFile, files_of, packs_of
from formats.remap import Move, OperatorMapping, plan_remap
from formats.savepoint import (
    COORDINATOR,
    HEAD_NAME,
    SavepointFile,
    SavepointHead,
    SavepointOperator,
    encode_head,
    parts_of,
)
from storage.blobs import Blobs, digest_of
from storage.extract import Extraction, fresh_directory, sync_tree
from storage.ingest import Ingest, Tally
from storage.os_errors import told
from storage.session import Session
from storage.store import Store


class Wish(Struct, frozen=True, kw_only=True):
    """How a savepoint is to be made. `executor` writes tables beside this process; None: this process.

    `max_parallelism`: keys are hashed anew into so many key groups; 0: they stay in theirs.
    """

    mapping: OperatorMapping = OperatorMapping()
    executor: Executor | None = None
    progress: Told = lambda _: None
    tags: tuple[str, ...] = ()
    max_parallelism: int = 0


def create_in_store(source: SnapshotSource, store: Store, name: str, wish: Wish) -> SavepointCreated:
    """The store has a savepoint `name` of the snapshot, in the pipeline of that name.

    Raises: BadNameError, ConflictError (the name is taken), BadRemapError, IncompatibleError, UnsupportedError,
    CorruptError, NoSpaceError.
    """
    pipeline = PipelineId(source.pipeline)
    _check_free(store, pipeline, name)
    began = store.ambient.elapsed()
    with _scratch(store) as folder:
        moves = plan_remap(names_of(source), wish.mapping)
        head, notes = _built(folder, source, moves, wish)
        if head.hash != store.hash:
            head = _rehashed(folder, head, store.hash)
        row = _commit(store, pipeline, name, folder, head, wish.tags, link=True)
        return _created(row, head, move_rows(source, moves), store.ambient.elapsed() - began, notes)


def create_folder(
    source: SnapshotSource, target: Path, wish: Wish, *, elapsed: Callable[[], float]
) -> SavepointCreated:
    """`target` is a savepoint's folder, or does not exist. Raises: as `create_in_store`, UsageError."""
    began = elapsed()
    with fresh_directory(target) as temporary:
        moves = plan_remap(names_of(source), wish.mapping)
        head, notes = _built(temporary, source, moves, wish)
        sync_tree(temporary, 1 + sum(1 for _ in parts_of(head)))
    return _created(folder_row(target, head), head, move_rows(source, moves), elapsed() - began, notes)


@contextmanager
def held_source(store: Store, resolved: Resolved, scratch: Path | None = None) -> Iterator[SnapshotSource]:
    """A snapshot of the store, open and held, every byte of it checked."""
    notes: list[str] = []
    with (
        held(store, resolved, notes, reason="savepoint") as found,
        source_of_snapshot(store, found, scratch) as source,
    ):
        yield source


def _built(
    folder: Path, source: SnapshotSource, moves: Sequence[Move], wish: Wish
) -> tuple[SavepointHead, tuple[str, ...]]:
    return build(
        folder,
        source,
        moves,
        executor=wish.executor,
        progress=wish.progress,
        max_parallelism=wish.max_parallelism,
    )


def move_rows(source: SnapshotSource, moves: Sequence[Move]) -> tuple[MoveRow, ...]:
    states = {
        operator.state.id: tuple(sorted(table.schema.name for table in operator.open()))
        for operator in source.operators
    }
    return tuple(
        MoveRow(
            old=str(move.old),
            old_id=move.old.id,
            new="" if move.new is None else str(move.new),
            new_id="" if move.new is None else move.new.id,
            action=move.action,
            states=states.get(move.old.id, ()),
        )
        for move in moves
    )


def list_savepoints(store: Store, pipeline: PipelineId | None = None) -> list[SnapshotRow]:
    """The savepoints of the pipeline, or of all, in order of commit; those in the trash too."""
    chosen = list(store.pipelines()) if pipeline is None else [pipeline]
    return [row for one in chosen for row in rows_of(store.head(one).head) if row.kind == "savepoint"]


def inspect_head(head: SavepointHead, row: SnapshotRow) -> SavepointDetail:
    """What the savepoint consists of."""
    transactions = [found for sink in head.sinks for found in sink.transactions]
    return SavepointDetail(
        snapshot=row,
        source=head.origin.snapshot,
        taken_at=head.origin.taken_at,
        states=saved_states(head),
        operators=tuple(map(_saved_operator, head.operators)),
        source_offsets={source.uid: dict(source.offsets) for source in head.sources},
        transactions=Transactions(
            commit=tuple(found.id for found in transactions if found.state == "pre-committed"),
            abort=tuple(found.id for found in transactions if found.state == "aborted"),
        ),
    )


def _saved_operator(operator: SavepointOperator) -> SavedOperator:
    carried = [*operator.coordinator, *(file for subtask in operator.subtasks for file in subtask.files)]
    return SavedOperator(
        uid=operator.uid,
        id=operator.id,
        parallelism=operator.parallelism,
        max_parallelism=operator.max_parallelism,
        states=len(operator.tables),
        rows=sum(table.rows for table in operator.tables),
        bytes=sum(table.bytes for table in operator.tables) + sum(file.bytes for file in carried),
        files=len(carried),
    )


def head_in_store(store: Store, resolved: Resolved) -> SavepointHead:
    """The head of a savepoint of the store. Raises: UnsupportedError where it is no portable one."""
    return head_of(store.manifest(resolved.head, resolved.entry))


def export(store: Store, resolved: Resolved, target: Path) -> SavepointHead:
    """`target` is the folder of a savepoint of the store, every byte of it checked.

    Raises: UnsupportedError (no portable savepoint), UsageError, CorruptError, NoSpaceError.
    """
    notes: list[str] = []
    with fresh_directory(target) as temporary, held(store, resolved, notes, reason="export") as found:
        manifest = store.manifest(found.head, found.entry)
        head = head_of(manifest)
        paths = paths_of(manifest)
        extraction = Extraction(blobs=Blobs(store.backend, resolved.pipeline, store.hash), remote=store.place.remote)
        files = [
            replace(file, name=paths[f"{operator.id}/{COORDINATOR if subtask is None else subtask.index}/{file.name}"])
            for operator, subtask, file in files_of(manifest)
        ]
        extraction.tree(temporary, files, ())
        with told(target):
            (temporary / HEAD_NAME).write_bytes(encode_head(head))
        sync_tree(temporary, extraction.done.files + 1)
    return head


def import_folder(
    store: Store, pipeline: PipelineId, name: str, folder: Path, tags: tuple[str, ...] = ()
) -> SavepointCreated:
    """The store has the savepoint of that folder, which was checked throughout first.

    Raises: ConflictError (the name is taken), CorruptError, BadManifestError, UnsupportedError.
    """
    from eoctl.services.savepoint_check import refuse_damage  # noqa: PLC0415

    _check_free(store, pipeline, name)
    began = store.ambient.elapsed()
    head, source = source_of_folder(folder)
    refuse_damage(folder, elapsed=store.ambient.elapsed)
    if head.hash != store.hash:
        head = _rehashed(folder, head, store.hash)
    row = _commit(store, pipeline, name, folder, head, tags, link=False)
    moved = move_rows(source, plan_remap(names_of(source), OperatorMapping()))
    return _created(row, head, moved, store.ambient.elapsed() - began)


def folder_row(folder: Path, head: SavepointHead) -> SnapshotRow:
    """A savepoint's folder as a row of a list."""
    sizes = [size for _, size, _ in parts_of(head)]
    return ForeignRow(
        pipeline=head.pipeline,
        id=0,
        kind="savepoint",
        name=folder.name,
        created_at=head.origin.taken_at,
        attempt=0,
        full_bytes=sum(sizes),
        added_bytes=sum(sizes),
        files=len(sizes),
        added_files=len(sizes),
        referenced_files=0,
        tags=(),
        status="complete",
        engine=_engine(head).kind,
        path=str(folder),
    )


def _rehashed(folder: Path, head: SavepointHead, algorithm: HashAlgorithm) -> SavepointHead:
    """The head with the digests of another hash: that of the store which is to hold it."""

    def digest(path: str) -> str:
        with told(folder / path), (folder / path).open("rb") as file:
            return digest_of(file, algorithm)

    def again(files: tuple[SavepointFile, ...]) -> tuple[SavepointFile, ...]:
        return tuple(replace(file, digest=digest(file.path)) for file in files)

    operators = tuple(
        replace(
            operator,
            tables=tuple(replace(table, digest=digest(table.path)) for table in operator.tables),
            subtasks=tuple(replace(subtask, files=again(subtask.files)) for subtask in operator.subtasks),
            coordinator=again(operator.coordinator),
        )
        for operator in head.operators
    )
    return replace(head, hash=algorithm, operators=operators)


def saved_states(head: SavepointHead) -> tuple[SavedState, ...]:
    return tuple(
        SavedState(
            operator=operator.uid or operator.id,
            name=table.schema.name,
            kind=table.schema.kind,
            rows=table.rows,
            bytes=table.bytes,
            path=table.path,
            key=table.schema.key,
            value=table.schema.value,
        )
        for operator in head.operators
        for table in operator.tables
    )


@contextmanager
def _scratch(store: Store) -> Iterator[Path]:
    with told(store.place.scratch):
        store.place.scratch.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f"{store.ambient.new_id()}.savepoint-", dir=store.place.scratch)
    with work as name:
        yield Path(name)


def _check_free(store: Store, pipeline: PipelineId, name: str) -> None:
    """The name may be a savepoint's, and none has it. Raises: BadNameError, UsageError, ConflictError."""
    check_name(name, "savepoint")
    if name.isdecimal():
        raise UsageError(f"a number names a checkpoint: {name!r}", hint="give the savepoint a name with a letter")
    if pipeline not in set(store.pipelines()):
        return
    head = store.head(pipeline).head
    taken = [*head.live, *(trashed.entry for trashed in head.trash), *(hold.entry for hold in head.holds)]
    if any(entry.label == name for entry in taken):
        raise ConflictError(f"{pipeline}@{name} exists", hint="choose another name, or delete that one and run gc")


def _commit(
    store: Store,
    pipeline: PipelineId,
    name: str,
    folder: Path,
    head: SavepointHead,
    tags: tuple[str, ...],
    *,
    link: bool,
) -> SnapshotRow:
    """The files of the folder are stored, and a savepoint. `link`: the folder is ours, so its files may be shared."""
    store.make_pipeline(pipeline)
    session = Session(store, pipeline)
    began = store.ambient.elapsed()
    tree = capture_tree(folder, Engine(kind="directory"))
    digests = {path: digest for path, _, digest in parts_of(head)}
    number = _checkpoint(store, pipeline, head)
    sources = [file for file in tree.files if file.name in digests]

    def manifest(session: Session) -> Manifest:
        ingest = Ingest(session=session, checkpoint=number, link=link, tally=Tally())
        stored = {file.name: file for file in ingest.tree(folder, sources, {}, "opaque")}
        for path, digest in digests.items():
            if path not in stored or stored[path].digest != digest:
                raise CorruptError(f"a file of the savepoint is not what its head says: {path}")

        def file_at(path: str, own: str, role: Role) -> StateFile:
            found = stored[path]
            return StateFile(
                name=own,
                bytes=found.bytes,
                digest=found.digest,
                place=found.place,
                first_stored_in=found.first_stored_in,
                role=role,
            )

        operators = operators_of(head, file_at)
        keys = {key for file in stored.values() for key in packs_of(file)}
        return Manifest(
            format="eoctl.manifest",
            version=1,
            store=store.record.id,
            pipeline=pipeline.name,
            kind="savepoint",
            id=number,
            name=name,
            txid=session.txid,
            created_at=store.ambient.now(),
            attempt=0,
            hash=store.hash,
            engine=_engine(head),
            operators=operators,
            packs=tuple(PackRef(key, session.pack_bytes[key]) for key in sorted(keys)),
            metrics=Metrics(
                full_bytes=ingest.tally.total_bytes,
                added_bytes=ingest.tally.added_bytes,
                stored_bytes=ingest.tally.stored_bytes,
                duration_micros=int((store.ambient.elapsed() - began) * 1e6),
            ),
            tags=tuple(sorted(set(tags))),
            sources=head.sources,
            sinks=head.sinks,
            properties=properties_of(head),
        )

    entry = session.commit(manifest)
    return row_of(session.head.head, entry)


def _checkpoint(store: Store, pipeline: PipelineId, head: SavepointHead) -> int:
    """The checkpoint of this pipeline whose state it is: what sinks showed later came after it. 0: another's."""
    owner, _, label = head.origin.snapshot.rpartition("@")
    own = head.origin.store == store.record.id and owner == pipeline.name
    return int(label) if own and label.isdecimal() else 0


def _engine(head: SavepointHead) -> Engine:
    kinds = {operator.engine.kind for operator in head.operators}
    return Engine(kind=kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "eoctl")


def _created(
    row: SnapshotRow, head: SavepointHead, moves: tuple[MoveRow, ...], seconds: float, notes: tuple[str, ...] = ()
) -> SavepointCreated:
    states = saved_states(head)
    return SavepointCreated(
        snapshot=row,
        source=head.origin.snapshot,
        states=states,
        moves=moves,
        remapped={move.old: move.new for move in moves if move.action in {"remapped", "merged"}},
        dropped=tuple(move.old for move in moves if move.action == "dropped"),
        non_restored=tuple(move.old for move in moves if move.action == "not restored"),
        rows=sum(state.rows for state in states),
        seconds=seconds,
        notes=notes,
    )
