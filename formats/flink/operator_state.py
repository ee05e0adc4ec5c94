"""Operator state: lists that are dealt out or united on a restore, and broadcast maps.

    header (keyed_header.py), then the elements, at the offsets that the handle names
    list, union   one element at each offset, up to the next offset
    broadcast     at its one offset: i32 n, n times key, value

With compression what is written of a state is one framed Snappy stream, whose identifier lies in front of the first
offset; every offset is that of a chunk.

Source: Flink 2.3.0, `DefaultOperatorStateBackendSnapshotStrategy`, `PartitionableListState`, `HeapBroadcastState`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from formats.binary import Buffer, Cursor
from formats.datatype import DataType, Opaque, describe, is_known
from formats.errors import CorruptError, EoctlError, UnsupportedError
from formats.flink.handles import Mode, OperatorHandle, OperatorList, StreamHandle
from formats.flink.keyed_header import (
    BROADCAST,
    OPERATOR,
    Header,
    StateMeta,
    read_operator_header,
    write_operator_header,
)
from formats.flink.row_builder import RowBuilder
from formats.flink.snappy_frames import unframe
from formats.keygroups import KeyGroupRange
from formats.state import Kind, StateSchema
from formats.types import codec

if TYPE_CHECKING:
    import pyarrow as pa

OpenStream = Callable[[StreamHandle], BinaryIO]

KINDS: dict[Mode, Kind] = {
    Mode.SPLIT: "operator-list",
    Mode.UNION: "operator-union",
    Mode.BROADCAST: "broadcast",
}
_MODES = {Mode.SPLIT: "SPLIT_DISTRIBUTE", Mode.UNION: "UNION", Mode.BROADCAST: "BROADCAST"}
_index = struct.Struct(">I")


class OperatorSource:
    """The operator state of one subtask."""

    def __init__(self, subtask: int, handle: OperatorHandle, open_stream: OpenStream, what: str) -> None:
        self.subtask = subtask
        self.what = what
        self.states = {state.name: state for state in handle.states}
        self._handle = handle
        self._open = open_stream

    @cached_property
    def _data(self) -> bytes:
        if self._handle.stream is None:
            raise CorruptError(f"{self.what}: a handle without a stream")
        with self._open(self._handle.stream) as file:
            return file.read()

    @cached_property
    def header(self) -> Header:
        return read_operator_header(Cursor(self._data, what=self.what))

    @cached_property
    def _ends(self) -> dict[int, int]:
        """Where what begins at an offset ends."""
        bounds = sorted({offset for state in self._handle.states for offset in state.offsets} | {len(self._data)})
        return dict(pairwise(bounds))

    def meta(self, name: str) -> StateMeta:
        """What is known of a state: its types are opaque where its serializer ended the reading."""
        for state in self.header.states:
            if state.name == name:
                return state
        if self.header.stopped_at:
            return StateMeta(name, OPERATOR, {}, {"VALUE_SERIALIZER": Opaque(self.header.stopped_at)})
        raise CorruptError(f"{self.what}: there is no state {name!r}")

    def parts(self, name: str) -> Iterator[bytes]:
        """What lies at each of the state's offsets."""
        for offset in self.states[name].offsets:
            if not self.header.size <= offset <= len(self._data):
                raise CorruptError(
                    f"{self.what}: state {name!r} at byte {offset} of {len(self._data)}", offset=max(offset, 0)
                )
            cursor = Cursor(self._data, what=self.what, start=offset, end=self._ends.get(offset, offset))
            yield unframe(cursor) if self.header.compressed else cursor.raw(cursor.left)


class OperatorTable:
    """One operator state over all subtasks. A `StateTable`."""

    def __init__(self, schema: StateSchema, sources: list[OperatorSource]) -> None:
        self._schema = schema
        self._sources = sources

    @property
    def schema(self) -> StateSchema:
        return self._schema

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        builder = RowBuilder()
        for source in self._sources:
            number = 0 if self._schema.kind == "broadcast" else source.subtask
            if key_groups is not None and number not in key_groups:
                continue
            rows = [(each, b"", b"", value) for each, value in self._rows(source) if key is None or each == key]
            builder.add(number, rows)
            if builder.is_full and (batch := builder.batch()) is not None:
                yield batch
        if (batch := builder.batch()) is not None:
            yield batch

    def _rows(self, source: OperatorSource) -> Iterator[tuple[bytes, bytes]]:
        name = self._schema.name
        state = source.meta(name)
        if self._schema.kind == "broadcast":
            yield from sorted(row for part in source.parts(name) for row in _entries(part, state, source.what))
            return
        for index, part in enumerate(source.parts(name)):
            _check(state.value, part, f"{source.what}, state {name!r}, element {index}")
            yield _index.pack(index), part


def _check(data_type: DataType, data: bytes, what: str) -> None:
    """All of `data` is one value."""
    if is_known(data_type):
        try:
            end = codec(data_type).skip(data, 0)
        except EoctlError as error:
            raise type(error)(f"{what}: {error.message}", hint=error.hint, **error.facts) from error
        if end != len(data):
            raise CorruptError(f"{what}: {len(data) - end} bytes are left after a {describe(data_type)}", offset=end)


def _entries(data: bytes, state: StateMeta, what: str) -> Iterator[tuple[bytes, bytes]]:
    what = f"{what}, state {state.name!r}"
    key, value = state.serializers.get("KEY_SERIALIZER", Opaque("nothing")), state.value
    for part in (key, value):
        if not is_known(part):
            raise UnsupportedError(f"{what} holds {describe(part)}, whose bytes cannot be told apart")
    cursor = Cursor(data, what=what)
    for _ in range(cursor.count("the number of entries")):
        start = cursor.at
        middle = codec(key).skip(data, start)
        cursor.at = codec(value).skip(data, middle)
        yield data[start:middle], data[middle : cursor.at]
    cursor.expect_end("the last entry")


def operator_tables(sources: Sequence[OperatorSource]) -> list[OperatorTable]:
    """A table for each state, in the order in which they are met; of a broadcast state, the first subtask's.

    Raises: CorruptError, UnsupportedError.
    """
    found: dict[str, OperatorTable] = {}
    having: dict[str, list[OperatorSource]] = {}
    for source in sorted(sources, key=lambda source: source.subtask):
        for state in source.states.values():
            schema = _schema(state, source.meta(state.name))
            before = found.setdefault(state.name, OperatorTable(schema, having.setdefault(state.name, [])))
            if before.schema != schema:
                raise CorruptError(f"{source.what}: state {state.name!r} is of another type than in other subtasks")
            if state.mode is not Mode.BROADCAST or not having[state.name]:
                having[state.name].append(source)
    return list(found.values())


def _schema(state: OperatorList, meta: StateMeta) -> StateSchema:
    key = meta.serializers.get("KEY_SERIALIZER")
    return StateSchema(
        name=state.name,
        kind=KINDS[state.mode],
        key=describe(key) if key is not None and state.mode is Mode.BROADCAST else "",
        value=describe(meta.value),
    )


def write_operator_state(
    file: BinaryIO, states: Sequence[tuple[str, Mode, dict[str, DataType], Sequence[tuple[bytes, bytes]]]]
) -> tuple[OperatorList, ...]:
    """What a handle needs, after a subtask's state was written.

    A state is its name, mode, serializers, and rows of (key, value); of a list only the values count.

    Raises: InvalidInputError, for a type that Flink has no serializer of.
    """
    metas = [
        StateMeta(
            name,
            BROADCAST if mode is Mode.BROADCAST else OPERATOR,
            {"OPERATOR_STATE_DISTRIBUTION_MODE": _MODES[mode]},
            serializers,
        )
        for name, mode, serializers, _ in states
    ]
    buffer = Buffer()
    write_operator_header(buffer, Header(compressed=False, key=None, states=tuple(metas)))
    position = file.write(bytes(buffer.data))
    lists = []
    for name, mode, _, rows in states:
        if mode is Mode.BROADCAST:
            pieces = [len(rows).to_bytes(4, "big") + b"".join(key + value for key, value in rows)]
        else:
            pieces = [value for _, value in rows]
        offsets = []
        for piece in pieces:
            offsets.append(position)
            position += file.write(piece)
        lists.append(OperatorList(name, mode, tuple(offsets)))
    return tuple(lists)
