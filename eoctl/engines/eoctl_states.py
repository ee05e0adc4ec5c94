"""Our own sorted tables as state: those of a savepoint, and those of a checkpoint of the runtime.

Every file of a subtask with the role `keyed`, `timer` or `operator` is a sorted table (formats/sst.py); which state it
is of, and how old, its head says. A table may hold key groups that its subtask no longer owns: they are not read.

Files are open while they are read, and then not more than a pool has (formats/file_pool.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from eoctl.engines.states import FolderOf
from formats.errors import BadManifestError
from formats.file_pool import FilePool
from formats.keygroups import KeyGroupRange, range_of
from formats.manifest import OperatorState, StateFile, SubtaskState
from formats.sst import SortedTable, merge, merge_batches, select
from formats.state import StateSchema, StateTable

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = frozenset({"keyed", "timer", "operator"})


class Part(Struct, frozen=True):
    """What one subtask has of a state: tables, newest first, and the key groups that are its own (None: all)."""

    tables: tuple[SortedTable, ...]
    key_groups: KeyGroupRange | None

    @property
    def bounds(self) -> KeyGroupRange | None:
        """All rows are of these key groups; None: there are no rows."""
        found = [each for table in self.tables if (each := table.key_groups) is not None]
        if not found or self.key_groups is not None:
            return self.key_groups if found else None
        return KeyGroupRange(min(each.start for each in found), max(each.stop for each in found))


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
        parts = {bounds.start: part for part in self.parts if (bounds := part.bounds) is not None}
        ranges = [bounds for part in self.parts if (bounds := part.bounds) is not None]
        if self.schema.kind == "broadcast":
            yield from _rows(self.parts[0], key_groups, key)
        elif _apart(ranges):
            for start in sorted(parts):
                yield from _rows(parts[start], key_groups, key)
        else:
            yield from merge_batches(
                [_rows(part, key_groups, key) for part in self.parts],
                keep_tombstones=False,
                distinct=f"subtasks of the state {self.schema.name}",
            )


def eoctl_tables(operator: OperatorState, folder_of: FolderOf) -> tuple[StateTable, ...]:
    """The states of the operator, by name and kind."""
    parts: dict[tuple[str, str], list[Part]] = {}
    schemas: dict[tuple[str, str], StateSchema] = {}
    pool = FilePool()
    for subtask in operator.subtasks:
        by_state: dict[tuple[str, str], list[SortedTable]] = {}
        for table in _opened(subtask.files, folder_of(operator, subtask), pool):
            name = table.schema.name, table.schema.kind
            by_state.setdefault(name, []).append(table)
            # The newest says what the bytes mean; of subtasks, which agree, the first.
            schemas.setdefault(name, table.schema)
        for state, tables in by_state.items():
            tables.sort(key=lambda table: table.sequence, reverse=True)
            if len({table.sequence for table in tables}) != len(tables):
                raise BadManifestError(f"two tables of the state {state[0]} have one sequence number")
            own = _own_key_groups(operator, subtask) if schemas[state].keyed else None
            parts.setdefault(state, []).append(Part(tuple(tables), own))
    pool.close()
    return tuple(
        EoctlTable(schema=schemas[name], parts=tuple(found), pool=pool) for name, found in sorted(parts.items())
    )


def joined_tables(paths: Iterable[str]) -> tuple[StateTable, ...]:
    """Tables of one state of different subtasks, as one."""
    pool = FilePool()
    tables = [_table(Path(path), pool) for path in paths]
    pool.close()
    parts = tuple(Part((table,), None) for table in tables)
    return (EoctlTable(schema=tables[0].schema, parts=parts, pool=pool),)


def _opened(files: Iterable[StateFile], folder: Path, pool: FilePool) -> Iterator[SortedTable]:
    return (_table(folder / file.name, pool, file.name) for file in files if file.role in ROLES)


def _table(path: Path, pool: FilePool, what: str = "") -> SortedTable:
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    return SortedTable(pool.add(partial(pa.OSFile, str(path), "rb")), what or path.name)


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
    if key is not None:
        sources = [table.scan(wanted, key) for table in part.tables]
        yield from merge_batches(sources, keep_tombstones=False)
    else:
        for batch in merge(part.tables, keep_tombstones=False, key_groups=wanted):
            yield select(batch, wanted, None)


def _apart(ranges: list[KeyGroupRange]) -> bool:
    ordered = sorted(ranges)
    return all(one.stop <= other.start for one, other in pairwise(ordered))
