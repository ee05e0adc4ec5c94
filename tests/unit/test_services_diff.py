"""Differences of two snapshots, by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoctl.services.diff import diff
from eoctl.services.inspect import inspect
from storage.store import Store
from tests.support.stores import at, checkpoint, new_store, noise, three_checkpoints


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def test_added_removed_and_changed_files_are_told_apart(store: Store) -> None:
    three_checkpoints(store)
    found = diff(store, at(store, "orders@2"), at(store, "orders@3"))
    assert (found.a, found.b) == ("orders@2", "orders@3")
    assert [row.name for row in found.added] == ["d.sst"]
    assert [row.name for row in found.removed] == ["a.sst"]
    assert [(row.name, row.old_bytes, row.new_bytes) for row in found.changed] == [
        ("main/0/CURRENT", 11, 11),
        ("main/0/small/2.sst", 30_000, 5000),
    ]
    assert found.same_files == 3
    assert found.differs


@pytest.mark.parametrize(("a", "b"), [(1, 2), (2, 3), (1, 3), (3, 1)])
def test_the_bytes_add_up_to_the_full_sizes(store: Store, a: int, b: int) -> None:
    three_checkpoints(store)
    found = diff(store, at(store, f"orders@{a}"), at(store, f"orders@{b}"))
    sizes = [inspect(store, at(store, f"orders@{number}")).snapshot.full_bytes for number in (a, b)]
    assert sizes[1] - sizes[0] == found.added_bytes - found.removed_bytes


def test_a_snapshot_does_not_differ_from_itself(store: Store) -> None:
    three_checkpoints(store)
    found = diff(store, at(store, "orders@2"), at(store, "orders@2"))
    assert not found.differs
    assert (found.same_files, found.added_bytes, found.removed_bytes) == (6, 0, 0)


def test_the_shared_bytes_are_those_of_blobs_that_both_name(store: Store) -> None:
    shared, own = noise(2_000_000), noise(1_500_000, 1)
    checkpoint(store, "orders", {"a.sst": shared, "b.sst": own})
    checkpoint(store, "orders", {"renamed.sst": shared})
    found = diff(store, at(store, "orders@1"), at(store, "orders@2"))
    assert found.shared_stored_bytes == 2_000_000
    assert [row.name for row in found.added] == ["renamed.sst"]


def test_two_pipelines_are_compared_by_content_and_share_no_stored_byte(store: Store) -> None:
    files = {"a.sst": noise(1_200_000), "b": b"1"}
    checkpoint(store, "orders", files)
    checkpoint(store, "copy", files | {"b": b"2"})
    found = diff(store, at(store, "orders@1"), at(store, "copy@1"))
    assert [row.name for row in found.changed] == ["main/0/b"]
    assert (found.same_files, found.shared_stored_bytes) == (1, 0)


def test_the_same_name_in_another_subtask_or_operator_is_another_file(store: Store) -> None:
    checkpoint(store, "orders", parts={("joins", 0): {"a": b"1"}})
    checkpoint(store, "orders", parts={("joins", 1): {"a": b"1"}, ("window", 0): {"a": b"1"}})
    found = diff(store, at(store, "orders@1"), at(store, "orders@2"))
    assert [(row.operator, row.subtask) for row in found.added] == [("joins", 1), ("window", 0)]
    assert [(row.operator, row.subtask) for row in found.removed] == [("joins", 0)]
    assert found.same_files == 0
