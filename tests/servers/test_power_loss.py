"""The power fails: at every call of a log of what a local store did to its disk, whatever was not synced may be lost.

Where few effects are unsynced, each set of them is lost once; beyond, samples. What is left is written to a fresh
directory: the store opens, whatever was acknowledged is there, every snapshot is what it was, gc and verify find
nothing wrong, and the next writer commits. States are small, so that the stories are short.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from eoctl.services.gc import Options, collect
from eoctl.services.verify import verify
from formats.errors import EoctlError
from storage.store import Store
from tests.support.crash.bench import Bench, Place, bench
from tests.support.crash.checks import Files, Seen, look, reopened
from tests.support.crash.disk import Disk, Image, write_image
from tests.support.crash.operations import PIPELINE, acknowledgement_of
from tests.support.crash.tracing import Call, traced, why_not

LONG = os.environ.get("EOCTL_TEST_LONG") == "1"
EXHAUSTIVE = 12 if LONG else 6  # so many unsynced effects: every set of them is lost
RECENT = 6 if LONG else 2  # of more, every set of the newest, with and without all older ones
RANDOM = 16 if LONG else 2
SAMPLE_EVERY = 1 if LONG else 6  # calls at which there are more
THOROUGH_EVERY = 4 if LONG else 16  # images after which gc, verify and a writer run too

# What an acknowledged step has made true for good, until the next one of the same story.
DONE: dict[str, Callable[[Seen], bool]] = {
    "create": lambda seen: "2" in seen.live,
    "tag": lambda seen: seen.head is not None and seen.head.live[-1].tags == ("good",),
    "hold": lambda seen: _held(seen) == {"1"},
    "release": lambda seen: _held(seen) == set(),
    "delete": lambda seen: (seen.live, seen.trash) == (["2"], ["1"]),
    "undelete": lambda seen: (seen.live, seen.trash) == (["1", "2"], []),
    "gc": lambda seen: (seen.live, seen.trash) == (["2"], []),
    "destroy": lambda seen: seen.head is not None and seen.head.state == "destroyed",
    "create 2": lambda seen: "2" in seen.roots,
    "delete 1": lambda seen: "1" not in seen.live and "2" in seen.live,
    "gc 1": lambda seen: "1" not in seen.roots and "2" in seen.roots,
    "hold 2": lambda seen: _held(seen) == {"2"},
    "create 3": lambda seen: "3" in seen.live,
    "release 2": lambda seen: _held(seen) == set() and "3" in seen.live,
    "delete 2": lambda seen: "2" not in seen.live and "3" in seen.live,
    "gc 2": lambda seen: seen.roots.keys() == {"3"},
}
MAY_GO: Mapping[str, frozenset[str]] = {  # snapshots that an operation may take away
    "gc": frozenset({"1"}),
    "destroy": frozenset({"1", "2"}),
    "life": frozenset({"1"}),
}


def _held(seen: Seen) -> set[str]:
    return set() if seen.head is None else {hold.entry.label for hold in seen.head.holds}


@pytest.fixture(scope="module", name="bench")
def bench_fixture() -> Iterator[Bench]:
    if reason := why_not():
        pytest.skip(reason)
    with bench(small=True) as ready:
        yield ready


@pytest.mark.parametrize(
    "operation", ["create", "tag", "hold", "release", "delete", "undelete", "gc", "destroy", "life"]
)
def test_whatever_a_power_loss_takes_what_was_acknowledged_is_there_and_whole(bench: Bench, operation: str) -> None:
    told = replay(bench, operation)
    sys.stdout.write(f"{operation}: {dict(told)}\n")
    assert told["states of the disk"] > 3
    assert told["every set lost"] > 0


def test_a_disk_whose_fsync_does_nothing_is_found_out(bench: Bench) -> None:
    with pytest.raises((AssertionError, EoctlError)):
        replay(bench, "create", forget=lambda call: call.name in {"fsync", "fdatasync"})


@pytest.mark.parametrize("forgotten", ["/tmp/", "/o/", "/m", "/orders"])
def test_a_kind_of_sync_that_is_forgotten_is_found_out(bench: Bench, forgotten: str) -> None:
    """Of files, of the directories of blobs, of manifests, of HEAD."""
    where = re.compile(f"/store{forgotten}|{forgotten}(../?)?$")
    with pytest.raises((AssertionError, EoctlError)):
        replay(bench, "create", forget=lambda call: call.name == "fsync" and where.search(call.paths[0]) is not None)


def replay(bench: Bench, operation: str, forget: Callable[[Call], bool] = lambda _: False) -> Counter[str]:
    """What was tried; raises where something was lost. `forget`: calls that do nothing."""
    told: Counter[str] = Counter()
    rng = random.Random(operation)
    with bench.place(operation) as place:
        disk = Disk(place.disk)
        story = record(bench, operation, place)
    pool = bench.root / f"pool-{next(bench.numbers)}"
    pool.mkdir()
    tried: set[tuple[Image, str]] = set()
    step = ""
    for number, call in enumerate(story):
        if isinstance(call, str):
            step = call
        elif not forget(call):
            disk.play(call)
        told["calls"] += isinstance(call, Call)
        unsynced = disk.unsynced()
        if len(unsynced) > EXHAUSTIVE and number % SAMPLE_EVERY and call is not story[-1]:
            continue
        told["every set lost" if len(unsynced) <= EXHAUSTIVE else "samples lost"] += 1
        for lost in losses(unsynced, rng):
            told["losses"] += 1
            image = disk.image(lost)
            if (image, step) not in tried:
                tried.add((image, step))
                with bench.empty_place() as after:
                    write_image(image, after.disk, pool)
                    check(bench, operation, step, after, thorough=len(tried) % THOROUGH_EVERY == 1)
    told["states of the disk"] = len(tried)
    return told


def record(bench: Bench, operation: str, place: Place) -> list[Call | str]:
    """The calls that concern the disk, and between them what was acknowledged then."""
    job = bench.job(operation, place, one_thread=True)
    code, calls = traced(bench.server, job, place.folder / "log", data=True)
    assert code == 0
    steps = {str(acknowledgement_of(job, step)): step for step in DONE}
    story: list[Call | str] = []
    for call in calls:
        if call.concerns(place.disk):
            story.append(call)
        elif (step := next((steps[path] for path in call.paths if path in steps), "")) and step not in story:
            story.append(step)
    return story if operation == "life" else [*story, operation]


def losses(unsynced: Sequence[int], rng: random.Random) -> Iterator[frozenset[int]]:
    """Every set of them, or of many: none, all, each alone, all but each, every set of the newest, some at random."""
    if len(unsynced) <= EXHAUSTIVE:
        yield from subsets(unsynced)
        return
    everything = frozenset(unsynced)
    for effect in unsynced:
        yield frozenset({effect})
        yield everything - {effect}
    for lost in subsets(unsynced[-RECENT:]):
        yield lost
        yield lost | frozenset(unsynced[:-RECENT])
    for _ in range(RANDOM):
        yield frozenset(effect for effect in unsynced if rng.random() < 0.5)


def subsets(effects: Sequence[int]) -> Iterator[frozenset[int]]:
    for size in range(len(effects) + 1):
        yield from map(frozenset, itertools.combinations(effects, size))


def check(bench: Bench, operation: str, step: str, place: Place, *, thorough: bool) -> None:
    before, expected = bench.before(operation), {**bench.expected, "3": bench.expected["1"]}
    seen = look(place.store)
    assert all(files == expected[label] for label, files in seen.roots.items())
    assert before.roots.keys() - seen.roots.keys() <= MAY_GO.get(operation, frozenset())
    assert all(now >= then for now, then in zip(seen.counters, before.counters, strict=True))
    assert not step or lasts(step, seen), f"{step} was acknowledged"
    if thorough:
        whole_and_in_use(reopened(place.store), seen, expected, bench, place)


def lasts(step: str, seen: Seen) -> bool:
    """What was acknowledged is there, or the next step of the story has begun to show."""
    following = itertools.dropwhile(lambda known: known != step, DONE)
    next(following)
    return DONE[step](seen) or (step in LIFE and any(DONE[later](seen) for later in following if later in LIFE))


LIFE = ("create 2", "delete 1", "gc 1", "hold 2", "create 3", "release 2", "delete 2", "gc 2")


def whole_and_in_use(store: Store, seen: Seen, expected: Mapping[str, Files], bench: Bench, place: Place) -> None:
    """gc and verify find nothing wrong, and a writer goes on."""
    assert seen.head is not None
    for _ in range(2):
        (row,) = collect(store, [PIPELINE], Options(grace_seconds=0, keep_trash_seconds=0)).pipelines
        assert (row.error, row.stopped, row.dangling, row.strangers) == ("", "", (), ())
        if seen.head.state == "destroyed":
            return
        assert verify(store, PIPELINE, None, "full", scratch=place.folder).damaged == ()
        after = look(place.store)
        assert after.roots.keys() >= set(seen.live)
        assert all(files == expected[label] for label, files in after.roots.items())
    job = bench.job("create", place, checkpoint=4)
    assert bench.server.run(job) == 0
    assert look(place.store).roots["4"] == bench.expected["2"]
