"""Finding and deleting what no root needs: mark, list, sweep.

The one rule (docs/protocol.md, I4): a key may be deleted only if, in a committed HEAD, its era is below the floor and
no root names it. Such a key is garbage for ever, so nothing here needs a lock: a sweep may be late, repeated, killed,
or one of many, and works from the HEAD that it was given however old that is by then.

Marks come from manifests that were just checked against their digests in HEAD; one that cannot be read stops
everything. Left to others: what to expire and when to advance (services/gc.py), packs that are half dead (repack.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from msgspec import Struct

from formats.errors import CorruptError
from formats.head import LOST_HEAD, Head, HeadEntry, manifests_of, roots
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest_keys import ManifestKeys, keys_of
from storage import layout
from storage.backend import Found, Key, Reach, Unfinished
from storage.marks import KeyList, Marks
from storage.references import Space, Stored
from storage.root_manifests import RootManifests
from storage.store import Store

BATCH = 1000  # keys in one delete
MAX_NAMES = 100  # of things that are told one by one
ReadKeys = Callable[[Head, HeadEntry], ManifestKeys]


class Dangling(Struct, frozen=True):
    """Something that snapshots need and that is not there."""

    key: str
    snapshots: tuple[str, ...]


class Census(Struct, frozen=True, kw_only=True):
    """What lies in a pipeline, held against one HEAD. `young`: unreferenced, but not below the floor.

    `strangers`: names that are none of ours; they are told and never deleted.
    """

    head: Head
    garbage: KeyList
    live_blobs: int
    live_bytes: int
    young: int
    young_bytes: int
    strangers: tuple[str, ...]
    dangling: tuple[Dangling, ...]

    @property
    def stored_bytes(self) -> int:
        return self.live_bytes + self.young_bytes + self.garbage.bytes

    @property
    def stored(self) -> int:
        return self.live_blobs + self.young + len(self.garbage)

    def garbage_names(self) -> Iterator[str]:
        """The key of everything that a sweep deletes."""
        pipeline = PipelineId(self.head.pipeline)
        return (str(name_of(pipeline, stored)) for stored in self.garbage)


def take_census(store: Store, head: Head, read: ReadKeys | None = None, *, new: ReadKeys | None = None) -> Census:
    """What of the pipeline is live, garbage, or neither yet, by a HEAD that was committed.

    `read`: another way to the keys of a manifest; `new`: one that may leave out those that it has told of another.
    Raises: CorruptError, BlobGoneError: a manifest cannot be read, or HEAD went back. Then nothing may be deleted.
    """
    read = read or store.manifest_keys
    marks = Marks()
    # By transaction too: two snapshots of one manifest are a fault, which reading it for both shows.
    for entry in {(entry.manifest, entry.txid): entry for entry in roots(head)}.values():
        marks.add(Space.MANIFEST, *_parts(entry.manifest))
        manifest = (new or read)(head, entry)
        for digest, era in keys_of(manifest):
            marks.add(Space.BLOB, digest, era)
        del manifest  # a million files, perhaps
    garbage = KeyList()
    strangers: list[str] = []
    live = live_bytes = young = young_bytes = 0
    newest_era = 0
    for stored, found in _listing(store, PipelineId(head.pipeline)):
        if stored is None:
            if len(strangers) < MAX_NAMES:
                strangers.append(str(found.key))
        elif stored in marks:
            live, live_bytes = live + 1, live_bytes + found.bytes
        elif stored.key.era < head.floor:
            garbage.add(stored, found.bytes)
        else:
            young, young_bytes = young + 1, young_bytes + found.bytes
        if stored is not None:
            newest_era = max(newest_era, stored.key.era)
    if newest_era > head.era:
        _check_era(store, head, newest_era)
    return Census(
        head=head,
        garbage=garbage,
        live_blobs=live,
        live_bytes=live_bytes,
        young=young,
        young_bytes=young_bytes,
        strangers=tuple(strangers),
        dangling=() if live >= len(marks) else tuple(islice(_find_dangling(store, head, read), MAX_NAMES)),
    )


def sweep(store: Store, census: Census, progress: Callable[[int], None] = lambda _: None) -> None:
    """The garbage is gone. `progress` is told how many keys are."""
    _delete(store, PipelineId(census.head.pipeline), census.garbage, progress)


def sweep_left(store: Store, head: Head, left: Iterable[Stored], manifests: RootManifests) -> frozenset[Stored]:
    """Those of `left` that are garbage by this HEAD, which was committed, are gone; returns which.

    Raises: CorruptError, BlobGoneError: a manifest cannot be read. Then nothing was deleted.
    """
    pipeline = PipelineId(head.pipeline)
    garbage = {stored for stored in left if stored.key.era < head.floor}
    for entry in roots(head):
        garbage.discard(Stored(Space.MANIFEST, BlobKey.parse(entry.manifest)))
    for entry in manifests_of(head).values():
        garbage.difference_update(Stored(Space.BLOB, key) for key in manifests.blobs(head, entry))
    _delete(store, pipeline, sorted(garbage))
    return frozenset(garbage)


def _delete(
    store: Store, pipeline: PipelineId, garbage: Iterable[Stored], progress: Callable[[int], None] = lambda _: None
) -> None:
    keys = (name_of(pipeline, stored) for stored in garbage)
    done = 0
    while batch := list(islice(keys, BATCH)):
        store.backend.delete(batch)
        done += len(batch)
        progress(done)


def remove_unfinished(store: Store, floors: dict[PipelineId, int], older_than: float) -> int:
    """Writes that never finished are gone: those whose era is below the floor, and temporary files not touched since.

    `older_than`: seconds since 1970 by the store's clock. Those of pipelines without a floor stay. Returns how many.
    """
    stale: list[Unfinished] = []
    for found in store.backend.list(Key("p"), reach=Reach.UNFINISHED):
        assert isinstance(found, Unfinished)
        pipeline = _pipeline_of(found.key, floors)
        if pipeline is not None:
            key = layout.parse_blob(pipeline, found.key) or layout.parse_manifest(pipeline, found.key)
            if key is not None and key.era < floors[pipeline]:
                stale.append(found)
        elif not found.key.path.startswith(f"{layout.PIPELINES}/"):
            seen = store.backend.stat(found.key)
            if seen is not None and seen.modified_at < older_than:
                stale.append(found)
    store.backend.delete(stale)
    return len(stale)


def _pipeline_of(key: Key, floors: dict[PipelineId, int]) -> PipelineId | None:
    return next((pipeline for pipeline in floors if key.path.startswith(f"p/{pipeline}/")), None)


def _parts(key: str) -> tuple[str, int]:
    parsed = BlobKey.parse(key)
    return parsed.digest, parsed.era


def _listing(store: Store, pipeline: PipelineId) -> Iterator[tuple[Stored | None, Found]]:
    """Everything stored of the pipeline; None where a name does not parse."""
    for space, prefix, parse in (
        (Space.BLOB, layout.blobs(pipeline), layout.parse_blob),
        (Space.MANIFEST, layout.manifests(pipeline), layout.parse_manifest),
    ):
        for found in store.backend.list(prefix):
            assert isinstance(found, Found)
            key = parse(pipeline, found.key)
            yield None if key is None else Stored(space, key), found


def name_of(pipeline: PipelineId, stored: Stored) -> Key:
    """Where it lies."""
    name = layout.blob if stored.space is Space.BLOB else layout.manifest
    return name(pipeline, stored.key)


def _check_era(store: Store, head: Head, era: int) -> None:
    """Something was uploaded in an era that HEAD has not reached; it may have since, else it went back."""
    now = store.head(PipelineId(head.pipeline)).head
    if era > now.era:
        message = f"HEAD of {head.pipeline} went back: it is in era {now.era}, and there are blobs of era {era}"
        raise CorruptError(message, hint=LOST_HEAD)


def _find_dangling(store: Store, head: Head, read: ReadKeys) -> Iterator[Dangling]:
    """What the roots name, no listing shows, and a look at the very key does not find either."""
    pipeline = PipelineId(head.pipeline)
    listed = Marks()
    for stored, _ in _listing(store, pipeline):
        if stored is not None:
            listed.add(stored.space, stored.key.digest, stored.key.era)
    missing: dict[Stored, list[str]] = {}
    for entry in roots(head):
        own = Stored(Space.MANIFEST, BlobKey.parse(entry.manifest))
        # In the order of a listing, in which marks are found fast.
        named = (Stored(Space.BLOB, BlobKey(Digest(d), Era(e))) for d, e in sorted(set(keys_of(read(head, entry)))))
        for stored in (own, *named):
            if stored not in listed and (stored in missing or len(missing) < MAX_NAMES):
                missing.setdefault(stored, []).append(f"{pipeline}@{entry.label}")
    for stored, snapshots in sorted(missing.items()):
        key = name_of(pipeline, stored)
        if store.backend.stat(key) is None:
            yield Dangling(str(key), tuple(dict.fromkeys(snapshots)))
