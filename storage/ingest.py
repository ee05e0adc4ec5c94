"""Turning the files of one source tree into state files, uploading only what the store lacks.

A file that looks as it did when the base was taken (device, inode, size, mtime; and old enough then that a
later write must show) is not read. Everything else is read once: the bytes that are hashed are the bytes that
are stored, and a file that changed meanwhile stops the checkpoint.

`link` trusts more: the store then shares the source's inode (or, where the file system can, a copy-on-write
clone of it), so nobody may write into that file again.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct, field

from formats.ids import BlobKey, Digest, Hasher
from formats.manifest import MAX_INLINE_TOTAL_BYTES, Blocks, Inline, Place, Role, StateFile, Whole
from formats.names import check_file_names
from storage.backend import LocalFile
from storage.blobs import CHUNK_BYTES, digest_of
from storage.blocks import BlockFile, BlockWriter
from storage.files import changed, compressor, opened, probe, read_all, read_chunks, share, write_all
from storage.os_errors import told
from storage.packing import PACK_BYTES, SMALL_BYTES, Layout, SourceFile, goes_inline, layout_of
from storage.packs import Packer, Pending, shrunk
from storage.session import Session
from storage.transfer import REMOTE_THREADS, THREADS, Moving, Portion, each


class Tally(Struct):
    """What an ingestion did so far: bytes of content and files, read or reused. `moving`: of files under way."""

    moving: Moving = field(default_factory=Moving)
    added_bytes: int = 0
    stored_bytes: int = 0
    read_bytes: int = 0
    total_bytes: int = 0
    inline_bytes: int = 0
    files: int = 0

    @property
    def moving_bytes(self) -> int:
        return self.moving.bytes


class _Spooled(NamedTuple):
    """A file that was copied: digest of its content; digest, size and, where it is to be sent, CRC of the copy."""

    digest: Digest
    stored_digest: Digest
    stored_bytes: int
    crc32: int | None


class Ingest(Struct, frozen=True, kw_only=True):
    """One plan's way of storing files. `progress` is called with the tally from the calling thread."""

    session: Session
    checkpoint: int
    link: bool = False
    reread: bool = False
    progress: Callable[[Tally], None] = lambda _: None
    tally: Tally = field(default_factory=Tally)

    def tree(
        self,
        root: Path,
        files: Sequence[SourceFile],
        previous: Mapping[str, StateFile],
        role: Role,
        empty_directories: Sequence[str] = (),
        layout: Layout | None = None,
        here: Callable[[Sequence[SourceFile]], Sequence[SourceFile]] = lambda files: files,
    ) -> tuple[StateFile, ...]:
        """A state file for every file below `root`, sorted by name; their content is in the store.

        `previous`: the files of the same subtask in the base, by name. `layout`: of large files; None: by name.
        `here` is asked for the files that have to be read, before they are.
        Raises: BadNameError, NameClashError, SourceChangedError, what storing raises.
        """
        names = [file.name for file in files]
        check_file_names([*names, *empty_directories])
        # The files that are as they were cost a look-up each and nothing more: there may be a hundred thousand.
        base = list(map(previous.get, names))
        same = [
            before is not None
            and before.stamp == file.version
            and before.bytes == file.bytes
            and before.stamp != ""
            and not self.reread
            for file, before in zip(files, base, strict=True)
        ]
        kept = [before for before in compress(base, same) if before is not None]
        if kept:
            self.session.borrow()
            self._count(kept)
        rest = here([file for file, is_same in zip(files, same, strict=True) if not is_same])
        found: dict[str, StateFile] = {}
        inline = [file for file in kept if isinstance(file.place, Inline)]
        outgrown = [file for file in inline if not self._room_inline(file.bytes)]
        small = [file for file in rest if file.bytes < SMALL_BYTES]
        packer = Packer(self.session.store.hash, self.session.scratch, self._upload_pack)
        try:
            self._small(root, small, outgrown, role, packer, found)
            large = [(file, layout or layout_of(file.name)) for file in rest if file.bytes >= SMALL_BYTES]
            whole = [file for file, kept_as in large if kept_as is Layout.WHOLE]
            self._immutable(root, whole, role, packer, found)
            mutable = [file for file, kept_as in large if kept_as is Layout.BLOCKS]
            self._mutable(root, mutable, role, previous, packer, found)
        finally:
            packer.discard()
        stored_files = [found.get(name, before) for name, before in zip(names, base, strict=True)]
        return tuple(file for file in stored_files if file is not None)

    def _room_inline(self, size: int) -> bool:
        """There is room for `size` more bytes inline, and it is taken."""
        if self.tally.inline_bytes + size > MAX_INLINE_TOTAL_BYTES:
            return False
        self.tally.inline_bytes += size
        return True

    def _count(self, files: Sequence[StateFile], *, read: bool = False) -> None:
        size = sum(map(attrgetter("bytes"), files))
        self.tally.total_bytes += size
        self.tally.files += len(files)
        self.tally.read_bytes += size if read else 0
        self._tell()

    def _tell(self) -> None:
        self.progress(self.tally)

    @property
    def _threads(self) -> int:
        return REMOTE_THREADS if self.session.store.place.remote else THREADS

    def _upload_pack(self, digest: Digest, size: int, body: LocalFile) -> BlobKey:
        self.tally.stored_bytes += size
        key = self.session.upload_later(digest, size, body)
        self.session.pack_bytes[str(key)] = size
        return key

    def _small(
        self,
        root: Path,
        files: Sequence[SourceFile],
        outgrown: Sequence[StateFile],
        role: Role,
        packer: Packer,
        found: dict[str, StateFile],
    ) -> None:
        """Files under 1 MiB: known contents as the store has them, a few tiny ones inline, the rest in packs."""
        tiny = goes_inline(file.bytes for file in files)
        pending: dict[str, Pending] = {}
        packed: list[StateFile] = []
        with closing(each(_batches(files), lambda batch: self._read(root, batch), threads=1)) as batches:
            for read in batches:
                for file, data, digest, packed_data in read:
                    stored = self._known(file, digest, role)
                    if stored is None:
                        self.tally.added_bytes += len(data)
                        stored = self._state_file(file, digest, Inline(data if tiny(len(data)) else b""), role)
                    if isinstance(stored.place, Inline) and not (tiny(len(data)) and self._room_inline(len(data))):
                        packed.append(stored)
                        if digest not in pending:
                            pending[digest] = packer.add_stored(
                                data if packed_data is None else packed_data, compressed=packed_data is not None
                            )
                    found[file.name] = stored
                self._count([found[file.name] for file, *_ in read], read=True)
        for stored in outgrown:
            assert isinstance(stored.place, Inline)
            packed.append(stored)
            if stored.digest not in pending:
                pending[stored.digest] = packer.add(stored.place.data)
        packer.close()
        for stored in packed:
            found[stored.name] = msgspec.structs.replace(stored, place=pending[stored.digest].place)
            self.session.remember(found[stored.name])

    def _read(self, root: Path, files: Sequence[SourceFile]) -> list[tuple[SourceFile, bytes, Digest, bytes | None]]:
        """Small files: content, digest and, where that pays, the compressed form. Runs in a thread of its own."""
        packer = compressor()
        read = []
        for file in files:
            with opened(root, file) as descriptor:
                data = read_all(descriptor, file)
            read.append((file, data, self.session.store.hash.digest(data), shrunk(data, packer)))
        return read

    def _immutable(
        self, root: Path, files: Sequence[SourceFile], role: Role, packer: Packer, found: dict[str, StateFile]
    ) -> None:
        """Large files that never change: each a blob, or where it shrinks to less than 1 MiB a slice of a pack."""
        packed: list[StateFile] = []
        pending: dict[str, Pending] = {}
        work = each(files, lambda file: self._whole(root, file, role), threads=self._threads, tick=self._tell)
        with closing(work) as wholes:
            for stored, stored_bytes, shrunk_data in wholes:
                found[stored.name] = stored
                if shrunk_data is not None:
                    packed.append(stored)
                    if stored.digest not in pending:
                        pending[stored.digest] = packer.add_stored(shrunk_data, compressed=True)
                self.tally.stored_bytes += stored_bytes
                self.tally.added_bytes += stored.bytes if stored.first_stored_in == self.checkpoint else 0
                self.tally.moving.add(-stored.bytes)
                self._count([stored], read=True)
        packer.close()
        for stored in packed:
            found[stored.name] = msgspec.structs.replace(stored, place=pending[stored.digest].place)
            self.session.remember(found[stored.name])

    def _whole(self, root: Path, file: SourceFile, role: Role) -> tuple[StateFile, int, bytes | None]:
        """The file in a blob of its own and what that took, or its compressed bytes. Runs in several threads."""
        scratch = self.session.scratch()
        portion = Portion(self.tally.moving, file.bytes, stages=2 if self.session.store.place.remote else 1)
        try:
            return self._in_a_blob(root, file, role, scratch, portion)
        finally:
            scratch.unlink(missing_ok=True)
            portion.end()

    def _in_a_blob(
        self, root: Path, file: SourceFile, role: Role, scratch: Path, portion: Portion
    ) -> tuple[StateFile, int, bytes | None]:
        was_read = portion.stage(file.bytes)
        with opened(root, file) as descriptor:
            linked = self.link and self._share(root, file, descriptor, scratch)
            shrink = not linked and probe(descriptor, file.bytes)
            if linked:
                with scratch.open("rb", buffering=0) as shared:
                    digest = stored_digest = digest_of(shared, self.session.store.hash)
                stored_bytes, crc = file.bytes, None
            else:
                digest, stored_digest, stored_bytes, crc = self._spool(descriptor, scratch, was_read, shrink=shrink)
        known = self._known(file, digest, role)
        if known is not None:
            return known, 0, None
        if stored_bytes < SMALL_BYTES and file.bytes <= PACK_BYTES:
            return self._state_file(file, digest, Inline(b""), role), 0, scratch.read_bytes()
        body = LocalFile(scratch, sent=portion.stage(stored_bytes), crc32=crc)
        key = self.session.upload(stored_digest, stored_bytes, body)
        place = Whole(key.era, "zstd", stored_digest, stored_bytes) if shrink else Whole(key.era)
        stored = self._state_file(file, digest, place, role)
        self.session.remember(stored)
        return stored, stored_bytes, None

    def _share(self, root: Path, file: SourceFile, descriptor: int, scratch: Path) -> bool:
        """`scratch` shares the bytes of the opened file. False where they have to be copied."""
        if not share(root / file.name, scratch):
            return False
        linked, source = scratch.stat(), os.fstat(descriptor)
        if linked.st_size != source.st_size or (linked.st_nlink > 1 and linked.st_ino != source.st_ino):
            raise changed(f"{root}/{file.name}")  # replaced between opening and linking
        return True

    def _spool(self, descriptor: int, scratch: Path, was_read: Callable[[int], None], *, shrink: bool) -> _Spooled:
        """The file is in `scratch`."""
        plain, stored = self.session.store.hash.hasher(), self.session.store.hash.hasher()
        checked = self.session.store.place.remote  # what is sent is checked on arrival
        size = crc = 0
        with told(scratch), scratch.open("xb", buffering=0) as target:
            packer = compressor().compressobj(size=os.fstat(descriptor).st_size) if shrink else None
            for chunk in read_chunks(descriptor):
                was_read(len(chunk))
                plain.update(chunk)
                data: bytes | memoryview = chunk if packer is None else packer.compress(chunk)
                if packer is not None:
                    stored.update(data)
                crc = zlib.crc32(data, crc) if checked else 0
                size += write_all(target.fileno(), data)
            if packer is not None:
                data = packer.flush()
                stored.update(data)
                crc = zlib.crc32(data, crc) if checked else 0
                size += write_all(target.fileno(), data)
        digest = Digest(plain.hexdigest())
        return _Spooled(digest, Digest(stored.hexdigest()) if shrink else digest, size, crc if checked else None)

    def _mutable(
        self,
        root: Path,
        files: Sequence[SourceFile],
        role: Role,
        previous: Mapping[str, StateFile],
        packer: Packer,
        found: dict[str, StateFile],
    ) -> None:
        """Large mutable files: only blocks that differ from the same file in the base are stored."""
        writer = BlockWriter(self.session, packer)
        written: list[tuple[SourceFile, BlockFile]] = []
        for file in files:
            before = previous.get(file.name)
            old = before.place if before is not None and isinstance(before.place, Blocks) else None
            with opened(root, file) as descriptor:
                shrink = probe(descriptor, file.bytes)
                whole = self.session.store.hash.hasher()
                # Closed before the descriptor is, whatever happens: a thread reads from it.
                with closing(_hashed_ahead(descriptor, file.bytes, whole)) as ahead:
                    block_file = writer.add(self._counted(ahead), old, whole, compress=shrink)
            written.append((file, block_file))
            self.tally.added_bytes += block_file.added_bytes
            self.tally.read_bytes += file.bytes
        writer.finish()
        for file, block_file in written:
            known = self._known(file, block_file.digest, role)
            found[file.name] = known or self._state_file(file, block_file.digest, block_file.place(), role)
            self.tally.moving.add(-file.bytes)
            self._count([found[file.name]])

    def _counted(self, chunks: Iterator[memoryview]) -> Iterator[memoryview]:
        for chunk in chunks:
            self.tally.moving.add(len(chunk))
            self._tell()
            yield chunk

    def _known(self, file: SourceFile, digest: Digest, role: Role) -> StateFile | None:
        known = self.session.find(digest)
        if known is None or known.bytes != file.bytes:
            return None
        return msgspec.structs.replace(known, name=file.name, stamp=_stamp(file), role=role)

    def _state_file(self, file: SourceFile, digest: Digest, place: Place, role: Role) -> StateFile:
        return StateFile(
            name=file.name,
            bytes=file.bytes,
            digest=digest,
            place=place,
            first_stored_in=self.checkpoint,
            role=role,
            stamp=_stamp(file),
        )


def _hashed_ahead(descriptor: int, size: int, whole: Hasher) -> Generator[memoryview, None, None]:
    """The file in pieces of 1 MiB, read and taken in by `whole` in a thread of their own, a little ahead."""
    source = read_chunks(descriptor, buffers=4)  # in use, and two that wait, and one being read

    def read(_: int) -> memoryview | None:
        chunk = next(source, None)
        if chunk is not None:
            whole.update(chunk)
        return chunk

    with closing(each(range(-(-size // CHUNK_BYTES) + 1), read, threads=1)) as chunks:
        for chunk in chunks:
            if chunk is not None:
                yield chunk


def _stamp(file: SourceFile) -> str:
    """Only a stamp that a later write must change may save reading the file next time."""
    return file.origin or (file.stamp if file.settled else "")


def _batches(files: Sequence[SourceFile]) -> Iterator[Sequence[SourceFile]]:
    """Files to be read in a row: enough to be worth a turn, at most about 1 MiB."""
    start = size = 0
    for end, file in enumerate(files):
        if end > start and size + file.bytes > SMALL_BYTES:
            yield files[start:end]
            start, size = end, 0
        size += file.bytes
    if start < len(files):
        yield files[start:]
