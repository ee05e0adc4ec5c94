"""Seeded bugs: each breaks one rule of the protocol in the real code, for the time of a context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import msgspec
import pytest

import eoctl.services.entries
import eoctl.services.gc
import eoctl.services.restore
import eoctl.services.writers
import storage.backends.memory
import storage.blobs
import storage.edits
import storage.gc
import storage.head
import storage.pins
import storage.repack
import storage.root_manifests
import storage.session
import storage.store
from eoctl.selftest.wire import Wire
from formats.errors import AccessDeniedError, CommitUnknownError, EoctlError, OutcomeUnknownError, UnavailableError
from formats.head import Head, HeadEntry, Hold, roots
from formats.ids import BlobKey, Era, PipelineId
from formats.manifest import Slice
from formats.manifest_keys import ManifestKeys
from formats.manifest_series import Series
from storage import layout
from storage.backend import KeyAbsentError, SyncFailedError
from storage.edits import BelowFloorError, Proof, ReuseLostError
from storage.marks import Marks
from storage.references import Space

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]
BUGS: dict[str, Bug] = {}


def bug(apply: Bug) -> Bug:
    BUGS[apply.__name__.replace("_", " ")] = apply
    return apply


@contextmanager
def planted(name: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        BUGS[name](patch)
        yield


# The commit rule


@bug
def no_floor_check(patch: Patch) -> None:
    def check(head: Head, proof: Proof, manifests: object) -> None:
        if not proof.borrowed_from <= {root.manifest for root in roots(head)}:
            raise ReuseLostError("gone")

    patch.setattr(storage.edits, "_check_proof", check)


@bug
def manifest_outside_the_floor_check(patch: Patch) -> None:
    real = storage.edits._check_proof
    patch.setattr(storage.edits, "_check_proof", lambda head, proof, _: real(head, proof, []))


@bug
def no_check_of_what_is_borrowed(patch: Patch) -> None:
    def check(head: Head, proof: Proof, manifests: list[BlobKey]) -> None:
        oldest = min(proof.own_eras.union(key.era for key in manifests), default=head.floor)
        if oldest < head.floor:
            raise BelowFloorError("below")

    patch.setattr(storage.edits, "_check_proof", check)


@bug
def reuse_is_not_told(patch: Patch) -> None:
    patch.setattr(storage.session.Session, "borrow", lambda self: None)


@bug
def era_renewed_without_another_upload(patch: Patch) -> None:
    def carry(self) -> None:
        self.head = self.store.head(self.pipeline)
        self.era = Era(self.head.head.era)
        self._confirmed = {BlobKey(key.digest, self.era): size for key, size in self._confirmed.items()}
        self._own = {}

    patch.setattr(storage.session.Session, "_carry_forward", carry)


@bug
def the_old_manifest_key_in_a_new_era(patch: Patch) -> None:
    real = storage.session.Session._put_manifest

    def put(self, name, stored):
        if self.era % 2:
            real(self, name, stored)

    patch.setattr(storage.session.Session, "_put_manifest", put)


@bug
def uploads_without_confirmation(patch: Patch) -> None:
    def put(self, key, body):
        with suppress(OutcomeUnknownError):
            self.backend.create(layout.blob(self.pipeline, key), body)

    patch.setattr(storage.blobs.Blobs, "put", put)


# The swap


@bug
def swap_without_compare(patch: Patch) -> None:
    def swap(self, key, body, expected):
        self._value(key)
        self._put(key, body)

    patch.setattr(storage.backends.memory.MemoryBackend, "swap", swap)


def _unknown_swaps(patch: Patch, become: Callable[[OutcomeUnknownError], None]) -> None:
    """What becomes of a swap of which nobody knows whether it happened."""
    real = Wire.swap

    def swap(self, key, body, expected):
        try:
            real(self, key, body, expected)
        except CommitUnknownError:
            raise
        except OutcomeUnknownError as error:
            become(error)

    patch.setattr(Wire, "swap", swap)


@bug
def success_on_an_unknown_outcome(patch: Patch) -> None:
    _unknown_swaps(patch, lambda _: None)


@bug
def failure_on_an_unknown_outcome(patch: Patch) -> None:
    def fail(error: OutcomeUnknownError) -> None:
        raise AccessDeniedError("it surely failed") from error

    _unknown_swaps(patch, fail)


@bug
def no_reading_back_after_a_refusal(patch: Patch) -> None:
    patch.setattr(storage.head, "_shows", lambda head, txid: False)


@bug
def giving_up_without_a_barrier(patch: Patch) -> None:
    def give_up(backend, current, ambient):
        raise UnavailableError("the store refused")

    patch.setattr(storage.head, "_give_up", give_up)
    patch.setattr(storage.head, "MAX_TRIES", 1)


@bug
def a_refusal_read_back_in_vain_is_a_failure(patch: Patch) -> None:
    real = storage.head._unknown_if

    def unknown_if(pipeline, *, uncertain):
        return real(pipeline, uncertain=False)

    patch.setattr(storage.head, "_unknown_if", unknown_if)


# Writers


@bug
def attempts_are_not_compared(patch: Patch) -> None:
    real = storage.edits.commit

    def commit(head, entry, attempt, owner, proof):
        return real(head, entry, head.writer.attempt if attempt is not None else None, head.writer.owner, proof)

    patch.setattr(storage.session, "commit", commit)


@bug
def own_uploads_deleted_after_a_failure(patch: Patch) -> None:
    real = storage.session.Session._insist

    def insist(self, attempt):
        try:
            return real(self, attempt)
        except EoctlError:
            self.store.backend.delete([layout.blob(self.pipeline, key) for key in self._confirmed])
            raise

    patch.setattr(storage.session.Session, "_insist", insist)


@bug
def a_failed_sync_is_forgotten(patch: Patch) -> None:
    patch.setattr(storage.session.Session, "_distrust", lambda self: self._swap(storage.edits.touch))


@bug
def a_failed_sync_is_an_unknown_outcome(patch: Patch) -> None:
    real = storage.blobs.Blobs.put

    def put(self, key, body):
        try:
            real(self, key, body)
        except SyncFailedError:
            if self.backend.stat(layout.blob(self.pipeline, key)) is None:
                raise

    patch.setattr(storage.blobs.Blobs, "put", put)


# gc


def _with_garbage(patch: Patch, change: Callable[[Head], Head]) -> None:
    """The census is taken by another HEAD than the committed one."""
    real = storage.gc.take_census
    patch.setattr(
        eoctl.services.gc, "take_census", lambda store, head, *more, **ways: real(store, change(head), *more, **ways)
    )


@bug
def sweep_at_the_floor(patch: Patch) -> None:
    _with_garbage(patch, lambda head: msgspec.structs.replace(head, floor=min(head.floor + 1, head.era)))


@bug
def sweep_below_the_era(patch: Patch) -> None:
    _with_garbage(patch, lambda head: msgspec.structs.replace(head, floor=head.era))


@bug
def gc_blind_to_holds(patch: Patch) -> None:
    _with_garbage(patch, lambda head: msgspec.structs.replace(head, holds=()))


@bug
def gc_blind_to_the_trash(patch: Patch) -> None:
    _with_garbage(patch, lambda head: msgspec.structs.replace(head, trash=()))


@bug
def gc_blind_to_the_oldest(patch: Patch) -> None:
    _with_garbage(patch, lambda head: msgspec.structs.replace(head, live=head.live[1:]))


@bug
def gc_blind_to_manifests(patch: Patch) -> None:
    real = Marks.add

    def add(self, space, digest, era):
        if space is not Space.MANIFEST:
            real(self, space, digest, era)

    patch.setattr(Marks, "add", add)


@bug
def an_unreadable_manifest_is_empty(patch: Patch) -> None:
    real = storage.root_manifests.RootManifests.keys

    def keys(self, head: Head, entry: HeadEntry) -> ManifestKeys:
        try:
            return real(self, head, entry)
        except EoctlError:
            return ManifestKeys(
                format="eoctl.manifest",
                version=1,
                store=head.store,
                pipeline=head.pipeline,
                id=entry.id,
                txid=entry.txid,
                operators=(),
                packs=(),
            )

    patch.setattr(storage.root_manifests.RootManifests, "keys", keys)


@bug
def a_census_that_knows_files_of_an_earlier_one(patch: Patch) -> None:
    """What an earlier census was told is not told again, and so not marked."""
    kept: dict[str, Series] = {}

    def take_census(self, head):
        self._manifests = storage.root_manifests.RootManifests(self._reading, self._pipeline)
        self._manifests._series = kept.setdefault(head.pipeline, self._manifests._series)
        self._manifests._needs = None  # re-packing would meet what is missing there, and end
        return storage.gc.take_census(self._store, head, self._reading.manifest_keys, new=self._manifests.keys)

    patch.setattr(eoctl.services.gc._Collection, "_take_census", take_census)


@bug
def sweep_before_the_swap(patch: Patch) -> None:
    """The census is taken by what gc wants HEAD to be, trash and all, whether it came to be or not."""
    real = eoctl.services.gc._Collection._edit

    def edit(self):
        before = self._store.head(self._pipeline)
        self._now = self._store.ambient.now()
        wanted = msgspec.structs.replace(before, head=self._wanted(before.head))
        try:
            return real(self)
        except EoctlError:
            return before.head, wanted

    patch.setattr(eoctl.services.gc._Collection, "_edit", edit)


@bug
def an_old_head_with_a_newer_floor(patch: Patch) -> None:
    old: dict[str, Head] = {}

    def stale(store, head, *more, **ways):
        before = old.setdefault(head.pipeline, head)
        old[head.pipeline] = head
        newer = msgspec.structs.replace(before, floor=head.floor, era=head.era)
        return storage.gc.take_census(store, newer, *more, **ways)

    patch.setattr(eoctl.services.gc, "take_census", stale)


@bug
def the_floor_goes_back(patch: Patch) -> None:
    real = storage.edits.advance

    def advance(head, *, now, floor, drop_before):
        return msgspec.structs.replace(
            real(head, now=now, floor=floor, drop_before=drop_before), floor=min(head.era, floor)
        )

    patch.setattr(storage.edits, "advance", advance)


@bug
def the_trash_is_dropped_without_an_advance(patch: Patch) -> None:
    real = storage.edits.expire
    patch.setattr(
        storage.edits, "expire", lambda head, labels, now: msgspec.structs.replace(real(head, labels, now), trash=())
    )


@bug
def nothing_is_ever_swept(patch: Patch) -> None:
    patch.setattr(eoctl.services.gc, "sweep", lambda *_: None)


# Re-packing


@bug
def repack_swaps_live_entries_only(patch: Patch) -> None:
    real = storage.edits.rewrite

    def rewrite(head, manifests, proof, **more):
        return msgspec.structs.replace(real(head, manifests, proof, **more), trash=head.trash, holds=head.holds)

    patch.setattr(storage.session, "rewrite", rewrite)
    patch.setattr(storage.repack, "repack", _repack_and_delete)
    patch.setattr(eoctl.services.gc, "repack", _repack_and_delete)


def _repack_and_delete(store, pipeline, *more):
    """The old packs are deleted as soon as they were left behind."""
    work = storage.repack._Repacking(store, *(more or (storage.root_manifests.RootManifests(store, pipeline),)))
    left: list[BlobKey] = []
    real = storage.repack._wasted

    def noting(needs, head):
        found = real(needs, head)
        left[:] = [pack.key for pack in found]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.repack, "_wasted", noting)
        storage.session.Session(store, pipeline, based=False).rewrite(work.plan, beside_readers=True)
    store.backend.delete([layout.blob(pipeline, key) for key in left])
    return work.result


@bug
def repack_deletes_what_it_left(patch: Patch) -> None:
    patch.setattr(eoctl.services.gc, "repack", _repack_and_delete)


@bug
def what_was_left_is_swept_unlooked_at(patch: Patch) -> None:
    """Whatever the floor is, and whoever names it."""

    def sweep_left(store, head, left, manifests):
        gone = frozenset(left)
        pipeline = PipelineId(head.pipeline)
        store.backend.delete([storage.gc.name_of(pipeline, stored) for stored in gone])
        return gone

    patch.setattr(eoctl.services.gc, "sweep_left", sweep_left)


@bug
def repack_mixes_slices_up(patch: Patch) -> None:
    def moved_file(self, file):
        place = file.place
        if isinstance(place, Slice) and place.pack in self._left:
            pending = next(iter(next(iter(self._moved.values())).values()))
            return msgspec.structs.replace(file, place=pending.place)
        return file

    patch.setattr(storage.repack._Moving, "moved_file", moved_file)


# Edits


@bug
def undelete_from_memory(patch: Patch) -> None:
    """The entry comes back from the HEAD that was read first, not from the one that is swapped."""

    def undelete(store, pipeline, label):
        first = store.head(pipeline)
        back = [trashed.entry for trashed in first.head.trash if trashed.entry.label == label]

        def edit(head: Head) -> Head:
            live = tuple(sorted({*head.live, *back}, key=lambda entry: entry.seq))
            trash = tuple(t for t in head.trash if t.entry.label != label)
            return storage.edits._edited(head, live=live, trash=trash)

        store.ambient.wait(30 * 3600.0)
        return eoctl.services.entries._swap(store, pipeline, edit)

    patch.setattr(eoctl.services.entries, "undelete", undelete)


@bug
def a_hold_from_memory(patch: Patch) -> None:
    def hold(head, label, *, hold_id, reason, now, expires_at, entry):
        added = Hold(id=hold_id, entry=entry, reason=reason, created_at=now, expires_at=expires_at)
        return storage.edits._edited(head, holds=(*head.holds, added))

    def held(store, resolved, reason, seconds=None):
        store.ambient.wait(30 * 3600.0)
        now = store.ambient.now()
        hold_id = store.ambient.new_id()
        edit = partial(
            hold,
            label="",
            hold_id=hold_id,
            reason=reason,
            now=now,
            expires_at=None,
            entry=resolved.entry,
        )
        _, after = eoctl.services.entries._swap(store, resolved.pipeline, edit)
        return next(found for found in after.holds if found.id == hold_id)

    patch.setattr(eoctl.services.entries, "hold", held)


# Reading


@bug
def restore_does_not_check(patch: Patch) -> None:
    def content(self, file):
        with suppress(KeyAbsentError):
            yield from self._parts(file)

    def slices(self, pack, files):
        with self.backend.open(layout.blob(self.pipeline, BlobKey.parse(pack))) as reader:
            stored = reader.read()
        import zstandard

        for file in files:
            place = file.place
            data = stored[place.offset : place.offset + place.length]
            if place.codec == "zstd":
                with suppress(zstandard.ZstdError):
                    data = zstandard.ZstdDecompressor().decompress(data, max_output_size=file.bytes)
            yield file, data

    patch.setattr(storage.blobs.Blobs, "content", content)
    patch.setattr(storage.blobs.Blobs, "slices", slices)
