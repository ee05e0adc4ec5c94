"""kill -9 at every storage call and every system call of real processes, and power cuts; then everything still works.

After each: the store opens and lists, every file of every root is read to its end, nothing acknowledged is lost, a
restore's target is absent or whole, and the same command run again does its work once.

`EOCTL_TEST_ALL=1` sweeps every point; otherwise of a long run of alike ones (making 256 folders) a few are taken,
and of the points of a power cut some.
"""

from __future__ import annotations

import copy
import itertools
import os
import random
import signal
from collections.abc import Iterator, Sequence

import pytest

from formats.errors import BlobGoneError
from tests.support.crash.bench import Bench, Place, bench
from tests.support.crash.disk import Disk, Image, write_image
from tests.support.crash.durability import faults, is_advisory
from tests.support.crash.tracing import Call, traced, why_not

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
OPERATIONS = ("first", "create", "restore", "restore-link", "delete", "undelete", "hold", "release")
LONG_RUN = 8  # so many calls of one name in a row are alike
RANDOM_LOSSES = 8 if ALL else 2  # at each point, beside all and each alone
MANY_LOSSES = 24 if ALL else 8  # of more unsynced effects only the oldest and the newest are lost alone
RETRY_EVERY = 4


@pytest.fixture(scope="module", name="bench")
def bench_fixture() -> Iterator[Bench]:
    with bench() as ready:
        yield ready


@pytest.fixture(scope="module")
def strace() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_kill_at_any_storage_call_loses_nothing(bench: Bench, operation: str) -> None:
    sweep_storage_calls(bench, operation)


def test_the_sweep_finds_a_manifest_that_is_stored_after_head_names_it(bench: Bench) -> None:
    with pytest.raises(BlobGoneError):
        sweep_storage_calls(bench, "create", mutant="manifest-last")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("operation", ["first", "create", "restore", "restore-link", "delete"])
def test_a_kill_at_any_system_call_loses_nothing(bench: Bench, operation: str) -> None:
    with bench.place(operation) as place:
        points = record(bench, operation, place)
    if not ALL:
        points = sampled(points)[:: 1 if operation in {"first", "create"} else 2]
    for point in points:
        with bench.place(operation) as place:
            last = record(bench, operation, place, kill_at=point)[-1]
            assert (last.name, last.number, last.returned) == (point.name, point.number, None)
            bench.check_after_crash(operation, place)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("operation", ["first", "create", "delete"])
def test_success_is_told_after_everything_is_synced(bench: Bench, operation: str) -> None:
    with bench.place(operation) as place:
        disk = Disk(place.disk)
        calls = record(bench, operation, place, data=True)
        assert faults(disk, calls, place.disk, acknowledged=True) == []
        assert disk.image() == Disk(place.disk).image(), "the model of the disk is not what the disk did"


@pytest.mark.usefixtures("strace")
def test_a_missing_sync_of_any_kind_is_found(bench: Bench) -> None:
    with bench.place("first") as place:
        empty = Disk(place.disk)
        calls = record(bench, "first", place, data=True)
        syncs = [call for call in calls if call.name == "fsync" and not is_advisory(call.paths[0])]
        assert len(syncs) > 20
        for missing in sampled(syncs):
            rest = [call for call in calls if call is not missing]
            if faults(copy.deepcopy(empty), rest, place.disk, acknowledged=True) == []:
                again = [call for call in syncs if call is not missing and call.paths == missing.paths]
                assert again, f"nobody misses {missing.name} {missing.number} of {missing.paths[0]}"


@pytest.mark.usefixtures("strace")
def test_what_a_killed_run_left_unsynced_is_synced_by_the_next(bench: Bench) -> None:
    with bench.place("first") as place:
        points = record(bench, "first", place)
    for point in points if ALL else sampled(points):
        with bench.place("first") as place:
            disk = Disk(place.disk)
            killed = record(bench, "first", place, kill_at=point)
            assert faults(disk, killed, place.disk, acknowledged=False) == []
            retried = record(bench, "first", place)
            found = faults(disk, retried, place.disk, acknowledged=True)
            assert found == [], f"after a kill at {point.name} {point.number} of {point.paths}"


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("operation", ["first", "create", "delete"])
def test_a_power_cut_at_any_moment_loses_nothing(bench: Bench, operation: str) -> None:
    with bench.place(operation) as place:
        disk = Disk(place.disk)
        calls = record(bench, operation, place, data=True)
    pool = bench.root / f"pool-{operation}"
    pool.mkdir()
    points = {id(call) for call in (*sampled(calls), calls[-1])}
    tried: set[tuple[Image, bool]] = set()
    for call in calls:
        disk.play(call)
        acknowledged = call is calls[-1]
        for lost in losses(disk.unsynced()) if id(call) in points else ():
            image = disk.image(lost)
            if (image, acknowledged) not in tried:
                tried.add((image, acknowledged))
                with bench.empty_place() as place:
                    write_image(image, place.disk, pool)
                    retry = ALL or len(tried) % RETRY_EVERY == 0
                    bench.check_after_crash(operation, place, acknowledged=acknowledged, retry=retry)


def sweep_storage_calls(bench: Bench, operation: str, mutant: str = "") -> None:
    for at in range(len(bench.storage_calls(operation))):
        for after in (False, True):
            with bench.place(operation) as place:
                bench.kill(bench.job(operation, place, die_at=at, die_after=after, mutant=mutant), place)
                bench.check_after_crash(operation, place)


def record(
    bench: Bench, operation: str, place: Place, *, kill_at: Call | None = None, data: bool = False
) -> list[Call]:
    """The system calls of the operation that concern its disk: all of them, or up to the one that killed it."""
    job = bench.job(operation, place, one_thread=True)
    code, calls = traced(bench.server, job, place.folder / "log", kill_at=kill_at, data=data)
    assert code == (0 if kill_at is None else -signal.SIGKILL)
    return [call for call in calls if call.concerns(place.disk)]


def sampled(calls: Sequence[Call]) -> list[Call]:
    """Of a long run of calls of one name, two at its start, one in its middle, two at its end; of others every one."""
    found: list[Call] = []
    for _, group in itertools.groupby(calls, key=lambda call: call.name):
        run = list(group)
        found += run if len(run) < LONG_RUN else [*run[:2], run[len(run) // 2], *run[-2:]]
    return found


def losses(unsynced: Sequence[int]) -> Iterator[frozenset[int]]:
    """What a power cut may take: nothing, all, each effect alone (of very many, some), some at random."""
    rng = random.Random(len(unsynced))
    yield frozenset()
    yield frozenset(unsynced)
    alone = (
        unsynced if len(unsynced) <= MANY_LOSSES else [*unsynced[: MANY_LOSSES // 2], *unsynced[-MANY_LOSSES // 2 :]]
    )
    for effect in alone:
        yield frozenset({effect})
    for _ in range(RANDOM_LOSSES):
        yield frozenset(effect for effect in unsynced if rng.random() < 0.5)
