"""The census and the sweep: garbage is what the delete rule says, and nothing else; where in doubt, nothing goes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from formats.canonical import decode, encode
from formats.errors import BlobGoneError, CorruptError, UnavailableError, WrongStoreError
from formats.head import Head, HeadEntry
from formats.ids import BlobKey, Digest, Era, PipelineId
from formats.manifest import Manifest, Slice, blobs
from formats.manifest_keys import ManifestKeys, keys_of
from storage import gc, layout
from storage.backend import Folder, Found, Key, Reach, Unfinished
from storage.edits import destroy, hold, raise_era
from storage.gc import BATCH, Census, remove_unfinished, sweep, sweep_left, take_census
from storage.references import Space, Stored
from storage.root_manifests import RootManifests
from storage.store import Store
from tests.support.fakes import time_text
from tests.support.faulty import CountingBackend, Fault, FaultyBackend, Meanwhile, script
from tests.support.places import (
    PIPELINE,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    local_store,
    memory_store,
    opened,
    stored_keys,
    write_tree,
)
from tests.support.stores import edit, flip, manifest_name, noise, overwrite
from tests.support.strategies import manifests
from tests.support.sweeper import Sweeper

MIB = 1 << 20
FIRST = {"inline": b"x", "a.sst": noise(MIB + 1, 1), "small/1": noise(9000, 2), "small/2": noise(8000, 3)}
SECOND = FIRST | {"a.sst": noise(MIB + 1, 4), "z.db": noise(MIB + 70_000, 5)}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two checkpoints of era 1."""
    return two_checkpoints(memory_store(tmp_path), tmp_path)


def two_checkpoints(store: Store, tmp_path: Path) -> Store:
    for files in (FIRST, SECOND):
        checkpoint_tree(opened(store), write_tree(tmp_path / "tree", files))
    return store


def census(store: Store) -> Census:
    return take_census(store, store.head(PIPELINE).head)


def put(store: Store, key: BlobKey, data: bytes = b"some bytes", *, manifest: bool = False) -> str:
    name = (layout.manifest if manifest else layout.blob)(PIPELINE, key)
    assert store.backend.create(name, data)
    return name.path


def key(number: int, era: int) -> BlobKey:
    return BlobKey(Digest(f"{number:064x}"), Era(era))


def raised(store: Store, floor: int) -> None:
    """The floor is there, the era one above."""
    edit(store, "orders", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, era=floor + 1, floor=floor))


def names(store: Store) -> set[str]:
    return {found.key.path for found in store.backend.list(Key("p/orders")) if isinstance(found, Found)}


# What is garbage.


def test_what_is_referenced_is_live_whatever_its_era(store: Store) -> None:
    raised(store, 50)
    found = census(store)
    assert (len(found.garbage), found.young, found.strangers, found.dangling) == (0, 0, (), ())
    keys = stored_keys(store)
    assert found.live_blobs == len(keys["o"]) + len(keys["m"])
    assert found.live_bytes == found.stored_bytes > 3 * MIB


@pytest.mark.parametrize(("era", "garbage"), [(1, True), (6, True), (7, False), (8, False)])
@pytest.mark.parametrize("manifest", [False, True])
def test_an_unreferenced_key_is_garbage_below_the_floor_and_young_at_it(
    store: Store, era: int, manifest: bool, garbage: bool
) -> None:
    raised(store, 7)
    name = put(store, key(1, era), manifest=manifest)
    found = census(store)
    assert [*found.garbage_names()] == ([name] if garbage else [])
    assert (found.young, found.young_bytes) == ((0, 0) if garbage else (1, 10))
    sweep(store, found)
    assert (store.backend.stat(Key(name)) is None) == garbage
    check_roots(store)


def test_another_era_of_a_live_digest_and_the_same_key_in_the_other_space_are_garbage(store: Store) -> None:
    raised(store, 3)
    manifest = BlobKey.parse(entry_of(store, 1).manifest)
    blob = stored_keys(store)["o"][0]
    other_era = put(store, BlobKey(blob.digest, Era(2)))
    as_blob = put(store, manifest)
    as_manifest = put(store, blob, manifest=True)
    found = census(store)
    assert {*found.garbage_names()} == {other_era, as_blob, as_manifest}
    sweep(store, found)
    check_roots(store)


def test_names_that_do_not_parse_are_told_and_left_alone(store: Store) -> None:
    raised(store, 9)
    digest = "ab" * 32
    strange = [
        f"p/orders/o/ab/{digest}.01",
        f"p/orders/o/ab/{digest}",
        f"p/orders/o/ab/{digest}.1.2",
        f"p/orders/o/ab/{digest.upper()}.1",
        f"p/orders/o/ab/{digest}.99999999999999999",
        f"p/orders/o/cd/{digest}.1",
        f"p/orders/o/{digest}.1",
        f"p/orders/o/ab/ab/{digest}.1",
        f"p/orders/m/ab/{digest}.1",
        "p/orders/o/readme.txt",
        "p/orders/m/notes",
    ]
    for name in strange:
        store.backend.create(Key(name), b"whose?")
    found = census(store)
    assert set(found.strangers) == set(strange)
    assert len(found.garbage) == 0
    sweep(store, found)
    assert set(strange) <= names(store)


def test_strangers_are_told_up_to_a_bound(store: Store) -> None:
    for number in range(150):
        store.backend.create(Key(f"p/orders/o/stranger-{number}"), b"")
    assert len(census(store).strangers) == gc.MAX_NAMES


def test_trash_and_holds_are_roots(store: Store) -> None:
    sweeper = Sweeper(store)
    sweeper.expire("1")
    raised(store, 5)
    assert len(census(store).garbage) == 0
    edit(store, "orders", partial(hold, label="1", hold_id="d" * 32, reason="a", now=time_text(1), expires_at=None))
    sweeper.advance()
    assert store.head(PIPELINE).head.trash == ()
    found = census(store)
    assert len(found.garbage) == 0
    assert contents(store, store.head(PIPELINE).head.holds[0].entry) == FIRST


def test_a_pack_that_only_a_file_names_is_needed_too(store: Store) -> None:
    """Whatever a manifest's list of packs says."""
    head = store.head(PIPELINE).head

    def without_packs(head: Head, entry: HeadEntry) -> ManifestKeys:
        return msgspec.structs.replace(store.manifest_keys(head, entry), packs=())

    assert without_packs(head, head.live[0]) != store.manifest_keys(head, head.live[0])
    raised(store, 5)
    found = take_census(store, store.head(PIPELINE).head, without_packs)
    assert (len(found.garbage), found.dangling) == (0, ())


def test_the_keys_of_a_manifest_are_those_of_its_blobs(store: Store) -> None:
    head = store.head(PIPELINE).head
    for entry in head.live:
        manifest = store.manifest(head, entry)
        assert any(isinstance(file.place, Slice) for file in manifest.operators[0].subtasks[0].files)
        assert {BlobKey(Digest(d), Era(e)) for d, e in keys_of(store.manifest_keys(head, entry))} == set(
            blobs(manifest)
        )


@given(manifests())
def test_the_keys_of_any_manifest_are_those_of_its_blobs(manifest: Manifest) -> None:
    keys = decode(encode(manifest), ManifestKeys, what="manifest", max_bytes=1 << 26, canonical=False)
    listed = {BlobKey.parse(pack.key) for pack in manifest.packs}
    assert {BlobKey(Digest(d), Era(e)) for d, e in keys_of(keys)} == {*blobs(manifest)} | listed


def test_of_a_destroyed_pipeline_everything_is_garbage(store: Store) -> None:
    edit(store, "orders", destroy)
    found = census(store)
    assert len(found.garbage) == found.stored > 0
    sweep(store, found)
    assert stored_keys(store) == {"o": [], "m": []}
    assert store.head(PIPELINE).head.state == "destroyed"


def test_another_pipeline_is_not_looked_at(store: Store, tmp_path: Path) -> None:
    other = PipelineId("orders-2")
    checkpoint_tree(opened(store, other), write_tree(tmp_path / "tree", SECOND))
    edit(store, "orders", destroy)
    found = census(store)
    sweep(store, found)
    assert all(name.startswith("p/orders/") for name in found.garbage_names())
    check_roots(store, other)


# Where in doubt.


@pytest.mark.parametrize("damage", ["gone", "flipped", "cut", "another's"])
@pytest.mark.parametrize("label", [1, 2])
def test_a_manifest_that_cannot_be_read_stops_everything(store: Store, damage: str, label: int) -> None:
    raised(store, 5)
    put(store, key(1, 1))
    name = manifest_name(store, f"orders@{label}")
    match damage:
        case "gone":
            overwrite(store.backend, name, None)
        case "flipped":
            flip(store.backend, name, 30)
        case "cut":
            overwrite(store.backend, name, b"")
        case _:
            head = store.head(PIPELINE).head
            other = head.live[2 - label]
            same = {"manifest": other.manifest, "manifest_bytes": other.manifest_bytes}
            live = tuple(msgspec.structs.replace(entry, **same) for entry in head.live)
            edit(store, "orders", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, live=live))
    expected = {"gone": BlobGoneError, "another's": WrongStoreError}.get(damage, CorruptError)
    with pytest.raises(expected):
        census(store)


def test_an_error_of_the_store_while_it_is_read_stops_everything(store: Store) -> None:
    raised(store, 5)
    put(store, key(1, 1))
    head = store.head(PIPELINE).head
    for verb, count in (("open", 2), ("list", 2)):
        for number in range(count):
            faulty = FaultyBackend(store.backend, script(verb, [*[None] * number, Fault.REFUSED]))
            with pytest.raises(UnavailableError):
                take_census(behind(store, faulty), head)


def test_a_blob_of_an_era_that_head_has_not_reached_says_that_head_went_back(store: Store) -> None:
    raised(store, 5)
    put(store, key(1, 7))
    with pytest.raises(CorruptError, match="went back: it is in era 6, and there are blobs of era 7"):
        census(store)


def test_an_era_that_was_raised_since_head_was_read_is_fine(store: Store) -> None:
    raised(store, 5)
    put(store, key(2, 1))

    def others() -> None:
        edit(store, "orders", partial(raise_era, floor=False))
        put(store, key(1, 7))

    head = store.head(PIPELINE).head
    found = take_census(behind(store, FaultyBackend(store.backend, script("list", [Meanwhile(before=others)]))), head)
    assert (len(found.garbage), found.young) == (1, 1)


def test_what_is_missing_is_told_with_every_snapshot_that_needs_it(store: Store) -> None:
    edit(store, "orders", partial(hold, label="1", hold_id="d" * 32, reason="a", now=time_text(1), expires_at=None))
    head = store.head(PIPELINE).head
    both = set.intersection(*({*keys_of(store.manifest_keys(head, entry))} for entry in head.live))
    only = {*keys_of(store.manifest_keys(head, head.live[1]))} - both
    for digest, era in (min(both), min(only)):
        overwrite(store.backend, layout.blob(PIPELINE, BlobKey(Digest(digest), Era(era))), None)
    found = census(store)
    assert {lost.snapshots for lost in found.dangling} == {("orders@1", "orders@2"), ("orders@2",)}
    assert {lost.key.rpartition("/")[2] for lost in found.dangling} == {
        f"{digest}.{era}" for digest, era in (min(both), min(only))
    }


def test_a_manifest_that_only_a_cache_has_is_missing(store: Store) -> None:
    head = store.head(PIPELINE).head
    known = {entry.manifest: store.manifest_keys(head, entry) for entry in head.live}
    name = manifest_name(store, "orders@1")
    overwrite(store.backend, name, None)
    found = take_census(store, head, lambda _, entry: known[entry.manifest])
    assert [(lost.key, lost.snapshots) for lost in found.dangling] == [(name.path, ("orders@1",))]


class Forgetful(CountingBackend):
    """Lists all but the first blob."""

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return islice(super().list(prefix, reach=reach), 1, None)


def test_what_a_listing_does_not_show_and_a_look_finds_is_not_missing(store: Store) -> None:
    assert take_census(behind(store, Forgetful(store.backend)), store.head(PIPELINE).head).dangling == ()


# The sweep.


class Batches(CountingBackend):
    def __init__(self, inner: object) -> None:
        super().__init__(inner)  # type: ignore[arg-type]  # a backend
        self.batches: list[list[str]] = []

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        self.batches.append([str(key) for key in wanted])
        super().delete(wanted)


def test_it_deletes_exactly_what_the_census_names_a_thousand_at_a_time(store: Store) -> None:
    raised(store, 5)
    expected = {put(store, key(number << 200, 1 + number % 4), b"") for number in range(2 * BATCH + 5)}
    before = names(store)
    batches = Batches(store.backend)
    found = census(store)
    told: list[int] = []
    sweep(behind(store, batches), found, told.append)
    assert {*found.garbage_names()} == expected
    assert [len(batch) for batch in batches.batches] == [BATCH, BATCH, 5]
    assert told == [1000, 2000, 2005]
    assert before - names(store) == expected
    sweep(store, found)


def test_an_old_census_may_be_swept_long_after(store: Store, tmp_path: Path) -> None:
    """By then a session of a new era has the same content again."""
    sweeper = Sweeper(store)
    sweeper.expire("1")
    for _ in range(2):
        sweeper.advance()
    old = census(store)
    assert len(old.garbage) > 0
    sweep(store, old)
    for _ in range(2):
        checkpoint_tree(opened(store), write_tree(tmp_path / "tree", FIRST))
        sweep(store, old)
        sweeper.advance()
        sweep(store, old)
    check_roots(store)


# What never finished.


def test_writes_that_never_finished_go_by_age_on_disk(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    opened(store)
    folder = tmp_path / "store" / "tmp"
    (folder / "subdirectory").mkdir()
    for name, age in (("old", 100_000), ("new", 10)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    assert remove_unfinished(store, {PIPELINE: 5}, 1e9 - 86_400) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["new", "subdirectory"]


class Uploads(CountingBackend):
    """Some uploads were begun."""

    def __init__(self, inner: object, keys: list[str]) -> None:
        super().__init__(inner)  # type: ignore[arg-type]  # a backend
        self.uploads = [Unfinished(Key(key), "token") for key in keys]
        self.removed: list[str] = []

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return iter(self.uploads) if reach is Reach.UNFINISHED else super().list(prefix, reach=reach)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        self.removed += [key.key.path for key in keys if isinstance(key, Unfinished)]


def test_uploads_that_never_finished_go_by_era_elsewhere(store: Store) -> None:
    def name(pipeline: str, era: int) -> str:
        return layout.blob(PipelineId(pipeline), key(1, era)).path

    uploads = Uploads(
        store.backend,
        [
            name("orders", 4),
            name("orders", 5),
            name("orders", 6),
            name("orders-2", 1),
            name("other", 1),
            "p/orders/o/ab/strange",
            layout.manifest(PIPELINE, key(1, 4)).path,
        ],
    )
    found = remove_unfinished(behind(store, uploads), {PIPELINE: 5, PipelineId("other"): 2}, 1e18)
    assert uploads.removed == [name("orders", 4), name("other", 1), layout.manifest(PIPELINE, key(1, 4)).path]
    assert found == 3


# What re-packing left.


def test_of_what_was_left_only_what_is_garbage_goes(store: Store) -> None:
    """A root that came meanwhile may name it, as a pack or as a blob of its own, or be of its very manifest."""
    head = store.head(PIPELINE).head
    first, second = head.live
    ours = {Stored(Space.BLOB, blob) for entry in head.live for blob in blobs(store.manifest(head, entry))}
    roots_of = {Stored(Space.MANIFEST, BlobKey.parse(entry.manifest)) for entry in (first, second)}
    old, young = Stored(Space.BLOB, key(1, 1)), Stored(Space.BLOB, key(2, 6))
    for stored in (old, young):
        put(store, stored.key)
    raised(store, 5)
    head = store.head(PIPELINE).head
    before = stored_keys(store)
    gone = sweep_left(store, head, {old, young} | ours | roots_of, RootManifests(store, PIPELINE))
    assert gone == {old}
    after = stored_keys(store)
    assert (set(before["o"]) - set(after["o"]), before["m"]) == ({old.key}, after["m"])
    check_roots(store)


def test_nothing_that_was_left_goes_where_a_manifest_cannot_be_read(store: Store) -> None:
    raised(store, 5)
    put(store, key(1, 1))
    flip(store.backend, manifest_name(store, "orders@2"), 30)
    with pytest.raises(CorruptError):
        sweep_left(store, store.head(PIPELINE).head, [Stored(Space.BLOB, key(1, 1))], RootManifests(store, PIPELINE))
    assert store.backend.stat(layout.blob(PIPELINE, key(1, 1))) is not None
