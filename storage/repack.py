"""Packs of which little is needed any more are written again without the rest.

A pack lives as long as one slice of it is needed, so what expired in it frees nothing. Here the slices that are still
needed go into new packs of the current era, and every root that names an old one gets a manifest that says the same
with the new places: one session, one swap, under the commit rule (`Session.rewrite`). The old packs are then garbage
like any other, for a later sweep. Nothing is deleted here, and nothing is moved that a restore may be reading: a hold
with an end keeps its manifest and its packs.

A slice is held against its digest before it is written again; a pack with a damaged one is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import msgspec
from msgspec import Struct

from formats.blocktable import Block
from formats.errors import CorruptError
from formats.head import Head, HeadEntry, manifests_of
from formats.ids import BlobKey, Digest, PipelineId
from formats.manifest import Blocks, Manifest, Slice, StateFile, Table, Whole, files_of
from formats.manifest_series import MAX_KNOWN
from storage import layout
from storage.audit import OTHER_CONTENT, Content, Covering, Packing, contents_in, coverings, read_blocks
from storage.backend import LocalFile
from storage.blob_check import Checked, check_blob
from storage.blobs import Blobs
from storage.packs import Packer, Pending
from storage.references import Space, Stored
from storage.rewrite import MovedTables, replace_places
from storage.root_manifests import PackNeeds, RootManifests
from storage.session import Session
from storage.store import Store
from storage.transfer import each

LIVE_AT_LEAST = 0.9  # of a pack's bytes; below, it is written again
_MIN_WASTE = 4096  # bytes; for less a manifest is not written again


class Placed(NamedTuple):
    """A stored value and its size."""

    stored: Stored
    bytes: int


class Repacked(Struct, frozen=True):
    """What was done: packs left behind and their bytes, what was written instead, manifests renewed.

    `damaged`: why packs were left as they are. `left`: packs and manifests that no root needs any more on account of
    it; `new`: those that are needed instead.
    """

    packs: int = 0
    pack_bytes: int = 0
    written_bytes: int = 0
    manifests: int = 0
    damaged: tuple[str, ...] = ()
    left: tuple[Placed, ...] = ()
    new: tuple[Placed, ...] = ()


class Wasted(Struct, frozen=True):
    """A pack with room in it."""

    key: BlobKey
    rows: bytes
    bytes: int

    @property
    def contents(self) -> list[Content]:
        """The stretches of it that are still needed, in order."""
        return contents_in(self.rows)


def find_wasted(store: Store, head: Head, manifests: RootManifests | None = None) -> tuple[Wasted, ...]:
    """Packs that are less than 90 % live by this HEAD. `manifests`: those that a census by it has read.

    Packs that a hold with an end names are left out: whoever took it may be reading them.
    Raises: CorruptError, BlobGoneError: a manifest or a block table cannot be read.
    """
    needs = (manifests or RootManifests(store, PipelineId(head.pipeline))).needs(head)
    return _wasted(needs, head)


def _wasted(needs: PackNeeds, head: Head) -> tuple[Wasted, ...]:
    needs.read_tables()
    read_by = {hold.entry.manifest for hold in head.holds if hold.expires_at is not None}
    in_use = frozenset[BlobKey]().union(*map(needs.named_by, read_by))
    found = []
    for key, size in sorted(needs.sizes.items()):
        if key not in in_use:
            live = needs.live_bytes(key)
            if live < LIVE_AT_LEAST * size and size - live >= _MIN_WASTE:
                found.append(Wasted(key, needs.rows(key), size))
    return tuple(found)


def foresee(store: Store, head: Head, manifests: RootManifests | None = None) -> Repacked:
    """What `repack` would do, as far as that is known before anything is written.

    Raises: as `find_wasted`.
    """
    pipeline = PipelineId(head.pipeline)
    needs = (manifests or RootManifests(store, pipeline)).needs(head)
    wasted = _wasted(needs, head)
    sound, damaged = _sound(Blobs(store.backend, pipeline, store.hash), wasted)
    packs = _packs(wasted, sound)
    named = _manifests(_naming(needs, head, sound))
    pack_bytes = sum(pack.bytes for pack in packs)
    return Repacked(len(packs), pack_bytes, 0, len(named), damaged, left=(*packs, *named))


def repack(store: Store, pipeline: PipelineId, manifests: RootManifests | None = None) -> Repacked:
    """No pack below 90 % live is needed any more, but for those that are damaged.

    `manifests`: those that a census has read. What has changed since is read anew.
    Raises: CorruptError, BlobGoneError, SessionExpiredError, CommitUnknownError.
    """
    work = _Repacking(store, manifests or RootManifests(store, pipeline))
    session = Session(store, pipeline, based=False)
    work.swapped(session.rewrite(work.plan, beside_readers=True), session.head.head)
    return work.result


class _Repacking:
    """What one session does, planned anew after bad luck."""

    def __init__(self, store: Store, manifests: RootManifests) -> None:
        self.result = Repacked()
        self._store = store
        self._manifests = manifests
        self._replaced: dict[str, tuple[HeadEntry, Manifest | None]] = {}  # large ones are not kept

    def swapped(self, keys: Mapping[str, BlobKey], head: Head) -> None:
        """These manifests have others in their place by this HEAD."""
        now = manifests_of(head)
        entries = [now[str(key)] for key in keys.values() if str(key) in now]
        left = (*self.result.left, *_manifests(self._replaced[old][0] for old in keys))
        self.result = msgspec.structs.replace(self.result, left=left, new=(*self.result.new, *_manifests(entries)))
        for old, key in keys.items():
            moved = self._replaced[old][1]
            if moved is not None:
                self._manifests.learn(str(key), moved)

    def plan(self, session: Session) -> Iterator[tuple[str, Manifest]]:
        """The manifest of every root that names a wasted pack, with what it needs of it elsewhere."""
        self.result, self._replaced = Repacked(), {}
        head = session.head.head
        needs = self._manifests.needs(head)
        wasted = _wasted(needs, head)
        if not wasted:
            return
        written: dict[str, int] = {}

        def upload(digest: Digest, size: int, body: LocalFile) -> BlobKey:
            key = session.upload(digest, size, body)
            written[str(key)] = session.pack_bytes[str(key)] = size
            return key

        left, damaged = _sound(session.blobs, wasted)
        naming = _naming(needs, head, left)
        packer = Packer(self._store.hash, session.scratch, upload)
        work = _Moving(session.blobs, left, packer)
        try:
            for entry in naming if needs.blocks else ():
                work.look_at_tables(self._manifests.manifest(head, entry))
            work.move_slices([pack for pack in wasted if str(pack.key) in left])
            for entry in naming if needs.blocks else ():
                work.move_tables(self._manifests.manifest(head, entry))
            packer.close()
        finally:
            packer.discard()
        packs = _packs(wasted, left)
        self.result = Repacked(
            packs=len(packs),
            pack_bytes=sum(pack.bytes for pack in packs),
            written_bytes=sum(written.values()),
            manifests=len(naming),
            damaged=damaged,
            left=packs,
            new=tuple(Placed(Stored(Space.BLOB, BlobKey.parse(key)), size) for key, size in written.items()),
        )
        for entry in naming:
            # Thoroughly: what is unlawful is not made lawful here.
            moved = replace_places(self._manifests.manifest(head, entry), work.moved_file, written)
            self._replaced[entry.manifest] = entry, moved if entry.files <= MAX_KNOWN else None
            yield entry.manifest, moved


def _packs(wasted: Iterable[Wasted], chosen: frozenset[str]) -> tuple[Placed, ...]:
    return tuple(Placed(Stored(Space.BLOB, pack.key), pack.bytes) for pack in wasted if str(pack.key) in chosen)


def _manifests(entries: Iterable[HeadEntry]) -> tuple[Placed, ...]:
    return tuple(
        Placed(Stored(Space.MANIFEST, BlobKey.parse(entry.manifest)), entry.manifest_bytes) for entry in entries
    )


def _naming(needs: PackNeeds, head: Head, packs: frozenset[str]) -> list[HeadEntry]:
    """A root for each manifest that names one of the packs."""
    keys = frozenset(map(BlobKey.parse, packs))
    return [entry for manifest, entry in manifests_of(head).items() if not keys.isdisjoint(needs.named_by(manifest))]


def _sound(blobs: Blobs, wasted: tuple[Wasted, ...]) -> tuple[frozenset[str], tuple[str, ...]]:
    """The packs that can be left behind: their bytes and all needed slices are right. And why others cannot."""
    sound: set[str] = set()
    damaged: list[str] = []
    for pack, checked in zip(wasted, each(wasted, partial(_check, blobs)), strict=True):
        if checked.fault or checked.wrong:
            damaged.append(f"{layout.blob(blobs.pipeline, pack.key)}: {checked.fault or OTHER_CONTENT}")
        else:
            sound.add(str(pack.key))
    return frozenset(sound), tuple(damaged)


def _check(blobs: Blobs, pack: Wasted) -> Checked:
    return check_blob(blobs, pack.key, pack.bytes, pack.contents)


class _Moving:
    """Slices and block tables on their way out of the packs `left`."""

    def __init__(self, blobs: Blobs, left: frozenset[str], packer: Packer) -> None:
        self._blobs = blobs
        self._left = left
        self._packer = packer
        self._moved: dict[str, dict[int, Pending]] = {}  # by pack and `_stretch`
        self._replaced: set[tuple[str, int]] = set()  # they hold tables which are encoded anew
        self._tables = MovedTables(blobs.hash, packer)
        self._files: dict[int, tuple[StateFile, StateFile]] = {}  # as they were and are, by the identity of the first

    def look_at_tables(self, manifest: Manifest) -> None:
        """Before slices move: a table that names blocks in `left` need not move, for there will be another."""
        for covering, named in self._coverings(manifest):
            place = covering.table.place
            if isinstance(place, Slice) and place.pack in self._left:
                blocks = read_blocks(self._blobs, covering, named)
                if any(str(block.pack) in self._left for block in blocks):
                    self._replaced.add((place.pack, _stretch_of(place)))

    def move_slices(self, packs: list[Wasted]) -> None:
        """Every needed slice of these packs is in a new one."""
        for pack in packs:
            stored = self._read(pack)
            name = str(pack.key)
            moved = self._moved[name] = {}
            for content in pack.contents:
                packed = content.packing is Packing.FRAME
                where = _stretch(content.offset, content.length, compressed=packed)
                if where not in moved and (name, where) not in self._replaced:
                    data = stored[content.offset : content.offset + content.length]
                    moved[where] = self._packer.add_stored(data, compressed=packed)
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
        known = self._files.get(id(file))
        if known is not None:  # manifests of one series share it
            return known[1]
        moved = self._moved_file(file)
        if len(self._files) < MAX_KNOWN:
            self._files[id(file)] = file, moved
        return moved

    def _moved_file(self, file: StateFile) -> StateFile:
        match file.place:
            case Slice(pack=pack) as place if pack in self._left:
                return msgspec.structs.replace(file, place=self._moved[pack][_stretch_of(place)].place)
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
        where = _stretch(block.offset, block.length, compressed=block.compressed)
        pending = self._moved.get(str(block.pack), {}).get(where)
        return block if pending is None else block._replace(pack=pending.key, offset=pending.offset)

    def _moved_table(self, table: Table) -> Whole | Slice:
        place = table.place
        pending = self._moved.get(place.pack, {}).get(_stretch_of(place)) if isinstance(place, Slice) else None
        return place if pending is None else pending.place


def _stretch(offset: int, length: int, *, compressed: bool) -> int:
    """Stored bytes in a pack, and how they lie there: a number, for there may be a million. None is as long as 2^64.

    An empty one begins where the next one does.
    """
    return (offset << 64 | length) << 1 | compressed


def _stretch_of(place: Slice) -> int:
    return _stretch(place.offset, place.length, compressed=place.codec == "zstd")
