"""Snappy's framing format, which Flink uses for compressed state.

A chunk is one byte of kind, u24 little-endian length, and that many bytes: kind 255 the identifier `sNaPpY`, 0
compressed data, 1 data as it is, both with a checksum of 4 bytes in front (CRC-32C of the data, rotated, plus a
constant); 128 to 254 may be skipped. A chunk holds at most 64 KiB of data.

Source: google/snappy, `framing_format.txt`.
"""

from __future__ import annotations

from formats.binary import Cursor
from formats.errors import CorruptError, UnsupportedError
from formats.rocksdb_block import compressed, decompressed, masked_crc32c

IDENTIFIER = b"\xff\x06\0\0sNaPpY"
MAX_CHUNK_BYTES = 1 << 16

_COMPRESSED, _PLAIN, _SKIPPABLE, _IDENTIFIER = 0, 1, 128, 255


def unframe(cursor: Cursor) -> bytes:
    """The data of the stream at the cursor, up to its end or to where another stream begins.

    Raises: CorruptError, UnsupportedError.
    """
    parts: list[bytes] = []
    while cursor.left:
        start = cursor.at
        head = cursor.u32_le("a chunk of Snappy")
        kind, size = head & 0xFF, head >> 8
        if kind == _IDENTIFIER:
            if parts:
                cursor.at = start
                break
            if cursor.raw(size, "an identifier") != IDENTIFIER[4:]:
                raise cursor.error("not a framed stream of Snappy", at=start)
        elif kind in {_COMPRESSED, _PLAIN}:
            parts.append(_chunk(cursor, kind, size, start))
        elif kind >= _SKIPPABLE:
            cursor.raw(size, "a chunk")
        else:
            raise UnsupportedError(f"{cursor.what}: a chunk of Snappy of kind {kind}, at byte {start}", offset=start)
    return b"".join(parts)


def _chunk(cursor: Cursor, kind: int, size: int, start: int) -> bytes:
    if size < 4:
        raise cursor.error("a chunk of Snappy without a checksum", at=start)
    checksum, body = cursor.u32_le("a checksum"), cursor.raw(size - 4, "a chunk")
    if kind == _COMPRESSED:
        length = Cursor(body[:5], what=cursor.what).varint("the size of a chunk")
        if length > MAX_CHUNK_BYTES:
            raise cursor.error(f"a chunk of Snappy declares {length} bytes", at=start)
        body = decompressed(body, length)
    if len(body) > MAX_CHUNK_BYTES or masked_crc32c(body) != checksum:
        raise CorruptError(
            f"{cursor.what}: a chunk of Snappy does not match its checksum, at byte {start}", offset=start
        )
    return body


def frame(data: bytes) -> bytes:
    """A framed stream."""
    out = bytearray(IDENTIFIER)
    for at in range(0, len(data), MAX_CHUNK_BYTES):
        part = data[at : at + MAX_CHUNK_BYTES]
        body = masked_crc32c(part).to_bytes(4, "little") + compressed(part)
        out += bytes([_COMPRESSED]) + len(body).to_bytes(3, "little") + body
    return bytes(out)
