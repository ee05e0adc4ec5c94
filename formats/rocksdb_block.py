"""Blocks of RocksDB's tables: checked, decompressed, taken apart.

A block is stored as its bytes, one byte that says how they are compressed, and a checksum of 4 bytes, little-endian:

    compression   0 none   1 Snappy   2 zlib (no header)   4 LZ4   5 LZ4HC (the same)   7 ZSTD
                  LZ4, ZSTD and zlib have the size before compression in front, as a varint
    checksum      of the stored bytes and the compression byte: 0 none, 1 CRC-32C (rotated, plus a constant), 2 XXH32,
                  3 XXH64 (the low half), 4 XXH3 of the stored bytes (the low half), with the compression byte
                  times a constant in it; from format version 6 on, a number of the file and place is added

Inside: entries, sorted by key, then the restart places, u32 each, then how many they are, u32 (top bit: a hash index
stands before them). An entry is three varints, bytes that the key shares with the one before, bytes that it does not,
bytes of the value; then the bytes that are not shared; then the value. In an index block with delta-encoded values
there is no length: the value is a handle, (offset, size) as varints, where nothing is shared, else the difference to
the size of the block before, zigzag, and the block starts after that one.

Source: RocksDB 8.10.0, `table/format.cc`, `table/block_based/block.cc`, `block_builder.cc`, `util/compression.h`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from formats.binary import Cursor
from formats.errors import BombError, CorruptError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow as pa

TRAILER_BYTES = 5
MAX_BLOCK_BYTES = 128 << 20  # one value of this size is possible, and nothing beyond it is sane

_HIGH = 0x80
_u32 = struct.Struct("<I")
_MASK = (1 << 32) - 1
_NONE, _SNAPPY, _ZLIB, _LZ4, _LZ4HC, _ZSTD = 0, 1, 2, 4, 5, 7
_CODECS = {_SNAPPY: "snappy", _LZ4: "lz4_raw", _LZ4HC: "lz4_raw", _ZSTD: "zstd"}
_GROWTH = {_SNAPPY: 24, _LZ4: 260, _LZ4HC: 260, _ZLIB: 1040, _ZSTD: 1 << 17}  # what the formats can do at most


class Handle(NamedTuple):
    """Where a block lies, and its size without the trailer."""

    offset: int
    size: int


class Checksum(NamedTuple):
    """How the blocks of one file are checked."""

    kind: int
    context: int = 0  # of the file, from format version 6 on

    def check(self, stored: memoryview, handle: Handle, what: str) -> None:
        """`stored` ends with a trailer that fits.

        Raises: CorruptError, UnsupportedError.
        """
        if self.kind == 0:
            return
        expected: int = _u32.unpack_from(stored, handle.size + 1)[0]
        found = _sums(self.kind)(stored[: handle.size + 1])
        if (found + _context(self.context, handle.offset)) & _MASK != expected:
            raise CorruptError(
                f"{what}: the block of {handle.size} bytes does not match its checksum, at byte {handle.offset}",
                hint="the file is damaged: restore another snapshot",
                offset=handle.offset,
            )

    def check_footer(self, footer: bytes, expected: int, place: int, what: str) -> None:
        """`footer`, with zeros for its own checksum, matches it."""
        if self.kind and (_sums(self.kind)(memoryview(footer)) + _context(self.context, place)) & _MASK != expected:
            raise CorruptError(f"{what}: the footer does not match its checksum, at byte {place}", offset=place)


def _context(base: int, offset: int) -> int:
    return base ^ ((offset & _MASK) + (offset >> 32) & _MASK) if base else 0


@cache
def _sums(kind: int) -> Callable[[memoryview], int]:
    """The checksum of a stored block with its compression byte.

    Raises: UnsupportedError.
    """
    if kind == 1:
        return masked_crc32c
    if kind not in {2, 3, 4}:
        hint = "known are CRC-32C, XXH32, XXH64 and XXH3"
        raise UnsupportedError(f"a table with checksums of kind {kind}", hint=hint)
    import xxhash  # noqa: PLC0415  (start-up: only where a table has it)

    if kind == 2:
        return xxhash.xxh32_intdigest
    if kind == 3:
        return lambda stored: xxhash.xxh64_intdigest(stored) & _MASK
    return lambda stored: xxhash.xxh3_64_intdigest(stored[:-1]) & _MASK ^ stored[-1] * 0x6B9083D9 & _MASK


def masked_crc32c(data: bytes | memoryview) -> int:
    """CRC-32C as LevelDB and Snappy store it: rotated, plus a constant."""
    import google_crc32c  # noqa: PLC0415  (start-up: only where a file has it)

    crc: int = google_crc32c.value(bytes(data))
    return (crc >> 15 | crc << 17 & _MASK) + 0xA282EAD8 & _MASK


def unpack(stored: memoryview, handle: Handle, *, checksum: Checksum, format_version: int, what: str) -> bytes:
    """The content of a block, from its stored bytes with their trailer.

    Raises: CorruptError, UnsupportedError, BombError.
    """
    checksum.check(stored, handle, what)
    kind, body = stored[handle.size], stored[: handle.size]
    if kind == _NONE:
        return bytes(body)
    if kind not in _GROWTH:
        raise UnsupportedError(f"{what}: a block of compression {kind}, at byte {handle.offset}", offset=handle.offset)
    cursor = Cursor(bytes(body[:10]), what=what)
    size = cursor.varint("the size of a block")
    if kind != _SNAPPY:
        if format_version < 2:
            raise UnsupportedError(f"{what}: a table of format version {format_version} that is compressed")
        body = body[cursor.at :]
    if size > MAX_BLOCK_BYTES or size > len(body) * _GROWTH[kind] + 64:
        raise BombError(
            f"{what}: {handle.size} bytes declare a block of {size}, at byte {handle.offset}", offset=handle.offset
        )
    content = _inflate(body, size) if kind == _ZLIB else decompressed(body, size, _CODECS[kind])
    if len(content) != size:
        raise CorruptError(f"{what}: a block does not decompress, at byte {handle.offset}", offset=handle.offset)
    return content


def decompressed(body: bytes | memoryview, size: int, codec: str = "snappy") -> bytes:
    """What was compressed; something else than `size` bytes, where it does not decompress to that many."""
    try:
        return bytes(_codec(codec).decompress(body, size, asbytes=True))
    except (OSError, ValueError):
        return b""


def compressed(data: bytes, codec: str = "snappy") -> bytes:
    return bytes(_codec(codec).compress(data, asbytes=True))


@cache
def _codec(name: str) -> pa.Codec:
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    return pa.Codec(name)


def _inflate(body: memoryview, size: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, size)
    except zlib.error:
        return b""


def _limit(content: bytes, what: str) -> int:
    """Where the entries of a block end."""
    if len(content) < 4:
        raise CorruptError(f"{what}: a block of {len(content)} bytes", offset=0)
    restarts: int = _u32.unpack_from(content, len(content) - 4)[0]
    end = len(content) - 4
    if restarts >> 31:
        restarts &= (1 << 31) - 1
        buckets = int.from_bytes(content[end - 2 : end], "little")
        end -= 2 + buckets
    if restarts >> 28:
        raise UnsupportedError(f"{what}: a block in a layout that is not known (marks {restarts >> 28:#x})")
    limit = end - 4 * restarts
    if limit < 0:
        raise CorruptError(f"{what}: a block with {restarts} restarts in {len(content)} bytes", offset=len(content) - 4)
    return limit


def read_entries(content: bytes, keys: list[bytes], values: list[bytes], what: str) -> None:
    """Appends the keys, in order, and the values of a block.

    Raises: CorruptError with the offset in the block.
    """
    limit = _limit(content, what)
    at, key = 0, b""
    add_key, add_value = keys.append, values.append
    while at < limit:
        shared, unshared, size = content[at], content[at + 1], content[at + 2]
        if shared < _HIGH and unshared < _HIGH and size < _HIGH:
            at += 3
        else:
            shared, unshared, size, at = _lengths(content, at, what)
        start = at + unshared
        if shared > len(key) or start + size > limit:
            raise CorruptError(f"{what}: an entry does not fit its block, at byte {at}", offset=at)
        key = key[:shared] + content[at:start]
        at = start + size
        add_key(key)
        add_value(content[start:at])


def _lengths(content: bytes, at: int, what: str) -> tuple[int, int, int, int]:
    cursor = Cursor(content, what=what, start=at)
    return cursor.varint("a length"), cursor.varint("a length"), cursor.varint("a length"), cursor.at


def read_index(content: bytes, what: str, *, delta: bool) -> Iterator[tuple[bytes, Handle]]:
    """The separators and handles of an index block, in order: no key of a block is above its separator.

    Raises: CorruptError, UnsupportedError.
    """
    cursor = Cursor(content, what=what, end=_limit(content, what))
    key, handle = b"", Handle(0, 0)
    while cursor.left:
        start = cursor.at
        shared, unshared = cursor.varint("a length"), cursor.varint("a length")
        size = -1 if delta else cursor.varint("a length")
        if shared > len(key):
            raise cursor.error("a separator shares more than there is", at=start)
        key = key[:shared] + cursor.raw(unshared, "a separator")
        value = cursor.part(size, "a handle") if size >= 0 else cursor
        if delta and shared:
            step = value.varint("a difference")
            handle = Handle(handle.offset + handle.size + TRAILER_BYTES, handle.size + (step >> 1 ^ -(step & 1)))
        else:
            handle = Handle(value.varint("an offset"), value.varint("a size"))
        if handle.size < 0:
            raise cursor.error("a block has a negative size", at=start)
        if value is not cursor:
            value.expect_end("a handle")
        yield key, handle
