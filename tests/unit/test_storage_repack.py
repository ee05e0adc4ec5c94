"""Re-packing: what is needed of a wasted pack moves, every root says the same as before, and then there is an end."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formats.errors import CorruptError
from formats.head import Head, roots
from formats.ids import BlobKey, PipelineId
from formats.manifest import BLOCK_BYTES, TABLE_BLOCKS, Blocks, Manifest, Slice, StateFile, Table, Whole, files_of
from storage import layout
from storage.backend import Found, Key
from storage.edits import expire, hold, release
from storage.repack import LIVE_AT_LEAST, Repacked, find_wasted, foresee, repack
from storage.rewrite import replace_places
from storage.session import Session
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
    memory_store,
    opened,
    stored_keys,
    write_tree,
)
from tests.support.stores import file_at, flip, noise, text
from tests.support.sweeper import Sweeper

MIB = 1 << 20
NOTHING = Repacked()
Files = dict[str, bytes]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return memory_store(tmp_path)


@pytest.fixture
def gc(store: Store) -> Sweeper:
    opened(store)
    return Sweeper(store)


def take(store: Store, tmp_path: Path, *trees: Files) -> None:
    """A checkpoint of each."""
    for files in trees:
        checkpoint_tree(opened(store), write_tree(tmp_path / "tree", files))


def drop(gc: Sweeper, *labels: str) -> None:
    """These snapshots have left the trash, and what only they needed is swept."""
    gc.expire(*labels)
    gc.advance()
    gc.advance()
    gc.sweep()


def small(count: int, seed: int, size: int = 20_000) -> Files:
    return {f"f{number}": noise(size, 100 * seed + number) for number in range(count)}


def settle(store: Store, gc: Sweeper) -> list[Repacked]:
    """Re-packed until nothing is left to do, which must come soon; swept."""
    done = []
    for _ in range(4):
        found = repack(store, PIPELINE)
        if found.packs == 0:
            assert found.written_bytes == found.manifests == 0
            break
        done.append(found)
    else:
        pytest.fail(f"no end of it: {done}")
    gc.advance()
    gc.advance()
    gc.sweep()
    return done


def stored_bytes(store: Store) -> int:
    return sum(found.bytes for found in store.backend.list(Key("p/orders/o")) if isinstance(found, Found))


# What moves.


def test_what_is_left_of_a_pack_moves_and_the_rest_is_freed(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(10, 1)
    second = {name: first[name] for name in ("f2", "f7")}
    take(store, tmp_path, first, second)
    drop(gc, "1")
    before = store.head(PIPELINE).head
    wasted = find_wasted(store, before)
    assert [len(pack.contents) for pack in wasted] == [2]
    (done,) = settle(store, gc)
    assert (done.packs, done.pack_bytes, done.written_bytes, done.manifests) == (1, 200_008, 40_008, 1)
    (root,) = before.live
    assert [(str(placed.stored.key), placed.bytes) for placed in done.left] == [
        (str(wasted[0].key), 200_008),
        (root.manifest, root.manifest_bytes),
    ]
    head = check_roots(store)
    assert contents(store, head.live[0]) == second
    assert stored_bytes(store) == 40_008
    same = {"manifest": "", "manifest_bytes": 0}
    assert msgspec.structs.replace(head.live[0], **same) == msgspec.structs.replace(before.live[0], **same)


def test_a_pack_that_is_nine_tenths_live_stays(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(20, 1)
    assert LIVE_AT_LEAST == 0.9
    take(store, tmp_path, first, {name: first[name] for name in list(first)[1:]}, dict(list(first.items())[3:]))
    drop(gc, "1")
    assert repack(store, PIPELINE) == NOTHING
    drop(gc, "2")
    assert repack(store, PIPELINE).packs == 1


def test_little_waste_is_no_reason_to_write_a_manifest(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = {"a": noise(1500, 1), "b": noise(3000, 2), "c": noise(500, 3), "big": noise(MIB + 1, 1)}
    many = {f"e{number}": noise(4090, 50 + number) for number in range(20)}  # too many to go inline
    take(store, tmp_path, first | many, {"a": first["a"]} | many)
    drop(gc, "1")
    assert repack(store, PIPELINE) == NOTHING


def test_an_empty_file_and_its_neighbour_begin_at_the_same_place(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    kept = {"a-empty": b"", "b": noise(9000, 1), "c": noise(9000, 2)}
    gone = {f"x{number}": noise(20_000, 10 + number) for number in range(10)}
    take(store, tmp_path, kept | gone, kept)
    empty, after = (file_at(store, "orders@2", name).place for name in ("a-empty", "b"))
    assert isinstance(empty, Slice)
    assert isinstance(after, Slice)
    assert (empty.length, empty.offset) == (0, after.offset)
    drop(gc, "1")
    assert len(settle(store, gc)) == 1
    assert contents(store, check_roots(store).live[0]) == kept


def test_compressed_slices_move_as_they_are(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    kept = {"plain": noise(9000, 1), "packed": text(200_000, 2), "sst/1.sst": text(2 * MIB, 3)}
    take(store, tmp_path, kept | small(20, 2), kept)
    packed = file_at(store, "orders@2", "packed").place
    assert isinstance(packed, Slice)
    assert packed.codec == "zstd"
    drop(gc, "1")
    assert len(settle(store, gc)) == 1
    moved = file_at(store, "orders@2", "packed").place
    assert isinstance(moved, Slice)
    assert (moved.codec, moved.length) == ("zstd", packed.length)
    assert contents(store, check_roots(store).live[0]) == kept


def test_a_slice_that_many_files_and_snapshots_name_moves_once(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    shared = noise(20_000, 1)
    kept = {"a": shared, "b": shared, "c/d": shared}
    take(store, tmp_path, kept | small(10, 2), kept, kept | {"a": noise(20_000, 3)})
    gc.edit(partial(hold, label="2", hold_id="d" * 32, reason="audit", now=time_text(1), expires_at=None))
    drop(gc, "1")
    (done,) = settle(store, gc)
    assert (done.packs, done.written_bytes, done.manifests) == (1, 20_008, 2)
    head = check_roots(store)
    assert [contents(store, root) for root in roots(head)] == [kept, kept | {"a": noise(20_000, 3)}, kept]
    assert head.holds[0].entry == head.live[0]


def test_what_somebody_reads_under_a_hold_stays_where_it_is(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    """A restore goes by the manifest that it has read, however long it takes."""
    first = small(10, 1)
    kept = {"f1": first["f1"]}
    take(store, tmp_path, first, kept)
    drop(gc, "1")
    holding = partial(hold, label="2", hold_id="d" * 32, reason="restore", now=time_text(1))
    begun = entry_of(store, 2)
    gc.edit(partial(holding, expires_at=time_text(10**6)))
    assert repack(store, PIPELINE) == NOTHING
    gc.edit(partial(release, hold_ids=frozenset({"d" * 32})))

    # The hold comes while the packs are being written.
    others = Meanwhile(before=lambda: gc.edit(partial(holding, expires_at=time_text(10**6))))
    faulty = FaultyBackend(store.backend, script("create", [others]))
    assert repack(behind(store, faulty), PIPELINE).packs == 1
    for _ in range(3):
        gc.advance()
        gc.sweep()
    head = check_roots(store)
    assert head.holds[0].entry == begun
    assert head.live[0].manifest != begun.manifest
    assert contents(store, begun) == kept
    assert repack(store, PIPELINE) == NOTHING
    gc.edit(partial(release, hold_ids=frozenset({"d" * 32})))
    gc.sweep()
    assert stored_bytes(store) == 20_008
    assert contents(store, check_roots(store).live[0]) == kept


def test_what_is_in_the_trash_moves_along(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(10, 1)
    kept = {"f1": first["f1"]}
    take(store, tmp_path, first, kept)
    drop(gc, "1")
    gc.edit(partial(expire, labels=frozenset({"2"}), now=time_text(2)))
    assert repack(store, PIPELINE).packs == 1
    assert contents(store, check_roots(store).trash[0].entry) == kept


def test_whole_files_inline_files_and_empty_pipelines_are_none_of_its_business(store: Store, tmp_path: Path) -> None:
    opened(store)
    assert repack(store, PIPELINE) == NOTHING
    take(store, tmp_path, {"tiny": b"x", "a.sst": noise(2 * MIB, 1)}, {"tiny": b"y"})
    Sweeper(store).expire("1")
    before = store.head(PIPELINE)
    counting = CountingBackend(store.backend)
    assert repack(behind(store, counting), PIPELINE) == NOTHING
    assert (counting.calls["create"], counting.calls["swap"], counting.calls["delete"]) == (0, 0, 0)
    assert store.head(PIPELINE) == before


def test_several_packs_become_one(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    trees = [small(10, seed) for seed in range(5)]
    kept = {f"{seed}/f1": tree["f1"] for seed, tree in enumerate(trees)}
    for seed, tree in enumerate(trees):
        before = dict(list(kept.items())[:seed])
        take(store, tmp_path, {f"{seed}/{name}": data for name, data in tree.items()} | before)
    take(store, tmp_path, kept)
    drop(gc, *"12345")
    (done,) = settle(store, gc)
    assert done.packs == 5
    assert len(stored_keys(store)["o"]) == 1
    assert contents(store, check_roots(store).live[0]) == kept


# Blocks.


def pages(count: int, seed: int) -> list[bytes]:
    return [noise(BLOCK_BYTES, 1000 * seed + number) for number in range(count)]


def test_blocks_move_and_their_table_says_where(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    old = pages(40, 1)
    new = [*pages(30, 2), *old[30:]]
    take(store, tmp_path, {"a.db": b"".join(old)}, {"a.db": b"".join(new) + b"the end"})
    drop(gc, "1")
    (done,) = settle(store, gc)
    assert done.packs >= 1
    head = check_roots(store)
    assert contents(store, head.live[0]) == {"a.db": b"".join(new) + b"the end"}
    assert stored_bytes(store) <= 1.05 * 40 * BLOCK_BYTES


def test_files_of_several_tables(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    """Of 300 MiB: two tables of which one does not change, and a second file that shares blocks with none."""
    page = text(BLOCK_BYTES - 8, 1)
    old = [number.to_bytes(8, "big") + page for number in range(TABLE_BLOCKS + 700)]
    new = [*old[:TABLE_BLOCKS], *pages(300, 3), *old[TABLE_BLOCKS + 300 :]]
    other = {"b.db": b"".join(pages(20, 4))}
    take(store, tmp_path, {"a.db": b"".join(old)} | other, {"a.db": b"".join(new)} | other)
    take(store, tmp_path, {"a.db": b"".join(new)})
    drop(gc, "1", "2")
    settle(store, gc)
    head = check_roots(store)
    assert contents(store, head.live[0])["a.db"] == b"".join(new)
    place = file_at(store, "orders@3", "a.db").place
    assert isinstance(place, Blocks)
    assert len(place.tables) == 2


def test_a_table_in_a_wasted_pack_whose_blocks_stay_moves_as_it_is(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    base = b"".join(pages(30, 1))
    take(store, tmp_path, {"a.db": base})
    place = file_at(store, "orders@1", "a.db").place
    assert isinstance(place, Blocks)
    (table,) = place.tables
    data = b"".join(Session(store, PIPELINE).blobs.content(table))
    padding = noise(50_000, 9)
    moved: list[Table] = []

    def plan(session: Session) -> list[tuple[str, Manifest]]:
        """The same file, with its table in a pack that holds mostly what nobody needs."""
        pack = b"EOPK\x01\0\0\0" + data + padding
        key = session.upload(store.hash.digest(pack), len(pack), pack)
        moved.append(Table(table.digest, table.bytes, Slice(pack=str(key), offset=8, length=len(data))))
        packs = tuple(sorted({*place.packs, str(key)}))

        def change(file: StateFile) -> StateFile:
            return msgspec.structs.replace(file, place=Blocks((moved[-1],), packs))

        entry = session.head.head.live[0]
        manifest = store.manifest(session.head.head, entry)
        return [(entry.manifest, replace_places(manifest, change, {str(key): len(pack)}))]

    Session(store, PIPELINE, based=False).rewrite(plan)
    check_roots(store)
    (done,) = settle(store, gc)
    assert (done.packs, done.pack_bytes) == (1, len(data) + 50_008)
    head = check_roots(store)
    assert contents(store, head.live[0]) == {"a.db": base}
    found = file_at(store, "orders@1", "a.db").place
    assert isinstance(found, Blocks)
    assert found.tables[0].digest == table.digest
    assert found.tables[0].place == table.place  # the same bytes, as once before


def test_a_table_in_a_blob_of_its_own_is_encoded_anew_or_left(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    old = pages(30, 1)
    new = [*pages(25, 2), *old[25:]]
    take(store, tmp_path, {"a.db": b"".join(old)}, {"a.db": b"".join(new)})

    def plan(session: Session) -> list[tuple[str, Manifest]]:
        found = []
        for entry in session.head.head.live:
            manifest = store.manifest(session.head.head, entry)

            def change(file: StateFile) -> StateFile:
                assert isinstance(file.place, Blocks)
                (table,) = file.place.tables
                data = b"".join(session.blobs.content(table))
                key = session.upload(store.hash.digest(data), len(data), data)
                packs = {str(block.pack) for block in session.blobs.table(table)}
                place = Blocks((Table(table.digest, table.bytes, Whole(key.era)),), tuple(sorted(packs)))
                return msgspec.structs.replace(file, place=place)

            found.append((entry.manifest, replace_places(manifest, change, {})))
        return found

    Session(store, PIPELINE, based=False).rewrite(plan)
    drop(gc, "1")
    settle(store, gc)
    assert contents(store, check_roots(store).live[0]) == {"a.db": b"".join(new)}


def test_files_that_share_a_table_share_it_afterwards(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    old = pages(40, 1)
    new = b"".join([*pages(30, 2), *old[30:]])
    take(store, tmp_path, {"a.db": b"".join(old)}, {"a.db": new}, {"a.db": new, "copy.db": new})
    drop(gc, "1")
    settle(store, gc)
    head = check_roots(store)
    assert [contents(store, root) for root in head.live] == [{"a.db": new}, {"a.db": new, "copy.db": new}]
    places = {repr(file_at(store, "orders@3", name).place) for name in ("a.db", "copy.db")}
    assert places == {repr(file_at(store, "orders@2", "a.db").place)}


# Damage.


def test_a_damaged_pack_is_left_as_it_is_and_told(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    one, two = small(10, 1), {f"g{number}": noise(20_000, 77 + number) for number in range(10)}
    kept = {"f1": one["f1"], "f2": one["f2"], "g1": two["g1"]}
    take(store, tmp_path, one, one | two, kept)
    place = file_at(store, "orders@3", "f1").place
    assert isinstance(place, Slice)
    name = layout.blob(PIPELINE, BlobKey.parse(place.pack))
    flip(store.backend, name, place.offset)
    drop(gc, "1", "2")
    done = repack(store, PIPELINE)
    assert (done.packs, done.damaged) == (1, (f"{name}: content does not match its digest",))
    again = repack(store, PIPELINE)
    assert again == Repacked(damaged=done.damaged)
    assert file_at(store, "orders@3", "f1").place == place
    assert isinstance(file_at(store, "orders@3", "g1").place, Slice)
    head = store.head(PIPELINE).head
    assert foresee(store, head) == again


def test_damage_where_nobody_needs_it_keeps_the_pack_too(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(10, 1)
    take(store, tmp_path, first, {"f1": first["f1"]})
    place = file_at(store, "orders@1", "f5").place
    assert isinstance(place, Slice)
    flip(store.backend, layout.blob(PIPELINE, BlobKey.parse(place.pack)), place.offset)
    drop(gc, "1")
    assert repack(store, PIPELINE).packs == 0
    assert contents(store, entry_of(store, 2)) == {"f1": first["f1"]}


def test_a_block_table_that_cannot_be_read_stops_it(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    take(store, tmp_path, {"a.db": b"".join(pages(20, 1))})
    place = file_at(store, "orders@1", "a.db").place
    assert isinstance(place, Blocks)
    (table,) = place.tables
    assert isinstance(table.place, Slice)
    flip(store.backend, layout.blob(PIPELINE, BlobKey.parse(table.place.pack)), table.place.offset + 20)
    before = store.head(PIPELINE)
    with pytest.raises(CorruptError, match="block table"):
        repack(store, PIPELINE)
    assert store.head(PIPELINE) == before


# Others at work.


def test_two_at_once_do_it_once(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(10, 1)
    take(store, tmp_path, first, {"f1": first["f1"]})
    drop(gc, "1")
    for verb in ("open", "create", "swap"):
        other = behind(store, store.backend)
        faulty = FaultyBackend(store.backend, script(verb, [Meanwhile(before=partial(repack, other, PIPELINE))]))
        repack(behind(store, faulty), PIPELINE)
        assert contents(store, check_roots(store).live[0]) == {"f1": first["f1"]}
        assert repack(store, PIPELINE) == NOTHING
        checkpoint_tree(opened(store), write_tree(tmp_path / "tree", small(10, 5) | {"f1": first["f1"]}))
        checkpoint_tree(opened(store), write_tree(tmp_path / "tree", {"f1": first["f1"]}))
        gc.expire(store.head(PIPELINE).head.live[-2].label)
        gc.advance()


def test_a_snapshot_that_is_dropped_and_swept_meanwhile(store: Store, gc: Sweeper, tmp_path: Path) -> None:
    first = small(10, 1)
    kept = {"f1": first["f1"]}
    for number in range(12):
        take(store, tmp_path, first, kept, {"f2": noise(9000, number)})
        labels = [entry.label for entry in store.head(PIPELINE).head.live][-3:]
        drop(gc, labels[0])
        others = iter([lambda label=labels[1]: drop(gc, label)])
        faulty = FaultyBackend(
            store.backend,
            lambda call, others=others, number=number: (  # type: ignore[misc]  # the defaults bind this turn's
                Meanwhile(before=next(others, lambda: None)) if call.number == number else None
            ),
        )
        repack(behind(store, faulty), PIPELINE)
        check_roots(store)
        assert repack(store, PIPELINE).packs == 0


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REPLY_LOST, Fault.LATE, Fault.TWICE, Fault.REFUSED])
def test_one_fault_of_the_swap_changes_nothing(store: Store, gc: Sweeper, tmp_path: Path, fault: Fault) -> None:
    first = small(10, 1)
    take(store, tmp_path, first, {"f1": first["f1"]})
    drop(gc, "1")
    faulty = FaultyBackend(store.backend, script("swap", [fault]))
    assert repack(behind(store, faulty), PIPELINE).packs == 1
    faulty.deliver()
    assert contents(store, check_roots(store).live[0]) == {"f1": first["f1"]}


# Any history.


class Trees:
    """A tree of small and large files that changes by a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.files: Files = {"z.db": noise(MIB + 4 * BLOCK_BYTES, 1)}

    def change(self) -> Files:
        for _ in range(self._rng.randint(1, 8)):
            name = f"f{self._rng.randint(0, 12)}"
            self.files.pop(name, None)
            match self._rng.randint(0, 5):
                case 0:
                    self.files[name] = b""
                case 1:
                    self.files[name] = text(self._rng.randint(1, 50_000), self._rng.randint(0, 9))
                case 2 | 3 | 4:
                    self.files[name] = noise(self._rng.randint(1, 50_000), self._rng.randint(0, 9))
        if self._rng.random() < 0.7:
            page = self._rng.randint(0, 19) * BLOCK_BYTES
            old = self.files["z.db"]
            fresh = noise(BLOCK_BYTES, self._rng.randint(0, 99))
            self.files["z.db"] = old[:page] + fresh + old[page + BLOCK_BYTES :]
        return dict(self.files)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from("ttdr"), min_size=4, max_size=14))
def test_after_any_history_every_snapshot_says_the_same_and_an_end_is_reached(
    tmp_path: Path, seed: int, steps: list[str]
) -> None:
    store = memory_store(tmp_path)
    opened(store)
    gc, trees = Sweeper(store), Trees(seed)
    taken: dict[str, Files] = {}
    for step in ["t", "t", *steps, "r"]:
        live = [entry.label for entry in store.head(PIPELINE).head.live]
        if step == "t":
            files = trees.change()
            take(store, tmp_path, files)
            taken[str(len(taken) + 1)] = files
        elif step == "d" and len(live) > 1:
            drop(gc, live[seed % (len(live) - 1)])
        elif step == "r":
            settle(store, gc)
        head: Head = check_roots(store)
        assert {entry.label: contents(store, entry) for entry in head.live} == {
            entry.label: taken[entry.label] for entry in head.live
        }
    live_files = [file for entry in head.live for _, _, file in files_of(store.manifest(head, entry))]
    assert live_files
    assert find_wasted(store, head) == ()


# How much is left over.


@pytest.mark.parametrize("kept", [1, 3])
def test_of_many_small_files_hardly_more_is_stored_than_is_needed(
    store: Store, gc: Sweeper, tmp_path: Path, kept: int
) -> None:
    rng = random.Random(5)
    files = {f"d{number % 20}/f{number}": rng.randbytes(rng.randint(1000, 20_000)) for number in range(1000)}
    for step in range(8):
        if step:
            for name in rng.sample(sorted(files), len(files) // 20):
                files[name] = rng.randbytes(rng.randint(1000, 20_000))
        take(store, tmp_path, files)
    labels = [entry.label for entry in store.head(PIPELINE).head.live]
    drop(gc, *labels[:-kept])
    settle(store, gc)
    needed = needed_bytes(store)
    assert stored_bytes(store) <= 1.11 * needed
    if kept == 1:
        assert stored_bytes(store) <= 1.05 * needed


def test_of_a_large_changing_file_hardly_more_is_stored_than_is_needed(
    store: Store, gc: Sweeper, tmp_path: Path
) -> None:
    rng = random.Random(5)
    data = bytearray(rng.randbytes(24 * MIB))
    for step in range(6):
        for _ in range(20 if step else 0):
            page = rng.randrange(24 * MIB // BLOCK_BYTES) * BLOCK_BYTES
            data[page : page + BLOCK_BYTES] = rng.randbytes(BLOCK_BYTES)
        take(store, tmp_path, {"pages.db": bytes(data)})
    drop(gc, "1", "2", "3")
    settle(store, gc)
    assert contents(store, entry_of(store, 6)) == {"pages.db": bytes(data)}
    assert stored_bytes(store) <= 1.05 * needed_bytes(store)


def needed_bytes(store: Store) -> int:
    """Each slice, block, table and whole file that a root needs, counted once."""
    head = store.head(PIPELINE).head
    reader = Session(store, PipelineId(head.pipeline)).blobs
    found: dict[tuple[str, int], int] = {}
    for entry in roots(head):
        for _, _, file in files_of(store.manifest(head, entry)):
            match file.place:
                case Slice(pack=pack, offset=offset, length=length):
                    found[pack, offset] = max(length, found.get((pack, offset), 0))
                case Whole(era=era):
                    found[file.digest, era] = file.bytes
                case Blocks(tables=tables):
                    for table in tables:
                        found[table.digest, -1] = table.bytes
                        found |= {(str(b.pack), b.offset): b.length for b in reader.table(table)}
    return sum(found.values())
