"""Intact copies of contents that are damaged: found by digest, in directories and in the store itself.

A content is wanted by its digest and size, whatever it is: a user's file, a stored blob or manifest (in a copy of a
store), or a block of 64 KiB, which is found inside any larger file too. What was found is hashed again when it is
used, so a source may change meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from msgspec import Struct

from formats.errors import CorruptError, UnavailableError, UsageError
from formats.ids import BlobKey, HashAlgorithm, PipelineId
from formats.manifest import BLOCK_BYTES, Blocks, Manifest, StateFile, files_of
from storage import layout
from storage.backend import Found, Key, KeyAbsentError
from storage.blobs import CHUNK_BYTES, Blobs, chunks
from storage.store import Store

_UNREADABLE = (CorruptError, KeyAbsentError, UnavailableError, OSError)  # a source that is no source


class Copy(Struct, frozen=True):
    """Where a content lies, for people, and its bytes."""

    where: str
    read: Callable[[], Iterator[bytes]]


class Copies:
    """What was found of the wanted digests."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self.searched_files = 0
        self.searched_bytes = 0
        self.hash = algorithm
        self._tried: set[object] = set()
        self._found: dict[str, list[Copy]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._found

    def where(self, digest: str) -> str:
        return self._found[digest][0].where if digest in self._found else ""

    def add(self, digest: str, copy: Copy) -> None:
        self._found.setdefault(digest, []).append(copy)

    def offer(self, digest: str, place: object, copy: Copy) -> None:
        """The copy is taken if its bytes are right now. A place is looked at once, however many snapshots name it."""
        if (digest, place) in self._tried:
            return
        self._tried.add((digest, place))
        hasher = self.hash.hasher()
        try:
            for part in copy.read():
                hasher.update(part)
        except _UNREADABLE:
            return
        if hasher.hexdigest() == digest:
            self.add(digest, copy)

    def read(self, digest: str, size: int) -> bytes | None:
        """The content, if some copy is still right."""
        for copy in self._found.get(digest, ()):
            parts: list[bytes] = []
            try:
                for part in copy.read():
                    parts.append(part)
                    if sum(map(len, parts)) > size:
                        break
            except _UNREADABLE:
                continue
            data = b"".join(parts)
            if self.hash.digest(data) == digest:
                return data
        return None

    def tries(self, digest: str) -> Iterator[Callable[[], Iterator[bytes]]]:
        """Each copy, to be read and checked by who uses it; an error of its medium ends it early."""
        for copy in self._found.get(digest, ()):
            yield partial(_as_far_as_readable, copy)


def _as_far_as_readable(copy: Copy) -> Iterator[bytes]:
    try:
        yield from copy.read()
    except _UNREADABLE:
        return


def check_folders(folders: Iterable[Path]) -> list[Path]:
    """Raises: UsageError where one does not exist."""
    found = [folder.expanduser() for folder in folders]
    for folder in found:
        if not folder.exists():
            raise UsageError(f"no such directory: {folder}", hint="--from DIR: where intact files may lie")
    return found


def search_folders(copies: Copies, folders: Iterable[Path], wanted: Mapping[str, int]) -> None:
    """Every regular file below the folders has been looked at. Links are not followed."""
    sizes = frozenset(wanted.values())
    blocks = {bytes.fromhex(digest) for digest, size in wanted.items() if size <= BLOCK_BYTES}
    for folder in folders:
        for path in _files_below(folder):
            _search_file(copies, path, sizes, wanted, blocks)


def _files_below(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            yield Path(folder, name)


def _search_file(
    copies: Copies, path: Path, sizes: frozenset[int], wanted: Mapping[str, int], blocks: set[bytes]
) -> None:
    """The file, and each of its aligned blocks, is a copy of what it has the digest of."""
    algorithm = copies.hash
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode) or not (blocks or found.st_size in sizes):
            return
        whole = algorithm.hasher()
        seen: list[tuple[str, int, int]] = []
        offset = 0
        with path.open("rb", buffering=0) as file:
            for part in _even_chunks(file.read):
                whole.update(part)
                for start in range(0, len(part) if blocks else 0, BLOCK_BYTES):
                    block = part[start : start + BLOCK_BYTES]
                    hasher = algorithm.hasher()
                    hasher.update(block)
                    if hasher.digest() in blocks:
                        seen.append((hasher.hexdigest(), offset + start, len(block)))
                offset += len(part)
    except OSError:
        return  # who cannot be read has nothing to give
    copies.searched_files += 1
    copies.searched_bytes += offset
    digest = whole.hexdigest()
    if digest in wanted:
        copies.add(digest, Copy(str(path), partial(_file_range, path, 0, offset)))
    for block_digest, start, length in seen:
        if block_digest != digest:
            copies.add(block_digest, Copy(str(path), partial(_file_range, path, start, length)))


def _even_chunks(read: Callable[[int], bytes]) -> Iterator[memoryview]:
    """Pieces of 1 MiB, all but the last, so that blocks keep their bounds."""
    while True:
        parts, missing = [], CHUNK_BYTES
        while missing and (part := read(missing)):
            parts.append(part)
            missing -= len(part)
        if parts:
            yield memoryview(b"".join(parts))
        if missing:
            return


def _file_range(path: Path, start: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while length and (part := file.read(min(length, CHUNK_BYTES))):
            length -= len(part)
            yield part


def search_store(copies: Copies, store: Store, pipeline: PipelineId, wanted: Mapping[str, int]) -> None:
    """Stored values of a wanted digest in another era, whoever left them there."""
    for prefix, parse in (
        (layout.blobs(pipeline), layout.parse_blob),
        (layout.manifests(pipeline), layout.parse_manifest),
    ):
        for found in store.backend.list(prefix):
            key = parse(pipeline, found.key)
            if key is not None and isinstance(found, Found) and wanted.get(key.digest) == found.bytes:
                copies.offer(key.digest, found.key, Copy(found.key.path, partial(_value, store, found.key)))


def _value(store: Store, key: Key) -> Iterator[bytes]:
    with store.backend.open(key) as file:
        yield from chunks(file)


def search_manifest(copies: Copies, reader: Blobs, manifest: Manifest, wanted: Mapping[str, int]) -> None:
    """Wanted contents that the snapshot has in some place, as files or as blocks of one."""
    blocks = {digest for digest, size in wanted.items() if size <= BLOCK_BYTES}
    for _, _, file in files_of(manifest):
        if file.digest in wanted and file.digest not in copies:
            copies.offer(file.digest, file.place, Copy(_told(manifest, file), partial(reader.content, file)))
        if isinstance(file.place, Blocks) and not all(digest in copies for digest in blocks):
            _search_blocks(copies, reader, manifest, file, blocks)


def _search_blocks(copies: Copies, reader: Blobs, manifest: Manifest, file: StateFile, wanted: set[str]) -> None:
    assert isinstance(file.place, Blocks)
    left = file.bytes
    for table in file.place.tables:
        try:
            rows = reader.table(table)
        except _UNREADABLE:
            return
        for row in rows:
            size = min(BLOCK_BYTES, left)
            left -= size
            digest = row.digest.hex()
            if digest in wanted and digest not in copies:
                read = partial(_block, reader, row.pack, row.offset, row.length, size if row.compressed else None)
                copies.offer(digest, row, Copy(_told(manifest, file), read))


def _block(reader: Blobs, pack: BlobKey, offset: int, length: int, plain_bytes: int | None) -> Iterator[bytes]:
    name = layout.blob(reader.pipeline, pack)
    with reader.backend.open(name, offset, length) as file:
        data = file.read(length)
    yield data if plain_bytes is None else reader.unpack(data, plain_bytes, name)


def _told(manifest: Manifest, file: StateFile) -> str:
    return f"{file.name} of {manifest.pipeline}@{manifest.name or manifest.id}"
