"""State as rows: what everything that reads or writes state hands on.

A row is `(key_group, key, namespace, map_key, value)`: the group an integer, the rest bytes as Flink's serializers
write them. Rows travel in record batches of bounded size, sorted by these columns in this order, which is the order
of bytes, and so of RocksDB's keys. What the bytes mean is said by the texts of a `StateSchema`.

- keyed state: one row for each key and namespace, in map state one for each entry; the elements of list state are
  joined by one byte 0x2C, as RocksDB keeps them;
- timers: `namespace` is the timer's, `map_key` its time, 8 bytes big-endian with the sign bit flipped; no value;
- operator state: `key_group` is the subtask and `key` the place in its list, 4 bytes big-endian;
- broadcast state: `key_group` is 0, `key` and `value` are an entry's.

A null `value` is a tombstone; only our own tables hold any, and no reader of a whole state gives one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, TypeAlias

from msgspec import Meta, Struct

from formats.keygroups import KeyGroupRange
from formats.manifest import Count, Text

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 1 << 16
BATCH_BYTES = 8 << 20  # about: a batch holds a row more than fits
KEY_COLUMNS = ("key_group", "key", "namespace", "map_key")
COLUMNS = (*KEY_COLUMNS, "value")

Kind: TypeAlias = Literal[
    "value", "list", "map", "reducing", "aggregating", "timer", "operator-list", "operator-union", "broadcast"
]
KEYED: frozenset[Kind] = frozenset({"value", "list", "map", "reducing", "aggregating", "timer"})
TypeText: TypeAlias = Annotated[str, Meta(max_length=1 << 16)]


class StateSchema(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a state is called and what its bytes mean: texts of formats/types; "": not known, the bytes are all."""

    name: Text
    kind: Kind
    key: TypeText = ""
    namespace: TypeText = ""
    map_key: TypeText = ""
    value: TypeText = ""
    properties: dict[Text, Text] = {}

    @property
    def keyed(self) -> bool:
        return self.kind in KEYED


class StateTable(Protocol):
    """One named state of one operator, over all its subtasks."""

    @property
    def schema(self) -> StateSchema: ...

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        """The rows, each once, in order; of these key groups, of this key.

        Raises: CorruptError, UnsupportedError, BadManifestError.
        """
        ...


class OperatorStates(Struct, frozen=True, kw_only=True):
    """An operator as one who reads its state meets it. Max parallelism 0: not known."""

    uid: str
    id: str
    name: str
    parallelism: Count
    max_parallelism: Count
    tables: tuple[StateTable, ...]


def byte_count(column: pa.Array) -> int:
    """How many bytes the values of a column of bytes have."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    if column.null_count or not len(column):
        return pc.sum(pc.binary_length(column)).as_py() or 0
    offsets = memoryview(column.buffers()[1]).cast("i")
    size: int = offsets[column.offset + len(column)] - offsets[column.offset]
    return size


def first_of(again: pa.Array) -> pa.Array:
    """Which rows are the first of those that are alike; `again`: whether each but the first is like the one before."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    # As pa.array([True]), which imports pandas where that is installed: a third of a second.
    true = pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(b"\1")])
    return pa.concat_arrays([true, pc.invert(again)])


@cache
def row_schema() -> pa.Schema:
    """The columns of every batch."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    fields = [pa.field("key_group", pa.uint16(), nullable=False)]
    fields += [pa.field(name, pa.binary(), nullable=False) for name in ("key", "namespace", "map_key")]
    return pa.schema([*fields, pa.field("value", pa.binary())])
