"""A check finds what is over a limit, names who grows, and warns long before a checkpoint outgrows its timeout."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.services.check import (
    DAY,
    Facts,
    Limits,
    check_pipeline,
    check_pipelines,
    find_trend,
    judge,
    nearest,
)
from eoctl.services.check_values import OperatorGrowth, PipelineCheck
from eoctl.services.entries import delete
from formats.errors import CorruptError, SnapshotNotFoundError, UsageError
from formats.head import Head, HeadEntry, roots
from formats.ids import PipelineId
from storage import edits, layout
from storage.store import Store
from tests.support.examples import HEAD
from tests.support.fakes import FakeAmbient, time_text
from tests.support.stores import at, checkpoint, edit, flip, manifest_name, new_store, noise, overwrite
from tests.support.strategies import heads

ORDERS = PipelineId("orders")
HOUR = 3600
MICRO = 1_000_000


def entry(number: int, day: float, *, seconds: float = 1, size: int = 1000) -> HeadEntry:
    """A checkpoint taken on that day, which took so many seconds."""
    return msgspec.structs.replace(
        HEAD.live[0],
        kind="checkpoint",
        id=number,
        seq=number,
        name="",
        created_at=time_text(day * DAY),
        duration_micros=round(seconds * MICRO),
        full_bytes=size,
    )


def facts_of(
    *history: HeadEntry,
    operators: Mapping[str, int] | None = None,
    before: Mapping[str, int] | None = None,
    timeout: float | None = None,
    window: int = 7 * DAY,
) -> Facts:
    newest = history[-1]
    return Facts(
        newest=newest,
        earlier=nearest(history, newest, window),
        history=history,
        timeout_seconds=timeout,
        operators=operators or {},
        before=before,
        names={name: f"uid-{name}" for name in operators or {}},
    )


def judged(facts: Facts, limits: Limits | None = None, *, day: float = 100) -> PipelineCheck:
    return judge("orders", facts, limits or Limits(), time_text(day * DAY))


def limits_passed(found: PipelineCheck) -> list[str]:
    return [finding.limit for finding in found.findings]


# Limits.


def test_without_limits_there_are_figures_and_all_is_well() -> None:
    found = judged(facts_of(entry(1, 0), entry(2, 7, size=1700)), day=7.5)
    assert (found.ok, found.findings, found.warnings, found.limits) == (True, (), (), {})
    assert (found.newest, found.newest_at, found.age_seconds) == ("2", time_text(7 * DAY), DAY // 2)
    assert (found.full_bytes, found.duration_seconds) == (1700, 1.0)
    assert (found.compared_with, found.compared_seconds) == ("1", 7 * DAY)
    assert found.growth_bytes_per_day == 100
    assert found.growth_ratio_per_day == pytest.approx(0.1)


def test_a_value_equal_to_its_limit_is_kept_and_one_more_is_over() -> None:
    facts = facts_of(entry(1, 0, size=1000), entry(2, 10, size=2000, seconds=60))
    kept = Limits(
        max_age_seconds=DAY,
        max_bytes=2000,
        max_growth_bytes_per_day=100,
        max_growth_ratio_per_day=0.1,
        max_duration_seconds=60,
    )
    assert judged(facts, kept, day=11).ok
    over = Limits(
        max_age_seconds=DAY - 1,
        max_bytes=1999,
        max_growth_bytes_per_day=99,
        max_growth_ratio_per_day=0.099,
        max_duration_seconds=59.9,
    )
    found = judged(facts, over, day=11)
    assert limits_passed(found) == list(over.given()) == list(found.limits)
    assert [(finding.threshold, finding.value) for finding in found.findings] == [
        (DAY - 1, DAY), (1999, 2000), (99, 100), (0.099, pytest.approx(0.1)), (59.9, 60),
    ]  # fmt: skip
    assert not found.ok


def test_a_pipeline_without_a_checkpoint_is_over_every_age() -> None:
    found = judged(Facts(notes=("there is no complete checkpoint",)), Limits(max_age_seconds=10**9, max_bytes=0))
    assert limits_passed(found) == ["max_age_seconds"]
    assert (found.findings[0].value, found.findings[0].operator) == (None, "")
    assert (found.newest, found.age_seconds, found.full_bytes, found.operators) == ("", None, None, ())
    assert judged(Facts(), Limits(max_bytes=0)).ok


def test_a_checkpoint_of_the_future_is_told() -> None:
    found = judged(facts_of(entry(1, 5)), Limits(max_age_seconds=1), day=4)
    assert (found.ok, found.age_seconds) == (True, -DAY)
    assert any("of the future" in note for note in found.notes)


@pytest.mark.parametrize(
    "bad",
    [
        {"max_bytes": -1},
        {"max_growth_ratio_per_day": float("nan")},
        {"max_duration_seconds": float("inf")},
        {"window_seconds": DAY - 1},
        {"horizon_seconds": -1},
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Limits(**bad)  # type: ignore[arg-type]  # a test's own words


# Growth.


def test_growth_is_measured_from_the_checkpoint_nearest_to_the_window_before() -> None:
    history = [entry(number, day, size=1000 * day) for number, day in enumerate((1, 5, 9, 12), 1)]
    assert judged(facts_of(*history)).compared_with == "2"
    assert judged(facts_of(*history, window=3 * DAY)).compared_with == "3"
    assert judged(facts_of(*history, window=90 * DAY)).compared_with == "1"


def test_what_grew_within_less_than_a_day_counts_as_the_growth_of_a_day() -> None:
    found = judged(facts_of(entry(1, 0), entry(2, 1 / 24, size=1500)))
    assert (found.growth_bytes_per_day, found.growth_ratio_per_day) == (500, 0.5)
    assert any("less than a day" in note for note in found.notes)
    assert not any("less than a day" in note for note in judged(facts_of(entry(1, 0), entry(2, 1))).notes)


def test_with_one_checkpoint_growth_is_not_known_and_that_is_said() -> None:
    limits = Limits(max_growth_bytes_per_day=0, max_growth_ratio_per_day=0)
    found = judged(facts_of(entry(1, 0), operators={"a": 900, "b": 100}), limits)
    assert (found.ok, found.growth_bytes_per_day, found.growth_ratio_per_day) == (True, None, None)
    assert "growth is not known: there is no older checkpoint to compare with" in found.notes
    assert [row.growth_bytes_per_day for row in found.operators] == [None, None]


def test_checkpoints_of_one_moment_are_not_compared() -> None:
    assert judged(facts_of(entry(1, 3), entry(2, 3))).growth_bytes_per_day is None


def test_of_nothing_there_is_no_part() -> None:
    found = judged(facts_of(entry(1, 0, size=0), entry(2, 2, size=10)), Limits(max_growth_ratio_per_day=0.1))
    assert (found.growth_bytes_per_day, found.growth_ratio_per_day, found.ok) == (5, None, True)


def test_the_operator_that_grows_most_comes_first_and_is_named() -> None:
    history = (entry(1, 0, size=1000), entry(2, 10, size=2000))
    operators = {"big": 900, "fast": 600, "new": 100, "gone": 0}
    facts = facts_of(*history, operators=operators, before={"big": 880, "fast": 20, "lost": 50})
    found = judged(facts, Limits(max_growth_bytes_per_day=50, max_bytes=1))
    assert found.operators == (
        OperatorGrowth(operator="uid-fast", full_bytes=600, growth_bytes_per_day=58),
        OperatorGrowth(operator="uid-new", full_bytes=100, growth_bytes_per_day=10),
        OperatorGrowth(operator="uid-big", full_bytes=900, growth_bytes_per_day=2),
        OperatorGrowth(operator="uid-gone", full_bytes=0, growth_bytes_per_day=0),
        OperatorGrowth(operator="lost", full_bytes=0, growth_bytes_per_day=-5),
    )
    assert [finding.operator for finding in found.findings] == ["uid-fast", "uid-fast"]


@pytest.mark.parametrize("before", [None, {"a": 100, "b": 900}])
def test_where_none_is_known_to_grow_the_largest_is_named(before: dict[str, int] | None) -> None:
    facts = facts_of(entry(1, 0), entry(2, 10), operators={"a": 100, "b": 800}, before=before)
    assert judged(facts, Limits(max_bytes=1)).findings[0].operator == "uid-b"


def test_the_days_until_the_size_meets_its_limit_are_told() -> None:
    facts = facts_of(entry(1, 0, size=1000), entry(2, 10, size=2000), operators={"a": 2000}, before={"a": 1000})
    found = judged(facts, Limits(max_bytes=4000))
    assert found.bytes_limit_days == pytest.approx(20)
    (warning,) = found.warnings
    assert (warning.limit, warning.threshold, warning.value, warning.operator) == ("max_bytes", 4000, 2000, "uid-a")
    assert warning.days == pytest.approx(20)
    assert found.ok
    assert judged(facts, Limits(max_bytes=4000, horizon_seconds=19 * DAY)).warnings == ()
    over = judged(facts, Limits(max_bytes=1999))
    assert (over.bytes_limit_days, over.warnings) == (0, ())


def test_growth_of_a_few_hours_foretells_nothing() -> None:
    facts = facts_of(entry(1, 0, size=1000), entry(2, 0.5, size=2000))
    assert judged(facts, Limits(max_bytes=2001)).bytes_limit_days is None


# The trend of the duration.


def hourly(days: float, seconds_on: dict[str, float], *, noise_seconds: float = 0, every: int = 1) -> list[HeadEntry]:
    """Checkpoints each `every` hours, `start` seconds long at first and `slope` more each day, with some scatter."""
    chosen = random.Random(7)
    return [
        entry(
            hour + 1,
            hour / 24,
            seconds=max(0.001, seconds_on["start"] + seconds_on["slope"] * hour / 24 + chosen.gauss(0, noise_seconds)),
        )
        for hour in range(0, round(days * 24), every)
    ]


def test_the_trend_is_the_line_of_least_squares_through_the_window() -> None:
    history = hourly(30, {"start": 10, "slope": 2})
    trend, points = find_trend(history, history[-1], 7 * DAY)
    assert trend is not None
    assert (points, trend.clear) == (169, True)
    assert trend.seconds_per_day == pytest.approx(2)
    assert trend.now_seconds == pytest.approx(10 + 2 * (30 - 1 / 24))


def test_what_lies_after_the_newest_or_records_no_duration_is_no_point() -> None:
    history = [*hourly(2, {"start": 10, "slope": 0}), entry(90, 5), entry(91, 1, seconds=0)]
    assert find_trend(history, history[-3], 7 * DAY)[1] == 48
    assert find_trend(history, None, 7 * DAY) == (None, 0)


@pytest.mark.parametrize("days", [(0, 0.1, 0.2, 0.3, 0.4), (0, 1, 2)])
def test_a_few_hours_or_three_checkpoints_are_no_trend(days: tuple[float, ...]) -> None:
    found = judged(facts_of(*(entry(number, day) for number, day in enumerate(days, 1))))
    assert (found.duration_growth_seconds_per_day, found.trend_checkpoints) == (None, len(days))
    assert any(note.startswith("the trend of the duration is not known") for note in found.notes)


def test_scatter_is_no_rise() -> None:
    """Of 200 pipelines that grow by nothing, few are warned about; and those that grow all are."""
    warned = 0
    for seed in range(200):
        chosen = random.Random(seed)
        history = [entry(day, day, seconds=100 + chosen.gauss(0, 15)) for day in range(1, 9)]
        warned += bool(judged(facts_of(*history), Limits(max_duration_seconds=300)).warnings)
    assert warned <= 10


def test_a_falling_or_level_duration_meets_no_limit() -> None:
    for slope in (0, -1):
        found = judged(facts_of(*hourly(7, {"start": 100, "slope": slope})), Limits(max_duration_seconds=101))
        assert (found.duration_limit_days, found.warnings) == (None, ())
        assert found.duration_growth_seconds_per_day == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("every", [1, 6, 24])
@pytest.mark.parametrize("noise_seconds", [0, 10])
def test_a_duration_that_will_outgrow_its_timeout_is_warned_of_a_month_before(every: int, noise_seconds: int) -> None:
    """A checkpoint of 60 s grows by 6 s a day: the timeout of 600 s is met on day 90, and has no limit given at all."""
    history = hourly(90, {"start": 60, "slope": 6}, noise_seconds=noise_seconds, every=every)
    first_warning = None
    for day in range(8, 90):
        seen = [found for found in history if found.created_at <= time_text(day * DAY)]
        found = judged(facts_of(*seen[-24 * 8 // every :], timeout=600), day=day)
        assert found.ok
        if found.warnings and first_warning is None:
            first_warning = day
            (warning,) = found.warnings
            assert (warning.limit, warning.threshold) == ("timeout_seconds", 600)
            assert warning.days == pytest.approx(90 - day, abs=12)
    assert first_warning is not None
    assert 25 <= 90 - first_warning <= 45


def test_the_limit_given_counts_before_the_recorded_timeout() -> None:
    history = hourly(7, {"start": 60, "slope": 6})
    limits = Limits(max_duration_seconds=120)
    found = judged(facts_of(*history, timeout=600), limits)
    assert (found.duration_limit_seconds, found.warnings[0].limit) == (120, "max_duration_seconds")
    assert found.duration_limit_days == pytest.approx((120 - 60) / 6 - 7, abs=0.1)


def test_a_duration_over_its_recorded_timeout_is_a_warning_and_over_its_limit_a_finding() -> None:
    facts = facts_of(entry(1, 0, seconds=700), timeout=600)
    found = judged(facts)
    assert (found.ok, found.duration_limit_days, found.warnings[0].days) == (True, 0, 0)
    found = judged(facts, Limits(max_duration_seconds=600))
    assert (limits_passed(found), found.warnings) == (["max_duration_seconds"], ())


# Whatever HEAD holds.


def history_of(head: Head) -> list[HeadEntry]:
    return [found for found in roots(head) if found.kind == "checkpoint"]


_sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2**50))
_some_limits = st.builds(
    Limits,
    max_age_seconds=st.none() | st.integers(0, 10**6),
    max_bytes=st.none() | st.integers(0, 2**53),
    max_growth_bytes_per_day=st.none() | st.integers(0, 2**53),
    max_growth_ratio_per_day=st.none() | st.floats(0, 100),
    max_duration_seconds=st.none() | st.integers(0, 10**6),
    window_seconds=st.integers(DAY, 400 * DAY),
)


@given(heads(), _sizes, st.none() | _sizes, _some_limits)
def test_any_lawful_head_is_judged(
    head: Head, operators: dict[str, int], before: dict[str, int] | None, limits: Limits
) -> None:
    history = history_of(head)
    if not history:
        return
    facts = facts_of(*history, operators=operators, before=before, window=limits.window_seconds)
    found = judged(facts, limits)
    assert found.ok == (not found.findings)
    assert set(limits_passed(found)) <= set(limits.given()) == set(found.limits)
    assert {row.operator.removeprefix("uid-") for row in found.operators} == set(operators) | set(before or ())
    assert all(warning.limit not in limits_passed(found) for warning in found.warnings)
    assert all((days or 0) >= 0 for days in (found.bytes_limit_days, found.duration_limit_days))


# Of real stores.


@pytest.fixture
def world() -> FakeAmbient:
    return FakeAmbient()


@pytest.fixture
def store(tmp_path: Path, world: FakeAmbient) -> Store:
    return new_store(tmp_path, world=world)


def growing(store: Store, world: FakeAmbient, days: Iterable[int], pipeline: str = "orders") -> None:
    """A checkpoint on each of these days; `joins` grows by 1000 bytes a day, `totals` by nothing."""
    for day in days:
        world.seconds = day * DAY
        parts = {("joins", 0): {"a": noise(1000 * day)}, ("joins", 1): {"b": b"x"}, ("totals", 0): {"c": noise(9000)}}
        checkpoint(store, pipeline, parts=parts)


def test_growth_by_operator_comes_from_the_manifests(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1, 2, 9])
    world.seconds = 9 * DAY + HOUR
    found = check_pipeline(store, ORDERS, Limits(max_growth_ratio_per_day=0.05, max_age_seconds=HOUR - 60))
    assert found.operators == (
        OperatorGrowth(operator="joins", full_bytes=9001, growth_bytes_per_day=1000),
        OperatorGrowth(operator="totals", full_bytes=9000, growth_bytes_per_day=0),
    )
    assert (found.compared_with, found.full_bytes, found.growth_bytes_per_day) == ("2", 18_001, 1000)
    assert [(finding.limit, finding.operator) for finding in found.findings] == [
        ("max_age_seconds", ""), ("max_growth_ratio_per_day", "joins"),
    ]  # fmt: skip


def test_what_is_in_the_trash_tells_of_the_past_and_is_never_the_newest(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1, 8, 9])
    delete(store, ORDERS, ["1", "3"], dry_run=False)
    found = check_pipeline(store, ORDERS, Limits())
    assert (found.newest, found.compared_with, found.growth_bytes_per_day) == ("2", "1", 1000)


def test_savepoints_are_no_checkpoints(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1])
    head = store.head(ORDERS).head
    savepoint = msgspec.structs.replace(head.live[0], kind="savepoint", name="release", seq=head.seq + 1)
    facts = check_pipeline(store, ORDERS, Limits(max_age_seconds=10**6))
    assert facts.newest == "1"
    edit(store, "orders", lambda value: msgspec.structs.replace(value, seq=value.seq + 1, live=(savepoint,)))
    found = check_pipeline(store, ORDERS, Limits(max_age_seconds=10**6))
    assert (found.newest, limits_passed(found)) == ("", ["max_age_seconds"])


def test_a_damaged_older_manifest_costs_the_operators_growth_only(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1, 8])
    flip(store.backend, manifest_name(store, "orders@1"), 9)
    found = check_pipeline(store, ORDERS, Limits())
    assert (found.growth_bytes_per_day, [row.growth_bytes_per_day for row in found.operators]) == (1000, [None, None])
    assert any("how much each operator grows is not known" in note for note in found.notes)


def test_a_damaged_newest_manifest_or_head_fails_loudly_and_hides_no_other(store: Store, world: FakeAmbient) -> None:
    for pipeline in ("broken", "good", "torn"):
        growing(store, world, [1], pipeline)
    flip(store.backend, manifest_name(store, "broken@1"), 9)
    overwrite(store.backend, layout.head(PipelineId("torn")), b"{")
    checks, failed = check_pipelines(store, None, Limits())
    assert [found.pipeline for found in checks] == ["good"]
    assert {name: type(error) for name, error in failed.items()} == {"broken": CorruptError, "torn": CorruptError}


def test_destroyed_pipelines_are_left_out_unless_they_are_named(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1], "good")
    growing(store, world, [1], "gone")
    edit(store, "gone", edits.destroy)
    checks, failed = check_pipelines(store, None, Limits())
    assert ([found.pipeline for found in checks], failed) == (["good"], {})
    checks, failed = check_pipelines(store, [PipelineId("gone"), PipelineId("never")], Limits())
    assert (checks, set(failed)) == ((), {"gone", "never"})
    assert all(isinstance(error, SnapshotNotFoundError) for error in failed.values())


def test_a_store_without_a_pipeline_is_not_well(store: Store) -> None:
    with pytest.raises(SnapshotNotFoundError):
        check_pipelines(store, None, Limits())


def test_nothing_is_changed_and_no_blob_is_read(store: Store, world: FakeAmbient) -> None:
    growing(store, world, [1, 8])
    for label in ("1", "2"):
        resolved = at(store, f"orders@{label}")
        assert resolved.entry.full_bytes > 0
    before = {found.key: found.bytes for found in store.backend.list(layout.PIPELINES) if hasattr(found, "bytes")}
    for key in [key for key in before if "/o/" in key.path]:
        overwrite(store.backend, key, b"gone")
    assert check_pipeline(store, ORDERS, Limits()).ok
