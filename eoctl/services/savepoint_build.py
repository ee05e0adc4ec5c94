"""A savepoint's folder, written from state that can be read and files that are carried as they are.

Each state is merged and written by itself, by the executor that the caller gives: its jobs are plain values, so that
it may be a pool of processes, or of machines that see the same directories. Memory is bounded: rows stream from the
tables of a snapshot into the table of the savepoint. The bytes do not depend on who wrote them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from eoctl.engines.eoctl_states import joined_tables
from eoctl.services.rehash import rehashed
from formats.errors import BadManifestError, IncompatibleError, UnsupportedError
from formats.ids import HashAlgorithm, operator_id
from formats.manifest import OperatorState, SinkState, SourceOffsets, StateFile
from formats.remap import Move, OperatorName
from formats.savepoint import (
    COORDINATOR,
    HEAD_NAME,
    Origin,
    SavepointFile,
    SavepointHead,
    SavepointOperator,
    SavepointSubtask,
    SavepointTable,
    encode_head,
    table_name,
)
from formats.sst import merge_batches, write_table
from formats.state import StateSchema, StateTable
from formats.types_arrow import TypedColumns
from storage.blobs import digest_of
from storage.os_errors import told

if TYPE_CHECKING:
    import pyarrow as pa

Open = Callable[[], tuple[StateTable, ...]]
Told = Callable[[int], None]  # rows that were written
_WATERMARK = "watermark"  # property of a checkpoint of the runtime, with the operator's uid
_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


class SourceOperator(Struct, frozen=True, kw_only=True):
    """One operator of a snapshot: its states, all together and by subtask, and the files beside them.

    `state`: its files are those to be carried, and lie below `files`: SUBTASK/NAME, coordinator/NAME.
    """

    state: OperatorState
    open: Open
    parts: tuple[Open, ...]
    files: Path

    @property
    def name(self) -> OperatorName:
        return OperatorName(self.state.uid, self.state.id)  # type: ignore[arg-type]  # a manifest's ids are ids


class SnapshotSource(Struct, frozen=True, kw_only=True):
    """A snapshot of whatever kind, open for reading."""

    address: str
    origin: Origin
    pipeline: str
    hash: HashAlgorithm
    operators: tuple[SourceOperator, ...]
    sources: tuple[SourceOffsets, ...] = ()
    sinks: tuple[SinkState, ...] = ()
    properties: dict[str, str] = {}


class _Write(Struct, frozen=True, kw_only=True):
    """One table to be written."""

    opens: tuple[Open, ...]
    schema: StateSchema
    target: str
    path: str
    algorithm: HashAlgorithm
    max_parallelism: int
    rehash: int
    distinct: str
    typed: bool = True


def build(
    folder: Path,
    source: SnapshotSource,
    moves: Sequence[Move],
    *,
    executor: Executor | None = None,
    progress: Told = lambda _: None,
    max_parallelism: int = 0,
) -> tuple[SavepointHead, tuple[str, ...]]:
    """`folder` holds the savepoint, head and all; and what is to be noted. `max_parallelism`: keys are hashed anew.

    Raises: IncompatibleError, UnsupportedError, CorruptError, BadManifestError, NoSpaceError.
    """
    check_in_flight(source, moves, rehash=max_parallelism > 0)
    goals: dict[str, list[tuple[Move, SourceOperator]]] = {}
    for move, operator in zip(moves, source.operators, strict=False):
        if move.new is not None:
            goals.setdefault(move.new.id, []).append((move, operator))
    operators: list[SavepointOperator] = []
    jobs: list[tuple[int, _Write]] = []
    for members in goals.values():
        outline, writes = _outline(folder, members, source.hash, max_parallelism)
        jobs += [(len(operators), write) for write in writes]
        operators.append(outline)
    tables: dict[int, list[SavepointTable]] = {}
    split = _split(folder, [write for _, write in jobs], parallel=executor is not None)
    for _ in _run(executor, _write, [part for parts in split for part in parts]):
        pass
    finals = [_joined(write, parts) for (_, write), parts in zip(jobs, split, strict=True)]
    notes: list[str] = []
    for (place, _), (table, found) in zip(jobs, _run(executor, _write, finals), strict=True):
        tables.setdefault(place, []).append(table)
        notes += [f"{operators[place].uid or operators[place].id}/{note}" for note in found]
        progress(table.rows)
    shutil.rmtree(folder / _RUNS, ignore_errors=True)
    uids = {move.old.uid: move.new for move in moves}
    head = SavepointHead(
        format="eoctl.savepoint",
        version=1,
        pipeline=source.pipeline,
        hash=source.hash,
        origin=source.origin,
        operators=tuple(
            replace(operator, tables=tuple(sorted(tables.get(place, []), key=lambda table: table.path)))
            for place, operator in enumerate(operators)
        ),
        sources=tuple(replace(one, uid=uid) for one in source.sources if (uid := _renamed(uids, one.uid)) is not None),
        sinks=tuple(replace(one, uid=uid) for one in source.sinks if (uid := _renamed(uids, one.uid)) is not None),
        properties=_properties(source.properties, uids),
    )
    with told(folder):
        (folder / HEAD_NAME).write_bytes(encode_head(head))
    return head, tuple(notes)


def _renamed(uids: dict[str, OperatorName | None], uid: str) -> str | None:
    """The uid that offsets or transactions go to; None: to nobody."""
    if uid not in uids:
        return uid
    new = uids[uid]
    return None if new is None else new.uid or new.id


def _properties(properties: Mapping[str, str], uids: dict[str, OperatorName | None]) -> dict[str, str]:
    """The properties, of which `watermark:UID` goes with its operator."""
    found = {}
    for name, text in properties.items():
        prefix, colon, uid = name.partition(":")
        if colon and prefix == _WATERMARK:
            new = _renamed(uids, uid)
            if new is not None:
                found[f"{prefix}{colon}{new}"] = text
        else:
            found[name] = text
    return found


def names_of(source: SnapshotSource) -> list[OperatorName]:
    """What a mapping may name: operators, then sources and sinks that are no operator's."""
    known = [operator.name for operator in source.operators]
    seen = {name.uid for name in known}
    others = dict.fromkeys([*(one.uid for one in source.sources), *(one.uid for one in source.sinks)])
    return known + [OperatorName(uid, operator_id(uid)) for uid in others if uid not in seen]


def check_in_flight(source: SnapshotSource, moves: Sequence[Move], *, rehash: bool = False) -> None:
    """Records in flight between operators are carried only where the operators stay what they are."""
    flying = [
        str(operator.name)
        for operator in source.operators
        if any(file.role == "in-flight" for file in _carried(operator.state))
    ]
    if flying and (rehash or any(move.action != "kept" for move in moves)):
        message = f"the snapshot holds records in flight to {', '.join(flying[:3])}, so its operators cannot be changed"
        hint = "remap a savepoint or an aligned checkpoint: take one, or let the pipeline restore this one first"
        raise IncompatibleError(message, hint=hint, in_flight=flying)


def _carried(state: OperatorState) -> Iterator[StateFile]:
    yield from state.coordinator
    for subtask in state.subtasks:
        yield from subtask.files


def _outline(
    folder: Path, members: Sequence[tuple[Move, SourceOperator]], algorithm: HashAlgorithm, rehash: int
) -> tuple[SavepointOperator, list[_Write]]:
    """The operator without its tables, whose files lie where they belong; and the tables to be written."""
    goal = members[0][0].new
    assert goal is not None
    states = [operator.state for _, operator in members]
    limits = {state.max_parallelism for state in states}
    if len(limits) > 1:
        names = ", ".join(f"{state.uid or state.id}: {state.max_parallelism}" for state in states)
        raise IncompatibleError(f"operators of different max parallelism cannot be merged: {names}")
    parallelism = max(state.parallelism for state in states)
    if rehash:
        _check_rehash(states, rehash, parallelism)
    (folder / goal.id).mkdir()
    files = [_carry(folder, goal.id, operator) for _, operator in members]
    subtasks = {subtask.index: subtask for subtasks, _ in files for subtask in subtasks}
    if len(subtasks) != sum(len(subtasks) for subtasks, _ in files):
        raise IncompatibleError(f"operators with files that are carried as they are cannot be merged into {goal}")
    found: dict[tuple[str, str], StateSchema] = {}
    for _, operator in members:
        for table in operator.open():
            schema = found.setdefault((table.schema.name, table.schema.kind), table.schema)
            if replace(schema, properties={}) != replace(table.schema, properties={}):
                raise IncompatibleError(f"the state {schema.name} has other types in the operators merged into {goal}")
    taken = {COORDINATOR, *map(str, subtasks)}
    writes = []
    for name, kind in sorted(found):
        path = table_name(name, taken)
        taken.add(path)
        holders = tuple(operator for _, operator in members)
        writes.append(
            _Write(
                opens=tuple(operator.open for operator in holders)
                if len(holders) > 1
                else (holders[0].open, *holders[0].parts),
                schema=found[name, kind],
                target=str(folder / goal.id / path),
                path=f"{goal.id}/{path}",
                algorithm=algorithm,
                max_parallelism=max(limits),
                rehash=rehash if found[name, kind].keyed and rehash != max(limits) else 0,
                distinct=" and ".join(str(operator.name) for operator in holders) if len(holders) > 1 else "",
            )
        )
    engine = states[0].engine
    outline = SavepointOperator(
        id=goal.id,
        uid=goal.uid,
        name=states[0].name if goal.uid == states[0].uid else goal.uid,
        parallelism=parallelism,
        max_parallelism=rehash or max(limits),
        engine=engine,
        subtasks=tuple(subtasks[index] for index in sorted(subtasks)),
        coordinator=tuple(file for _, coordinator in files for file in coordinator),
    )
    return outline, writes


def _check_rehash(states: Sequence[OperatorState], rehash: int, parallelism: int) -> None:
    for state in states:
        if any(file.role in {"opaque", "keyed"} for file in _carried(state)):
            message = f"the keys of {state.uid or state.id} cannot be hashed anew: its state is files"
            raise UnsupportedError(message, hint="leave --max-parallelism out, or --drop it")
    if parallelism > rehash:
        message = f"{states[0].uid or states[0].id} has parallelism {parallelism}, more than {rehash} key groups"
        raise IncompatibleError(message, hint=f"--max-parallelism {parallelism} or more")


def _carry(folder: Path, identity: str, operator: SourceOperator) -> tuple[list[SavepointSubtask], list[SavepointFile]]:
    """The operator's files are in the savepoint, as they are."""

    def taken(files: Iterable[StateFile], below: str) -> tuple[SavepointFile, ...]:
        found = []
        for file in files:
            path = f"{identity}/{below}/{file.name}"
            _copy(operator.files / below / file.name, folder / path)
            found.append(SavepointFile(path=path, bytes=file.bytes, digest=file.digest, role=file.role))
        return tuple(found)

    subtasks = [
        SavepointSubtask(
            index=subtask.index,
            files=taken(subtask.files, str(subtask.index)),
            key_groups=subtask.key_groups,
            finished=subtask.finished,
            empty_directories=subtask.empty_directories,
        )
        for subtask in operator.state.subtasks
    ]
    kept = [one for one in subtasks if one.files or one.finished or one.empty_directories]
    return kept, list(taken(operator.state.coordinator, COORDINATOR))


def _copy(file: Path, target: Path) -> None:
    """Never a link: the file may be the store's own, or somebody's who writes into it again."""
    with told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


_RUNS = ".runs"


def _split(folder: Path, writes: Sequence[_Write], *, parallel: bool) -> list[list[_Write]]:
    """For each table the parts of it that are written apart, a subtask each: none where that gains nothing."""
    split: list[list[_Write]] = []
    for number, write in enumerate(writes):
        parts = () if write.distinct or not parallel or write.schema.kind == "broadcast" else write.opens[1:]
        names = [f"{_RUNS}/{number}.{index}.parquet" for index in range(len(parts))]
        split.append(
            [
                replace(write, opens=(part,), target=str(folder / name), path=name, typed=False, rehash=0)
                for part, name in zip(parts, names, strict=True)
                if len(parts) > 1
            ]
        )
        if len(parts) > 1:
            (folder / _RUNS).mkdir(exist_ok=True)
    return split


def _joined(write: _Write, parts: Sequence[_Write]) -> _Write:
    if parts:
        return replace(write, opens=(partial(joined_tables, tuple(part.target for part in parts)),))
    return write if write.distinct else replace(write, opens=write.opens[:1])


def _run(executor: Executor | None, work: Callable[[_Job], _Result], jobs: Sequence[_Job]) -> Iterator[_Result]:
    """The results in the order of the jobs; the first error stops the rest."""
    if executor is None:
        yield from map(work, jobs)
        return
    futures = [executor.submit(work, job) for job in jobs]
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            future.cancel()


def _write(write: _Write) -> tuple[SavepointTable, tuple[str, ...]]:
    """The table is written; and what is to be noted of it. Runs in any process."""
    schema = write.schema
    scans = [
        table.scan()
        for opened in write.opens
        for table in opened()
        if (table.schema.name, table.schema.kind) == (schema.name, schema.kind)
    ]
    distinct = write.distinct or f"subtasks of the state {schema.name}"
    rows = scans[0] if len(scans) == 1 else merge_batches(scans, keep_tombstones=False, distinct=distinct)
    limit = write.max_parallelism if schema.keyed and not schema.properties.get("partition") else 0
    columns = TypedColumns(schema if write.typed else replace(schema, key="", namespace="", map_key="", value=""))
    rows = within(rows, limit, schema.name)
    runs = Path(f"{write.target}.runs")
    if write.rehash:
        rows = rehashed(rows, schema, write.rehash, runs)
    with told(write.target), Path(write.target).open("xb") as file:
        stats = write_table(file, schema, (columns(batch) for batch in rows), columns=columns.schema)
    shutil.rmtree(runs, ignore_errors=True)
    with Path(write.target).open("rb") as written:
        digest = digest_of(written, write.algorithm)
    size = Path(write.target).stat().st_size
    table = SavepointTable(path=write.path, bytes=size, digest=digest, rows=stats.rows, schema=schema)
    return table, columns.notes


def within(batches: Iterable[pa.RecordBatch], limit: int, what: str) -> Iterator[pa.RecordBatch]:
    """The batches, none of whose key groups is `limit` or above (0: any may be). Raises: BadManifestError."""
    for batch in batches:
        if limit and len(batch) and (last := batch["key_group"][len(batch) - 1].as_py()) >= limit:
            hint = "eoctl savepoint verify; take another snapshot"
            raise BadManifestError(f"{what}: a key in key group {last}, of {limit}", hint=hint)
        yield batch
