"""HEAD: pure edits that each check their rule, and the one loop that swaps it.

An edit takes the value that will be swapped and returns its successor, or raises; so a rule is always
checked against exactly the value that it replaces. `swap_head` settles what a lost reply leaves open: it
never reports success or failure that HEAD does not show. Invariants: docs/protocol.md.

Left to others: where blobs come from (session.py), what to expire (retention), deleting anything (gc.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from formats.errors import (
    BadNameError,
    CommitUnknownError,
    ConflictError,
    EoctlError,
    FencedError,
    NoSpaceError,
    OutcomeUnknownError,
    SnapshotNotFoundError,
    UnavailableError,
    WrongStoreError,
)
from formats.head import Head, HeadEntry, Hold, Trashed, Writer, decode_head, encode_head, roots
from formats.ids import Attempt, BlobKey, Era, PipelineId, TxId
from storage import layout
from storage.backend import Backend, KeyAbsentError, SyncFailedError, Version, VersionMismatchError, version_of

MAX_TRIES = 8


class CommittedHead(Struct, frozen=True):
    """A value of HEAD that was read back or swapped in, and its version; bytes and version of one response."""

    head: Head
    version: Version


class Ambient(Struct, frozen=True, kw_only=True):
    """What the outside decides, chosen once by whoever starts us.

    `now`: RFC 3339 UTC with milliseconds. `elapsed`: monotonic seconds. `new_id`: 32 random hex digits.
    `wait`: returns after that many seconds. `host`: what file stamps mean something on; a digest, not a name.
    """

    now: Callable[[], str]
    elapsed: Callable[[], float]
    new_id: Callable[[], str]
    wait: Callable[[float], None]
    host: str


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
    oldest = min(proof.own_eras | {BlobKey.parse(entry.manifest).era})
    if oldest < head.floor:
        message = f"era {oldest} of this session is below the floor {head.floor}"
        raise BelowFloorError(message)
    if not proof.borrowed_from <= {root.manifest for root in roots(head)}:
        message = "a snapshot that this commit shares files with is gone"
        raise ReuseLostError(message)
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


def read_head(backend: Backend, store: str, pipeline: PipelineId) -> CommittedHead:
    """The committed value of HEAD.

    Raises: SnapshotNotFoundError (no such pipeline), CorruptError, WrongStoreError.
    """
    try:
        with backend.open(layout.head(pipeline)) as file:
            data = file.read()
    except KeyAbsentError as error:
        message = f"no such pipeline: {pipeline}"
        raise SnapshotNotFoundError(message, hint="eoctl pipeline list", pipeline=pipeline.name) from error
    head = decode_head(data)
    if (head.store, head.pipeline) != (store, pipeline.name):
        message = f"HEAD of {pipeline} belongs to pipeline {head.pipeline} of store {head.store}"
        raise WrongStoreError(message, hint="nothing was changed; was a directory copied between stores?")
    return CommittedHead(head, version_of(data))


def swap_head(
    backend: Backend,
    current: CommittedHead,
    edit: Edit,
    ambient: Ambient,
    *,
    txid: TxId,
    attempt: Attempt | None,
    once: bool = False,
) -> CommittedHead:
    """`edit` has been applied to the newest value, once.

    `attempt`: of a writer, whose `txid` shows in HEAD when it won. None: an edit that may be applied again
    (expire, hold, open), unless it is to happen `once` (a savepoint).
    Raises: what `edit` raises; CommitUnknownError; UnavailableError when it surely did not happen.
    """
    pipeline = PipelineId(current.head.pipeline)
    uncertain = False  # an earlier send may still take effect, or has
    for number in range(MAX_TRIES):
        successor = _stamped(edit(current.head), ambient.new_id())
        data = encode_head(successor)
        last: EoctlError | None = None
        for resend in range(MAX_TRIES):
            try:
                backend.swap(layout.head(pipeline), data, current.version)
                return CommittedHead(successor, version_of(data))
            except (VersionMismatchError, OutcomeUnknownError, UnavailableError, KeyAbsentError) as error:
                if isinstance(error, CommitUnknownError | SyncFailedError) or (
                    isinstance(error, NoSpaceError) and not uncertain
                ):
                    raise
                last = error
                uncertain = uncertain or isinstance(error, OutcomeUnknownError)
                with _unknown_if(pipeline, uncertain=uncertain):
                    seen = _read_again(backend, current, error)
            except EoctlError:
                with _unknown_if(pipeline, uncertain=uncertain):
                    raise
            if _shows(seen.head, txid) or seen.head.nonce == successor.nonce:
                return seen
            # Refused, though HEAD is what was expected: somebody contradicts himself, so nothing is sure.
            refused = isinstance(last, VersionMismatchError | KeyAbsentError)
            uncertain = uncertain or (refused and seen.version == current.version)
            if seen.version != current.version:
                break
            ambient.wait(_pause(resend))  # HEAD is still what it was: the same bytes again exclude the late copy
        else:
            if not uncertain and last is not None:
                raise last  # every send was refused for sure, so there is no late copy to exclude
            return _give_up(backend, current, ambient)
        with _unknown_if(pipeline, uncertain=uncertain):
            if attempt is not None and seen.head.writer.attempt != attempt:
                raise fenced(seen.head, attempt)
            if once and uncertain:
                raise ConflictError(f"HEAD of {pipeline} moved on")
        # Under our own attempt only we commit, one swap at a time: HEAD moved on without it, so it is lost for good.
        uncertain = uncertain and attempt is None
        current = seen
        ambient.wait(_pause(number))
    message = f"HEAD of {pipeline} keeps changing: lost {MAX_TRIES} swaps in a row"
    raise ConflictError(message, hint="run the command again")


@contextmanager
def _unknown_if(pipeline: PipelineId, *, uncertain: bool) -> Iterator[None]:
    """An error inside means that the outcome is unknown, where an earlier send may have taken effect."""
    try:
        yield
    except CommitUnknownError:
        raise
    except EoctlError as error:
        if not uncertain:
            raise
        message = f"whether HEAD of {pipeline} was changed is not known: {error.message}"
        raise CommitUnknownError(message, hint=f"eoctl checkpoint list -p {pipeline}") from error


def _give_up(backend: Backend, current: CommittedHead, ambient: Ambient) -> CommittedHead:
    """HEAD stayed what it was through every try: only after another nonce is in it did ours surely not happen."""
    pipeline = PipelineId(current.head.pipeline)
    barrier = encode_head(_stamped(touch(current.head), ambient.new_id()))
    try:
        backend.swap(layout.head(pipeline), barrier, current.version)
    except EoctlError as error:
        message = f"the store does not say whether HEAD of {pipeline} was changed: {error.message}"
        raise CommitUnknownError(message, hint=f"eoctl checkpoint list -p {pipeline}") from error
    message = f"HEAD of {pipeline} could not be changed: the store refused {MAX_TRIES} times"
    raise UnavailableError(message, hint="nothing was committed; run the command again")


def _read_again(backend: Backend, current: CommittedHead, cause: EoctlError) -> CommittedHead:
    """HEAD as it is now, never older than `current`: a stale read is read again."""
    pipeline = PipelineId(current.head.pipeline)
    for _ in range(MAX_TRIES):
        try:
            seen = read_head(backend, current.head.store, pipeline)
        except SyncFailedError as error:
            # Read through another descriptor it may look settled; the disk has said that it is not.
            message = f"HEAD of {pipeline} could not be made durable: {error.message}"
            raise CommitUnknownError(message, hint="check the disk; then list the pipeline before a retry") from error
        except (UnavailableError, OutcomeUnknownError):
            continue
        if seen.head.seq >= current.head.seq:
            return seen
    message = f"HEAD of {pipeline} cannot be read back after a swap whose outcome is unknown: {cause.message}"
    raise CommitUnknownError(message, hint=f"eoctl checkpoint list -p {pipeline}") from cause


def _shows(head: Head, txid: TxId) -> bool:
    return head.writer.last_tx == txid or any(entry.txid == txid for entry in roots(head))


def _require_active(head: Head) -> None:
    if head.state != "active":
        message = f"pipeline {head.pipeline} was destroyed"
        raise SnapshotNotFoundError(message, hint="a destroyed name is not used again; choose another")


def _edited(head: Head, **changes: object) -> Head:
    return msgspec.structs.replace(head, seq=head.seq + 1, **changes)


def _stamped(head: Head, nonce: str) -> Head:
    return msgspec.structs.replace(head, nonce=nonce)


def _pause(number: int) -> float:
    """Seconds to wait before try `number` + 2: doubling from 10 ms, at most 1 s."""
    return min(1.0, 0.01 * float(2**number))
