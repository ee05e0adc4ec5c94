"""Repair: whatever is damaged is whole again once its bytes are found somewhere, and nothing else has changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from eoctl.services.repair import repair
from eoctl.services.repair_values import StoreRepair
from eoctl.services.verify import verify
from formats.errors import UnavailableError, UsageError
from formats.head import Head, roots
from formats.ids import BlobKey, PipelineId
from formats.manifest import Blocks, Inline, Manifest, Slice, Whole, blob_key, blobs, files_of
from storage import layout
from storage.backend import Key
from storage.backends.memory import MemoryBackend
from storage.store import Store
from tests.support.faulty import Call, Crash, Fault, FaultyBackend, Meanwhile, at
from tests.support.places import behind, check_roots, contents
from tests.support.stores import (
    MIB,
    blob_name,
    checkpoint,
    copy_of,
    file_at,
    flip,
    manifest_at,
    manifest_name,
    new_store,
    noise,
    overwrite,
    text,
    three_checkpoints,
    truncate,
    value_of,
)
from tests.support.sweeper import Sweeper

ORDERS = PipelineId("orders")
NAMES = ("CURRENT", "a.sst", "b.sst", "small/1.sst", "small/2.sst", "small/3.sst", "big.db")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three checkpoints, never written to by a test."""
    store = new_store(tmp_path_factory.mktemp("good"))
    three_checkpoints(store)
    return store


@pytest.fixture
def store(good: Store, tmp_path: Path) -> Store:
    return copy_of(good, tmp_path)


def run(store: Store, *folders: Path, dry_run: bool = False) -> StoreRepair:
    return repair(store, ORDERS, folders, dry_run=dry_run)


def snapshots(store: Store) -> dict[str, dict[str, bytes]]:
    return {root.label: contents(store, root) for root in roots(store.head(ORDERS).head)}


def restored(good: Store, to: Path, *labels: str) -> Path:
    """A directory with the files of these snapshots, as a restore leaves them."""
    for label, files in snapshots(good).items():
        for name, data in files.items() if label in labels else ():
            path = to / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return to


def stored(good: Store, to: Path) -> Path:
    """A copy of a store's blobs and manifests, as files."""
    for found in good.backend.list(Key("p/orders")):
        if found.key.path != "p/orders/HEAD":
            path = to / found.key.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value_of(good.backend, found.key))
    return to


def is_whole(store: Store, good: Store, tmp_path: Path) -> Head:
    """Every snapshot is what it was, by a reader of every byte; and no root names a damaged blob."""
    assert snapshots(store) == snapshots(good)
    assert verify(store, ORDERS, None, "full", scratch=tmp_path).damaged == ()
    return check_roots(store, ORDERS)


def blob_of(store: Store, name: str, address: str = "orders@1") -> Key:
    """The blob in which the file lies, or most of it."""
    file = file_at(store, address, name)
    match file.place:
        case Whole() as place:
            return blob_name("orders", blob_key(file, place))
        case Slice(pack=pack):
            return blob_name("orders", pack)
        case Blocks(packs=packs):
            return max((blob_name("orders", pack) for pack in packs), key=lambda key: len(value_of(store.backend, key)))
    raise AssertionError(name)


def middle(file_offset: int = 0) -> Callable[[Store, Key], None]:
    return lambda store, key: flip(store.backend, key, len(value_of(store.backend, key)) // 2 + file_offset)


DAMAGES: dict[str, Callable[[Store, Key], None]] = {
    "flipped": middle(),
    "truncated": lambda store, key: truncate(store.backend, key, len(value_of(store.backend, key)) // 3),
    "gone": lambda store, key: overwrite(store.backend, key, None),
    "empty": lambda store, key: overwrite(store.backend, key, b""),
    "longer": lambda store, key: overwrite(store.backend, key, value_of(store.backend, key) + b"!"),
}


def test_a_whole_store_needs_nothing(store: Store, good: Store, tmp_path: Path) -> None:
    before = store.head(ORDERS)
    done = run(store)
    assert (done.whole, done.pipelines[0].items, done.searched_files) == (True, (), 0)
    assert store.head(ORDERS) == before


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["a.sst", "b.sst", "small/1.sst", "big.db"])
@pytest.mark.parametrize("source", ["files", "blobs"])
def test_a_damaged_blob_is_whole_again(
    store: Store, good: Store, tmp_path: Path, name: str, damage: str, source: str
) -> None:
    folder = restored(good, tmp_path / "from", "1", "2", "3") if source == "files" else stored(good, tmp_path / "from")
    key = blob_of(store, name)
    DAMAGES[damage](store, key)
    done = run(store, folder)
    assert done.whole, done
    items = done.pipelines[0].items
    assert {item.status for item in items} == {"repaired"}
    if damage != "longer":
        assert all(item.source.startswith(str(folder)) for item in items if item.snapshots)
    is_whole(store, good, tmp_path)


def test_the_damaged_blob_is_left_as_it_lies(store: Store, good: Store, tmp_path: Path) -> None:
    key = blob_of(store, "a.sst")
    DAMAGES["flipped"](store, key)
    rotten = value_of(store.backend, key)
    done = run(store, restored(good, tmp_path / "from", "1"))
    assert done.pipelines[0].rewritten == ("orders@1", "orders@2")
    assert value_of(store.backend, key) == rotten
    head = is_whole(store, good, tmp_path)
    sweeper = Sweeper(store, ORDERS)
    assert head.era == 2
    for _ in range(2):
        sweeper.advance()
    assert key.path in sweeper.sweep()
    assert snapshots(store) == snapshots(good)


def test_entries_stay_what_they_were_but_for_their_manifests(store: Store, good: Store, tmp_path: Path) -> None:
    before = store.head(ORDERS).head
    DAMAGES["flipped"](store, blob_of(store, "small/1.sst"))
    run(store, stored(good, tmp_path / "from"))
    after = store.head(ORDERS).head
    for then, now in zip(roots(before), roots(after), strict=True):
        assert (then.label, then.txid, then.seq, then.tags) == (now.label, now.txid, now.seq, now.tags)
    assert before.writer == after.writer
    assert before.live[2].manifest == after.live[2].manifest or before.live[2] != after.live[2]


def test_without_a_source_it_is_told_what_would_help(store: Store, good: Store) -> None:
    file = file_at(store, "orders@1", "a.sst")
    DAMAGES["flipped"](store, blob_of(store, "a.sst"))
    before = store.head(ORDERS)
    done = run(store)
    (item,) = done.pipelines[0].items
    assert not done.whole
    assert (item.status, item.name, item.snapshots) == ("damaged", "main/0/a.sst", ("orders@1", "orders@2"))
    assert item.wanted == (f"{file.digest} ({file.bytes} bytes)",)
    assert item.source == ""
    assert store.head(ORDERS) == before


def test_a_source_that_is_a_little_different_is_none(store: Store, good: Store, tmp_path: Path) -> None:
    DAMAGES["flipped"](store, blob_of(store, "a.sst"))
    wrong = tmp_path / "from/a.sst"
    wrong.parent.mkdir()
    wrong.write_bytes(contents(good, good.head(ORDERS).head.live[0])["a.sst"][:-1] + b"!")
    done = run(store, tmp_path / "from")
    assert (done.whole, done.searched_files) == (False, 1)


def test_a_dry_run_tells_the_same_and_writes_nothing_but_a_report(store: Store, good: Store, tmp_path: Path) -> None:
    DAMAGES["flipped"](store, blob_of(store, "a.sst"))
    DAMAGES["gone"](store, blob_of(store, "b.sst"))
    before = {found.key.path for found in store.backend.list(Key("p"))}
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "copy").write_bytes(contents(good, good.head(ORDERS).head.live[0])["a.sst"])
    dry = run(store, folder, dry_run=True)
    assert {item.name: item.status for item in dry.pipelines[0].items} == {
        "main/0/a.sst": "repairable",
        "main/0/b.sst": "damaged",
    }
    after = {found.key.path for found in store.backend.list(Key("p"))}
    assert all("/report/" in name for name in after - before)
    real = run(store, folder)
    assert {item.name: item.status for item in real.pipelines[0].items} == {
        "main/0/a.sst": "repaired",
        "main/0/b.sst": "damaged",
    }
    assert not real.whole


def test_what_is_right_in_a_damaged_pack_needs_no_source(store: Store, good: Store, tmp_path: Path) -> None:
    DAMAGES["longer"](store, blob_of(store, "small/1.sst"))
    done = run(store)
    assert done.whole
    is_whole(store, good, tmp_path)


def test_one_slice_is_mended_from_a_file_and_the_others_from_the_pack(
    store: Store, good: Store, tmp_path: Path
) -> None:
    file = file_at(store, "orders@1", "small/1.sst")
    assert isinstance(file.place, Slice)
    flip(store.backend, blob_name("orders", file.place.pack), file.place.offset + 5)
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "anything").write_bytes(contents(good, good.head(ORDERS).head.live[0])["small/1.sst"])
    done = run(store, folder)
    assert [item.name for item in done.pipelines[0].items] == ["main/0/small/1.sst"]
    is_whole(store, good, tmp_path)


def test_a_content_that_the_store_has_elsewhere_needs_no_directory(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    data = noise(MIB + 7, 1)
    checkpoint(store, "orders", {"a.sst": data})
    Sweeper(store, ORDERS).expire("1")
    checkpoint(store, "orders", {"b.db": data, "filler": noise(9000, 2)})
    file = file_at(store, "orders@1", "a.sst")
    other = file_at(store, "orders@2", "b.db")
    assert file.place != other.place
    flip(store.backend, blob_of(store, "a.sst"), 5)
    done = run(store)
    assert done.whole
    assert done.pipelines[0].items[0].source == "b.db of orders@2"
    check_roots(store, ORDERS)


def test_the_same_blob_of_another_era_is_a_source(store: Store, good: Store, tmp_path: Path) -> None:
    key = blob_of(store, "a.sst")
    twin = Key(f"{key.path.rpartition('.')[0]}.7")
    overwrite(store.backend, twin, value_of(store.backend, key))
    overwrite(store.backend, key, b"rotten")
    done = run(store)
    assert done.whole
    assert done.pipelines[0].items[0].source == twin.path
    is_whole(store, good, tmp_path)


def test_a_changed_database_still_mends_the_blocks_it_has(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "big.db"), 3 * 65536)
    data = bytearray(contents(good, good.head(ORDERS).head.live[0])["big.db"])
    data[0] ^= 1
    data[-1] ^= 1
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "live.db").write_bytes(data + b"appended since")
    done = run(store, folder)
    assert done.whole
    assert {address for item in done.pipelines[0].items for address in item.snapshots} == {
        "orders@1",
        "orders@2",
        "orders@3",
    }
    is_whole(store, good, tmp_path)


def test_a_damaged_block_table_is_cut_anew_from_the_whole_file(store: Store, good: Store, tmp_path: Path) -> None:
    file = file_at(store, "orders@1", "big.db")
    assert isinstance(file.place, Blocks)
    place = file.place.tables[0].place
    assert isinstance(place, Slice)
    flip(store.backend, blob_name("orders", place.pack), place.offset + 30)
    folder = restored(good, tmp_path / "from", "1")
    done = run(store, folder)
    assert done.whole
    is_whole(store, good, tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_a_damaged_manifest_is_put_back_from_a_copy_of_its_bytes(
    store: Store, good: Store, tmp_path: Path, damage: str
) -> None:
    DAMAGES[damage](store, manifest_name(store, "orders@2"))
    done = run(store, stored(good, tmp_path / "from"))
    (item,) = done.pipelines[0].items
    assert (item.name, item.status, item.snapshots) == ("manifest", "repaired", ("orders@2",))
    assert done.whole
    is_whole(store, good, tmp_path)


def test_a_damaged_newest_manifest_is_told_with_what_would_help(store: Store, tmp_path: Path) -> None:
    entry = store.head(ORDERS).head.live[-1]
    DAMAGES["flipped"](store, manifest_name(store, "orders@3"))
    done = run(store)
    (item,) = done.pipelines[0].items
    assert (item.status, item.name) == ("damaged", "manifest")
    assert item.wanted == (f"{BlobKey.parse(entry.manifest).digest} ({entry.manifest_bytes} bytes)",)


def test_a_manifest_that_is_back_shows_what_else_is_damaged(store: Store, good: Store, tmp_path: Path) -> None:
    DAMAGES["flipped"](store, blob_of(store, "d.sst", "orders@3"))
    DAMAGES["flipped"](store, manifest_name(store, "orders@3"))
    done = run(store, stored(good, tmp_path / "from"))
    assert {item.name: item.status for item in done.pipelines[0].items} == {
        "manifest": "repaired",
        "main/0/d.sst": "repaired",
    }
    is_whole(store, good, tmp_path)


def test_everything_damaged_at_once_is_whole_again(store: Store, good: Store, tmp_path: Path) -> None:
    for found in list(store.backend.list(layout.blobs(ORDERS))):
        DAMAGES["flipped"](store, found.key)
    for found in list(store.backend.list(layout.manifests(ORDERS))):
        DAMAGES["flipped"](store, found.key)
    done = run(store, stored(good, tmp_path / "from"))
    assert done.whole, [item for item in done.pipelines[0].items if item.status != "repaired"]
    is_whole(store, good, tmp_path)


def test_all_blobs_gone_are_whole_again_from_restored_files(store: Store, good: Store, tmp_path: Path) -> None:
    for found in list(store.backend.list(layout.blobs(ORDERS))):
        overwrite(store.backend, found.key, None)
    done = run(store, restored(good, tmp_path / "from", "1", "2", "3"))
    assert done.whole, [item for item in done.pipelines[0].items if item.status != "repaired"]
    is_whole(store, good, tmp_path)


def test_what_stays_damaged_does_not_keep_the_rest_from_being_repaired(
    store: Store, good: Store, tmp_path: Path
) -> None:
    for found in list(store.backend.list(layout.blobs(ORDERS))):
        overwrite(store.backend, found.key, None)
    done = run(store, restored(good, tmp_path / "from", "3"))
    assert not done.whole
    assert contents(store, store.head(ORDERS).head.live[2]) == snapshots(good)["3"]
    left = verify(store, ORDERS, None, "full", scratch=tmp_path).damaged
    assert {address for found in left for address in found.snapshots} == {"orders@1", "orders@2"}


def test_a_lost_head_is_told_and_not_repaired_here(store: Store, good: Store, tmp_path: Path) -> None:
    overwrite(store.backend, layout.head(ORDERS), b"torn")
    done = run(store, stored(good, tmp_path / "from"))
    (item,) = done.pipelines[0].items
    assert (item.name, item.status) == ("HEAD", "damaged")


def test_every_pipeline_is_repaired_where_none_is_named(store: Store, tmp_path: Path) -> None:
    checkpoint(store, "joins", {"j.sst": noise(MIB + 3, 77)})
    flip(store.backend, blob_of(store, "a.sst"), 9)
    done = repair(store, None, ())
    assert [(one.pipeline, one.whole) for one in done.pipelines] == [("joins", True), ("orders", False)]


def test_a_directory_that_is_none_is_told_first(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        run(store, tmp_path / "nowhere")


def test_links_in_a_source_are_not_followed(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "a.sst"), 9)
    elsewhere = restored(good, tmp_path / "elsewhere", "1")
    folder = tmp_path / "from"
    folder.mkdir()
    (folder / "a.sst").symlink_to(elsewhere / "1/a.sst")
    assert not run(store, folder).whole


def test_a_second_repair_finds_nothing_to_do(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "small/1.sst"), 9)
    folder = stored(good, tmp_path / "from")
    run(store, folder)
    before = store.head(ORDERS)
    again = run(store, folder)
    assert (again.whole, again.pipelines[0].items) == (True, ())
    assert store.head(ORDERS) == before


def test_compressible_files_of_any_size_are_mended(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    files = {"huge.sst": b"0123456789abcdef" * (4 * MIB // 16), "text.sst": text(2 * MIB, 3), "x": text(20_000, 4)}
    checkpoint(store, "orders", files)
    good = snapshots(store)
    for found in list(store.backend.list(layout.blobs(ORDERS))):
        flip(store.backend, found.key, len(value_of(store.backend, found.key)) - 3)
        flip(store.backend, found.key, 12)
    folder = tmp_path / "from"
    for name, data in files.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    assert run(store, folder).whole
    assert snapshots(store) == good
    check_roots(store, ORDERS)


def test_manifests_stay_lawful(store: Store, good: Store, tmp_path: Path) -> None:
    DAMAGES["flipped"](store, blob_of(store, "small/1.sst"))
    DAMAGES["flipped"](store, blob_of(store, "big.db"))
    run(store, restored(good, tmp_path / "from", "1", "2", "3"))
    for label in ("1", "2", "3"):
        before: Manifest = manifest_at(good, f"orders@{label}")
        after: Manifest = manifest_at(store, f"orders@{label}")
        told = [(file.name, file.bytes, file.digest, file.first_stored_in) for _, _, file in files_of(before)]
        assert [(file.name, file.bytes, file.digest, file.first_stored_in) for _, _, file in files_of(after)] == told
        assert not any(isinstance(file.place, Inline) and not file.bytes for _, _, file in files_of(after))
        assert all(key.era <= store.head(ORDERS).head.era for key in blobs(after))


# Others at the same time, and the disk.


def test_gc_that_raises_the_floor_meanwhile_costs_a_copy(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "a.sst"), 9)
    gc = Sweeper(store, ORDERS)
    gc.advance()
    calls = iter([Meanwhile(before=lambda: (gc.advance(), gc.advance()))])
    faulty = FaultyBackend(
        store.backend, lambda call: next(calls, None) if call.verb == "create" and "/m/" in call.key else None
    )
    assert run(behind(store, faulty), restored(good, tmp_path / "from", "1")).whole
    gc.advance()
    gc.sweep()
    is_whole(store, good, tmp_path)


def test_a_snapshot_that_is_dropped_meanwhile_is_not_repaired(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "a.sst"), 9)
    gc = Sweeper(store, ORDERS)
    calls = iter([Meanwhile(before=lambda: (gc.expire("1"), gc.advance()))])
    faulty = FaultyBackend(
        store.backend, lambda call: next(calls, None) if call.verb == "create" and "/m/" in call.key else None
    )
    done = run(behind(store, faulty), restored(good, tmp_path / "from", "1"))
    assert (done.whole, done.pipelines[0].rewritten) == (True, ("orders@2",))
    assert [root.label for root in roots(check_roots(store, ORDERS))] == ["2", "3"]


def test_a_writer_may_commit_meanwhile(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "small/1.sst", "orders@3"), 20)
    added = contents(good, good.head(ORDERS).head.live[2]) | {"e.sst": noise(9000, 55)}
    calls = iter([Meanwhile(before=lambda: checkpoint(store, "orders", added))])
    faulty = FaultyBackend(
        store.backend, lambda call: next(calls, None) if call.verb == "create" and "/m/" in call.key else None
    )
    done = run(behind(store, faulty), stored(good, tmp_path / "from"))
    assert done.whole
    head = check_roots(store, ORDERS)
    assert contents(store, head.live[3]) == added


def test_a_disk_that_is_full_is_said_and_nothing_has_changed(store: Store, good: Store, tmp_path: Path) -> None:
    flip(store.backend, blob_of(store, "a.sst"), 9)
    before = store.head(ORDERS).head.live

    def full(call: Call) -> Fault | None:
        return Fault.REFUSED if call.verb == "create" and "/o/" in call.key else None

    with pytest.raises(UnavailableError):
        run(behind(store, FaultyBackend(store.backend, full)), restored(good, tmp_path / "from", "1"))
    assert store.head(ORDERS).head.live == before
    assert run(store, restored(good, tmp_path / "from", "1")).whole


@pytest.mark.thorough
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_repair_killed_anywhere_is_run_again_and_has_harmed_nobody(
    store: Store, good: Store, tmp_path: Path, damage: str
) -> None:
    for name in ("a.sst", "small/1.sst", "big.db"):
        DAMAGES[damage](store, blob_of(store, name))
    DAMAGES[damage](store, manifest_name(store, "orders@3"))
    folder = stored(good, tmp_path / "from")
    assert isinstance(store.backend, MemoryBackend)
    kept = dict(store.backend._values)
    counting = FaultyBackend(store.backend)
    assert run(behind(store, counting), folder).whole
    writes = [call.number for call in counting.calls if call.verb in {"create", "swap", "delete"}]
    assert len(writes) > 8
    intact = snapshots(good)
    for number in writes:
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            store.backend._values.clear()
            store.backend._values.update(kept)
            with pytest.raises(Crash):
                run(behind(store, FaultyBackend(store.backend, at(number, fault))), folder)
            head = store.head(ORDERS).head
            assert [root.label for root in roots(head)] == ["1", "2", "3"]
            assert run(store, folder).whole, number
            assert snapshots(store) == intact, number
            check_roots(store, ORDERS)
