"""formats/sst.py: rows in, the same rows out, and the merge of several tables."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats import canonical, sst
from formats.errors import BadManifestError, CorruptError, EoctlError, UnsupportedError
from formats.keygroups import KeyGroupRange
from formats.sst import SortedTable, merge, merge_batches, write_table
from formats.state import BATCH_ROWS, COLUMNS, StateSchema, row_schema

Row = tuple[int, bytes, bytes, bytes, bytes | None]

SCHEMA = StateSchema(name="counts", kind="map", key="string", map_key="string", value="long")


def batch_of(rows: Iterable[Row]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, row_schema(), strict=True)]
    return pa.record_batch(arrays, schema=row_schema())


def rows_of(batches: Iterable[pa.RecordBatch]) -> list[Row]:
    return [tuple(row[name] for name in COLUMNS) for batch in batches for row in batch.to_pylist()]


def cut(rows: list[Row], sizes: Iterable[int]) -> Iterator[pa.RecordBatch]:
    at = 0
    for size in sizes:
        yield batch_of(rows[at : at + size])
        at += size
    yield batch_of(rows[at:])


def table_of(rows: list[Row], sequence: int = 0, sizes: Iterable[int] = ()) -> SortedTable:
    file = io.BytesIO()
    write_table(file, SCHEMA, cut(rows, sizes), sequence=sequence)
    return SortedTable(file)


_bytes = st.binary(max_size=3)
_keys = st.tuples(st.integers(0, 5), _bytes, _bytes, _bytes)
_contents = st.dictionaries(_keys, st.none() | st.binary(max_size=4), max_size=40)


def sorted_rows(content: dict[tuple[int, bytes, bytes, bytes], bytes | None]) -> list[Row]:
    return [(*key, value) for key, value in sorted(content.items())]


@given(_contents, st.lists(st.integers(0, 9), max_size=6))
def test_what_is_written_is_read_however_it_was_cut(content, sizes):
    rows = sorted_rows(content)
    one, other = io.BytesIO(), io.BytesIO()
    stats = write_table(one, SCHEMA, cut(rows, sizes))
    write_table(other, SCHEMA, cut(rows, ()))
    assert one.getvalue() == other.getvalue()
    assert rows_of(SortedTable(one).scan()) == rows
    assert (stats.rows, stats.tombstones) == (len(rows), sum(row[4] is None for row in rows))
    assert SortedTable(one).schema == SCHEMA


@given(st.lists(_contents, min_size=1, max_size=5), st.booleans(), st.integers(1, 4))
def test_a_merge_is_a_dictionary_updated_from_old_to_new(contents, keep, size):
    sources = [cut(sorted_rows(content), [size] * 50) for content in reversed(contents)]
    wanted: dict[tuple[int, bytes, bytes, bytes], bytes | None] = {}
    for content in contents:
        wanted |= content
    if not keep:
        wanted = {key: value for key, value in wanted.items() if value is not None}
    assert rows_of(merge_batches(sources, keep_tombstones=keep)) == sorted_rows(wanted)


@given(_contents, st.integers(0, 5), st.integers(1, 5), st.none() | _bytes)
def test_a_scan_gives_the_key_groups_and_the_key_asked_for(content, start, count, key):
    wanted = [row for row in sorted_rows(content) if start <= row[0] < start + count and (key is None or row[1] == key)]
    assert rows_of(table_of(sorted_rows(content)).scan(KeyGroupRange(start, start + count), key)) == wanted


def test_row_groups_end_where_the_rows_say_and_others_are_not_read():
    rows: list[Row] = [(group, n.to_bytes(4, "big"), b"", b"", b"x") for group in range(4) for n in range(40_000)]
    table = table_of(rows)
    assert [group.rows for group in table.head.groups] == [BATCH_ROWS, BATCH_ROWS, 160_000 - 2 * BATCH_ROWS]
    assert [group.may_hold(KeyGroupRange(3, 4), None) for group in table.head.groups] == [False, True, True]
    assert sum(len(batch) for batch in table.scan(KeyGroupRange(3, 4))) == 40_000
    large = table_of([(0, bytes([n]), b"", b"", bytes(3 << 20)) for n in range(7)])
    assert [group.rows for group in large.head.groups] == [3, 3, 1]
    assert [group.may_hold(None, b"\4") for group in large.head.groups] == [False, True, False]


def test_a_merge_of_many_rows_is_the_merge_of_a_dictionary():
    rng = random.Random(5)
    contents = [
        {
            (n % 7, n.to_bytes(3, "big"), b"", b""): rng.choice([None, b"%d" % level])
            for n in rng.sample(range(90_000), k)
        }
        for level, k in enumerate((80_000, 30_000, 20, 70_000))
    ]
    wanted: dict[tuple[int, bytes, bytes, bytes], bytes | None] = {}
    for content in contents:
        wanted |= content
    tables = [table_of(sorted_rows(content), level) for level, content in enumerate(contents)]
    found = list(merge(tables[::-1], keep_tombstones=False))
    assert rows_of(found) == sorted_rows({key: value for key, value in wanted.items() if value is not None})
    assert max(map(len, found)) <= BATCH_ROWS


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([(0, b"a", b"", b"", b"1"), (0, b"a", b"", b"", b"2")], "a key twice: key group 0, key 61"),
        ([(0, b"b", b"", b"", b"1"), (0, b"a", b"", b"", b"2")], "not in order: key group 0, key 61"),
        ([(1, b"a", b"", b"", b"1"), (0, b"b", b"", b"", b"2")], "not in order: key group 0, key 62"),
    ],
)
@pytest.mark.parametrize("size", [1, 2])
def test_rows_out_of_order_are_not_written(rows, reason, size):
    with pytest.raises(BadManifestError, match=reason):
        write_table(io.BytesIO(), SCHEMA, cut(rows, [size]))


def test_rows_out_of_order_are_not_read(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sst, "in_order", lambda batches, _what: batches)
    write_table(file, SCHEMA, [batch_of([(0, b"b", b"", b"", b"1"), (0, b"a", b"", b"", b"2")])])
    monkeypatch.undo()
    with pytest.raises(BadManifestError, match="not in order"):
        list(SortedTable(file).scan())


def test_sources_that_shall_have_no_key_in_common_are_refused_where_they_have():
    rows: list[Row] = [(0, b"a", b"", b"", b"1")]
    with pytest.raises(BadManifestError, match="'a' and 'b' have a key in common: key group 0, key 61"):
        list(merge_batches([cut(rows, []), cut(rows, [])], keep_tombstones=False, distinct="'a' and 'b'"))


@pytest.mark.slow
def test_every_cut_and_every_changed_byte_of_a_table_is_refused_or_reads_as_rows():
    file = io.BytesIO()
    write_table(file, SCHEMA, [batch_of([(1, b"key", b"", b"m", b"value"), (2, b"key", b"", b"m", None)])])
    data = file.getvalue()
    for length in range(0, len(data), 7):
        with pytest.raises(EoctlError):
            list(SortedTable(io.BytesIO(data[:length])).scan())
    rows = rows_of(SortedTable(file).scan())
    endings = [in_a_process_of_its_own(data, at, rows) for at in range(len(data))]
    assert set(endings) <= {SAME, OTHER, REFUSED}  # no bug, no abort inside Parquet's C++
    assert endings.count(OTHER) < 20  # a length in a page's header; the store's digests are for these
    assert endings.count(REFUSED) > len(data) // 2


SAME, OTHER, REFUSED, BUG = range(4)


def in_a_process_of_its_own(data: bytes, at: int, rows: list[Row]) -> int:
    """How the table reads whose byte `at` is another."""
    child = os.fork()
    if child == 0:
        ending = BUG
        try:
            changed = bytearray(data)
            changed[at] ^= 0x55
            ending = SAME if rows_of(SortedTable(io.BytesIO(bytes(changed))).scan()) == rows else OTHER
        except EoctlError:
            ending = REFUSED
        finally:
            os._exit(ending)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_other_parquet_is_told_from_damage():
    other = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), other)
    with pytest.raises(BadManifestError, match="no table of state"):
        SortedTable(other)
    with pytest.raises(CorruptError, match="damaged"):
        SortedTable(io.BytesIO(b"PAR1 and no more"))
    newer = io.BytesIO()
    with pq.ParquetWriter(newer, row_schema(), store_schema=False) as writer:
        writer.add_key_value_metadata({sst.METADATA_KEY: b'{"format":"eoctl.table","version":2}'})
    with pytest.raises(UnsupportedError, match="version 2"):
        SortedTable(newer)
    columns = io.BytesIO()
    with pq.ParquetWriter(columns, pa.schema([("key_group", pa.uint16())]), store_schema=False) as writer:
        writer.add_key_value_metadata({sst.METADATA_KEY: head_that_counts()})
    with pytest.raises(BadManifestError, match="other columns"):
        SortedTable(columns)


@pytest.mark.parametrize("count", [1, 3])
def test_a_head_that_counts_other_rows_is_refused(count):
    file = io.BytesIO()
    rows: list[Row] = [(0, n.to_bytes(4, "big"), b"", b"", b"") for n in range(2)]
    with pq.ParquetWriter(file, row_schema(), store_schema=False) as writer:
        writer.add_key_value_metadata({sst.METADATA_KEY: head_that_counts(count)})
        writer.write_batch(batch_of(rows))
    with pytest.raises(BadManifestError, match="row group"):
        SortedTable(file)


def head_that_counts(*rows: int) -> bytes:
    groups = tuple(sst.RowGroup(rows=count, key_groups=(0, 0), keys=(b"", b"")) for count in rows)
    return canonical.encode(sst.TableHead(format="eoctl.table", version=1, schema=SCHEMA, groups=groups))


@pytest.mark.parametrize("key_groups", [(3, 1), (0, 1 << 15)])
def test_a_head_of_impossible_key_groups_is_refused(key_groups: tuple[int, int]) -> None:
    file = io.BytesIO()
    group = sst.RowGroup(rows=1, key_groups=key_groups, keys=(b"", b""))
    head = sst.TableHead(format="eoctl.table", version=1, schema=SCHEMA, groups=(group,))
    with pq.ParquetWriter(file, row_schema(), store_schema=False) as writer:
        writer.add_key_value_metadata({sst.METADATA_KEY: canonical.encode(head)})
        writer.write_batch(batch_of([(0, b"k", b"", b"", b"")]))
    with pytest.raises(BadManifestError, match="key groups out of order"):
        SortedTable(file)
