"""Stored files read a range at a time: of a large file far away only what a question needs.

A range is not compared with the file's digest, which is of all of it: formats that are read so check their own blocks.
What is small, or part of a pack, is fetched whole and compared.
"""

from __future__ import annotations

import io

from formats.file_pool import OpenFile
from formats.manifest import Inline, Slice, StateFile, Whole
from storage.blobs import Blobs

WHOLE_BYTES = 1 << 20  # up to this a file is fetched whole
JUMP_BYTES = 512 << 10
MOST_BYTES = 4 << 20  # of a reader that goes on


def can_range(file: StateFile) -> bool:
    """A part of the file can be had without much else."""
    return _is_little(file) or (isinstance(file.place, Whole) and file.place.codec == "raw")


def open_ranges(blobs: Blobs, file: StateFile) -> OpenFile:
    """The file, which `can_range`, to be read. Raises: BlobGoneError, CorruptError; reading raises them too."""
    return io.BytesIO(b"".join(blobs.content(file))) if _is_little(file) else RangeFile(blobs, file)


def _is_little(file: StateFile) -> bool:
    return file.bytes <= WHOLE_BYTES or isinstance(file.place, Inline | Slice)


class RangeFile:
    """A file of which the end is kept, and a window where the reader is; what goes on gets larger ones."""

    def __init__(self, blobs: Blobs, file: StateFile) -> None:
        self._blobs = blobs
        self._file = file
        self._at = 0
        self._end = _Window(file.bytes, b"")
        self._window = _Window(0, b"")
        self._step = JUMP_BYTES

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._at = max(0, offset + (0, self._at, self._file.bytes)[whence])
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = max(0, self._file.bytes - self._at)
        left = left if size < 0 else min(size, left)
        parts = []
        while left:
            part = self._here(left)
            parts.append(part)
            self._at += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        self._end, self._window = _Window(self._file.bytes, b""), _Window(0, b"")

    def _here(self, wanted: int) -> bytes:
        """Some bytes from where the reader is, not more than wanted."""
        for window in (self._window, self._end):
            if part := window.part(self._at, wanted):
                return part
        size = self._file.bytes
        if self._at + wanted == size:  # whoever begins at the end wants more in front of it
            start = max(0, min(self._at, size - JUMP_BYTES))
            self._end = window = _Window(start, self._blobs.part(self._file, start, size - start))
        else:
            goes_on = self._at == self._window.start + len(self._window.data)
            self._step = min(2 * self._step, MOST_BYTES) if goes_on else JUMP_BYTES
            length = min(max(wanted, self._step), size - self._at)
            self._window = window = _Window(self._at, self._blobs.part(self._file, self._at, length))
        return window.part(self._at, wanted)


class _Window:
    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self.data = data

    def part(self, at: int, wanted: int) -> bytes:
        """At most so many bytes from there; none where the window does not hold it."""
        return self.data[at - self.start : at - self.start + wanted] if at >= self.start else b""
