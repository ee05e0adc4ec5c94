"""The block table: where the 64 KiB blocks of one stretch of a large mutable file lie.

All integers are big-endian. A table of two blocks in one pack:

    0   45 4f 42 54  01 00 00 00     "EOBT", version 1, three zero bytes
    8   00 00 00 01  00 00 00 02     packs, blocks (at most 4096)
    16  (32 bytes)   (8 bytes)       per pack: digest, era
    56  (32 bytes)   00 00 00 00     per block: digest of its content, number of its pack,
        00 00 00 08  80 00 12 34       offset in the pack, stored length; the top bit: zstd
    ...
        (4 bytes)                    CRC-32 of all before

A block that occurs again may share its slice. Content digests are of the store's hash.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from formats.errors import BadManifestError, UnsupportedError
from formats.ids import MAX_INTEGER, BlobKey, Digest, Era
from formats.manifest import BLOCK_BYTES, TABLE_BLOCKS

MAGIC = b"EOBT"
VERSION = 1
MAX_TABLE_BYTES = 16 + TABLE_BLOCKS * (40 + 44) + 4

_header = struct.Struct(">4sB3sII")
_pack = struct.Struct(">32sQ")
_block = struct.Struct(">32sIII")
_crc = struct.Struct(">I")
_ZSTD = 1 << 31


class Block(NamedTuple):
    """One block: the digest of its content (32 bytes), and the slice that holds it."""

    digest: bytes
    pack: BlobKey
    offset: int
    length: int
    compressed: bool


def encode_table(blocks: list[Block]) -> bytes:
    """The bytes of the table; packs are numbered in order of first use."""
    numbers: dict[BlobKey, int] = {}
    for block in blocks:
        numbers.setdefault(block.pack, len(numbers))
    parts = [_header.pack(MAGIC, VERSION, b"\0\0\0", len(numbers), len(blocks))]
    parts += [_pack.pack(bytes.fromhex(pack.digest), pack.era) for pack in numbers]
    parts += [
        _block.pack(b.digest, numbers[b.pack], b.offset, b.length | (_ZSTD if b.compressed else 0)) for b in blocks
    ]
    data = b"".join(parts)
    return data + _crc.pack(zlib.crc32(data))


def decode_table(data: bytes) -> list[Block]:
    """The blocks in order.

    Raises: BadManifestError with the offset; UnsupportedError for another version.
    """
    if len(data) < _header.size + _crc.size or len(data) > MAX_TABLE_BYTES or data[:4] != MAGIC:
        raise _bad("not a block table", 0)
    _, version, padding, packs, blocks = _header.unpack_from(data)
    if version != VERSION:
        message = f"block table has version {version}; this eoctl knows version {VERSION}"
        raise UnsupportedError(message, hint="upgrade eoctl")
    end = _header.size + packs * _pack.size + blocks * _block.size
    if padding != b"\0\0\0" or blocks > TABLE_BLOCKS or packs > blocks or len(data) != end + _crc.size:
        raise _bad("lengths do not fit", 4)
    if _crc.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise _bad("checksum does not fit", end)
    keys = []
    for digest, era in _pack.iter_unpack(data[_header.size : _header.size + packs * _pack.size]):
        if era > MAX_INTEGER:
            raise _bad("era too large", _header.size)
        keys.append(BlobKey(Digest(digest.hex()), Era(era)))
    start = end - blocks * _block.size
    found: list[Block] = []
    for digest, number, offset, length in _block.iter_unpack(data[start:end]):
        compressed, size = bool(length & _ZSTD), length & ~_ZSTD
        if number >= packs or size > 2 * BLOCK_BYTES or (not compressed and size > BLOCK_BYTES):
            raise _bad("a block beyond its pack or size", start + len(found) * _block.size)
        found.append(Block(digest, keys[number], offset, size, compressed))
    return found


def _bad(reason: str, offset: int) -> BadManifestError:
    message = f"block table is not valid: {reason} (offset {offset})"
    return BadManifestError(message, offset=offset)
