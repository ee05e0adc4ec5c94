"""The MANIFEST of a RocksDB database: which tables, blob files and logs its last version consists of.

It may come from anywhere, so it is read a block at a time, and its numbers, its records and what they name are bounded.
Source: RocksDB 9.8, db/version_edit.h, db/log_format.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from formats.errors import CorruptError, TooLargeError, UnsupportedError
from formats.manifest import MAX_FILES

RESTORE = "if the writer cannot open the database either, restore its newest snapshot"
USE_CHECKPOINT = "capture it inside the writer, by RocksdbCheckpoint"
# Fields of a MANIFEST record by tag: n is a number, s a string, t and b are (tag, string) pairs up to tag 1 or 0.
_SHAPE_LIST = """1:s 2:n 3:n 4:n 5:ns 6:nn 7:nnnss 9:n 10:n 100:nnnssnn 102:nnnnssnn 103:nnnssnnt
    200:n 201:s 202: 203:n 300:n 400:nnnssb 401:nnnb 8193:s"""
_SHAPES = {int(tag): shape for tag, _, shape in (item.partition(":") for item in _SHAPE_LIST.split())}
_LOG_BLOCK_BYTES = 32 << 10
_MAX_RECORD_BYTES = 64 << 20
_PIECE = struct.Struct("<IHB")  # checksum, length, kind


@dataclass(frozen=True, slots=True)
class Version:
    """What a MANIFEST says at its end: sizes of tables by number, blob files, the newest log that it knows."""

    families: tuple[str, ...]
    tables: dict[int, int]
    blobs: set[int]
    newest_log: int


def read_version(path: Path, length: int) -> Version:
    """The state after the records in the first `length` bytes.

    Raises: CorruptError, UnsupportedError, TooLargeError.
    """
    families, blobs = {0: "default"}, set[int]()
    tables, logs = dict[int, tuple[int, int]](), dict[int, int]()
    for record in _records(path, length):
        try:
            family = next((numbers[0] for tag, numbers, _ in _fields(record) if tag == 200), 0)
            for tag, numbers, text in _fields(record):
                match tag:
                    case 2:
                        logs[family] = numbers[0]
                    case 6:
                        tables.pop(numbers[1], None)
                    case 7 | 100 | 102 | 103:
                        tables[numbers[1]] = (family, numbers[3 if tag == 102 else 2])
                    case 201:
                        families[family] = text.decode("utf-8", "backslashreplace")
                    case 202:
                        families.pop(family, None)
                    case 400:
                        blobs.add(numbers[0])
        except IndexError as error:
            raise CorruptError(f"{path} holds a record that is cut short") from error
        if len(families) + len(tables) + len(blobs) + len(logs) > MAX_FILES:
            raise TooLargeError(f"{path} names more than {MAX_FILES} files")
    live = {number: size for number, (family, size) in tables.items() if family in families}
    newest_log = max((log for family, log in logs.items() if family in families), default=0)
    return Version(tuple(families.values()), live, blobs, newest_log)


def _records(path: Path, length: int) -> Iterator[bytes]:
    """The records in the first `length` bytes of a MANIFEST; one that is torn at the end is left out."""
    record = bytearray()
    with path.open("rb") as log:
        for start in range(0, length, _LOG_BLOCK_BYTES):
            block, at = log.read(min(_LOG_BLOCK_BYTES, length - start)), 0
            while at + _PIECE.size <= len(block):
                _, size, kind = _PIECE.unpack_from(block, at)
                at += _PIECE.size + size
                if at > len(block) or kind == 0:
                    return
                if kind > 4:
                    raise UnsupportedError(f"MANIFEST holds a record of unknown kind {kind}", hint=USE_CHECKPOINT)
                if kind in (1, 2):  # whole, first; then middle, last
                    record.clear()
                record += block[at - size : at]
                if len(record) > _MAX_RECORD_BYTES:
                    raise TooLargeError(f"{path} holds a record of more than {_MAX_RECORD_BYTES} bytes")
                if kind in (1, 4):
                    yield bytes(record)


class _Cursor:
    """A record of MANIFEST, read from its start. Numbers are varints of at most 64 bits; strings say their length."""

    def __init__(self, record: bytes) -> None:
        self._record = record
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._record)

    def number(self) -> int:
        value = shift = 0
        while True:
            byte, self._at = self._record[self._at], self._at + 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise CorruptError("MANIFEST holds a number of more than 64 bits", hint=RESTORE)

    def string(self) -> bytes:
        size = self.number()
        self._at += size
        if self._at > len(self._record):
            raise IndexError
        return self._record[self._at - size : self._at]


def _fields(record: bytes) -> Iterator[tuple[int, list[int], bytes]]:
    """Tag, numbers and last string of each field."""
    cursor = _Cursor(record)
    while not cursor.at_end:
        tag = cursor.number()
        shape = "s" if tag >= 8198 else _SHAPES.get(tag)  # newer fields are strings, to be skipped
        if shape is None:
            raise UnsupportedError(f"MANIFEST holds a field of unknown tag {tag}", hint=USE_CHECKPOINT)
        numbers, text = [], b""
        for kind in shape:
            if kind == "n":
                numbers.append(cursor.number())
            elif kind == "s":
                text = cursor.string()
            else:
                while cursor.number() != (kind == "t"):
                    cursor.string()
        yield tag, numbers, text
