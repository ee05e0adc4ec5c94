"""In-flight data: the records that were in channels when an unaligned checkpoint overtook them.

    file    = magic version entry* digest
    magic   = "EOIF", version = 1 (one byte), then 3 bytes 0
    entry   = 0x01 length (varint) plain     one channel's records, in their order
    digest  = 0x00, then 32 bytes: SHA-256 of all before

`plain` (formats/plain.py) is the tuple (side, upstream uid, upstream subtask, gate, subtask, values, timestamps, keys):
side "in" for records that the subtask took from the channel after its own snapshot and before the barrier, "out" for
those that its barrier overtook. Of one channel the records of side "in" were sent before those of side "out".
Timestamps (milliseconds) and keys are lists as long as the values, or None.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal

from msgspec import Struct

from formats.errors import CorruptError, UnsupportedError
from formats.plain import append_plain, append_varint, decode_plain, read_varint

MAGIC = b"EOIF"
VERSION = 1
_HEAD = MAGIC + bytes([VERSION, 0, 0, 0])
_ENTRY, _END = 1, 0
_DIGEST_BYTES = 32


class InFlight(Struct, frozen=True):
    """Records of one channel: from a subtask of `upstream` to `subtask` of `uid`, by its input `gate`."""

    side: Literal["in", "out"]
    upstream: str
    upstream_subtask: int
    uid: str
    gate: int
    subtask: int
    values: list[object]
    timestamps: list[int] | None
    keys: list[object] | None


def write_inflight(file: BinaryIO, entries: Iterable[InFlight]) -> int:
    """How many bytes were written. Raises: InvalidInputError where a record is no plain value."""
    hasher = hashlib.sha256(_HEAD)
    size = file.write(_HEAD)
    for entry in entries:
        body = bytearray()
        append_plain(
            (
                entry.side,
                entry.upstream,
                entry.upstream_subtask,
                entry.uid,
                entry.gate,
                entry.subtask,
                entry.values,
                entry.timestamps,
                entry.keys,
            ),
            body,
        )
        framed = bytearray([_ENTRY])
        append_varint(len(body), framed)
        framed += body
        hasher.update(framed)
        size += file.write(framed)
    end = bytes([_END])
    hasher.update(end)
    return size + file.write(end + hasher.digest())


def read_inflight(data: bytes) -> Iterator[InFlight]:
    """The entries, after the digest was found right. Raises: CorruptError, UnsupportedError."""
    if data[:4] != MAGIC or len(data) < len(_HEAD) + 1 + _DIGEST_BYTES:
        raise CorruptError("not a file of in-flight data: it does not begin with EOIF, or is too short", offset=0)
    if data[4] != VERSION:
        raise UnsupportedError(f"in-flight data of version {data[4]}; this eoctl reads {VERSION}", hint="upgrade eoctl")
    body_end = len(data) - _DIGEST_BYTES
    if hashlib.sha256(data[:body_end]).digest() != data[body_end:]:
        raise CorruptError("in-flight data does not match its digest", offset=body_end)
    at = len(_HEAD)
    while at < body_end - 1:
        if data[at] != _ENTRY:
            raise CorruptError(f"in-flight data: no entry at byte {at}", offset=at)
        size, start = read_varint(data, at + 1)
        at = start + size
        if at >= body_end:
            raise CorruptError(f"in-flight data: an entry goes beyond the end, at byte {start}", offset=start)
        yield _entry(decode_plain(data[start:at]), start)
    if data[at] != _END or at != body_end - 1:
        raise CorruptError(f"in-flight data: no end at byte {at}", offset=at)


def _entry(fields: object, at: int) -> InFlight:
    match fields:
        case (
            ("in" | "out") as side,
            str(upstream),
            int(upstream_subtask),
            str(uid),
            int(gate),
            int(subtask),
            list(values),
            (list() | None) as timestamps,
            (list() | None) as keys,
        ) if all(column is None or len(column) == len(values) for column in (timestamps, keys)):
            return InFlight(side, upstream, upstream_subtask, uid, gate, subtask, values, timestamps, keys)
    raise CorruptError(f"in-flight data: an entry of another form, at byte {at}", offset=at)
