"""Tables of RocksDB: as RocksDB writes them, and as nobody should."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from formats.errors import BombError, CorruptError, EoctlError, UnsupportedError
from formats.rocksdb_merge import merge_tables
from formats.rocksdb_sst import DELETE, MERGE, PUT, SINGLE_DELETE, Entry, RangeTombstone, Table, read_table
from tests.support.tables import MAGIC, block, table

GOLDEN = Path(__file__).parents[1] / "golden" / "rocksdb-tables" / "tables.tar.xz"
COMPRESSIONS = ["none", "snappy", "lz4", "lz4hc", "zstd", "zlib"]


def merged(*tables: bytes, joined_by: bytes | None = b",", start: bytes | None = None, stop: bytes | None = None):
    read = [Table(data) for data in tables]
    batches = merge_tables(read, joined_by=joined_by, start=start, stop=stop)
    return [
        (key, value)
        for batch in batches
        for key, value in zip(batch["key"].to_pylist(), batch["value"].to_pylist(), strict=True)
    ]


def golden(folder: str):
    """The tables of a database, and what it held."""
    with tarfile.open(GOLDEN) as archive:
        files = {
            each.name.removeprefix(f"{folder}/"): archive.extractfile(each).read()  # type: ignore[union-attr]  # a file
            for each in archive
            if each.name.startswith(f"{folder}/")
        }
    lines = files.pop("expected").decode().splitlines()
    return list(files.values()), [tuple(bytes.fromhex(part) for part in line.split(" ")) for line in lines]


def options(rocksdict, *, compression: str = "snappy", version: int = 5, checksum: str = "xxh3", parts: bool = False):
    chosen = rocksdict.Options(raw_mode=True)
    chosen.set_compression_type(getattr(rocksdict.DBCompressionType, compression)())
    chosen.set_disable_auto_compactions(True)
    blocks = rocksdict.BlockBasedOptions()
    blocks.set_format_version(version)
    blocks.set_checksum_type(getattr(rocksdict.ChecksumType, checksum)())
    if parts:
        blocks.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
        blocks.set_metadata_block_size(256)
    chosen.set_block_based_table_factory(blocks)
    return chosen


def filled(folder: Path, chosen, *, seed: int = 0, space: int = 3000, flushes: int = 1, ranges: bool = False):
    """What a database of puts and deletes holds, and its tables."""
    rocksdict = pytest.importorskip("rocksdict")
    rng = random.Random(seed)
    db = rocksdict.Rdict(str(folder), chosen)
    for _ in range(flushes):
        for _ in range(3000):
            key = b"k%06d" % rng.randrange(space) + b"x" * rng.randrange(3)
            if rng.random() < 0.2:
                db.delete(key)
            else:
                db[key] = rng.randbytes(rng.randrange(200))
        if ranges:
            db.delete_range(*sorted(b"k%06d" % rng.randrange(space) for _ in "ab"))
        db.flush()
    expected = list(db.items())
    db.close()
    return expected, [path.read_bytes() for path in sorted(folder.glob("*.sst"))]


@pytest.mark.rocksdb
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_tables_of_every_compression_are_read(tmp_path, compression) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    expected, files = filled(tmp_path, options(rocksdict, compression=compression))
    assert merged(*files) == expected
    found = Table(files[0])
    assert found.verify() == found.entries
    assert (found.format_version, found.column_family) == (5, "default")


@pytest.mark.rocksdb
@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("checksum", ["xxh3", "crc32c", "xxhash", "xxhash64", "no_checksum"])
@pytest.mark.parametrize("parts", [False, True])
def test_tables_of_every_version_checksum_and_index_are_read(tmp_path, version, checksum, parts) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    expected, files = filled(tmp_path, options(rocksdict, version=version, checksum=checksum, parts=parts))
    assert merged(*files) == expected
    assert Table(files[0]).format_version == version


@pytest.mark.rocksdb
@pytest.mark.parametrize("seed", range(6))
def test_the_newest_versions_in_several_tables_are_what_the_database_holds(tmp_path, seed) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    space = [300, 3000, 30_000][seed % 3]
    expected, files = filled(tmp_path, options(rocksdict), seed=seed, space=space, flushes=5, ranges=seed > 2)
    assert len(files) > 3
    assert merged(*files) == expected
    assert merged(*reversed(files)) == expected
    for start, stop in [(b"k0001", b"k0002"), (b"", b"k001"), (b"k002", b"l"), (b"z", b"zz"), (b"k000100", b"k000101")]:
        part = [(key, value) for key, value in expected if start <= key < stop]
        assert merged(*files, start=start, stop=stop) == part


@pytest.mark.parametrize("folder", ["plain", "parts", "zstd", "ingested"])
def test_what_an_iterator_of_flinks_rocksdb_gives_is_read_from_its_tables(folder) -> None:
    files, expected = golden(folder)
    kinds = {entry.kind for data in files for entry in read_table(Table(data))}
    assert kinds == {PUT, DELETE, MERGE, SINGLE_DELETE} or folder == "zstd"
    assert any(Table(data).range_tombstones for data in files) or folder == "zstd"
    assert merged(*files) == merged(*reversed(files)) == expected
    for data in files:
        assert Table(data).verify() == Table(data).entries


def test_a_table_whose_sequence_number_only_the_manifest_knows_is_refused() -> None:
    files, _ = golden("ingested-unnumbered")
    assert [Table(data).global_sequence for data in files if Table(data).is_ingested] == [0]
    with pytest.raises(UnsupportedError, match="ingested"):
        merged(*files)


@pytest.mark.rocksdb
@pytest.mark.parametrize("version", [5, 6])
def test_a_flipped_bit_anywhere_is_an_error_or_is_not_looked_at(tmp_path, version) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    expected, [data] = filled(tmp_path, options(rocksdict, version=version))
    rng, refused = random.Random(version), 0
    for _ in range(300):
        place = rng.randrange(len(data))
        damaged = data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
        try:
            Table(damaged).verify()
        except EoctlError:
            refused += 1
        else:
            assert merged(damaged) == expected
    assert refused > 250


@pytest.mark.rocksdb
def test_a_table_cut_anywhere_is_corrupt(tmp_path) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    _, [data] = filled(tmp_path, options(rocksdict))
    for size in [*range(60), *range(60, len(data), 997), len(data) - 1]:
        with pytest.raises(CorruptError):
            Table(data[:size])


def test_versions_of_a_key_are_given_newest_first() -> None:
    data = table([(b"a", 7, DELETE, b""), (b"a", 5, PUT, b"x")], [(b"b", 6, MERGE, b"y")])
    assert list(read_table(Table(data))) == [
        Entry(b"a", 7, DELETE, b""),
        Entry(b"a", 5, PUT, b"x"),
        Entry(b"b", 6, MERGE, b"y"),
    ]


def test_the_newest_sequence_wins_whatever_the_order_of_the_tables() -> None:
    old = table([(b"a", 3, PUT, b"old"), (b"b", 4, PUT, b"b")])
    new = table([(b"a", 9, PUT, b"new"), (b"b", 5, DELETE, b"")])
    assert merged(old, new) == merged(new, old) == [(b"a", b"new")]


def test_merge_operands_are_joined_onto_the_put_below_them() -> None:
    low = table([(b"a", 1, PUT, b"1"), (b"b", 2, PUT, b"gone")])
    middle = table([(b"a", 4, MERGE, b"2,3"), (b"b", 5, SINGLE_DELETE, b""), (b"c", 3, MERGE, b"x")])
    high = table([(b"a", 9, MERGE, b"4"), (b"b", 8, MERGE, b"y")])
    assert merged(low, middle, high) == [(b"a", b"1,2,3,4"), (b"b", b"y"), (b"c", b"x")]
    with pytest.raises(UnsupportedError, match="not a list"):
        merged(low, middle, high, joined_by=None)


def test_a_put_above_merge_operands_hides_them() -> None:
    assert merged(table([(b"a", 9, PUT, b"p"), (b"a", 4, MERGE, b"m")]), joined_by=None) == [(b"a", b"p")]


def test_many_operands_of_one_key_over_many_blocks_and_tables_are_one_list() -> None:
    tables = [table(*[[(b"k", 1000 * t + 100 - n, MERGE, b"%d" % (1000 * t + 100 - n))] for n in range(100)])
              for t in range(3)]  # fmt: skip
    numbers = [b"%d" % (1000 * t + n) for t in range(3) for n in range(1, 101)]
    assert merged(*tables) == [(b"k", b",".join(numbers))]


def test_range_tombstones_delete_what_is_older_and_in_their_range() -> None:
    low = table([(key, sequence, PUT, key) for sequence, key in enumerate([b"a", b"b", b"c", b"d"], start=1)])
    high = table([(b"b", 9, PUT, b"again")], range_tombstones=[(b"a", b"c", 8), (b"b", b"d", 2)])
    assert Table(high).range_tombstones == (RangeTombstone(b"a", b"c", 8), RangeTombstone(b"b", b"d", 2))
    assert merged(low, high) == [(b"b", b"again"), (b"c", b"c"), (b"d", b"d")]


def test_a_range_tombstone_cuts_a_chain_of_operands() -> None:
    low = table([(b"a", 1, PUT, b"1")], range_tombstones=[(b"a", b"b", 3)])
    assert merged(low, table([(b"a", 5, MERGE, b"3"), (b"a", 2, MERGE, b"2")])) == [(b"a", b"3")]


def test_an_ingested_table_has_the_sequence_that_it_was_given() -> None:
    given = {"rocksdb.external_sst_file.version": b"\2\0\0\0"}
    numbered = table([(b"a", 0, PUT, b"new")], properties=given | {
        "rocksdb.external_sst_file.global_seqno": (9).to_bytes(8, "little")})  # fmt: skip
    old = table([(b"a", 3, PUT, b"old"), (b"b", 4, PUT, b"b")])
    assert merged(old, numbered) == [(b"a", b"new"), (b"b", b"b")]
    unnumbered = table([(b"a", 0, PUT, b"?"), (b"c", 0, PUT, b"c")], properties=given)
    assert merged(unnumbered) == [(b"a", b"?"), (b"c", b"c")]
    with pytest.raises(UnsupportedError, match="ingested"):
        merged(old, unnumbered)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (table([(b"a", 1, PUT, b"")], properties={"rocksdb.comparator": b"mine"}), "'mine'"),
        (table([(b"a", 1, PUT, b"")], version=9), "format version 9"),
        (table([(b"a", 1, PUT, b"")], magic=0x8242229663BF9564), "plain table"),
        (table([(b"a", 1, PUT, b"")], magic=0xDB4775248B80FB57), "version 0"),
        (table([(b"a", 1, PUT, b"")], properties={"rocksdb.block.based.table.index.type": b"\3\0\0\0"}), "type 3"),
        (table([(b"a", 1, 22, b"")]), "type 22"),
    ],
)
def test_what_is_not_known_is_refused_by_name(data, reason) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        merged(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 100,
        table([(b"a", 1, PUT, b"")], magic=MAGIC ^ 1),
        table([(b"b", 1, PUT, b""), (b"a", 1, PUT, b"")]),
        table([(b"b", 1, PUT, b"")], [(b"a", 1, PUT, b"")]),
        table([(b"a", 1, PUT, b"")], range_tombstones=[(b"a", b"b", 1)])[::-1],
    ],
)
def test_what_is_no_table_in_order_is_corrupt(data) -> None:
    with pytest.raises(CorruptError):
        merged(data)


def test_a_block_that_declares_more_than_it_can_hold_is_a_bomb() -> None:
    data = bytearray(table([(b"aaaaaaaaaaaaaaaaa", 1, PUT, b"")]))
    size = len(block([(bytes(25), b"")]))
    data[:4] = b"\xff\xff\xff\x3f"
    data[size] = 1
    with pytest.raises(BombError, match="declare"):
        merged(bytes(data))


def test_a_table_is_read_from_a_file_in_parts() -> None:
    class Counting(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(size)

    blocks = [[(b"%08d" % n, 1, PUT, bytes(1000))] for n in range(2000)]
    file = Counting(table(*blocks))
    assert sum(len(chunk.keys) for chunk in Table(file).chunks()) == 2000
    assert file.most < 600_000
