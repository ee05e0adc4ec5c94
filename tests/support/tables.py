"""Tables of RocksDB with whatever entries a test needs, also such as RocksDB never writes."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

MAGIC = 0x88E241B785F4CFF7


def internal(key: bytes, sequence: int, kind: int) -> bytes:
    return key + (sequence << 8 | kind).to_bytes(8, "little")


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def block(entries: Iterable[tuple[bytes, bytes]], tail: bytes = struct.pack("<II", 0, 1)) -> bytes:
    """Entries that share nothing."""
    body = b"".join(b"\0" + varint(len(key)) + varint(len(value)) + key + value for key, value in entries)
    return body + tail


def table(
    *blocks: list[tuple[bytes, int, int, bytes]],
    range_tombstones: Iterable[tuple[bytes, bytes, int]] = (),
    properties: Mapping[str, bytes] = MappingProxyType({}),
    version: int = 5,
    magic: int = MAGIC,
) -> bytes:
    """A table of blocks of (key, sequence, kind, value), uncompressed, without checksums."""
    data = bytearray()

    def add(content: bytes) -> bytes:
        handle = varint(len(data)) + varint(len(content))
        data.extend(content + bytes(5))
        return handle

    index = []
    for entries in blocks:
        content = [(internal(key, sequence, kind), value) for key, sequence, kind, value in entries]
        index.append((content[-1][0], add(block(content))))
    known = {"rocksdb.comparator": b"leveldb.BytewiseComparator", "rocksdb.column.family.name": b"cf"}
    meta = {"rocksdb.properties": add(_texts(known | dict(properties)))}
    if range_tombstones:
        gone = ((internal(start, sequence, 15), stop) for start, stop, sequence in range_tombstones)
        meta["rocksdb.range_del"] = add(block(gone))
    handles = add(_texts(meta)) + add(block(index))
    data += b"\0" + handles.ljust(40, b"\0") + struct.pack("<IQ", version, magic)
    return bytes(data)


def _texts(entries: Mapping[str, bytes]) -> bytes:
    return block(sorted((name.encode(), value) for name, value in entries.items()))
