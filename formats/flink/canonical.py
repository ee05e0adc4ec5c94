"""Keyed state in canonical form, which every backend of Flink restores: read and written as a stream.

    header (keyed_header.py), then each key group that is not empty at its offset:
    u16 a state's place in the header
    repeat: i32 length, key, i32 length, value      keys and values as in RocksDB (key_layout.py)
            the top bit of the key's first byte: the last one of this state; after that pair comes
            u16 the next state's place, or 0xFFFF: the end of the key group

A RocksDB job writes states and keys in order, a HashMap job in none. An empty key group has offset 0. With compression
a key group is a framed Snappy stream.

Source: Flink 2.3.0, `FullSnapshotAsyncWriter`, `FullSnapshotRestoreOperation`, `SnapshotUtil`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from formats.binary import Cursor
from formats.errors import CorruptError, InvalidInputError
from formats.flink.handles import SavepointKeyGroups
from formats.flink.heap import key_group_bytes
from formats.flink.key_layout import KeyLayout, by_key_group, join_keys
from formats.flink.snappy_frames import frame, unframe
from formats.keygroups import KeyGroupRange
from formats.state import BATCH_BYTES, BATCH_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

END = 0xFFFF
_LAST = 0x80
_WINDOW_BYTES = 1 << 20
_i32 = struct.Struct(">i")


def read_canonical(
    file: BinaryIO,
    handle: SavepointKeyGroups,
    place: int,
    groups: KeyGroupRange,
    what: str,
    *,
    prefix_bytes: int,
    compressed: bool,
) -> Iterator[pa.RecordBatch]:
    """The keys and values, as in RocksDB, of the state at this place of the header, in these key groups.

    Raises: CorruptError, UnsupportedError.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    for key_group in range(groups.start, groups.stop):
        if handle.offsets[key_group - handle.start] == 0:
            continue
        feed = _feed(file, handle, key_group, what, compressed=compressed)
        window = _Window(feed, f"{what}, key group {key_group}")
        prefix = key_group.to_bytes(prefix_bytes, "big")
        for key, value in _pairs(window, place):
            if not key.startswith(prefix):
                raise window.error("a key of another key group")
            keys.append(key)
            values.append(value)
            size += len(key) + len(value)
            if len(keys) >= BATCH_ROWS or size >= BATCH_BYTES:
                yield pa.record_batch([pa.array(keys, pa.binary()), pa.array(values, pa.binary())], ["key", "value"])
                keys, values, size = [], [], 0
    if keys:
        yield pa.record_batch([pa.array(keys, pa.binary()), pa.array(values, pa.binary())], ["key", "value"])


def _feed(
    file: BinaryIO, handle: SavepointKeyGroups, key_group: int, what: str, *, compressed: bool
) -> Iterator[bytes]:
    """The bytes of a key group, piece by piece."""
    if compressed:
        only = KeyGroupRange(key_group, key_group + 1)
        for _, data in key_group_bytes(file, handle.start, handle.offsets, only, what):
            yield unframe(Cursor(data, what=f"{what}, key group {key_group}"))
        return
    file.seek(handle.offsets[key_group - handle.start])
    while data := file.read(_WINDOW_BYTES):
        yield data


class _Window:
    """What is loaded of a key group, and the place in it."""

    __slots__ = ("at", "data", "feed", "passed", "what")

    def __init__(self, feed: Iterator[bytes], what: str) -> None:
        self.feed, self.what = feed, what
        self.data, self.at, self.passed = b"", 0, 0

    def error(self, reason: str) -> CorruptError:
        offset = self.passed + self.at
        return CorruptError(f"{self.what}: {reason}, at byte {offset} of it", offset=offset)

    def _load(self, size: int) -> None:
        """`size` bytes lie behind the place."""
        parts, held = [self.data[self.at :]], len(self.data) - self.at
        while held < size:
            piece = next(self.feed, None)
            if piece is None:
                raise self.error(f"{size} bytes are needed, {held} are left")
            parts.append(piece)
            held += len(piece)
        self.passed, self.data, self.at = self.passed + self.at, b"".join(parts), 0

    def u16(self) -> int:
        if self.at + 2 > len(self.data):
            self._load(2)
        self.at += 2
        return self.data[self.at - 2] << 8 | self.data[self.at - 1]

    def sized(self) -> bytes:
        if self.at + 4 > len(self.data):
            self._load(4)
        size: int = _i32.unpack_from(self.data, self.at)[0]
        if size < 0:
            raise self.error(f"a length of {size}")
        self.at += 4
        if self.at + size > len(self.data):
            self._load(size)
        self.at += size
        return self.data[self.at - size : self.at]


def _pairs(window: _Window, place: int) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of one state; those of the others are passed over."""
    seen: set[int] = set()
    while place not in seen and (state := window.u16()) != END:
        if state in seen:
            raise window.error(f"state {state} is there twice")
        seen.add(state)
        last = False
        while not last:
            key, value = window.sized(), window.sized()
            if not key:
                raise window.error("an empty key")
            last = key[0] >= _LAST
            if state == place:
                yield (bytes([key[0] ^ _LAST]) + key[1:] if last else key), value


def write_canonical(
    file: BinaryIO,
    header: bytes,
    groups: KeyGroupRange,
    states: Sequence[tuple[KeyLayout, Iterator[pa.RecordBatch]]],
    *,
    compressed: bool = False,
) -> tuple[int, ...]:
    """Header and rows are written behind what the file holds; the offsets are those that a handle needs.

    `states` in the order of the header, each sorted by key group; a key group of one state is held in memory.
    """
    streams = [(layout, _Groups(by_key_group(batches))) for layout, batches in states]
    position = file.write(header)
    offsets = []
    for key_group in range(groups.start, groups.stop):
        written = 0
        pieces: list[bytes] = []
        for place, (layout, stream) in enumerate(streams):
            batches = stream.take(key_group)
            if batches:
                pieces.append(struct.pack(">H", place))
                pieces += _encoded(batches, layout)
        if pieces:
            pieces.append(struct.pack(">H", END))
            if compressed:
                pieces = [frame(b"".join(pieces))]
            for piece in pieces:
                written += file.write(piece)
        offsets.append(position if pieces else 0)
        position += written
    for _, stream in streams:
        stream.check_done(groups)
    return tuple(offsets)


class _Groups:
    """A state's key groups, one ahead."""

    def __init__(self, groups: Iterator[list[pa.RecordBatch]]) -> None:
        self._groups = groups
        self._next = next(groups, None)

    def take(self, key_group: int) -> list[pa.RecordBatch] | None:
        """The rows of this key group, None where there are none."""
        batches = self._next
        if batches is None or batches[0]["key_group"][0].as_py() != key_group:
            return None
        self._next = next(self._groups, None)
        return batches

    def check_done(self, groups: KeyGroupRange) -> None:
        if self._next is not None:
            key_group = self._next[0]["key_group"][0].as_py()
            raise InvalidInputError(f"rows of key group {key_group}, outside of {groups} or out of order")


def _encoded(batches: list[pa.RecordBatch], layout: KeyLayout) -> Iterator[bytes]:
    pairs = [
        pair for batch in batches for pair in zip(join_keys(batch, layout), batch["value"].to_pylist(), strict=True)
    ]
    if layout.is_timer:
        pairs.sort()
    key, value = pairs[-1]
    pairs[-1] = bytes([key[0] | _LAST]) + key[1:], value
    pack = _i32.pack
    for start in range(0, len(pairs), 1024):
        yield b"".join(
            part
            for key, value in pairs[start : start + 1024]
            for part in (pack(len(key)), key, pack(len(value)), value)
        )
