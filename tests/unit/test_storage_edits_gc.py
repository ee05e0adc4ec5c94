"""The edits of gc and of destruction: whatever a clock or a policy says, no root is lost that was not let go."""

from __future__ import annotations

from functools import partial

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from formats.errors import ConflictError, SnapshotNotFoundError
from formats.head import Head, Trashed, decode_head, encode_head, roots
from formats.ids import MAX_INTEGER, BlobKey, Digest, Era, TxId
from storage import edits
from storage.edits import BelowFloorError, Proof, ReuseLostError, advance, destroy, rewrite
from tests.support.examples import HEAD
from tests.support.fakes import time_text
from tests.support.strategies import digests, heads, times

NOTHING = Proof(own_eras=frozenset(), borrowed_from=frozenset())
EARLY, LATE = "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"


def at(head: Head, now: str, drop_before: str = EARLY, floor: int = MAX_INTEGER) -> Head:
    return advance(head, now=now, floor=Era(floor), drop_before=drop_before)


# Advance.


@given(heads(), times, times | st.just(""), st.integers(0, MAX_INTEGER))
def test_an_advance_moves_the_counters_on_and_lets_go_of_trash_and_ended_holds_only(
    head: Head, now: str, drop_before: str, floor: int
) -> None:
    after = at(head, now, drop_before, floor)
    assert (after.seq, after.era, after.advanced_at) == (head.seq + 1, head.era + 1, now)
    assert after.floor == max(head.floor, min(head.era, floor))
    assert head.floor <= after.floor < after.era
    assert (after.live, after.writer, after.last_id, after.state) == (head.live, head.writer, head.last_id, "active")
    assert {trashed.entry for trashed in after.trash} <= {trashed.entry for trashed in head.trash}
    assert set(after.holds) <= set(head.holds)
    assert {hold for hold in head.holds if hold.expires_at is None} <= set(after.holds)
    assert all(trashed.seen_by_advance for trashed in after.trash)
    unseen = {trashed.entry.label for trashed in head.trash if not trashed.seen_by_advance}
    assert unseen <= {trashed.entry.label for trashed in after.trash}, "no advance drops what none has met"


def test_trash_is_dropped_by_the_second_advance_that_finds_it_old_enough() -> None:
    head = msgspec.structs.replace(HEAD, trash=(Trashed(entry=HEAD.trash[0].entry, trashed_at=time_text(100)),))
    for drop_before in (LATE, time_text(100)):
        once = at(head, LATE, drop_before)
        assert [trashed.seen_by_advance for trashed in once.trash] == [True]
        assert at(once, LATE, drop_before).trash == ()
    assert len(at(at(head, LATE, LATE), LATE, time_text(99)).trash) == 1


def test_a_hold_ends_with_its_time_and_a_legal_one_never() -> None:
    hold, legal = HEAD.holds
    assert (hold.expires_at, legal.expires_at) == ("2026-11-21T09:40:00.000Z", None)
    assert at(HEAD, "2026-11-21T09:39:59.999Z").holds == (hold, legal)
    assert at(HEAD, "2026-11-21T09:40:00.000Z").holds == (legal,)
    assert at(HEAD, LATE).holds == (legal,)
    assert at(HEAD, EARLY).holds == (hold, legal)


@pytest.mark.parametrize(("floor", "expected"), [(0, 3), (3, 3), (4, 4), (5, 5), (6, 5), (MAX_INTEGER, 5)])
def test_the_floor_rises_as_far_as_it_is_told_and_never_above_the_old_era(floor: int, expected: int) -> None:
    assert (HEAD.era, HEAD.floor) == (5, 3)
    assert at(HEAD, LATE, floor=floor).floor == expected


def test_an_entry_that_was_undeleted_and_expired_again_waits_anew() -> None:
    label = HEAD.trash[0].entry.label
    assert HEAD.trash[0].seen_by_advance
    back = edits.undelete(msgspec.structs.replace(HEAD, holds=()), label)
    again = edits.expire(back, frozenset({label}), time_text(0))
    assert label in {trashed.entry.label for trashed in at(again, LATE, LATE).trash}


# Rewrite.


def key(number: int, era: int) -> BlobKey:
    return BlobKey(Digest(f"{number:064x}"), Era(era))


def test_every_root_of_a_manifest_gets_the_other_one_and_keeps_all_else() -> None:
    old = HEAD.live[0].manifest
    new = {old: (key(7, 5), 99), HEAD.trash[0].entry.manifest: (key(8, 4), 98)}
    after = rewrite(HEAD, new, Proof(own_eras=frozenset({Era(4)}), borrowed_from=frozenset(new)))
    moved = {old: str(key(7, 5)), HEAD.trash[0].entry.manifest: str(key(8, 4))}
    for before, now in zip(roots(HEAD), roots(after), strict=True):
        assert now.manifest == moved.get(before.manifest, before.manifest)
        same = {"manifest": "", "manifest_bytes": 0}
        assert msgspec.structs.replace(now, **same) == msgspec.structs.replace(before, **same)
    assert after.live[0].manifest_bytes == 99
    assert [t.seen_by_advance for t in after.trash] == [t.seen_by_advance for t in HEAD.trash]
    assert (after.era, after.floor, after.writer, after.seq) == (HEAD.era, HEAD.floor, HEAD.writer, HEAD.seq + 1)
    assert decode_head(encode_head(after)) == after


def test_beside_readers_a_hold_with_an_end_stays_as_it_is() -> None:
    ending, legal = HEAD.holds
    new = {hold.entry.manifest: (key(7, 5), 99) for hold in HEAD.holds}
    proof = Proof(own_eras=frozenset(), borrowed_from=frozenset(new))
    after = rewrite(HEAD, new, proof, beside_readers=True)
    assert after.holds[0] == ending
    assert after.live[0].manifest == str(key(7, 5)) != ending.entry.manifest == HEAD.live[0].manifest
    assert after.holds[1].entry.manifest == str(key(7, 5)) != legal.entry.manifest


@given(heads(), digests)
def test_a_rewriting_adds_and_drops_no_root(head: Head, digest: Digest) -> None:
    new = {root.manifest: (BlobKey(digest, Era(head.era)), 1) for root in [*roots(head)][:2]}
    after = rewrite(head, new, Proof(own_eras=frozenset(), borrowed_from=frozenset(new)))
    assert [root.label for root in roots(after)] == [root.label for root in roots(head)]
    assert [root.txid for root in roots(after)] == [root.txid for root in roots(head)]


def test_the_commit_rule_holds_for_manifests_and_for_what_they_name() -> None:
    old = HEAD.live[0].manifest
    borrowed = frozenset({old})
    assert HEAD.floor == 3
    for manifest_era, own_eras in ((2, {3}), (3, {2}), (5, {5, 2})):
        with pytest.raises(BelowFloorError):
            rewrite(HEAD, {old: (key(7, manifest_era), 1)}, Proof(own_eras=frozenset(own_eras), borrowed_from=borrowed))  # type: ignore[arg-type]  # eras are numbers
    rewrite(HEAD, {old: (key(7, 3), 1)}, Proof(own_eras=frozenset({Era(3)}), borrowed_from=borrowed))
    gone = f"{'ee' * 32}.4"
    with pytest.raises(ReuseLostError):
        rewrite(HEAD, {gone: (key(7, 5), 1)}, Proof(own_eras=frozenset(), borrowed_from=frozenset({gone})))


# Destroy.


@given(heads())
def test_a_destroyed_pipeline_has_no_roots_and_none_of_its_keys_is_at_the_floor(head: Head) -> None:
    assume(max(head.seq, head.writer.attempt) < MAX_INTEGER - 1)  # numbers that nobody reaches
    head = msgspec.structs.replace(head, holds=tuple(hold for hold in head.holds if hold.expires_at is not None))
    after = destroy(head)
    assert (after.state, [*roots(after)]) == ("destroyed", [])
    assert after.floor == head.era + 1 > after.era == head.era
    assert after.writer.attempt == head.writer.attempt + 1
    assert (after.seq, after.last_id) == (head.seq + 1, head.last_id)
    assert decode_head(encode_head(after)) == after
    again = destroy(after)
    assert msgspec.structs.replace(again, seq=after.seq) == after


def test_a_legal_hold_keeps_a_pipeline_from_being_destroyed() -> None:
    with pytest.raises(ConflictError, match="orders@1 is under a hold without an end") as raised:
        destroy(HEAD)
    assert raised.value.hint == "eoctl checkpoint release orders@1"
    destroy(msgspec.structs.replace(HEAD, holds=HEAD.holds[:1]))


@pytest.mark.parametrize(
    "edit",
    [
        partial(at, now=LATE),
        partial(edits.open_attempt, owner=TxId("a" * 32)),
        partial(edits.expire, labels=frozenset(), now=LATE),
        partial(edits.undelete, label="1"),
        partial(edits.hold, label="1", hold_id="a" * 32, reason="", now=LATE, expires_at=None),
        partial(edits.release, hold_ids=frozenset()),
        partial(edits.tag, label="1", add=frozenset(), remove=frozenset()),
        partial(edits.raise_era, floor=True),
        partial(edits.rewrite, manifests={}, proof=NOTHING),
        partial(edits.commit, entry=HEAD.live[0], attempt=None, owner=None, proof=NOTHING),
    ],
)
def test_after_destruction_every_other_edit_is_refused(edit) -> None:
    destroyed = destroy(msgspec.structs.replace(HEAD, holds=()))
    with pytest.raises(SnapshotNotFoundError, match="was destroyed"):
        edit(destroyed)
