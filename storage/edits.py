"""Edits of HEAD: pure functions from the value that will be swapped to its successor, or an error.

So a rule is always checked against exactly the value that it replaces. Swapped in by storage/head.py; each edit
and its rule is told in docs/protocol.md.

Left to others: where blobs come from (session.py), what to expire (retention), deleting anything (gc.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec
from msgspec import Struct

from formats.errors import BadNameError, ConflictError, FencedError, SnapshotNotFoundError
from formats.head import Head, HeadEntry, Hold, Trashed, Writer, roots
from formats.ids import Attempt, BlobKey, Era, PipelineId, TxId


class Proof(Struct, frozen=True, kw_only=True):
    """Why a commit may name its keys: own ones were confirmed in `own_eras`, the rest are named by `borrowed_from`."""

    own_eras: frozenset[Era]
    borrowed_from: frozenset[str]  # manifest keys of roots


class BelowFloorError(ConflictError):
    """Keys of this session fell below the floor: carry them into a new era."""

    kind = "below-floor"


class ReuseLostError(ConflictError):
    """A manifest that this commit borrows from is no root any more: plan again."""

    kind = "reuse-lost"


Edit = Callable[[Head], Head]


def first_head(store: str, pipeline: PipelineId, now: str, nonce: str) -> Head:
    """The HEAD of a new pipeline: era 1, no attempt yet."""
    writer = Writer(attempt=0, owner=nonce, last_tx=nonce)
    return Head(
        format="eoctl.head",
        version=1,
        store=store,
        pipeline=pipeline.name,
        state="active",
        seq=1,
        nonce=nonce,
        era=1,
        floor=0,
        advanced_at=now,
        last_id=0,
        writer=writer,
        live=(),
        trash=(),
        holds=(),
    )


def open_attempt(head: Head, owner: TxId) -> Head:
    """A new attempt, ours because the owner is; every older one is fenced."""
    _require_active(head)
    return _edited(head, writer=Writer(attempt=head.writer.attempt + 1, owner=owner, last_tx=owner))


def commit(head: Head, entry: HeadEntry, attempt: Attempt | None, owner: TxId | None, proof: Proof) -> Head:
    """The entry is live. With an attempt it is a writer's commit; without, a savepoint's.

    Raises: FencedError, ConflictError (id or name taken), BelowFloorError, ReuseLostError.
    """
    _require_active(head)
    if attempt is not None and (head.writer.attempt, head.writer.owner) != (attempt, owner):
        raise fenced(head, attempt)
    _check_proof(head, proof, [BlobKey.parse(entry.manifest)])
    if entry.kind == "savepoint" and entry.name.isdecimal():
        message = f"bad savepoint name: {entry.name!r}"
        raise BadNameError(message, hint="a number names a checkpoint; choose a name with a letter")
    taken = {root.label for root in roots(head)}
    if entry.label in taken or (entry.kind == "checkpoint" and entry.id <= head.last_id):
        message = f"{head.pipeline}@{entry.label} exists or was used before (last id {head.last_id})"
        raise ConflictError(message, hint="leave --as-id out, or take a larger id")
    entry = msgspec.structs.replace(entry, seq=head.seq + 1)
    writer = msgspec.structs.replace(head.writer, last_tx=entry.txid) if attempt is not None else head.writer
    return _edited(head, live=(*head.live, entry), writer=writer, last_id=max(head.last_id, entry.id))


def expire(head: Head, labels: frozenset[str], now: str) -> Head:
    """Entries have moved to the trash, where they stay roots until gc drops them. Those already there stay.

    Raises: SnapshotNotFoundError; ConflictError where a legal hold keeps one.
    """
    _require_active(head)
    gone = labels - {entry.label for entry in head.live} - {trashed.entry.label for trashed in head.trash}
    if gone:
        raise not_found(head, min(gone))
    legal = {hold.entry.label for hold in head.holds if hold.expires_at is None} & labels
    if legal:
        message = f"{head.pipeline}@{min(legal)} is under a hold without an end"
        raise ConflictError(message, hint=f"eoctl checkpoint release {head.pipeline}@{min(legal)}")
    moved = tuple(Trashed(entry=entry, trashed_at=now) for entry in head.live if entry.label in labels)
    return _edited(head, live=tuple(e for e in head.live if e.label not in labels), trash=head.trash + moved)


def undelete(head: Head, label: str) -> Head:
    """The entry is back from the trash of this very value, in its old place."""
    _require_active(head)
    if any(entry.label == label for entry in head.live):
        return _edited(head)
    back = [trashed.entry for trashed in head.trash if trashed.entry.label == label]
    if not back:
        raise not_found(head, label, "trash of ")
    live = tuple(sorted((*head.live, *back), key=lambda entry: entry.seq))
    return _edited(head, live=live, trash=tuple(t for t in head.trash if t.entry.label != label))


def hold(head: Head, label: str, *, hold_id: str, reason: str, now: str, expires_at: str | None) -> Head:
    """A further root equal to a root of this value. Applying it twice adds it once."""
    _require_active(head)
    if any(existing.id == hold_id for existing in head.holds):
        return _edited(head)
    added = Hold(id=hold_id, entry=find(head, label), reason=reason, created_at=now, expires_at=expires_at)
    return _edited(head, holds=(*head.holds, added))


def release(head: Head, hold_ids: frozenset[str]) -> Head:
    """The holds are gone; what was gone before is fine."""
    _require_active(head)
    return _edited(head, holds=tuple(hold for hold in head.holds if hold.id not in hold_ids))


def tag(head: Head, label: str, add: frozenset[str], remove: frozenset[str]) -> Head:
    """The live entry has the tags. Raises: SnapshotNotFoundError."""
    _require_active(head)
    if all(entry.label != label for entry in head.live):
        raise not_found(head, label)
    live = tuple(
        msgspec.structs.replace(entry, tags=tuple(sorted((set(entry.tags) | add) - remove)))
        if entry.label == label
        else entry
        for entry in head.live
    )
    return _edited(head, live=live)


def raise_era(head: Head, *, floor: bool) -> Head:
    """A new era; with `floor` nothing uploaded before counts as confirmed any more (after a failed fsync)."""
    _require_active(head)
    return _edited(head, era=head.era + 1, floor=head.era + 1 if floor else head.floor)


def advance(head: Head, *, now: str, floor: Era, drop_before: str) -> Head:
    """A new era; the floor rises to `floor` at most, and never above the old era.

    Holds whose end has passed are dropped, and trash of `drop_before` or earlier that an earlier advance has met, so
    that no single jump of a clock can both expire and drop. Times only steer this: any value of them is safe.
    """
    _require_active(head)
    trash = tuple(
        msgspec.structs.replace(trashed, seen_by_advance=True)
        for trashed in head.trash
        if not (trashed.seen_by_advance and trashed.trashed_at <= drop_before)
    )
    holds = tuple(hold for hold in head.holds if hold.expires_at is None or hold.expires_at > now)
    raised = max(head.floor, min(head.era, floor))
    return _edited(head, era=head.era + 1, floor=raised, advanced_at=now, trash=trash, holds=holds)


def rewrite(
    head: Head, manifests: Mapping[str, tuple[BlobKey, int]], proof: Proof, *, beside_readers: bool = False
) -> Head:
    """Roots have another manifest (its key and stored size) that says the same: after re-packing, after a repair.

    The commit rule holds as for a commit. Roots of the old keys that are gone meanwhile stay gone. `beside_readers`:
    holds with an end keep the old manifest, for whoever took one may be reading by it.
    Raises: BelowFloorError, ReuseLostError.
    """
    _require_active(head)
    _check_proof(head, proof, (key for key, _ in manifests.values()))

    def moved(entry: HeadEntry) -> HeadEntry:
        if entry.manifest not in manifests:
            return entry
        key, size = manifests[entry.manifest]
        return msgspec.structs.replace(entry, manifest=str(key), manifest_bytes=size)

    return _edited(
        head,
        live=tuple(moved(entry) for entry in head.live),
        trash=tuple(msgspec.structs.replace(trashed, entry=moved(trashed.entry)) for trashed in head.trash),
        holds=tuple(
            hold
            if beside_readers and hold.expires_at is not None
            else msgspec.structs.replace(hold, entry=moved(hold.entry))
            for hold in head.holds
        ),
    )


def destroy(head: Head) -> Head:
    """Nothing is a root any more and nothing will be; HEAD stays as a tombstone. Applying it twice does it once.

    Raises: ConflictError where a hold without an end keeps a snapshot.
    """
    if head.state == "destroyed":
        return _edited(head)
    legal = next((hold for hold in head.holds if hold.expires_at is None), None)
    if legal is not None:
        where = f"{head.pipeline}@{legal.entry.label}"
        message = f"{where} is under a hold without an end"
        raise ConflictError(message, hint=f"eoctl checkpoint release {where}")
    writer = msgspec.structs.replace(head.writer, attempt=head.writer.attempt + 1)
    return _edited(head, state="destroyed", writer=writer, floor=head.era + 1, live=(), trash=(), holds=())


def touch(head: Head) -> Head:
    """The same value under a new nonce, so that a late copy of an earlier swap can never match."""
    return _edited(head)


def find(head: Head, label: str) -> HeadEntry:
    """The root of that id or name, live before trash before holds. Raises: SnapshotNotFoundError."""
    for entry in roots(head):
        if entry.label == label:
            return entry
    raise not_found(head, label)


def not_found(head: Head, label: str, where: str = "") -> SnapshotNotFoundError:
    newest = head.live[-1].label if head.live else "none"
    message = f"no such snapshot in the {where}pipeline {head.pipeline}: {label} (newest is {newest})"
    return SnapshotNotFoundError(message, hint=f"eoctl checkpoint list -p {head.pipeline}", snapshot=label)


def fenced(head: Head, attempt: int) -> FencedError:
    message = f"attempt {attempt} of {head.pipeline} is fenced: the newest attempt is {head.writer.attempt}"
    return FencedError(message, hint="stop this process; another one has taken the pipeline over")


def _check_proof(head: Head, proof: Proof, manifests: Iterable[BlobKey]) -> None:
    """The commit rule. Raises: BelowFloorError, ReuseLostError."""
    oldest = min(proof.own_eras.union(key.era for key in manifests), default=head.floor)
    if oldest < head.floor:
        message = f"era {oldest} of this session is below the floor {head.floor}"
        raise BelowFloorError(message)
    if not proof.borrowed_from <= {root.manifest for root in roots(head)}:
        message = "a snapshot that this commit shares files with is gone"
        raise ReuseLostError(message)


def _require_active(head: Head) -> None:
    if head.state != "active":
        message = f"pipeline {head.pipeline} was destroyed"
        raise SnapshotNotFoundError(message, hint="a destroyed name is not used again; choose another")


def _edited(head: Head, **changes: object) -> Head:
    return msgspec.structs.replace(head, seq=head.seq + 1, **changes)
