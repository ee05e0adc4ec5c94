"""Killed after every single backend call: what is left is a store that opens, lists, verifies and goes on.

Each operation is run once without a fault, to know how many calls it makes; then once for every call, dying just
before the call has its effect and just after.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from formats.errors import ConflictError
from formats.head import Head, roots
from formats.ids import HashAlgorithm, TxId
from storage.backend import Backend, Place
from storage.backends.memory import MemoryBackend
from storage.edits import expire, hold, release, tag, undelete
from storage.head import swap_head
from storage.store import Store, init_store, open_store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.faulty import Crash, Fault, FaultyBackend, at
from tests.support.places import (
    PIPELINE,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    local_place,
    memory_place,
    opened,
    write_tree,
)
from tests.support.stores import noise
from tests.support.sweeper import Sweeper

pytestmark = pytest.mark.thorough

FIRST = {
    "inline": b"a few bytes",
    "packed": noise(20_000, 1),
    "twin": noise(20_000, 1),
    "whole.sst": noise((1 << 20) + 3, 2),
    "blocks.db": noise((1 << 20) + 70_000, 3),
}
SECOND = FIRST | {
    "packed": noise(20_000, 4),
    "new.sst": noise((1 << 20) + 3, 5),
    "blocks.db": FIRST["blocks.db"][:-1] + b"!",
}
THIRD = SECOND | {"blocks.db": b"!" + SECOND["blocks.db"][1:], "more": noise(30_000, 6)}
del THIRD["twin"]
HISTORY = {"1": FIRST, "2": SECOND}

Run = Callable[[Store], object]


class World:
    """A store that can be put back to how it was."""

    def __init__(self, tmp_path: Path, kind: str) -> None:
        self.tree = tmp_path / "tree"
        self._kind = kind
        self._root = tmp_path / "store"
        self._kept = tmp_path / "kept"
        self._processes = iter(range(2, 10**6))
        self._place = memory_place(self._root / "tmp") if kind == "memory" else local_place(self._root)

    def keep(self) -> None:
        """As it is now, it will be again."""
        if isinstance(self._place.backend, MemoryBackend):
            self._values = dict(self._place.backend._values)
        else:
            shutil.rmtree(self._kept, ignore_errors=True)
            if self._root.exists():
                shutil.copytree(self._root, self._kept)

    def put_back(self) -> None:
        if isinstance(self._place.backend, MemoryBackend):
            self._place = memory_place(self._root / "tmp")
            assert isinstance(self._place.backend, MemoryBackend)
            self._place.backend._values.update(self._values)
        else:
            shutil.rmtree(self._root, ignore_errors=True)
            if self._kept.exists():
                shutil.copytree(self._kept, self._root)
            self._place = local_place(self._root)

    def place(self, backend: Backend | None = None) -> Place:
        """As a process that starts now sees it, perhaps through another backend."""
        place = self._place if self._kind == "memory" else local_place(self._root, f"process{next(self._processes)}")
        return Place(
            url=place.url, backend=backend or place.backend, scratch=place.scratch, make_folders=place.make_folders
        )

    def store(self) -> Store:
        return open_store(self.place(), FakeAmbient(next(self._processes)).ambient())

    def crashes(self, run: Callable[[Place], object]) -> Iterator[str]:
        """Runs it with a crash at every place, each time from the state that was kept; says where."""
        self.put_back()
        faulty = FaultyBackend(self.place().backend)
        run(self.place(faulty))
        count = len(faulty.calls)
        assert count > 0
        for number in range(count):
            for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
                self.put_back()
                faulty = FaultyBackend(self.place().backend, at(number, fault))
                with pytest.raises(Crash):
                    run(self.place(faulty))
                yield f"{fault} of call {number} of {count}, {faulty.calls[-1]}"

    def crashes_of(self, run: Run) -> Iterator[str]:
        """The same, of something done to an open store."""
        process = next(self._processes)

        def opened_first(place: Place) -> None:
            faulty = place.backend
            assert isinstance(faulty, FaultyBackend)
            store = open_store(
                Place(url=place.url, backend=faulty.inner, scratch=place.scratch, make_folders=place.make_folders),
                FakeAmbient(process).ambient(),
            )
            run(behind(store, faulty))

        return self.crashes(opened_first)


@pytest.fixture(params=["memory", "local"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path, request.param)


@pytest.fixture
def lived_in(world: World) -> World:
    """A store of two checkpoints, and a tree that has changed since."""
    store = init_store(world.place(), HashAlgorithm.BLAKE3, FakeAmbient().ambient())
    for files in HISTORY.values():
        checkpoint_tree(opened(store), write_tree(world.tree, files))
    write_tree(world.tree, THIRD)
    world.keep()
    return world


def edit(store: Store, change: Callable[[Head], Head]) -> Head:
    current = store.head(PIPELINE)
    txid = TxId(store.ambient.new_id())
    return swap_head(store.backend, current, change, store.ambient, txid=txid, attempt=None).head


def check(store: Store, expected: dict[str, dict[str, bytes]], where: str) -> Head:
    """The store lists, all its roots are whole, and those expected are among them with their contents."""
    assert [*store.pipelines()] == [PIPELINE], where
    head = check_roots(store)
    for label, files in expected.items():
        assert contents(store, entry_of(store, label)) == files, where
    return head


def test_a_checkpoint_killed_anywhere_is_there_whole_or_not_at_all_and_is_taken_once(lived_in: World) -> None:
    def create(store: Store) -> None:
        checkpoint_tree(opened(store), lived_in.tree, as_id=3)

    for where in lived_in.crashes_of(create):
        store = lived_in.store()
        head = check(store, HISTORY, where)
        labels = [entry.label for entry in head.live]
        assert labels in (["1", "2"], ["1", "2", "3"]), where
        create(lived_in.store())
        head = check(store, HISTORY | {"3": THIRD}, where)
        assert [entry.label for entry in head.live] == ["1", "2", "3"], where


def test_what_a_killed_checkpoint_left_behind_is_garbage_and_nothing_else_is(lived_in: World) -> None:
    for where in lived_in.crashes_of(lambda store: checkpoint_tree(opened(store), lived_in.tree)):
        store = lived_in.store()
        labels = [entry.label for entry in check(store, HISTORY, where).live]
        sweeper = Sweeper(store)
        for _ in range(2):
            sweeper.advance()
            sweeper.sweep()
        assert [entry.label for entry in check(store, HISTORY, where).live] == labels, where
        assert sweeper.sweep() == set(), where
        created = checkpoint_tree(opened(store), lived_in.tree)
        check(store, HISTORY | {str(created.snapshot.id): THIRD}, where)


def test_a_first_checkpoint_killed_anywhere_leaves_a_pipeline_or_none(world: World) -> None:
    init_store(world.place(), HashAlgorithm.BLAKE3, FakeAmbient().ambient())
    world.keep()
    write_tree(world.tree, {"inline": b"1", "packed": noise(9000)})
    files = {"inline": b"1", "packed": noise(9000)}

    def create(store: Store) -> None:
        checkpoint_tree(opened(store), world.tree, as_id=1)

    for where in world.crashes_of(create):
        store = world.store()
        for pipeline in store.pipelines():
            check_roots(store, pipeline)
        create(world.store())
        head = check(store, {"1": files}, where)
        assert [entry.label for entry in head.live] == ["1"], where


def test_an_init_killed_anywhere_leaves_a_store_or_none(world: World) -> None:
    world.keep()
    for where in world.crashes(lambda place: init_store(place, HashAlgorithm.SHA256, FakeAmbient().ambient())):
        try:
            init_store(world.place(), HashAlgorithm.SHA256, FakeAmbient(2).ambient())
        except ConflictError:
            assert "after" in where
        assert [*world.store().pipelines()] == [], where
        assert world.store().hash is HashAlgorithm.SHA256


EDITS: dict[str, tuple[Callable[[Head], Head], Callable[[Head], bool]]] = {
    "expire": (
        partial(expire, labels=frozenset({"1"}), now=time_text(9)),
        lambda head: [trashed.entry.label for trashed in head.trash] == ["1"],
    ),
    "hold": (
        partial(hold, label="2", hold_id="e" * 32, reason="restore", now=time_text(9), expires_at=time_text(99)),
        lambda head: [held.id for held in head.holds] == ["d" * 32, "e" * 32],
    ),
    "release": (partial(release, hold_ids=frozenset({"d" * 32})), lambda head: head.holds == ()),
    "tag": (
        partial(tag, label="2", add=frozenset({"good"}), remove=frozenset()),
        lambda head: head.live[-1].tags == ("good",),
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_killed_anywhere_was_done_or_not_and_can_be_done_again(lived_in: World, name) -> None:
    lived_in.put_back()
    edit(
        lived_in.store(),
        partial(hold, label="1", hold_id="d" * 32, reason="audit", now=time_text(1), expires_at=time_text(99)),
    )
    lived_in.keep()
    change, done = EDITS[name]
    outcomes = set()
    for where in lived_in.crashes_of(lambda store: edit(store, change)):
        store = lived_in.store()
        before = check(store, HISTORY, where)
        outcomes.add(done(before))
        after = edit(lived_in.store(), change)
        assert done(after), where
        assert {root.manifest for root in roots(after)} == {root.manifest for root in roots(before)}, where
        check(store, HISTORY, where)
    assert outcomes == {True, False}


def test_a_hold_killed_anywhere_keeps_what_it_holds_through_expiry_and_gc(lived_in: World) -> None:
    keep = partial(hold, label="1", hold_id="d" * 32, reason="restore", now=time_text(1), expires_at=time_text(99))

    def hold_then_release(store: Store) -> None:
        edit(store, keep)
        edit(store, partial(release, hold_ids=frozenset({"d" * 32})))

    for where in lived_in.crashes_of(hold_then_release):
        store = lived_in.store()
        check(store, HISTORY, where)
        edit(store, keep)
        sweeper = Sweeper(store)
        sweeper.expire("1")
        for _ in range(2):
            sweeper.advance()
            sweeper.sweep()
        head = check(store, HISTORY, where)
        assert [entry.label for entry in head.live] == ["2"], where
        edit(store, partial(release, hold_ids=frozenset({"d" * 32})))
        sweeper.advance()
        assert sweeper.sweep() != set(), where
        check(store, {"2": SECOND}, where)


def test_an_undelete_killed_anywhere_brings_the_entry_back_once(lived_in: World) -> None:
    lived_in.put_back()
    edit(lived_in.store(), partial(expire, labels=frozenset({"1"}), now=time_text(1)))
    lived_in.keep()
    for where in lived_in.crashes_of(lambda store: edit(store, partial(undelete, label="1"))):
        store = lived_in.store()
        check(store, HISTORY, where)
        edit(store, partial(undelete, label="1"))
        assert [entry.label for entry in check(store, HISTORY, where).live] == ["1", "2"], where


def test_gc_killed_anywhere_leaves_only_garbage(lived_in: World) -> None:
    lived_in.put_back()
    edit(lived_in.store(), partial(expire, labels=frozenset({"1"}), now=time_text(1)))
    lived_in.keep()

    def collect(store: Store) -> None:
        sweeper = Sweeper(store)
        sweeper.advance()
        sweeper.advance()
        sweeper.sweep()

    for where in lived_in.crashes_of(collect):
        store = lived_in.store()
        check(store, {"2": SECOND}, where)
        collect(store)
        check(store, {"2": SECOND}, where)
        checkpoint_tree(opened(store), lived_in.tree)
        check(store, {"2": SECOND, "3": THIRD}, where)
