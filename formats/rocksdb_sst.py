"""RocksDB's tables (`.sst`, block-based), read without RocksDB.

    data blocks | meta blocks (filter, index, properties, range tombstones) | metaindex | footer

The footer is the last 53 bytes: the kind of checksum (1), then in versions up to 5 the handles of the metaindex and of
the index as varints, padded to 40 bytes; then the format version, u32, and the magic number 0x88E241B785F4CFF7, u64,
little-endian. From version 6 on the 40 bytes are `3e 00 7a 00`, the footer's own checksum, the number that goes into
the block checksums, the size of the metaindex (it lies right in front of the footer), each u32, and zeros; the index is
named in the metaindex. Version 0 has an older footer, and is refused.

The index holds a separator and a handle for each data block; it is one block, or, "two-level", an index of such blocks.
A key in a data block is the user's key and 8 bytes: u64 little-endian of sequence number << 8 | type. Types: 0 delete,
1 put, 2 merge operand, 7 single delete, 15 range tombstone (from key to value, in a meta block of its own).

Rules kept here: no byte is used before its checksum was looked at; memory is that of a chunk of blocks; what is not
known (another comparator, wide columns, blobs, dictionaries, timestamps) is refused by name.

Source: RocksDB 8.10.0, `table/format.cc`, `table/block_based/`, `db/dbformat.h`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

from formats.binary import Cursor
from formats.errors import CorruptError, UnsupportedError
from formats.rocksdb_block import (
    MAX_BLOCK_BYTES,
    TRAILER_BYTES,
    Checksum,
    Handle,
    read_entries,
    read_index,
    unpack,
)
from formats.rocksdb_columns import read_columns

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = 0x88E241B785F4CFF7
PUT, DELETE, MERGE, SINGLE_DELETE, RANGE_TOMBSTONE = 1, 0, 2, 7, 15
CHUNK_BYTES = 1 << 19
MAX_RANGE_TOMBSTONES = 1 << 20

_FOOTER_BYTES = 53
_OLD_MAGIC = 0xDB4775248B80FB57
_PLAIN_MAGICS = {0x8242229663BF9564: "plain", 0x4F3418EB7A8F13B8: "plain", 0x926789D0C5F17873: "cuckoo"}
_EXTENDED = b"\x3e\0\x7a\0"
_GLOBAL_SEQUENCE = "rocksdb.external_sst_file.global_seqno"
_BYTEWISE = "leveldb.BytewiseComparator"
_KINDS = frozenset({PUT, DELETE, MERGE, SINGLE_DELETE})


class Readable(Protocol):
    """What a table is read from; a file that is open for reading bytes is one."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...


class Entry(NamedTuple):
    """One version of a key."""

    key: bytes
    sequence: int
    kind: int
    value: bytes


class RangeTombstone(NamedTuple):
    """All that is older, from `start` up to but not including `stop`, is deleted."""

    start: bytes
    stop: bytes
    sequence: int


class Chunk(NamedTuple):
    """Entries as they lie in some neighbouring blocks: internal keys, which end with 8 bytes of sequence and type."""

    keys: pa.Array
    values: pa.Array


class _Footer(NamedTuple):
    version: int
    checksum: Checksum
    metaindex: Handle
    index_handle: Handle | None


class Table:
    """One table file; the file is read when it is asked for, and must stay open."""

    def __init__(self, data: Readable | bytes, *, what: str = "table") -> None:
        """Raises: CorruptError; UnsupportedError, where it is no table of a kind known here."""
        self.what = what
        self._file: Readable = io.BytesIO(data) if isinstance(data, bytes) else data
        self.size = self._file.seek(0, io.SEEK_END)
        self._footer = self._read_footer()
        self._meta = self._read_metaindex()
        self.properties = self._read_properties()
        self._refuse_unknown()

    @property
    def format_version(self) -> int:
        return self._footer.version

    @property
    def column_family(self) -> str:
        return self._text("rocksdb.column.family.name")

    @property
    def entries(self) -> int:
        """As its writer counted them, range tombstones included."""
        return self._number("rocksdb.num.entries")

    @property
    def is_ingested(self) -> bool:
        """Made outside of a database: its sequence numbers are 0, the one that counts is `global_sequence`."""
        return "rocksdb.external_sst_file.version" in self.properties

    @property
    def global_sequence(self) -> int:
        """Of all entries of an ingested file; 0: only the database's MANIFEST tells."""
        raw = self.properties.get(_GLOBAL_SEQUENCE, b"")
        return int.from_bytes(raw[:8], "little")

    @cached_property
    def range_tombstones(self) -> tuple[RangeTombstone, ...]:
        handle = self._meta.get("rocksdb.range_del")
        if handle is None:
            return ()
        starts: list[bytes] = []
        stops: list[bytes] = []
        read_entries(self._block(handle), starts, stops, self.what)
        if len(starts) > MAX_RANGE_TOMBSTONES:
            raise UnsupportedError(f"{self.what}: {len(starts)} range tombstones (limit {MAX_RANGE_TOMBSTONES})")
        found = []
        for start, stop in zip(starts, stops, strict=True):
            key, sequence, kind = split(start, self.what)
            if kind != RANGE_TOMBSTONE:
                raise CorruptError(f"{self.what}: an entry of type {kind} among the range tombstones", offset=0)
            found.append(RangeTombstone(key, stop, sequence))
        return tuple(found)

    def first_key(self, start: bytes | None = None) -> bytes | None:
        """The first user key of the first block that may have keys from `start` on; None, where there is none."""
        handle = next(self._handles(start, None), None)
        if handle is None:
            return None
        keys: list[bytes] = []
        read_entries(self._block(handle), keys, [], self.what)
        return split(keys[0], self.what)[0] if keys else None

    def chunks(self, start: bytes | None = None, stop: bytes | None = None) -> Iterator[Chunk]:
        """The entries in order, those of user keys in [start, stop) and some around them; no chunk is empty."""
        contents: list[bytes] = []
        content_bytes = 0
        for span in _spans(self._handles(start, stop)):
            stored = memoryview(self._read(span[0].offset, _end(span[-1]) - span[0].offset))
            for handle in span:
                at = handle.offset - span[0].offset
                content = self._unpack(stored[at : at + handle.size + TRAILER_BYTES], handle)
                contents.append(content)
                content_bytes += len(content)
                if content_bytes >= 4 * CHUNK_BYTES:
                    yield from self._chunk(contents)
                    contents, content_bytes = [], 0
            yield from self._chunk(contents)
            contents, content_bytes = [], 0

    def _chunk(self, contents: list[bytes]) -> Iterator[Chunk]:
        """The entries of the blocks; nothing where there are none."""
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        found = read_columns(contents)
        if found is not None:
            yield Chunk(*found)
            return
        keys: list[bytes] = []
        values: list[bytes] = []
        for content in contents:
            read_entries(content, keys, values, self.what)
        if keys and min(map(len, keys)) < 8:
            raise CorruptError(f"{self.what}: a key of less than 8 bytes")
        if keys:
            yield Chunk(pa.array(keys, pa.binary()), pa.array(values, pa.binary()))

    def verify(self) -> int:
        """Every block was read and matches its checksum; how many entries there are.

        Raises: as reading does; CorruptError, where they are not as many as the properties say.
        """
        for name, handle in self._meta.items():
            if name != "rocksdb.properties":  # read when this was made
                self._block(handle)
        entries = sum(len(chunk.keys) for chunk in self.chunks()) + len(self.range_tombstones)
        if "rocksdb.num.entries" in self.properties and entries != self.entries:
            raise CorruptError(f"{self.what}: {entries} entries, and {self.entries} by its properties")
        return entries

    def _handles(self, start: bytes | None, stop: bytes | None) -> Iterator[Handle]:
        """Of the data blocks; each lies after the one before, so that no block is read twice."""
        end = 0
        for handle in self._index_blocks(start, stop):
            if handle.offset < end:
                raise CorruptError(f"{self.what}: blocks that overlap, at byte {handle.offset}", offset=handle.offset)
            end = _end(handle)
            yield handle

    def _index_blocks(self, start: bytes | None, stop: bytes | None) -> Iterator[Handle]:
        assert self._footer.index_handle is not None
        index = self._narrowed(self._footer.index_handle, start, stop)
        if not self._is_two_level:
            yield from index
            return
        end = 0
        for handle in index:
            if handle.offset < end:
                raise CorruptError(f"{self.what}: indexes that overlap, at byte {handle.offset}", offset=handle.offset)
            end = _end(handle)
            yield from self._narrowed(handle, start, stop)

    def _narrowed(self, handle: Handle, start: bytes | None, stop: bytes | None) -> Iterator[Handle]:
        """The blocks that an index names and that may have user keys in [start, stop)."""
        trailer = 0 if self._number("rocksdb.index.key.is.user.key") else 8
        delta = bool(self._number("rocksdb.index.value.is.delta.encoded"))
        for separator, block in read_index(self._block(handle), self.what, delta=delta):
            key = separator[: len(separator) - trailer]
            if start is None or key >= start:
                yield block
            if stop is not None and key >= stop:
                return

    @property
    def _is_two_level(self) -> bool:
        return self._fixed("rocksdb.block.based.table.index.type") == 2

    def _read_footer(self) -> _Footer:
        size = min(self.size, _FOOTER_BYTES)
        place = self.size - size
        footer = Cursor(self._read(place, size), what=self.what)
        magic = int.from_bytes(footer.data[-8:], "little")
        if size < _FOOTER_BYTES or magic != MAGIC:
            if magic in _PLAIN_MAGICS:
                raise UnsupportedError(f"{self.what}: a {_PLAIN_MAGICS[magic]} table of RocksDB, not a block-based one")
            if magic == _OLD_MAGIC:
                raise UnsupportedError(f"{self.what}: a table of RocksDB's format version 0")
            raise CorruptError(f"{self.what}: not a table of RocksDB (no magic number at the end)", offset=self.size)
        version = int.from_bytes(footer.data[-12:-8], "little")
        kind = footer.u8("the kind of checksum")
        if not 2 <= version <= 6:
            raise UnsupportedError(f"{self.what}: a table of format version {version}; known are 2 to 6")
        if version < 6:
            metaindex = Handle(footer.varint("an offset"), footer.varint("a size"))
            index = Handle(footer.varint("an offset"), footer.varint("a size"))
            return _Footer(version, Checksum(kind), metaindex, index)
        return self._extended_footer(footer, version, kind, place)

    def _extended_footer(self, footer: Cursor, version: int, kind: int, place: int) -> _Footer:
        if footer.raw(4) != _EXTENDED:
            raise footer.error("not the footer of a table", at=1)
        stored_sum, context, size = footer.u32_le(), footer.u32_le(), footer.u32_le()
        blank = footer.data[:5] + bytes(4) + footer.data[9:]
        Checksum(kind, context).check_footer(blank, stored_sum, place, self.what)
        metaindex = Handle(place - TRAILER_BYTES - size, size)
        return _Footer(version, Checksum(kind, context), metaindex, None)

    def _read_metaindex(self) -> dict[str, Handle]:
        names: list[bytes] = []
        values: list[bytes] = []
        read_entries(self._block(self._footer.metaindex), names, values, self.what)
        found = {}
        for name, value in zip(names, values, strict=True):
            cursor = Cursor(value, what=self.what)
            found[name.decode("utf-8", "replace")] = Handle(cursor.varint("an offset"), cursor.varint("a size"))
        if self._footer.index_handle is None:
            if "rocksdb.index" not in found:
                raise CorruptError(f"{self.what}: no index is named")
            self._footer = self._footer._replace(index_handle=found["rocksdb.index"])
        return found

    def _read_properties(self) -> dict[str, bytes]:
        handle = self._meta.get("rocksdb.properties")
        if handle is None:
            raise CorruptError(f"{self.what}: a table without properties")
        names: list[bytes] = []
        values: list[bytes] = []
        read_entries(self._properties_block(handle), names, values, self.what)
        return {name.decode("utf-8", "replace"): value for name, value in zip(names, values, strict=True)}

    def _properties_block(self, handle: Handle) -> bytes:
        """The block; RocksDB writes the sequence of an ingested file into it, whose checksum stays that of a zero."""
        stored = self._read(handle.offset, handle.size + TRAILER_BYTES)
        at = stored.find(_GLOBAL_SEQUENCE.encode()[-12:], 0, handle.size)
        if at < 0:
            return self._unpack(memoryview(stored), handle)
        start = at + 12
        as_written = stored[:start] + bytes(8) + stored[start + 8 :]
        try:
            content = self._unpack(memoryview(as_written), handle)
        except CorruptError:
            return self._unpack(memoryview(stored), handle)
        return content[:start] + stored[start : start + 8] + content[start + 8 :]

    def _refuse_unknown(self) -> None:
        comparator = self._text("rocksdb.comparator")
        if comparator != _BYTEWISE:
            raise UnsupportedError(f"{self.what}: keys are ordered by {comparator[:100]!r}, not as bytes")
        index_type = self._fixed("rocksdb.block.based.table.index.type")
        if index_type > 2:
            raise UnsupportedError(f"{self.what}: an index of type {index_type}")
        if "rocksdb.compression_dict" in self._meta:
            raise UnsupportedError(f"{self.what}: blocks compressed with a dictionary")

    def _text(self, name: str) -> str:
        return self.properties.get(name, b"").decode("utf-8", "replace")

    def _number(self, name: str) -> int:
        raw = self.properties.get(name)
        return 0 if raw is None else Cursor(raw, what=self.what).varint(name)

    def _fixed(self, name: str) -> int:
        return int.from_bytes(self.properties.get(name, b"")[:4], "little")

    def _block(self, handle: Handle) -> bytes:
        return self._unpack(memoryview(self._read(handle.offset, handle.size + TRAILER_BYTES)), handle)

    def _unpack(self, stored: memoryview, handle: Handle) -> bytes:
        footer = self._footer
        return unpack(stored, handle, checksum=footer.checksum, format_version=footer.version, what=self.what)

    def _read(self, offset: int, size: int) -> bytes:
        if offset < 0 or size > MAX_BLOCK_BYTES or offset + size > self.size:
            raise CorruptError(f"{self.what}: {size} bytes at byte {offset} of {self.size}", offset=offset)
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise CorruptError(f"{self.what}: the file ends early, at byte {offset + len(data)}", offset=offset)
        return data


def read_table(table: Table) -> Iterator[Entry]:
    """Every version of every key, in order of keys, newest first; range tombstones are apart."""
    for keys, values in table.chunks():
        for internal, value in zip(keys.to_pylist(), values.to_pylist(), strict=True):
            key, sequence, kind = split(internal, table.what)
            yield Entry(key, sequence, kind, value)


def split(internal: bytes, what: str) -> tuple[bytes, int, int]:
    """The user's key, sequence number and type of an internal key."""
    if len(internal) < 8:
        raise CorruptError(f"{what}: a key of {len(internal)} bytes")
    number = int.from_bytes(internal[-8:], "little")
    return internal[:-8], number >> 8, number & 0xFF


def _end(handle: Handle) -> int:
    return handle.offset + handle.size + TRAILER_BYTES


def _spans(handles: Iterator[Handle]) -> Iterator[list[Handle]]:
    """Neighbours together, as many as are read at once."""
    span: list[Handle] = []
    for handle in handles:
        if span and (handle.offset != _end(span[-1]) or _end(handle) - span[0].offset > CHUNK_BYTES):
            yield span
            span = []
        span.append(handle)
    if span:
        yield span
