"""Retention decides by rules that add up, and tells for each snapshot what keeps it or that nothing does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.services.retention import Decision, Policy, decide
from formats.errors import BadNameError, UsageError
from formats.head import Head, HeadEntry, Hold
from tests.support.examples import HEAD
from tests.support.fakes import time_text
from tests.support.strategies import heads

HOUR, DAY = 3600, 86_400
NOW = "2026-11-23T10:30:00.000Z"
NONSENSE = ("0000-00-00T00:00:00.000Z", "2026-13-45T99:99:99.999Z", "9999-12-31T23:59:59.999Z")


def entry(number: int, created_at: str, *, name: str = "", tags: Sequence[str] = ()) -> HeadEntry:
    return msgspec.structs.replace(
        HEAD.live[0],
        kind="savepoint" if name else "checkpoint",
        id=number,
        seq=number,
        name=name,
        created_at=created_at,
        tags=tuple(tags),
    )


def head_of(*entries: HeadEntry, holds: Sequence[tuple[HeadEntry, str | None]] = ()) -> Head:
    found = [
        Hold(id=f"{number:032x}", entry=held, reason="audit", created_at=NOW, expires_at=end)
        for number, (held, end) in enumerate(holds)
    ]
    return msgspec.structs.replace(HEAD, live=entries, trash=(), holds=tuple(found))


def reasons(head: Head, policy: Policy, now: str = NOW) -> list[str]:
    """The reason of each entry; of those that go with a `-` before it."""
    return [f"{'' if found.keep else '- '}{found.reason}" for found in decide(head, policy, now)]


def at(*times: str) -> Head:
    return head_of(*(entry(number, f"{time}:00.000Z") for number, time in enumerate(times, 1)))


GONE = "- no rule keeps it"


def test_without_a_rule_nothing_expires() -> None:
    assert Policy().empty
    head = head_of(entry(1, NOW), entry(2, NOW, name="release"))
    assert reasons(head, Policy()) == ["no retention rule is given", "savepoint"]


def test_of_no_snapshots_nothing_is_decided() -> None:
    assert decide(head_of(), Policy(keep_last=1), NOW) == ()


def test_the_last_ones_are_those_committed_last_whatever_their_times_say() -> None:
    head = at("2030-01-01T00:00", "2026-11-23T09:00", "2020-01-01T00:00")
    assert reasons(head, Policy(keep_last=2)) == [GONE, "last 2", "last 2"]


def test_an_hour_is_kept_by_its_last_checkpoint() -> None:
    head = at("2026-11-23T08:59", "2026-11-23T09:00", "2026-11-23T09:59", "2026-11-23T10:00", "2026-11-23T10:29")
    assert reasons(head, Policy(keep_hourly=2)) == [
        GONE, GONE, "hourly 2026-11-23T09", GONE, "hourly 2026-11-23T10"
    ]  # fmt: skip


def test_hours_and_days_without_a_checkpoint_do_not_count() -> None:
    head = at("2026-10-01T08:00", "2026-11-02T08:00", "2026-11-23T10:00")
    assert reasons(head, Policy(keep_daily=2)) == [GONE, "daily 2026-11-02", "daily 2026-11-23"]
    assert reasons(head, Policy(keep_hourly=3))[0] == "hourly 2026-10-01T08"


def test_weeks_are_those_of_iso_8601() -> None:
    head = at("2026-11-15T23:59", "2026-11-16T00:00", "2026-11-22T23:00", "2026-12-31T12:00", "2027-01-03T12:00")
    assert reasons(head, Policy(keep_weekly=5)) == [
        "weekly 2026-W46", GONE, "weekly 2026-W47", GONE, "weekly 2026-W53"
    ]  # fmt: skip


def test_rules_add_up_and_all_that_keep_are_told() -> None:
    tagged = entry(1, "2026-11-22T10:00:00.000Z", tags=["nightly", "release"])
    head = head_of(tagged, entry(2, NOW))
    policy = Policy(keep_last=1, keep_daily=2, keep_within_seconds=7 * DAY, keep_tags=("release", "nightly", "release"))
    assert reasons(head, policy) == [
        "within 7d, daily 2026-11-22, tag release, tag nightly",
        "last 1, within 7d, daily 2026-11-23",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(7 * DAY, "7d"), (36 * HOUR, "36h"), (90 * 60, "90m"), (61, "61s"), (14 * DAY, "14d")]
)
def test_a_duration_is_told_as_it_is_typed(seconds: int, told: str) -> None:
    assert reasons(at("2026-11-23T10:30"), Policy(keep_within_seconds=seconds)) == [f"within {told}"]


def test_within_goes_back_from_now_and_its_end_belongs_to_it() -> None:
    head = at("2026-11-23T08:29", "2026-11-23T08:30", "2026-11-23T10:30")
    assert reasons(head, Policy(keep_within_seconds=2 * HOUR)) == [GONE, "within 2h", "within 2h"]


def test_a_pipeline_that_stands_still_keeps_its_last_days() -> None:
    head = at("2026-10-01T10:00", "2026-10-06T10:00", "2026-10-08T10:00")
    assert reasons(head, Policy(keep_within_seconds=7 * DAY)) == ["within 7d"] * 3
    assert reasons(head, Policy(keep_within_seconds=2 * DAY)) == [GONE, "within 2d", "within 2d"]


@pytest.mark.parametrize("now", ["2036-11-23T10:30:00.000Z", "9999-12-31T23:59:59.999Z"])
def test_a_clock_that_runs_ahead_by_years_expires_nothing_more(now: str) -> None:
    head = at("2026-11-23T07:00", "2026-11-23T09:00", "2026-11-23T10:30")
    policy = Policy(keep_within_seconds=2 * HOUR)
    assert reasons(head, policy, now) == reasons(head, policy) == [GONE, "within 2h", "within 2h"]


@pytest.mark.parametrize("now", ["0001-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z", "2026-11-23T10:00:00.000Z"])
def test_entries_of_the_future_stay_until_their_time_has_come(now: str) -> None:
    head = at("2026-11-23T10:10", "2026-11-23T10:30")
    assert reasons(head, Policy(keep_within_seconds=HOUR), now) == ["within 1h"] * 2


@pytest.mark.parametrize("time", NONSENSE)
def test_times_that_no_calendar_has_are_periods_of_their_own(time: str) -> None:
    head = head_of(entry(1, time), entry(2, NOW), entry(3, time))
    for policy in (Policy(keep_hourly=9), Policy(keep_daily=9), Policy(keep_weekly=9)):
        first, second, third = decide(head, policy, NOW)
        assert (first.keep, second.keep, third.keep) == (False, True, True)
    assert decide(head, Policy(keep_within_seconds=10**15), NOW)[1].keep


def test_an_age_beyond_all_times_keeps_everything() -> None:
    head = at("0001-01-01T00:00", "2026-11-23T10:30")
    assert reasons(head, Policy(keep_within_seconds=10**18))[0].startswith("within ")


def test_the_newest_checkpoint_stays_whatever_the_rules_say() -> None:
    head = head_of(entry(1, NOW), entry(2, "2020-01-01T00:00:00.000Z"), entry(3, NOW, name="later"))
    assert reasons(head, Policy(keep_tags=("release",))) == [GONE, "newest", "savepoint"]


def test_savepoints_take_no_place_of_a_checkpoint() -> None:
    head = head_of(entry(1, NOW), entry(2, NOW, name="a", tags=["release"]), entry(3, NOW), entry(4, NOW, name="b"))
    policy = Policy(keep_last=2, keep_hourly=1, keep_tags=("release",))
    assert reasons(head, policy) == ["last 2", "savepoint", "last 2, hourly 2026-11-23T10", "savepoint"]


def test_a_held_snapshot_stays_and_the_longest_hold_is_told() -> None:
    one, two, three, four, last = (entry(number, NOW) for number in range(1, 6))
    head = head_of(
        one, two, three, four, last,
        holds=[
            (one, "2026-11-23T10:30:00.001Z"), (one, "2026-12-24T08:15:42.000Z"), (two, "2026-12-24T08:15:42.000Z"),
            (two, None), (three, NOW),
        ],
    )  # fmt: skip
    assert reasons(head, Policy(keep_last=1)) == [
        "held until 2026-12-24T08:15Z", "held without an end", GONE, GONE, "last 1"
    ]  # fmt: skip
    assert reasons(head, Policy())[:3] == [
        "held until 2026-12-24T08:15Z", "held without an end", "no retention rule is given"
    ]  # fmt: skip


def test_what_is_in_the_trash_is_not_decided_about() -> None:
    assert [found.entry for found in decide(HEAD, Policy(keep_last=1), NOW)] == list(HEAD.live)


@pytest.mark.parametrize(
    "rule",
    [{"keep_last": -1}, {"keep_within_seconds": -1}, {"keep_hourly": -1}, {"keep_daily": -1}, {"keep_weekly": -1}],
)
def test_a_negative_number_is_no_rule(rule: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        Policy(**rule)  # type: ignore[arg-type]  # the rules with a number


def test_a_bad_tag_is_refused() -> None:
    with pytest.raises(BadNameError):
        Policy(keep_tags=("no such tag",))


# Whatever HEAD holds.

_minutes = st.integers(0, 30 * 24 * 60)
_times = st.one_of(_minutes.map(lambda minute: time_text(minute * 60)), st.sampled_from(NONSENSE))
_numbers = st.one_of(st.just(0), st.integers(1, 6))
policies = st.builds(
    Policy,
    keep_last=_numbers,
    keep_within_seconds=st.one_of(st.just(0), st.integers(1, 40 * DAY)),
    keep_hourly=_numbers,
    keep_daily=_numbers,
    keep_weekly=_numbers,
    keep_tags=st.lists(st.sampled_from(["release", "nightly"]), max_size=2).map(tuple),
)


@st.composite
def histories(draw: st.DrawFn) -> Head:
    """Checkpoints within a month, mostly in order, savepoints among them, tags and holds, and some bad clocks."""
    times = draw(st.lists(_times, max_size=25))
    if draw(st.booleans()):
        times.sort()
    entries = []
    for number, time in enumerate(times, 1):
        name = f"savepoint-{number}" if draw(st.integers(0, 9)) == 0 else ""
        tags = draw(st.lists(st.sampled_from(["release", "nightly", "other"]), max_size=2, unique=True))
        entries.append(entry(number, time, name=name, tags=sorted(tags)))
    held = draw(st.lists(st.sampled_from(entries), max_size=3)) if entries else []
    return head_of(*entries, holds=[(found, draw(st.one_of(st.none(), _times))) for found in held])


def kept(head: Head, policy: Policy, now: str) -> set[str]:
    return {found.entry.label for found in decide(head, policy, now) if found.keep}


@given(histories(), policies, _times)
def test_every_live_entry_is_decided_once_with_a_reason_that_fits(head: Head, policy: Policy, now: str) -> None:
    found = decide(head, policy, now)
    assert [decision.entry for decision in found] == list(head.live)
    assert all(decision.reason and decision.keep == (decision.reason != "no rule keeps it") for decision in found)
    assert len(kept(head, policy, now)) == len(head.live) or not policy.empty


@given(histories(), policies, _times)
def test_savepoints_holds_and_the_newest_checkpoint_always_stay(head: Head, policy: Policy, now: str) -> None:
    stay = kept(head, policy, now)
    assert {found.name for found in head.live if found.name} <= stay
    assert {hold.entry.label for hold in head.holds if hold.expires_at is None or hold.expires_at > now} <= stay
    checkpoints = [found for found in head.live if found.kind == "checkpoint"]
    assert {found.label for found in checkpoints[-1:]} <= stay


@given(histories(), policies, policies, _times)
def test_two_policies_together_keep_what_either_keeps(head: Head, one: Policy, other: Policy, now: str) -> None:
    both = Policy(
        keep_last=max(one.keep_last, other.keep_last),
        keep_within_seconds=max(one.keep_within_seconds, other.keep_within_seconds),
        keep_hourly=max(one.keep_hourly, other.keep_hourly),
        keep_daily=max(one.keep_daily, other.keep_daily),
        keep_weekly=max(one.keep_weekly, other.keep_weekly),
        keep_tags=one.keep_tags + other.keep_tags,
    )
    # Without any rule everything stays, so a first rule does expire.
    parts = [policy for policy in (one, other) if not policy.empty] or [both]
    assert kept(head, both, now) == set().union(*(kept(head, policy, now) for policy in parts))


@given(histories(), policies, st.sampled_from(Policy.__struct_fields__), st.integers(1, 5), _times)
def test_a_larger_rule_never_expires_more(head: Head, policy: Policy, rule: str, more: int, now: str) -> None:
    before = getattr(policy, rule)
    larger = msgspec.structs.replace(policy, **{rule: (*before, "other") if rule == "keep_tags" else before + more})
    assert policy.empty or kept(head, policy, now) <= kept(head, larger, now)


@given(histories(), policies, _times)
def test_rules_apply_alone_or_together_alike(head: Head, policy: Policy, now: str) -> None:
    alone = [Policy(**{rule: getattr(policy, rule)}) for rule in Policy.__struct_fields__ if getattr(policy, rule)]
    if alone:
        assert kept(head, policy, now) == set().union(*(kept(head, rule, now) for rule in alone))


@given(histories(), policies, _times)
def test_a_second_run_expires_nothing_more(head: Head, policy: Policy, now: str) -> None:
    stay = kept(head, policy, now)
    rest = msgspec.structs.replace(head, live=tuple(found for found in head.live if found.label in stay))
    again = decide(rest, policy, now)
    assert all(found.keep for found in again)
    assert policy.empty or [found.reason for found in again] == [
        found.reason for found in decide(head, policy, now) if found.keep
    ]


@given(histories(), policies, _times, _times)
def test_a_new_checkpoint_brings_nothing_back_that_counted_out(
    head: Head, policy: Policy, created_at: str, now: str
) -> None:
    grown = msgspec.structs.replace(head, live=(*head.live, entry(99, created_at)))
    counted = msgspec.structs.replace(policy, keep_within_seconds=0)
    assert counted.empty or kept(grown, counted, now) - {"99"} <= kept(head, counted, now)


@given(heads(), policies, _times)
def test_any_lawful_head_is_decided(head: Head, policy: Policy, now: str) -> None:
    found: tuple[Decision, ...] = decide(head, policy, now)
    assert len(found) == len(head.live)


# The example in the documentation.

PAGE = Path(__file__).parents[2] / "docs/retention.md"


def test_the_example_of_the_page_is_what_the_rules_decide() -> None:
    text = PAGE.read_text("utf-8")
    policy = Policy(keep_last=2, keep_hourly=2, keep_daily=3, keep_weekly=2, keep_tags=("release",))
    assert "`--keep-last 2 --keep-hourly 2 --keep-daily 3 --keep-weekly 2 --keep-tag release`:" in text
    rows = re.findall(r"^\| orders@(\S+) \| (\S+ \S+) \| (keep|expire) \| (.+) \|$", text, re.MULTILINE)
    entries = [
        entry(
            number,
            f"{time.replace(' ', 'T')}:00.000Z",
            name="" if label.isdecimal() else label,
            tags=["release"] if "tag release" in reason else [],
        )
        for number, (label, time, _, reason) in enumerate(rows, 40)
    ]
    held = [found for found, (*_, reason) in zip(entries, rows, strict=True) if reason.startswith("held until")]
    head = head_of(*entries, holds=[(found, "2026-12-24T08:15:00.000Z") for found in held])
    found = decide(head, policy, NOW)
    assert [("keep" if row.keep else "expire", row.reason) for row in found] == [tuple(row[2:]) for row in rows]
    assert len(rows) >= 10


def test_every_reason_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    for reason in ("no rule keeps it", "no retention rule is given", "held without an end", "newest", "savepoint"):
        assert f"| `{reason}` |" in text
