"""A damaged snapshot is an error; with `fallback` the newest older one that is whole is restored, and it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from eoctl.library import PipelineHandle
from eoctl.services.restore import restore
from formats.errors import BlobGoneError, CorruptError
from formats.ids import BlobKey, PipelineId
from formats.manifest import Whole, blob_key
from storage.edits import expire
from storage.store import Store
from tests.support.faulty import CountingBackend
from tests.support.places import behind, contents, entry_of
from tests.support.stores import (
    at,
    blob_name,
    checkpoint,
    copy_of,
    edit,
    file_at,
    flip,
    manifest_name,
    new_store,
    overwrite,
    three_checkpoints,
)

ORDERS = PipelineId("orders")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = new_store(tmp_path_factory.mktemp("good"))
    three_checkpoints(store)
    return store


@pytest.fixture
def store(good: Store, tmp_path: Path) -> Store:
    return copy_of(good, tmp_path)


def own_blob(store: Store, name: str, address: str) -> str:
    file = file_at(store, address, name)
    assert isinstance(file.place, Whole)
    return str(blob_key(file, file.place))


def lose(store: Store, name: str, address: str) -> None:
    overwrite(store.backend, blob_name("orders", own_blob(store, name, address)), None)


def rot(store: Store, name: str, address: str) -> None:
    flip(store.backend, blob_name("orders", own_blob(store, name, address)), 1000)


def files_at(target: Path) -> dict[str, bytes]:
    return {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_a_whole_snapshot_is_what_is_restored(store: Store, tmp_path: Path) -> None:
    done = restore(store, at(store, "orders@latest"), tmp_path / "to", fallback=True)
    assert (done.snapshot, done.fell_back_from) == ("orders@3", ())


@pytest.mark.parametrize("harm", [rot, lose])
def test_the_newest_older_checkpoint_takes_the_place_of_a_damaged_one(store: Store, tmp_path: Path, harm) -> None:
    harm(store, "d.sst", "orders@3")
    done = restore(store, at(store, "orders@latest"), tmp_path / "to", fallback=True)
    assert done.snapshot == "orders@2"
    assert [one.snapshot for one in done.fell_back_from] == ["orders@3"]
    assert "d.sst" in done.fell_back_from[0].reason or "/o/" in done.fell_back_from[0].reason
    assert files_at(tmp_path / "to") == contents(store, entry_of(store, 2))
    assert store.head(ORDERS).head.holds == ()


def test_all_that_are_damaged_are_passed_over(store: Store, tmp_path: Path) -> None:
    rot(store, "c.sst", "orders@2")  # 3 has it too
    done = restore(store, at(store, "orders@3"), tmp_path / "to", fallback=True)
    assert (done.snapshot, [one.snapshot for one in done.fell_back_from]) == ("orders@1", ["orders@3", "orders@2"])
    assert files_at(tmp_path / "to") == contents(store, entry_of(store, 1))


def test_a_manifest_that_is_gone_is_passed_over_too(store: Store, tmp_path: Path) -> None:
    rot(store, "d.sst", "orders@3")
    overwrite(store.backend, manifest_name(store, "orders@2"), None)
    done = restore(store, at(store, "orders@3"), tmp_path / "to", fallback=True)
    assert done.snapshot == "orders@1"
    assert "gone" in done.fell_back_from[1].reason


def test_newer_ones_and_those_in_the_trash_are_no_choice(store: Store, tmp_path: Path) -> None:
    rot(store, "c.sst", "orders@2")
    edit(store, "orders", lambda head: expire(head, frozenset({"1"}), "2026-01-01T00:00:00.000Z"))
    with pytest.raises(CorruptError, match="no older checkpoint of orders is whole"):
        restore(store, at(store, "orders@2"), tmp_path / "to", fallback=True)
    assert not (tmp_path / "to").exists()


def test_where_nothing_older_is_whole_nothing_is_restored(store: Store, tmp_path: Path) -> None:
    rot(store, "d.sst", "orders@3")
    for label in ("1", "2"):
        overwrite(store.backend, manifest_name(store, f"orders@{label}"), b"")
    with pytest.raises(CorruptError) as raised:
        restore(store, at(store, "orders@3"), tmp_path / "to", fallback=True)
    assert raised.value.facts["tried"] == ["orders@3", "orders@2", "orders@1"]
    assert raised.value.hint == "eoctl store repair -p orders --from DIR"
    assert [path.name for path in tmp_path.iterdir() if "to" in path.name] == []


def test_without_fallback_the_error_names_what_looks_whole(store: Store, tmp_path: Path) -> None:
    lose(store, "c.sst", "orders@2")
    with pytest.raises(BlobGoneError) as raised:
        restore(store, at(store, "orders@3"), tmp_path / "to")
    assert raised.value.hint == "orders@1 looks whole: restore it, or add --fallback"


def test_without_fallback_and_without_a_whole_one_the_hint_stays(store: Store, tmp_path: Path) -> None:
    lose(store, "a.sst", "orders@1")
    with pytest.raises(CorruptError) as raised:
        restore(store, at(store, "orders@1"), tmp_path / "to")
    assert raised.value.hint == "eoctl checkpoint verify -p orders"


def test_what_looks_damaged_at_once_is_not_read(store: Store, tmp_path: Path) -> None:
    checkpoint(store, "orders", {"only.sst": b"x" * 10})
    overwrite(store.backend, manifest_name(store, "orders@4"), None)
    lose(store, "d.sst", "orders@3")
    lose(store, "c.sst", "orders@2")
    counting = CountingBackend(store.backend)
    done = restore(behind(store, counting), at(store, "orders@4"), tmp_path / "to", fallback=True)
    assert done.snapshot == "orders@1"
    passed = {BlobKey.parse(own_blob(store, "d.sst", "orders@3")), BlobKey.parse(own_blob(store, "c.sst", "orders@2"))}
    assert not any(str(key) in name for key in passed for name in counting.created)


def test_the_library_falls_back_when_it_is_told_to(store: Store, tmp_path: Path) -> None:
    rot(store, "d.sst", "orders@3")
    orders = PipelineHandle(store, ORDERS)
    with pytest.raises(CorruptError):
        orders.restore("latest", to=tmp_path / "to")
    assert orders.restore("latest", to=tmp_path / "to", fallback=True).snapshot == "orders@2"
