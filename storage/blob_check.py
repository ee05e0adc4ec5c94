"""A stored blob, held against its name and against all that manifests say of it (storage/audit.py).

It is read once, in order; a pack, which fits into memory, as one piece. A blob may be damaged where nobody needs it,
so what is wrong is told content by content. Damage is a value here, never an exception. What may work later (no
connection, no permission) is raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, BinaryIO

from msgspec import Struct

from formats.errors import UnavailableError
from formats.ids import BlobKey, HashAlgorithm, Hasher
from formats.manifest import MAX_PACK_BYTES
from storage import layout
from storage.audit import MISSING, OTHER_CONTENT, Content, Packing, medium_fault, size_fault
from storage.backend import KeyAbsentError
from storage.blobs import CHUNK_BYTES, Blobs

MAX_FRAME_BYTES = 4 << 20  # slices are below 1 MiB; what claims to be larger is unpacked piece by piece


class Checked(Struct, frozen=True):
    """What reading a blob found.

    `fault`: why its bytes are not those of its name or size, or "". `sound`: by its name they are right, whatever size
    some manifest says.
    """

    key: BlobKey
    read_bytes: int
    fault: str
    wrong: frozenset[Content]
    sound: bool = False

    def hurts(self, content: Content) -> bool:
        if content.is_all_of(self.key):
            return not self.sound or content.length != self.read_bytes
        return content in self.wrong


def check_blob(blobs: Blobs, key: BlobKey, size: int, contents: Sequence[Content]) -> Checked:
    """The blob, read once: is it what its name says, and which of `contents`, sorted, are wrong?"""
    name = layout.blob(blobs.pipeline, key)
    try:
        reader = blobs.backend.open(name)
    except KeyAbsentError:
        return Checked(key, 0, MISSING, frozenset(contents))
    except UnavailableError as error:
        return Checked(key, 0, medium_fault(error), frozenset(contents))
    with reader:
        if contents and size <= MAX_PACK_BYTES:
            checked = _check_at_once(reader, blobs.hash, key, size, contents)
            if checked is not None:
                return checked
            reader.seek(0)
        stream = _Stream(reader, blobs.hash)
        good, fault = _check_in_order(stream, contents)
    sound = not fault and stream.hasher.hexdigest() == key.digest
    if not fault:
        fault = size_fault(size, stream.position) or ("" if sound else OTHER_CONTENT)
    return Checked(key, stream.position, fault, frozenset(contents) - good, sound)


def _check_at_once(
    reader: BinaryIO, algorithm: HashAlgorithm, key: BlobKey, size: int, contents: Sequence[Content]
) -> Checked | None:
    """A pack whose bytes are those of its name, in memory; None where `_check_in_order` has to look closer."""
    import zstandard  # noqa: PLC0415  (start-up)

    try:
        stored = _read_exactly(reader, size)
    except OSError:
        return None
    if stored is None or algorithm.digest(stored) != key.digest:
        return None
    view = memoryview(stored)
    unpacker = zstandard.ZstdDecompressor()
    wrong = []
    for content in contents:
        stretch = view[content.offset : content.offset + content.length]
        data: bytes | memoryview | None = stretch
        if content.packing is not Packing.PLAIN:
            if content.packing is not Packing.FRAME or max(content.length, content.plain_bytes) > MAX_FRAME_BYTES:
                return None
            try:
                # A slice must be one frame that declares its size: as a restore reads it (storage/blobs.py).
                fits = zstandard.frame_content_size(stretch) == content.plain_bytes
                data = unpacker.decompress(stretch, max_output_size=content.plain_bytes) if fits else None
            except zstandard.ZstdError:
                data = None
        if data is None or len(data) != content.plain_bytes or _digest(algorithm, data) != content.digest:
            wrong.append(content)
    return Checked(key, size, "", frozenset(wrong), sound=True)


def _digest(algorithm: HashAlgorithm, data: bytes | memoryview) -> bytes:
    hasher = algorithm.hasher()
    hasher.update(data)
    return hasher.digest()


def _read_exactly(reader: BinaryIO, size: int) -> bytearray | None:
    """All that `reader` has; None unless it is so much. Raises: OSError."""
    stored = bytearray(size)
    position = 0
    while position < size and (part := reader.read(min(4 * CHUNK_BYTES, size - position))):
        stored[position : position + len(part)] = part
        position += len(part)
    return stored if position == size and not reader.read(1) else None


def _check_in_order(stream: _Stream, contents: Sequence[Content]) -> tuple[set[Content], str]:
    """The contents that are right, and why the blob could not be read to its end."""
    good: set[Content] = set()
    rest: list[Content] = []
    fault = ""
    try:
        for number, content in enumerate(contents):
            if content.offset < stream.position:
                rest.append(content)  # it overlaps another one
                continue
            rest_if_broken = contents[number:]
            stream.skip(content.offset - stream.position)
            if stream.holds(content):
                good.add(content)
        rest_if_broken = ()
        stream.skip(None)
    except OSError as error:
        fault = medium_fault(error)
        rest.extend(rest_if_broken)
    for content in rest:
        if stream.elsewhere(content):
            good.add(content)
    return good, fault


class _Stream:
    """A blob read in order; every byte goes through its hasher."""

    def __init__(self, reader: BinaryIO, algorithm: HashAlgorithm) -> None:
        import zstandard  # noqa: PLC0415  (start-up)

        self.position = 0
        self.hasher = algorithm.hasher()
        self._reader = reader
        self._algorithm = algorithm
        self._unpacker = zstandard.ZstdDecompressor()

    def skip(self, count: int | None) -> None:
        """`count` bytes are read, or all that are left."""
        for _ in self._parts(count):
            pass

    def holds(self, content: Content) -> bool:
        """The next bytes are the content; all of them are read."""
        parts = self._parts(content.length)
        if content.packing is Packing.PLAIN:
            return self._is(content, parts)
        if content.packing is Packing.FRAME and max(content.length, content.plain_bytes) <= MAX_FRAME_BYTES:
            return self._unpacked_at_once(b"".join(parts), content)
        right = self._unpacked(parts, content)
        for _ in parts:
            pass
        return right

    def elsewhere(self, content: Content) -> bool:
        """As `holds`, of bytes that lie before, or behind what cannot be read; not in the way of the rest."""
        other = _Stream(self._reader, self._algorithm)
        try:
            self._reader.seek(content.offset)
            return other.holds(content)
        except OSError as error:
            medium_fault(error)
            return False

    def _parts(self, count: int | None) -> Iterator[bytes]:
        while count is None or count > 0:
            part = self._reader.read(CHUNK_BYTES if count is None else min(CHUNK_BYTES, count))
            if not part:
                return
            self.hasher.update(part)
            self.position += len(part)
            count = None if count is None else count - len(part)
            yield part

    def _is(self, content: Content, parts: Iterable[bytes]) -> bool:
        hasher: Hasher = self._algorithm.hasher()
        size = 0
        for part in parts:
            hasher.update(part)
            size += len(part)
            if size > content.plain_bytes:
                return False
        return size == content.plain_bytes and hasher.digest() == content.digest

    def _unpacked_at_once(self, data: bytes, content: Content) -> bool:
        """A slice, which must be one frame that declares its size: as a restore reads it (storage/blobs.py)."""
        import zstandard  # noqa: PLC0415  (start-up)

        try:
            if zstandard.frame_content_size(data) != content.plain_bytes:
                return False
            return self._is(content, [self._unpacker.decompress(data, max_output_size=content.plain_bytes)])
        except zstandard.ZstdError:
            return False

    def _unpacked(self, parts: Iterator[bytes], content: Content) -> bool:
        """A file stored whole: as a restore reads it, stopped where it grows beyond its size."""
        import zstandard  # noqa: PLC0415  (start-up)

        try:
            source: IO[bytes] = _Source(parts)  # type: ignore[assignment]  # it only ever reads
            with self._unpacker.stream_reader(source, read_size=CHUNK_BYTES, closefd=False) as plain:
                return self._is(content, iter(lambda: plain.read(CHUNK_BYTES), b""))
        except zstandard.ZstdError:
            return False


class _Source:
    """A stream of parts as zstandard wants to read it."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._left = b""

    def read(self, size: int) -> bytes:
        if not self._left:
            self._left = next(self._parts, b"")
        part, self._left = self._left[:size], self._left[size:]
        return part
