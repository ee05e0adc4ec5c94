"""Packs of which little is needed any more are written again without the rest.

A pack lives as long as one slice of it is needed, so what expired in it frees nothing. Here the slices that are still
needed go into new packs of the current era, and every root that names an old one gets a manifest that says the same
with the new places: one session, one swap, under the commit rule (`Session.rewrite`). The old packs are then garbage
like any other, for a later sweep. Nothing is deleted here, and nothing is moved that a restore may be reading: a hold
with an end keeps its manifest and its packs.

A slice is held against its digest before it is written again; a pack with a damaged one is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct

from formats.blocktable import Block
from formats.errors import CorruptError
from formats.head import Head, HeadEntry, manifests_of
from formats.ids import BlobKey, Digest, PipelineId
from formats.manifest import Blocks, Manifest, Slice, StateFile, Table, Whole, files_of
from storage import layout
from storage.audit import OTHER_CONTENT, Content, Contents, Covering, Packing, check_blob, coverings, read_blocks
from storage.backend import LocalFile
from storage.blobs import Blobs
from storage.packs import Packer, Pending
from storage.rewrite import MovedTables, replace_places
from storage.session import Session
from storage.store import Store

ReadManifest = Callable[[Head, HeadEntry], Manifest]

LIVE_AT_LEAST = 0.9  # of a pack's bytes; below, it is written again
_MIN_WASTE = 4096  # bytes; for less a manifest is not written again


class Repacked(Struct, frozen=True):
    """What was done: packs left behind and their bytes, what was written instead, manifests renewed.

    `damaged`: why packs were left as they are.
    """

    packs: int = 0
    pack_bytes: int = 0
    written_bytes: int = 0
    manifests: int = 0
    damaged: tuple[str, ...] = ()


class _Stretch(NamedTuple):
    """Stored bytes in a pack, and how they lie there. An empty one begins where the next one does."""

    pack: str
    offset: int
    length: int
    compressed: bool


class Wasted(Struct, frozen=True):
    """A pack with room in it, and the stretches of it that are still needed, in order."""

    key: BlobKey
    bytes: int
    contents: tuple[Content, ...]


def find_wasted(
    store: Store, head: Head, read: ReadManifest | None = None, packed: Collection[str] | None = None
) -> tuple[Wasted, ...]:
    """Packs that are less than 90 % live by this HEAD. `read`: another way to the manifests of its roots.

    `packed`: the only manifests that name packs, where that is known. Packs that a hold with an end names are left
    out: whoever took it may be reading them.
    Raises: CorruptError, BlobGoneError: a manifest or a block table cannot be read.
    """
    sizes: dict[BlobKey, int] = {}
    contents = Contents(Blobs(store.backend, PipelineId(head.pipeline), store.hash))
    read_by = {hold.entry.manifest for hold in head.holds if hold.expires_at is not None}
    in_use: set[BlobKey] = set()
    for entry in manifests_of(head).values():
        if packed is not None and entry.manifest not in packed:
            continue
        manifest = store.manifest(head, entry, thorough=False) if read is None else read(head, entry)
        sizes |= {BlobKey.parse(pack.key): pack.bytes for pack in manifest.packs}
        contents.add(manifest)
        if entry.manifest in read_by:
            in_use |= {BlobKey.parse(pack.key) for pack in manifest.packs}
    if contents.misfits:
        raise CorruptError(f"a block table cannot be used: {min(contents.misfits.values())}")
    found = []
    for key, size in sorted(sizes.items()):
        if key in in_use:
            continue
        needed = contents.of(key)
        live = sum(length for _, length in {(content.offset, content.length) for content in needed})
        if live < LIVE_AT_LEAST * size and size - live >= _MIN_WASTE:
            found.append(Wasted(key, size, tuple(needed)))
    return tuple(found)


def foresee(store: Store, head: Head, wasted: tuple[Wasted, ...]) -> Repacked:
    """What `repack` would leave behind of these packs; nothing is written, so the rest is not known."""
    left, damaged = _sound(Blobs(store.backend, PipelineId(head.pipeline), store.hash), wasted)
    sizes = [pack.bytes for pack in wasted if str(pack.key) in left]
    return Repacked(packs=len(sizes), pack_bytes=sum(sizes), damaged=damaged)


def repack(store: Store, pipeline: PipelineId) -> Repacked:
    """No pack below 90 % live is needed any more, but for those that are damaged.

    Raises: CorruptError, BlobGoneError, SessionExpiredError, CommitUnknownError.
    """
    work = _Repacking(store)
    Session(store, pipeline, based=False).rewrite(work.plan, beside_readers=True)
    return work.result


class _Repacking:
    """What one session does, planned anew after bad luck."""

    def __init__(self, store: Store) -> None:
        self.result = Repacked()
        self._store = store

    def plan(self, session: Session) -> Iterator[tuple[str, Manifest]]:
        """The manifest of every root that names a wasted pack, with what it needs of it elsewhere."""
        self.result = Repacked()
        head = session.head.head
        wasted = find_wasted(self._store, head)
        if not wasted:
            return
        written: dict[str, int] = {}

        def upload(digest: Digest, size: int, body: LocalFile) -> BlobKey:
            key = session.upload(digest, size, body)
            written[str(key)] = session.pack_bytes[str(key)] = size
            return key

        left, damaged = _sound(session.blobs, wasted)
        naming = [entry for entry in manifests_of(head).values() if self._names(head, entry, left)]
        packer = Packer(self._store.hash, session.scratch, upload)
        work = _Moving(session.blobs, left, packer)
        try:
            for entry in naming:
                work.look_at_tables(self._store.manifest(head, entry, thorough=False))
            work.move_slices([pack for pack in wasted if str(pack.key) in left])
            for entry in naming:
                work.move_tables(self._store.manifest(head, entry, thorough=False))
            packer.close()
        finally:
            packer.discard()
        self.result = Repacked(
            packs=len(left),
            pack_bytes=sum(pack.bytes for pack in wasted if str(pack.key) in left),
            written_bytes=sum(written.values()),
            manifests=len(naming),
            damaged=damaged,
        )
        for entry in naming:
            manifest = self._store.manifest(head, entry)  # thoroughly: what is unlawful is not made lawful here
            yield entry.manifest, replace_places(manifest, work.moved_file, written)

    def _names(self, head: Head, entry: HeadEntry, left: frozenset[str]) -> bool:
        return any(pack.key in left for pack in self._store.manifest(head, entry, thorough=False).packs)


def _sound(blobs: Blobs, wasted: tuple[Wasted, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The packs that can be left behind: their bytes and all needed slices are right. And why others cannot."""
    sound: set[str] = set()
    damaged: list[str] = []
    for pack in wasted:
        checked = check_blob(blobs, pack.key, pack.bytes, pack.contents)
        if checked.fault or checked.wrong:
            damaged.append(f"{layout.blob(blobs.pipeline, pack.key)}: {checked.fault or OTHER_CONTENT}")
        else:
            sound.add(str(pack.key))
    return frozenset(sound), tuple(damaged)


class _Moving:
    """Slices and block tables on their way out of the packs `left`."""

    def __init__(self, blobs: Blobs, left: frozenset[str], packer: Packer) -> None:
        self._blobs = blobs
        self._left = left
        self._packer = packer
        self._moved: dict[_Stretch, Pending] = {}
        self._replaced: set[_Stretch] = set()  # they hold tables which are encoded anew
        self._tables = MovedTables(blobs.hash, packer)

    def look_at_tables(self, manifest: Manifest) -> None:
        """Before slices move: a table that names blocks in `left` need not move, for there will be another."""
        for covering, named in self._coverings(manifest):
            place = covering.table.place
            if isinstance(place, Slice) and place.pack in self._left:
                blocks = read_blocks(self._blobs, covering, named)
                if any(str(block.pack) in self._left for block in blocks):
                    self._replaced.add(_stretch(place))

    def move_slices(self, packs: list[Wasted]) -> None:
        """Every needed slice of these packs is in a new one."""
        for pack in packs:
            stored = self._read(pack)
            for content in pack.contents:
                packed = content.packing is Packing.FRAME
                where = _Stretch(str(pack.key), content.offset, content.length, packed)
                if where not in self._moved and where not in self._replaced:
                    data = stored[content.offset : content.offset + content.length]
                    self._moved[where] = self._packer.add_stored(data, compressed=packed)
        self._packer.close()

    def move_tables(self, manifest: Manifest) -> None:
        """After slices have moved: the tables of the manifest say where blocks lie now."""
        for covering, named in self._coverings(manifest):
            if covering.table not in self._tables:
                old = read_blocks(self._blobs, covering, named)
                new = [self._moved_block(block) for block in old]
                self._tables.add(covering.table, new, self._moved_table(covering.table) if new == old else None)

    def moved_file(self, file: StateFile) -> StateFile:
        """After tables have moved and the packer is closed."""
        match file.place:
            case Slice(pack=pack) as place if pack in self._left:
                return msgspec.structs.replace(file, place=self._moved[_stretch(place)].place)
            case Blocks(packs=packs) as place if not self._left.isdisjoint(packs):
                return msgspec.structs.replace(file, place=self._tables.place(place))
        return file

    def _coverings(self, manifest: Manifest) -> Iterator[tuple[Covering, set[BlobKey]]]:
        for _, _, file in files_of(manifest):
            if isinstance(file.place, Blocks) and not self._left.isdisjoint(file.place.packs):
                named = {BlobKey.parse(pack) for pack in file.place.packs}
                for covering in coverings(file, file.place):
                    yield covering, named

    def _read(self, pack: Wasted) -> memoryview:
        name = layout.blob(self._blobs.pipeline, pack.key)
        with self._blobs.backend.open(name) as reader:
            stored = reader.read()
        if self._blobs.hash.digest(stored) != pack.key.digest:
            raise CorruptError(f"a pack changed between two looks: {name}", hint="check the disk and the memory")
        return memoryview(stored)

    def _moved_block(self, block: Block) -> Block:
        pending = self._moved.get(_Stretch(str(block.pack), block.offset, block.length, block.compressed))
        return block if pending is None else block._replace(pack=pending.key, offset=pending.offset)

    def _moved_table(self, table: Table) -> Whole | Slice:
        place = table.place
        if isinstance(place, Slice) and _stretch(place) in self._moved:
            return self._moved[_stretch(place)].place
        return place


def _stretch(place: Slice) -> _Stretch:
    return _Stretch(place.pack, place.offset, place.length, place.codec == "zstd")
