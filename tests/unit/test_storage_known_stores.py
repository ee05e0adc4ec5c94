"""Stores that this host has opened before: what is remembered, and what happens where it cannot be."""

from __future__ import annotations

from pathlib import Path

import msgspec

from storage.known_stores import recalled, remember
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.places import local_store, memory_store


def far_away(tmp_path: Path, url: str = "s3://bucket/store") -> Store:
    store = memory_store(tmp_path)
    place = msgspec.structs.replace(store.place, url=url, remote=True)
    return Store(place=place, record=store.record, ambient=store.ambient)


def test_a_store_is_known_by_its_url(tmp_path: Path) -> None:
    store, folder = far_away(tmp_path), tmp_path / "known"
    ambient = FakeAmbient(2).ambient()
    assert recalled(folder, store.place, ambient) is None
    remember(folder, store)
    known = recalled(folder, store.place, ambient)
    assert known is not None
    assert (known.record, known.place) == (store.record, store.place)
    other = msgspec.structs.replace(store.place, url="s3://bucket/other")
    assert recalled(folder, other, ambient) is None
    assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0]


def test_a_store_on_this_host_is_not_remembered(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    remember(tmp_path / "known", store)
    assert not (tmp_path / "known").exists()
    assert recalled(tmp_path / "known", store.place, store.ambient) is None


def test_what_was_remembered_and_is_damaged_is_not_believed(tmp_path: Path) -> None:
    store, folder = far_away(tmp_path), tmp_path / "known"
    remember(folder, store)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    for data in (b"", whole[:-1], whole.replace(b'"version":1', b'"version":9'), whole + b"\n"):
        path.write_bytes(data)
        assert recalled(folder, store.place, store.ambient) is None
    remember(folder, store)
    assert path.read_bytes() == whole


def test_a_store_that_needs_more_than_we_know_is_opened_itself(tmp_path: Path) -> None:
    store, folder = far_away(tmp_path), tmp_path / "known"
    record = msgspec.structs.replace(store.record, features=("of the future",))
    remember(folder, Store(place=store.place, record=record, ambient=store.ambient))
    assert recalled(folder, store.place, store.ambient) is None


def test_a_host_without_room_goes_without(tmp_path: Path) -> None:
    store = far_away(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    remember(tmp_path / "file" / "below", store)
    assert recalled(tmp_path / "file" / "below", store.place, store.ambient) is None
