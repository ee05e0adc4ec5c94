"""Operator state, written and read; that of real jobs is in test_engines_flink_states.py."""

from __future__ import annotations

import io
import struct

import pytest

from formats.binary import Buffer
from formats.datatype import DataType, Opaque, Simple
from formats.errors import CorruptError, EoctlError, InvalidInputError, UnsupportedError
from formats.flink.handles import Inline, Mode, OperatorHandle, OperatorList
from formats.flink.keyed_header import BROADCAST, OPERATOR, Header, StateMeta, write_operator_header
from formats.flink.operator_state import OperatorSource, operator_tables, write_operator_state
from formats.flink.snappy_frames import IDENTIFIER, frame
from formats.keygroups import KeyGroupRange
from formats.types import encode

STRING, LONG = Simple("string"), Simple("long")
TYPES: dict[str, DataType] = {"VALUE_SERIALIZER": LONG}
PAIRS: dict[str, DataType] = {"KEY_SERIALIZER": STRING, "VALUE_SERIALIZER": LONG}


def opened(handle) -> io.BytesIO:
    return io.BytesIO(handle.data)


def long(value: int) -> bytes:
    return encode(LONG, value)


def written(subtask: int, *states) -> OperatorSource:
    file = io.BytesIO()
    lists = write_operator_state(file, states)
    return OperatorSource(subtask, OperatorHandle(lists, Inline("x", file.getvalue())), opened, f"subtask {subtask}")


def rows(table, **only) -> list[tuple[object, ...]]:
    names = ("key_group", "key", "value")
    return [tuple(row[name] for name in names) for batch in table.scan(**only) for row in batch.to_pylist()]


def test_lists_unions_and_broadcast_maps_survive() -> None:
    rules = ("rules", Mode.BROADCAST, PAIRS, [(encode(STRING, "b"), long(2)), (encode(STRING, "a"), long(1))])
    first = written(
        0, ("list", Mode.SPLIT, TYPES, [(b"", long(1)), (b"", long(2))]), ("union", Mode.UNION, TYPES, []), rules
    )
    second = written(
        1, ("list", Mode.SPLIT, TYPES, [(b"", long(3))]), ("union", Mode.UNION, TYPES, [(b"", long(9))]), rules
    )
    tables = {table.schema.name: table for table in operator_tables([second, first])}
    assert {name: table.schema.kind for name, table in tables.items()} == {
        "list": "operator-list", "union": "operator-union", "rules": "broadcast"}  # fmt: skip
    assert rows(tables["list"]) == [(0, b"\0\0\0\0", long(1)), (0, b"\0\0\0\1", long(2)), (1, b"\0\0\0\0", long(3))]
    assert rows(tables["list"], key_groups=KeyGroupRange(1, 5)) == [(1, b"\0\0\0\0", long(3))]
    assert rows(tables["list"], key=b"\0\0\0\1") == [(0, b"\0\0\0\1", long(2))]
    assert rows(tables["union"]) == [(1, b"\0\0\0\0", long(9))]
    assert rows(tables["rules"]) == [(0, encode(STRING, "a"), long(1)), (0, encode(STRING, "b"), long(2))]


def source(meta: StateMeta, parts: list[bytes], mode: Mode, *, compressed: bool = False) -> OperatorSource:
    """One state, its parts as they are."""
    buffer = Buffer()
    write_operator_header(buffer, Header(compressed=compressed, key=None, states=(meta,)))
    data, offsets = bytearray(buffer.data), []
    if compressed:
        data += IDENTIFIER
    for part in parts:
        offsets.append(len(data))
        data += frame(part)[len(IDENTIFIER) :] if compressed else part
    handle = OperatorHandle((OperatorList(meta.name, mode, tuple(offsets)),), Inline("x", bytes(data)))
    return OperatorSource(0, handle, opened, "x")


def test_compressed_elements_begin_at_their_chunk() -> None:
    meta = StateMeta("list", OPERATOR, {}, TYPES)
    [table] = operator_tables([source(meta, [long(7), long(8)], Mode.SPLIT, compressed=True)])
    assert rows(table) == [(0, b"\0\0\0\0", long(7)), (0, b"\0\0\0\1", long(8))]


def test_version_5_has_no_flag_and_older_ones_are_refused() -> None:
    meta = StateMeta("list", OPERATOR, {}, TYPES)
    data = source(meta, [long(7)], Mode.SPLIT)._handle.stream
    assert isinstance(data, Inline)
    for version in (5, 4):
        old = struct.pack(">i", version) + data.data[5:]
        handle = OperatorHandle((OperatorList("list", Mode.SPLIT, (len(old) - 8,)),), Inline("x", old))
        if version == 5:
            [table] = operator_tables([OperatorSource(0, handle, opened, "x")])
            assert rows(table) == [(0, b"\0\0\0\0", long(7))]
        else:
            with pytest.raises(UnsupportedError, match="version 4"):
                operator_tables([OperatorSource(0, handle, opened, "x")])


def test_elements_of_an_unknown_type_are_raw_and_broadcast_maps_of_one_are_refused() -> None:
    meta = StateMeta("list", OPERATOR, {}, TYPES)
    unknown = source(meta, [b"abc", b"d"], Mode.SPLIT)
    data = unknown._handle.stream
    assert isinstance(data, Inline)
    name = b"org.apache.flink.api.common.typeutils.base.LongSerializer$LongSerializerSnapshot"
    changed = Inline("x", data.data.replace(name, b"c" * len(name)))
    again = OperatorSource(0, OperatorHandle(unknown._handle.states, changed), opened, "x")
    [table] = operator_tables([again])
    assert table.schema.value == f"opaque<{'c' * len(name)}>"
    handle = OperatorHandle((OperatorList("list", Mode.BROADCAST, (unknown._handle.states[0].offsets[0],)),), changed)
    [broadcast] = operator_tables([OperatorSource(0, handle, opened, "x")])
    with pytest.raises(UnsupportedError, match="cannot be told apart"):
        rows(broadcast)


@pytest.mark.parametrize(
    ("meta", "part", "mode"),
    [
        (StateMeta("s", OPERATOR, {}, TYPES), b"short", Mode.SPLIT),
        (StateMeta("s", OPERATOR, {}, TYPES), long(1) + b"more", Mode.SPLIT),
        (StateMeta("s", BROADCAST, {}, PAIRS), struct.pack(">i", 9), Mode.BROADCAST),
        (StateMeta("s", BROADCAST, {}, PAIRS), struct.pack(">i", 0) + b"more", Mode.BROADCAST),
    ],
)
def test_what_is_no_element_is_corrupt(meta, part, mode) -> None:
    [table] = operator_tables([source(meta, [part], mode)])
    with pytest.raises(CorruptError):
        rows(table)


@pytest.mark.parametrize("offset", [-1, 0, 5, 10_000])
def test_offsets_outside_of_the_elements_are_corrupt(offset) -> None:
    good = written(0, ("list", Mode.SPLIT, TYPES, [(b"", long(1))]))
    handle = OperatorHandle((OperatorList("list", Mode.SPLIT, (offset,)),), good._handle.stream)
    [table] = operator_tables([OperatorSource(0, handle, opened, "x")])
    with pytest.raises(EoctlError):
        rows(table)


def test_a_state_that_is_of_two_types_or_not_there_is_corrupt() -> None:
    one, other = (
        written(n, ("list", Mode.SPLIT, {"VALUE_SERIALIZER": each}, [])) for n, each in enumerate((LONG, STRING))
    )
    with pytest.raises(CorruptError, match="another type"):
        operator_tables([one, other])
    handle = OperatorHandle((OperatorList("nobody", Mode.SPLIT, ()),), one._handle.stream)
    with pytest.raises(CorruptError, match="nobody"):
        operator_tables([OperatorSource(0, handle, opened, "x")])


def test_a_type_without_a_serializer_is_not_written() -> None:
    with pytest.raises(InvalidInputError):
        written(0, ("list", Mode.SPLIT, {"VALUE_SERIALIZER": Opaque("x")}, []))
