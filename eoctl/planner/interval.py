"""How often to take a checkpoint. The formulas and where they come from are told in docs/planning.md."""

from __future__ import annotations

from math import sqrt

from msgspec import Struct

from formats.errors import UsageError


class Bounds(Struct, frozen=True, kw_only=True):
    """What an interval has to keep; seconds from one start to the next.

    `least`: a checkpoint's duration and the pause after it. `overhead`: at least so long, for the wanted overhead.
    `young`: with the least time lost between checkpoints and failures. `recovery`: at most so long, for the wanted
    recovery time. None: not asked for.
    """

    least: float
    overhead: float | None = None
    young: float | None = None
    recovery: float | None = None


class Suggestion(Struct, frozen=True, kw_only=True):
    """An interval, which bound decided it, and what it cannot keep: `conflicts`, sentences for people."""

    interval_seconds: float
    because: str
    bounds: Bounds
    conflicts: tuple[str, ...]


def young_interval(lost_seconds: float, failure_seconds: float) -> float:
    """`sqrt(2 * lost * time between failures)`: where the cost of checkpoints is that of what failures undo."""
    if lost_seconds < 0 or failure_seconds <= 0:
        raise UsageError("the time between failures must be above 0", hint="a duration: 7d")
    return sqrt(2 * lost_seconds * failure_seconds)


def bounds(
    *,
    duration_seconds: float,
    min_pause_seconds: float,
    lost_seconds: float,
    max_overhead: float | None = None,
    failure_seconds: float | None = None,
    longest_age_seconds: float | None = None,
) -> Bounds:
    """The bounds of a checkpoint that takes `duration_seconds`, of which `lost_seconds` are lost to processing.

    `max_overhead`: share of the throughput, above 0 to 1. `longest_age_seconds`: of the newest complete checkpoint at
    a failure (`recovery.longest_age`), of which the interval is what the duration leaves. Raises: UsageError.
    """
    if max_overhead is not None and not 0 < max_overhead <= 1:
        raise UsageError(f"an overhead cannot be {max_overhead}", hint="a share above 0: 5%")
    return Bounds(
        least=duration_seconds + min_pause_seconds,
        overhead=None if max_overhead is None else lost_seconds / max_overhead,
        young=None if failure_seconds is None else young_interval(lost_seconds, failure_seconds),
        recovery=None if longest_age_seconds is None else longest_age_seconds - duration_seconds,
    )


def suggest(bounds: Bounds, usual_seconds: float) -> Suggestion:
    """An interval within the bounds; never below `least`, whatever else that breaks.

    Where failures are known it is Young's, else the longest that keeps the recovery time, else `usual_seconds`, all
    of them no shorter than the overhead allows. What two bounds make impossible is told, and recovery time goes
    before overhead: who asks for one has promised it to somebody.
    """
    conflicts = []
    wanted, because = usual_seconds, "usual"
    if bounds.young is not None:
        wanted, because = bounds.young, "failures"
    elif bounds.recovery is not None and bounds.recovery != float("inf"):
        wanted, because = bounds.recovery, "recovery"
    if bounds.overhead is not None and wanted < bounds.overhead:
        wanted, because = bounds.overhead, "overhead"
    if bounds.recovery is not None and wanted > bounds.recovery:
        if bounds.overhead is not None and bounds.overhead > bounds.recovery:
            conflicts.append("the recovery time asks for a shorter interval than the overhead allows")
        wanted, because = bounds.recovery, "recovery"
    if wanted < bounds.least:
        if bounds.recovery is not None and bounds.recovery < bounds.least:
            conflicts.append("no interval keeps the recovery time: a checkpoint and the pause after it take longer")
        wanted, because = bounds.least, "duration"
    return Suggestion(interval_seconds=wanted, because=because, bounds=bounds, conflicts=tuple(conflicts))
