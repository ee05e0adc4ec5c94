"""Restoring state by rows: to another parallelism, or for operators of other names.

`target/OPERATOR/SUBTASK/` holds a sorted table for each state, of the rows that this subtask owns: what a runtime
loads, or `checkpoint create` takes in again. What is not read by rows is put beside it as it is, where its parallelism
stays. Keyed state goes by key groups, lists are split, union lists and broadcast state go to everybody
(formats/rescale.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from eoctl.services.savepoint import Wish, create_folder
from eoctl.services.savepoint_build import SnapshotSource, SourceOperator, check_in_flight, names_of
from eoctl.services.savepoint_sources import source_of_folder
from eoctl.services.values import Transactions
from formats.errors import BadManifestError, IncompatibleError, UsageError
from formats.keygroups import MAX_MAX_PARALLELISM, KeyGroupRange, range_of
from formats.remap import OperatorMapping, plan_remap
from formats.rescale import assigned, check_parallelism, part_of, shares
from formats.savepoint import COORDINATOR, table_name
from formats.sst import write_table
from formats.state import StateTable
from formats.types_arrow import TypedColumns
from storage.extract import fresh_directory, sync_tree
from storage.os_errors import told

if TYPE_CHECKING:
    import pyarrow as pa

Offsets = dict[str, int | str]


class RestoredSubtask(Struct, frozen=True, kw_only=True):
    """What one subtask gets: where its tables are, its key groups (half-open; None: not known), its partitions."""

    uid: str
    subtask: int
    path: str
    key_groups: tuple[int, int] | None
    offsets: Offsets
    rows: int


class RestoredState(Struct, frozen=True, kw_only=True):
    """A snapshot dealt out to subtasks; otherwise as `Restored`."""

    snapshot: str
    target: str
    files: int
    bytes: int
    rows: int
    seconds: float
    operators: tuple[RestoredSubtask, ...]
    source_offsets: dict[str, Offsets]
    transactions: Transactions
    remapped: dict[str, str]
    dropped: tuple[str, ...]
    non_restored: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Deal(Struct, frozen=True, kw_only=True):
    """How state is dealt out. `parallelism` 0: each operator keeps its own; `max_parallelism` 0 likewise."""

    parallelism: int = 0
    max_parallelism: int = 0
    operator: str | None = None
    mapping: OperatorMapping = OperatorMapping()


def restore_rows(
    source: SnapshotSource, target: Path, deal: Deal, *, scratch: Path, elapsed: Callable[[], float]
) -> RestoredState:
    """`target` holds the state, dealt out, or does not exist.

    Raises: UsageError, IncompatibleError, BadRemapError, UnsupportedError, CorruptError, NoSpaceError.
    """
    began = elapsed()
    moves = plan_remap(names_of(source), deal.mapping)
    changed = deal.max_parallelism > 0 or any(move.action != "kept" for move in moves)
    check_in_flight(source, moves, rehash=deal.max_parallelism > 0 or deal.parallelism > 0)
    with fresh_directory(target) as temporary:
        if changed:  # written as a savepoint first: what is merged or hashed anew has another order
            interim = scratch / "interim"
            wish = Wish(mapping=deal.mapping, max_parallelism=deal.max_parallelism)
            create_folder(source, interim, wish, elapsed=elapsed)
            source = replace(source_of_folder(interim)[1], address=source.address)
        subtasks: list[RestoredSubtask] = []
        notes: list[str] = []
        offsets = {one.uid: dict(one.offsets) for one in source.sources}
        for operator in _chosen(source, deal.operator):
            parallelism = deal.parallelism or operator.state.parallelism or 1
            positions = assigned(offsets.get(operator.state.uid, {}), parallelism)
            dealt = _dealt(operator, parallelism, temporary, target, notes)
            subtasks += [replace(found, offsets=positions[found.subtask]) for found in dealt]
        written = [path for path in temporary.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in written)
        sync_tree(temporary, len(written))
    transactions = [one for sink in source.sinks for one in sink.transactions]
    return RestoredState(
        snapshot=source.address,
        target=str(target),
        files=len(written),
        bytes=size,
        rows=sum(one.rows for one in subtasks),
        seconds=elapsed() - began,
        operators=tuple(subtasks),
        source_offsets=offsets,
        transactions=Transactions(
            commit=tuple(one.id for one in transactions if one.state == "pre-committed"),
            abort=tuple(one.id for one in transactions if one.state == "aborted"),
        ),
        remapped={str(move.old): str(move.new) for move in moves if move.action in {"remapped", "merged"}},
        dropped=tuple(str(move.old) for move in moves if move.action == "dropped"),
        non_restored=tuple(str(move.old) for move in moves if move.action == "not restored"),
        notes=tuple(notes),
    )


def _chosen(source: SnapshotSource, name: str | None) -> list[SourceOperator]:
    found = [one for one in source.operators if name in {None, one.state.uid, one.state.id}]
    if name is not None and not found:
        known = ", ".join(str(one.name) for one in source.operators)
        raise UsageError(f"the snapshot has no operator {name!r}", hint=f"it has: {known}")
    return found


def _dealt(
    operator: SourceOperator, parallelism: int, root: Path, target: Path, notes: list[str]
) -> Iterator[RestoredSubtask]:
    """The operator's state is below `root`, a directory for each subtask; what is to be noted is in `notes`."""
    state = operator.state
    uid = state.uid or state.id
    tables = operator.open()
    same = parallelism == (state.parallelism or 1)
    _check(operator, tables, parallelism, same=same)
    folder = state.uid if state.uid and "/" not in state.uid and not state.uid.startswith(".") else state.id
    totals: dict[tuple[str, str], int] = {
        (table.schema.name, table.schema.kind): sum(len(batch) for batch in table.scan())
        for table in tables
        if table.schema.kind in {"operator-list", "operator-union"} and not same
    }
    for table in tables:
        _check_groups(uid, table, state.max_parallelism)
    for subtask in range(parallelism):
        place = root / folder / str(subtask)
        own = range_of(subtask, parallelism, state.max_parallelism) if state.max_parallelism else None
        with told(place):
            place.mkdir(parents=True)
        taken: set[str] = set()
        rows = 0
        for table in tables:
            name = table_name(table.schema.name, taken)
            taken.add(name)
            batches = _rows_of(table, subtask, parallelism, own, totals)
            columns = TypedColumns(table.schema)
            with told(place / name), (place / name).open("xb") as file:
                typed = (columns(batch) for batch in batches)
                rows += write_table(file, table.schema, typed, columns=columns.schema).rows
            notes += [f"{uid}/{subtask}/{note}" for note in columns.notes]
        _carry(operator, subtask, place)
        yield RestoredSubtask(
            uid=uid,
            subtask=subtask,
            path=str(target / folder / str(subtask)),
            key_groups=None if own is None else (own.start, own.stop),
            offsets={},
            rows=rows,
        )
    _carry(operator, -1, root / folder / COORDINATOR)


def _check(operator: SourceOperator, tables: tuple[StateTable, ...], parallelism: int, *, same: bool) -> None:
    """The state can be dealt out to so many. Raises: IncompatibleError."""
    state = operator.state
    uid = state.uid or state.id
    check_parallelism(uid, parallelism, state.max_parallelism)
    if same:
        return
    files = [file.name for subtask in state.subtasks for file in subtask.files]
    if files:
        message = f"the state of {uid} is files, which are those of {state.parallelism} subtasks: {files[0]}"
        raise IncompatibleError(message, hint="leave --parallelism out, or --drop it", operator=uid)
    for table in tables:
        schema = table.schema
        if schema.keyed and (schema.properties.get("partition") or not state.max_parallelism):
            message = (
                f"the key groups of {uid}/{schema.name} are not known, so it stays at {state.parallelism} subtasks"
            )
            raise IncompatibleError(message, hint="leave --parallelism out, or --drop it", operator=uid)


def _check_groups(uid: str, table: StateTable, limit: int) -> None:
    """No row is of a key group that no subtask has. Raises: BadManifestError."""
    schema = table.schema
    if schema.keyed and not schema.properties.get("partition") and 0 < limit < MAX_MAX_PARALLELISM:
        for batch in table.scan(KeyGroupRange(limit, MAX_MAX_PARALLELISM)):
            message = f"{uid}/{schema.name}: a key in key group {batch['key_group'][0].as_py()}, of {limit}"
            raise BadManifestError(message, hint="eoctl savepoint verify; restore another snapshot")


def _rows_of(
    table: StateTable,
    subtask: int,
    parallelism: int,
    own: KeyGroupRange | None,
    totals: dict[tuple[str, str], int],
) -> Iterator[pa.RecordBatch]:
    """The rows of the state that the subtask owns."""
    schema = table.schema
    name = schema.name, schema.kind
    if schema.keyed and not schema.properties.get("partition"):
        yield from table.scan(own)
    elif schema.kind == "broadcast":
        yield from table.scan()
    elif name not in totals:
        yield from table.scan(KeyGroupRange(subtask, subtask + 1))
    elif schema.kind == "operator-union":
        yield from part_of(table.scan(), subtask, 0, totals[name])
    else:
        counts = shares(totals[name], parallelism)
        yield from part_of(table.scan(), subtask, sum(counts[:subtask]), counts[subtask])


def _carry(operator: SourceOperator, subtask: int, place: Path) -> None:
    """The files of the subtask that are no tables are there too."""
    state = operator.state
    folder = COORDINATOR if subtask < 0 else str(subtask)
    files = state.coordinator if subtask < 0 else ()
    for one in state.subtasks:
        if one.index == subtask:
            files = one.files
    for file in files:
        with told(place / file.name):
            (place / file.name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operator.files / folder / file.name, place / file.name)
