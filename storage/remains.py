"""What is left of a pipeline that has lost its HEAD, and which HEAD could be made of it. Nothing is written here.

Sources are the copies of HEAD that gc makes and the manifests themselves; each is believed only as far as its own
digest, store and pipeline go. What becomes of them: storage/rebuild.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from formats.canonical import decode, encode
from formats.errors import ConflictError, CorruptError, InvalidInputError, UnsupportedError
from formats.head import MAX_HEAD_BYTES, Head, HeadEntry, Hold, Trashed, decode_head
from formats.ids import MAX_INTEGER, BlobKey, PipelineId
from formats.manifest import MAX_MANIFEST_BYTES, Inline, Manifest, blobs, files_of
from storage import layout
from storage.audit import MISSING, OTHER_CONTENT, Contents
from storage.backend import Found, KeyAbsentError, Version, version_of
from storage.blob_check import check_blob
from storage.blobs import Blobs
from storage.pins import read_pins
from storage.session import entry_of
from storage.store import Store, decode_manifest
from storage.transfer import each

LEAP = 1 << 20  # above everything that was seen
RESURRECTED = "resurrected"  # the tag of every entry of a rebuilt HEAD
Progress = Callable[[int, int], None]  # bytes done, and how many there are


class Counters(NamedTuple):
    """What never goes back (I3), and the largest checkpoint id."""

    seq: int
    era: int
    attempt: int
    last_id: int


class Remains(Struct, frozen=True, kw_only=True):
    """What lies in a pipeline without a good HEAD. `torn`: what is wrong with HEAD, "" where it is missing.

    `largest`: of each counter, as seen in copies of HEAD, names, pins and manifests. `manifests`: what HEAD would say
    of each that can be read. `unreadable`: the others by name, and why.
    """

    torn: str
    version: Version | None
    backup: Head | None
    backup_name: str
    largest: Counters
    manifests: Mapping[BlobKey, HeadEntry]
    unreadable: Mapping[str, str]


class Risen(Struct, frozen=True):
    """A root of the HEAD to be: its entry, and the manifest that names its files. `status`: live, trash or held.

    `origin`: a copy of HEAD (`backup`), or the `manifest` alone.
    """

    entry: HeadEntry
    key: BlobKey
    status: str
    origin: str
    trashed: Trashed | None = None
    hold: Hold | None = None


class LeftOut(Struct, frozen=True):
    """A snapshot that is not in the HEAD to be, and why. `label`: "" where its manifest cannot be read."""

    label: str
    manifest: str
    reason: str


class Proposal(Struct, frozen=True, kw_only=True):
    """The HEAD to be: its counters and its roots."""

    remains: Remains
    counters: Counters
    risen: tuple[Risen, ...]
    left_out: tuple[LeftOut, ...]


def propose(store: Store, pipeline: PipelineId, progress: Progress = lambda *_: None) -> Proposal:
    """The HEAD to be; every byte that it would need has been read and checked.

    Raises: ConflictError where HEAD is good or the pipeline was destroyed; SnapshotNotFoundError (no such pipeline);
    UnsupportedError for a newer HEAD.
    """
    remains = survey(store, pipeline)
    if remains.backup is not None and remains.backup.state != "active":
        message = f"pipeline {pipeline} was destroyed, says {remains.backup_name}"
        raise ConflictError(message, hint="a destroyed name is not used again; choose another")
    chooser = _Chooser(pipeline, remains, _faults(store, pipeline, remains, progress))
    risen = (*chooser.of_backup(), *chooser.newer())
    counters = _leapt(pipeline, remains.largest, len(risen))
    return Proposal(remains=remains, counters=counters, risen=risen, left_out=tuple(chooser.left_out))


def survey(store: Store, pipeline: PipelineId) -> Remains:
    """Raises: as `propose`."""
    torn, version = _lost_head(store, pipeline)
    backups = dict(_backups(store, pipeline))
    name, backup = max(backups.items(), key=lambda item: item[1].seq, default=("", None))
    heads = list(backups.values())
    pins = [record for _, record in read_pins(store.backend, pipeline)]
    manifests: dict[BlobKey, HeadEntry] = {}
    unreadable: dict[str, str] = {}
    era = max([0, *(head.era for head in heads), *(pin.era for pin in pins)])
    for found in store.backend.list(layout.manifests(pipeline)):
        key = layout.parse_manifest(pipeline, found.key)
        if key is None or not isinstance(found, Found):
            continue
        era = max(era, key.era)
        try:
            manifests[key] = entry_of(read_manifest(store, pipeline, key), key, found.bytes)
        except CorruptError as error:
            unreadable[found.key.path] = error.message
    for found in store.backend.list(layout.blobs(pipeline)):
        key = layout.parse_blob(pipeline, found.key)
        era = era if key is None else max(era, key.era)
    entries = manifests.values()
    attempts = [head.writer.attempt for head in heads] + [pin.attempt for pin in pins]
    largest = Counters(
        seq=max((head.seq for head in heads), default=0),
        era=era,
        attempt=max([0, *attempts, *(entry.attempt for entry in entries)]),
        last_id=max([0, *(head.last_id for head in heads), *(max(entry.id, entry.base) for entry in entries)]),
    )
    return Remains(
        torn=torn,
        version=version,
        backup=backup,
        backup_name=name,
        largest=largest,
        manifests=manifests,
        unreadable=unreadable,
    )


def read_manifest(store: Store, pipeline: PipelineId, key: BlobKey) -> Manifest:
    """The manifest, which is what its name says, and this pipeline's. Raises: CorruptError, with the reason."""
    try:
        with store.backend.open(layout.manifest(pipeline, key)) as file:
            stored = file.read(MAX_MANIFEST_BYTES + 1)
        if store.hash.digest(stored) != key.digest:
            raise CorruptError(OTHER_CONTENT)
        manifest = decode_manifest(stored, f"manifest {key}")
        decode(encode(entry_of(manifest, key, 0)), HeadEntry, what="its entry", max_bytes=MAX_HEAD_BYTES)
    except KeyAbsentError as error:
        raise CorruptError(MISSING) from error
    except (InvalidInputError, UnsupportedError) as error:
        raise CorruptError(error.message) from error
    if (manifest.store, manifest.pipeline) != (store.record.id, pipeline.name):
        raise CorruptError(f"it belongs to {manifest.pipeline} of store {manifest.store}")
    return manifest


def _lost_head(store: Store, pipeline: PipelineId) -> tuple[str, Version | None]:
    """What is wrong with HEAD, and the version of what lies there. Raises: ConflictError where nothing is."""
    try:
        store.head(pipeline)
    except CorruptError as error:
        try:
            with store.backend.open(layout.head(pipeline)) as file:
                return error.message, version_of(file.read())
        except KeyAbsentError:
            return "", None
    message = f"HEAD of {pipeline} is good: there is nothing to rebuild"
    raise ConflictError(message, hint=f"eoctl store repair -p {pipeline}")


def _backups(store: Store, pipeline: PipelineId) -> Iterator[tuple[str, Head]]:
    """Every copy of HEAD that is whole and this pipeline's, by its name."""
    for found in store.backend.list(layout.backups(pipeline)):
        if not isinstance(found, Found):
            continue
        try:
            with store.backend.open(found.key) as file:
                head = decode_head(file.read(MAX_HEAD_BYTES + 1))
        except (KeyAbsentError, CorruptError):
            continue
        if (head.store, head.pipeline) == (store.record.id, pipeline.name):
            yield found.key.path, head


def _faults(store: Store, pipeline: PipelineId, remains: Remains, progress: Progress) -> Callable[[BlobKey], str]:
    """Tells of a manifest why its snapshot is not whole, or "". Every blob of every manifest is read, once."""
    reader = Blobs(store.backend, pipeline, store.hash)
    contents = Contents(reader)
    sizes: dict[BlobKey, int] = {}
    for key in remains.manifests:
        manifest = read_manifest(store, pipeline, key)
        contents.add(manifest)
        sizes |= blobs(manifest)
    faults = dict.fromkeys(contents.suspects, "a block table in it cannot be used")
    read, total = 0, sum(sizes.values())
    for checked in each(sorted(sizes), lambda key: check_blob(reader, key, sizes[key], contents.of(key))):
        read += checked.read_bytes
        progress(read, total)
        if checked.fault or checked.wrong:
            faults[checked.key] = checked.fault or OTHER_CONTENT

    def fault(key: BlobKey) -> str:
        manifest = read_manifest(store, pipeline, key)
        wrong = sorted(blobs(manifest).keys() & faults.keys())
        if wrong:
            return f"{layout.blob(pipeline, wrong[0])}: {faults[wrong[0]]}"
        for _, _, file in files_of(manifest):
            if isinstance(file.place, Inline) and store.hash.digest(file.place.data) != file.digest:
                return f"{file.name}: {OTHER_CONTENT}"
        return ""

    return fault


class _Chooser:
    """Which manifests become snapshots again. `left_out`: what has to be given up."""

    def __init__(self, pipeline: PipelineId, remains: Remains, fault: Callable[[BlobKey], str]) -> None:
        self.left_out: list[LeftOut] = []
        self._pipeline = pipeline
        self._remains = remains
        self._fault = fault
        self._by_txid: dict[str, list[BlobKey]] = {}
        for key in sorted(remains.manifests, key=lambda key: (-key.era, key.digest)):
            self._by_txid.setdefault(remains.manifests[key].txid, []).append(key)
        self._taken: set[str] = set()

    def of_backup(self) -> Iterator[Risen]:
        """The roots of the newest copy of HEAD, as far as they are whole."""
        backup = self._remains.backup
        if backup is None:
            return
        for entry in backup.live:
            yield from self._risen(entry, "live")
        for trashed in backup.trash:
            for risen in self._risen(trashed.entry, "trash"):
                yield msgspec.structs.replace(risen, trashed=trashed)
        for hold in backup.holds:
            for risen in self._risen(hold.entry, "held"):
                yield msgspec.structs.replace(risen, hold=hold)

    def newer(self) -> Iterator[Risen]:
        """Snapshots that the copy of HEAD does not know yet, oldest first; of two of one label the later attempt's.

        A savepoint has no number to compare: one counts as newer whose manifest is of the copy's era or a later one.
        """
        backup = self._remains.backup
        last_id, era, seq = (0, 0, 0) if backup is None else (backup.last_id, backup.era, backup.seq)
        labels: dict[str, list[BlobKey]] = {}
        for key, entry in self._remains.manifests.items():
            newer = entry.id > last_id if entry.kind == "checkpoint" else key.era >= era
            if newer and entry.label not in self._taken:
                labels.setdefault(entry.label, []).append(key)
        best = (self._newest_whole(label, keys) for label, keys in labels.items())
        chosen = [key for key in best if key is not None]
        chosen.sort(key=lambda key: (self._remains.manifests[key].id, key.era, self._remains.manifests[key].created_at))
        for number, key in enumerate(chosen, seq + 1):
            entry = msgspec.structs.replace(self._remains.manifests[key], seq=number)
            yield Risen(entry=_marked(entry), key=key, status="live", origin="manifest")
        for name, reason in self._remains.unreadable.items():
            if all(left.manifest != name for left in self.left_out):
                self.left_out.append(LeftOut("", name, reason))

    def _newest_whole(self, label: str, keys: Iterable[BlobKey]) -> BlobKey | None:
        """What is not whole is told, unless another manifest of the same transaction takes its place."""
        known = self._remains.manifests
        faulty: dict[BlobKey, str] = {}
        best: BlobKey | None = None
        for key in sorted(keys, key=lambda key: (known[key].attempt, key.era, known[key].created_at), reverse=True):
            fault = self._fault(key)
            if not fault:
                best = key
                break
            faulty[key] = fault
        for key, fault in faulty.items():
            if best is None or known[key].txid != known[best].txid:
                self._leave_out(label, key, fault)
        return best

    def _risen(self, entry: HeadEntry, status: str) -> Iterator[Risen]:
        """The entry by its own manifest, or by another one of the same transaction, which says the same."""
        self._taken.add(entry.label)
        own = BlobKey.parse(entry.manifest)
        others = self._by_txid.get(entry.txid, [])
        first = ""
        for key in sorted(others, key=lambda key: key != own):
            fault = self._fault(key)
            if not fault:
                yield Risen(entry=_marked(entry), key=key, status=status, origin="backup")
                return
            first = first or fault
        name = layout.manifest(self._pipeline, own).path
        self._leave_out(entry.label, own, first or self._remains.unreadable.get(name, MISSING))

    def _leave_out(self, label: str, key: BlobKey, reason: str) -> None:
        left = LeftOut(label, layout.manifest(self._pipeline, key).path, reason)
        if left not in self.left_out:
            self.left_out.append(left)


def _marked(entry: HeadEntry) -> HeadEntry:
    return msgspec.structs.replace(entry, tags=tuple(sorted({*entry.tags, RESURRECTED})))


def _leapt(pipeline: PipelineId, largest: Counters, roots: int) -> Counters:
    """Above everything that was seen. Raises: ConflictError where there is no number left."""
    leapt = Counters(largest.seq + roots + LEAP, largest.era + LEAP, largest.attempt + LEAP, largest.last_id)
    if max(leapt) >= MAX_INTEGER:
        message = f"something in {pipeline} has a number that no counter can exceed: {max(largest)}"
        raise ConflictError(message, hint="look for names with such an era, and move them out of the store")
    return leapt
