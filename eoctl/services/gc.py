"""Collecting garbage, pipeline by pipeline: expire by the rules, advance the floor when it is due, sweep, re-pack.

Safe beside everything, at any time, any number of times at once (docs/protocol.md): the rules and clocks here decide
only what is wanted and when; what may be deleted is decided by storage/gc.py from a committed HEAD. A pipeline that
cannot be collected is told and does not keep the others from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

import msgspec
from msgspec import Struct

from eoctl.ambient import format_time
from eoctl.services.prometheus import Metric
from eoctl.services.retention import Decision, Policy, decide
from eoctl.services.writers import eras_in_use
from formats.errors import CorruptError, EoctlError
from formats.head import Head, encode_head
from formats.ids import Era, PipelineId, TxId
from storage import edits, layout
from storage.gc import Census, Dangling, remove_unfinished, sweep, take_census
from storage.head import CommittedHead, swap_head
from storage.repack import Repacked, find_wasted, repack
from storage.store import Store

GRACE_SECONDS = 6 * 3600
KEEP_TRASH_SECONDS = 24 * 3600
KEEP_BACKUPS = 32
MAX_ROUNDS = 4
BREAKER_BLOBS = 1000  # garbage that is more than this, and more than half of all, needs `expect`
UNFINISHED_SECONDS = 24 * 3600
MAX_SECONDS = 100 * 365 * 86_400

Progress = Callable[[int, int], None]  # bytes deleted so far, about, and how many there are to delete in a pipeline


class Options(Struct, frozen=True, kw_only=True):
    """How to collect. `expect`: so much garbage is no surprise. `grace_seconds`: the time between two advances."""

    policy: Policy = Policy()
    grace_seconds: int = GRACE_SECONDS
    keep_trash_seconds: int = KEEP_TRASH_SECONDS
    expect: int = 0
    dry_run: bool = False
    names: bool = False
    repack: bool = True


class Reasoned(Struct, frozen=True):
    """A snapshot, and why it is kept or expired."""

    snapshot: str
    reason: str


class PipelineGc(Struct, frozen=True, kw_only=True):
    """What was done in one pipeline, or would be. Sizes are of stored bytes.

    `expired`: moved to the trash by this run; `by_rules`: there were rules that could. `young_orphans`: unreferenced,
    but perhaps in use by a session, for a later run. `dangling`: what snapshots need and is not there. `stopped`: why
    nothing was deleted though there is garbage. `error`, `message`: why the pipeline could not be collected.
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


def collect(
    store: Store, pipelines: Iterable[PipelineId], options: Options, progress: Progress = lambda *_: None
) -> GcRun:
    """Every pipeline is collected as far as it can be now. Errors of one are in its row.

    Raises: what reaching the store at all raises.
    """
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
    if not options.dry_run:
        now = datetime.fromisoformat(store.ambient.now()).timestamp()
        removed = remove_unfinished(store, floors, now - UNFINISHED_SECONDS)
    return GcRun(dry_run=options.dry_run, pipelines=tuple(rows), unfinished_removed=removed)


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

    def run(self) -> PipelineGc:
        """One round; more where the next advance is due at once and would free more (`grace_seconds` 0)."""
        rows = [self._round()]
        while self._more_to_free and len(rows) < MAX_ROUNDS:
            rows.append(self._round())
        return _together(rows)

    def _round(self) -> PipelineGc:
        before, after = self._edit()
        census = take_census(self._store, after.head)
        stopped = self._stopped(census)
        repacked = Repacked()
        deleted = freed = 0
        if not self._options.dry_run:
            if not stopped:
                deleted, freed = len(census.garbage), census.garbage.bytes
                sweep(self._store, census, lambda done: self._progress(freed * done // deleted, freed))
            repacked = self._repack(after.head)
            if after.head.era > before.era:
                self._back_up(after.head)
        elif self._options.repack and after.head.state == "active":
            wasted = find_wasted(self._store, after.head)
            repacked = Repacked(packs=len(wasted), pack_bytes=sum(pack.bytes for pack in wasted))
        advanced = after.head.era > before.era
        drop_before = _earlier(self._now, self._options.keep_trash_seconds)
        self._more_to_free = (
            advanced
            and not (stopped or self._options.dry_run or self._options.grace_seconds)
            and (bool(repacked.packs) or any(trashed.trashed_at <= drop_before for trashed in after.head.trash))
        )
        pipeline = self._pipeline
        return PipelineGc(
            pipeline=pipeline.name,
            dry_run=self._options.dry_run,
            expired=tuple(Reasoned(f"{pipeline}@{d.entry.label}", d.reason) for d in self._decisions if not d.keep),
            kept=tuple(Reasoned(f"{pipeline}@{d.entry.label}", d.reason) for d in self._decisions if d.keep),
            by_rules=not self._options.policy.empty,
            advanced=advanced,
            era=after.head.era,
            floor=after.head.floor,
            left_trash=len({t.entry.txid for t in before.trash} - {t.entry.txid for t in after.head.trash}),
            garbage_blobs=len(census.garbage),
            garbage_bytes=census.garbage.bytes,
            deleted_blobs=deleted,
            freed_bytes=freed,
            repacked_packs=repacked.packs,
            repacked_bytes=repacked.pack_bytes,
            live_blobs=census.live_blobs,
            live_bytes=census.live_bytes,
            stored_bytes=census.stored_bytes - freed + repacked.written_bytes,
            young_orphans=census.young,
            young_bytes=census.young_bytes,
            garbage=tuple(census.garbage_names()) if self._options.names else (),
            strangers=census.strangers,
            dangling=census.dangling,
            notes=tuple(self._notes),
            stopped=stopped,
        )

    def _edit(self) -> tuple[Head, CommittedHead]:
        """HEAD before and after what the rules and the clock want of it; a dry run only thinks it."""
        self._now = self._store.ambient.now()
        current = self._store.head(self._pipeline)
        if current.head.state == "destroyed":
            return current.head, current
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

    def _repack(self, head: Head) -> Repacked:
        if not self._options.repack or head.state != "active":
            return Repacked()
        repacked = repack(self._store, self._pipeline)
        self._notes += [f"not re-packed, damaged: {reason}" for reason in repacked.damaged]
        return repacked

    def _back_up(self, head: Head) -> None:
        """A copy of HEAD for the day on which it is lost; the oldest copies go."""
        backend = self._store.backend
        try:
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


def gc_metrics(run: GcRun, finished: float) -> tuple[Metric, ...]:
    """The figures of a run that ended at `finished`, in seconds since 1970."""
    good = [row for row in run.pipelines if not row.error]

    def of(name: str, help_text: str, field: str) -> Metric:
        samples = tuple(((("pipeline", row.pipeline),), float(getattr(row, field))) for row in good)
        return Metric(f"eoctl_gc_{name}", help_text, "gauge", samples)

    success = tuple(
        ((("pipeline", row.pipeline),), float(not (row.error or row.stopped or row.dangling))) for row in run.pipelines
    )
    dangling = tuple(((("pipeline", row.pipeline),), float(len(row.dangling))) for row in good)
    return (
        Metric("eoctl_gc_finished_time_seconds", "When the run ended.", "gauge", (((), finished),)),
        Metric("eoctl_gc_success", "1 where the pipeline was collected and nothing is missing.", "gauge", success),
        Metric("eoctl_gc_dangling", "Blobs that snapshots need and that are not there.", "gauge", dangling),
        of("deleted_blobs", "Blobs that the run deleted.", "deleted_blobs"),
        of("freed_bytes", "Stored bytes that the run freed.", "freed_bytes"),
        of("garbage_blobs", "Blobs that were garbage when the run looked.", "garbage_blobs"),
        of("live_blobs", "Blobs and manifests that snapshots need.", "live_blobs"),
        of("live_bytes", "Stored bytes that snapshots need.", "live_bytes"),
        of("stored_bytes", "Stored bytes after the run.", "stored_bytes"),
        of("young_orphans", "Unreferenced blobs that may be in use by an upload.", "young_orphans"),
        of("repacked_bytes", "Bytes of packs that the run wrote again.", "repacked_bytes"),
        of("duration_seconds", "What the pipeline took.", "seconds"),
    )
