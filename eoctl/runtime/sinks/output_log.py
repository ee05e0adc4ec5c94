"""The output log: records are visible at once, and a restored run checks them off instead of writing them again.

    DIRECTORY/UID-SUBTASK.log     frame*
    frame = length of the record (4 bytes, big-endian), its CRC-32 (4 bytes), the record (formats/plain.py)

For operators that are deterministic: from the same state and the same input they write the same records in the same
order (one source subtask, one chain). The committable is the log's length. A run restored from a checkpoint meets what
was written after that length, compares each record that it makes with the one there, and appends only what is new. A
record that differs stops it. So nobody who reads the log waits for a checkpoint.

A new attempt takes a copy of the log and renames it over the old one: a zombie goes on writing into a file without a
name. A frame that a crash cut off is left out of the copy.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.files import sync_directory
from eoctl.runtime.sinks.protocol import CommitPermit, Delivery, SinkContext
from formats.errors import ConflictError, CorruptError
from formats.manifest import Transaction
from formats.names import check_file_name
from formats.plain import decode_plain, encode_plain
from storage.os_errors import told

_head = struct.Struct(">II")


class OutputLog(Struct, frozen=True):
    """Logs in `directory`, one for each subtask; the sink's parallelism never changes."""

    directory: str | Path

    @property
    def delivery(self) -> Delivery:
        return Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> LogWriter:
        return LogWriter(self, context)

    def committer(self, context: SinkContext) -> LogCommitter:  # noqa: ARG002  (there is nothing left to do)
        return LogCommitter()


def read_log(path: str | Path, *, start: int = 0) -> Iterator[tuple[int, Any]]:
    """Each record from byte `start` on with the place after it, up to the first frame that is not whole."""
    with Path(path).open("rb") as file:
        yield from ((end, decode_plain(data)) for end, data in _frames(file, start))


class LogWriter:
    """Compares as far as there is something to compare with, then appends."""

    def __init__(self, sink: OutputLog, context: SinkContext) -> None:
        check_file_name(f"{context.uid}-{context.subtask}.log")
        self._context = context
        self._path = Path(sink.directory) / f"{context.uid}-{context.subtask}.log"
        offset = _offset_of(context)
        with told(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file, self._before = self._own_copy(offset)
        self._at = offset
        self._place = 0

    def _own_copy(self, offset: int) -> tuple[BinaryIO, list[bytes]]:
        """The log as far as it is whole, under its name and nobody else's, and its frames after `offset`."""
        mine = self._path.with_name(f".{self._path.name}.{self._context.attempt}")
        after: list[bytes] = []
        with mine.open("wb") as copy:
            if self._path.exists():
                with self._path.open("rb") as old:
                    _copy(old, copy, offset, self._path)
                    for _, data in _frames(old, offset):
                        after.append(data)
                        copy.write(_framed(data))
            elif offset:
                raise _lost(self._path, offset)
            copy.flush()
            os.fsync(copy.fileno())
        mine.replace(self._path)
        sync_directory(self._path.parent)
        return self._path.open("ab"), after

    def write(self, batch: Batch) -> None:
        out = bytearray()
        for record in batch.values:
            data = encode_plain(record)
            if self._place < len(self._before):
                if self._before[self._place] != data:
                    message = f"{self._path}, byte {self._at}: a replay made another record than the run before"
                    hint = "an output log needs deterministic operators; use a transactional sink"
                    raise ConflictError(message, hint=hint)
                self._place += 1
            else:
                out += _framed(data)
            self._at += _head.size + len(data)
        with told(self._path):
            self._file.write(out)
            self._file.flush()

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        with told(self._path):
            os.fsync(self._file.fileno())
        return (
            Transaction(
                id=self._context.transaction_id(checkpoint),
                state="pre-committed",
                checkpoint=checkpoint,
                subtask=self._context.subtask,
                properties={"attempt": str(self._context.attempt), "offset": str(self._at)},
            ),
        )

    def close(self) -> None:
        self._file.close()


class LogCommitter:
    """What is in the log is visible already."""

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        assert transaction.checkpoint <= permit.checkpoint, "permitted"

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:  # noqa: ARG002  (it comes again, and is compared)
        return ()

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:  # noqa: ARG002  (likewise)
        return ()

    def close(self) -> None:
        pass


def _offset_of(context: SinkContext) -> int:
    """How long the log was when the snapshot was taken."""
    mine = [one for one in context.held if one.subtask == context.subtask]
    if not mine:
        return 0
    newest = max(mine, key=lambda one: one.checkpoint)
    offset = newest.properties.get("offset", "")
    if not offset.isdecimal():
        raise CorruptError(f"transaction {newest.id} tells no offset of an output log")
    return int(offset)


def _framed(data: bytes) -> bytes:
    return _head.pack(len(data), zlib.crc32(data)) + data


def _frames(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    file.seek(start)
    at = start
    while len(head := file.read(_head.size)) == _head.size:
        size, checksum = _head.unpack(head)
        data = file.read(size)
        if len(data) != size or zlib.crc32(data) != checksum:
            return
        at += _head.size + size
        yield at, data


def _copy(old: BinaryIO, copy: BinaryIO, length: int, path: Path) -> None:
    left = length
    while left and (part := old.read(min(left, 1 << 20))):
        copy.write(part)
        left -= len(part)
    if left:
        raise _lost(path, length)


def _lost(path: Path, length: int) -> CorruptError:
    return CorruptError(f"{path} is shorter than {length} bytes, which the checkpoint knows to be in it")
