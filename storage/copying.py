"""A snapshot of one pipeline as the plan of a commit to another: in the same store, or in another one.

Pipelines share nothing (I11). What the target's base does not have is copied into the era of the target's session, on
the server where source and target lie in one place; every copy is held against its digest before the commit names it
(I1), and a manifest is written that says the same of new places. Block tables name packs by their keys, so they are
encoded anew. A pack is copied whole, also where the snapshot needs little of it.

The source has to be under a hold meanwhile; that is left to the caller (eoctl/services/fork.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import BinaryIO

import msgspec
from msgspec import Struct, field

from formats.errors import BlobGoneError, CorruptError
from formats.ids import BlobKey, Digest
from formats.manifest import (
    Blocks,
    Inline,
    Manifest,
    Place,
    Slice,
    StateFile,
    Whole,
    blob_key,
    blobs,
    files_of,
    stored_bytes_of,
)
from storage import layout
from storage.backend import Body, Key, KeyAbsentError, LocalFile
from storage.blobs import CHUNK_BYTES, Blobs, PoisonedNameError, digest_of
from storage.files import write_all
from storage.os_errors import told
from storage.packs import Packer
from storage.rewrite import MovedTables, moved_key, replace_places
from storage.session import Session
from storage.transfer import REMOTE_THREADS, THREADS, Moving, Portion, each


class Copied(Struct):
    """What a copy did so far. Bytes are stored ones; `total_bytes` counts those that were there already, too.

    `moving`: of blobs under way.
    """

    moving: Moving = field(default_factory=Moving)
    total_bytes: int = 0
    files: int = 0
    copied_bytes: int = 0
    copied_blobs: int = 0

    @property
    def moving_bytes(self) -> int:
        return self.moving.bytes


class Original(Struct, frozen=True, kw_only=True):
    """What is copied: a snapshot's manifest, and where its blobs lie.

    `remote`: each read takes a while. `on_server`: a body by which the target's place takes a value of the source's
    itself; None: it has to be sent.
    """

    blobs: Blobs
    manifest: Manifest
    remote: bool
    on_server: Callable[[Key], Body | None]


Progress = Callable[[Copied, int], None]  # so far, and how many stored bytes there are in all


class Copying(Struct, frozen=True, kw_only=True):
    """One snapshot on its way. `properties`, `tags`, `name`: what its manifest says in the target."""

    original: Original
    properties: Mapping[str, str]
    tags: tuple[str, ...]
    name: str
    progress: Progress = lambda *_: None

    def plan(self, session: Session) -> Manifest:
        """The manifest of the copy; what it names is confirmed by the session, or named by its base.

        Raises: BlobGoneError, CorruptError of the source; what the target raises.
        """
        work = _Work(self.original, session, self.progress)
        manifest = work.moved()
        metrics = msgspec.structs.replace(
            manifest.metrics,
            added_bytes=_added_bytes(self.original.manifest, manifest),
            stored_bytes=work.done.copied_bytes,
        )
        return msgspec.structs.replace(
            manifest,
            store=session.store.record.id,
            pipeline=session.pipeline.name,
            name=self.name,
            txid=session.txid,
            attempt=session.attempt or 0,
            metrics=metrics,
            base=0 if session.base is None else session.base.id,
            tags=self.tags,
            properties={**manifest.properties, **self.properties},
        )


def _added_bytes(original: Manifest, copy: Manifest) -> int:
    """As the original says, where the same files are new in both; else all of those that are new in the copy."""
    new = [file.first_stored_in == copy.id for _, _, file in files_of(copy)]
    if new == [file.first_stored_in == original.id for _, _, file in files_of(original)]:
        return original.metrics.added_bytes
    return sum(file.bytes for (_, _, file), is_new in zip(files_of(copy), new, strict=True) if is_new)


class _Work:
    """One plan of a copy."""

    def __init__(self, original: Original, session: Session, progress: Progress) -> None:
        self.done = Copied()
        self._original = original
        self._session = session
        self._progress = progress
        self._known: dict[str, StateFile] = {}
        self._keys: dict[BlobKey, BlobKey] = {}
        self._in_base = {} if session.base is None else {key.digest: key for key in blobs(session.base)}
        self._packer = Packer(session.store.hash, session.scratch, self._upload_pack)
        self._tables = MovedTables(session.store.hash, self._packer)

    def moved(self) -> Manifest:
        """The original's manifest with every place in the target."""
        manifest = self._original.manifest
        for _, _, file in files_of(manifest):
            known = self._session.find(Digest(file.digest))
            if known is not None and known.bytes == file.bytes and Inline not in {type(known.place), type(file.place)}:
                self._known[file.digest] = known
        self._copy(self._needed(manifest))
        try:
            for file in self._others(manifest):
                if isinstance(file.place, Blocks):
                    self._add_tables(file.place)
            self._packer.close()
        finally:
            self._packer.discard()
        self.done.files = sum(1 for _ in files_of(manifest))
        return replace_places(manifest, self._moved_file, self._session.pack_bytes)

    def _others(self, manifest: Manifest) -> Iterator[StateFile]:
        """Files whose content the target does not have."""
        return (file for _, _, file in files_of(manifest) if file.digest not in self._known)

    def _needed(self, manifest: Manifest) -> dict[BlobKey, int]:
        """The blobs to be copied, with their stored sizes; which of them are packs is told to the session."""
        packs = {BlobKey.parse(pack.key): pack.bytes for pack in manifest.packs}
        needed: dict[BlobKey, int] = {}
        for file in self._others(manifest):
            match file.place:
                case Whole() as place:
                    needed[blob_key(file, place)] = stored_bytes_of(file, place)
                case Slice(pack=pack):
                    needed[BlobKey.parse(pack)] = packs[BlobKey.parse(pack)]
                case Blocks(tables=tables):
                    for table in tables:
                        named = {block.pack for block in self._original.blobs.table(table)}
                        if not named <= packs.keys():
                            raise self._misfit(file)
                        needed |= {pack: packs[pack] for pack in named}
        for key in needed.keys() & packs.keys():
            target = BlobKey(key.digest, self._session.era)
            self._session.pack_bytes[str(self._in_base.get(key.digest, target))] = needed[key]
        return needed

    def _copy(self, needed: Mapping[BlobKey, int]) -> None:
        """Every blob is in the target, and `_keys` says where."""
        total = sum(needed.values())
        missing = {}
        for key, size in sorted(needed.items()):
            if key.digest in self._in_base:
                self._session.borrow()
                self._keys[key] = self._in_base[key.digest]
                self.done.total_bytes += size
            else:
                missing[key] = size
        self._progress(self.done, total)
        remote = self._original.remote or self._session.store.place.remote
        work = each(
            missing.items(),
            lambda item: (*item, *self._put(*item)),
            threads=REMOTE_THREADS if remote else THREADS,
            tick=lambda: self._progress(self.done, total),
        )
        with closing(work) as copies:
            for key, size, target, sent in copies:
                self._keys[key] = target
                self.done.moving.add(-size)
                self.done.total_bytes += size
                self.done.copied_bytes += size if sent else 0
                self.done.copied_blobs += sent
                self._progress(self.done, total)

    def _put(self, key: BlobKey, size: int) -> tuple[BlobKey, bool]:
        """The blob's key in the target, and whether it was copied now. Runs in several threads."""
        portion = Portion(self.done.moving, size, stages=2)
        try:
            there = self._session.confirm(key.digest, size)
            return (there, False) if there is not None else (self._copied(key, size, portion), True)
        finally:
            portion.end()

    def _copied(self, key: BlobKey, size: int, portion: Portion) -> BlobKey:
        name = layout.blob(self._original.blobs.pipeline, key)
        body = self._original.on_server(name)
        if body is None:
            body = self._fetch(name, key, size, portion)
        try:
            return self._session.upload(key.digest, size, body)
        except KeyAbsentError as error:
            raise self._gone(name) from error
        except PoisonedNameError as error:
            # Either wrong bytes were copied, or the name was taken by others: then the session takes a new era.
            with self._open(name) as reader:
                if digest_of(reader, self._original.blobs.hash) != key.digest:
                    raise self._corrupt(name) from error
            raise

    def _fetch(self, name: Key, key: BlobKey, size: int, portion: Portion) -> LocalFile:
        """The blob in a scratch file, checked. Raises: BlobGoneError, CorruptError."""
        scratch = self._session.scratch()
        was_read, was_sent = portion.stage(size), portion.stage(size)
        hasher = self._original.blobs.hash.hasher()
        try:
            with told(scratch), open(scratch, "xb", buffering=0) as target, self._open(name) as reader:
                left = size + 1
                while left and (part := reader.read(min(left, CHUNK_BYTES))):
                    was_read(len(part))
                    hasher.update(part)
                    write_all(target.fileno(), part)
                    left -= len(part)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        if hasher.hexdigest() != key.digest:
            scratch.unlink()
            raise self._corrupt(name)
        return LocalFile(scratch, sent=was_sent)

    def _open(self, name: Key) -> BinaryIO:
        try:
            return self._original.blobs.backend.open(name)
        except KeyAbsentError as error:
            raise self._gone(name) from error

    def _gone(self, name: Key) -> BlobGoneError:
        message = f"a blob of the snapshot to be copied is gone: {name}"
        return BlobGoneError(message, hint=f"eoctl checkpoint verify -p {self._original.blobs.pipeline}")

    def _corrupt(self, name: Key) -> CorruptError:
        message = f"a blob of the snapshot to be copied does not match its digest: {name}"
        return CorruptError(message, hint=f"eoctl checkpoint verify -p {self._original.blobs.pipeline}")

    def _misfit(self, file: StateFile) -> CorruptError:
        message = f"a block table of {file.name} names packs that the manifest does not name"
        return CorruptError(message, hint=f"eoctl checkpoint verify -p {self._original.blobs.pipeline}")

    def _upload_pack(self, digest: Digest, size: int, body: LocalFile) -> BlobKey:
        key = self._session.upload(digest, size, body)
        self._session.pack_bytes[str(key)] = size
        self.done.copied_bytes += size
        self.done.copied_blobs += 1
        return key

    def _add_tables(self, place: Blocks) -> None:
        for table in place.tables:
            if table not in self._tables:
                old = self._original.blobs.table(table)
                self._tables.add(table, [block._replace(pack=self._keys[block.pack]) for block in old], None)

    def _moved_file(self, file: StateFile) -> StateFile:
        known = self._known.get(file.digest)
        if known is not None:
            return msgspec.structs.replace(known, name=file.name, stamp=file.stamp, role=file.role)
        match file.place:
            case Inline() as place:
                moved: Place = place
            case Blocks() as place:
                moved = self._tables.place(place)
            case Whole() as place:
                moved = moved_key(place, self._keys[blob_key(file, place)])
            case _:
                moved = moved_key(file.place, self._keys[BlobKey.parse(file.place.pack)])
        return msgspec.structs.replace(file, place=moved, first_stored_in=self._original.manifest.id)
