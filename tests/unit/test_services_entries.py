"""Edits of HEAD: tags, holds, the trash; and what a deletion says that it will free."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from eoctl.services.entries import delete, hold, release, tag, undelete
from eoctl.services.explain import explain
from formats.errors import BadNameError, ConflictError, SnapshotNotFoundError, UsageError
from formats.ids import BlobKey, PipelineId
from formats.manifest import blobs
from storage import edits
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.faulty import Fault, FaultyBackend, script
from tests.support.places import behind
from tests.support.stores import (
    at,
    checkpoint,
    edit,
    flip,
    manifest_at,
    manifest_name,
    new_store,
    three_checkpoints,
)

ORDERS = PipelineId("orders")


@pytest.fixture
def world() -> FakeAmbient:
    return FakeAmbient()


@pytest.fixture
def store(tmp_path: Path, world: FakeAmbient) -> Store:
    store = new_store(tmp_path, world=world)
    three_checkpoints(store)
    return store


def status(store: Store, label: str) -> str:
    head = store.head(ORDERS).head
    if any(entry.label == label for entry in head.live):
        return "live"
    return "trash" if any(trashed.entry.label == label for trashed in head.trash) else "gone"


def test_tags_are_added_and_removed(store: Store) -> None:
    first = tag(store, at(store, "orders@1"), ["release-7", "good"], [])
    assert (first.snapshot.tags, first.changed) == (("good", "release-7"), True)
    second = tag(store, at(store, "orders@1"), ["good"], ["release-7", "never-there"])
    assert (second.snapshot.tags, second.changed) == (("good",), True)
    assert not tag(store, at(store, "orders@1"), ["good"], []).changed


def test_a_bad_tag_changes_nothing(store: Store) -> None:
    before = store.head(ORDERS)
    with pytest.raises(BadNameError):
        tag(store, at(store, "orders@1"), ["with space"], [])
    with pytest.raises(UsageError, match="to add and to remove: a"):
        tag(store, at(store, "orders@1"), ["a"], ["a"])
    assert store.head(ORDERS) == before


def test_only_a_live_snapshot_takes_tags(store: Store) -> None:
    delete(store, ORDERS, {"1"})
    with pytest.raises(SnapshotNotFoundError):
        tag(store, at(store, "orders@1"), ["a"], [])


def test_a_hold_without_an_end_forbids_deleting(store: Store) -> None:
    row = hold(store, at(store, "orders@1"), "audit 2026")
    assert (row.snapshot, row.reason, row.expires_at) == ("orders@1", "audit 2026", None)
    with pytest.raises(ConflictError, match="hold without an end"):
        delete(store, ORDERS, {"1"})
    released = release(store, at(store, "orders@1"))
    assert (released.pipeline, released.released) == ("orders", (row,))
    assert delete(store, ORDERS, {"1"}).entries[0].changed


def test_a_hold_ends_when_it_was_told_to(store: Store) -> None:
    row = hold(store, at(store, "orders@1"), "restore", 3600)
    created = row.created_at
    assert row.expires_at == created.replace("T00:", "T01:")
    for seconds in (0, -1, 10**12):
        with pytest.raises(UsageError, match="cannot last"):
            hold(store, at(store, "orders@1"), "restore", seconds)
    for reason in ("", "  ", "x" * 5000):
        with pytest.raises(UsageError, match="needs a reason"):
            hold(store, at(store, "orders@1"), reason)


def test_a_hold_is_released_by_the_first_digits_of_its_id(store: Store) -> None:
    checkpoint(store, "other", {"a": b"1"})
    first, second = (hold(store, at(store, "orders@1"), f"reason {number}") for number in (1, 2))
    common = first.id[:8]
    with pytest.raises(UsageError, match="2 holds begin with"):
        release(store, common)
    with pytest.raises(UsageError, match="not the id of a hold"):
        release(store, common[:7])
    with pytest.raises(SnapshotNotFoundError, match="there is no hold"):
        release(store, "f" * 32)
    assert [row.id for row in release(store, second.id).released] == [second.id]
    assert [row.id for row in release(store, common).released] == [first.id]


def test_releasing_what_is_not_held_is_fine(store: Store) -> None:
    assert release(store, at(store, "orders@1")).released == ()


def test_deleted_snapshots_are_in_the_trash_and_come_back(store: Store) -> None:
    done = delete(store, ORDERS, {"1", "2"})
    assert [(change.snapshot.address, change.snapshot.status, change.changed) for change in done.entries] == [
        ("orders@1", "trash", True),
        ("orders@2", "trash", True),
    ]
    assert (status(store, "1"), status(store, "2"), status(store, "3")) == ("trash", "trash", "live")
    back = undelete(store, ORDERS, "1")
    assert (back.snapshot.status, back.changed) == ("complete", True)
    assert not undelete(store, ORDERS, "#1").changed
    with pytest.raises(SnapshotNotFoundError, match="trash of"):
        undelete(store, ORDERS, "77")


def test_deleting_the_newest_checkpoint_says_so(store: Store) -> None:
    done = delete(store, ORDERS, {"latest", "#1"})
    assert [(change.snapshot.id, change.newest) for change in done.entries] == [(1, False), (3, True)]


def test_a_dry_run_says_the_same_and_changes_nothing(store: Store) -> None:
    before = store.head(ORDERS)
    told = delete(store, ORDERS, {"1", "3"}, dry_run=True)
    assert store.head(ORDERS) == before
    done = delete(store, ORDERS, {"1", "3"})
    assert (told.frees_bytes, told.frees_blobs, told.notes) == (done.frees_bytes, done.frees_blobs, done.notes)
    assert told.entries == done.entries
    assert (told.dry_run, done.dry_run) == (True, False)


def test_deleting_twice_is_fine_and_says_that_nothing_changed(store: Store) -> None:
    first = delete(store, ORDERS, {"1"})
    again = delete(store, ORDERS, {"1"})
    assert not again.entries[0].changed
    assert again.frees_bytes == first.frees_bytes


def test_what_a_deletion_frees_is_what_only_these_snapshots_need(store: Store) -> None:
    needs = {}
    head = store.head(ORDERS).head
    for entry in head.live:
        needs[entry.label] = {
            ("o", key): size for key, size in blobs(manifest_at(store, f"orders@{entry.label}")).items()
        }
        needs[entry.label]["m", BlobKey.parse(entry.manifest)] = entry.manifest_bytes
    together = needs["1"] | needs["2"]
    expected = {key: size for key, size in together.items() if key not in needs["3"]}
    done = delete(store, ORDERS, {"1", "2"}, dry_run=True)
    assert (done.frees_blobs, done.frees_bytes) == (len(expected), sum(expected.values()))
    assert done.frees_bytes is not None
    alone = [explain(store, at(store, f"orders@{label}")).frees_bytes for label in ("1", "2")]
    assert done.frees_bytes > sum(alone)  # what 1 and 2 share goes only with both


def test_a_hold_with_an_end_lets_the_entry_go_but_not_the_bytes(store: Store, world: FakeAmbient) -> None:
    held = hold(store, at(store, "orders@1"), "restore", 3600)
    done = delete(store, ORDERS, {"1"})
    assert done.frees_bytes == 0
    assert done.notes == (f"orders@1 stays for its hold {held.id} until {held.expires_at}",)
    world.seconds += 7200
    later = delete(store, ORDERS, {"1"})
    assert (later.notes, later.entries[0].changed) == ((), False)
    assert later.frees_bytes is not None
    assert later.frees_bytes > 0


def test_a_snapshot_with_a_damaged_manifest_can_be_deleted(store: Store) -> None:
    flip(store.backend, manifest_name(store, "orders@2"), 30)
    done = delete(store, ORDERS, {"2"})
    assert status(store, "2") == "trash"
    assert (done.frees_bytes, done.frees_blobs) == (None, None)
    assert "what this frees is not known: manifest of orders@2" in done.notes[0]


def test_an_unknown_snapshot_or_none_is_refused(store: Store) -> None:
    with pytest.raises(SnapshotNotFoundError, match="99"):
        delete(store, ORDERS, {"1", "99"})
    with pytest.raises(UsageError, match="nothing to delete"):
        delete(store, ORDERS, set())
    assert status(store, "1") == "live"


def test_a_lost_reply_is_settled_and_told_once(store: Store) -> None:
    faulty = FaultyBackend(store.backend, script("swap", [Fault.REPLY_LOST]))
    done = delete(behind(store, faulty), ORDERS, {"1"})
    assert [(change.snapshot.status, change.changed) for change in done.entries] == [("trash", True)]


def test_an_edit_is_applied_to_the_newest_head(store: Store) -> None:
    stale = at(store, "orders@1")
    edit(store, "orders", partial(edits.tag, label="1", add=frozenset({"meanwhile"}), remove=frozenset()))
    assert tag(store, stale, ["mine"], []).snapshot.tags == ("meanwhile", "mine")
