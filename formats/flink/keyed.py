"""Keyed state of one operator, whatever backend wrote it: each state a table of rows (formats/state.py).

A handle covers a range of key groups; those of the subtasks lie one behind the other. What a handle holds is opened
by the function that is given, when a table is scanned, and closed when it was.

    Incremental         tables of RocksDB, one column family for each state; keys outside the handle's range are left
                        over from a rescale and dropped
    KeyGroups           heap.py          SavepointKeyGroups   canonical.py          Changelog   changelog.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO, Protocol

from formats.binary import Cursor
from formats.datatype import DataType
from formats.errors import CorruptError, UnsupportedError
from formats.flink.canonical import read_canonical, write_canonical
from formats.flink.file_pool import FilePool
from formats.flink.handles import (
    Incremental,
    KeyedHandle,
    KeyGroups,
    NamedFile,
    SavepointKeyGroups,
    StreamHandle,
)
from formats.flink.heap import read_heap
from formats.flink.key_layout import KeyLayout, gathered, layout_of, prefix_bytes, prefix_of, sorted_groups, split_keys
from formats.flink.keyed_header import KEYED_VALUES, Header, StateMeta, read_keyed_header, schema_of
from formats.keygroups import KeyGroupRange
from formats.rocksdb_merge import merge_tables
from formats.rocksdb_sst import Table
from formats.state import StateSchema

if TYPE_CHECKING:
    import pyarrow as pa

OpenStream = Callable[[StreamHandle], BinaryIO]

MAX_HEADER_BYTES = 16 << 20
WHOLE = -1  # the header is all of the stream

_COMPRESSED_AT = 4  # behind the version


class KeyedSource(Protocol):
    """What one handle holds."""

    what: str
    groups: KeyGroupRange

    @property
    def header(self) -> Header: ...

    def header_bytes(self) -> bytes:
        """The header as it stands there, or as Flink would write it; what it cannot be read of is kept."""
        ...

    def layout(self, name: str) -> KeyLayout:
        """How the keys of a state lie in RocksDB and canonical savepoints."""
        ...

    def schemas(self) -> list[StateSchema]:
        """The states that can be read, in the order of the header."""
        ...

    def rows(self, name: str, groups: KeyGroupRange, key: bytes | None) -> Iterator[pa.RecordBatch]:
        """The rows of a state that it has, sorted, in key groups that it has; of this key, if one is given."""
        ...


def read_header(open_stream: OpenStream, stream: StreamHandle, what: str, end: int | None = None) -> Header:
    """The header in front of a stream. Raises: CorruptError, UnsupportedError."""
    with open_stream(stream) as file:
        data = file.read(MAX_HEADER_BYTES)
    return read_keyed_header(Cursor(data, what=what), len(data) if end == WHOLE else end)


def safe_schema(state: StateMeta, key: DataType | None) -> StateSchema:
    """As `schema_of`; a state that cannot be read is told as such, and refused when it is scanned."""
    try:
        return schema_of(state, key)
    except UnsupportedError as error:
        return StateSchema(name=state.name, kind="value", properties={"unreadable": error.message})


class _Source:
    """What the kinds of handles have in common."""

    def __init__(
        self,
        stream: StreamHandle,
        groups: KeyGroupRange,
        open_stream: OpenStream,
        max_parallelism: int,
        what: str,
        header_end: int,
    ) -> None:
        self.what = what
        self._header_end = header_end
        self.groups = groups
        self._stream = stream
        self._open = open_stream
        self._max_parallelism = max_parallelism

    @cached_property
    def header(self) -> Header:
        return read_header(self._open, self._stream, self.what, self._header_end)

    def schemas(self) -> list[StateSchema]:
        return [safe_schema(state, self.header.key) for state in self.header.states]

    def header_bytes(self) -> bytes:
        with self._open(self._stream) as file:
            return file.read(self.header.size)

    def layout(self, name: str) -> KeyLayout:
        return layout_of(self._state(name)[1], self.header.key, self._max_parallelism)

    def _state(self, name: str) -> tuple[int, StateMeta]:
        for place, state in enumerate(self.header.states):
            if state.name == name:
                schema_of(state, self.header.key)
                return place, state
        raise CorruptError(f"{self.what}: there is no state {name!r}")


class HeapSource(_Source):
    """A handle of the HashMap backend."""

    def __init__(self, handle: KeyGroups, open_stream: OpenStream, max_parallelism: int, what: str) -> None:
        stream, end = _present(handle.stream, what), min(filter(None, handle.offsets), default=WHOLE)
        super().__init__(stream, KeyGroupRange(handle.start, handle.stop), open_stream, max_parallelism, what, end)
        self._handle = handle

    def rows(self, name: str, groups: KeyGroupRange, key: bytes | None) -> Iterator[pa.RecordBatch]:
        self._state(name)
        with self._open(self._stream) as file:
            yield from _of_key(read_heap(file, self._handle, self.header, name, groups, self.what), key)


class CanonicalSource(_Source):
    """A handle of a canonical savepoint."""

    def __init__(self, handle: SavepointKeyGroups, open_stream: OpenStream, max_parallelism: int, what: str) -> None:
        stream, end = _present(handle.stream, what), min(filter(None, handle.offsets), default=WHOLE)
        super().__init__(stream, KeyGroupRange(handle.start, handle.stop), open_stream, max_parallelism, what, end)
        self._handle = handle

    def rows(self, name: str, groups: KeyGroupRange, key: bytes | None) -> Iterator[pa.RecordBatch]:
        place, _ = self._state(name)
        layout, compressed = self.layout(name), self.header.compressed
        with self._open(self._stream) as file:
            pairs = read_canonical(
                file,
                self._handle,
                place,
                groups,
                self.what,
                prefix_bytes=layout.prefix_bytes,
                compressed=compressed,
            )
            yield from _of_key(_rows(pairs, layout, self.what, in_order=False), key)


class RocksdbSource(_Source):
    """A handle of the RocksDB backend: all tables together are the state, so that no MANIFEST is needed."""

    def __init__(self, handle: Incremental, open_stream: OpenStream, max_parallelism: int, what: str) -> None:
        stream = _present(handle.meta, what)
        super().__init__(stream, KeyGroupRange(handle.start, handle.stop), open_stream, max_parallelism, what, WHOLE)
        self._files = [file for file in (*handle.shared, *handle.private) if file.name.endswith(".sst")]

    @cached_property
    def _families(self) -> dict[str, list[NamedFile]]:
        """The tables of each state."""
        found: dict[str, list[NamedFile]] = {}
        for file in self._files:
            with self._open(_present(file.stream, file.name)) as data:
                table = Table(data, what=f"{self.what}, {file.name}")
                found.setdefault(table.column_family, []).append(file)
        return found

    def schemas(self) -> list[StateSchema]:
        """Behind those of the header, the ones that only the tables tell of."""
        known = super().schemas()
        names = {schema.name for schema in known} | {"default"}
        hidden = sorted(self._families.keys() - names) if self.header.stopped_at else []
        return known + [StateSchema(name=name, kind="value") for name in hidden]

    def rows(self, name: str, groups: KeyGroupRange, key: bytes | None) -> Iterator[pa.RecordBatch]:
        state = next((state for state in self.header.states if state.name == name), None)
        if state is None:
            state = StateMeta(name, KEYED_VALUES, {}, {})
            layout = KeyLayout(prefix_bytes(self._max_parallelism), state.value, state.value)
        else:
            layout = self.layout(name)
        joined_by = b"," if state.options.get("KEYED_STATE_TYPE") == "LIST" or not state.serializers else None
        with FilePool() as pool:
            tables = []
            for file in self._families.get(name, []):
                stream = _present(file.stream, file.name)
                tables.append(Table(pool.add(partial(self._open, stream)), what=f"{self.what}, {file.name}"))
            for start, stop in self._bounds(layout, groups, key):
                pairs = merge_tables(tables, joined_by=joined_by, start=start, stop=stop)
                yield from _of_key(_rows(pairs, layout, self.what), key)

    def _bounds(
        self, layout: KeyLayout, groups: KeyGroupRange, key: bytes | None
    ) -> Iterator[tuple[bytes, bytes | None]]:
        """Where the keys lie: all of them, or those that begin with `key` in each key group."""
        size = layout.prefix_bytes
        if key is None or layout.is_timer:
            yield groups.start.to_bytes(size, "big"), prefix_of(groups.stop, size)
            return
        for key_group in range(groups.start, groups.stop):
            start = key_group.to_bytes(size, "big") + key
            yield start, _next_prefix(start)


def _next_prefix(prefix: bytes) -> bytes | None:
    """The first bytes behind all that begin with `prefix`."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


def _present(stream: StreamHandle | None, what: str) -> StreamHandle:
    if stream is None:
        raise CorruptError(f"{what}: a handle without a stream")
    return stream


def _rows(
    pairs: Iterator[pa.RecordBatch], layout: KeyLayout, what: str, *, in_order: bool = True
) -> Iterator[pa.RecordBatch]:
    """The rows of pairs; those that a HashMap job wrote are in no order."""
    rows = (split_keys(batch, layout, what) for batch in pairs)
    return gathered(rows if in_order and not layout.is_timer else sorted_groups(rows))


def _of_key(batches: Iterator[pa.RecordBatch], key: bytes | None) -> Iterator[pa.RecordBatch]:
    if key is None:
        yield from batches
        return
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    for batch in batches:
        found = batch.filter(pc.equal(batch["key"], pa.scalar(key, pa.binary())))
        if found.num_rows:
            yield found


class KeyedTable:
    """One state of an operator, over all its handles. A `StateTable`."""

    def __init__(self, schema: StateSchema, sources: list[KeyedSource]) -> None:
        self._schema = schema
        self._sources = sources

    @property
    def schema(self) -> StateSchema:
        return self._schema

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        for source in self._sources:
            groups = source.groups if key_groups is None else source.groups.intersection(key_groups)
            if groups is not None:
                yield from source.rows(self._schema.name, groups, key)


def keyed_source(handle: KeyedHandle, open_stream: OpenStream, max_parallelism: int, what: str) -> KeyedSource:
    """Raises: UnsupportedError, CorruptError."""
    match handle:
        case Incremental():
            return RocksdbSource(handle, open_stream, max_parallelism, what)
        case KeyGroups():
            return HeapSource(handle, open_stream, max_parallelism, what)
        case SavepointKeyGroups():
            return CanonicalSource(handle, open_stream, max_parallelism, what)
    raise UnsupportedError(f"{what}: a {type(handle).__name__} is not keyed state by itself")


def to_canonical(file: BinaryIO, source: KeyedSource) -> tuple[int, ...]:
    """All of a source's state is written in canonical form, uncompressed; the offsets that a handle needs.

    Raises: UnsupportedError, where the header could not be read to its end: what lies behind it would be lost.
    """
    header = source.header
    if header.stopped_at:
        raise UnsupportedError(
            f"{source.what}: there is state behind a serializer that is not known: {header.stopped_at}",
            hint="let Flink write a canonical savepoint",
        )
    raw = source.header_bytes()
    head = raw[:_COMPRESSED_AT] + b"\0" + raw[_COMPRESSED_AT + 1 :]
    states = [(source.layout(state.name), source.rows(state.name, source.groups, None)) for state in header.states]
    return write_canonical(file, head, source.groups, states)


def keyed_tables(sources: list[KeyedSource]) -> list[KeyedTable]:
    """A table for each state, in the order in which they are met; of the sources that have it.

    Raises: CorruptError, where key groups are there twice, or a state is of two types.
    """
    sources = sorted(sources, key=lambda source: source.groups)
    for before, after in pairwise(sources):
        if before.groups.stop > after.groups.start:
            raise CorruptError(f"{after.what}: key groups {after.groups} are there twice")
    schemas: dict[str, StateSchema] = {}
    having: dict[str, list[KeyedSource]] = {}
    for source in sources:
        for schema in source.schemas():
            if schemas.setdefault(schema.name, schema) != schema:
                raise CorruptError(f"{source.what}: state {schema.name!r} is of another type than in other subtasks")
            having.setdefault(schema.name, []).append(source)
    return [KeyedTable(schema, having[name]) for name, schema in schemas.items()]
