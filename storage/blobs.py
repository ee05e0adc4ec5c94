"""(digest, era) <-> bytes: written once and confirmed, verified while they are read.

`put` ends with the blob confirmed: we created it, or its bytes were read back and are the right ones.
`content` yields a file's bytes in order and raises before its end unless they hash to the file's digest; so a
caller that makes them visible only after the last one never serves a wrong byte (I7).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

from msgspec import Struct

from formats.blocktable import MAX_TABLE_BYTES, Block, decode_table
from formats.errors import BadManifestError, BlobGoneError, ConflictError, CorruptError, OutcomeUnknownError
from formats.ids import BlobKey, Digest, HashAlgorithm, PipelineId
from formats.manifest import (
    BLOCK_BYTES,
    MAX_PACK_BYTES,
    TABLE_BLOCKS,
    Blocks,
    Inline,
    Slice,
    StateFile,
    Table,
    Whole,
    blob_key,
)
from storage import layout
from storage.backend import Backend, Body, CopyOf, Key, KeyAbsentError

if TYPE_CHECKING:
    import zstandard

CHUNK_BYTES = 1 << 20


class PoisonedNameError(ConflictError):
    """Other bytes lie under a blob's name: they are left alone, and the session goes on in a new era."""

    kind = "poisoned-name"


class Blobs(Struct, frozen=True):
    """The blobs of one pipeline."""

    backend: Backend
    pipeline: PipelineId
    hash: HashAlgorithm

    def put(self, key: BlobKey, body: Body) -> None:
        """The blob is there, durable, and its bytes are those of its digest.

        Raises: PoisonedNameError, KeyAbsentError (a copy whose source is gone), what the backend raises.
        """
        name = layout.blob(self.pipeline, key)
        try:
            created = self.backend.create(name, body)
        except OutcomeUnknownError:
            if self.backend.stat(name) is None:
                raise
            created = False
        if not created or isinstance(body, CopyOf):
            with self.backend.open(name) as file:
                if digest_of(file, self.hash) != key.digest:
                    message = f"other bytes lie under the name of a blob: {name}"
                    raise PoisonedNameError(message)

    def holds(self, key: BlobKey, size: int) -> bool:
        """The blob is there with the right bytes, which are read if the size fits."""
        name = layout.blob(self.pipeline, key)
        found = self.backend.stat(name)
        if found is None or found.bytes != size:
            return False
        try:
            with self.backend.open(name) as file:
                return digest_of(file, self.hash) == key.digest
        except KeyAbsentError:
            return False

    def content(self, file: StateFile | Table) -> Iterator[bytes]:
        """The file's bytes in order, none longer than 1 MiB, or an error before the end.

        Raises: BlobGoneError, CorruptError.
        """
        hasher = self.hash.hasher()
        size = 0
        try:
            for part in self._parts(file):
                hasher.update(part)
                size += len(part)
                if size > file.bytes:
                    break
                yield part
        except KeyAbsentError as error:
            raise self._gone(error) from error
        if size != file.bytes or hasher.hexdigest() != file.digest:
            raise self._corrupt(file)

    def part(self, file: StateFile, start: int, length: int) -> bytes:
        """That range of a file that is a blob of its own, as it is stored: nothing tells whether it is right.

        Raises: BlobGoneError; CorruptError where the blob ends before.
        """
        assert isinstance(file.place, Whole)
        try:
            with self.backend.open(layout.blob(self.pipeline, blob_key(file, file.place)), start, length) as reader:
                data = reader.read(length)
        except KeyAbsentError as error:
            raise self._gone(error) from error
        if len(data) != length:
            raise self._corrupt(file)
        return data

    def slices(self, pack: str, files: Sequence[StateFile]) -> Iterator[tuple[StateFile, bytes | memoryview]]:
        """Each file of the pack with its content, in the order given; the pack is read once.

        Raises: BlobGoneError, CorruptError.
        """
        import zstandard  # noqa: PLC0415  (start-up)

        name = layout.blob(self.pipeline, BlobKey.parse(pack))
        unpacker = zstandard.ZstdDecompressor()
        try:
            with self.backend.open(name) as reader:
                stored = memoryview(reader.read(MAX_PACK_BYTES))
        except KeyAbsentError as error:
            raise self._gone(error) from error
        for file in files:
            place = file.place
            assert isinstance(place, Slice), "a group of slices"
            data: bytes | memoryview = stored[place.offset : place.offset + place.length]
            if place.codec == "zstd":
                data = self._unpack(unpacker, data, file.bytes, name)
            if len(data) != file.bytes or self.hash.digest(data) != file.digest:
                raise self._corrupt(file)
            yield file, data

    def _gone(self, error: KeyAbsentError) -> BlobGoneError:
        message = f"a blob is gone: {error.message.removeprefix('there is no ')}"
        return BlobGoneError(message, hint=f"eoctl checkpoint verify -p {self.pipeline}")

    def _parts(self, file: StateFile | Table) -> Iterator[bytes]:
        match file.place:
            case Inline(data=data):
                yield data
            case Whole() as place:
                with self.backend.open(layout.blob(self.pipeline, blob_key(file, place))) as reader:
                    if place.codec == "raw":
                        yield from chunks(reader)
                    else:
                        yield from self._unpacked(reader, file)
            case Slice(pack=pack, offset=offset, length=length, codec=codec):
                name = layout.blob(self.pipeline, BlobKey.parse(pack))
                with self.backend.open(name, offset, length) as reader:
                    data = reader.read(length)
                yield self.unpack(data, file.bytes, name) if codec == "zstd" else data
            case Blocks(tables=tables):
                remaining = file.bytes
                for table in tables:
                    for data in self._blocks(self.table(table), remaining):
                        yield data
                        remaining -= len(data)

    def table(self, table: Table) -> list[Block]:
        """The decoded block table. Raises: BlobGoneError, CorruptError."""
        if table.bytes > MAX_TABLE_BYTES:
            raise self._corrupt(table)
        try:
            return decode_table(b"".join(self.content(table)))
        except BadManifestError as error:
            raise CorruptError(error.message) from error

    def _blocks(self, blocks: list[Block], remaining: int) -> Iterator[bytes]:
        """The content of each block of a table; blocks of one pack in a row are read through one reader of it."""
        remaining = min(remaining, TABLE_BLOCKS * BLOCK_BYTES)
        opened: BinaryIO | None = None
        pack: BlobKey | None = None
        try:
            for block in blocks:
                if opened is None or block.pack != pack:
                    if opened is not None:
                        opened.close()
                    pack, opened = block.pack, self.backend.open(layout.blob(self.pipeline, block.pack))
                opened.seek(block.offset)
                data = opened.read(block.length)
                name = layout.blob(self.pipeline, block.pack)
                size = min(BLOCK_BYTES, remaining)
                if block.compressed:
                    data = self.unpack(data, size, name)
                if len(data) != size or bytes.fromhex(self.hash.digest(data)) != block.digest:
                    message = f"a block does not match its digest: offset {block.offset} of {name}"
                    raise CorruptError(message, hint=f"eoctl checkpoint verify -p {self.pipeline}")
                remaining -= size
                yield data
        finally:
            if opened is not None:
                opened.close()

    def _unpacked(self, reader: BinaryIO, file: StateFile | Table) -> Iterator[bytes]:
        """The content of a zstd blob, stopped as soon as it grows beyond the file's size."""
        import zstandard  # noqa: PLC0415  (start-up)

        size = 0
        try:
            with zstandard.ZstdDecompressor().stream_reader(reader, closefd=False) as plain:
                while part := plain.read(CHUNK_BYTES):
                    size += len(part)
                    yield part
                    if size > file.bytes:
                        return
        except zstandard.ZstdError as error:
            raise self._corrupt(file) from error

    def unpack(self, data: bytes, size: int, name: Key) -> bytes:
        """A slice of `size` plain bytes. Raises: CorruptError."""
        import zstandard  # noqa: PLC0415  (start-up)

        return self._unpack(zstandard.ZstdDecompressor(), data, size, name)

    def _unpack(self, unpacker: zstandard.ZstdDecompressor, data: bytes | memoryview, size: int, name: Key) -> bytes:
        import zstandard  # noqa: PLC0415  (start-up)

        try:
            # A frame that declares another size is not ours; one that declares none is bounded by `size`.
            if size > 0 and zstandard.frame_content_size(data) in {size, -1}:
                return unpacker.decompress(data, max_output_size=size)
        except zstandard.ZstdError:
            pass
        message = f"a slice cannot be unpacked: {name}"
        raise CorruptError(message, hint=f"eoctl checkpoint verify -p {self.pipeline}")

    def _corrupt(self, file: StateFile | Table) -> CorruptError:
        match file.place:
            case Whole() as place:
                where = str(layout.blob(self.pipeline, blob_key(file, place)))
            case Slice(pack=pack, offset=offset):
                where = f"offset {offset} of {layout.blob(self.pipeline, BlobKey.parse(pack))}"
            case Inline():
                where = "inline in the manifest"
            case _:
                where = f"{len(file.place.tables)} block tables"
        what = file.name if isinstance(file, StateFile) else "a block table"
        message = f"content does not match its digest: {what}, {Digest(file.digest)[:12]}, {where}"
        return CorruptError(message, hint=f"eoctl checkpoint verify -p {self.pipeline}")


def chunks(reader: BinaryIO) -> Iterator[bytes]:
    """What is left in `reader`, in pieces of at most 1 MiB."""
    while part := reader.read(CHUNK_BYTES):
        yield part


def digest_of(reader: BinaryIO, algorithm: HashAlgorithm) -> Digest:
    """The digest of what is left in `reader`."""
    hasher = algorithm.hasher()
    for part in chunks(reader):
        hasher.update(part)
    return Digest(hasher.hexdigest())
