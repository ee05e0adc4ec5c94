"""RocksDB directories of the runtime as state: a row's key is key group, key, namespace, map key, one behind the other.

Each part says by its type where it ends, so rows in the order of RocksDB are in the order of their columns too. Which
states there are, and of which types, the manifest tells; key groups are dealt out to subtasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import compress
from typing import TYPE_CHECKING

from msgspec import Struct

from formats.errors import CorruptError
from formats.keygroups import KeyGroupRange
from formats.manifest import OperatorState, StateInfo
from formats.plain import read_plain
from formats.state import StateSchema, row_schema
from formats.types import parse, skip

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_BYTES = 2
_TYPES = ("key", "namespace", "map_key", "value")

Pairs = Callable[[bytes | None], Iterator["pa.RecordBatch"]]


class KeyedTable(Struct, frozen=True, kw_only=True):
    """A state over all subtasks, in the order of their key groups."""

    schema: StateSchema
    parts: tuple[tuple[KeyGroupRange, Pairs], ...]

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        ends = [_end_of(self.schema.key), _end_of(self.schema.namespace)]
        for own, pairs in self.parts:
            if key_groups is not None and not (own.start < key_groups.stop and key_groups.start < own.stop):
                continue
            for batch in pairs(None):
                rows = [_split(data, ends) for data in batch["key"].to_pylist()]
                values = batch["value"].to_pylist()
                if key_groups is not None or key is not None:
                    wanted = [
                        (key_groups is None or row[0] in key_groups) and (key is None or row[1] == key) for row in rows
                    ]
                    rows, values = list(compress(rows, wanted)), list(compress(values, wanted))
                if rows:
                    columns = [*map(list, zip(*rows, strict=True)), values]
                    arrays = [pa.array(c, f.type) for c, f in zip(columns, row_schema(), strict=True)]
                    yield pa.record_batch(arrays, schema=row_schema())


def is_of_the_runtime(operator: OperatorState) -> bool:
    """The manifest tells what the rows mean."""
    parts = [subtask for subtask in operator.subtasks if subtask.files]
    return bool(operator.states and operator.max_parallelism and all(part.key_groups for part in parts))


def keyed_tables(operator: OperatorState, families: dict[int, dict[str, Pairs]]) -> tuple[KeyedTable, ...]:
    """The states of the operator; `families`: of each subtask that has files."""
    owned = [(subtask.index, KeyGroupRange(*subtask.key_groups)) for subtask in operator.subtasks if subtask.key_groups]
    owned.sort(key=lambda one: one[1])
    return tuple(
        KeyedTable(
            schema=_schema(info),
            parts=tuple(
                (own, families[index][info.name]) for index, own in owned if info.name in families.get(index, {})
            ),
        )
        for info in sorted(operator.states, key=lambda info: info.name)
    )


def _schema(info: StateInfo) -> StateSchema:
    types = {name: info.properties.get(name, "") for name in _TYPES}
    return StateSchema(name=info.name, kind=info.kind, **types)  # type: ignore[arg-type]  # ours


def _end_of(text: str) -> Callable[[bytes, int], int]:
    """Where a value of the type ends that begins at a place."""
    if not text:
        return lambda data, at: read_plain(data, at)[1]
    data_type = parse(text)
    return lambda data, at: skip(data_type, data, at)


def _split(data: bytes, ends: list[Callable[[bytes, int], int]]) -> tuple[int, bytes, bytes, bytes]:
    if len(data) < GROUP_BYTES:
        raise CorruptError(f"a row of the runtime's RocksDB has a key of {len(data)} bytes")
    middle = ends[0](data, GROUP_BYTES)
    end = ends[1](data, middle)
    return int.from_bytes(data[:GROUP_BYTES], "big"), data[GROUP_BYTES:middle], data[middle:end], data[end:]
