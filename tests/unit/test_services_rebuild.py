"""A lost HEAD: what is made of the remains is whole, out of reach of the lost time, or not made at all."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest

from eoctl.services.rebuild import rebuild_head
from eoctl.services.repair import repair
from eoctl.services.repair_values import HeadRebuild
from eoctl.services.verify import verify
from formats.errors import BlobGoneError, ConflictError, CorruptError, FencedError, SnapshotNotFoundError
from formats.head import Head, Hold, decode_head, encode_head, roots
from formats.ids import MAX_INTEGER, BlobKey, PipelineId
from formats.manifest import blobs
from storage import layout
from storage.backend import Key
from storage.backends.memory import MemoryBackend
from storage.edits import destroy, expire, hold
from storage.pins import Pin, PinRecord
from storage.remains import LEAP
from storage.session import Session, open_writer
from storage.store import Store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.faulty import Crash, Fault, FaultyBackend, Meanwhile, at
from tests.support.places import Plan, behind, check_roots, contents, stored_keys
from tests.support.stores import (
    MIB,
    blob_name,
    checkpoint,
    copy_of,
    edit,
    flip,
    new_store,
    noise,
    overwrite,
    three_checkpoints,
    value_of,
)
from tests.support.sweeper import Sweeper

pytestmark = pytest.mark.thorough

ORDERS = PipelineId("orders")
HEAD = layout.head(ORDERS)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three checkpoints and a copy of HEAD from before the third; HEAD is still there."""
    store = new_store(tmp_path_factory.mktemp("good"))
    three_checkpoints(store)
    return store


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, good: Store, tmp_path: Path) -> Store:
    return copy_of(good, tmp_path, memory=request.param == "memory")


@pytest.fixture
def fast(good: Store, tmp_path: Path) -> Store:
    return copy_of(good, tmp_path)


def snapshots(store: Store) -> dict[str, dict[str, bytes]]:
    return {root.label: contents(store, root) for root in roots(store.head(ORDERS).head)}


def back_up(store: Store, head: Head | None = None) -> Head:
    """What gc keeps of HEAD."""
    head = head or store.head(ORDERS).head
    overwrite(store.backend, Key(f"{layout.backups(ORDERS)}/{head.era}"), encode_head(head))
    return head


def lose(store: Store, data: bytes | None = None) -> None:
    overwrite(store.backend, HEAD, data)


def rebuilt(store: Store) -> HeadRebuild:
    return rebuild_head(store, ORDERS, write=True)


def names(store: Store) -> set[str]:
    return {found.key.path for found in store.backend.list(Key("p"))}


def told(done: HeadRebuild) -> dict[str, tuple[str, str]]:
    return {one.snapshot: (one.status, one.origin) for one in done.snapshots}


LOSSES = {"missing": None, "empty": b"", "torn": b'{"format":"eoctl.head","version":1,"sto', "zeros": bytes(4096)}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backup", [True, False])
def test_every_snapshot_is_there_again_in_an_era_of_its_own(
    store: Store, good: Store, tmp_path: Path, loss: str, backup: bool
) -> None:
    before = store.head(ORDERS).head
    if backup:
        back_up(store)
    lose(store, LOSSES[loss])
    with pytest.raises(CorruptError):
        store.head(ORDERS)
    done = rebuilt(store)
    assert done.written
    assert told(done) == {f"orders@{n}": ("live", "backup" if backup else "manifest") for n in (1, 2, 3)}
    assert (done.torn == "", done.backup) == (loss == "missing", "p/orders/bak/1" if backup else "")
    head = check_roots(store, ORDERS)
    assert (head.era, head.floor, head.writer.attempt) == (1 + LEAP, 1 + LEAP, before.writer.attempt + LEAP)
    assert head.seq >= LEAP
    assert head.last_id == 3
    for root in roots(head):
        assert "resurrected" in root.tags
        assert {key.era for key in blobs(store.manifest(head, root))} == {head.era}
        assert BlobKey.parse(root.manifest).era == head.era
    assert snapshots(store) == snapshots(good)
    assert verify(store, ORDERS, None, "full", scratch=tmp_path).damaged == ()


def test_nothing_is_written_before_it_is_wanted(fast: Store) -> None:
    lose(fast)
    before = names(fast)
    done = rebuild_head(fast, ORDERS, write=False)
    assert not done.written
    assert [one.snapshot for one in done.snapshots] == ["orders@1", "orders@2", "orders@3"]
    assert names(fast) == before


def test_a_good_head_is_left_alone(fast: Store) -> None:
    before = fast.head(ORDERS)
    with pytest.raises(ConflictError, match="is good"):
        rebuilt(fast)
    assert fast.head(ORDERS) == before


def test_a_pipeline_that_never_was_is_told(fast: Store) -> None:
    with pytest.raises(SnapshotNotFoundError):
        rebuild_head(fast, PipelineId("joins"), write=True)


def test_the_pipeline_goes_on_afterwards(fast: Store) -> None:
    lose(fast)
    rebuilt(fast)
    created = checkpoint(fast, "orders", {"a.sst": noise(MIB, 99)})
    assert (created.snapshot.id, created.snapshot.attempt) == (4, 4 + LEAP)
    gc = Sweeper(fast, ORDERS)
    gc.advance()
    assert gc.sweep() != set()  # everything of the lost time
    assert len(check_roots(fast, ORDERS).live) == 4
    assert {key.era for kind in stored_keys(fast, ORDERS).values() for key in kind} == {1 + LEAP}


def test_a_writer_of_the_lost_time_is_fenced(fast: Store) -> None:
    attempt, owner = open_writer(fast, ORDERS)
    zombie = Session(fast, ORDERS, attempt, owner)
    lose(fast)
    rebuilt(fast)
    with pytest.raises(FencedError):
        zombie.commit(Plan({"x": b"zombie"}))


def test_gc_of_the_lost_time_hurts_nobody(fast: Store, good: Store) -> None:
    """The copy of HEAD knows checkpoint 1, the lost HEAD did not, and a sweep by the lost one is still about."""
    back_up(fast)
    gc = Sweeper(fast, ORDERS)
    gc.expire("1")
    for _ in range(3):
        gc.advance()
    lost_head = value_of(fast.backend, HEAD)
    lose(fast)
    rebuilt(fast)
    head = fast.head(ORDERS).head
    assert [entry.label for entry in head.live] == ["1", "2", "3"]
    now = value_of(fast.backend, HEAD)
    overwrite(fast.backend, HEAD, lost_head)
    gc.sweep()
    overwrite(fast.backend, HEAD, now)
    check_roots(fast, ORDERS)
    assert snapshots(fast) == snapshots(good)


# What is chosen


def test_what_is_newer_than_the_copy_is_added_to_it(fast: Store, good: Store) -> None:
    back_up(fast)
    checkpoint(fast, "orders", {"x": b"4"})
    lose(fast)
    done = rebuilt(fast)
    assert told(done) == {
        "orders@1": ("live", "backup"),
        "orders@2": ("live", "backup"),
        "orders@3": ("live", "backup"),
        "orders@4": ("live", "manifest"),
    }
    assert fast.head(ORDERS).head.last_id == 4


def test_what_the_copy_knows_to_be_gone_stays_gone(fast: Store) -> None:
    gc = Sweeper(fast, ORDERS)
    gc.expire("1")
    gc.advance()  # dropped, and not swept
    back_up(fast)
    lose(fast)
    assert [one.snapshot for one in rebuilt(fast).snapshots] == ["orders@2", "orders@3"]


def test_trash_and_holds_of_the_copy_are_kept(fast: Store) -> None:
    legal = partial(hold, label="2", hold_id="d" * 32, reason="audit", now=time_text(1), expires_at=None)
    edit(fast, "orders", legal)
    edit(fast, "orders", lambda head: expire(head, frozenset({"1"}), time_text(2)))
    before = back_up(fast)
    lose(fast)
    done = rebuilt(fast)
    assert [(one.snapshot, one.status) for one in done.snapshots] == [
        ("orders@2", "live"),
        ("orders@3", "live"),
        ("orders@1", "trash"),
        ("orders@2", "held"),
    ]
    head = check_roots(fast, ORDERS)
    (kept,) = head.holds
    assert isinstance(kept, Hold)
    assert (kept.id, kept.reason, kept.expires_at) == ("d" * 32, "audit", None)
    assert head.trash[0].trashed_at == before.trash[0].trashed_at
    edit(fast, "orders", lambda value: expire(value, frozenset({"3"}), time_text(9)))


def test_the_newest_copy_that_can_be_read_counts(fast: Store) -> None:
    back_up(fast)
    gc = Sweeper(fast, ORDERS)
    gc.expire("1")
    newer = back_up(fast, gc.advance())
    overwrite(fast.backend, Key("p/orders/bak/9"), b"damaged")
    overwrite(fast.backend, Key("p/orders/bak/8"), encode_head(msgspec.structs.replace(newer, pipeline="joins")))
    lose(fast)
    done = rebuilt(fast)
    assert (done.backup, done.era) == (f"p/orders/bak/{newer.era}", newer.era + LEAP)


def test_what_is_not_whole_is_left_out_and_named(fast: Store) -> None:
    head = back_up(fast)
    only = blobs(fast.manifest(head, head.live[0])).keys() - blobs(fast.manifest(head, head.live[1])).keys()
    key = min(only)
    flip(fast.backend, blob_name("orders", key), 5)
    overwrite(fast.backend, layout.manifest(ORDERS, BlobKey.parse(head.live[1].manifest)), b"rotten")
    lose(fast)
    done = rebuilt(fast)
    assert [one.snapshot for one in done.snapshots] == ["orders@3"]
    assert [(left.snapshot, left.manifest) for left in done.left_out] == [
        ("orders@1", f"p/orders/m/{head.live[0].manifest}"),
        ("orders@2", f"p/orders/m/{head.live[1].manifest}"),
    ]
    assert str(key) in done.left_out[0].reason
    check_roots(fast, ORDERS)


def test_without_a_copy_an_unreadable_manifest_is_named_by_its_name(fast: Store) -> None:
    name = layout.manifest(ORDERS, BlobKey.parse(fast.head(ORDERS).head.live[2].manifest))
    flip(fast.backend, name, 40)
    lose(fast)
    done = rebuilt(fast)
    assert [one.snapshot for one in done.snapshots] == ["orders@1", "orders@2"]
    assert [(left.snapshot, left.manifest) for left in done.left_out] == [("", name.path)]


def test_a_manifest_that_was_replaced_is_found_by_its_transaction(fast: Store, good: Store, tmp_path: Path) -> None:
    """The copy of HEAD names a manifest from before a repair: its blob is damaged, the newer manifest is whole."""
    head = back_up(fast)
    key = min(blobs(fast.manifest(head, head.live[0])))
    original = value_of(fast.backend, blob_name("orders", key))
    flip(fast.backend, blob_name("orders", key), 3)
    (tmp_path / "from").mkdir()
    (tmp_path / "from/copy").write_bytes(original)
    assert repair(fast, ORDERS, [tmp_path / "from"]).whole
    lose(fast)
    done = rebuilt(fast)
    assert done.left_out == ()
    assert snapshots(fast) == snapshots(good)


def test_of_two_manifests_of_one_id_the_later_attempts_counts(fast: Store) -> None:
    for attempt, files in ((90, {"loser": b"of attempt 90"}), (91, {"winner": b"of attempt 91"}), (89, {"x": b"89"})):
        other = copy_of(fast, fast.place.scratch.parent / f"other-{attempt}")
        edit(other, "orders", partial(_with_attempt, attempt=attempt - 1))
        checkpoint(other, "orders", files)
        for found in list(other.backend.list(Key("p/orders"))):
            if "/o/" in found.key.path or "/m/" in found.key.path:
                overwrite(fast.backend, found.key, value_of(other.backend, found.key))
    lose(fast)
    done = rebuilt(fast)
    assert [one.snapshot for one in done.snapshots] == [f"orders@{n}" for n in (1, 2, 3, 4)]
    assert snapshots(fast)["4"] == {"winner": b"of attempt 91"}


def _with_attempt(head: Head, attempt: int) -> Head:
    return msgspec.structs.replace(head, seq=head.seq + 1, writer=msgspec.structs.replace(head.writer, attempt=attempt))


def test_where_nothing_is_whole_no_head_is_made(fast: Store) -> None:
    for found in list(fast.backend.list(layout.manifests(ORDERS))):
        overwrite(fast.backend, found.key, b"rotten")
    lose(fast)
    before = names(fast)
    assert [left.snapshot for left in rebuild_head(fast, ORDERS, write=False).left_out] == ["", "", ""]
    with pytest.raises(ConflictError, match="nothing whole"):
        rebuilt(fast)
    assert names(fast) == before


def test_a_destroyed_pipeline_does_not_rise_again(fast: Store) -> None:
    gone = destroy(fast.head(ORDERS).head)
    back_up(fast, gone)
    lose(fast)
    with pytest.raises(ConflictError, match="destroyed"):
        rebuilt(fast)


# Counters


def test_counters_are_above_everything_that_was_ever_seen(fast: Store) -> None:
    data = b"a blob of a late era"
    fast.backend.create(layout.blob(ORDERS, BlobKey(fast.hash.digest(data), 5000)), data)  # type: ignore[arg-type]  # an era
    record = PinRecord(
        format="eoctl.pin", version=1, era=6000, attempt=7000, host="h" * 32, process="1.1", note="upload"
    )
    Pin(fast.backend, ORDERS, "e" * 32).refresh(record)
    back_up(fast, msgspec.structs.replace(fast.head(ORDERS).head, seq=8000, last_id=9000))
    lose(fast)
    done = rebuilt(fast)
    assert (done.era, done.attempt, done.last_id) == (6000 + LEAP, 7000 + LEAP, 9000)
    assert done.seq > 8000 + LEAP


def test_a_number_that_nothing_can_exceed_is_told_before_anything_is_written(fast: Store) -> None:
    digest = fast.hash.digest(b"x")
    fast.backend.create(layout.blob(ORDERS, BlobKey(digest, MAX_INTEGER)), b"x")  # type: ignore[arg-type]  # an era
    lose(fast)
    with pytest.raises(ConflictError, match="no counter can exceed"):
        rebuilt(fast)


def test_two_losses_in_a_row_leap_twice(fast: Store, good: Store) -> None:
    lose(fast)
    first = rebuilt(fast)
    lose(fast)
    second = rebuilt(fast)
    assert second.era == first.era + LEAP
    assert second.attempt >= first.attempt
    assert snapshots(fast) == snapshots(good)


# Others, and death


def test_of_two_that_rebuild_at_once_one_wins(fast: Store, good: Store) -> None:
    lose(fast)
    other = behind(fast, fast.backend, FakeAmbient(8).ambient())
    rivals = iter([Meanwhile(before=lambda: rebuilt(other))])
    faulty = FaultyBackend(
        fast.backend, lambda call: next(rivals, None) if call.verb == "create" and call.key == HEAD.path else None
    )
    with pytest.raises(ConflictError, match="somebody else"):
        rebuilt(behind(fast, faulty))
    assert snapshots(fast) == snapshots(good)


def test_a_torn_head_that_changes_meanwhile_is_not_overwritten(fast: Store) -> None:
    lose(fast, b"torn")
    rivals = iter([Meanwhile(before=lambda: lose(fast, b"torn otherwise"))])
    faulty = FaultyBackend(fast.backend, lambda call: next(rivals, None) if call.verb == "swap" else None)
    with pytest.raises(ConflictError):
        rebuilt(behind(fast, faulty))
    assert value_of(fast.backend, HEAD) == b"torn otherwise"


@pytest.mark.parametrize("torn", [True, False])
def test_a_lost_reply_is_read_back(fast: Store, torn: bool) -> None:
    lose(fast, b"torn" if torn else None)
    verb = "swap" if torn else "create"
    faults = iter([Fault.REPLY_LOST])
    faulty = FaultyBackend(
        fast.backend, lambda call: next(faults, None) if call.verb == verb and call.key == HEAD.path else None
    )
    assert rebuilt(behind(fast, faulty)).written
    check_roots(fast, ORDERS)


def test_a_blob_that_goes_away_meanwhile_stops_it(fast: Store) -> None:
    lose(fast)
    key = next(key for key in stored_keys(fast, ORDERS)["o"])
    gone = iter([Meanwhile(before=lambda: overwrite(fast.backend, blob_name("orders", key), None))])
    faulty = FaultyBackend(
        fast.backend, lambda call: next(gone, None) if call.verb == "create" and key.digest in call.key else None
    )
    with pytest.raises(BlobGoneError):
        rebuilt(behind(fast, faulty))
    assert fast.backend.stat(HEAD) is None


@pytest.mark.parametrize("torn", [True, False])
def test_a_rebuild_killed_anywhere_leaves_a_lost_head_or_a_whole_one(fast: Store, good: Store, torn: bool) -> None:
    back_up(fast)
    lose(fast, b"torn" if torn else None)
    assert isinstance(fast.backend, MemoryBackend)
    kept = dict(fast.backend._values)
    counting = FaultyBackend(fast.backend)
    rebuilt(behind(fast, counting))
    writes = [call.number for call in counting.calls if call.verb in {"create", "swap", "delete"}]
    assert len(writes) > 8
    intact = snapshots(good)
    ends = set()
    for number in writes:
        for fault in (Fault.CRASH_BEFORE, Fault.CRASH_AFTER):
            fast.backend._values.clear()
            fast.backend._values.update(kept)
            with pytest.raises(Crash):
                rebuilt(behind(fast, FaultyBackend(fast.backend, at(number, fault))))
            assert {name: fast.backend._values[name] for name in kept if name != HEAD.path} == {
                name: value for name, value in kept.items() if name != HEAD.path
            }
            try:
                fast.head(ORDERS)
            except CorruptError:
                ends.add("lost")
                rebuilt(fast)
            else:
                ends.add("whole")
            head = check_roots(fast, ORDERS)
            assert head.floor == head.era
            assert snapshots(fast) == intact
    assert ends == {"lost", "whole"}


def test_a_rebuilt_head_is_one_that_a_reader_takes(fast: Store) -> None:
    lose(fast)
    rebuilt(fast)
    assert decode_head(value_of(fast.backend, HEAD)).state == "active"


def test_only_values_of_the_new_era_are_written_and_head_last(fast: Store) -> None:
    lose(fast)
    faulty = FaultyBackend(fast.backend)
    rebuilt(behind(fast, faulty))
    created = [call.key for call in faulty.calls if call.verb in {"create", "swap", "delete"}]
    assert created[-1] == HEAD.path
    assert all(name == HEAD.path or name.endswith(f".{1 + LEAP}") for name in created)
