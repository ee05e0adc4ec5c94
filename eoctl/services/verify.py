"""Is what the snapshots need still there, and still what it was? Four levels, each harder than the one before.

quick: HEAD, every manifest against its digest, and that each blob is there with its size. sample: also the bytes of
those blobs whose turn it is, so that in 100 / percent runs all are read. full: every referenced byte, and every slice,
block and inline content against its own digest. drill: a restore to scratch, compared, with the user's own check.

Damage is the answer, not an error: it is returned with every snapshot that it hurts, and kept in the store as a
report. What is no damage (no connection, no permission, no space) is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from math import ceil
from pathlib import Path

import msgspec

from eoctl.services.damage import find_damage, read_manifest
from eoctl.services.drill import Drilled, drill, parse_hook
from eoctl.services.reports import keep_report, read_reports
from eoctl.services.resolve import Resolved
from eoctl.services.roots import distinct, identity
from eoctl.services.values import DamagedFile, Verification
from formats.canonical import MAX_STRING_BYTES
from formats.errors import BlobGoneError, CorruptError, SnapshotNotFoundError, UsageError
from formats.head import LOST_HEAD, Head, HeadEntry, roots
from formats.ids import BlobKey, PipelineId
from formats.manifest import Inline, blobs_of, count_files, files_of
from formats.manifest_series import Read
from formats.report import Damage, LevelName, Report, fitting
from storage import layout
from storage.audit import Contents, find_faults
from storage.blob_check import Checked, check_blob
from storage.blobs import Blobs
from storage.head import CommittedHead
from storage.root_manifests import RootManifests
from storage.store import Store
from storage.transfer import each

HEAD_NAME = "HEAD"
MAX_STATS = 256  # looks at single blobs before one listing is cheaper
_MICRO = 1_000_000

Progress = Callable[[int, int], None]  # bytes read so far, and how many there are to read


class Level(StrEnum):
    """How hard to look."""

    QUICK = "quick"
    SAMPLE = "sample"
    FULL = "full"
    DRILL = "drill"


def verify(
    store: Store,
    pipeline: PipelineId,
    resolved: Resolved | None,
    level: str,
    *,
    sample_percent: float = 5.0,
    hook: str | None = None,
    scratch: Path,
    progress: Progress = lambda *_: None,
) -> Verification:
    """The snapshot, or every root of the pipeline, has been looked at; the result is kept as a report.

    `hook`: of a drill, a command that is given the restored directory and says by its exit code whether it is good.
    Raises: UsageError, SnapshotNotFoundError (no such pipeline), UnavailableError, AccessDeniedError, NoSpaceError.
    """
    chosen = _level(level)
    if hook is not None and chosen is not Level.DRILL:
        raise UsageError("a hook is run by a drill only", hint="--level drill")
    words = None if hook is None else parse_hook(hook)
    look = _Look(store, pipeline, chosen, _turn(store, pipeline, chosen, sample_percent), progress)
    began = store.ambient.elapsed()
    try:
        committed = _head(store, pipeline) if resolved is None else resolved.committed
        entries = list(roots(committed.head)) if resolved is None else [resolved.entry]
        look.snapshots = tuple(dict.fromkeys(f"{pipeline}@{entry.label}" for entry in entries))
        found = look.at(committed.head, entries, whole=resolved is None)
        if chosen is Level.DRILL:
            found = look.drilled(committed, entries, scratch, words, found)
    except CorruptError as error:
        found = (_damaged_head(pipeline, error),)
    done = look.result(found, store.ambient.elapsed() - began)
    key, problem = keep_report(store, pipeline, _report(store, done))
    return msgspec.structs.replace(done, report=key, report_skipped=problem)


class _Look:
    """One verification under way: what was counted, and what looked wrong at first sight."""

    def __init__(
        self, store: Store, pipeline: PipelineId, level: Level, turn: tuple[int, int] | None, progress: Progress
    ) -> None:
        self.snapshots: tuple[str, ...] = ()
        self._store = store
        self._pipeline = pipeline
        self._level = level
        self._turn = turn
        self._progress = progress
        self._files = self._bytes = 0
        self._restore_seconds: float | None = None
        self._sizes: dict[BlobKey, int] = {}
        self._suspects: dict[BlobKey, str] = {}
        self._manifests: dict[tuple[str, str], str] = {}
        self._inline_is_wrong = False

    def at(self, head: Head, entries: list[HeadEntry], *, whole: bool) -> tuple[DamagedFile, ...]:
        """What is damaged of these roots. `whole`: they are all there are."""
        reader = Blobs(self._store.backend, self._pipeline, self._store.hash)
        contents = Contents(reader) if self._level is Level.FULL else None
        for read in self._read(head, entries):
            self._take(read, contents)
        by_listing = whole or len(self._sizes) > MAX_STATS
        self._suspects |= find_faults(reader, self._sizes, by_listing=by_listing)
        for checked in self._check(reader, contents):
            if checked.fault or checked.wrong:
                self._suspects.setdefault(checked.key, checked.fault or "a content in it does not match its digest")
        if contents is not None:
            for key in contents.suspects:
                self._suspects.setdefault(key, "a block table in it cannot be used")
        if not (self._suspects or self._manifests or self._inline_is_wrong):
            return ()
        return find_damage(self._store, self._pipeline, self._suspects, self._manifests)

    def drilled(
        self,
        committed: CommittedHead,
        entries: list[HeadEntry],
        scratch: Path,
        hook: tuple[str, ...] | None,
        found: tuple[DamagedFile, ...],
    ) -> tuple[DamagedFile, ...]:
        """As much as can be restored has been: `found`, and what else came to light."""
        self._restore_seconds = 0.0
        for entry in distinct(entries).values():
            resolved = Resolved(self._pipeline, committed, entry)
            if any(resolved.address in damaged.snapshots for damaged in found):
                continue
            done = drill(
                self._store, resolved, scratch, hook, lambda far, total: self._progress(far.total_bytes, total)
            )
            self._bytes += done.bytes
            self._restore_seconds += done.seconds
            found += done.damaged
            if done.unreadable:
                found += self._cause(resolved, done)
        return found

    def result(self, damaged: tuple[DamagedFile, ...], seconds: float) -> Verification:
        turn, turns = self._turn or (None, None)
        return Verification(
            pipeline=self._pipeline.name,
            level=self._level.value,
            snapshots=self.snapshots,
            checked_files=self._files,
            checked_blobs=len(self._sizes),
            checked_bytes=self._bytes,
            damaged=damaged,
            seconds=seconds,
            turn=turn,
            turns=turns,
            restore_seconds=self._restore_seconds,
        )

    def _read(self, head: Head, entries: list[HeadEntry]) -> Iterator[Read]:
        """The readable manifests, each once; the others are noted."""
        manifests = RootManifests(self._store, self._pipeline)
        for entry in distinct(entries).values():
            try:
                read = manifests.read(head, entry)
            except (BlobGoneError, CorruptError):
                manifest = read_manifest(self._store, head, entry)
                if isinstance(manifest, str):
                    self._manifests[identity(entry)] = manifest
                    continue
                read = Read(manifest, [file for _, _, file in files_of(manifest)])
            self._bytes += entry.manifest_bytes
            yield read

    def _take(self, read: Read, contents: Contents | None) -> None:
        """What the manifest needs is noted, and what lies in itself is checked."""
        self._files += count_files(read.manifest)
        for key, size in blobs_of(read.manifest.packs, read.new).items():
            if self._sizes.setdefault(key, size) != size:
                self._suspects[key] = "manifests tell its size in two ways"
        for file in read.new:
            if isinstance(file.place, Inline) and self._store.hash.digest(file.place.data) != file.digest:
                self._inline_is_wrong = True
        if contents is not None:
            contents.add_files(read.new)

    def _check(self, reader: Blobs, contents: Contents | None) -> Iterator[Checked]:
        """The bytes of the blobs whose turn it is, several at a time."""
        keys = [key for key in sorted(self._sizes) if key not in self._suspects and self._is_due(key)]
        total = self._bytes + sum(self._sizes[key] for key in keys)
        work = each(
            keys, lambda key: check_blob(reader, key, self._sizes[key], [] if contents is None else contents.of(key))
        )
        for checked in work:
            self._bytes += checked.read_bytes
            self._progress(self._bytes, total)
            yield checked

    def _is_due(self, key: BlobKey) -> bool:
        if self._turn is not None:
            turn, turns = self._turn
            return int(key.digest[:8], 16) % turns == turn
        return self._level is Level.FULL

    def _cause(self, resolved: Resolved, done: Drilled) -> tuple[DamagedFile, ...]:
        """Why the restore met damage: by a full look at the snapshot, or else in the restore's own words."""
        look = _Look(self._store, self._pipeline, Level.FULL, None, self._progress)
        found = look.at(resolved.head, [resolved.entry], whole=False)
        if found:
            return found
        digest = BlobKey.parse(resolved.entry.manifest).digest
        reason = f"the restore failed: {done.unreadable}"
        return (DamagedFile(digest=digest, name="restore", snapshots=(resolved.address,), reason=reason),)


def _level(level: str) -> Level:
    try:
        return Level(level)
    except ValueError as error:
        raise UsageError(f"no such level: {level!r}", hint=f"one of {', '.join(Level)}") from error


def _turn(store: Store, pipeline: PipelineId, level: Level, percent: float) -> tuple[int, int] | None:
    """Which part of the blobs a sample reads, and of how many: the one after that of the newest report."""
    if level is not Level.SAMPLE:
        return None
    if not 0 < percent <= 100:
        raise UsageError(f"a sample of {percent} %", hint="more than 0 and at most 100")
    turns = ceil(100 / percent)
    last = next(read_reports(store, pipeline, level), None)
    return (0 if last is None else (last.turn + 1) % turns), turns


def _head(store: Store, pipeline: PipelineId) -> CommittedHead:
    """Raises: CorruptError, also where HEAD is missing while something else is there; SnapshotNotFoundError."""
    try:
        return store.head(pipeline)
    except SnapshotNotFoundError as error:
        for prefix in (layout.blobs(pipeline), layout.manifests(pipeline), layout.backups(pipeline)):
            if next(iter(store.backend.list(prefix)), None) is not None:
                raise CorruptError("missing", hint=LOST_HEAD) from error
        raise


def _damaged_head(pipeline: PipelineId, error: CorruptError) -> DamagedFile:
    reason = f"{error.message}; no snapshot of {pipeline} can be reached"
    return DamagedFile(digest="", name=HEAD_NAME, snapshots=(), reason=reason, blob=str(layout.head(pipeline)))


def _report(store: Store, done: Verification) -> Report:
    level: LevelName = Level(done.level).value
    damaged = (
        Damage(
            digest=found.digest,
            name=found.name[:MAX_STRING_BYTES],
            snapshots=found.snapshots,
            reason=found.reason[:MAX_STRING_BYTES],
        )
        for found in done.damaged
    )
    return Report(
        format="eoctl.report",
        version=1,
        store=store.record.id,
        pipeline=done.pipeline,
        hash=store.hash,
        created_at=store.ambient.now(),
        level=level,
        snapshots=done.snapshots,
        checked_files=done.checked_files,
        checked_blobs=done.checked_blobs,
        checked_bytes=done.checked_bytes,
        duration_micros=int(done.seconds * _MICRO),
        damaged_total=len(done.damaged),
        damaged=fitting(damaged),
        turn=done.turn or 0,
        turns=done.turns or 0,
    )
