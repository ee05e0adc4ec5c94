"""Keyed state in its forms, made and taken apart; that of real jobs is in test_engines_flink_states.py."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.binary import Buffer, Cursor
from formats.datatype import DataType, ListOf, MapOf, Opaque, Simple, TimerOf
from formats.errors import CorruptError, EoctlError, InvalidInputError, UnsupportedError
from formats.flink.canonical import read_canonical, write_canonical
from formats.flink.changelog import ChangelogSource
from formats.flink.handles import (
    Change,
    ChangeFiles,
    Changelog,
    ChangeSet,
    Incremental,
    Inline,
    InlineChanges,
    KeyGroups,
    NamedFile,
    SavepointKeyGroups,
)
from formats.flink.key_layout import KeyLayout, join_keys, layout_of, prefix_of, split_keys
from formats.flink.keyed import CanonicalSource, HeapSource, RocksdbSource, keyed_tables, to_canonical
from formats.flink.keyed_header import KEYED_VALUES, NEWER, TIMERS, Header, StateMeta, write_keyed_header
from formats.flink.snappy_frames import frame, unframe
from formats.keygroups import KeyGroupRange
from formats.rocksdb_sst import MERGE, PUT
from formats.state import row_schema
from formats.types import encode, parse
from tests.support.tables import table

STRING, LONG = Simple("string"), Simple("long")
Rows = list[tuple[int, bytes, bytes, bytes, bytes]]


def state(name: str, kind: str, value: DataType, namespace: DataType = Simple("void")) -> StateMeta:  # noqa: B008
    serializers = {"NAMESPACE_SERIALIZER": namespace, "VALUE_SERIALIZER": value}
    return StateMeta(name, KEYED_VALUES, {"KEYED_STATE_TYPE": kind}, serializers)


def timers(name: str = "timers") -> StateMeta:
    return StateMeta(name, TIMERS, {}, {"VALUE_SERIALIZER": TimerOf(STRING, Simple("void"))})


TOTAL, ITEMS, RECENT = (
    state("total", "VALUE", LONG),
    state("items", "MAP", MapOf(STRING, LONG)),
    state("recent", "LIST", ListOf(STRING)),
)
HEADER = Header(compressed=False, key=STRING, states=(TOTAL, ITEMS, RECENT, timers()))


def head(header: Header = HEADER) -> bytes:
    buffer = Buffer()
    write_keyed_header(buffer, header)
    return bytes(buffer.data)


def opened(handle) -> io.BytesIO:
    return io.BytesIO(handle.data)


def text(value: str) -> bytes:
    return encode(STRING, value)


def long(value: int) -> bytes:
    return encode(LONG, value)


def rows(batches: Iterator[pa.RecordBatch]) -> Rows:
    return [tuple(row.values()) for batch in batches for row in batch.to_pylist()]


def batch(rows: Rows) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch(
        [pa.array(c, f.type) for c, f in zip(columns, row_schema(), strict=True)], schema=row_schema()
    )


def heap(groups: list[dict[str, list[bytes]]], header: Header = HEADER) -> KeyGroups:
    """A heap snapshot of these entries of each key group, by state."""
    data, offsets = bytearray(head(header)), []
    for number, entries in enumerate(groups):
        offsets.append(len(data))
        data += struct.pack(">i", number)
        for place, each in enumerate(header.states):
            found = entries.get(each.name, [])
            part = struct.pack(">Hi", place, len(found)) + b"".join(found)
            data += frame(part) if header.compressed else part
    return KeyGroups(0, tuple(offsets), Inline("x", bytes(data)), "id")


# layouts of keys

_layouts = [
    KeyLayout(1, STRING, Simple("void")),
    KeyLayout(2, LONG, Simple("time-window")),
    KeyLayout(2, STRING, Simple("time-window"), is_map=True),
    KeyLayout(1, LONG, Simple("void"), is_map=True),
    KeyLayout(1, STRING, STRING),
    KeyLayout(2, STRING, parse("list<string>"), is_map=True),
    KeyLayout(1, LONG, STRING, is_map=True),
    KeyLayout(2, STRING, Simple("void"), is_timer=True),
    KeyLayout(1, STRING, STRING, is_timer=True),
]
_texts = st.none() | st.text(max_size=200)
_values: dict[str, st.SearchStrategy[object]] = {
    "string": _texts,
    "long": st.integers(-(1 << 63), (1 << 63) - 1),
    "void": st.none(),
    "time-window": st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40)),
}


def _encoded(data_type: DataType) -> st.SearchStrategy[bytes]:
    if isinstance(data_type, Simple):
        return _values[data_type.name].map(lambda value: encode(data_type, value))
    return st.lists(_texts, max_size=3).map(lambda value: encode(data_type, value))


@pytest.mark.parametrize("layout", _layouts)
def test_keys_are_taken_apart_as_they_were_put_together(layout) -> None:
    rest = st.binary(min_size=8, max_size=8) if layout.is_timer else st.binary(max_size=9 * layout.is_map)
    groups = st.integers(0, 127 if layout.prefix_bytes == 1 else 32_767)
    row = st.tuples(groups, _encoded(layout.key), _encoded(layout.namespace), rest, st.binary(max_size=3))

    @settings(max_examples=60)
    @given(st.lists(row, min_size=1, max_size=20))
    def survive(some) -> None:
        made = batch(some)
        pairs = pa.record_batch([pa.array(join_keys(made, layout), pa.binary()), made["value"]], ["key", "value"])
        assert split_keys(pairs, layout, "x").equals(made)
        assert split_keys(pairs.slice(1), layout, "x").equals(made.slice(1))

    survive()


def test_a_part_of_a_key_that_is_not_as_long_as_it_says_is_corrupt() -> None:
    layout = KeyLayout(1, STRING, STRING)
    [key] = join_keys(batch([(1, text("a"), text("b"), b"", b"")]), layout)
    assert key == b"\1" + text("a") + b"\2" + text("b") + b"\2"
    for damaged in (key[:-1], key[:-1] + b"\3", key[:2]):
        pairs = pa.record_batch([pa.array([damaged], pa.binary()), pa.array([b""], pa.binary())], ["key", "value"])
        with pytest.raises(CorruptError):
            split_keys(pairs, layout, "x")


def test_keys_of_an_unknown_type_stay_whole_only_where_they_must() -> None:
    opaque = Opaque("com.example.Key")
    assert not KeyLayout(1, opaque, Simple("void")).is_whole
    assert KeyLayout(1, opaque, Simple("void"), is_map=True).is_whole
    assert KeyLayout(1, opaque, opaque).is_whole
    pairs = pa.record_batch([pa.array([b"\5xyz\0"], pa.binary()), pa.array([b"v"], pa.binary())], ["key", "value"])
    assert rows(iter([split_keys(pairs, KeyLayout(1, opaque, Simple("void")), "x")])) == [(5, b"xyz", b"\0", b"", b"v")]
    whole = KeyLayout(1, opaque, opaque)
    assert rows(iter([split_keys(pairs, whole, "x")])) == [(5, b"xyz\0", b"", b"", b"v")]
    assert join_keys(split_keys(pairs, whole, "x"), whole) == [b"\5xyz\0"]


def test_the_key_group_has_one_byte_up_to_128_of_them() -> None:
    assert layout_of(TOTAL, STRING, 128).prefix_bytes == 1
    assert layout_of(TOTAL, STRING, 129).prefix_bytes == 2
    assert (prefix_of(127, 1), prefix_of(255, 1), prefix_of(256, 1), prefix_of(32_768, 2)) == (
        b"\x7f", b"\xff", None, b"\x80\0")  # fmt: skip


# heap snapshots


def entry(key: str, value: bytes) -> bytes:
    return b"\0" + text(key) + value


TIMER = bytes([0x80, *range(7)]) + text("k") + b"\0"
ENTRIES = {
    "total": [entry("b", long(2)), entry("a", long(1))],
    "items": [entry("k", b"\0\0\0\2" + text("y") + b"\1" + text("x") + b"\0" + long(5))],
    "recent": [entry("k", b"\0\0\0\2" + text("1") + text("2")), entry("none", b"\0\0\0\0")],
    "timers": [TIMER],
}
EXPECTED = {
    "total": [(1, text("a"), b"\0", b"", long(1)), (1, text("b"), b"\0", b"", long(2))],
    "items": [(1, text("k"), b"\0", text("x"), b"\0" + long(5)), (1, text("k"), b"\0", text("y"), b"\1")],
    "recent": [(1, text("k"), b"\0", b"", text("1") + b"," + text("2"))],
    "timers": [(1, text("k"), b"\0", TIMER[:8], b"")],
}


@pytest.mark.parametrize("compressed", [False, True])
def test_a_heap_snapshot_is_rows(compressed) -> None:
    header = Header(compressed=compressed, key=STRING, states=HEADER.states)
    source = HeapSource(heap([{}, ENTRIES, {}], header), opened, 128, "x")
    for name, expected in EXPECTED.items():
        assert rows(source.rows(name, KeyGroupRange(0, 3), None)) == expected
        assert rows(source.rows(name, KeyGroupRange(0, 1), None)) == []
        assert rows(source.rows(name, KeyGroupRange(0, 3), text("k"))) == [
            row for row in expected if row[1] == text("k")
        ]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_heap_snapshot_becomes_a_canonical_savepoint_and_the_same_rows(compressed) -> None:
    header = Header(compressed=compressed, key=STRING, states=HEADER.states)
    source = HeapSource(heap([{}, ENTRIES, {}], header), opened, 128, "x")
    file = io.BytesIO()
    offsets = to_canonical(file, source)
    assert (offsets[0], offsets[2]) == (0, 0)
    again = CanonicalSource(SavepointKeyGroups(0, offsets, Inline("y", file.getvalue())), opened, 128, "y")
    assert again.header.compressed is False
    assert again.schemas() == source.schemas()
    for name, expected in EXPECTED.items():
        assert rows(again.rows(name, KeyGroupRange(0, 3), None)) == expected


def test_a_heap_snapshot_that_is_cut_says_where() -> None:
    handle = heap([{}, ENTRIES])
    assert isinstance(handle.stream, Inline)
    cut = KeyGroups(0, handle.offsets, Inline("x", handle.stream.data[:-1]), "id")
    with pytest.raises(CorruptError, match="x, key group 1: a value needs 1 bytes, 0 are left, at byte"):
        rows(HeapSource(cut, opened, 128, "x").rows("timers", KeyGroupRange(0, 2), None))


def test_a_state_of_an_unknown_type_hides_those_behind_it_in_a_heap_snapshot_only() -> None:
    kryo = state("money", "VALUE", Opaque("com.example.Money"))
    buffer = Buffer()
    write_keyed_header(buffer, Header(compressed=False, key=STRING, states=(TOTAL,)))
    source = HeapSource(
        heap([{"total": ENTRIES["total"]}], Header(compressed=False, key=STRING, states=(TOTAL,))), opened, 128, "x"
    )
    source.__dict__["header"] = Header(
        compressed=False, key=STRING, states=(TOTAL, kryo, RECENT), size=source.header.size
    )
    assert len(rows(source.rows("total", KeyGroupRange(0, 1), None))) == 2
    assert [schema.value for schema in source.schemas()] == ["long", "opaque<com.example.Money>", "joined<string>"]
    with pytest.raises(EoctlError):
        rows(source.rows("recent", KeyGroupRange(0, 1), None))


def test_a_state_of_the_newer_interface_is_listed_and_refused() -> None:
    newer = StateMeta("async", NEWER, {"KEYED_STATE_TYPE": "VALUE"}, {"VALUE_SERIALIZER": LONG})
    source = HeapSource(heap([{}], Header(compressed=False, key=STRING, states=(TOTAL, newer))), opened, 128, "x")
    assert "ForSt" in source.schemas()[1].properties["unreadable"]
    assert rows(source.rows("total", KeyGroupRange(0, 1), None)) == []
    with pytest.raises(UnsupportedError, match="ForSt"):
        rows(source.rows("async", KeyGroupRange(0, 1), None))


# canonical savepoints


def canonical(rows_of: dict[str, Rows], groups: KeyGroupRange, **options: bool) -> tuple[bytes, tuple[int, ...]]:
    file = io.BytesIO()
    states = [
        (layout_of(each, STRING, 300), iter([batch(rows_of[each.name])] if rows_of.get(each.name) else []))
        for each in HEADER.states
    ]
    offsets = write_canonical(
        file,
        head(Header(compressed=options.get("compressed", False), key=STRING, states=HEADER.states)),
        groups,
        states,
        **options,
    )
    return file.getvalue(), offsets


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("length", [10, 3_000_000])
def test_canonical_savepoints_survive(compressed, length) -> None:
    some: dict[str, Rows] = {
        "total": [(7, text("a"), b"\0", b"", long(1)), (7, text("b" * length), b"\0", b"", long(2)),
                  (280, text("c"), b"\0", b"", long(3))],
        "timers": [(280, text("c"), b"\0", bytes(8), b""), (280, text("d"), b"\0", bytes(7) + b"\1", b"")],
    }  # fmt: skip
    data, offsets = canonical(some, KeyGroupRange(0, 300), compressed=compressed)
    assert sum(offset > 0 for offset in offsets) == 2
    source = CanonicalSource(SavepointKeyGroups(0, offsets, Inline("x", data)), opened, 300, "x")
    for name in ("total", "items", "recent", "timers"):
        assert rows(source.rows(name, KeyGroupRange(0, 300), None)) == some.get(name, [])


def test_rows_outside_of_the_key_groups_are_refused() -> None:
    for group in (3, 9):
        with pytest.raises(InvalidInputError, match="out of order"):
            canonical({"total": [(group, text("a"), b"\0", b"", long(1))]}, KeyGroupRange(4, 9))


PAIR = struct.pack(">i", 2) + b"\x80k" + struct.pack(">i", 0)


@pytest.mark.parametrize(
    ("body", "place", "reason"),
    [
        (b"\0\0" + PAIR + b"\0\0" + PAIR + b"\xff\xff", 5, "twice"),
        (b"\0\0" + PAIR.replace(b"\x80", b"\x81") + b"\xff\xff", 0, "another key group"),
        (b"\0\0" + bytes(8), 0, "empty key"),
        (b"\0\0\xff\xff\xff\xff", 5, "length"),
        (b"\0\0\x7f\xff\xff\xff", 0, "needed"),
        (b"\0", 0, "needed"),
    ],
)
def test_a_canonical_key_group_that_makes_no_sense_is_corrupt(body, place, reason) -> None:
    handle = SavepointKeyGroups(0, (4,), Inline("x", b"head" + body))
    only = KeyGroupRange(0, 1)
    with pytest.raises(CorruptError, match=reason):
        list(read_canonical(opened(handle.stream), handle, place, only, "x", prefix_bytes=1, compressed=False))


# RocksDB


def sst(family: str, *entries: tuple[bytes, int, int, bytes]) -> NamedFile:
    data = table(sorted(entries), properties={"rocksdb.column.family.name": family.encode()})
    return NamedFile(f"{family}.sst", Inline(family, data))


def incremental(*files: NamedFile, header: bytes | None = None, start: int = 0, stop: int = 128) -> Incremental:
    return Incremental(1, "b", start, stop, Inline("m", head() if header is None else header), files, ())


def test_tables_of_rocksdb_are_rows() -> None:
    handle = incremental(
        sst("total", (b"\1" + text("a") + b"\0", 5, PUT, long(1)), (b"\x40" + text("b") + b"\0", 6, PUT, long(2))),
        sst("recent", (b"\1" + text("a") + b"\0", 7, MERGE, text("x"))),
        sst("items", (b"\1" + text("a") + b"\0" + text("i"), 7, PUT, b"\0" + long(4))),
        sst("timers", (b"\1" + TIMER, 8, PUT, b"")),
    )
    source = RocksdbSource(handle, opened, 128, "x")
    everything = KeyGroupRange(0, 128)
    assert rows(source.rows("total", everything, None)) == [
        (1, text("a"), b"\0", b"", long(1)), (64, text("b"), b"\0", b"", long(2))]  # fmt: skip
    assert rows(source.rows("total", KeyGroupRange(0, 64), None)) == [(1, text("a"), b"\0", b"", long(1))]
    assert rows(source.rows("total", everything, text("b"))) == [(64, text("b"), b"\0", b"", long(2))]
    assert rows(source.rows("recent", everything, None)) == [(1, text("a"), b"\0", b"", text("x"))]
    assert rows(source.rows("items", everything, None)) == [(1, text("a"), b"\0", text("i"), b"\0" + long(4))]
    assert rows(source.rows("timers", everything, None)) == [(1, text("k"), b"\0", TIMER[:8], b"")]


def test_more_tables_than_may_be_open_are_read_a_few_at_a_time() -> None:
    count, most, now = 200, 0, 0

    class Counted(io.BytesIO):
        def close(self) -> None:
            nonlocal now
            now -= not self.closed
            super().close()

    def opened_counting(handle) -> io.BytesIO:
        nonlocal most, now
        now += 1
        most = max(most, now)
        return Counted(handle.data)

    entries = [sst("total", (b"\1" + text(f"k{n % 50:03}") + b"\0", n + 1, PUT, long(n))) for n in range(count)]
    source = RocksdbSource(incremental(*entries), opened_counting, 128, "x")
    found = rows(source.rows("total", KeyGroupRange(0, 128), None))
    assert [value for *_, value in found] == [long(n) for n in range(150, 200)]
    assert (now, most) == (0, 64)


def test_merge_operands_outside_of_a_list_are_refused() -> None:
    source = RocksdbSource(incremental(sst("total", (b"\1" + text("a") + b"\0", 5, MERGE, long(1)))), opened, 128, "x")
    with pytest.raises(UnsupportedError, match="not a list"):
        rows(source.rows("total", KeyGroupRange(0, 128), None))


def test_column_families_behind_an_unknown_serializer_are_offered_raw() -> None:
    data = head(Header(compressed=False, key=STRING, states=(TOTAL, ITEMS)))
    unknown = data.replace(b"org.apache.flink.api.common.typeutils.base.MapSerializerSnapshot", b"c" * 64)
    handle = incremental(sst("items", (b"\1abc", 5, PUT, b"v")), header=unknown)
    source = RocksdbSource(handle, opened, 128, "x")
    assert source.header.stopped_at == "c" * 64
    assert [schema.name for schema in source.schemas()] == ["total", "items"]
    assert rows(source.rows("items", KeyGroupRange(0, 128), None)) == [(1, b"abc", b"", b"", b"v")]
    with pytest.raises(UnsupportedError, match="cccc"):
        to_canonical(io.BytesIO(), source)


LONG_SNAPSHOT = b"org.apache.flink.api.common.typeutils.base.LongSerializer$LongSerializerSnapshot"


def test_an_unknown_serializer_without_content_hides_nothing() -> None:
    data = head(Header(compressed=False, key=STRING, states=(TOTAL, RECENT)))
    unknown = data.replace(LONG_SNAPSHOT, b"c" * len(LONG_SNAPSHOT))
    entries = (b"\1" + text("a") + b"\0", 5, PUT, b"?!"), (b"\1" + text("b") + b"\0", 6, PUT, text("x"))
    handle = incremental(sst("total", entries[0]), sst("recent", entries[1]), header=unknown)
    rocksdb = RocksdbSource(handle, opened, 128, "x")
    assert [schema.value for schema in rocksdb.schemas()] == [f"opaque<{'c' * len(LONG_SNAPSHOT)}>", "joined<string>"]
    file = io.BytesIO()
    offsets = to_canonical(file, rocksdb)
    canonical = CanonicalSource(SavepointKeyGroups(0, offsets, Inline("y", file.getvalue())), opened, 128, "y")
    assert canonical.schemas() == rocksdb.schemas()
    assert file.getvalue().startswith(unknown)
    for source in (rocksdb, canonical):
        assert rows(source.rows("total", KeyGroupRange(0, 128), None)) == [(1, text("a"), b"\0", b"", b"?!")]
        assert rows(source.rows("recent", KeyGroupRange(0, 128), None)) == [(1, text("b"), b"\0", b"", text("x"))]


def test_an_unknown_serializer_with_content_at_the_end_is_not_taken_for_one_without() -> None:
    data = head(Header(compressed=False, key=STRING, states=(TOTAL,)))
    unknown = data.replace(LONG_SNAPSHOT, b"c" * len(LONG_SNAPSHOT))
    assert data.endswith(LONG_SNAPSHOT + b"\0\0\0\3")
    source = RocksdbSource(incremental(header=unknown + b"content"), opened, 128, "x")
    assert source.header.stopped_at == "c" * len(LONG_SNAPSHOT)


def test_states_of_two_types_are_refused() -> None:
    other = head(Header(compressed=False, key=STRING, states=(state("total", "VALUE", STRING),)))
    sources = [RocksdbSource(incremental(start=0, stop=64), opened, 128, "x"),
               RocksdbSource(incremental(start=64, header=other), opened, 128, "y")]  # fmt: skip
    with pytest.raises(CorruptError, match="another type"):
        keyed_tables(list(sources))


# changelogs


def about(number: int, meta: StateMeta) -> Change:
    buffer = Buffer()
    write_keyed_header(buffer, Header(compressed=False, key=STRING, states=(meta,)))
    cursor = Cursor(bytes(buffer.data))
    start = bytes(buffer.data).index(b"\0\1" + struct.pack(">H", len(meta.name)) + meta.name.encode()) + 2
    assert cursor.left > start
    tail = b"\0\0" if meta.type == KEYED_VALUES else b""
    return Change(
        -1, b"\x08" + struct.pack(">i", 7) + bytes(buffer.data[start:]) + tail + struct.pack(">hb", number, meta.type)
    )


def change(group: int, operation: int, number: int, *parts: bytes) -> Change:
    return Change(group, struct.pack(">bh", operation, number) + b"".join(parts))


def changelog(*changes: Change, base: KeyGroups | None = None, compressed: bool | None = None) -> ChangelogSource:
    """Changes inline, or (compressed or not) in a file behind something else."""
    handle: InlineChanges | ChangeFiles = InlineChanges(0, 128, 0, 9, changes, "id")
    if compressed is not None:
        sets = struct.pack(">i", len(changes)) + b"".join(
            struct.pack(">iii", 1, each.key_group, len(each.data)) + each.data for each in changes
        )
        body = b"before" + sets
        data = b"\1" + frame(body) if compressed else b"\0" + body
        handle = ChangeFiles(0, 128, (ChangeSet(6, Inline("c", data)),), len(data), 0, "id")
    return ChangelogSource(Changelog(0, 128, 0, (base,), (handle,), 1, 1, "id"), opened, 128, "x")


A, WINDOW_A = text("a") + b"\0", text("a")
LOGS = [
    (TOTAL, [(1, A + long(5)), (1, A + long(6))], [(1, text("a"), b"\0", b"", long(6))]),
    (TOTAL, [(1, A + long(5)), (0, A)], []),
    (ITEMS, [(6, A + text("x") + long(1)), (5, A + text("y") + long(2)), (7, A + text("x"))],
     [(1, text("a"), b"\0", text("y"), b"\0" + long(2))]),
    (ITEMS, [(3, A + b"\0\0\0\1" + text("z") + b"\1"), (6, A + text("y") + long(2))],
     [(1, text("a"), b"\0", text("y"), b"\0" + long(2)), (1, text("a"), b"\0", text("z"), b"\1")]),
    (ITEMS, [(6, A + text("x") + long(1)), (7, A + text("x"))], []),
    (ITEMS, [(6, A + text("x") + long(1)), (0, A)], []),
    (RECENT, [(5, A + text("1")), (5, A + text("2")), (3, A + b"\0\0\0\1" + text("3"))],
     [(1, text("a"), b"\0", b"", b",".join(map(text, "123")))]),
    (RECENT, [(5, A + text("1")), (1, A + b"\0\0\0\1" + text("2"))], [(1, text("a"), b"\0", b"", text("2"))]),
    (RECENT, [(5, A + text("1")), (2, A + b"\0\0\0\0")], []),
    (timers(), [(5, b"\0\0\0\2" + TIMER + TIMER.replace(text("k"), text("l"))), (7, TIMER)],
     [(1, text("l"), b"\0", TIMER[:8], b"")]),
]  # fmt: skip


@pytest.mark.parametrize("compressed", [None, False, True])
@pytest.mark.parametrize("place", range(len(LOGS)))
def test_changes_are_replayed(place, compressed) -> None:
    meta, changes, expected = LOGS[place]
    told = [about(3, meta), about(4, timers("more"))]
    source = changelog(*told, *(change(1, op, 3, data) for op, data in changes), compressed=compressed)
    assert rows(source.rows(meta.name, KeyGroupRange(0, 128), None)) == expected
    assert rows(source.rows(meta.name, KeyGroupRange(2, 128), None)) == []
    assert rows(source.rows("more", KeyGroupRange(0, 128), None)) == []


def test_changes_are_replayed_onto_what_was_materialised() -> None:
    base = heap([{}, ENTRIES, *([{}] * 126)])
    source = changelog(
        about(0, TOTAL),
        change(1, 1, 0, text("a") + b"\0" + long(9)),
        change(0, 1, 0, text("new") + b"\0" + long(3)),
        change(100, 1, 0, text("far") + b"\0" + long(4)),
        base=base,
    )
    everything = KeyGroupRange(0, 128)
    assert rows(source.rows("total", everything, None)) == [
        (0, text("new"), b"\0", b"", long(3)),
        (1, text("a"), b"\0", b"", long(9)),
        (1, text("b"), b"\0", b"", long(2)),
        (100, text("far"), b"\0", b"", long(4)),
    ]
    assert rows(source.rows("total", everything, text("b"))) == [(1, text("b"), b"\0", b"", long(2))]
    assert rows(source.rows("items", everything, None)) == EXPECTED["items"]
    file = io.BytesIO()
    offsets = to_canonical(file, source)
    again = CanonicalSource(SavepointKeyGroups(0, offsets, Inline("y", file.getvalue())), opened, 128, "y")
    assert rows(again.rows("total", everything, None)) == rows(source.rows("total", everything, None))
    assert rows(again.rows("timers", everything, None)) == EXPECTED["timers"]


def test_namespaces_are_merged_where_no_function_is_needed() -> None:
    windows = state("windows", "REDUCING", LONG, STRING)
    lists = state("lists", "LIST", ListOf(LONG), STRING)
    told = [about(0, windows), about(1, lists), about(2, timers("more"))]
    merge = text("t") + b"\0\0\0\2" + text("s") + text("u")
    moved = changelog(
        *told, change(1, 2, 0, text("a"), text("s"), long(5)), change(1, 4, 0, text("a"), text("t"), merge)
    )
    assert rows(moved.rows("windows", KeyGroupRange(0, 128), None)) == [(1, text("a"), text("t"), b"", long(5))]
    s, t = (text("a"), text("s")), (text("a"), text("t"))
    joined = changelog(*told, change(1, 5, 1, *s, long(5)), change(1, 5, 1, *t, long(6)), change(1, 4, 1, *t, merge))
    merged = long(6) + b"," + long(5)
    assert rows(joined.rows("lists", KeyGroupRange(0, 128), None)) == [(1, *t, b"", merged)]
    both = changelog(*told, change(1, 2, 0, *s, long(5)), change(1, 2, 0, *t, long(6)), change(1, 4, 0, *t, merge))
    with pytest.raises(UnsupportedError, match="own function"):
        rows(both.rows("windows", KeyGroupRange(0, 128), None))


def test_changes_without_a_type_of_key_are_refused_unless_another_subtask_knows_it() -> None:
    source = changelog(about(0, TOTAL), change(1, 1, 0, text("a") + b"\0" + long(5)))
    with pytest.raises(UnsupportedError, match="unknown type"):
        rows(source.rows("total", KeyGroupRange(0, 128), None))
    source.key_hint = STRING
    assert len(rows(source.rows("total", KeyGroupRange(0, 128), None))) == 1


@pytest.mark.parametrize("bad", [change(1, 1, 9, b""), change(1, 30, 0, b""), change(1, 6, 0, A + text("x")),
                                 change(1, 1, 0, A + b"\0"), Change(1, b""), Change(-1, b"\x08\0\0\0\7")])  # fmt: skip
def test_changes_that_make_no_sense_are_refused(bad) -> None:
    source = changelog(about(0, TOTAL), about(2, timers("more")), bad)
    with pytest.raises(EoctlError):
        rows(source.rows("total", KeyGroupRange(0, 128), None))


# Snappy's frames


@given(st.lists(st.binary(max_size=200_000), max_size=3).map(b"".join))
@settings(max_examples=30, deadline=None)
def test_frames_survive(data) -> None:
    assert unframe(Cursor(frame(data))) == data


def test_a_stream_ends_where_another_begins() -> None:
    cursor = Cursor(frame(b"one") + frame(b"two"))
    assert (unframe(cursor), unframe(cursor), unframe(cursor)) == (b"one", b"two", b"")


def test_frames_with_a_flipped_bit_or_cut_are_refused() -> None:
    data, rng = frame(bytes(1000) + b"end"), random.Random(1)
    for _ in range(200):
        place = rng.randrange(10, len(data))
        damaged = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        with suppress(EoctlError):
            assert unframe(Cursor(damaged)) in {b"", bytes(1000) + b"end"}
    for size in range(11, len(data)):
        with pytest.raises(EoctlError):
            unframe(Cursor(data[:size]))
