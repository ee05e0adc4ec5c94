"""Filling packs: small contents end to end in one blob, uploaded when full.

Where a slice lies is known only when its pack is closed and has a digest, so `add` hands out a `Pending`
that is filled in then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from formats.ids import BlobKey, Digest, HashAlgorithm
from formats.manifest import Slice
from storage.backend import LocalFile
from storage.os_errors import told, translated
from storage.packing import PACK_BYTES, PACK_MAGIC, is_compressed, pays

if TYPE_CHECKING:
    import zstandard

BUFFER_BYTES = 1 << 20
MIN_COMPRESSED = 128  # below this a zstd frame's own bytes eat the gain


class Pending:
    """A slice to be: its pack is known once that pack is closed."""

    __slots__ = ("compressed", "length", "offset", "pack")

    def __init__(self, offset: int, length: int, *, compressed: bool) -> None:
        self.pack: BlobKey | None = None
        self.offset = offset
        self.length = length
        self.compressed = compressed

    @property
    def key(self) -> BlobKey:
        assert self.pack is not None, "the pack is still open"
        return self.pack

    @property
    def place(self) -> Slice:
        return Slice(
            pack=str(self.key), offset=self.offset, length=self.length, codec="zstd" if self.compressed else "raw"
        )


class Packer:
    """One pack at a time. `new_scratch` names a file to write; `upload` takes a full one: digest, size, file -> key."""

    def __init__(
        self,
        algorithm: HashAlgorithm,
        new_scratch: Callable[[], Path],
        upload: Callable[[Digest, int, LocalFile], BlobKey],
    ) -> None:
        import zstandard  # noqa: PLC0415  (start-up)

        self._hash = algorithm
        self._new_scratch = new_scratch
        self._upload = upload
        self._compressor = zstandard.ZstdCompressor(level=1, write_content_size=True)
        self._file: BinaryIO | None = None
        self._path: Path | None = None
        self._pending: list[Pending] = []
        self._parts: list[bytes] = []
        self._waiting = 0
        self._offset = 0

    def add(self, content: bytes | memoryview, *, compress: bool = True) -> Pending:
        """The content is in a pack, compressed where that pays; its place is known after `close`."""
        stored = shrunk(content, self._compressor) if compress else None
        return self.add_stored(content if stored is None else stored, compressed=stored is not None)

    def add_stored(self, stored: bytes | memoryview, *, compressed: bool) -> Pending:
        """Bytes as they are to be stored are in a pack."""
        if self._offset + len(stored) > PACK_BYTES:
            self.close()
        if self._file is None:
            self._path = self._new_scratch()
            with told(self._path):
                self._file = open(self._path, "xb", buffering=BUFFER_BYTES)  # noqa: SIM115  (closed by `close`)
            self._hasher = self._hash.hasher()
            self._write(PACK_MAGIC)
        pending = Pending(self._offset, len(stored), compressed=compressed)
        self._write(stored)
        self._pending.append(pending)
        return pending

    def close(self) -> None:
        """Every content added so far is uploaded, and its place is known."""
        if self._file is None or self._path is None:
            return
        self._flush()
        with told(self._path):
            self._file.close()
        key = self._upload(Digest(self._hasher.hexdigest()), self._offset, LocalFile(self._path))
        for pending in self._pending:
            pending.pack = key
        self._file, self._path, self._pending, self._offset = None, None, [], 0

    def discard(self) -> None:
        """The open pack, if any, is gone."""
        if self._file is not None and self._path is not None:
            with contextlib.suppress(OSError):  # what it could not write is not wanted any more
                self._file.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            self._parts, self._waiting = [], 0

    def _write(self, data: bytes | memoryview) -> None:
        # Hashed and written a megabyte at a time: a call for every slice costs more than the slice.
        self._parts.append(bytes(data))  # a view is the caller's to fill again
        self._offset += len(data)
        self._waiting += len(data)
        if self._waiting >= BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        assert self._file is not None
        data = b"".join(self._parts)
        self._parts, self._waiting = [], 0
        self._hasher.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise translated(error, self._path) from error


def shrunk(content: bytes | memoryview, compressor: zstandard.ZstdCompressor) -> bytes | None:
    """The content as one zstd frame, where that pays."""
    if len(content) <= MIN_COMPRESSED or is_compressed(bytes(content[:8])):
        return None
    packed = compressor.compress(content)
    return packed if pays(len(content), len(packed)) else None
