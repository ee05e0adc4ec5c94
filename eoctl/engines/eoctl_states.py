"""Our own sorted tables as state: those of a savepoint, and those of a checkpoint of the runtime.

Every file of a subtask with the role `keyed`, `timer` or `operator` is a sorted table (formats/sst.py); which state it
is of, and how old, its head says. A table may hold key groups that its subtask no longer owns: they are not read.

Files are open while they are read, and then not more than a pool has (formats/file_pool.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from eoctl.engines.states import FolderOf
from formats.errors import BadManifestError
from formats.file_pool import FilePool, OpenFile
from formats.keygroups import KeyGroupRange, range_of
from formats.manifest import OperatorState, StateFile, SubtaskState
from formats.sst import SortedTable, merge, merge_batches, select
from formats.state import StateSchema, StateTable

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = frozenset({"keyed", "timer", "operator"})
OpenTable = Callable[[SubtaskState, StateFile], OpenFile]


class Part(Struct, frozen=True):
    """What one subtask has of a state: tables, newest first, and the key groups that are its own (None: all)."""

    tables: Callable[[], tuple[SortedTable, ...]]
    key_groups: KeyGroupRange | None

    @property
    def bounds(self) -> KeyGroupRange | None:
        """All rows are of these key groups; None: there are no rows."""
        if self.key_groups is not None:
            return self.key_groups
        found = [each for table in self.tables() if (each := table.key_groups) is not None]
        return KeyGroupRange(min(one.start for one in found), max(one.stop for one in found)) if found else None


class EoctlTable(Struct, frozen=True, kw_only=True):
    """A state over all subtasks."""

    schema: StateSchema
    parts: tuple[Part, ...]
    pool: FilePool

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._scan(key_groups, key)
        finally:
            self.pool.close()

    def _scan(self, key_groups: KeyGroupRange | None, key: bytes | None) -> Iterator[pa.RecordBatch]:
        if self.schema.kind == "broadcast":
            for part in islice((part for part in self.parts if part.tables()), 1):
                yield from _rows(part, key_groups, key)
            return
        bounded = [(bounds, part) for part in self.parts if (bounds := part.bounds) is not None]
        bounded.sort(key=itemgetter(0))
        if all(one.stop <= other.start for (one, _), (other, _) in pairwise(bounded)):
            for _, part in bounded:
                yield from _rows(part, key_groups, key)
        else:
            yield from merge_batches(
                [_rows(part, key_groups, key) for part in self.parts],
                keep_tombstones=False,
                distinct=f"subtasks of the state {self.schema.name}",
            )


def eoctl_tables(operator: OperatorState, folder_of: FolderOf) -> tuple[StateTable, ...]:
    """The states of the operator, by name and kind."""
    return tables_of(operator, lambda subtask, file: _opened(folder_of(operator, subtask) / file.name))


def tables_of(
    operator: OperatorState, open_file: OpenTable, schemas: Iterable[StateSchema] = ()
) -> tuple[StateTable, ...]:
    """As `eoctl_tables`. `schemas`: all that it has; then a file is opened when rows of its subtask are asked for."""
    pool = FilePool()
    subtasks = [(subtask, _Subtask(subtask, open_file, pool)) for subtask in operator.subtasks]
    known: dict[tuple[str, str], StateSchema] = {(schema.name, schema.kind): schema for schema in schemas}
    is_told = bool(known)
    if not is_told:
        for _, opened in subtasks:
            for name, tables in opened.by_state.items():
                # The newest says what the bytes mean; of subtasks, which agree, the first.
                known.setdefault(name, tables[0].schema)
        pool.close()
    return tuple(
        EoctlTable(
            schema=schema,
            parts=tuple(
                Part(partial(opened.tables, name), _own_key_groups(operator, subtask) if schema.keyed else None)
                for subtask, opened in subtasks
                if is_told or name in opened.by_state
            ),
            pool=pool,
        )
        for name, schema in sorted(known.items())
    )


class _Subtask:
    """The tables of a subtask, opened once."""

    def __init__(self, subtask: SubtaskState, open_file: OpenTable, pool: FilePool) -> None:
        self._subtask = subtask
        self._open_file = open_file
        self._pool = pool

    def tables(self, state: tuple[str, str]) -> tuple[SortedTable, ...]:
        return self.by_state.get(state, ())

    @cached_property
    def by_state(self) -> dict[tuple[str, str], tuple[SortedTable, ...]]:
        """Newest first."""
        found: dict[tuple[str, str], list[SortedTable]] = {}
        for file in self._subtask.files:
            if file.role in ROLES:
                table = SortedTable(self._pool.add(partial(self._open_file, self._subtask, file)), file.name)
                found.setdefault((table.schema.name, table.schema.kind), []).append(table)
        for (name, _), tables in found.items():
            tables.sort(key=lambda table: table.sequence, reverse=True)
            if len({table.sequence for table in tables}) != len(tables):
                raise BadManifestError(f"two tables of the state {name} have one sequence number")
        return {state: tuple(tables) for state, tables in found.items()}


def joined_tables(paths: Iterable[str]) -> tuple[StateTable, ...]:
    """Tables of one state of different subtasks, as one."""
    pool = FilePool()
    tables = [SortedTable(pool.add(partial(_opened, Path(path))), Path(path).name) for path in paths]
    pool.close()
    parts = tuple(Part(partial(tuple, [table]), None) for table in tables)
    return (EoctlTable(schema=tables[0].schema, parts=parts, pool=pool),)


def _opened(path: Path) -> OpenFile:
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    file: OpenFile = pa.OSFile(str(path), "rb")
    return file


def _own_key_groups(operator: OperatorState, subtask: SubtaskState) -> KeyGroupRange | None:
    if subtask.key_groups is not None:
        return KeyGroupRange(*subtask.key_groups)
    if operator.max_parallelism and len(operator.subtasks) == operator.parallelism:
        return range_of(subtask.index, operator.parallelism, operator.max_parallelism)
    return None


def _rows(part: Part, key_groups: KeyGroupRange | None, key: bytes | None) -> Iterator[pa.RecordBatch]:
    wanted = part.key_groups
    if key_groups is not None:
        wanted = key_groups if wanted is None else wanted.intersection(key_groups)
        if wanted is None:
            return
    tables = part.tables()
    if key is not None:
        sources = [table.scan(wanted, key) for table in tables]
        yield from merge_batches(sources, keep_tombstones=False)
    else:
        for batch in merge(tables, keep_tombstones=False, key_groups=wanted):
            yield select(batch, wanted, None)
