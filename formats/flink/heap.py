"""State of the HashMap backend: checkpoints, and savepoints in native form.

    header (keyed_header.py), then each key group at its offset:
    i32 key group, then for each state: u16 its place in the header, i32 n, n entries
    an entry: namespace, key, value, all as their serializers write them; of timers: i64 time, key, namespace

With compression each state of a key group, its place included, is a framed Snappy stream. Nothing has a length, so an
entry is passed over by what its types say. Behind a state whose type is not known (Kryo, say) the others are looked
for: where they lie they fill the key group to its end, all of them and nothing else. That is so at the right place; if
it is so at another one too, they are refused.

A key group is held in memory while it is read, as it is by the job that wrote it.

Source: Flink 2.3.0, `HeapSnapshotStrategy`, `CopyOnWriteStateMapSnapshot`, `HeapPriorityQueueStateSnapshot`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, BinaryIO

from formats.binary import Cursor
from formats.datatype import DataType, ListOf, MapOf, TimerOf, describe, is_known
from formats.errors import CorruptError, EoctlError, UnsupportedError
from formats.flink.handles import KeyGroups
from formats.flink.keyed_header import TIMERS, Header, StateMeta
from formats.flink.row_builder import Row, RowBuilder
from formats.flink.snappy_frames import unframe
from formats.keygroups import KeyGroupRange
from formats.types import codec

if TYPE_CHECKING:
    import pyarrow as pa

_COMMA = b","
_HINT = "take a canonical savepoint, or use the RocksDB backend"
_Split = Callable[[bytes, bytes, bytes], Iterator[Row]]


def read_heap(
    file: BinaryIO, handle: KeyGroups, header: Header, name: str, groups: KeyGroupRange, what: str
) -> Iterator[pa.RecordBatch]:
    """The rows of one state in these key groups, which the handle has.

    Raises: CorruptError, UnsupportedError.
    """
    builder = RowBuilder()
    for key_group, data in key_group_bytes(file, handle.start, handle.offsets, groups, what):
        cursor = Cursor(data, what=f"{what}, key group {key_group}")
        if cursor.i32("a key group") != key_group:
            raise cursor.error("the stream holds another key group here", at=0)
        builder.add(key_group, _sorted_rows(cursor, header, name))
        if builder.is_full and (batch := builder.batch()) is not None:
            yield batch
    if (batch := builder.batch()) is not None:
        yield batch


def _sorted_rows(cursor: Cursor, header: Header, name: str) -> list[Row]:
    try:
        return sorted(_rows(cursor, header, name))
    except CorruptError as error:
        if error.message.startswith(cursor.what):
            raise
        raise CorruptError(f"{cursor.what}: {error.message}", hint=error.hint, **error.facts) from error


def key_group_bytes(
    file: BinaryIO, start: int, offsets: tuple[int, ...], groups: KeyGroupRange, what: str
) -> Iterator[tuple[int, bytes]]:
    """The bytes of each of the key groups, from its offset to the next one."""
    size = file.seek(0, 2)
    bounds = sorted({*offsets, size})
    ends = dict(pairwise(bounds))
    for key_group in range(groups.start, groups.stop):
        offset = offsets[key_group - start]
        if not 0 < offset < size:
            raise CorruptError(f"{what}: key group {key_group} at byte {offset} of {size}", offset=max(offset, 0))
        file.seek(offset)
        yield key_group, file.read(ends[offset] - offset)


def _rows(cursor: Cursor, header: Header, name: str) -> Iterator[Row]:
    left = set(range(len(header.states)))
    for _ in header.states:
        part = Cursor(unframe(cursor), what=cursor.what) if header.compressed else cursor
        place = part.u16("a state's place")
        if place >= len(header.states):
            raise part.error(f"there is no state {place}", at=part.at - 2)
        state = header.states[place]
        if state.name == name:
            yield from _entries(part, state, header.key)
            return
        left.discard(place)
        if all(map(is_known, _parts(state, header.key))):
            _pass(part, state, header.key)
            if header.compressed:
                part.expect_end(f"state {state.name!r}")
        elif not header.compressed:
            _pass_unknown(part, state, header, left)
    raise _unreachable(cursor, header, name)


def _unreachable(cursor: Cursor, header: Header, name: str) -> UnsupportedError | CorruptError:
    if header.stopped_at:
        return UnsupportedError(
            f"{cursor.what}: state {name!r} lies behind one whose serializer is not known: {header.stopped_at}"
        )
    return cursor.error(f"there is no state {name!r}")


def _pass(cursor: Cursor, state: StateMeta, key: DataType | None) -> None:
    skips = [codec(part).skip for part in _parts(state, key)]
    data, at = cursor.data, cursor.at + 4
    for _ in range(cursor.count("the number of entries")):
        for skip in skips:
            at = skip(data, at)
    cursor.at = at


def _pass_unknown(cursor: Cursor, state: StateMeta, header: Header, left: set[int]) -> None:
    """The cursor is behind a state whose entries cannot be told apart, in front of the first of those that are left.

    Raises: UnsupportedError, where it is not plain where that is.
    """
    if cursor.count("the number of entries") == 0:
        return
    if not left:
        cursor.at = len(cursor.data)
        return
    found: list[int] = []
    if not header.stopped_at:
        for place in left:
            mark = struct.pack(">H", place)
            at = cursor.data.find(mark, cursor.at)
            while at >= 0 and len(found) < 2:
                if _fills(cursor, at, header, left):
                    found.append(at)
                at = cursor.data.find(mark, at + 1)
    if len(found) != 1:
        raise UnsupportedError(
            f"{cursor.what}: what lies behind state {state.name!r} is not reached, as its bytes cannot be told apart",
            hint=_HINT,
        )
    cursor.at = found[0]


def _fills(cursor: Cursor, at: int, header: Header, left: set[int]) -> bool:
    """From there on lie the states that are left, each once, and the key group ends where they do."""
    data, wanted = cursor.data, set(left)
    while wanted and at + 6 <= len(data):
        place, count = struct.unpack_from(">Hi", data, at)
        at += 6
        if place not in wanted or not 0 <= count <= len(data) - at:
            return False
        wanted.discard(place)
        parts = _parts(header.states[place], header.key)
        if count and not all(map(is_known, parts)):
            return False
        skips = [codec(part).skip for part in parts]
        try:
            for _ in range(count):
                for skip in skips:
                    at = skip(data, at)
        except EoctlError:
            return False
    return not wanted and at == len(data)


def _parts(state: StateMeta, key: DataType | None) -> tuple[DataType, ...]:
    """What an entry is made of."""
    return (state.value,) if state.type == TIMERS else (state.namespace, key or state.value, state.value)


def _check_known(state: StateMeta, key: DataType | None) -> None:
    for part in _parts(state, key):
        if not is_known(part):
            raise UnsupportedError(
                f"state {state.name!r} holds {describe(part)}, whose bytes cannot be told apart in a heap snapshot",
                hint=_HINT,
            )


def _entries(cursor: Cursor, state: StateMeta, key: DataType | None) -> Iterator[Row]:
    parts = _parts(state, key)
    count = cursor.count("the number of entries")
    if count:
        _check_known(state, key)
    data, at = cursor.data, cursor.at
    if state.type == TIMERS and isinstance(state.value, TimerOf):
        skip_key, skip_namespace = codec(state.value.key).skip, codec(state.value.namespace).skip
        for _ in range(count):
            middle = skip_key(data, at + 8)
            end = skip_namespace(data, middle)
            yield data[at + 8 : middle], data[middle:end], data[at : at + 8], b""
            at = end
        return
    if not count:
        return
    split = splitter(state)
    skip_namespace, skip_key, skip_value = (codec(part).skip for part in parts)
    for _ in range(count):
        middle = skip_namespace(data, at)
        end = skip_key(data, middle)
        namespace, entry_key, at = data[at:middle], data[middle:end], skip_value(data, end)
        yield from split(entry_key, namespace, data[end:at])


def splitter(state: StateMeta) -> _Split:
    """Makes rows of a key, a namespace and a value as its serializer writes it: of a map one for each entry."""
    kind, value = state.options.get("KEYED_STATE_TYPE"), state.value
    if kind == "MAP" and isinstance(value, MapOf):
        return _map_splitter(value)
    if kind == "LIST" and isinstance(value, ListOf):
        return _list_splitter(value)
    return lambda key, namespace, data: iter([(key, namespace, b"", data)])


def _map_splitter(value: MapOf) -> _Split:
    skip_key, skip_value = codec(value.key).skip, codec(value.value).skip

    def split(key: bytes, namespace: bytes, data: bytes) -> Iterator[Row]:
        at = 4
        for _ in range(int.from_bytes(data[:4], "big")):
            middle = skip_key(data, at)
            end = middle + 1 if data[middle] else skip_value(data, middle + 1)
            yield key, namespace, data[at:middle], data[middle:end]
            at = end

    return split


def _list_splitter(value: ListOf) -> _Split:
    skip = codec(value.element).skip

    def split(key: bytes, namespace: bytes, data: bytes) -> Iterator[Row]:
        elements, at = [], 4
        for _ in range(int.from_bytes(data[:4], "big")):
            end = skip(data, at)
            elements.append(data[at:end])
            at = end
        if elements:
            yield key, namespace, b"", _COMMA.join(elements)

    return split
