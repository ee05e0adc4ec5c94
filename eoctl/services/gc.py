"""Collecting garbage, pipeline by pipeline: expire by the rules, advance the floor when it is due, sweep, re-pack.

Safe beside everything, at any time, any number of times at once (docs/protocol.md): the rules and clocks here decide
only what is wanted and when; what may be deleted is decided by storage/gc.py from a committed HEAD. A pipeline that
cannot be collected is told and does not keep the others from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from msgspec import Struct

from eoctl.ambient import format_time
from eoctl.services.retention import Decision, Policy, decide
from eoctl.services.writers import eras_in_use
from formats.errors import BadNameError, ConflictError, CorruptError, EoctlError, SnapshotNotFoundError
from formats.head import Head, HeadEntry, encode_head, manifests_of
from formats.ids import Era, PipelineId, TxId
from formats.manifest import Manifest
from storage import edits, layout
from storage.backend import Folder, Reach
from storage.gc import Census, Dangling, remove_unfinished, sweep, take_census
from storage.head import MAX_TRIES, CommittedHead, swap_head
from storage.manifest_cache import CachedStore
from storage.repack import Repacked, find_wasted, foresee, repack
from storage.store import Store

GRACE_SECONDS = 6 * 3600
KEEP_TRASH_SECONDS = 24 * 3600
KEEP_BACKUPS = 32
MAX_ROUNDS = 4
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


class Reasoned(Struct, frozen=True):
    """A snapshot, and why it is kept or expired."""

    snapshot: str
    reason: str


class PipelineGc(Struct, frozen=True, kw_only=True):
    """What was done in one pipeline, or would be. Sizes are of stored bytes.

    `expired`: moved to the trash by this run; `by_rules`: there were rules that could. `young_orphans`: unreferenced,
    but perhaps in use by a session, for a later run. `dangling`: what snapshots need and is not there. `stopped`: why
    garbage was left and nothing re-packed. `error`, `message`: why the pipeline could not be collected, or re-packed:
    then the figures are there (`era` is not 0).
    """

    pipeline: str
    dry_run: bool
    expired: tuple[Reasoned, ...] = ()
    kept: tuple[Reasoned, ...] = ()
    by_rules: bool = False
    advanced: bool = False
    era: int = 0
    floor: int = 0
    left_trash: int = 0
    garbage_blobs: int = 0
    garbage_bytes: int = 0
    deleted_blobs: int = 0
    freed_bytes: int = 0
    repacked_packs: int = 0
    repacked_bytes: int = 0
    live_blobs: int = 0
    live_bytes: int = 0
    stored_bytes: int = 0
    young_orphans: int = 0
    young_bytes: int = 0
    garbage: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    dangling: tuple[Dangling, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: str = ""
    error: str = ""
    message: str = ""
    hint: str = ""
    exit_code: int = 0
    seconds: float = 0.0


class GcRun(Struct, frozen=True, kw_only=True):
    """One run over some pipelines."""

    dry_run: bool
    pipelines: tuple[PipelineGc, ...]
    unfinished_removed: int = 0
    notes: tuple[str, ...] = ()


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
            row = _failed(pipeline, options, error)
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
        self._more_to_free = False
        self._trouble: EoctlError | None = None
        cached = options.cache is not None and store.place.remote
        self._cache = CachedStore.of(store, options.cache) if cached and options.cache is not None else None
        self._reading = self._cache or store

    def run(self) -> PipelineGc:
        """One round; more where the next advance is due at once and would free more (`grace_seconds` 0)."""
        rows = [self._round()]
        while self._more_to_free and len(rows) < MAX_ROUNDS:
            rows.append(self._round())
        return _together(rows)

    def _round(self) -> PipelineGc:
        before, after = self._edit()
        after, census = self._census(after)
        stopped = self._stopped(census)
        deleted = freed = 0
        if not (stopped or self._options.dry_run):
            deleted, freed = len(census.garbage), census.garbage.bytes
            sweep(self._store, census, lambda done: self._progress(freed * done // deleted, freed))
        row = self._row(before, after.head, census)
        row = msgspec.structs.replace(row, stopped=stopped, deleted_blobs=deleted, freed_bytes=freed)
        packed = census.packed
        del census  # before manifests are read whole
        repacked = Repacked() if stopped else self._repack(after.head, packed)
        if row.advanced and not self._options.dry_run:
            self._back_up()
        if self._cache is not None:
            self._cache.prune(after.head)
        drop_before = _earlier(self._now, self._options.keep_trash_seconds)
        self._more_to_free = (
            row.advanced
            and not (stopped or self._trouble or self._options.dry_run or self._options.grace_seconds)
            and (bool(repacked.packs) or any(trashed.trashed_at <= drop_before for trashed in after.head.trash))
        )
        row = msgspec.structs.replace(
            row,
            stored_bytes=row.stored_bytes - freed + repacked.written_bytes,
            repacked_packs=repacked.packs,
            repacked_bytes=repacked.pack_bytes,
            notes=tuple(dict.fromkeys(self._notes)),
        )
        return row if self._trouble is None else _with_trouble(row, self._trouble)

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
            left_trash=len({t.entry.txid for t in before.trash} - {t.entry.txid for t in after.trash}),
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
        read = self._reading.manifest_keys
        for _ in range(MAX_TRIES - 1):
            try:
                census = take_census(self._store, after.head, read)
            except CorruptError:
                if not self._outdated(after.head):
                    raise
            else:
                if not (census.dangling and self._outdated(after.head)):
                    return after, census
            after = self._store.head(self._pipeline)
            if self._options.dry_run:
                after = msgspec.structs.replace(after, head=self._wanted(after.head))
        return after, take_census(self._store, after.head, read)

    def _outdated(self, head: Head) -> bool:
        """A root of it is none any more, so what only that one names may be gone."""
        return not manifests_of(head).keys() <= manifests_of(self._store.head(self._pipeline).head).keys()

    def _edit(self) -> tuple[Head, CommittedHead]:
        """HEAD before and after what the rules and the clock want of it; a dry run only thinks it."""
        self._now = self._store.ambient.now()
        current = self._store.head(self._pipeline)
        if self._options.dry_run:
            return current.head, msgspec.structs.replace(current, head=self._wanted(current.head))
        if self._wanted(current.head) is current.head:
            return current.head, current
        before: list[Head] = []

        def edit(head: Head) -> Head:
            before.append(head)
            wanted = self._wanted(head)
            return edits.touch(head) if wanted is head else msgspec.structs.replace(wanted, seq=head.seq + 1)

        txid = TxId(self._store.ambient.new_id())
        after = swap_head(self._store.backend, current, edit, self._store.ambient, txid=txid, attempt=None)
        return before[-1], after

    def _wanted(self, head: Head) -> Head:
        """Expired by the rules, and advanced where that is due; the very value where there is nothing to do."""
        self._decisions = ()
        if head.state == "destroyed":
            return head
        self._decisions = decide(head, self._options.policy, self._now)
        labels = frozenset(decision.entry.label for decision in self._decisions if not decision.keep)
        if labels:
            head = edits.expire(head, labels, self._now)
        if abs(_between(head.advanced_at, self._now)) >= self._options.grace_seconds:
            drop_before = _earlier(self._now, self._options.keep_trash_seconds)
            floor = Era(min(head.era, self._in_use))
            head = edits.advance(head, now=self._now, floor=floor, drop_before=drop_before)
        return head

    def _stopped(self, census: Census) -> str:
        garbage = len(census.garbage)
        surprising = garbage > BREAKER_BLOBS and 2 * garbage > census.stored and census.head.state == "active"
        if not surprising or garbage <= self._options.expect:
            return ""
        return f"{garbage} of {census.stored} blobs are garbage; if that is right, run again with --expect {garbage}"

    def _repack(self, head: Head, packed: frozenset[str]) -> Repacked:
        """Where it fails, all that the sweep did stands, and the next run tries again."""
        if not self._options.repack or head.state != "active":
            return Repacked()
        try:
            wasted = find_wasted(self._store, head, self._manifest, packed)
            if not wasted:
                return Repacked()
            if self._options.dry_run:
                return self._noted(foresee(self._store, head, wasted))
            return self._noted(repack(self._store, self._pipeline))
        except ConflictError as error:
            self._notes.append(f"nothing was re-packed this time: {error.message}")
        except EoctlError as error:
            if not (isinstance(error, CorruptError | SnapshotNotFoundError) and self._outdated(head)):
                self._trouble = error
        return Repacked()

    def _manifest(self, head: Head, entry: HeadEntry) -> Manifest:
        return self._reading.manifest(head, entry, thorough=False)

    def _noted(self, repacked: Repacked) -> Repacked:
        self._notes += [f"not re-packed, damaged: {reason}" for reason in repacked.damaged]
        return repacked

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


def _together(rows: list[PipelineGc]) -> PipelineGc:
    """What the rounds did in sum, and how the last one left the pipeline."""
    first, last = rows[0], rows[-1]
    return msgspec.structs.replace(
        last,
        expired=first.expired,
        kept=first.kept,
        advanced=first.advanced,
        left_trash=sum(row.left_trash for row in rows),
        garbage_blobs=sum(row.garbage_blobs for row in rows),
        garbage_bytes=sum(row.garbage_bytes for row in rows),
        deleted_blobs=sum(row.deleted_blobs for row in rows),
        freed_bytes=sum(row.freed_bytes for row in rows),
        repacked_packs=sum(row.repacked_packs for row in rows),
        repacked_bytes=sum(row.repacked_bytes for row in rows),
        garbage=tuple(name for row in rows for name in row.garbage),
    )


def _with_trouble(row: PipelineGc, error: EoctlError) -> PipelineGc:
    return msgspec.structs.replace(
        row,
        error=error.kind,
        message=f"nothing was re-packed: {error.message}",
        hint=error.hint or "",
        exit_code=error.exit_code,
    )


def _failed(pipeline: PipelineId, options: Options, error: EoctlError) -> PipelineGc:
    message = error.message
    if isinstance(error, CorruptError):
        message = f"{message}; nothing was deleted"
    return PipelineGc(
        pipeline=pipeline.name,
        dry_run=options.dry_run,
        error=error.kind,
        message=message,
        hint=error.hint or "",
        exit_code=error.exit_code,
    )


def _between(earlier: str, later: str) -> float:
    """Seconds; endless where the calendar does not have one of the times."""
    with contextlib.suppress(ValueError):
        return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
    return float("inf")


def _earlier(now: str, seconds: int) -> str:
    with contextlib.suppress(OverflowError):
        return format_time(datetime.fromisoformat(now) - timedelta(seconds=seconds))
    return ""
