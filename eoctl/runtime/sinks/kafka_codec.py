"""Bytes of Kafka's protocol: fields of requests and replies, and record batches (magic 2). Pure.

Of a batch only what a transactional producer writes: not compressed, with producer id, epoch and sequence, CRC-32C.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

import google_crc32c
from msgspec import Struct

from formats.errors import CorruptError, UnsupportedError

MAGIC = 2
TRANSACTIONAL, CONTROL, COMPRESSION = 0x10, 0x20, 0x07
_HEAD = struct.Struct(">qiib")  # base offset, length, leader epoch, magic
_BODY = struct.Struct(">hiqqqhii")  # attributes .. record count: what the CRC covers, with the records
_CRC = struct.Struct(">I")
_LENGTH_AT, _CRC_AT, _BODY_AT = 12, 17, 21
_RECORDS_AT = _BODY_AT + _BODY.size
_SMALL = [bytes((number,)) for number in range(0x80)]


class Row(Struct, frozen=True, gc=False):
    """A record to be written; its time is the batch's."""

    value: bytes | None
    key: bytes | None = None


class Found(Struct, frozen=True, gc=False):
    """A batch that was read. `control`: no records, but the end of the producer's transaction."""

    offset: int
    last_offset: int
    producer: int
    epoch: int
    control: bool
    rows: tuple[tuple[int, bytes | None, bytes | None], ...]  # offset, key, value

    @property
    def commits(self) -> bool:
        """Of a control batch: it commits. Raises: CorruptError."""
        key = self.rows[0][1] if self.rows else None
        if key is None or len(key) < 4:
            raise CorruptError(f"the control batch at offset {self.offset} does not say what it ends")
        return int.from_bytes(key[2:4], "big") == 1


def batch(rows: Sequence[Row], *, producer: int, epoch: int, sequence: int, time_ms: int) -> bytes:
    """The rows as one batch of a transaction."""
    last = len(rows) - 1
    body = _BODY.pack(TRANSACTIONAL, last, time_ms, time_ms, producer, epoch, sequence, len(rows))
    covered = body + b"".join(_records(rows))
    length = _BODY_AT - _LENGTH_AT + len(covered)
    return _HEAD.pack(0, length, -1, MAGIC) + _CRC.pack(google_crc32c.value(covered)) + covered


def _records(rows: Sequence[Row]) -> Iterator[bytes]:
    for number, row in enumerate(rows):
        key, value = row.key, row.value
        text = b"".join(
            (
                b"\0\0",  # attributes, time since the batch's
                varint(number),
                b"\x01" if key is None else varint(len(key)) + key,
                b"\x01" if value is None else varint(len(value)) + value,
                b"\0",  # no headers
            )
        )
        yield varint(len(text))
        yield text


def batches(data: bytes) -> Iterator[Found]:
    """The whole batches of a fetched piece of a log; the last one may be cut off, and is left out.

    Raises: CorruptError, UnsupportedError.
    """
    at = 0
    while at + _RECORDS_AT <= len(data):
        offset, length, _, magic = _HEAD.unpack_from(data, at)
        end = at + _LENGTH_AT + length
        if magic != MAGIC:
            raise UnsupportedError(f"a record batch of magic {magic} at offset {offset}", hint="Kafka 0.11 or later")
        if end > len(data):
            return
        if google_crc32c.value(data[at + _BODY_AT : end]) != _CRC.unpack_from(data, at + _CRC_AT)[0]:
            raise CorruptError(f"the checksum of the batch at offset {offset} is wrong")
        attributes, last, _, _, producer, epoch, _, count = _BODY.unpack_from(data, at + _BODY_AT)
        if attributes & COMPRESSION:
            raise UnsupportedError(
                f"the batch at offset {offset} is compressed", hint="set compression.type=uncompressed for the topic"
            )
        rows = tuple(_read_rows(Bytes(data, at + _RECORDS_AT), offset, count))
        yield Found(offset, offset + last, producer, epoch, bool(attributes & CONTROL), rows)
        at = end


def _read_rows(data: Bytes, offset: int, count: int) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    for _ in range(count):
        length = data.varint()
        end = data.at + length
        data.take(1)
        data.varint()
        number = data.varint()
        key, value = data.small(), data.small()
        yield offset + number, key, value
        data.at = end


def varint(number: int) -> bytes:
    """Zigzag, seven bits a byte."""
    return uvarint((number << 1) ^ (number >> 63))


def uvarint(number: int) -> bytes:
    if number < 0x80:
        return _SMALL[number]
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


# Fields of requests.


def int8(number: int) -> bytes:
    return number.to_bytes(1, "big", signed=True)


def int16(number: int) -> bytes:
    return number.to_bytes(2, "big", signed=True)


def int32(number: int) -> bytes:
    return number.to_bytes(4, "big", signed=True)


def int64(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)


def text(value: str | None) -> bytes:
    """Nullable."""
    if value is None:
        return int16(-1)
    data = value.encode()
    return int16(len(data)) + data


def blob(data: bytes) -> bytes:
    return int32(len(data)) + data


def array(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return int32(len(listed)) + b"".join(listed)


def compact_text(value: str) -> bytes:
    data = value.encode()
    return uvarint(len(data) + 1) + data


def compact_array(items: Iterable[bytes]) -> bytes:
    listed = list(items)
    return uvarint(len(listed) + 1) + b"".join(listed)


NO_TAGS = b"\0"


class Bytes:
    """A reply, read field by field. Raises: CorruptError where it ends too soon."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data = data
        self.at = at

    def take(self, count: int) -> bytes:
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise CorruptError(f"a reply of Kafka ends after {len(self.data)} bytes, in the middle of a field")
        found = self.data[self.at : end]
        self.at = end
        return found

    def int8(self) -> int:
        return int.from_bytes(self.take(1), "big", signed=True)

    def int16(self) -> int:
        return int.from_bytes(self.take(2), "big", signed=True)

    def int32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def int64(self) -> int:
        return int.from_bytes(self.take(8), "big", signed=True)

    def text(self) -> str:
        """Nothing is the empty text."""
        length = self.int16()
        return "" if length < 0 else self.take(length).decode()

    def blob(self) -> bytes:
        length = self.int32()
        return b"" if length < 0 else self.take(length)

    def times(self) -> range:
        """Once for each element of an array."""
        return range(max(0, self.int32()))

    def uvarint(self) -> int:
        number = shift = 0
        while True:
            byte = self.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def varint(self) -> int:
        number = self.uvarint()
        return (number >> 1) ^ -(number & 1)

    def small(self) -> bytes | None:
        """A key or a value of a record."""
        length = self.varint()
        return None if length < 0 else self.take(length)

    def compact_text(self) -> str:
        length = self.uvarint()
        return "" if length == 0 else self.take(length - 1).decode()

    def compact_times(self) -> range:
        return range(max(0, self.uvarint() - 1))

    def tags(self) -> None:
        """Tagged fields, of which none is known here."""
        for _ in range(self.uvarint()):
            self.uvarint()
            self.take(self.uvarint())


def murmur2(data: bytes) -> int:
    """As Java's producer hashes keys: so that a key's partition is the same for both."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for (k,) in struct.iter_unpack("<I", data[:whole]):
        mixed = (k * m) & mask
        mixed ^= mixed >> 24
        h = ((h * m) & mask) ^ ((mixed * m) & mask)
    rest = data[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * m) & mask
    h ^= h >> 13
    h = (h * m) & mask
    return h ^ (h >> 15)


def partition_of(key: bytes, partitions: int) -> int:
    """Where Java's default partitioner puts the key."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions
