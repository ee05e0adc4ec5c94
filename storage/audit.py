"""What manifests say of stored blobs, content by content.

A `Content` is what some manifest or block table promises about a stretch of a blob: a file stored whole, a slice of a
pack, a block, a block table. `Contents` gathers them from manifests, each once, at 57 bytes;
`check_blob` (storage/blob_check.py) holds a blob against them.

Damage is a value here, never an exception. What may work later (no connection, no permission) is raised.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from formats.blocktable import Block
from formats.errors import CorruptError, EoctlError, UnavailableError
from formats.ids import BlobKey
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
from storage.backend import Found
from storage.blobs import Blobs
from storage.transfer import each

MISSING = "missing"
OTHER_CONTENT = "content does not match its digest"
TABLE_BYTES = TABLE_BLOCKS * BLOCK_BYTES

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


def contents_in(rows: bytes | bytearray) -> list[Content]:
    """The contents of `Contents.rows`, each once, in order."""
    return sorted(
        Content(offset, length, plain_bytes, Packing(packing), digest)
        for offset, length, plain_bytes, packing, digest in set(_row.iter_unpack(rows))
    )


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
        self.add_files(file for _, _, file in files_of(manifest))

    def add_files(self, files: Iterable[StateFile]) -> None:
        """As `add`, of some files of a manifest."""
        for file in files:
            place = file.place
            if type(place) is Slice and place.offset:  # as `content_of` would say it, of files by the ten thousand
                key = _pack_key(place.pack)
                if self._wanted is None or key in self._wanted:
                    packing = Packing.PLAIN if place.codec == "raw" else Packing.FRAME
                    self._note(
                        key, _row.pack(place.offset, place.length, file.bytes, packing, bytes.fromhex(file.digest))
                    )
            elif isinstance(place, Blocks):
                self._add_blocks(file, place)
            else:
                self._add(content_of(file))

    def live_bytes(self, key: BlobKey) -> int:
        """How much of the blob is promised to somebody."""
        return sum(length for _, length in {row[:2] for row in _row.iter_unpack(self._rows.get(key, b""))})

    def of(self, key: BlobKey) -> list[Content]:
        """What is promised about the blob, each once, in the order in which it lies."""
        return contents_in(self.rows(key))

    def rows(self, key: BlobKey) -> bytes | bytearray:
        """The same, for `contents_in`: a quarter of the room. It may grow while contents are added."""
        return self._rows.get(key, b"")

    def _add(self, found: tuple[BlobKey, Content] | None) -> None:
        if found is None or (self._wanted is not None and found[0] not in self._wanted):
            return
        key, content = found
        if not content.is_all_of(key):
            self._note(key, _row.pack(*content))

    def _note(self, key: BlobKey, row: bytes) -> None:
        rows = self._rows.get(key)
        if rows is None:
            rows = self._rows[key] = bytearray()
        rows += row
        # A slice that a hundred snapshots share came a hundred times.
        if len(rows) >= self._compact_at.get(key, _COMPACT_BYTES):
            rows[:] = b"".join(_row.pack(*each_row) for each_row in set(_row.iter_unpack(rows)))
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
        raise CorruptError(f"a block table {medium_fault(error)}") from error
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


def medium_fault(error: Exception) -> str:
    """What a broken disk says of one blob. Anything else may work later, and is raised.

    Raises: UnavailableError.
    """
    cause = error.__cause__ if isinstance(error, EoctlError) else error
    if isinstance(cause, OSError) and cause.errno in _BROKEN_MEDIUM:
        return f"cannot be read: {cause.strerror}"
    if isinstance(error, EoctlError):
        raise error
    raise UnavailableError(f"a blob cannot be read: {error}") from error
