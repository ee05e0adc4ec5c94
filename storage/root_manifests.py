"""The manifests of a pipeline's roots, for those who read them all: each file that they share is met once.

Checked as `Store.manifest` checks them. What does not fit into a series (formats/manifest_series.py) is read as if it
had nothing in common with others, and in the same words where something is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from formats.errors import CorruptError, InvalidInputError
from formats.head import Head, HeadEntry, manifests_of
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest import Blocks, Manifest, PackRef, Slice, StateFile, count_files, files_of
from formats.manifest_keys import ManifestKeys, OperatorKeys, SubtaskKeys, keys_of
from formats.manifest_series import MAX_KNOWN, Read, Series
from storage.audit import Contents
from storage.blobs import Blobs
from storage.store import Store, decode_manifest, decode_manifest_keys, decode_root, unpack_manifest

MAX_KEPT = 1 << 20


class PackNeeds:
    """What manifests need of packs. `blocks`: some file is cut into blocks."""

    def __init__(self, blobs: Blobs) -> None:
        self.sizes: dict[BlobKey, int] = {}
        self.blocks = False
        self._contents = Contents(blobs)
        self._named: dict[str, frozenset[BlobKey]] = {}
        self._cut: list[StateFile] = []

    def add(self, manifest: str, packs: Iterable[PackRef], files: Iterable[StateFile]) -> None:
        """The manifest of this key names these packs; `files`: those of it that were not added before, at least."""
        sizes = {BlobKey.parse(pack.key): pack.bytes for pack in packs}
        self.sizes |= sizes
        self._named[manifest] = frozenset(sizes)
        self._contents.add_files(self._slices(files))
        self.blocks = self.blocks or bool(self._cut)

    def are_of(self, head: Head) -> bool:
        """They are those of the roots of `head`, of all and of nobody else."""
        return self._named.keys() == manifests_of(head).keys()

    def named_by(self, manifest: str) -> frozenset[BlobKey]:
        return self._named[manifest]

    def live_bytes(self, pack: BlobKey) -> int:
        """How much of the pack is needed, after `read_tables`."""
        return self._contents.live_bytes(pack)

    def rows(self, pack: BlobKey) -> bytes:
        """What is needed of the pack, for `contents_in`, after `read_tables`."""
        return bytes(self._contents.rows(pack))

    def read_tables(self) -> None:
        """What block tables need is known too. Raises: CorruptError."""
        self._contents.add_files(self._cut)
        self._cut = []
        if self._contents.misfits:
            raise CorruptError(f"a block table cannot be used: {min(self._contents.misfits.values())}")

    def _slices(self, files: Iterable[StateFile]) -> Iterator[StateFile]:
        """The files that are slices; those in blocks are put aside."""
        for file in files:
            if type(file.place) is Slice:
                yield file
            elif type(file.place) is Blocks:
                self._cut.append(file)


class RootManifests:
    """Manifests of one pipeline's roots, and what those that `keys` was asked for need of packs.

    What was decoded is kept, `MAX_KEPT` files in all: shared files cost a pointer each.
    """

    def __init__(self, store: Store, pipeline: PipelineId) -> None:
        self._store = store
        self._series = Series()
        self._untold: list[StateFile] = []
        self._kept: dict[str, Manifest] = {}
        self._room = MAX_KEPT
        self._needs: PackNeeds | None = PackNeeds(Blobs(store.backend, pipeline, store.hash))

    def needs(self, head: Head) -> PackNeeds:
        """What the roots of this HEAD need of packs; read now unless `keys` was asked for just these.

        Raises: BlobGoneError, CorruptError.
        """
        if self._needs is not None and self._needs.are_of(head):
            return self._needs
        needs = PackNeeds(Blobs(self._store.backend, PipelineId(head.pipeline), self._store.hash))
        for entry in manifests_of(head).values():
            manifest = self._store.manifest(head, entry, thorough=False)
            needs.add(entry.manifest, manifest.packs, (file for _, _, file in files_of(manifest)))
        return needs

    def read(self, head: Head, entry: HeadEntry) -> Read:
        """The manifest, checked thoroughly; of its files those that an earlier call has told may not be `new`.

        Raises: as `Store.manifest`.
        """
        stored = self._store.manifest_bytes(head, entry)
        read = self._read(head, entry, stored)
        if read is None:
            manifest = decode_root(head, entry, stored, decode_manifest)
            return Read(manifest, [file for _, _, file in files_of(manifest)])
        new, self._untold = self._untold, []
        return Read(read.manifest, new)

    def keys(self, head: Head, entry: HeadEntry) -> ManifestKeys:
        """Which blobs the manifest names; those of files that an earlier call has told may be left out.

        Raises: as `Store.manifest_keys`.
        """
        stored = self._store.manifest_bytes(head, entry)
        read = self._read(head, entry, stored)
        if read is None:
            self._needs = None
            return decode_root(head, entry, stored, decode_manifest_keys)
        new, self._untold = self._untold, []
        manifest = read.manifest
        if self._needs is not None:
            self._needs.add(entry.manifest, manifest.packs, new)
        return _keys(manifest, new)

    def manifest(self, head: Head, entry: HeadEntry) -> Manifest:
        """The manifest, checked thoroughly. Raises: as `Store.manifest`."""
        kept = self._kept.get(entry.manifest)
        if kept is not None:
            return decode_root(head, entry, b"", lambda *_: kept)
        stored = self._store.manifest_bytes(head, entry)
        read = self._read(head, entry, stored)
        return decode_root(head, entry, stored, decode_manifest) if read is None else read.manifest

    def blobs(self, head: Head, entry: HeadEntry) -> Iterator[BlobKey]:
        """Every blob that the manifest names, some more than once. Raises: as `Store.manifest_keys`."""
        if entry.manifest in self._kept:
            manifest = self.manifest(head, entry)
            # Slices lie in packs, which it lists.
            keys = _keys(manifest, [file for _, _, file in files_of(manifest) if type(file.place) is not Slice])
        else:
            keys = self._store.manifest_keys(head, entry)
        return (BlobKey(Digest(digest), Era(era)) for digest, era in keys_of(keys))

    def learn(self, key: str, manifest: Manifest) -> None:
        """The manifest of this key, which was encoded here and has the digest in it, need not be read."""
        files = count_files(manifest)
        if files <= self._room:
            self._room -= files
            self._kept[key] = manifest

    def _read(self, head: Head, entry: HeadEntry, stored: bytes) -> Read | None:
        """The manifest by the series; None where that is not for it. What is new in it is not told yet."""
        if entry.files > MAX_KNOWN:
            return None
        try:
            read = self._series.read(unpack_manifest(stored, "manifest"))
        except InvalidInputError:
            return None
        if read is None:
            return None
        self._untold += read.new
        decode_root(head, entry, stored, lambda *_: read.manifest)
        self.learn(entry.manifest, read.manifest)
        return read


def _keys(manifest: Manifest, chosen: Iterable[StateFile]) -> ManifestKeys:
    """What the manifest names, of its files only these."""
    files: tuple = tuple(chosen)  # type: ignore[type-arg]  # whole ones, of which the keys are read
    return ManifestKeys(
        format=manifest.format,
        version=manifest.version,
        store=manifest.store,
        pipeline=manifest.pipeline,
        id=manifest.id,
        txid=manifest.txid,
        operators=(OperatorKeys(subtasks=(SubtaskKeys(files=files),)),),
        packs=manifest.packs,
        name=manifest.name,
    )
