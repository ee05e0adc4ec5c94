"""Snapshots of every kind, open for reading: of a store, or a savepoint's folder as it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from eoctl.engines.eoctl_states import tables_of
from eoctl.engines.flink_files import Place, place_at
from eoctl.engines.flink_paths import Mapping
from eoctl.engines.states import is_readable, open_states
from eoctl.services.resolve import Resolved
from eoctl.services.savepoint_build import SnapshotSource, SourceOperator
from eoctl.services.savepoint_records import is_portable, operators_of, schema_of
from eoctl.services.state_files import Chosen, extracted, folder_of
from formats.errors import CorruptError, SnapshotNotFoundError, UnsupportedError
from formats.keygroups import range_of
from formats.manifest import Engine, Inline, Manifest, OperatorState, Role, StateFile, SubtaskState
from formats.savepoint import HEAD_NAME, MAX_HEAD_BYTES, Origin, SavepointHead, decode_head, parts_of
from formats.state import StateTable
from storage.blobs import Blobs
from storage.os_errors import told
from storage.ranges import can_range, open_ranges
from storage.store import Store

_TABLE_ROLES = {"eoctl": {"keyed", "timer", "operator"}, "rocksdb": {"keyed"}}


@contextmanager
def source_of_snapshot(
    store: Store,
    resolved: Resolved,
    scratch: Path | None = None,
    *,
    operator: str | None = None,
    verified: bool = True,
    chosen: Chosen = lambda _: True,
    ranged: bool = False,
) -> Iterator[SnapshotSource]:
    """A snapshot of the store, its files on this machine; of one operator (uid or id) where it is given.

    `ranged`: of a store elsewhere only those ranges of tables are fetched that are asked for, and files not at all.
    Raises: SnapshotNotFoundError (no such operator), CorruptError, BlobGoneError, UnsupportedError.
    """
    manifest = store.manifest(resolved.head, resolved.entry)
    if [state.engine.kind for state in manifest.operators] == ["flink"]:
        with _folder_of_flink(store, resolved, manifest, scratch, verified=verified) as source:
            yield source
        return
    # A checkpoint of Flink that was taken in is one operator, whose files are a folder of Flink's with all of its own.
    operators = [state for state in manifest.operators if operator in {None, state.uid, state.id} or _is_flinks(state)]
    if operator is not None and not operators:
        raise no_operator(resolved.address, operator, manifest.operators)
    blobs = Blobs(store.backend, resolved.pipeline, store.hash)
    far = {state.id for state in operators if ranged and store.place.remote and _can_range(state)}
    near = [state for state in operators if state.id not in far]
    with ExitStack() as stack:
        root = stack.enter_context(extracted(store, blobs, near, scratch, chosen=chosen, verified=verified))
        found: list[SourceOperator] = []
        for state in operators:
            if state.id in far:
                found.append(_ranged(state, root, blobs))
            else:
                found += _flinks(state, root, stack) if _is_flinks(state) else [_operator(state, root)]
        yield SnapshotSource(
            address=resolved.address,
            origin=_origin(manifest, resolved, store),
            pipeline=manifest.pipeline,
            hash=manifest.hash,
            operators=tuple(found),
            sources=manifest.sources,
            sinks=manifest.sinks,
            properties={name: text for name, text in manifest.properties.items() if not name.startswith("eoctl.")},
        )


@contextmanager
def _folder_of_flink(
    store: Store, resolved: Resolved, manifest: Manifest, scratch: Path | None, *, verified: bool
) -> Iterator[SnapshotSource]:
    """A snapshot of Flink that is kept as one operator, a folder: its operators are those of Flink."""
    from eoctl.services.savepoint_flink import source_of_flink  # noqa: PLC0415  (start-up)

    (state,) = manifest.operators
    blobs = Blobs(store.backend, resolved.pipeline, store.hash)
    with (
        extracted(store, blobs, [state], scratch, verified=verified) as root,
        source_of_flink(folder_of(root)(state, state.subtasks[0])) as source,
    ):
        origin = _origin(manifest, resolved, store)
        yield replace(source, address=resolved.address, origin=origin, pipeline=manifest.pipeline)


def source_of_folder(path: Path) -> tuple[SavepointHead, SnapshotSource]:
    """A savepoint's folder. Its files are opened, not compared with their digests.

    Raises: SnapshotNotFoundError, BadManifestError, UnsupportedError, CorruptError.
    """
    head = read_head(path)

    known = {place: (size, digest) for place, size, digest in parts_of(head)}

    def file_at(place: str, name: str, role: Role) -> StateFile:
        size, digest = known[place]
        return StateFile(name=name, bytes=size, digest=digest, place=Inline(b""), first_stored_in=0, role=role)

    operators = []
    for state, saved in zip(operators_of(head, file_at), head.operators, strict=True):
        tables = frozenset(table.path.partition("/")[2] for table in saved.tables)
        own = {subtask.index: subtask.key_groups for subtask in saved.subtasks}
        subtasks = tuple(
            replace(
                subtask,
                files=tuple(file for file in subtask.files if subtask.index or file.name not in tables),
                key_groups=own.get(subtask.index),
            )
            for subtask in state.subtasks
        )
        opened = partial(_folder_tables, path, tables, state)
        carried = replace(state, subtasks=subtasks)
        operators.append(SourceOperator(state=carried, open=opened, parts=(opened,), files=path / saved.id))
    source = SnapshotSource(
        address=str(path),
        origin=head.origin,
        pipeline=head.pipeline,
        hash=head.hash,
        operators=tuple(operators),
        sources=head.sources,
        sinks=head.sinks,
        properties=head.properties,
    )
    return head, source


def read_head(path: Path) -> SavepointHead:
    """The head of a savepoint's folder. Raises: SnapshotNotFoundError, BadManifestError, UnsupportedError."""
    if not (path / HEAD_NAME).is_file():
        raise SnapshotNotFoundError(f"no savepoint: {path} has no {HEAD_NAME}", hint="name the savepoint's folder")
    with told(path), (path / HEAD_NAME).open("rb") as file:
        return decode_head(file.read(MAX_HEAD_BYTES + 1))


def no_operator(address: str, name: str, operators: tuple[OperatorState, ...]) -> SnapshotNotFoundError:
    known = ", ".join(state.uid or state.id for state in operators) or "none"
    return SnapshotNotFoundError(f"{address} has no operator {name!r}", hint=f"its operators: {known}")


def _origin(manifest: Manifest, resolved: Resolved, store: Store) -> Origin:
    """Where the state was taken; of a savepoint, where that was taken."""
    if is_portable(manifest):
        from eoctl.services.savepoint_records import head_of  # noqa: PLC0415

        return head_of(manifest).origin
    return Origin(
        snapshot=resolved.address, taken_at=manifest.created_at, engine=manifest.engine.kind, store=store.record.id
    )


def _is_flinks(state: OperatorState) -> bool:
    return state.engine.kind == "flink"


def _flinks(state: OperatorState, root: Path, stack: ExitStack) -> Iterator[SourceOperator]:
    """The operators of the job, whose snapshot is the files of this one."""
    from eoctl.services.savepoint_flink import source_of_flink  # noqa: PLC0415  (start-up)

    for subtask in state.subtasks:
        yield from stack.enter_context(source_of_flink(root / state.id / str(subtask.index))).operators


def _operator(state: OperatorState, root: Path) -> SourceOperator:
    if not is_readable(state):
        return SourceOperator(state=state, open=tuple, parts=(), files=root / state.id)
    state = _with_key_groups(state)
    roles = _TABLE_ROLES[state.engine.kind]
    carried = replace(
        state,
        engine=Engine(kind="eoctl", properties={"from": state.engine.kind})
        if state.engine.kind != "eoctl"
        else state.engine,
        subtasks=tuple(
            replace(
                subtask, files=tuple(file for file in subtask.files if file.role not in roles), empty_directories=()
            )
            for subtask in state.subtasks
        ),
    )
    return SourceOperator(
        state=carried,
        open=partial(_store_tables, root, state),
        parts=tuple(partial(_store_tables, root, replace(state, subtasks=(subtask,))) for subtask in state.subtasks),
        files=root / state.id,
    )


def _can_range(state: OperatorState) -> bool:
    """Its tables can be read where they lie, and the manifest tells its states."""
    files = [file for subtask in state.subtasks for file in subtask.files if file.role in _TABLE_ROLES["eoctl"]]
    return state.engine.kind == "eoctl" and bool(state.states) and all(map(can_range, files))


def _ranged(state: OperatorState, root: Path, blobs: Blobs) -> SourceOperator:
    """The operator with its tables where they lie."""
    state = _with_key_groups(state)
    schemas = [schema_of(info) for info in state.states]
    tables = tables_of(state, lambda _, file: open_ranges(blobs, file), schemas)
    return SourceOperator(state=state, open=lambda: tables, parts=(lambda: tables,), files=root / state.id)


def _with_key_groups(state: OperatorState) -> OperatorState:
    """Each subtask says which key groups are its own, where that is known."""
    known = state.max_parallelism and len(state.subtasks) == state.parallelism and state.engine.kind == "eoctl"
    if not known:
        return state

    def told_of(subtask: SubtaskState) -> SubtaskState:
        if subtask.key_groups is not None:
            return subtask
        own = range_of(subtask.index, state.parallelism, state.max_parallelism)
        return replace(subtask, key_groups=(own.start, own.stop))

    return replace(state, subtasks=tuple(map(told_of, state.subtasks)))


def _store_tables(root: Path, state: OperatorState) -> tuple[StateTable, ...]:
    (found,) = open_states([state], folder_of(root))
    return found.tables


def _folder_tables(path: Path, names: frozenset[str], state: OperatorState) -> tuple[StateTable, ...]:
    """The tables of one operator of a savepoint's folder."""
    if not names:
        return ()
    if state.engine.kind != "eoctl":
        raise UnsupportedError(f"a savepoint's tables of engine {state.engine.kind!r}", hint="upgrade eoctl")
    missing = [name for name in sorted(names) if not (path / state.id / name).is_file()]
    if missing:
        message = f"a table is missing: {state.id}/{missing[0]}"
        raise CorruptError(message, hint=f"eoctl savepoint verify {path}")
    first = next(subtask for subtask in state.subtasks if subtask.index == 0)
    tables = tuple(file for file in first.files if file.name in names)
    # All rows, also those of key groups that there are not: they are to be found, not passed over.
    alone = replace(state, subtasks=(replace(first, files=tables, key_groups=None),), max_parallelism=0)
    (found,) = open_states([alone], lambda one, _: path / one.id)
    return found.tables


@contextmanager
def source_at_path(path: Path | Place, mappings: tuple[Mapping, ...] = ()) -> Iterator[SnapshotSource]:
    """A snapshot as it lies at a path: a savepoint's folder, or a snapshot of Flink. Raises: as the two of them."""
    folder = savepoint_at(path)
    if folder is not None:
        yield source_of_folder(folder)[1]
        return
    from eoctl.services.savepoint_flink import source_of_flink  # noqa: PLC0415  (start-up)

    with source_of_flink(path, mappings) as source:
        yield source


def savepoint_at(path: Path | Place) -> Path | None:
    """The folder, if a savepoint lies there."""
    place = place_at(path)
    is_savepoint = place.files.is_local and (Path(place.text) / HEAD_NAME).is_file()
    return Path(place.text) if is_savepoint else None
