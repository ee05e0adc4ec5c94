"""gc and destruction killed at every backend call: all roots are whole, and the next run finishes the job."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest

from eoctl.services.destroy import destroy
from eoctl.services.gc import Options, collect
from eoctl.services.retention import Policy
from formats.errors import SnapshotNotFoundError
from formats.head import roots
from formats.ids import BlobKey, HashAlgorithm
from formats.manifest import blobs
from storage import layout
from storage.backend import Found, Key, Reach
from storage.edits import expire
from storage.head import Ambient
from storage.store import Store, init_store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.places import PIPELINE, behind, check_roots, checkpoint_tree, opened, stored_keys, write_tree
from tests.support.stores import noise
from tests.unit.test_crash_sweep import HISTORY, SECOND, World, check, edit

pytestmark = pytest.mark.thorough

DAY = 86_400
KEEP_LAST = Options(policy=Policy(keep_last=1))
AT_ONCE = msgspec.structs.replace(KEEP_LAST, grace_seconds=0, keep_trash_seconds=0)
THIRD = {"packed": SECOND["packed"], "blocks.db": SECOND["blocks.db"]}  # hardly anything of what lies in packs


@pytest.fixture(params=["memory", "local"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """Two checkpoints, and one in whose packs there is much room."""
    world = World(tmp_path, request.param)
    store = init_store(world.place(), HashAlgorithm.BLAKE3, FakeAmbient().ambient())
    room = {f"room{number}": noise(15_000, 50 + number) for number in range(6)}
    for files in (*(files | room for files in HISTORY.values()), THIRD):
        checkpoint_tree(opened(store), write_tree(world.tree, files))
    world.keep()
    return world


def some_time_later(store: Store, days: float) -> Store:
    return behind(store, store.backend, later(store, days))


def later(store: Store, days: float) -> Ambient:
    """The same process on another day."""
    return msgspec.structs.replace(store.ambient, now=lambda: time_text(days * DAY))


def gc(store: Store, options: Options, days: float) -> None:
    run = collect(some_time_later(store, days), [PIPELINE], options)
    (row,) = run.pipelines
    assert (row.error, row.stopped, row.dangling, run.notes) == ("", "", (), ()), run


def needed(store: Store) -> dict[str, set[BlobKey]]:
    head = store.head(PIPELINE).head
    named = [blobs(store.manifest(head, root)).keys() for root in roots(head)]
    return {"o": set().union(*named), "m": {BlobKey.parse(root.manifest) for root in roots(head)}}


def finished(store: Store, where: str) -> None:
    """Nothing is left but what the last snapshot needs."""
    assert [root.label for root in roots(check(store, {"3": THIRD}, where))] == ["3"], where
    assert {kind: set(keys) for kind, keys in stored_keys(store).items()} == needed(store), where
    assert [*store.backend.list(Key("p"), reach=Reach.UNFINISHED)] == [], where


def test_a_gc_that_expires_advances_sweeps_and_repacks_killed_anywhere_is_finished_by_the_next(world: World) -> None:
    swept = 0
    for where in world.crashes_of(partial(gc, options=AT_ONCE, days=3)):
        store = world.store()
        head = check(store, {"3": THIRD}, where)
        swept += "delete" in where
        era = head.era
        gc(store, AT_ONCE, 9)
        gc(store, AT_ONCE, 12)
        finished(store, where)
        assert store.head(PIPELINE).head.era > era
        copies = [found for found in store.backend.list(layout.backups(PIPELINE)) if isinstance(found, Found)]
        assert copies, where
    assert swept >= 4


def test_each_stage_of_a_slow_gc_killed_anywhere_is_finished_by_the_next(world: World) -> None:
    """One run to expire, one to meet the trash, one to drop it and sweep, one to re-pack, one to sweep again."""
    world.put_back()
    for day in (1.0, 2.0, 3.0, 4.0, 5.0):
        world.keep()
        for where in world.crashes_of(partial(gc, options=KEEP_LAST, days=day)):
            store = world.store()
            check(store, {"3": THIRD}, f"day {day}, {where}")
            for other in (day + 1, day + 2, day + 3, day + 4):
                gc(store, KEEP_LAST, other)
            finished(store, where)
        world.put_back()
        gc(world.store(), KEEP_LAST, day)
    finished(world.store(), "no crash")


def test_a_checkpoint_after_a_gc_that_was_killed_anywhere(world: World) -> None:
    files = HISTORY["1"]
    for where in world.crashes_of(partial(gc, options=AT_ONCE, days=3)):
        store = world.store()
        created = checkpoint_tree(opened(store), write_tree(world.tree, files))
        check(store, {"3": THIRD, str(created.snapshot.id): files}, where)
        gc(store, AT_ONCE, 9)
        check(store, {str(created.snapshot.id): files}, where)


def test_a_dry_run_killed_anywhere_has_changed_nothing(world: World) -> None:
    world.put_back()
    before = world.store().head(PIPELINE), stored_keys(world.store())
    for where in world.crashes_of(partial(gc, options=msgspec.structs.replace(AT_ONCE, dry_run=True), days=3)):
        assert (world.store().head(PIPELINE), stored_keys(world.store())) == before, where


def test_a_destruction_killed_anywhere_was_begun_or_not_and_is_finished_by_the_next(world: World) -> None:
    world.put_back()
    edit(world.store(), partial(expire, labels=frozenset({"1"}), now=time_text(1)))
    world.keep()
    states = set()
    for where in world.crashes_of(lambda store: destroy(store, PIPELINE)):
        store = world.store()
        head = check_roots(store)
        states.add(head.state)
        if head.state == "active":
            check(store, {"3": THIRD}, where)
            assert [root.label for root in roots(head)] == ["2", "3", "1"], where
        else:
            assert [*roots(head)] == [], where
            with pytest.raises(SnapshotNotFoundError, match="was destroyed"):
                opened(store)
        done = destroy(store, PIPELINE)
        assert done.destroyed == (head.state == "active"), where
        assert stored_keys(store) == {"o": [], "m": []}, where
        assert store.head(PIPELINE).head.state == "destroyed"
        assert destroy(store, PIPELINE).blobs == 0
    assert states == {"active", "destroyed"}


def test_gc_finishes_a_destruction_that_was_killed(world: World) -> None:
    for where in world.crashes_of(lambda store: destroy(store, PIPELINE)):
        store = world.store()
        if store.head(PIPELINE).head.state == "destroyed":
            gc(store, KEEP_LAST, 9)
            assert stored_keys(store) == {"o": [], "m": []}, where
