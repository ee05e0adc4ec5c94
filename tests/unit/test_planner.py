"""The planner's formulas, on figures worked by hand."""

from math import inf, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.planner.costs import Checkpoint, throughput_share
from eoctl.planner.interval import bounds, suggest, young_interval
from eoctl.planner.recovery import longest_age, mean_age, recovery, worst_age
from formats.errors import UsageError

GIB = 1 << 30


def checkpoint(**changes: float) -> Checkpoint:
    figures: dict[str, float] = {"state_bytes": 1000, "added_bytes": 300, "upload_bytes_per_second": 100.0}
    return Checkpoint(**(figures | changes))  # type: ignore[arg-type]


def test_a_checkpoint_of_5_s_each_60_s_leaves_91_7_percent():
    assert round(100 * throughput_share(60, 5), 1) == 91.7


def test_size_is_state_offsets_and_metadata():
    assert checkpoint(offsets_bytes=20, metadata_bytes=3).full_bytes == 1023


def test_duration_is_propagation_snapshot_and_upload():
    found = checkpoint(propagation_seconds=0.5, snapshot_seconds=1.5, offsets_bytes=100)
    assert found.upload_seconds == 4
    assert found.duration_seconds == 6


def test_an_upload_beside_the_processing_costs_only_its_share():
    assert checkpoint(snapshot_seconds=2, upload_share=0.1).lost_seconds == pytest.approx(2.3)


def test_checkpoints_that_take_longer_than_their_interval_leave_nothing():
    assert throughput_share(10, 25) == 0


def test_recovery_is_restart_restore_and_replay_of_what_came_since():
    found = recovery(
        age_seconds=60, restart_seconds=20, restore_seconds=20, records_per_second=50, capacity_per_second=100
    )
    assert found.replayed_records == 3000
    assert found.replay_seconds == 100  # (60 + 40) s of 50 a second, at 50 a second beside new input
    assert found.seconds == 140


def test_a_pipeline_that_is_no_faster_than_its_input_never_catches_up():
    found = recovery(age_seconds=1, restart_seconds=0, restore_seconds=0, records_per_second=5, capacity_per_second=5)
    assert found.seconds == inf


def test_the_age_of_the_newest_complete_checkpoint():
    assert mean_age(60, 5) == 35
    assert worst_age(60, 5) == 65


def test_young_s_interval_of_5_s_and_a_failure_a_day():
    assert isclose(young_interval(5, 86_400), 929.5, abs_tol=0.1)


@given(
    st.floats(0.01, 100),
    st.floats(60, 1e7),
    st.floats(0.1, 10),
)
def test_no_other_interval_loses_less_than_young_s(lost: float, failures: float, factor: float):
    def share(interval: float) -> float:
        return lost / interval + interval / 2 / failures

    best = young_interval(lost, failures)
    assert share(best) <= share(best * factor) * (1 + 1e-9)


@given(
    st.floats(1, 1e5),
    st.floats(0, 100),
    st.floats(0, 100),
    st.floats(1, 1e5),
    st.floats(1.01, 10),
)
def test_a_recovery_from_the_longest_age_takes_what_was_asked(
    wanted: float, restart: float, restore: float, records: float, factor: float
):
    rates = {
        "restart_seconds": restart,
        "restore_seconds": restore,
        "records_per_second": records,
        "capacity_per_second": records * factor,
    }
    age = longest_age(wanted, **rates)
    if age >= 0:
        assert isclose(recovery(age_seconds=age, **rates).seconds, wanted, rel_tol=1e-6, abs_tol=1e-6)
    else:
        assert recovery(age_seconds=0, **rates).seconds > wanted * (1 - 1e-9)


def plan(**changes: float | None):
    figures: dict[str, float | None] = {"duration_seconds": 5, "min_pause_seconds": 1, "lost_seconds": 2}
    return suggest(bounds(**(figures | changes)), 60)  # type: ignore[arg-type]


def test_without_a_wish_the_usual_interval_stays():
    assert (plan().interval_seconds, plan().because) == (60, "usual")


def test_an_interval_is_never_below_duration_and_pause():
    found = plan(failure_seconds=1)
    assert (found.interval_seconds, found.because, found.conflicts) == (6, "duration", ())


def test_the_overhead_makes_it_longer():
    found = plan(max_overhead=0.01)
    assert (found.interval_seconds, found.because) == (200, "overhead")


def test_the_recovery_time_makes_it_shorter():
    found = plan(failure_seconds=86_400, longest_age_seconds=45)
    assert (found.interval_seconds, found.because, found.conflicts) == (40, "recovery", ())


def test_recovery_goes_before_overhead_and_the_conflict_is_told():
    found = plan(max_overhead=0.01, longest_age_seconds=45)
    assert (found.interval_seconds, found.because) == (40, "recovery")
    assert found.conflicts == ("the recovery time asks for a shorter interval than the overhead allows",)


def test_a_recovery_time_that_no_interval_keeps_is_told():
    found = plan(longest_age_seconds=-10)
    assert found.interval_seconds == 6
    assert found.conflicts == ("no interval keeps the recovery time: a checkpoint and the pause after it take longer",)


@pytest.mark.parametrize(
    "changes",
    [{"state_bytes": -1}, {"upload_bytes_per_second": 0}, {"upload_share": 2}, {"snapshot_seconds": inf}],
)
def test_figures_that_cannot_be_are_refused(changes: dict[str, float]):
    with pytest.raises(UsageError):
        checkpoint(**changes)


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(UsageError):
        throughput_share(0, 1)
