"""Roots get other manifests that say the same, whatever gc, other sessions and the disk do meanwhile."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from formats.errors import BlobGoneError, CorruptError, SessionExpiredError
from formats.head import Head, HeadEntry, roots
from formats.ids import BlobKey, Digest
from formats.manifest import Blocks, Manifest, Slice, StateFile, Whole, blob_key, blobs, files_of
from storage import layout
from storage.backend import SyncFailedError
from storage.edits import hold, touch
from storage.head import MAX_TRIES
from storage.rewrite import replace_places
from storage.session import Session
from storage.store import Store
from tests.support.fakes import time_text
from tests.support.faulty import CountingBackend, Fault, FaultyBackend, Meanwhile, script
from tests.support.places import (
    PIPELINE,
    Plan,
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
from tests.support.stores import noise, overwrite
from tests.support.sweeper import Sweeper

OLD = {"a": b"content of a", "b": b"content of b"}
NEW = {"a": b"content of a", "b": b"changed b", "c": b"a new one"}


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return memory_store(tmp_path) if request.param == "memory" else local_store(tmp_path)


@pytest.fixture
def gc(store: Store) -> Sweeper:
    return Sweeper(store)


@pytest.fixture
def two(store: Store) -> tuple[HeadEntry, HeadEntry]:
    """Two checkpoints that share a file, in an era below the newest."""
    writer = opened(store)
    entries = [Session(store, PIPELINE, writer.attempt, writer.owner).commit(Plan(files)) for files in (OLD, NEW)]
    Sweeper(store).advance()
    return entries[0], entries[1]


def moving(
    then: Callable[[Session], object] = lambda _: None, asked: list[int] | None = None
) -> Callable[[Session], Iterable[tuple[str, Manifest]]]:
    """A plan: every blob of every root is uploaded anew, unless it is of the session's era."""

    def plan(session: Session) -> Iterable[tuple[str, Manifest]]:
        if asked is not None:
            asked.append(session.era)

        def moved(file: StateFile) -> StateFile:
            if not isinstance(file.place, Whole) or file.place.era == session.era:
                return file
            data = b"".join(session.blobs.content(file))
            key = session.upload(Digest(file.digest), len(data), data)
            return msgspec.structs.replace(file, place=Whole(key.era))

        found = {}
        for entry in roots(session.head.head):
            old = session.store.manifest(session.head.head, entry)
            new = replace_places(old, moved, session.pack_bytes)
            if new != old:
                found[entry.manifest] = new
        then(session)
        return found.items()

    return plan


def once(action: Callable[[], object]) -> Callable[[Session], object]:
    actions = iter([action])
    return lambda _: next(actions, lambda: None)()


def eras(store: Store, head: Head) -> set[int]:
    found = {BlobKey.parse(root.manifest).era for root in roots(head)}
    return found | {key.era for root in roots(head) for key in blobs(store.manifest(head, root))}


def test_every_root_says_the_same_in_the_sessions_era(store: Store, gc: Sweeper, two) -> None:
    gc.edit(partial(hold, label="1", hold_id="d" * 32, reason="audit", now=time_text(1), expires_at=None))
    before = store.head(PIPELINE).head
    moved = Session(store, PIPELINE).rewrite(moving())
    assert set(moved) == {entry.manifest for entry in two}
    head = check_roots(store)
    assert eras(store, head) == {2}
    assert (head.live[0].manifest, head.live[1].manifest) == tuple(str(moved[entry.manifest]) for entry in two)
    assert head.holds[0].entry == head.live[0]
    assert [contents(store, entry) for entry in head.live] == [OLD, NEW]
    same = {"manifest": "", "manifest_bytes": 0}
    for then, now in zip(roots(before), roots(head), strict=True):
        assert msgspec.structs.replace(then, **same) == msgspec.structs.replace(now, **same)
    assert (head.era, head.floor, head.writer) == (before.era, before.floor, before.writer)
    gc.advance()
    gc.sweep()
    assert [contents(store, entry) for entry in check_roots(store).live] == [OLD, NEW]


def test_where_nothing_is_left_to_do_head_is_left_alone(store: Store, two) -> None:
    Session(store, PIPELINE).rewrite(moving())
    before = store.head(PIPELINE)
    counting = CountingBackend(store.backend)
    assert Session(behind(store, counting), PIPELINE).rewrite(moving()) == {}
    assert counting.calls["swap"] == counting.calls["create"] == 0
    assert store.head(PIPELINE) == before


def test_a_floor_that_rises_before_the_swap_costs_another_plan_and_a_copy(store: Store, gc: Sweeper, two) -> None:
    asked: list[int] = []
    Session(store, PIPELINE).rewrite(moving(once(lambda: (gc.advance(), gc.advance())), asked))
    assert asked == [2, 4]
    head = check_roots(store)
    assert eras(store, head) == {4}
    assert [contents(store, entry) for entry in head.live] == [OLD, NEW]


def test_a_session_that_can_never_keep_up_says_so_and_has_changed_nothing(store: Store, gc: Sweeper, two) -> None:
    asked: list[int] = []
    with pytest.raises(SessionExpiredError):
        Session(store, PIPELINE).rewrite(moving(lambda _: (gc.advance(), gc.advance()), asked))
    assert len(asked) == MAX_TRIES
    assert tuple(check_roots(store).live) == two


def test_a_root_that_is_dropped_meanwhile_stays_dropped(store: Store, gc: Sweeper, two) -> None:
    def drop() -> None:
        gc.expire("1")
        gc.advance()
        gc.sweep()

    moved = Session(store, PIPELINE).rewrite(moving(once(drop)))
    assert set(moved) == {two[1].manifest}
    head = check_roots(store)
    assert [entry.label for entry in roots(head)] == ["2"]
    assert contents(store, head.live[0]) == NEW


def test_a_root_that_is_moved_to_the_trash_meanwhile_is_rewritten_there(store: Store, gc: Sweeper, two) -> None:
    Session(store, PIPELINE).rewrite(moving(once(lambda: gc.expire("1"))))
    head = check_roots(store)
    assert [trashed.entry.label for trashed in head.trash] == ["1"]
    assert eras(store, head) == {2}


def test_a_snapshot_that_is_committed_meanwhile_keeps_what_it_borrowed(store: Store, gc: Sweeper, two) -> None:
    def commit() -> None:
        writer = opened(store)
        Session(store, PIPELINE, writer.attempt, writer.owner).commit(Plan(OLD))

    Session(store, PIPELINE).rewrite(moving(once(commit)))
    head = check_roots(store)
    assert [contents(store, entry) for entry in head.live] == [OLD, NEW, OLD]


def test_a_writer_whose_base_is_rewritten_plans_again(store: Store, gc: Sweeper, two) -> None:
    writer = opened(store)
    plan = Plan(OLD, then=once(lambda: Session(store, PIPELINE).rewrite(moving())))
    entry = Session(store, PIPELINE, writer.attempt, writer.owner).commit(plan)
    assert len(plan.uploads) == 2
    gc.advance()
    gc.sweep()
    check_roots(store)
    assert contents(store, entry) == OLD


def test_a_root_that_is_swept_while_the_plan_reads_it_is_planned_without(store: Store, gc: Sweeper, two) -> None:
    def drop() -> None:
        gc.expire("1")
        gc.advance()
        gc.advance()
        gc.sweep()

    (lost,) = blobs(store.manifest(store.head(PIPELINE).head, two[0])).keys() - blobs(
        store.manifest(store.head(PIPELINE).head, two[1])
    )
    faulty = FaultyBackend(store.backend, script("open", [Meanwhile(before=drop)], str(lost)))
    moved = Session(behind(store, faulty), PIPELINE).rewrite(moving())
    assert set(moved) == {two[1].manifest}
    assert contents(store, check_roots(store).live[0]) == NEW


def test_a_blob_that_is_truly_gone_is_told(store: Store, two) -> None:
    key = next(iter(blobs(store.manifest(store.head(PIPELINE).head, two[0]))))
    overwrite(store.backend, layout.blob(PIPELINE, key), None)
    with pytest.raises(BlobGoneError):
        Session(store, PIPELINE).rewrite(moving())
    assert store.head(PIPELINE).head.live == two


def test_other_bytes_under_a_name_are_left_alone_and_a_new_era_begins(store: Store, two) -> None:
    name = layout.blob(PIPELINE, BlobKey(store.hash.digest(OLD["a"]), store.head(PIPELINE).head.era))  # type: ignore[arg-type]  # an era
    assert store.backend.create(name, b"other bytes")
    Session(store, PIPELINE).rewrite(moving())
    head = check_roots(store)
    assert head.era == 3
    assert [contents(store, entry) for entry in head.live] == [OLD, NEW]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REPLY_LOST, Fault.LATE, Fault.TWICE, Fault.REFUSED])
def test_one_fault_of_a_swap_changes_nothing_about_the_outcome(store: Store, two, fault) -> None:
    faulty = FaultyBackend(store.backend, script("swap", [fault]))
    moved = Session(behind(store, faulty), PIPELINE).rewrite(moving())
    faulty.deliver()
    assert set(moved) == {entry.manifest for entry in two}
    head = check_roots(store)
    assert [entry.manifest for entry in head.live] == [str(key) for key in moved.values()]


def test_a_swap_whose_reply_was_lost_and_that_head_moved_on_from_is_reported(store: Store, gc: Sweeper, two) -> None:
    lost = Meanwhile(after=lambda: gc.edit(touch), fault=Fault.REPLY_LOST)
    asked: list[int] = []
    faulty = FaultyBackend(store.backend, script("swap", [lost]))
    moved = Session(behind(store, faulty), PIPELINE).rewrite(moving(asked=asked))
    assert set(moved) == {entry.manifest for entry in two}
    assert asked == [2]
    check_roots(store)


def test_a_swap_that_was_lost_and_that_head_moved_on_from_is_made_again(store: Store, gc: Sweeper, two) -> None:
    lost = Meanwhile(before=lambda: (gc.expire("1"), gc.advance()), fault=Fault.LOST)
    faulty = FaultyBackend(store.backend, script("swap", [lost]))
    moved = Session(behind(store, faulty), PIPELINE).rewrite(moving())
    assert set(moved) == {two[1].manifest}
    assert contents(store, check_roots(store).live[0]) == NEW


def test_after_a_failed_sync_nothing_uploaded_before_counts(tmp_path: Path, monkeypatch) -> None:
    store = local_store(tmp_path)
    writer = opened(store)
    Session(store, PIPELINE, writer.attempt, writer.owner).commit(Plan(OLD))
    Sweeper(store).advance()
    real = os.fsync
    failures = iter([OSError(errno.EIO, "the disk is ill")])

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if "/o/" in f"{path}/" and (error := next(failures, None)) is not None:
            raise error
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(SyncFailedError):
        Session(store, PIPELINE).rewrite(moving())
    head = check_roots(store)
    assert (head.era, head.floor) == (3, 3)
    Session(store, PIPELINE).rewrite(moving())
    assert eras(store, check_roots(store)) == {3}


def test_a_damaged_base_does_not_keep_a_session_from_rewriting_that_needs_none(store: Store, two) -> None:
    name = layout.manifest(PIPELINE, BlobKey.parse(two[1].manifest))
    with store.backend.open(name) as file:
        good = file.read()
    manifest = store.manifest(store.head(PIPELINE).head, two[1])
    overwrite(store.backend, name, good[:-1])
    with pytest.raises(CorruptError):
        Session(store, PIPELINE)
    moved = Session(store, PIPELINE, based=False).rewrite(lambda _: [(two[1].manifest, manifest)])
    assert moved[two[1].manifest] == BlobKey(BlobKey.parse(two[1].manifest).digest, 2)  # type: ignore[arg-type]  # an era
    assert [contents(store, entry) for entry in check_roots(store).live] == [OLD, NEW]


def test_a_manifest_that_is_back_under_its_own_name_needs_no_swap(store: Store) -> None:
    writer = opened(store)
    entry = Session(store, PIPELINE, writer.attempt, writer.owner).commit(Plan(OLD))
    before = store.head(PIPELINE)
    manifest = store.manifest(before.head, entry)
    overwrite(store.backend, layout.manifest(PIPELINE, BlobKey.parse(entry.manifest)), None)
    assert Session(store, PIPELINE, based=False).rewrite(lambda _: [(entry.manifest, manifest)]) == {}
    assert store.head(PIPELINE) == before
    check_roots(store)


def test_a_rewriting_deletes_nothing_and_leaves_no_scratch(store: Store, gc: Sweeper, two) -> None:
    counting = CountingBackend(store.backend)
    before = stored_keys(store)
    Session(behind(store, counting), PIPELINE).rewrite(moving(once(lambda: (gc.advance(), gc.advance()))))
    assert counting.calls["delete"] == 0
    after = stored_keys(store)
    assert all(set(before[kind]) <= set(after[kind]) for kind in before)
    assert not store.place.scratch.exists() or [*store.place.scratch.iterdir()] == []


# Places


def test_replaced_places_bring_their_packs_along(store: Store, tmp_path: Path) -> None:
    files = {"small": noise(9000), "other": noise(8000, 1), "big.db": noise((1 << 20) + 5, 2), "tiny": b"x"}
    checkpoint_tree(opened(store), write_tree(tmp_path / "tree", files))
    head = store.head(PIPELINE).head
    manifest = store.manifest(head, entry_of(store, 1))
    pack = f"{'ab' * 32}.7"

    def moved(file: StateFile) -> StateFile:
        if file.name != "small":
            return file
        return msgspec.structs.replace(file, place=Slice(pack=pack, offset=8, length=9000))

    same = replace_places(manifest, lambda file: file, {})
    assert same == manifest
    other = replace_places(manifest, moved, {pack: 9008})
    found = {file.name: file for _, _, file in files_of(other)}
    assert found["small"].place == Slice(pack=pack, offset=8, length=9000)
    assert pack in {ref.key for ref in other.packs}
    assert [ref.key for ref in other.packs] == sorted(ref.key for ref in other.packs)

    def whole(file: StateFile) -> StateFile:
        return msgspec.structs.replace(file, place=Whole(1)) if isinstance(file.place, Slice | Blocks) else file

    assert replace_places(manifest, whole, {}).packs == ()
    assert blob_key(found["tiny"], Whole(1)).era == 1
