"""Block tables: every field of the format, and everything in them that is refused."""

from __future__ import annotations

import struct
import zlib

import pytest

from formats.blocktable import MAX_TABLE_BYTES, Block, decode_table, encode_table
from formats.errors import BadManifestError, UnsupportedError
from formats.ids import MAX_INTEGER, BlobKey, Digest, Era
from formats.manifest import BLOCK_BYTES, TABLE_BLOCKS

PACK = BlobKey(Digest("a1" * 32), Era(7))


def block(number: int = 0, length: int = 100, *, compressed: bool = False, pack: BlobKey = PACK) -> Block:
    return Block(number.to_bytes(32, "big"), pack, 8 + number, length, compressed)


def table(
    *,
    magic: bytes = b"EOBT",
    version: int = 1,
    padding: bytes = b"\0\0\0",
    packs: list[tuple[bytes, int]] | None = None,
    blocks: list[tuple[bytes, int, int, int]] | None = None,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A table whose checksum fits, whatever else does not."""
    packs = [(bytes(32), 1)] if packs is None else packs
    blocks = [(bytes(32), 0, 8, 100)] if blocks is None else blocks
    data = struct.pack(">4sB3sII", magic, version, padding, *(counts or (len(packs), len(blocks))))
    data += b"".join(struct.pack(">32sQ", *pack) for pack in packs)
    data += b"".join(struct.pack(">32sIII", *row) for row in blocks)
    return data + struct.pack(">I", zlib.crc32(data))


def test_the_helper_makes_what_the_format_says() -> None:
    assert decode_table(table()) == [Block(bytes(32), BlobKey(Digest("00" * 32), Era(1)), 8, 100, compressed=False)]


def test_packs_are_numbered_in_order_of_first_use() -> None:
    other = BlobKey(Digest("b2" * 32), Era(3))
    blocks = [block(1, pack=other), block(2), block(3, pack=other)]
    data = encode_table(blocks)
    assert data[16:56] == bytes.fromhex("b2" * 32) + (3).to_bytes(8, "big")
    assert decode_table(data) == blocks


@pytest.mark.parametrize("count", [0, 1, TABLE_BLOCKS])
def test_a_table_may_be_empty_or_full(count) -> None:
    blocks = [block(number) for number in range(count)]
    assert decode_table(encode_table(blocks)) == blocks


def test_a_full_table_of_as_many_packs_is_the_largest() -> None:
    blocks = [block(n, pack=BlobKey(Digest(f"{n:064x}"), Era(n))) for n in range(TABLE_BLOCKS)]
    data = encode_table(blocks)
    assert len(data) == MAX_TABLE_BYTES
    assert decode_table(data) == blocks


@pytest.mark.parametrize(("length", "compressed"), [(BLOCK_BYTES, False), (2 * BLOCK_BYTES, True), (0, False)])
def test_a_slice_may_be_as_long_as_this(length, compressed) -> None:
    blocks = [block(1, length, compressed=compressed)]
    assert decode_table(encode_table(blocks)) == blocks


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"", 0),
        (table()[:19], 0),
        (table(magic=b"EOBX"), 0),
        (table(padding=b"\0\0\1"), 4),
        (table(counts=(1, 2)), 4),
        (table(counts=(2, 1)), 4),
        (table(counts=(2**32 - 1, 2**32 - 1)), 4),
        (table(packs=[(bytes(32), 1)] * 2), 4),  # more packs than blocks
        (table(packs=[(bytes(32), MAX_INTEGER + 1)]), 16),
        (table(packs=[(bytes(32), 2**64 - 1)]), 16),
        (table(packs=[], blocks=[(bytes(32), 0, 8, 1)]), 16),
        (table(blocks=[(bytes(32), 1, 8, 1)]), 56),
        (table(blocks=[(bytes(32), 0, 8, 1), (bytes(32), 2**32 - 1, 8, 1)]), 100),
        (table(blocks=[(bytes(32), 0, 8, BLOCK_BYTES + 1)]), 56),
        (table(blocks=[(bytes(32), 0, 8, 1 << 31 | 2 * BLOCK_BYTES + 1)]), 56),
        (table()[:-1] + b"\0", 100),
        (table() + b"\0", 4),
        (table(blocks=[(bytes(32), 0, 8, 1)] * (TABLE_BLOCKS + 1)), 4),
        (b"EOBT\x01" + bytes(MAX_TABLE_BYTES), 0),
    ],
)
def test_what_is_no_table_is_refused_with_the_offset(data, offset) -> None:
    with pytest.raises(BadManifestError) as caught:
        decode_table(data)
    assert caught.value.facts["offset"] == offset


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_told_from_damage(version) -> None:
    with pytest.raises(UnsupportedError, match=f"version {version}.*knows version 1"):
        decode_table(table(version=version))
