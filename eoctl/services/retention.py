"""Retention: which checkpoints stay, and why. A decision over one value of HEAD; nothing is read or changed here.

The rules add up: what any of them keeps is kept. Savepoints, held snapshots and the newest checkpoint stay whatever
the rules say. "Last" and "newest" go by the order of commit, not by times: so a wrong clock makes an hour count that
is none, or keeps too much, and an entry from the future loses its hour as soon as enough newer ones have one.

Left to others: expiring (storage/edits.py), and everything that the trash is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, timedelta

from msgspec import Struct

from eoctl.services.roots import has_expired
from formats.errors import UsageError
from formats.head import Head, HeadEntry, Hold, check_tag

NO_RULE_GIVEN = "no retention rule is given"
NO_RULE_KEEPS = "no rule keeps it"
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))


class Policy(Struct, frozen=True, kw_only=True):
    """What to keep. 0 or nothing: there is no such rule; without any rule nothing expires.

    Raises: UsageError for a negative number, BadNameError for what is no tag.
    """

    keep_last: int = 0
    keep_within_seconds: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 0:
                raise UsageError(f"{name} cannot be {value}", hint="a number from 0, which is no rule")
        for tag in self.keep_tags:
            check_tag(tag)

    @property
    def empty(self) -> bool:
        """No rule at all."""
        numbers = (self.keep_last, self.keep_within_seconds, self.keep_hourly, self.keep_daily, self.keep_weekly)
        return not any(numbers) and not self.keep_tags


class Decision(Struct, frozen=True):
    """Whether one entry stays, and all that keeps it, or that nothing does."""

    entry: HeadEntry
    keep: bool
    reason: str


def decide(head: Head, policy: Policy, now: str) -> tuple[Decision, ...]:
    """One decision for each live entry, in the order of HEAD.

    Of an hour, a day or an ISO week (all UTC) that counts, the checkpoint that was committed last stays; those without
    a checkpoint do not count. `keep_within_seconds` goes back from `now`, or from the newest checkpoint where that is
    earlier: so a pipeline that stands still keeps its last days, and a clock that runs ahead expires nothing.
    """
    newest_first = [entry for entry in reversed(head.live) if entry.kind == "checkpoint"]
    reasons: dict[str, list[str]] = {entry.label: [] for entry in head.live}
    for label, reason in (*_always(head, now), *_by_rules(newest_first, policy, now)):
        reasons[label].append(reason)
    if policy.empty:
        fallback, kept = NO_RULE_GIVEN, True
    else:
        fallback, kept = NO_RULE_KEEPS, False
        if newest_first and not reasons[newest_first[0].label]:
            reasons[newest_first[0].label].append("newest")
    return tuple(
        Decision(entry, bool(reasons[entry.label]) or kept, ", ".join(reasons[entry.label]) or fallback)
        for entry in head.live
    )


def _always(head: Head, now: str) -> Iterator[tuple[str, str]]:
    """What no rule can expire."""
    for entry in head.live:
        if entry.kind == "savepoint":
            yield entry.label, "savepoint"
        holds = [hold for hold in head.holds if hold.entry.label == entry.label and not has_expired(hold, now)]
        if holds:
            yield entry.label, _held(holds)


def _held(holds: Iterable[Hold]) -> str:
    """The hold that lasts longest."""
    ends = [hold.expires_at for hold in holds]
    lasting = [end for end in ends if end is not None]
    return "held without an end" if len(lasting) < len(ends) else f"held until {max(lasting)[:16]}Z"


def _by_rules(newest_first: list[HeadEntry], policy: Policy, now: str) -> Iterator[tuple[str, str]]:
    for entry in newest_first[: policy.keep_last]:
        yield entry.label, f"last {policy.keep_last}"
    if policy.keep_within_seconds and newest_first:
        since = _since(min(now, newest_first[0].created_at, key=_readable), policy.keep_within_seconds)
        told = f"within {_duration(policy.keep_within_seconds)}"
        yield from ((entry.label, told) for entry in newest_first if entry.created_at >= since)
    for count, name, period in (
        (policy.keep_hourly, "hourly", _hour),
        (policy.keep_daily, "daily", _day),
        (policy.keep_weekly, "weekly", _week),
    ):
        yield from ((entry.label, f"{name} {found}") for entry, found in _last_of_each(newest_first, count, period))
    for entry in newest_first:
        yield from ((entry.label, f"tag {tag}") for tag in dict.fromkeys(policy.keep_tags) if tag in entry.tags)


def _last_of_each(
    newest_first: Iterable[HeadEntry], count: int, period: Callable[[str], str]
) -> Iterator[tuple[HeadEntry, str]]:
    """The checkpoint that was committed last in each of the last `count` periods that have one."""
    seen: set[str] = set()
    for entry in newest_first:
        found = period(entry.created_at)
        if len(seen) < count and found not in seen:
            seen.add(found)
            yield entry, found


def _hour(time: str) -> str:
    return time[:13]


def _day(time: str) -> str:
    return time[:10]


def _week(time: str) -> str:
    """`2026-W47`; the day itself where there is no such day in the calendar."""
    try:
        year, week, _ = date.fromisoformat(time[:10]).isocalendar()
    except ValueError:
        return time[:10]
    return f"{year:04}-W{week:02}"


def _readable(time: str) -> tuple[bool, str]:
    """Sorts times that the calendar does not have behind all others."""
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return True, time
    return False, time


def _since(time: str, seconds: int) -> str:
    """The time so long before, or "" where that is before all times. Times are of fixed width and sort as text."""
    try:
        moment = datetime.fromisoformat(time).astimezone(UTC) - timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return ""
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _duration(seconds: int) -> str:
    """As it is typed: `7d`, `36h`, `90s`."""
    for unit, size in _UNITS:
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
