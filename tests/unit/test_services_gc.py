"""Collections as cron runs them: what is expired, when bytes are freed, what is told; and others at work meanwhile."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eoctl.services import gc as service
from eoctl.services.entries import delete, hold, release, undelete
from eoctl.services.gc import Options, collect, pipelines_to_collect
from eoctl.services.gc_metrics import gc_metrics
from eoctl.services.gc_rows import GcRun, PipelineGc
from eoctl.services.prometheus import render
from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from eoctl.services.retention import Policy
from eoctl.services.writers import _process, live_writer
from formats.errors import ConflictError, CorruptError, FencedError, SnapshotNotFoundError, UsageError
from formats.head import Head, decode_head, roots
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest import Blocks, Slice, blobs
from storage import layout
from storage.backend import Backend, Body, Folder, Found, Key, Place, Reach, Unfinished, Version
from storage.edits import destroy, raise_era, tag
from storage.manifest_cache import CachedStore
from storage.pins import SYNC_FAILED, Pin, PinRecord
from storage.session import Session
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.faulty import Call, CountingBackend, Fault, FaultyBackend, Meanwhile, script
from tests.support.places import (
    PIPELINE,
    Plan,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    local_store,
    memory_store,
    opened,
    write_tree,
)
from tests.support.stores import edit, file_at, flip, labels, manifest_name, noise, overwrite, value_of

HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
MIB = 1 << 20
FIRST = {"a.sst": noise(MIB + 1, 1), "b": noise(9000, 2), "c": noise(8000, 3), "d": b"x" * 9000}
SECOND = FIRST | {"a.sst": noise(MIB + 1, 4)}
THIRD = SECOND | {"b": noise(9000, 5)}
LAST = Options(policy=Policy(keep_last=1))
NOW = Options(policy=Policy(keep_last=1), grace_seconds=0, keep_trash_seconds=0)


def _with(options: Options, **changes: object) -> Options:
    return msgspec.structs.replace(options, **changes)


class World:
    """A store, and a clock to move."""

    def __init__(self, store: Store, clock: FakeAmbient, root: Path) -> None:
        self.store = store
        self.clock = clock
        self.root = root

    def take(self, *trees: dict[str, bytes], pipeline: PipelineId = PIPELINE) -> None:
        for files in trees:
            checkpoint_tree(opened(self.store, pipeline), write_tree(self.root / "tree", files))
            self.clock.seconds += 60

    def run(self, options: Options = LAST, *, later: float = 0, pipeline: PipelineId = PIPELINE) -> PipelineGc:
        self.clock.seconds += later
        (row,) = collect(self.store, [pipeline], options).pipelines
        return row

    def good(self, options: Options = LAST, *, later: float = 0) -> PipelineGc:
        row = self.run(options, later=later)
        assert (row.error, row.stopped, row.dangling, row.strangers) == ("", "", (), ()), row
        check_roots(self.store)
        return row

    @property
    def head(self) -> Head:
        return self.store.head(PIPELINE).head


def world_of(store: Store, root: Path) -> World:
    clock = FakeAmbient(7)
    return World(behind(store, store.backend, clock.ambient()), clock, root)


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = world_of(memory_store(tmp_path), tmp_path)
    made.take(FIRST, SECOND, THIRD)
    return made


def names(store: Store, pipeline: PipelineId = PIPELINE) -> set[str]:
    prefixes = (layout.blobs(pipeline), layout.manifests(pipeline))
    return {found.key.path for prefix in prefixes for found in store.backend.list(prefix) if isinstance(found, Found)}


# What happens when.


def test_from_expiry_to_free_bytes(world: World) -> None:
    first = world.good()
    assert [(each.snapshot, each.reason) for each in first.expired] == [
        ("orders@1", "no rule keeps it"),
        ("orders@2", "no rule keeps it"),
    ]
    assert [(each.snapshot, each.reason) for each in first.kept] == [("orders@3", "last 1")]
    assert (first.advanced, first.deleted_blobs, first.left_trash) == (False, 0, 0)
    assert [trashed.entry.label for trashed in world.head.trash] == ["1", "2"]

    day = world.good(later=7 * HOUR)
    assert (day.advanced, day.left_trash, day.deleted_blobs) == (True, 0, 0)
    dropped = world.good(later=18 * HOUR)
    assert (dropped.advanced, dropped.left_trash) == (True, 2)
    assert labels(world.store, "orders") == ["3"]
    # What they needed is of era 1, and the floor was raised to 2 with the same swap.
    assert dropped.deleted_blobs > 0
    assert dropped.freed_bytes > MIB
    assert contents(world.store, entry_of(world.store, 3)) == THIRD
    assert dropped.repacked_packs == 1
    after = world.good()
    assert (after.deleted_blobs, after.repacked_packs, after.advanced) == (2, 0, False)
    assert names(world.store) == needed(world.store)
    again = world.good()
    assert (again.garbage_blobs, again.deleted_blobs, again.expired, again.advanced) == (0, 0, (), False)


def test_no_rule_expires_nothing_and_garbage_goes_all_the_same(world: World) -> None:
    put_garbage(world, 1)
    row = world.good(Options(), later=7 * HOUR)
    assert (row.expired, row.by_rules, row.deleted_blobs) == ((), False, 1)
    assert len(row.kept) == 3
    assert labels(world.store, "orders") == ["1", "2", "3"]


def put_garbage(world: World, count: int, era: int = 0, seed: int = 0) -> list[str]:
    """Blobs of an era that the first advance leaves below the floor."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        key = BlobKey(Digest(rng.randbytes(32).hex()), Era(era))
        name = layout.blob(PIPELINE, key)
        world.store.backend.create(name, b"123456")
        found.append(name.path)
    return found


def test_with_no_grace_all_goes_in_one_run(world: World) -> None:
    row = world.good(NOW)
    assert len(row.expired) == 2
    assert row.left_trash == 2
    assert labels(world.store, "orders") == ["3"]
    assert names(world.store) == needed(world.store)
    assert row.stored_bytes <= 1.05 * row.live_bytes
    again = world.good(NOW)
    assert (again.deleted_blobs, again.repacked_packs) == (0, 0)


def needed(store: Store) -> set[str]:
    head = store.head(PIPELINE).head
    found = set()
    for root in roots(head):
        found |= {layout.blob(PIPELINE, key).path for key in blobs(store.manifest(head, root))}
        found.add(layout.manifest(PIPELINE, BlobKey.parse(root.manifest)).path)
    return found


def test_undelete_brings_back_whatever_is_still_in_the_trash(world: World) -> None:
    world.good()
    world.good(later=7 * HOUR)
    undelete(world.store, PIPELINE, "1")
    later = world.good(Options(), later=40 * HOUR)
    assert later.left_trash == 1
    assert [entry.label for entry in world.head.live] == ["1", "3"]
    assert contents(world.store, entry_of(world.store, 1)) == FIRST


def test_trash_goes_after_its_time_even_without_a_rule(world: World) -> None:
    delete(world.store, PIPELINE, {"1"})
    for _ in range(3):
        world.good(Options(), later=12 * HOUR)
    assert labels(world.store, "orders") == ["2", "3"]
    assert names(world.store) == needed(world.store)


def test_what_is_held_stays_until_it_is_released_or_its_time_is_over(world: World) -> None:
    hold(world.store, resolve(world.store, "orders@1"), "audit")
    hold(world.store, resolve(world.store, "orders@2"), "restore", 10 * DAY)
    for _ in range(4):
        row = world.good(later=2 * DAY)
    assert {each.snapshot: each.reason for each in row.kept} == {
        "orders@1": "held without an end",
        "orders@2": row.kept[1].reason,
        "orders@3": "last 1",
    }
    assert row.kept[1].reason.startswith("held until 2026-01-11T00:0")
    release(world.store, resolve(world.store, "orders@1"))
    for _ in range(4):
        world.good(later=3 * DAY)
    assert labels(world.store, "orders") == ["3"]
    assert world.head.holds == ()


def test_savepoints_and_tags_stay(world: World) -> None:
    session = Session(world.store, PIPELINE)
    plan = Plan({"s": noise(9000, 9)})
    session.commit(lambda own: msgspec.structs.replace(plan(own), kind="savepoint", name="before", id=0))
    edit(world.store, "orders", partial(tag, label="1", add=frozenset({"release"}), remove=frozenset()))
    options = Options(policy=Policy(keep_last=1, keep_tags=("release",)), grace_seconds=0, keep_trash_seconds=0)
    for _ in range(3):
        row = world.good(options, later=DAY)
    assert [(each.snapshot, each.reason) for each in row.kept] == [
        ("orders@1", "tag release"),
        ("orders@3", "last 1"),
        ("orders@before", "savepoint"),
    ]


def test_an_advance_is_due_after_the_grace_and_not_before(world: World) -> None:
    era = world.head.era
    assert not world.good(Options(), later=5 * HOUR).advanced
    assert world.good(Options(), later=2 * HOUR).advanced
    assert not world.good(Options(), later=5 * HOUR).advanced
    assert world.good(Options(grace_seconds=HOUR)).advanced
    assert (world.head.era, world.head.floor) == (era + 2, era + 1)


def test_a_pipeline_without_any_snapshot_is_fine(tmp_path: Path) -> None:
    world = world_of(memory_store(tmp_path), tmp_path)
    opened(world.store)
    assert world.good(NOW).live_blobs == 0


# A dry run.


@pytest.mark.parametrize("options", [LAST, NOW, _with(NOW, keep_trash_seconds=DAY)], ids=["slow", "fast", "trash"])
@pytest.mark.parametrize("later", [0, 7 * HOUR, 30 * HOUR])
@pytest.mark.parametrize("runs", [0, 1, 2])
def test_a_dry_run_changes_nothing_and_says_what_the_run_then_does(
    world: World, later: int, runs: int, options: Options
) -> None:
    world.take({"c": FIRST["c"]})
    for _ in range(runs):
        world.good(later=20 * HOUR)
    put_garbage(world, 3)
    world.clock.seconds += later
    before, head = names(world.store), world.store.head(PIPELINE)
    counting = CountingBackend(world.store.backend)
    (told,) = collect(
        behind(world.store, counting, world.store.ambient), [PIPELINE], _with(options, dry_run=True, names=True)
    ).pipelines
    assert counting.calls["create"] == counting.calls["swap"] == counting.calls["delete"] == 0
    assert (names(world.store), world.store.head(PIPELINE)) == (before, head)
    done = world.good(_with(options, names=True))
    gone = before - names(world.store)
    assert set(told.garbage) == set(done.garbage) == gone
    assert (told.garbage_blobs, told.garbage_bytes) == (done.deleted_blobs, done.freed_bytes)
    same = ("expired", "kept", "advanced", "era", "floor", "left_trash", "young_orphans")
    assert {name: getattr(told, name) for name in same} == {name: getattr(done, name) for name in same}
    if not done.repacked_packs:  # what is written anew has no size before it is written
        assert (told.live_blobs, told.live_bytes) == (done.live_blobs, done.live_bytes)
    assert (told.repacked_packs, told.repacked_bytes) == (done.repacked_packs, done.repacked_bytes)


def test_a_dry_run_says_of_a_damaged_pack_what_the_run_says(world: World) -> None:
    world.take({"c": FIRST["c"]})
    place = file_at(world.store, "orders@4", "c").place
    name = layout.blob(PIPELINE, BlobKey.parse(place.pack))  # type: ignore[union-attr]  # it is a slice
    flip(world.store.backend, name, place.offset)  # type: ignore[union-attr]  # likewise
    rows = []
    for _ in range(3):
        world.clock.seconds += 30 * HOUR
        rows += [world.run(_with(LAST, dry_run=True)), world.run(LAST)]
    told, done = rows[-2:]
    assert told.notes == done.notes == (f"not re-packed, damaged: {name}: content does not match its digest",)
    assert told.repacked_packs == done.repacked_packs == 0


# The breaker.


@pytest.fixture
def low_breaker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "BREAKER_BLOBS", 20)


@pytest.mark.usefixtures("low_breaker")
def test_more_garbage_than_half_of_all_needs_to_be_expected(world: World) -> None:
    put_garbage(world, 21)
    row = world.run(Options(), later=7 * HOUR)
    live = row.live_blobs
    assert row.stopped == f"21 of {21 + live} blobs are garbage; if that is right, run again with --expect 21"
    assert (row.garbage_blobs, row.deleted_blobs, row.freed_bytes) == (21, 0, 0)
    assert world.run(Options(expect=20)).stopped
    dry = world.run(Options(dry_run=True))
    assert dry.stopped == row.stopped
    assert world.good(Options(expect=21)).deleted_blobs == 21


@pytest.mark.usefixtures("low_breaker")
def test_little_garbage_or_less_than_half_is_no_surprise(world: World) -> None:
    put_garbage(world, 20)
    assert world.good(Options(), later=7 * HOUR).deleted_blobs == 20
    world.take({f"{number}.sst": noise(MIB, number) for number in range(30)})
    put_garbage(world, 30)
    assert world.good(Options(), later=7 * HOUR).deleted_blobs == 30


@pytest.mark.usefixtures("low_breaker")
def test_what_was_stopped_is_left_as_it_is_so_that_the_number_stays_right(world: World) -> None:
    """Re-packing would add to the garbage."""
    world.take({"c": FIRST["c"]})
    options = Options(policy=Policy(keep_last=1))
    for _ in range(2):
        world.good(_with(options, repack=False), later=30 * HOUR)
    put_garbage(world, 25)
    row = world.run(options, later=7 * HOUR)
    assert (bool(row.stopped), row.repacked_packs) == (True, 0)
    done = world.good(_with(options, expect=row.garbage_blobs), later=7 * HOUR)
    assert (done.deleted_blobs, done.repacked_packs) == (row.garbage_blobs, 1)


# Pins.


def pin(world: World, era: int, *, age: float, host: str = "f" * 32, process: str = "", note: str = "upload") -> None:
    """As a writer of a host would have left it so many seconds ago, by the store's clock."""
    now = 1_767_225_600 + world.clock.seconds
    backend = world.store.backend
    backend._clock = lambda: now - age  # type: ignore[attr-defined]  # a memory backend
    record = PinRecord(format="eoctl.pin", version=1, era=era, attempt=1, host=host, process=process, note=note)
    Pin(backend, PIPELINE, f"{era:032x}").refresh(record)


def own_process() -> str:
    return _process(os.getpid()) or ""


@pytest.mark.parametrize(
    ("age", "host", "process", "note", "keeps"),
    [
        (10, "f" * 32, "", "upload", True),
        (3599, "f" * 32, "", "upload", True),
        (3601, "f" * 32, "", "upload", False),
        (-10, "f" * 32, "", "upload", True),
        (-2 * YEAR, "f" * 32, "", "upload", False),
        (50 * YEAR, "f" * 32, "", "upload", False),
        (10, "c" * 32, "1.1", "upload", False),
        (10, "c" * 32, "own", "upload", True),
        (3 * HOUR, "c" * 32, "own", "upload", True),
        (8 * DAY, "c" * 32, "own", "upload", False),
        (10, "f" * 32, "", SYNC_FAILED, False),
    ],
)
def test_a_fresh_pin_keeps_the_floor_and_no_other_does(
    world: World, age: float, host: str, process: str, note: str, keeps: bool
) -> None:
    for _ in range(3):
        world.good(Options(), later=7 * HOUR)
    assert (world.head.era, world.head.floor) == (4, 3)
    pin(world, 3, age=age, host=host, process=own_process() if process == "own" else process, note=note)
    world.good(Options(grace_seconds=0))
    assert (world.head.era, world.head.floor) == (6, 3 if keeps else 5)


def test_a_pin_neither_lowers_the_floor_nor_lifts_it(world: World) -> None:
    for _ in range(3):
        world.good(Options(), later=7 * HOUR)
    pin(world, 1, age=1)
    world.good(Options(), later=7 * HOUR)
    assert world.head.floor == 4
    pin(world, 99, age=1)
    world.store.backend.delete([layout.pin(PIPELINE, f"{1:032x}", 1)])
    world.good(Options(grace_seconds=0))
    assert (world.head.era, world.head.floor) == (7, 6)


@pytest.mark.parametrize(
    ("age", "host", "process", "note", "stays"),
    [
        (6 * DAY, "f" * 32, "", "upload", True),
        (8 * DAY, "f" * 32, "", "upload", False),
        (-8 * DAY, "f" * 32, "", "upload", False),
        (8 * DAY, "c" * 32, "own", "upload", True),
        (8 * DAY, "c" * 32, "1.1", "upload", False),
        (8 * DAY, "f" * 32, "", SYNC_FAILED, True),
    ],
)
def test_a_pin_that_nobody_has_kept_for_a_week_is_removed(
    world: World, age: float, host: str, process: str, note: str, stays: bool
) -> None:
    """A note of lost writes is for the next writer, whenever that comes."""
    pin(world, 1, age=age, host=host, process=own_process() if process == "own" else process, note=note)
    key = layout.pin(PIPELINE, f"{1:032x}", 1)
    world.good(Options(dry_run=True), later=7 * HOUR)
    assert world.store.backend.stat(key) is not None
    world.good(Options())
    assert (world.store.backend.stat(key) is not None) is stays


@pytest.mark.parametrize(("age", "lives"), [(10, True), (-10, True), (3601, False), (-3601, False), (50 * YEAR, False)])
def test_only_a_fresh_pin_of_another_host_says_that_somebody_writes(world: World, age: float, lives: bool) -> None:
    pin(world, 1, age=age)
    assert (live_writer(world.store, PIPELINE) is not None) is lives


def test_a_pin_that_cannot_be_read_is_none(world: World) -> None:
    world.store.backend.create(layout.pin(PIPELINE, "a" * 32, 1), b"{}")
    assert world.good(Options(), later=7 * HOUR).advanced


# Clocks.


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    jumps=st.lists(
        st.tuples(
            st.sampled_from([-900 * YEAR, -3 * YEAR, -DAY, -1.0, 0.0, 1.0, DAY, 3 * YEAR, 900 * YEAR]),
            st.sampled_from(["gc", "gc", "gc", "take", "delete", "undelete", "hold"]),
        ),
        max_size=14,
    )
)
def test_clocks_that_jump_by_years_cost_no_snapshot_that_was_not_let_go(
    tmp_path: Path, jumps: list[tuple[float, str]]
) -> None:
    world = world_of(memory_store(tmp_path), tmp_path)
    world.take(FIRST, SECOND)
    taken = {"1": FIRST, "2": SECOND}
    for number, (jump, what) in enumerate(jumps):
        world.clock.seconds = min(max(world.clock.seconds + jump, -900 * YEAR), 7000 * YEAR)
        before = world.head
        newest = before.live[-1].label if before.live else ""
        if what == "take":
            files = {"a": noise(9000, 100 + number), "b": FIRST["b"]}
            world.take(files)
            taken[world.head.live[-1].label] = files
        elif what == "delete" and len(before.live) > 1:
            delete(world.store, PIPELINE, {before.live[0].label})
        elif what == "undelete" and before.trash:
            undelete(world.store, PIPELINE, before.trash[0].entry.label)
        elif what == "hold" and before.live:
            hold(world.store, resolve(world.store, f"orders@{before.live[0].label}"), "audit", DAY)
        elif what == "gc":
            row = world.good(Options(policy=Policy(keep_last=2, keep_within_seconds=DAY, keep_daily=2)))
            assert newest in {entry.label for entry in world.head.live}
            left = {root.label for root in roots(before)} - {root.label for root in roots(world.head)}
            unseen = {t.entry.label for t in before.trash if not t.seen_by_advance} | {e.label for e in before.live}
            assert not left & unseen, "one jump of a clock has both expired and dropped it"
            assert row.floor >= before.floor
        for root in roots(world.head):
            assert contents(world.store, root) == taken[root.label]


# Others at work.


def everywhere(count: int, others: Callable[[], object]) -> Iterator[Callable[[Call], Meanwhile | None]]:
    """Others act once, just before each call in turn."""
    for number in range(count):
        turn = iter([others])
        yield lambda call, turn=turn, number=number: (  # type: ignore[misc]  # the defaults bind this turn's
            Meanwhile(before=next(turn, lambda: None)) if call.number == number else None
        )


class Kept:
    """A store in memory that can be put back to how it was."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._values = dict(world.store.backend._values)  # type: ignore[attr-defined]  # a memory backend
        self._seconds = world.clock.seconds

    def put_back(self) -> None:
        values = self._world.store.backend._values  # type: ignore[attr-defined]  # likewise
        values.clear()
        values.update(self._values)
        self._world.clock.seconds = self._seconds


def interleaved(world: World, options: Options, others: Callable[[], object]) -> Iterator[PipelineGc]:
    """A collection at each call of which others act once, each time from the same state."""
    kept = Kept(world)
    counting = FaultyBackend(world.store.backend)
    collect(behind(world.store, counting, world.store.ambient), [PIPELINE], options)
    for decide in everywhere(len(counting.calls), others):
        kept.put_back()
        faulty = FaultyBackend(world.store.backend, decide)
        (row,) = collect(behind(world.store, faulty, world.store.ambient), [PIPELINE], options).pipelines
        check_roots(world.store)
        yield row
        kept.put_back()


@pytest.mark.parametrize("options", [LAST, NOW, _with(LAST, dry_run=True, names=True)], ids=["slow", "fast", "dry"])
def test_two_collections_at_any_moment_of_each_other(world: World, options: Options) -> None:
    """No false alarm either: what the other has swept is not missing."""
    world.take({"c": FIRST["c"]})
    world.good(LAST, later=HOUR)
    world.good(LAST, later=30 * HOUR)
    world.clock.seconds += 30 * HOUR
    other = World(behind(world.store, world.store.backend, FakeAmbient(8).ambient()), FakeAmbient(8), world.root)

    def collects() -> None:
        clock = FakeAmbient(9)
        clock.seconds = world.clock.seconds
        collect(behind(other.store, other.store.backend, clock.ambient()), [PIPELINE], NOW)

    for row in interleaved(world, options, collects):
        assert (row.error, row.stopped, row.dangling) == ("", "", ()), row
        assert labels(world.store, "orders") == ["4"] or options.dry_run


def test_a_writer_at_any_moment_of_a_collection(world: World) -> None:
    world.good(LAST, later=HOUR)
    world.clock.seconds += 30 * HOUR
    files = {"b": FIRST["b"], "new": noise(9000, 50)}

    def commits() -> None:
        checkpoint_tree(opened(world.store), write_tree(world.root / "tree", files))

    for row in interleaved(world, _with(NOW, policy=Policy(keep_last=2)), commits):
        assert (row.error, row.dangling) == ("", ())
        found = {entry.label: contents(world.store, entry) for entry in world.head.live}
        assert found["4"] == files
        assert found["3"] == THIRD


def test_a_collection_at_any_moment_of_a_restore(world: World) -> None:
    """It re-packs and sweeps; what the restore has read of the manifest stays true under its hold."""
    options = Options(grace_seconds=0, keep_trash_seconds=0)
    world.take({"c": FIRST["c"]})
    delete(world.store, PIPELINE, {"1", "2", "3"})
    for _ in range(3):
        world.good(_with(options, repack=False), later=30 * HOUR)
    kept = Kept(world)
    repacked = []

    def restores(store: Store) -> None:
        target = world.root / "restored"
        shutil.rmtree(target, ignore_errors=True)
        restore(store, resolve(store, "orders@4"), target)
        assert {path.name: path.read_bytes() for path in target.iterdir()} == {"c": FIRST["c"]}

    def collects() -> None:
        repacked.append(sum(world.good(options, later=2 * HOUR).repacked_packs for _ in range(2)))

    counting = FaultyBackend(world.store.backend)
    restores(behind(world.store, counting, world.store.ambient))
    for decide in everywhere(len(counting.calls), collects):
        kept.put_back()
        restores(behind(world.store, FaultyBackend(world.store.backend, decide), world.store.ambient))
    assert set(repacked) == {0, 1}


def test_a_session_that_began_before_any_moment_of_a_collection_commits_after_it(world: World) -> None:
    """It has found, and means to name, what is expired, dropped and swept meanwhile."""
    world.good(LAST, later=HOUR)
    kept = Kept(world)
    for pause in ("plan", "commit"):
        kept.put_back()
        writer = opened(world.store)
        session = Session(world.store, PIPELINE, writer.attempt, writer.owner)
        collections = iter([lambda: [world.good(NOW, later=30 * HOUR) for _ in range(2)]])
        if pause == "plan":
            next(collections)()
        plan = Plan(FIRST | {"e": noise(9000, 8)}, then=lambda _, turn=collections: next(turn, lambda: None)())  # type: ignore[misc]  # the default binds this turn's
        entry = session.commit(plan)
        assert contents(world.store, entry) == FIRST | {"e": noise(9000, 8)}
        world.good(NOW)
        assert contents(world.store, entry_of(world.store, entry.label)) == FIRST | {"e": noise(9000, 8)}


def test_a_zombie_that_wakes_after_collections_is_fenced_or_commits_whole(world: World) -> None:
    writer = opened(world.store)
    zombie = Session(world.store, PIPELINE, writer.attempt, writer.owner)
    opened(world.store)
    for _ in range(3):
        world.good(NOW, later=DAY)
    with pytest.raises(FencedError):
        zombie.commit(Plan(FIRST))
    check_roots(world.store)


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REPLY_LOST, Fault.LATE, Fault.TWICE])
def test_a_fault_of_any_swap_or_delete_changes_nothing_in_the_end(world: World, fault: Fault) -> None:
    world.take({"c": FIRST["c"]})
    kept = Kept(world)
    for verb in ("swap", "delete"):
        for number in range(4):
            kept.put_back()
            faulty = FaultyBackend(world.store.backend, script(verb, [*[None] * number, fault]))
            collect(behind(world.store, faulty, world.store.ambient), [PIPELINE], NOW)
            check_roots(world.store)
            faulty.deliver()
            world.good(NOW)
            faulty.deliver()
            world.good(NOW)
            assert contents(world.store, entry_of(world.store, 4)) == {"c": FIRST["c"]}
            assert names(world.store) == needed(world.store)


# What goes wrong.


def test_one_bad_pipeline_does_not_keep_the_others_from_it(world: World) -> None:
    bad, lost, newborn = PipelineId("bad"), PipelineId("lost"), PipelineId("newborn")
    for pipeline in (bad, lost):
        world.take(FIRST, SECOND, pipeline=pipeline)
    flip(world.store.backend, manifest_name(world.store, "bad@1"), 30)
    world.store.backend.delete([layout.head(lost)])
    world.store.backend.create(layout.pin(newborn, "a" * 32, 1), b"{}")
    everything = names(world.store, bad) | names(world.store, lost)
    assert [*pipelines_to_collect(world.store)] == [bad, lost, PIPELINE]
    world.clock.seconds += 7 * HOUR
    run = collect(world.store, pipelines_to_collect(world.store), _with(NOW, keep_trash_seconds=DAY))
    rows = {row.pipeline: row for row in run.pipelines}
    assert {name: (row.error, row.exit_code) for name, row in rows.items()} == {
        "bad": ("corrupt", 13),
        "lost": ("corrupt", 13),
        "orders": ("", 0),
    }
    assert all("nothing was deleted" in rows[name].message for name in ("bad", "lost"))
    assert "never put an old HEAD back" in rows["lost"].hint
    assert names(world.store, bad) | names(world.store, lost) == everything
    assert len(rows["orders"].expired) == 2
    text = render(gc_metrics(run, 1.5e9))
    assert 'eoctl_gc_success{pipeline="bad"} 0' in text
    assert 'eoctl_gc_success{pipeline="orders"} 1' in text
    assert 'eoctl_gc_live_bytes{pipeline="bad"}' not in text
    assert "eoctl_gc_finished_time_seconds 1500000000" in text


def test_what_is_missing_is_told_and_garbage_goes_all_the_same(world: World) -> None:
    lost = next(name for name in sorted(needed(world.store)) if "/o/" in name)
    overwrite(world.store.backend, Key(lost), None)
    put_garbage(world, 1)
    row = world.run(Options(), later=7 * HOUR)
    assert [each.key for each in row.dangling] == [lost]
    assert row.deleted_blobs == 1
    assert 'eoctl_gc_success{pipeline="orders"} 0' in render(gc_metrics(GcRun(dry_run=False, pipelines=(row,)), 0.0))


def test_where_packs_cannot_be_looked_at_the_sweep_stands_and_it_is_told(world: World) -> None:
    world.take({"z.db": noise(MIB + 70_000, 30)})
    place = file_at(world.store, "orders@4", "z.db").place
    assert isinstance(place, Blocks)
    table = place.tables[0].place
    assert isinstance(table, Slice)
    name = layout.blob(PIPELINE, BlobKey.parse(table.pack))
    flip(world.store.backend, name, table.offset + 20)
    put_garbage(world, 1)
    row = world.run(Options(), later=7 * HOUR)
    assert (row.error, row.exit_code, row.deleted_blobs) == ("corrupt", 13, 1)
    assert row.message.startswith("nothing was re-packed: a block table cannot be used")
    assert row.advanced
    assert [*world.store.backend.list(layout.backups(PIPELINE))] != []


def test_a_session_of_repacking_that_cannot_keep_up_is_only_noted(world: World) -> None:
    world.take({"c": FIRST["c"]})
    for _ in range(2):
        world.good(_with(LAST, repack=False), later=30 * HOUR)

    def decide(call: Call) -> Meanwhile | None:
        if call.verb == "create" and "/m/" in call.key:
            return Meanwhile(before=lambda: edit(world.store, "orders", partial(raise_era, floor=True)))
        return None

    faulty = FaultyBackend(world.store.backend, decide)
    (row,) = collect(behind(world.store, faulty, world.store.ambient), [PIPELINE], LAST).pipelines
    assert (row.error, row.exit_code) == ("", 0)
    assert row.notes[0].startswith("nothing was re-packed this time: the session could not keep up with gc")
    assert world.good().repacked_packs == 1


def test_a_destroyed_pipeline_is_swept_and_nothing_else(world: World) -> None:
    edit(world.store, "orders", destroy)
    seq = world.head.seq
    row = world.good(_with(NOW, policy=Policy(keep_last=1)))
    assert (row.deleted_blobs, row.live_blobs, row.expired, row.advanced) == (row.garbage_blobs, 0, (), False)
    assert names(world.store) == set()
    assert world.head.seq == seq


@pytest.mark.parametrize("options", [NOW, _with(NOW, dry_run=True)], ids=["run", "dry run"])
def test_a_pipeline_that_is_destroyed_at_any_moment_of_a_collection(world: World, options: Options) -> None:
    for row in interleaved(world, options, lambda: edit(world.store, "orders", destroy)):
        assert (row.error, row.dangling) == ("", ()), row


@pytest.mark.usefixtures("low_breaker")
def test_the_breaker_is_not_for_a_destroyed_pipeline(world: World) -> None:
    put_garbage(world, 50)
    edit(world.store, "orders", destroy)
    assert world.good(Options()).deleted_blobs >= 50


# Copies of HEAD.


def test_each_run_that_advances_keeps_a_copy_of_head_as_it_then_is(world: World) -> None:
    world.take({"c": FIRST["c"]})
    rows = [world.good(later=30 * HOUR) for _ in range(2)]
    assert [row.repacked_packs for row in rows] == [0, 1]
    newest = decode_head(value_of(world.store.backend, layout.backup(PIPELINE, world.head.era)))
    assert newest == world.head
    kept = service.KEEP_BACKUPS
    for _ in range(kept):
        world.good(Options(grace_seconds=0))
    found = [layout.parse_backup(each.key) for each in world.store.backend.list(layout.backups(PIPELINE))]
    assert sorted(filter(None, found)) == [*range(world.head.era - 2 * kept + 2, world.head.era + 1, 2)]


def test_a_copy_that_cannot_be_kept_is_noted(world: World) -> None:
    faulty = FaultyBackend(world.store.backend, script("create", [Fault.DENIED]))
    world.clock.seconds += 7 * HOUR
    (row,) = collect(behind(world.store, faulty, world.store.ambient), [PIPELINE], Options()).pipelines
    assert (row.error, row.notes[0].startswith("no copy of HEAD was kept: ")) == ("", True)


def test_unfinished_writes_that_cannot_be_listed_are_noted(tmp_path: Path) -> None:
    world = world_of(local_store(tmp_path), tmp_path)
    world.take(FIRST)

    def decide(call: Call) -> Fault | None:
        return Fault.DENIED if call.verb == "list" and call.key == "p" else None

    run = collect(
        behind(world.store, FaultyBackend(world.store.backend, decide), world.store.ambient), [PIPELINE], LAST
    )
    assert run.notes[0].startswith("unfinished writes are still there: ")
    assert run.pipelines[0].error == ""


# Manifests kept on this host.


class Opens(CountingBackend):
    """Which manifests were opened."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.manifests: list[str] = []

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        if "/m/" in key.path:
            self.manifests.append(key.path.rpartition("/")[2])
        return super().open(key, start, length)


def elsewhere(store: Store, opens: Opens) -> Store:
    place = Place(
        url="s3:", backend=opens, scratch=store.place.scratch, make_folders=store.place.make_folders, remote=True
    )
    return Store(place=place, record=store.record, ambient=store.ambient)


def opened_by(world: World, options: Options) -> list[str]:
    opens = Opens(world.store.backend)
    (row,) = collect(elsewhere(world.store, opens), [PIPELINE], options).pipelines
    assert row.error == "", row
    check_roots(world.store)
    return opens.manifests


def test_a_warm_run_opens_only_manifests_that_are_new(world: World) -> None:
    options = Options(cache=world.root / "cache")
    assert sorted(opened_by(world, options)) == sorted(entry.manifest for entry in world.head.live)
    assert opened_by(world, options) == []
    world.take(FIRST)
    assert opened_by(world, options) == [world.head.live[-1].manifest]
    assert opened_by(world, Options()) != []
    folder = world.root / "cache" / world.store.record.id / "orders"
    assert {path.name for path in folder.iterdir()} == {entry.manifest for entry in world.head.live}
    assert opened_by(world, _with(NOW, cache=options.cache, repack=False)) == []
    assert {path.name for path in folder.iterdir()} == {entry.manifest for entry in roots(world.head)}
    assert len(world.head.live) == 1


def test_wrong_files_in_the_cache_cost_a_read_and_nothing_else(world: World) -> None:
    options = Options(cache=world.root / "cache")
    opened_by(world, options)
    first, second, third = sorted((world.root / "cache").rglob("*.1"))
    good = first.read_bytes()
    first.write_bytes(good[:-1])
    second.write_bytes(b"")
    third.unlink()
    third.mkdir()
    put_garbage(world, 1)
    world.clock.seconds += 7 * HOUR
    before = names(world.store)
    assert sorted(opened_by(world, options)) == sorted([first.name, second.name, third.name])
    assert len(before - names(world.store)) == 1
    assert first.read_bytes() == good


def test_a_cache_that_cannot_be_written_is_none(world: World) -> None:
    (world.root / "cache").write_bytes(b"a file")
    assert len(opened_by(world, Options(cache=world.root / "cache"))) == 3


def test_a_damaged_manifest_is_found_unless_it_is_kept_here(world: World) -> None:
    """With the right bytes at hand nothing can be deleted wrongly; verify finds the damage."""
    cached = CachedStore.of(world.store, world.root / "cache")
    entry = world.head.live[0]
    flip(world.store.backend, manifest_name(world.store, "orders@1"), 30)
    with pytest.raises(CorruptError):
        cached.manifest_keys(world.head, entry)
    flip(world.store.backend, manifest_name(world.store, "orders@1"), 30)
    cached.manifest_keys(world.head, entry)
    flip(world.store.backend, manifest_name(world.store, "orders@1"), 30)
    assert cached.manifest(world.head, entry).id == 1


def test_a_store_on_this_disk_needs_no_cache(world: World) -> None:
    world.good(Options(cache=world.root / "cache"))
    assert not (world.root / "cache").exists()


# Whatever happens, in whatever order.


class Watched:
    """The place itself: every delete is held against the delete rule at the moment it arrives."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.store: Store | None = None

    def stat(self, key: Key) -> Found | None:
        return self.inner.stat(key)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self.inner.open(key, start, length)

    def create(self, key: Key, body: Body) -> bool:
        return self.inner.create(key, body)

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.inner.swap(key, body, expected)

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return self.inner.list(prefix, reach=reach)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        gone = {str(key) for key in wanted if isinstance(key, Key) and ("/o/" in key.path or "/m/" in key.path)}
        if gone:
            assert self.store is not None
            floor = self.store.head(PIPELINE).head.floor
            assert all(int(name.rpartition(".")[2]) < floor for name in gone)
            assert not gone & needed(self.store)
        self.inner.delete(wanted)


STEPS = ["take", "take", "gc", "gc now", "repack", "delete", "undelete", "hold", "release", "session", "commit"]


class Life:
    """What may happen to a pipeline, in any order, each at any call of another."""

    def __init__(self, root: Path, seed: int) -> None:
        memory = memory_store(root)
        self.watched = Watched(memory.backend)
        self.world = world_of(behind(memory, self.watched), root)
        self.watched.store = self.world.store
        self.rng = random.Random(seed)
        self.taken: dict[str, dict[str, bytes]] = {}
        self.sessions: list[tuple[Session, dict[str, bytes]]] = []

    def files(self) -> dict[str, bytes]:
        return {f"f{name}": noise(self.rng.choice([0, 100, 5000, 9000]), self.rng.randint(0, 5)) for name in range(12)}

    def act(self, what: str, store: Store) -> None:
        getattr(self, what.replace(" ", "_"))(store, store.head(PIPELINE).head)

    def take(self, store: Store, _: Head) -> None:
        files = self.files()
        tree = write_tree(self.world.root / f"tree-{self.rng.random()}", files)
        self.taken[str(checkpoint_tree(opened(store), tree).snapshot.id)] = files

    def gc(self, store: Store, _: Head, options: Options | None = None) -> None:
        keep = Policy(keep_last=self.rng.randint(1, 3))
        options = options or Options(policy=keep, keep_trash_seconds=self.rng.choice([0, DAY]))
        (row,) = collect(store, [PIPELINE], options).pipelines
        assert (row.error, row.dangling) == ("", ()), row

    def gc_now(self, store: Store, head: Head) -> None:
        self.gc(store, head, NOW)

    def repack(self, store: Store, head: Head) -> None:
        self.gc(store, head, Options(grace_seconds=0))

    def delete(self, store: Store, head: Head) -> None:
        if head.live:
            delete(store, PIPELINE, {self.rng.choice(head.live).label})

    def undelete(self, store: Store, head: Head) -> None:
        if head.trash:
            undelete(store, PIPELINE, head.trash[0].entry.label)

    def hold(self, store: Store, head: Head) -> None:
        if head.live:
            hold(store, resolve(store, f"orders@{head.live[0].label}"), "audit", self.rng.choice([None, HOUR]))

    def release(self, store: Store, head: Head) -> None:
        if head.holds:
            release(store, head.holds[0].id)

    def session(self, store: Store, _: Head) -> None:
        writer = opened(store)
        self.sessions.append((Session(self.world.store, PIPELINE, writer.attempt, writer.owner), self.files()))

    def commit(self, _: Store, __: Head) -> None:
        """However long ago the session began."""
        if self.sessions:
            session, files = self.sessions.pop()
            self.taken[session.commit(Plan(files)).label] = files

    def check(self) -> None:
        head = check_roots(self.world.store)
        for root in roots(head):
            assert contents(self.world.store, root) == self.taken[root.label]


def quietly(work: Callable[[], object]) -> None:
    """Others may fence it, or hold or drop what it means."""
    with contextlib.suppress(ConflictError, SnapshotNotFoundError, UsageError):
        work()


@pytest.mark.thorough
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(STEPS), st.integers(0, 40)), max_size=12),
)
def test_nothing_that_any_later_head_needs_is_ever_deleted(
    tmp_path: Path, seed: int, steps: list[tuple[str, str, int]]
) -> None:
    life = Life(tmp_path, seed)
    world = life.world
    life.take(world.store, None)  # type: ignore[arg-type]  # there is no HEAD yet
    for what, meanwhile, number in steps:
        world.clock.seconds += life.rng.choice([0, HOUR, 7 * HOUR, 30 * HOUR])
        turn = iter([partial(quietly, partial(life.act, meanwhile, world.store))])
        faulty = FaultyBackend(
            life.watched,
            lambda call, turn=turn, number=number: (  # type: ignore[misc]  # the defaults bind this turn's
                Meanwhile(before=next(turn, lambda: None)) if call.number >= number else None
            ),
        )
        quietly(partial(life.act, what, behind(world.store, faulty, world.store.ambient)))
        life.check()
    for _ in range(2):
        world.good(NOW, later=30 * HOUR)
    floor = world.head.floor
    left = {name for name in names(world.store) - needed(world.store) if int(name.rpartition(".")[2]) < floor}
    assert left == set(), "two runs leave no garbage below the floor"
