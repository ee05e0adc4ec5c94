"""A new HEAD for a pipeline that has lost its own.

Nobody knows what the lost value allowed to whom: its attempt, its floor, what gc was about to delete by it. So nothing
is put back as it was. Every blob that is still needed is copied into an era above everything that was ever seen, and
checked there; manifests are written anew; the floor is that era, and the attempt is above all others. Then no delete,
no upload and no writer of the lost time can touch or change what HEAD names now (docs/protocol.md, A lost HEAD).

Until the last step nothing is changed: a run that is killed leaves garbage, and the next one takes a later era.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from formats.errors import (
    BlobGoneError,
    CommitUnknownError,
    ConflictError,
    CorruptError,
    OutcomeUnknownError,
    SnapshotNotFoundError,
)
from formats.head import Head, HeadEntry, Writer, encode_head
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest import Blocks, Inline, Manifest, StateFile, Whole, blob_key, blobs, files_of
from storage import layout
from storage.backend import CopyOf, KeyAbsentError, LocalFile, VersionMismatchError
from storage.blobs import Blobs, PoisonedNameError
from storage.packs import Packer
from storage.remains import Progress, Proposal, Remains, Risen, read_manifest
from storage.rewrite import MovedTables, moved_key, replace_places
from storage.store import Store, encode_manifest
from storage.transfer import each


class Rebuilt(Struct, frozen=True):
    """The HEAD that is there now, and what was copied for it."""

    head: Head
    copied_blobs: int
    copied_bytes: int


def rebuild(store: Store, pipeline: PipelineId, proposal: Proposal, progress: Progress = lambda *_: None) -> Rebuilt:
    """The proposed HEAD is there.

    Raises: ConflictError where nothing whole was found, or somebody else made a HEAD; BlobGoneError, CorruptError
    where the store has changed since the proposal; CommitUnknownError.
    """
    if not proposal.risen:
        message = f"nothing whole was found of {pipeline}: a HEAD without a snapshot would give up what is left"
        raise ConflictError(message, hint="save the pipeline's directory; go on under a new pipeline name")
    keys = list(dict.fromkeys(risen.key for risen in proposal.risen))
    era = Era(proposal.counters.era)
    # A HEAD that cannot be (too many roots) is told before anything is copied.
    encode_head(_head(store, pipeline, proposal, {key: (BlobKey(key.digest, era), 0) for key in keys}))
    store.place.make_folders(layout.folders(pipeline))
    mover = _Mover(store, pipeline, era)
    copied = mover.copy(keys, progress)
    # Order (I1): every blob is durable before a manifest names it, and every manifest before HEAD does.
    head = _head(store, pipeline, proposal, mover.manifests(keys))
    _put_head(store, pipeline, proposal.remains, head)
    return Rebuilt(head, len(copied), sum(copied.values()))


class _Mover:
    """Snapshots whose every key is of the new era."""

    def __init__(self, store: Store, pipeline: PipelineId, era: Era) -> None:
        self._store = store
        self._pipeline = pipeline
        self._blobs = Blobs(store.backend, pipeline, store.hash)
        self._era = era
        self._packs: dict[str, int] = {}
        self._numbers = itertools.count()
        self._token = store.ambient.new_id()

    def copy(self, keys: Iterable[BlobKey], progress: Progress) -> dict[BlobKey, int]:
        """Every blob of these manifests is in the new era, durable, and right. Raises: BlobGoneError, CorruptError."""
        needed: dict[Digest, tuple[BlobKey, int]] = {}  # two eras of one digest are one blob now
        for key in keys:
            manifest = read_manifest(self._store, self._pipeline, key)
            needed |= {blob.digest: (blob, size) for blob, size in blobs(manifest).items()}
        copied: dict[BlobKey, int] = {}
        done, total = 0, sum(size for _, size in needed.values())
        for blob, size in each(sorted(needed.values()), self._copy):
            copied[blob] = size
            done += size
            progress(done, total)
        return copied

    def _copy(self, found: tuple[BlobKey, int]) -> tuple[BlobKey, int]:
        name = layout.blob(self._pipeline, found[0])
        try:
            self._blobs.put(self._moved(found[0]), CopyOf(name))
        except KeyAbsentError as error:
            message = f"a blob went away since it was checked: {name}"
            raise BlobGoneError(message, hint="nothing was changed; run it again") from error
        except PoisonedNameError as error:
            message = f"a blob could not be copied rightly: {name}"
            raise CorruptError(message, hint="nothing was changed; check the disk, and run it again") from error
        return found

    def manifests(self, keys: Iterable[BlobKey]) -> dict[BlobKey, tuple[BlobKey, int]]:
        """Each manifest, written anew: its key and stored size, by its old key.

        Block tables name packs by their keys, so they are written anew too.
        """
        packer = Packer(self._store.hash, self._scratch, self._upload)
        tables = MovedTables(self._store.hash, packer)
        try:
            for key in keys:
                manifest = read_manifest(self._store, self._pipeline, key)
                self._packs |= {str(self._moved(BlobKey.parse(pack.key))): pack.bytes for pack in manifest.packs}
                for _, _, file in files_of(manifest):
                    if isinstance(file.place, Blocks):
                        self._add(tables, file.place)
            packer.close()
        finally:
            packer.discard()
        placed = {}
        for key in keys:
            manifest = read_manifest(self._store, self._pipeline, key)
            placed[key] = self._put(replace_places(manifest, lambda file: self._file(file, tables), self._packs))
        return placed

    def _add(self, tables: MovedTables, place: Blocks) -> None:
        for table in place.tables:
            if table not in tables:
                blocks = [block._replace(pack=self._moved(block.pack)) for block in self._blobs.table(table)]
                tables.add(table, blocks, None)

    def _file(self, file: StateFile, tables: MovedTables) -> StateFile:
        match file.place:
            case Inline():
                return file
            case Blocks() as place:
                return msgspec.structs.replace(file, place=tables.place(place))
            case Whole() as place:
                key = blob_key(file, place)
            case _:
                key = BlobKey.parse(file.place.pack)
        return msgspec.structs.replace(file, place=moved_key(file.place, self._moved(key)))

    def _moved(self, key: BlobKey) -> BlobKey:
        return BlobKey(key.digest, self._era)

    def _scratch(self) -> Path:
        folder = self._store.place.scratch
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self._token}.{next(self._numbers)}"

    def _upload(self, digest: Digest, size: int, body: LocalFile) -> BlobKey:
        key = BlobKey(digest, self._era)
        self._blobs.put(key, body)
        self._packs[str(key)] = size
        return key

    def _put(self, manifest: Manifest) -> tuple[BlobKey, int]:
        stored = encode_manifest(manifest)
        key = BlobKey(self._store.hash.digest(stored), self._era)
        name = layout.manifest(self._pipeline, key)
        if not self._store.backend.create(name, stored):
            with self._store.backend.open(name) as file:
                if file.read() != stored:
                    message = f"other bytes lie under the name of a manifest: {name}"
                    raise CorruptError(message, hint="nothing was changed; run it again")
        return key, len(stored)


def _head(
    store: Store, pipeline: PipelineId, proposal: Proposal, placed: Mapping[BlobKey, tuple[BlobKey, int]]
) -> Head:
    def entry(risen: Risen) -> HeadEntry:
        key, size = placed[risen.key]
        return msgspec.structs.replace(risen.entry, manifest=str(key), manifest_bytes=size)

    risen = proposal.risen
    counters = proposal.counters
    owner = store.ambient.new_id()
    return Head(
        format="eoctl.head",
        version=1,
        store=store.record.id,
        pipeline=pipeline.name,
        state="active",
        seq=counters.seq,
        nonce=store.ambient.new_id(),
        era=counters.era,
        floor=counters.era,
        advanced_at=store.ambient.now(),
        last_id=counters.last_id,
        writer=Writer(attempt=counters.attempt, owner=owner, last_tx=owner),
        live=tuple(entry(one) for one in risen if one.status == "live"),
        trash=tuple(msgspec.structs.replace(one.trashed, entry=entry(one)) for one in risen if one.trashed is not None),
        holds=tuple(msgspec.structs.replace(one.hold, entry=entry(one)) for one in risen if one.hold is not None),
    )


def _put_head(store: Store, pipeline: PipelineId, remains: Remains, head: Head) -> None:
    """HEAD is there, and ours: created where none was, or in place of the very bytes that were torn.

    Raises: ConflictError, CommitUnknownError, what the backend raises.
    """
    name, data = layout.head(pipeline), encode_head(head)
    unknown: OutcomeUnknownError | None = None
    try:
        if remains.version is None:
            store.backend.create(name, data)
        else:
            store.backend.swap(name, data, remains.version)
    except (VersionMismatchError, KeyAbsentError):
        pass  # somebody else was faster, and HEAD tells who
    except OutcomeUnknownError as error:
        if isinstance(error, CommitUnknownError):
            raise
        unknown = error
    try:
        seen = store.head(pipeline).head
    except (CorruptError, SnapshotNotFoundError) as error:
        message = f"HEAD of {pipeline} is still lost: {error.message}"
        kind = ConflictError if unknown is None else CommitUnknownError
        raise kind(message, hint="run it again") from (unknown or error)
    if seen.nonce != head.nonce:
        message = f"somebody else has made a HEAD of {pipeline} meanwhile"
        raise ConflictError(message, hint=f"eoctl checkpoint list -p {pipeline}")
