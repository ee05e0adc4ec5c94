"""Collecting garbage, pipeline by pipeline: expire by the rules, advance the floor when it is due, sweep, re-pack.

Safe beside everything, at any time, any number of times at once (docs/protocol.md): the rules and clocks here decide
only what is wanted and when; what may be deleted is decided by storage/gc.py from a committed HEAD. A pipeline that
cannot be collected is told and does not keep the others from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from eoctl.ambient import format_time
from eoctl.services.gc_rows import GcRun, PipelineGc, Reasoned, failed, with_repacked, with_swept, with_trouble
from eoctl.services.retention import Decision, Policy, decide
from eoctl.services.writers import eras_in_use, remove_old_pins
from formats.errors import BadNameError, ConflictError, CorruptError, EoctlError, SnapshotNotFoundError
from formats.head import Head, encode_head, manifests_of
from formats.ids import Era, PipelineId, TxId
from storage import edits, layout
from storage.backend import Folder, Reach
from storage.gc import Census, remove_unfinished, sweep, sweep_left, take_census
from storage.head import MAX_TRIES, CommittedHead, swap_head
from storage.manifest_cache import CachedStore
from storage.references import Stored
from storage.repack import Repacked, find_wasted, foresee, repack
from storage.root_manifests import RootManifests
from storage.store import Store

GRACE_SECONDS = 6 * 3600
KEEP_TRASH_SECONDS = 24 * 3600
KEEP_BACKUPS = 32
BREAKER_BLOBS = 1000  # garbage that is more than this, and more than half of all, needs `expect`
UNFINISHED_SECONDS = 24 * 3600

Progress = Callable[[int, int], None]  # bytes deleted so far, about, and how many there are to delete in a pipeline


class Options(Struct, frozen=True, kw_only=True):
    """How to collect. `expect`: so much garbage is no surprise. `grace_seconds`: the time between two advances.

    `cache`: a directory of this host where the manifests of a store elsewhere are kept from one run to the next.
    """

    policy: Policy = Policy()
    grace_seconds: int = GRACE_SECONDS
    keep_trash_seconds: int = KEEP_TRASH_SECONDS
    expect: int = 0
    dry_run: bool = False
    names: bool = False
    repack: bool = True
    cache: Path | None = None


def pipelines_to_collect(store: Store) -> Iterator[PipelineId]:
    """Every pipeline by name; one of which HEAD was lost too, so that `collect` tells it."""
    for folder in store.backend.list(layout.PIPELINES, reach=Reach.FOLDERS):
        if isinstance(folder, Folder):
            with contextlib.suppress(BadNameError):  # every pipeline of ours was named by PipelineId
                pipeline = PipelineId(folder.key.path.rpartition("/")[2])
                if store.backend.stat(layout.head(pipeline)) is not None or _was_lost(store, pipeline):
                    yield pipeline


def _was_lost(store: Store, pipeline: PipelineId) -> bool:
    try:
        store.head(pipeline)
    except SnapshotNotFoundError:
        return False  # its first writer died before it made HEAD
    except EoctlError:
        pass
    return True


def collect(
    store: Store, pipelines: Iterable[PipelineId], options: Options, progress: Progress = lambda *_: None
) -> GcRun:
    """Every pipeline is collected as far as it can be now. Errors of one are in its row."""
    rows: list[PipelineGc] = []
    floors: dict[PipelineId, int] = {}
    for pipeline in pipelines:
        began = store.ambient.elapsed()
        try:
            row = _Collection(store, pipeline, options, progress).run()
            floors[pipeline] = row.floor
        except EoctlError as error:
            row = failed(pipeline, error, dry_run=options.dry_run)
        rows.append(msgspec.structs.replace(row, seconds=store.ambient.elapsed() - began))
    removed = 0
    notes = []
    if not options.dry_run:
        now = datetime.fromisoformat(store.ambient.now()).timestamp()
        try:
            removed = remove_unfinished(store, floors, now - UNFINISHED_SECONDS)
        except EoctlError as error:
            notes.append(f"unfinished writes are still there: {error.message}")
    return GcRun(dry_run=options.dry_run, pipelines=tuple(rows), unfinished_removed=removed, notes=tuple(notes))


class _Collection:
    """One pipeline's turn."""

    def __init__(self, store: Store, pipeline: PipelineId, options: Options, progress: Progress) -> None:
        self._store = store
        self._pipeline = pipeline
        self._options = options
        self._progress = progress
        self._now = ""
        self._in_use = Era(min(eras_in_use(store, pipeline), default=1 << 53))
        self._notes: list[str] = []
        self._decisions: tuple[Decision, ...] = ()
        self._left_trash = 0
        self._trouble: tuple[str, EoctlError] | None = None  # what it kept from being done
        cached = options.cache is not None and store.place.remote
        self._cache = CachedStore.of(store, options.cache) if cached and options.cache is not None else None
        self._reading = self._cache or store
        self._manifests = RootManifests(self._reading, pipeline)

    def run(self) -> PipelineGc:
        """Edit, sweep, re-pack; with `grace_seconds` 0 what re-packing left behind is swept at once."""
        before, after = self._edit()
        row, after = self._swept(before, after)
        if not row.stopped:
            row = self._repacked(row, after.head)
        if row.advanced and not self._options.dry_run:
            self._back_up()
            self._remove_old_pins()
        if self._cache is not None:
            self._cache.prune(after.head)
        row = msgspec.structs.replace(row, notes=tuple(dict.fromkeys(self._notes)))
        return row if self._trouble is None else with_trouble(row, *self._trouble)

    def _swept(self, before: Head, after: CommittedHead) -> tuple[PipelineGc, CommittedHead]:
        """What is garbage by `after`, or a newer HEAD, is gone, unless there is too much of it."""
        after, census = self._census(after)
        stopped = self._stopped(census)
        row = msgspec.structs.replace(self._row(before, after.head, census), stopped=stopped)
        if stopped or self._options.dry_run:
            return row, after
        deleted, freed = len(census.garbage), census.garbage.bytes
        sweep(self._store, census, lambda done: self._progress(freed * done // deleted, freed))
        stored = row.stored_bytes - freed
        return msgspec.structs.replace(row, deleted_blobs=deleted, freed_bytes=freed, stored_bytes=stored), after

    def _repacked(self, row: PipelineGc, head: Head) -> PipelineGc:
        """Packs of which little is needed are written again, or would be; with `grace_seconds` 0 the old ones go."""
        done = self._repack(head)
        row = with_repacked(row, done)
        if self._options.grace_seconds or not done.left:
            return row
        sizes = dict(done.left)
        swept: Collection[Stored] = [stored for stored in sizes if stored.key.era < row.floor]
        if not self._options.dry_run:
            try:
                swept = sweep_left(self._store, self._store.head(self._pipeline).head, sizes, self._manifests)
            except EoctlError as error:
                self._trouble = "what was re-packed is still there", error
                return row
        return with_swept(row, {stored: sizes[stored] for stored in swept}, names=self._options.names)

    def _row(self, before: Head, after: Head, census: Census) -> PipelineGc:
        """What was found and wanted; nothing is deleted and re-packed yet."""
        pipeline = self._pipeline
        return PipelineGc(
            pipeline=pipeline.name,
            dry_run=self._options.dry_run,
            expired=tuple(Reasoned(f"{pipeline}@{d.entry.label}", d.reason) for d in self._decisions if not d.keep),
            kept=tuple(Reasoned(f"{pipeline}@{d.entry.label}", d.reason) for d in self._decisions if d.keep),
            by_rules=not self._options.policy.empty,
            advanced=after.era > before.era,
            era=after.era,
            floor=after.floor,
            left_trash=len(_known(before) - _known(after)),
            garbage_blobs=len(census.garbage),
            garbage_bytes=census.garbage.bytes,
            live_blobs=census.live_blobs,
            live_bytes=census.live_bytes,
            stored_bytes=census.stored_bytes,
            young_orphans=census.young,
            young_bytes=census.young_bytes,
            garbage=tuple(census.garbage_names()) if self._options.names else (),
            strangers=census.strangers,
            dangling=census.dangling,
        )

    def _census(self, after: CommittedHead) -> tuple[CommittedHead, Census]:
        """By this HEAD; by a newer one where somebody else has meanwhile dropped, and swept, what it names."""
        for _ in range(MAX_TRIES - 1):
            try:
                census = self._take_census(after.head)
            except CorruptError:
                if not self._outdated(after.head):
                    raise
            else:
                if not (census.dangling and self._outdated(after.head)):
                    return after, census
            after = self._store.head(self._pipeline)
            if self._options.dry_run:
                after = self._thought(after)
        return after, self._take_census(after.head)

    def _take_census(self, head: Head) -> Census:
        self._manifests = RootManifests(self._reading, self._pipeline)
        return take_census(self._store, head, self._reading.manifest_keys, new=self._manifests.keys)

    def _outdated(self, head: Head) -> bool:
        """A root of it is none any more, so what only that one names may be gone."""
        return not manifests_of(head).keys() <= manifests_of(self._store.head(self._pipeline).head).keys()

    def _edit(self) -> tuple[Head, CommittedHead]:
        """HEAD before and after what the rules and the clock want of it; a dry run only thinks it.

        With `grace_seconds` 0 the next advance is due at once: what the first one has met in the trash is dropped, and
        all that was uploaded before this run is below the floor.
        """
        self._now = self._store.ambient.now()
        current = self._store.head(self._pipeline)
        if self._options.dry_run:
            return current.head, self._thought(current)
        before, after = self._swapped(current, self._wanted)
        if after.head.era > before.era and not self._options.grace_seconds:
            _, after = self._swapped(after, self._advanced)
        return before, after

    def _thought(self, current: CommittedHead) -> CommittedHead:
        """HEAD as `_edit` would leave it."""
        head = self._wanted(current.head)
        if head.era > current.head.era and not self._options.grace_seconds:
            head = self._advanced(head)
        return msgspec.structs.replace(current, head=head)

    def _swapped(self, current: CommittedHead, want: Callable[[Head], Head]) -> tuple[Head, CommittedHead]:
        """HEAD before and after this edit, which gives the very value where there is nothing to do."""
        if want(current.head) is current.head:
            return current.head, current
        before: list[Head] = []

        def edit(head: Head) -> Head:
            before.append(head)
            wanted = want(head)
            return edits.touch(head) if wanted is head else msgspec.structs.replace(wanted, seq=head.seq + 1)

        txid = TxId(self._store.ambient.new_id())
        after = swap_head(self._store.backend, current, edit, self._store.ambient, txid=txid, attempt=None)
        return before[-1], after

    def _wanted(self, head: Head) -> Head:
        """Expired by the rules, and advanced where that is due."""
        self._decisions = ()
        if head.state == "destroyed":
            return head
        self._decisions = decide(head, self._options.policy, self._now)
        labels = frozenset(decision.entry.label for decision in self._decisions if not decision.keep)
        if labels:
            head = edits.expire(head, labels, self._now)
        if abs(_between(head.advanced_at, self._now)) >= self._options.grace_seconds:
            head = self._advanced(head)
        return head

    def _advanced(self, head: Head) -> Head:
        if head.state == "destroyed":
            return head
        drop_before = _earlier(self._now, self._options.keep_trash_seconds)
        return edits.advance(head, now=self._now, floor=Era(min(head.era, self._in_use)), drop_before=drop_before)

    def _stopped(self, census: Census) -> str:
        garbage = len(census.garbage)
        surprising = garbage > BREAKER_BLOBS and 2 * garbage > census.stored and census.head.state == "active"
        if not surprising or garbage <= self._options.expect:
            return ""
        return f"{garbage} of {census.stored} blobs are garbage; if that is right, run again with --expect {garbage}"

    def _repack(self, head: Head) -> Repacked:
        """Where it fails, all that the sweep did stands, and the next run tries again."""
        if not self._options.repack or head.state != "active":
            return Repacked()
        try:
            if self._options.dry_run:
                done = foresee(self._store, head, self._manifests)
            elif find_wasted(self._store, head, self._manifests):
                done = repack(self._store, self._pipeline, self._manifests)
            else:
                done = Repacked()
        except ConflictError as error:
            self._notes.append(f"nothing was re-packed this time: {error.message}")
            return Repacked()
        except EoctlError as error:
            if not (isinstance(error, CorruptError | SnapshotNotFoundError) and self._outdated(head)):
                self._trouble = "nothing was re-packed", error
            return Repacked()
        self._notes += [f"not re-packed, damaged: {reason}" for reason in done.damaged]
        return done

    def _back_up(self) -> None:
        """A copy of HEAD for the day on which it is lost; the oldest copies go."""
        backend = self._store.backend
        try:
            head = self._store.head(self._pipeline).head
            backend.create(layout.backup(self._pipeline, head.era), encode_head(head))
            eras = sorted(
                era for found in backend.list(layout.backups(self._pipeline)) if (era := layout.parse_backup(found.key))
            )
            backend.delete([layout.backup(self._pipeline, era) for era in eras[:-KEEP_BACKUPS]])
        except EoctlError as error:
            self._notes.append(f"no copy of HEAD was kept: {error.message}")

    def _remove_old_pins(self) -> None:
        try:
            remove_old_pins(self._store, self._pipeline)
        except EoctlError as error:
            self._notes.append(f"pins that nobody keeps any more are still there: {error.message}")


def _known(head: Head) -> set[str]:
    """What is live or in the trash."""
    return {entry.txid for entry in head.live} | {trashed.entry.txid for trashed in head.trash}


def _between(earlier: str, later: str) -> float:
    """Seconds; endless where the calendar does not have one of the times."""
    with contextlib.suppress(ValueError):
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    return float("inf")


def _earlier(now: str, seconds: int) -> str:
    with contextlib.suppress(OverflowError):
        return format_time(datetime.fromisoformat(now) - timedelta(seconds=seconds))
    return ""
