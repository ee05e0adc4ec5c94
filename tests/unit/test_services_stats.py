"""What a store is and what it holds: counted again by hand; and that one damaged pipeline hides no other."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from eoctl.services.entries import delete, hold
from eoctl.services.stats import list_pipelines, show_pipeline, store_info, store_stats
from eoctl.services.verify import verify
from eoctl.services.writers import writing
from formats.errors import CorruptError, SnapshotNotFoundError
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest import blobs
from storage import edits, layout
from storage.backend import Found
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.faulty import Fault, FaultyBackend
from tests.support.places import behind
from tests.support.stores import (
    MIB,
    at,
    blob_name,
    checkpoint,
    edit,
    flip,
    manifest_at,
    manifest_name,
    new_store,
    noise,
    overwrite,
    three_checkpoints,
)

ORDERS = PipelineId("orders")


@pytest.fixture
def world() -> FakeAmbient:
    return FakeAmbient()


@pytest.fixture
def store(tmp_path: Path, world: FakeAmbient) -> Store:
    return new_store(tmp_path, world=world)


def test_the_store_tells_what_it_is(store: Store) -> None:
    checkpoint(store, "orders", {"a": b"1"})
    info = store_info(store)
    assert (info.url, info.id, info.format_version, info.hash) == ("memory:", store.record.id, 1, "blake3")
    assert (info.pipelines, info.created_at) == (1, store.record.created_at)


def test_a_store_in_memory_keeps_both_conditions_and_is_no_directory(store: Store) -> None:
    assert store_info(store).capabilities == {"writable": "yes", "atomic_create": "yes", "compare_and_swap": "yes"}


def test_a_store_on_disk_tells_what_its_file_system_can_do(tmp_path: Path) -> None:
    store = new_store(tmp_path, memory=False)
    found = store_info(store).capabilities
    for name in ("writable", "atomic_create", "compare_and_swap", "fsync", "hard_links"):
        assert found[name] == "yes", name
    assert found["reflinks"] == "yes" or found["reflinks"].startswith("no: ")
    assert found["network_file_system"] in {"yes", "no"}
    assert found["file_system"]
    assert int(found["free_bytes"]) > 0


@pytest.mark.parametrize("memory", [True, False])
def test_probing_leaves_nothing_behind(tmp_path: Path, memory: bool) -> None:
    store = new_store(tmp_path, memory=memory)
    checkpoint(store, "orders", {"a": b"1"})
    before = sorted(path for path in tmp_path.rglob("*"))
    info = store_info(store)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert [found.key.path for found in store.backend.list(layout.PIPELINES)] != []
    assert store_stats(store).unfinished_uploads == 0
    assert info.pipelines == 1


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    store = new_store(tmp_path, memory=False)
    checkpoint(store, "orders", {"a": b"1"})
    denied = FaultyBackend(store.backend, lambda call: Fault.DENIED if call.verb in {"create", "swap"} else None)
    found = store_info(behind(store, denied)).capabilities
    assert found["writable"].startswith("not writable: ")
    assert {found[name] for name in ("atomic_create", "compare_and_swap", "fsync", "hard_links", "reflinks")} == {
        "not known: not writable"
    }
    assert found["file_system"]


class Careless:
    """A place that ignores conditions, as some servers do."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def create(self, key: object, body: object) -> bool:
        overwrite(self._inner, key, body)  # type: ignore[arg-type]  # a backend, a key, bytes
        return True

    def swap(self, key: object, body: object, expected: object) -> None:
        overwrite(self._inner, key, body)  # type: ignore[arg-type]  # a backend, a key, bytes

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def test_a_place_that_ignores_conditions_is_found_out(store: Store) -> None:
    found = store_info(behind(store, Careless(store.backend))).capabilities  # type: ignore[arg-type]  # a backend of sorts
    assert found["atomic_create"] == "no: creating a value that exists was not refused"
    assert found["compare_and_swap"] == "no: a swap of a value that had changed was not refused"


def test_pipelines_are_listed_with_their_newest_checkpoint(store: Store) -> None:
    three_checkpoints(store)
    checkpoint(store, "clicks", {"a": b"12"})
    delete(store, ORDERS, {"1"})
    clicks, orders = list_pipelines(store)
    assert (clicks.pipeline, clicks.state, clicks.newest, clicks.full_bytes, clicks.attempt) == (
        "clicks",
        "active",
        "1",
        2,
        1,
    )
    assert (orders.checkpoints, orders.trash, orders.newest, orders.attempt) == (2, 1, "3", 3)
    assert orders.newest_at == store.head(ORDERS).head.live[-1].created_at


def test_a_damaged_head_hides_no_other_pipeline(store: Store) -> None:
    for name in ("clicks", "orders", "users"):
        checkpoint(store, name, {"a": b"1"})
    flip(store.backend, layout.head(ORDERS), 50)
    clicks, orders, users = list_pipelines(store)
    assert (clicks.state, users.state) == ("active", "active")
    assert orders.state.startswith("damaged: HEAD is damaged")
    assert (orders.newest, orders.checkpoints) == ("", 0)
    stats = store_stats(store)
    assert [row.pipeline for row in stats.pipelines] == ["clicks", "users"]
    assert stats.damaged == {"orders": orders.state}
    with pytest.raises(CorruptError):
        show_pipeline(store, ORDERS)


def test_a_lost_head_is_told_and_an_empty_folder_is_no_pipeline(tmp_path: Path) -> None:
    store = new_store(tmp_path, memory=False)
    checkpoint(store, "orders", {"a": b"1"})
    (tmp_path / "store" / "p" / "begun").mkdir()
    (tmp_path / "store" / "p" / "Not Ours").mkdir()
    overwrite(store.backend, layout.head(ORDERS), None)
    (row,) = list_pipelines(store)
    assert (row.pipeline, row.state) == ("orders", "damaged: HEAD of orders is missing, but p/orders/m is not empty")


def test_a_damaged_manifest_makes_the_pipeline_s_needs_unknown(store: Store) -> None:
    three_checkpoints(store)
    flip(store.backend, manifest_name(store, "orders@2"), 30)
    stats = store_stats(store)
    assert stats.pipelines == ()
    assert "orders@2" in stats.damaged["orders"]


def test_the_statistics_are_those_of_a_count_by_hand(store: Store) -> None:
    three_checkpoints(store)
    hold(store, at(store, "orders@1"), "audit")
    (row,) = store_stats(store).pipelines
    needed: dict[tuple[str, BlobKey], int] = {}
    for entry in store.head(ORDERS).head.live:
        needed |= {("o", key): size for key, size in blobs(manifest_at(store, f"orders@{entry.id}")).items()}
        needed["m", BlobKey.parse(entry.manifest)] = entry.manifest_bytes
    stored = [*store.backend.list(layout.blobs(ORDERS)), *store.backend.list(layout.manifests(ORDERS))]
    assert (row.referenced_blobs, row.referenced_bytes) == (len(needed), sum(needed.values()))
    assert row.stored_blobs == len(stored)
    assert row.stored_bytes == sum(found.bytes for found in stored if isinstance(found, Found))
    assert (row.orphan_blobs, row.orphan_bytes, row.missing_blobs) == (0, 0, 0)
    assert row.logical_bytes == sum(entry.full_bytes for entry in store.head(ORDERS).head.live)
    assert row.saved_by_sharing == pytest.approx(1 - sum(needed.values()) / row.logical_bytes)
    assert (row.checkpoints, row.holds) == (3, 1)


def test_what_no_snapshot_names_is_an_orphan(store: Store) -> None:
    three_checkpoints(store)
    stray = BlobKey(Digest("a" * 64), Era(1))
    store.backend.create(layout.blob(ORDERS, stray), b"12345")
    store.backend.create(layout.manifest(ORDERS, stray), b"123")
    (row,) = store_stats(store).pipelines
    assert (row.orphan_blobs, row.orphan_bytes) == (2, 8)


def test_a_blob_that_is_not_there_is_told(store: Store) -> None:
    checkpoint(store, "orders", {"a.sst": noise(MIB)})
    (key,) = blobs(manifest_at(store, "orders@1"))
    overwrite(store.backend, blob_name("orders", key), None)
    (row,) = store_stats(store).pipelines
    assert (row.missing_blobs, row.stored_blobs, row.referenced_blobs) == (1, 1, 2)


def test_sharing_shows_in_what_is_saved(store: Store) -> None:
    for _ in range(4):
        checkpoint(store, "orders", {"a.sst": noise(MIB)})
    (row,) = store_stats(store).pipelines
    assert row.logical_bytes == 4 * MIB
    assert row.saved_by_sharing == pytest.approx(0.75, abs=0.01)


def test_an_empty_store_has_nothing_to_tell(store: Store) -> None:
    stats = store_stats(store)
    assert (stats.pipelines, stats.damaged, stats.last_good_drill_age_seconds) == ((), {}, None)
    assert list_pipelines(store) == ()


def test_the_age_of_the_last_good_drill_is_told(store: Store, world: FakeAmbient, tmp_path: Path) -> None:
    for name in ("clicks", "orders"):
        checkpoint(store, name, {"a": b"1"})
    assert store_stats(store).last_good_drill_age_seconds is None
    verify(store, ORDERS, None, "drill", scratch=tmp_path / "scratch")
    world.seconds += 3600
    verify(store, ORDERS, None, "full", scratch=tmp_path / "scratch")
    verify(store, ORDERS, None, "drill", hook="false", scratch=tmp_path / "scratch")
    stats = store_stats(store)
    assert stats.last_good_drill_age_seconds in {3600, 3601}
    ages = {row.pipeline: row.last_good_drill_age_seconds for row in stats.pipelines}
    assert ages == {"clicks": None, "orders": stats.last_good_drill_age_seconds}


def test_a_damaged_report_tells_nothing(store: Store, tmp_path: Path) -> None:
    checkpoint(store, "orders", {"a": b"1"})
    verify(store, ORDERS, None, "drill", scratch=tmp_path / "scratch")
    (report,) = store.backend.list(layout.reports(ORDERS))
    flip(store.backend, report.key, 40)
    assert store_stats(store).last_good_drill_age_seconds is None


def test_a_pipeline_is_shown_with_holds_and_snapshots(store: Store) -> None:
    three_checkpoints(store)
    keep = partial(edits.hold, label="2", hold_id="a" * 32, reason="audit", expires_at=None)
    edit(store, "orders", partial(keep, now=store.ambient.now()))
    detail = show_pipeline(store, ORDERS)
    assert (detail.row.pipeline, detail.last_id, detail.seq) == ("orders", 3, store.head(ORDERS).head.seq)
    assert [(row.snapshot, row.reason) for row in detail.hold_rows] == [("orders@2", "audit")]
    assert [(row.id, row.status) for row in detail.snapshots] == [(1, "complete"), (2, "held"), (3, "complete")]
    assert detail.writers == ()
    with pytest.raises(SnapshotNotFoundError):
        show_pipeline(store, PipelineId("nothing"))


def test_a_live_writer_is_shown_while_it_writes(store: Store) -> None:
    with writing(store, ORDERS, note="checkpoint create"):
        (told,) = show_pipeline(store, ORDERS).writers
        assert told.startswith("attempt 1, checkpoint create, process ")
        assert told.endswith(" of this host")
    assert show_pipeline(store, ORDERS).writers == ()
