"""HEAD: what each edit may do, and what a swap may report of an outcome that nobody told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from formats.errors import (
    BadNameError,
    CommitUnknownError,
    ConflictError,
    CorruptError,
    EoctlError,
    FencedError,
    InvalidInputError,
    SnapshotNotFoundError,
    UnavailableError,
    WrongStoreError,
)
from formats.head import Head, HeadEntry, decode_head, encode_head, roots
from formats.ids import Attempt, Era, PipelineId, TxId
from storage import layout
from storage.backend import Key, SyncFailedError, VersionMismatchError, version_of
from storage.backends.memory import MemoryBackend
from storage.edits import (
    BelowFloorError,
    Edit,
    Proof,
    ReuseLostError,
    commit,
    expire,
    find,
    first_head,
    hold,
    open_attempt,
    raise_era,
    release,
    tag,
    touch,
    undelete,
)
from storage.head import MAX_RACES, MAX_TRIES, CommittedHead, read_head, swap_head
from tests.support.fakes import FakeAmbient, time_text
from tests.support.faulty import Call, Fault, FaultyBackend, Meanwhile, script

STORE = "5" * 32
ORDERS = PipelineId("orders")
NOW = time_text(1)
OURS, THEIRS = TxId("a" * 32), TxId("b" * 32)
NOTHING = Proof(own_eras=frozenset(), borrowed_from=frozenset())


def tx(number: int) -> TxId:
    return TxId(f"{number:032x}")


def entry(number: int = 1, name: str = "", era: int = 1, txid: str = "") -> HeadEntry:
    return HeadEntry(
        kind="savepoint" if name else "checkpoint",
        id=number,
        seq=0,
        txid=txid or tx(number),
        created_at=NOW,
        attempt=1,
        engine="directory",
        manifest=f"{number:064x}.{era}",
        manifest_bytes=100,
        full_bytes=1000,
        added_bytes=10,
        files=2,
        added_files=1,
        referenced_files=1,
        name=name,
    )


def head_with(*entries: HeadEntry, era: int = 1, floor: int = 0) -> Head:
    """A pipeline in its first attempt, which is ours, with these live."""
    head = open_attempt(first_head(STORE, ORDERS, NOW, "0" * 32), OURS)
    head = msgspec.structs.replace(head, era=era)
    for item in entries:
        mine = item.kind == "checkpoint"
        head = commit(head, item, Attempt(1) if mine else None, OURS if mine else None, NOTHING)
    return msgspec.structs.replace(head, floor=floor)


def committed(head: Head, item: HeadEntry, proof: Proof = NOTHING) -> Head:
    return commit(head, item, Attempt(1), OURS, proof)


def labels(items) -> list[str]:
    return [item.label for item in items]


EDITS: dict[str, Edit] = {
    "commit": lambda head: committed(head, entry(9)),
    "commit savepoint": lambda head: commit(head, entry(2, name="s9"), None, None, NOTHING),
    "open": partial(open_attempt, owner=THEIRS),
    "expire": partial(expire, labels=frozenset({"1"}), now=NOW),
    "undelete": partial(undelete, label="2"),
    "hold": partial(hold, label="1", hold_id="c" * 32, reason="restore", now=NOW, expires_at=time_text(9)),
    "release": partial(release, hold_ids=frozenset({"d" * 32})),
    "tag": partial(tag, label="1", add=frozenset({"good"}), remove=frozenset()),
    "raise era": partial(raise_era, floor=False),
    "raise floor": partial(raise_era, floor=True),
}


@pytest.fixture
def busy() -> Head:
    """Live 1 and 3, trash 2, a hold of 2, a savepoint."""
    head = head_with(entry(1), entry(2), entry(3), entry(3, name="s1"), era=5, floor=1)
    head = expire(head, frozenset({"2"}), NOW)
    return hold(head, "2", hold_id="d" * 32, reason="audit", now=NOW, expires_at=time_text(9))


@pytest.mark.parametrize("name", EDITS)
def test_every_edit_is_one_step_and_takes_nothing_back(busy: Head, name) -> None:
    after = EDITS[name](busy)
    assert after.seq == busy.seq + 1
    assert after.era >= busy.era
    assert after.floor >= busy.floor
    assert after.last_id >= busy.last_id
    assert after.writer.attempt >= busy.writer.attempt
    assert after.floor <= after.era
    assert (after.store, after.pipeline, after.state) == (busy.store, busy.pipeline, busy.state)
    assert decode_head(encode_head(after)) == after


@pytest.mark.parametrize("name", sorted(EDITS.keys() - {"commit", "commit savepoint", "hold", "tag"}))
def test_an_edit_that_only_moves_roots_adds_none(busy: Head, name) -> None:
    assert set(roots(EDITS[name](busy))) <= set(roots(busy))


@pytest.mark.parametrize("name", sorted(EDITS.keys() - {"release"}))
def test_only_release_drops_a_root(busy: Head, name) -> None:
    before, after = ({root.manifest for root in roots(head)} for head in (busy, EDITS[name](busy)))
    assert before <= after


@pytest.mark.parametrize("name", EDITS)
def test_a_destroyed_pipeline_takes_no_edit(busy: Head, name) -> None:
    destroyed = msgspec.structs.replace(busy, state="destroyed", live=(), trash=(), holds=(), floor=busy.era + 1)
    with pytest.raises(SnapshotNotFoundError):
        EDITS[name](destroyed)


# The commit rule


@pytest.mark.parametrize(("eras", "floor"), [((4,), 4), ((4, 5), 4), ((), 4), ((5,), 0)])
def test_a_commit_may_name_keys_that_it_confirmed_at_or_above_the_floor(eras, floor) -> None:
    head = head_with(era=5, floor=floor)
    proof = Proof(own_eras=frozenset(map(Era, eras)), borrowed_from=frozenset())
    after = committed(head, entry(1, era=5), proof)
    assert labels(after.live) == ["1"]
    assert after.live[0].seq == after.seq


@pytest.mark.parametrize("eras", [(3,), (3, 5), (0,)])
def test_a_commit_may_not_name_keys_below_the_floor(eras) -> None:
    proof = Proof(own_eras=frozenset(map(Era, eras)), borrowed_from=frozenset())
    with pytest.raises(BelowFloorError):
        committed(head_with(era=5, floor=4), entry(1, era=5), proof)


@pytest.mark.parametrize("eras", [(), (4, 5)])
def test_the_manifest_itself_may_not_lie_below_the_floor(eras) -> None:
    proof = Proof(own_eras=frozenset(map(Era, eras)), borrowed_from=frozenset())
    with pytest.raises(BelowFloorError):
        committed(head_with(era=5, floor=4), entry(1, era=3), proof)


@pytest.mark.parametrize("where", ["live", "trash", "hold"])
def test_a_commit_may_borrow_from_any_root_whatever_its_era(where) -> None:
    lender = entry(1)
    head = head_with(lender)
    if where == "hold":
        head = hold(head, "1", hold_id=tx(77), reason="", now=NOW, expires_at=None)
        head = msgspec.structs.replace(head, live=())
    elif where == "trash":
        head = expire(head, frozenset({"1"}), NOW)
    head = msgspec.structs.replace(head, era=9, floor=9)
    proof = Proof(own_eras=frozenset(), borrowed_from=frozenset({lender.manifest}))
    assert labels(committed(head, entry(2, era=9), proof).live)[-1] == "2"


def test_a_commit_may_not_borrow_from_what_is_no_root_any_more() -> None:
    lender = entry(1)
    head = msgspec.structs.replace(head_with(lender), live=())
    proof = Proof(own_eras=frozenset({Era(1)}), borrowed_from=frozenset({lender.manifest}))
    with pytest.raises(ReuseLostError):
        committed(head, entry(2), proof)


def test_a_manifest_of_the_same_digest_in_another_era_is_another_lender() -> None:
    head = head_with(entry(1, era=1), era=2)
    again = f"{1:064x}.2"
    with pytest.raises(ReuseLostError):
        committed(head, entry(2), Proof(own_eras=frozenset(), borrowed_from=frozenset({again})))


# Fencing


def test_a_new_attempt_fences_the_old_one_whatever_it_commits() -> None:
    head = open_attempt(head_with(entry(1)), THEIRS)
    assert (head.writer.attempt, head.writer.owner, head.writer.last_tx) == (2, THEIRS, THEIRS)
    with pytest.raises(FencedError):
        committed(head, entry(2))
    assert labels(commit(head, entry(2), Attempt(2), THEIRS, NOTHING).live) == ["1", "2"]


def test_an_attempt_is_known_by_its_owner_and_not_by_its_number() -> None:
    head = open_attempt(first_head(STORE, ORDERS, NOW, "0" * 32), THEIRS)
    with pytest.raises(FencedError):
        committed(head, entry(1))
    with pytest.raises(FencedError):
        commit(head, entry(1), Attempt(2), THEIRS, NOTHING)


def test_a_savepoint_needs_no_attempt_and_leaves_the_writer_alone() -> None:
    head = head_with(entry(1))
    after = commit(head, entry(1, name="before-upgrade"), None, None, NOTHING)
    assert after.writer == head.writer
    assert labels(after.live) == ["1", "before-upgrade"]


def test_a_writers_commit_shows_its_transaction() -> None:
    assert head_with(entry(1)).writer.last_tx == entry(1).txid


# Names are used once


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_id_that_was_used_is_never_used_again(number) -> None:
    head = msgspec.structs.replace(head_with(entry(1), entry(3)), live=())
    with pytest.raises(ConflictError):
        committed(head, entry(number))
    assert committed(head, entry(4)).last_id == 4


def test_ids_may_leave_gaps() -> None:
    assert committed(head_with(entry(1)), entry(40)).last_id == 40


@pytest.mark.parametrize("where", ["live", "trash", "hold"])
def test_a_savepoints_name_is_taken_as_long_as_a_root_has_it(where) -> None:
    head = head_with(entry(1), entry(1, name="s1"))
    if where == "hold":
        head = hold(head, "s1", hold_id=tx(77), reason="", now=NOW, expires_at=None)
        head = msgspec.structs.replace(head, live=())
    elif where == "trash":
        head = expire(head, frozenset({"s1"}), NOW)
    with pytest.raises(ConflictError):
        commit(head, entry(1, name="s1"), None, None, NOTHING)
    empty = msgspec.structs.replace(head, live=(), trash=(), holds=())
    assert labels(commit(empty, entry(1, name="s1"), None, None, NOTHING).live) == ["s1"]


@pytest.mark.parametrize("name", ["2", "007", "٢"])
def test_a_savepoint_is_not_named_like_a_checkpoint(name) -> None:
    with pytest.raises(BadNameError):
        commit(head_with(entry(1)), entry(1, name=name), None, None, NOTHING)


# Expire, undelete, hold, release, tag


def test_expired_entries_lie_in_the_trash_and_are_roots() -> None:
    head = expire(head_with(entry(1), entry(2), entry(3)), frozenset({"1", "3"}), NOW)
    assert labels(head.live) == ["2"]
    assert [(trashed.entry.label, trashed.trashed_at) for trashed in head.trash] == [("1", NOW), ("3", NOW)]
    assert sorted(labels(roots(head))) == ["1", "2", "3"]
    assert not any(trashed.seen_by_advance for trashed in head.trash)


def test_expiring_again_changes_nothing() -> None:
    head = expire(head_with(entry(1), entry(2)), frozenset({"1"}), NOW)
    again = expire(head, frozenset({"1"}), time_text(99))
    assert (again.live, again.trash) == (head.live, head.trash)


def test_expiring_what_is_not_there_is_refused_whole() -> None:
    with pytest.raises(SnapshotNotFoundError, match="7"):
        expire(head_with(entry(1)), frozenset({"1", "7"}), NOW)


@pytest.mark.parametrize(("expires_at", "refused"), [(None, True), (time_text(9), False)])
def test_only_a_hold_without_an_end_forbids_expiry(expires_at, refused) -> None:
    head = hold(head_with(entry(1)), "1", hold_id=tx(77), reason="audit", now=NOW, expires_at=expires_at)
    if refused:
        with pytest.raises(ConflictError):
            expire(head, frozenset({"1"}), NOW)
    else:
        assert labels(expire(head, frozenset({"1"}), NOW).live) == []


def test_undelete_puts_an_entry_back_in_its_old_place() -> None:
    before = head_with(entry(1), entry(2), entry(3))
    head = undelete(expire(before, frozenset({"2"}), NOW), "2")
    assert head.live == before.live
    assert head.trash == ()
    assert undelete(head, "2").live == before.live


@pytest.mark.parametrize("where", ["nowhere", "hold"])
def test_undelete_takes_only_from_the_trash(where) -> None:
    head = head_with(entry(1))
    if where == "hold":
        head = hold(head, "1", hold_id=tx(77), reason="", now=NOW, expires_at=None)
    head = msgspec.structs.replace(head, live=())
    with pytest.raises(SnapshotNotFoundError):
        undelete(head, "1")


@pytest.mark.parametrize("where", ["live", "trash", "hold"])
def test_a_hold_is_one_more_root_equal_to_a_root(where) -> None:
    held = head_with(entry(1)).live[0]
    head = head_with(entry(1))
    if where == "hold":
        head = hold(head, "1", hold_id=tx(76), reason="", now=NOW, expires_at=None)
        head = msgspec.structs.replace(head, live=())
    elif where == "trash":
        head = expire(head, frozenset({"1"}), NOW)
    after = hold(head, "1", hold_id=tx(77), reason="restore", now=NOW, expires_at=time_text(9))
    assert after.holds[-1].entry == held
    assert len([*roots(after)]) == len([*roots(head)]) + 1
    again = hold(after, "1", hold_id=tx(77), reason="restore", now=NOW, expires_at=time_text(9))
    assert again.holds == after.holds


def test_a_hold_of_nothing_is_refused() -> None:
    with pytest.raises(SnapshotNotFoundError):
        hold(head_with(entry(1)), "2", hold_id=tx(77), reason="", now=NOW, expires_at=None)


def test_a_release_drops_its_hold_and_no_other() -> None:
    head = head_with(entry(1))
    for number in (70, 71):
        head = hold(head, "1", hold_id=tx(number), reason="", now=NOW, expires_at=None)
    head = release(head, frozenset({tx(70), tx(99)}))
    assert [held.id for held in head.holds] == [tx(71)]
    assert labels(head.live) == ["1"]


def test_tags_are_sorted_and_distinct_and_of_one_live_entry() -> None:
    head = head_with(entry(1), entry(2))
    head = tag(head, "1", frozenset({"b", "a"}), frozenset())
    head = tag(head, "1", frozenset({"c", "a"}), frozenset({"b", "never"}))
    assert [item.tags for item in head.live] == [("a", "c"), ()]
    with pytest.raises(SnapshotNotFoundError):
        tag(expire(head, frozenset({"1"}), NOW), "1", frozenset({"x"}), frozenset())


@pytest.mark.parametrize(("floor", "expected"), [(False, 2), (True, 6)])
def test_the_era_rises_and_on_demand_the_floor_with_it(floor, expected) -> None:
    after = raise_era(head_with(entry(1), era=5, floor=2), floor=floor)
    assert (after.era, after.floor) == (6, expected)


def test_a_touch_changes_nothing_but_the_count() -> None:
    head = head_with(entry(1))
    assert touch(head) == msgspec.structs.replace(head, seq=head.seq + 1)


def test_a_name_is_found_live_before_trash_before_holds() -> None:
    head = head_with(entry(1))
    head = tag(hold(head, "1", hold_id=tx(77), reason="", now=NOW, expires_at=None), "1", frozenset({"t"}), frozenset())
    assert find(head, "1").tags == ("t",)
    with pytest.raises(SnapshotNotFoundError, match="newest is 1"):
        find(head, "2")


@pytest.mark.parametrize(
    "edit",
    [
        partial(tag, label="1", add=frozenset({"has space"}), remove=frozenset()),
        partial(tag, label="1", add=frozenset({"\udcff"}), remove=frozenset()),
        partial(hold, label="1", hold_id=tx(77), reason="x" * 5000, now=NOW, expires_at=None),
        partial(hold, label="1", hold_id="short", reason="", now=NOW, expires_at=None),
        partial(hold, label="1", hold_id=tx(77), reason="", now="yesterday", expires_at=None),
        partial(expire, labels=frozenset({"1"}), now="now"),
    ],
)
def test_nothing_is_written_that_could_not_be_read_again(edit) -> None:
    world = World(head_with(entry(1)))
    with pytest.raises(InvalidInputError):
        world.swap(edit, attempt=None)
    assert world.head() == world.start
    assert world.faulty.swapped == []


# Swaps


class World:
    """A HEAD in a backend with faults, its writer (us), and others who come in between."""

    def __init__(self, head: Head) -> None:
        self.inner = MemoryBackend(clock=lambda: 0.0)
        self.inner.create(layout.head(ORDERS), encode_head(head))
        self.faulty = FaultyBackend(self.inner)
        self.ours = FakeAmbient(1)
        self.others = FakeAmbient(2)
        self.start = head
        self.current = read_head(self.inner, STORE, ORDERS)

    def head(self) -> Head:
        return read_head(self.inner, STORE, ORDERS).head

    def swap(self, edit: Edit, attempt: int | None = 1, txid: TxId = OURS, **more: bool) -> CommittedHead:
        number = None if attempt is None else Attempt(attempt)
        return swap_head(self.faulty, self.current, edit, self.ours.ambient(), txid=txid, attempt=number, **more)

    def commit(self, number: int = 1) -> CommittedHead:
        return self.swap(partial(committed, item=entry(number)), txid=tx(number))

    def other(self, edit: Edit) -> None:
        """Somebody else swaps, without a fault."""
        seen = read_head(self.inner, STORE, ORDERS)
        head = msgspec.structs.replace(edit(seen.head), nonce=self.others.new_id())
        self.inner.swap(layout.head(ORDERS), encode_head(head), seen.version)

    def faults(self, *faults: Fault | Meanwhile | None) -> None:
        """What the swaps to come meet, in turn."""
        self.faulty.decide = script("swap", [*faults])


@pytest.fixture
def world() -> World:
    return World(head_with())


def test_a_swap_that_goes_well_is_one_request(world: World) -> None:
    done = world.commit()
    assert labels(done.head.live) == ["1"]
    assert done.head == world.head()
    assert [call.verb for call in world.faulty.calls] == ["swap"]
    assert done.version == version_of(world.faulty.swapped[0])
    assert world.ours.waits == []


def test_every_swap_has_a_nonce_of_its_own(world: World) -> None:
    first = world.swap(touch, attempt=None)
    world.current = first
    second = world.swap(touch, attempt=None)
    assert len({world.start.nonce, first.head.nonce, second.head.nonce}) == 3


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REFUSED])
def test_a_lost_request_is_sent_again_with_the_very_same_bytes(world: World, fault) -> None:
    world.faults(fault, fault)
    done = world.commit()
    assert done.head == world.head()
    assert labels(done.head.live) == ["1"]
    assert len(world.faulty.swapped) == 3
    assert len(set(world.faulty.swapped)) == 1
    assert len(world.ours.waits) == 2


def test_a_lost_reply_is_settled_by_reading_back(world: World) -> None:
    world.faults(Fault.REPLY_LOST)
    done = world.commit()
    assert done == read_head(world.inner, STORE, ORDERS)
    assert labels(done.head.live) == ["1"]
    assert len(world.faulty.swapped) == 1


@pytest.mark.parametrize("edit", [partial(expire, labels=frozenset({"1"}), now=NOW), partial(raise_era, floor=False)])
def test_a_lost_reply_to_an_edit_without_a_transaction_is_settled_by_its_nonce(edit) -> None:
    world = World(head_with(entry(1)))
    world.faults(Fault.REPLY_LOST)
    done = world.swap(edit, attempt=None, txid=tx(9))
    assert done.head.seq == world.start.seq + 1
    assert len(world.faulty.swapped) == 1


def test_a_request_that_arrives_twice_is_one_success(world: World) -> None:
    # The library sends it again by itself: the second answer is "changed", though it was our own success.
    world.faults(Fault.TWICE)
    assert labels(world.commit().head.live) == ["1"]
    assert len(world.faulty.swapped) == 1


def test_a_late_copy_and_the_one_sent_again_exclude_each_other(world: World) -> None:
    world.faults(Fault.LATE)
    done = world.commit()
    world.faulty.deliver()
    assert labels(world.head().live) == ["1"]
    assert world.head() == done.head


def test_a_late_copy_that_arrives_before_the_one_sent_again_is_our_success(world: World) -> None:
    world.faults(Fault.LATE, Meanwhile(before=world.faulty.deliver))
    done = world.commit()
    assert labels(done.head.live) == ["1"]
    assert done.head == world.head()


def test_a_stale_read_is_read_again(world: World) -> None:
    stale = encode_head(world.start)
    world.other(touch)
    world.other(touch)
    world.current = read_head(world.inner, STORE, ORDERS)
    reads = iter([stale, stale])

    class Stale(MemoryBackend):
        """Shows an old value for a while, as a store without strong reads would."""

        def open(self, key: Key, start: int = 0, length: int | None = None):
            old = next(reads, None)
            if old is None:
                return world.inner.open(key, start, length)
            aside = MemoryBackend(clock=lambda: 0.0)
            aside.create(key, old)
            return aside.open(key, start, length)

        def swap(self, key: Key, body: bytes, expected) -> None:
            world.inner.swap(key, body, expected)

    world.faulty.inner = Stale(clock=lambda: 0.0)
    world.faults(Fault.REPLY_LOST)
    assert labels(world.commit().head.live) == ["1"]
    assert next(reads, None) is None


def test_a_refused_swap_is_built_anew_on_what_is_there(world: World) -> None:
    savepoint = partial(commit, entry=entry(0, name="s1"), attempt=None, owner=None, proof=NOTHING)
    world.faults(Meanwhile(before=lambda: world.other(savepoint)))
    done = world.commit()
    assert labels(done.head.live) == ["s1", "1"]
    assert done.head == world.head()
    assert len(set(world.faulty.swapped)) == 2


def test_a_refused_swap_checks_its_rule_against_the_new_value(world: World) -> None:
    world.faults(Meanwhile(before=lambda: world.other(partial(raise_era, floor=True))))
    with pytest.raises(BelowFloorError):
        world.commit()
    assert labels(world.head().live) == []


def test_a_lost_commit_is_tried_again_with_its_transaction_when_head_moved_on_under_our_attempt(world: World) -> None:
    world.faults(Meanwhile(before=lambda: world.other(touch), fault=Fault.LOST))
    assert labels(world.commit().head.live) == ["1"]
    assert [item.txid for item in world.head().live] == [tx(1)]


def test_a_commit_that_landed_is_a_success_even_when_others_went_on_from_it(world: World) -> None:
    world.faults(Meanwhile(after=lambda: world.other(partial(open_attempt, owner=THEIRS)), fault=Fault.REPLY_LOST))
    done = world.commit()
    assert labels(done.head.live) == ["1"]
    assert done.head.writer.attempt == 2
    assert len(world.faulty.swapped) == 1


def test_a_commit_that_landed_and_was_expired_at_once_is_a_success(world: World) -> None:
    def retire() -> None:
        world.other(partial(expire, labels=frozenset({"1"}), now=NOW))

    world.faults(Meanwhile(after=retire, fault=Fault.REPLY_LOST))
    done = world.commit()
    assert labels(done.head.live) == []
    assert done.head == world.head()
    assert len(world.faulty.swapped) == 1


def test_a_commit_that_landed_and_is_wholly_gone_is_a_success_while_its_transaction_shows(world: World) -> None:
    def wipe() -> None:
        world.other(lambda head: msgspec.structs.replace(touch(head), live=()))

    world.faults(Meanwhile(after=wipe, fault=Fault.REPLY_LOST))
    assert labels(world.commit().head.live) == []
    assert len(world.faulty.swapped) == 1


def test_a_refused_commit_under_a_newer_attempt_is_fenced(world: World) -> None:
    world.faults(Meanwhile(before=lambda: world.other(partial(open_attempt, owner=THEIRS))))
    with pytest.raises(FencedError):
        world.commit()
    assert labels(world.head().live) == []


def test_a_lost_commit_under_a_newer_attempt_is_unknown(world: World) -> None:
    world.faults(Meanwhile(before=lambda: world.other(partial(open_attempt, owner=THEIRS)), fault=Fault.LOST))
    with pytest.raises(CommitUnknownError) as caught:
        world.commit()
    assert isinstance(caught.value.__cause__, FencedError)
    assert labels(world.head().live) == []


def test_a_savepoint_whose_reply_was_lost_is_not_applied_a_second_time(world: World) -> None:
    savepoint = partial(commit, entry=entry(0, name="s1"), attempt=None, owner=None, proof=NOTHING)

    def come_and_go() -> None:
        world.other(partial(expire, labels=frozenset({"s1"}), now=NOW))
        world.other(lambda head: msgspec.structs.replace(touch(head), trash=()))

    world.faults(Meanwhile(after=come_and_go, fault=Fault.REPLY_LOST))
    with pytest.raises(CommitUnknownError):
        world.swap(savepoint, attempt=None, txid=tx(0), once=True)
    assert [*roots(world.head())] == []


def test_a_savepoint_that_was_surely_refused_is_applied_to_the_new_value(world: World) -> None:
    savepoint = partial(commit, entry=entry(0, name="s1"), attempt=None, owner=None, proof=NOTHING)
    world.faults(Meanwhile(before=lambda: world.other(touch)))
    done = world.swap(savepoint, attempt=None, txid=tx(0), once=True)
    assert labels(done.head.live) == ["s1"]


def test_an_attempt_whose_reply_was_lost_is_known_by_its_owner(world: World) -> None:
    world.faults(Fault.REPLY_LOST)
    mine = world.swap(partial(open_attempt, owner=tx(50)), attempt=None, txid=tx(50))
    assert (mine.head.writer.attempt, mine.head.writer.owner) == (2, tx(50))


def test_an_attempt_of_the_same_number_by_a_rival_is_not_ours(world: World) -> None:
    rival = partial(open_attempt, owner=THEIRS)
    world.faults(Meanwhile(before=lambda: world.other(rival), fault=Fault.LOST))
    mine = world.swap(partial(open_attempt, owner=tx(50)), attempt=None, txid=tx(50))
    assert (mine.head.writer.attempt, mine.head.writer.owner) == (3, tx(50))


@pytest.mark.parametrize(
    ("edit", "came"),
    [
        (EDITS["expire"], lambda head: labels(t.entry for t in head.trash) == ["2", "1"]),
        (EDITS["undelete"], lambda head: labels(head.live) == ["1", "2", "3"]),
        (EDITS["hold"], lambda head: [held.id for held in head.holds] == ["c" * 32]),
    ],
)
@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REPLY_LOST, None])
def test_edits_that_commute_are_applied_to_whatever_is_there(edit: Edit, came: Callable[[Head], bool], fault) -> None:
    world = World(expire(head_with(entry(1), entry(2), entry(3)), frozenset({"2"}), NOW))
    move_on = partial(world.other, touch)
    world.faults(
        Meanwhile(before=move_on if fault is not Fault.REPLY_LOST else lambda: None, after=move_on, fault=fault)
    )
    assert came(world.swap(edit, attempt=None, txid=tx(50)).head)
    assert came(world.head())


def test_giving_up_is_a_sure_failure_only_after_another_value_is_in(world: World) -> None:
    world.faults(*[Fault.LATE] * MAX_TRIES)
    with pytest.raises(UnavailableError):
        world.commit()
    assert len(world.faulty.swapped) == MAX_TRIES + 1
    assert len(set(world.faulty.swapped[:-1])) == 1
    barrier = decode_head(world.faulty.swapped[-1])
    assert world.head() == barrier
    assert barrier == msgspec.structs.replace(touch(world.start), nonce=barrier.nonce)
    world.faulty.deliver()  # all the late copies arrive now
    assert world.head() == barrier
    assert world.ours.waits == sorted(world.ours.waits)
    assert max(world.ours.waits) <= 1.0


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REFUSED, Fault.DENIED, Fault.REPLY_LOST])
def test_giving_up_without_that_value_is_unknown(world: World, fault) -> None:
    world.faults(*[Fault.LOST] * MAX_TRIES, fault)
    with pytest.raises(CommitUnknownError):
        world.commit()


def test_giving_up_while_a_late_copy_arrives_is_unknown(world: World) -> None:
    world.faults(*[Fault.LATE] * MAX_TRIES, Meanwhile(before=world.faulty.deliver))
    with pytest.raises(CommitUnknownError):
        world.commit()
    assert labels(world.head().live) == ["1"]


def test_a_head_that_never_stands_still_is_a_conflict(world: World) -> None:
    world.faults(*[Meanwhile(before=lambda: world.other(touch))] * MAX_RACES)
    with pytest.raises(ConflictError):
        world.commit()
    assert labels(world.head().live) == []
    assert len(set(world.faulty.swapped)) == MAX_RACES


# Trouble on top of trouble


@pytest.mark.parametrize("first", [Fault.LOST, Fault.REPLY_LOST, Fault.LATE])
@pytest.mark.parametrize("verb", ["open", "swap"])
def test_a_denial_after_a_lost_reply_is_no_sure_failure(world: World, first, verb) -> None:
    swaps = iter([first, Fault.DENIED])

    def decide(call: Call) -> Fault | None:
        if call.verb == "swap":
            return next(swaps, None)
        return Fault.DENIED if verb == "open" else None

    world.faulty.decide = decide
    if first is Fault.REPLY_LOST and verb == "swap":
        assert labels(world.commit().head.live) == ["1"]  # reading back settled it
        return
    with pytest.raises(CommitUnknownError):
        world.commit()


def test_a_denial_of_the_first_request_is_a_sure_failure(world: World) -> None:
    world.faults(Fault.DENIED)
    with pytest.raises(EoctlError) as caught:
        world.commit()
    assert not isinstance(caught.value, CommitUnknownError)
    assert world.head() == world.start


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff" * 100])
def test_a_head_that_is_damaged_after_a_lost_reply_is_unknown(world: World, damage) -> None:
    def harm() -> None:
        seen = read_head(world.inner, STORE, ORDERS)
        world.inner.swap(layout.head(ORDERS), damage, seen.version)

    world.faults(Meanwhile(after=harm, fault=Fault.REPLY_LOST))
    with pytest.raises(CommitUnknownError):
        world.commit()


def test_a_head_that_vanished_is_no_pipeline(world: World) -> None:
    world.inner.delete([layout.head(ORDERS)])
    with pytest.raises(SnapshotNotFoundError):
        world.commit()
    assert world.inner.stat(layout.head(ORDERS)) is None


def test_reading_back_is_tried_again_and_then_unknown(world: World) -> None:
    refusals = iter([Fault.REFUSED] * 3)
    swaps = iter([Fault.REPLY_LOST])
    world.faulty.decide = lambda call: next(swaps if call.verb == "swap" else refusals, None)
    assert labels(world.commit().head.live) == ["1"]

    world = World(head_with())
    world.faulty.decide = lambda call: Fault.REPLY_LOST if call.verb == "swap" else Fault.REFUSED
    with pytest.raises(CommitUnknownError):
        world.commit()
    assert labels(world.head().live) == ["1"]


def test_a_head_that_could_not_be_synced_is_not_settled_by_reading_it_again(world: World) -> None:
    # fsync tells a failure once: the next read would look as if all were well.
    reads = iter([True])

    class Disk(MemoryBackend):
        def open(self, key: Key, start: int = 0, length: int | None = None):
            if next(reads, False):
                message = "the disk could not make it durable"
                raise SyncFailedError(message)
            return world.inner.open(key, start, length)

        def swap(self, key: Key, body: bytes, expected) -> None:
            world.inner.swap(key, body, expected)

    world.faulty.inner = Disk(clock=lambda: 0.0)
    world.faults(Fault.REPLY_LOST)
    with pytest.raises(CommitUnknownError):
        world.commit()


def test_a_refusal_that_contradicts_what_is_read_is_no_sure_failure(world: World) -> None:
    # It arrived twice, so the answer is "changed"; and the reads are stale, so HEAD seems to be what it was.
    stale = encode_head(world.start)

    class Stale(MemoryBackend):
        def open(self, key: Key, start: int = 0, length: int | None = None):
            aside = MemoryBackend(clock=lambda: 0.0)
            aside.create(key, stale)
            return aside.open(key, start, length)

        def swap(self, key: Key, body: bytes, expected) -> None:
            world.inner.swap(key, body, expected)

    world.faulty.inner = Stale(clock=lambda: 0.0)
    world.faults(Fault.TWICE)
    with pytest.raises(CommitUnknownError):
        world.commit()
    assert labels(world.head().live) == ["1"]


def test_an_unknown_commit_of_the_backend_is_final(world: World) -> None:
    class Disk(MemoryBackend):
        def swap(self, key: Key, body: bytes, expected) -> None:
            world.inner.swap(key, body, expected)
            message = "renamed, but not synced"
            raise CommitUnknownError(message)

    world.faulty.inner = Disk(clock=lambda: 0.0)
    with pytest.raises(CommitUnknownError):
        world.commit()
    assert len(world.faulty.swapped) == 1


# Reading


def test_a_head_of_another_store_or_pipeline_is_refused(world: World) -> None:
    with pytest.raises(WrongStoreError):
        read_head(world.inner, "6" * 32, ORDERS)
    other = PipelineId("other")
    world.inner.create(layout.head(other), encode_head(world.start))
    with pytest.raises(WrongStoreError):
        read_head(world.inner, STORE, other)


def test_no_head_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError):
        read_head(MemoryBackend(clock=lambda: 0.0), STORE, ORDERS)


@pytest.mark.parametrize("damage", [b"", b"null", b"<html>"])
def test_a_damaged_head_is_corrupt_and_never_made_up(damage) -> None:
    inner = MemoryBackend(clock=lambda: 0.0)
    inner.create(layout.head(ORDERS), damage)
    with pytest.raises(CorruptError):
        read_head(inner, STORE, ORDERS)


def test_the_value_and_its_version_are_of_one_answer(world: World) -> None:
    reads: list[Call] = []
    world.faulty.decide = reads.append
    seen = read_head(world.faulty, STORE, ORDERS)
    assert [call.verb for call in reads] == ["open"]
    assert seen.version == version_of(encode_head(seen.head))
    with pytest.raises(VersionMismatchError):
        world.inner.swap(layout.head(ORDERS), b"x", version_of(b"y"))
