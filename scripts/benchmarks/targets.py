"""The targets, as ratios of medians from one run.

Where a target names a peer without "tuned", the better of the two ways to run that peer counts.
"""

from __future__ import annotations

from scripts.benchmarks.lifecycle import BYTES, BYTES_AFTER_GC, LIVE_BYTES
from scripts.benchmarks.report import SUBJECT, Target
from scripts.benchmarks.results import Metric, Results

LINKED = "eoctl --link"
ANY_RESTIC = ("restic", "restic tuned")
ANY_BORG = ("borg", "borg tuned")
FULL_TO_INCREMENTAL = {1: 10.0, 10: 22.0, 100: 48.0, 1000: 160.0}  # by GB of state
LINK_RESTORE_SECONDS = 0.1
LIST_CPU_MS = 110
VERSION_CPU_MS = 45
HELP_CPU_MS = 110
UNCHANGED_STATE_RATIO = 3.0


def rocksdb_targets(results: Results, gb: float) -> tuple[Target, ...]:
    """Rows full, incremental, restore, verify and gc of the RocksDB chain."""
    return (
        against(results, "full", 0.30, "restic tuned"),
        against(results, "full", 0.45, "borg tuned"),
        against(results, "full", 1.0, "rsync --fsync"),
        against(results, "full", 0.35, "rsync", subject=LINKED),
        *full_to_incremental(results, gb),
        against(results, "incremental", 0.20, *ANY_RESTIC),
        against(results, "incremental", 0.40, "borg tuned"),
        against(results, "incremental", 2.0, "rsync"),
        against(results, "restore", 0.6, "restic tuned"),
        against(results, "restore", 1.0, "borg tuned"),
        _linked_restore(results),
        against(results, "verify", 0.12, *ANY_RESTIC),
        against(results, "verify", 0.12, *ANY_BORG),
        *_gc(results),
    )


def small_targets(results: Results) -> tuple[Target, ...]:
    """Many small files."""
    return (
        against(results, "full", 0.35, *ANY_RESTIC),
        against(results, "incremental", 0.20, *ANY_RESTIC),
        against(results, "restore", 0.45, *ANY_RESTIC),
        against(results, "restore", 1.15, "cp -a"),
        sizes(results, BYTES, 1.0, *ANY_RESTIC),
        sizes(results, BYTES_AFTER_GC, 1.0, *ANY_RESTIC),
        *_gc(results),
    )


def mutable_targets(results: Results) -> tuple[Target, ...]:
    """One large file that changes in place."""
    return (
        against(results, "incremental", 0.12, *ANY_RESTIC),
        against(results, "incremental", 0.25, *ANY_BORG),
        sizes(results, BYTES, 0.5, *ANY_RESTIC),
    )


def full_to_incremental(results: Results, gb: float) -> tuple[Target, ...]:
    """How many times an increment is cheaper than a full snapshot; no target at other sizes."""
    limit = FULL_TO_INCREMENTAL.get(round(gb))
    if limit is None or gb != round(gb):
        return ()
    ratio = quotient(
        results.median("full", SUBJECT, "wall_seconds"),
        results.median("incremental", SUBJECT, "wall_seconds"),
    )
    return (Target(text=f"full : incremental at {gb:g} GB, wall", measured=ratio, limit=limit, at_least=True),)


def start_targets(results: Results) -> tuple[Target, ...]:
    """Start-up in cpu milliseconds."""
    rows = (("--version", VERSION_CPU_MS), ("--help", HELP_CPU_MS))
    return tuple(cpu_ms(results, "start", f"eoctl {option}", limit) for option, limit in rows)


def cpu_ms(results: Results, row: str, tool: str, limit: float) -> Target:
    """An absolute limit in milliseconds of cpu."""
    cpu = results.median(row, tool, "cpu_seconds")
    return Target(text=f"{tool}: cpu ms", measured=None if cpu is None else cpu * 1000, limit=limit)


def against(
    results: Results,
    row: str,
    limit: float,
    *peers: str,
    subject: str = SUBJECT,
    metric: Metric = "wall_seconds",
) -> Target:
    """eoctl / the best of the peers named that have a valid row."""
    known = [value for peer in peers if (value := results.median(row, peer, metric)) is not None]
    measured = quotient(results.median(row, subject, metric), min(known, default=None))
    name = f"best {peers[0]}" if len(peers) > 1 else peers[0]
    return Target(text=f"{row}: {subject} / {name}, {metric.split('_')[0]}", measured=measured, limit=limit)


def sizes(results: Results, row: str, limit: float, *peers: str) -> Target:
    """Bytes of eoctl / the least of the peers named."""
    known = [value for peer in peers if (value := results.median_size(row, peer)) is not None]
    measured = quotient(results.median_size(row, SUBJECT), min(known, default=None))
    return Target(text=f"{row}: {SUBJECT} / best {peers[0]}", measured=measured, limit=limit)


def quotient(top: float | None, bottom: float | None) -> float | None:
    """top / bottom, or None where one of them is void."""
    return None if top is None or not bottom else top / bottom


def _gc(results: Results) -> tuple[Target, ...]:
    stored, live = results.median_size(BYTES_AFTER_GC, SUBJECT), results.median_size(LIVE_BYTES, SUBJECT)
    return (
        against(results, "gc", 0.15, *ANY_RESTIC),
        against(results, "gc", 0.15, *ANY_BORG),
        Target(text="gc: bytes stored / live bytes", measured=quotient(stored, live), limit=1.05),
    )


def _linked_restore(results: Results) -> Target:
    wall = results.median("restore --link", LINKED, "wall_seconds")
    start = results.median("start-up", SUBJECT, "wall_seconds")
    measured = None if wall is None or start is None else max(0.0, wall - start)
    return Target(text="restore --link: wall s beyond start-up", measured=measured, limit=LINK_RESTORE_SECONDS)
