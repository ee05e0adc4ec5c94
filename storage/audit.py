"""Checking stored blobs against all that manifests say of them.

A `Content` is what some manifest or block table promises about a stretch of a blob: a file stored whole, a slice of a
pack, a block, a block table. `Contents` gathers them from manifests, each once, at 57 bytes; `check_blob` then reads a
blob once, in order, and holds its bytes against its own name and against every content in it. A blob may be
damaged where nobody needs it, so what is wrong is told content by content.

Damage is a value here, never an exception. What may work later (no connection, no permission) is raised.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from functools import lru_cache
from typing import IO, BinaryIO, NamedTuple

from msgspec import Struct

from formats.blocktable import Block
from formats.errors import CorruptError, EoctlError, UnavailableError
from formats.ids import BlobKey, HashAlgorithm, Hasher
from formats.manifest import (
    BLOCK_BYTES,
    TABLE_BLOCKS,
    Blocks,
    Manifest,
    Slice,
    StateFile,
    Table,
    Whole,
    blob_key,
    files_of,
    stored_bytes_of,
)
from storage import layout
from storage.backend import Found, KeyAbsentError
from storage.blobs import CHUNK_BYTES, Blobs
from storage.transfer import each

MISSING = "missing"
OTHER_CONTENT = "content does not match its digest"
TABLE_BYTES = TABLE_BLOCKS * BLOCK_BYTES
MAX_FRAME_BYTES = 4 << 20  # slices are below 1 MiB; what claims to be larger is unpacked piece by piece

_pack_key = lru_cache(maxsize=4096)(BlobKey.parse)  # thousands of files name the same few packs
_row = struct.Struct(">QQQB32s")
_COMPACT_BYTES = 1 << 16
_BROKEN_MEDIUM = {errno.EIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR}


class Packing(IntEnum):
    """How a content lies in its stretch."""

    PLAIN = 0
    FRAME = 1  # one zstd frame that declares its size: slices
    STREAM = 2  # a zstd stream: files stored whole


class Content(NamedTuple):
    """Bytes `[offset, offset + length)` of a blob hold `plain_bytes` bytes of this digest."""

    offset: int
    length: int
    plain_bytes: int
    packing: Packing
    digest: bytes

    def is_all_of(self, key: BlobKey) -> bool:
        """The blob's own name vouches for the content."""
        return self.packing is Packing.PLAIN and self.offset == 0 and self.digest.hex() == key.digest


class Covering(NamedTuple):
    """A block table and how many bytes of its file it covers."""

    table: Table
    bytes: int


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


def content_of(file: StateFile | Table) -> tuple[BlobKey, Content] | None:
    """Where the content lies that a blob of its own or a slice holds; None for inline data and blocks."""
    digest = bytes.fromhex(file.digest)
    match file.place:
        case Whole(codec=codec) as place:
            packing = Packing.PLAIN if codec == "raw" else Packing.STREAM
            return blob_key(file, place), Content(0, stored_bytes_of(file, place), file.bytes, packing, digest)
        case Slice(pack=pack, offset=offset, length=length, codec=codec):
            packing = Packing.PLAIN if codec == "raw" else Packing.FRAME
            return _pack_key(pack), Content(offset, length, file.bytes, packing, digest)
    return None


def coverings(file: StateFile, place: Blocks) -> Iterator[Covering]:
    """The file's block tables, with what each covers."""
    for number, table in enumerate(place.tables):
        yield Covering(table, min(TABLE_BYTES, file.bytes - number * TABLE_BYTES))


def block_contents(covering: Covering, blocks: Iterable[Block]) -> Iterator[tuple[BlobKey, Content]]:
    """Where the blocks lie that the table covers; the last one may be short."""
    left = covering.bytes
    for block in blocks:
        packing = Packing.FRAME if block.compressed else Packing.PLAIN
        yield block.pack, Content(block.offset, block.length, min(BLOCK_BYTES, left), packing, block.digest)
        left -= BLOCK_BYTES


class Contents:
    """What manifests promise about blobs, beyond what their names say; only of those in `wanted`, if it is given.

    `misfits`: block tables that cannot be read or do not fit their file, with the reason; `suspects`: the blobs in
    which they lie.
    """

    def __init__(self, blobs: Blobs, wanted: Collection[BlobKey] | None = None) -> None:
        self.misfits: dict[Covering, str] = {}
        self.suspects: set[BlobKey] = set()
        self._blobs = blobs
        self._wanted = wanted
        self._rows: dict[BlobKey, bytearray] = {}
        self._compact_at: dict[BlobKey, int] = {}
        self._tables: set[Covering] = set()

    def add(self, manifest: Manifest) -> None:
        """What the manifest promises is known. Its block tables are read, each once."""
        for _, _, file in files_of(manifest):
            if isinstance(file.place, Blocks):
                self._add_blocks(file, file.place)
            else:
                self._add(content_of(file))

    def of(self, key: BlobKey) -> list[Content]:
        """What is promised about the blob, each once, in the order in which it lies."""
        rows = set(_row.iter_unpack(self._rows.get(key, b"")))
        return sorted(
            Content(offset, length, plain_bytes, Packing(packing), digest)
            for offset, length, plain_bytes, packing, digest in rows
        )

    def _add(self, found: tuple[BlobKey, Content] | None) -> None:
        if found is None or (self._wanted is not None and found[0] not in self._wanted):
            return
        key, content = found
        if content.is_all_of(key):
            return
        rows = self._rows.setdefault(key, bytearray())
        rows += _row.pack(*content)
        # A slice that a hundred snapshots share came a hundred times.
        if len(rows) >= self._compact_at.get(key, _COMPACT_BYTES):
            rows[:] = b"".join(_row.pack(*row) for row in set(_row.iter_unpack(rows)))
            self._compact_at[key] = max(_COMPACT_BYTES, 2 * len(rows))

    def _add_blocks(self, file: StateFile, place: Blocks) -> None:
        named = set(map(_pack_key, place.packs))
        for covering in coverings(file, place):
            if covering in self._tables:
                continue
            self._tables.add(covering)
            found = content_of(covering.table)
            assert found is not None, "a table lies in a blob"
            if self._wanted is None or found[0] in self._wanted or not named.isdisjoint(self._wanted):
                self._add(found)
                try:
                    blocks = read_blocks(self._blobs, covering, named)
                except CorruptError as error:
                    self.misfits[covering] = error.message
                    self.suspects.add(found[0])
                    continue
                for each_found in block_contents(covering, blocks):
                    self._add(each_found)


def read_blocks(blobs: Blobs, covering: Covering, packs: Collection[BlobKey]) -> list[Block]:
    """The blocks of the table, which fit what it covers and lie in these packs.

    Raises: CorruptError.
    """
    try:
        blocks = blobs.table(covering.table)
    except (OSError, UnavailableError) as error:
        raise CorruptError(f"a block table {_medium_fault(error)}") from error
    wanted = -(-covering.bytes // BLOCK_BYTES)
    if len(blocks) != wanted:
        raise CorruptError(f"a block table has {len(blocks)} blocks where {wanted} belong")
    if any(block.pack not in packs for block in blocks):
        raise CorruptError("a block table names a pack that its manifest does not name")
    return blocks


def find_faults(blobs: Blobs, sizes: Mapping[BlobKey, int], *, by_listing: bool) -> dict[BlobKey, str]:
    """Which blobs are missing or of another size, and why; by one listing, or by a look at each."""
    found: dict[BlobKey, int] = {}
    if by_listing:
        for value in blobs.backend.list(layout.blobs(blobs.pipeline)):
            key = layout.parse_blob(blobs.pipeline, value.key)
            if key is not None and isinstance(value, Found):
                found[key] = value.bytes
    else:
        keys = sorted(sizes)
        stats = each(keys, lambda key: blobs.backend.stat(layout.blob(blobs.pipeline, key)))
        found = {key: seen.bytes for key, seen in zip(keys, stats, strict=True) if seen is not None}
    faults = {}
    for key, size in sizes.items():
        fault = MISSING if key not in found else size_fault(size, found[key])
        if fault:
            faults[key] = fault
    return faults


def size_fault(expected: int, found: int) -> str:
    return "" if expected == found else f"expected {expected} bytes, found {found}"


def check_blob(blobs: Blobs, key: BlobKey, size: int, contents: Sequence[Content]) -> Checked:
    """The blob, read once: is it what its name says, and which of `contents`, sorted, are wrong?"""
    name = layout.blob(blobs.pipeline, key)
    try:
        reader = blobs.backend.open(name)
    except KeyAbsentError:
        return Checked(key, 0, MISSING, frozenset(contents))
    except UnavailableError as error:
        return Checked(key, 0, _medium_fault(error), frozenset(contents))
    with reader:
        stream = _Stream(reader, blobs.hash)
        good, fault = _check_in_order(stream, contents)
    sound = not fault and stream.hasher.hexdigest() == key.digest
    if not fault:
        fault = size_fault(size, stream.position) or ("" if sound else OTHER_CONTENT)
    return Checked(key, stream.position, fault, frozenset(contents) - good, sound)


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
        fault = _medium_fault(error)
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
            _medium_fault(error)
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


def _medium_fault(error: Exception) -> str:
    """What a broken disk says of one blob. Anything else may work later, and is raised.

    Raises: UnavailableError.
    """
    cause = error.__cause__ if isinstance(error, EoctlError) else error
    if isinstance(cause, OSError) and cause.errno in _BROKEN_MEDIUM:
        return f"cannot be read: {cause.strerror}"
    if isinstance(error, EoctlError):
        raise error
    raise UnavailableError(f"a blob cannot be read: {error}") from error
