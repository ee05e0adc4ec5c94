"""HEAD: read as a committed value, and changed by the one loop that swaps it.

`swap_head` applies an edit (storage/edits.py) and settles what a lost reply leaves open: it never reports success
or failure that HEAD does not show. Invariants: docs/protocol.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from formats.errors import (
    CommitUnknownError,
    ConflictError,
    EoctlError,
    NoSpaceError,
    OutcomeUnknownError,
    SnapshotNotFoundError,
    UnavailableError,
    WrongStoreError,
)
from formats.head import MAX_HEAD_BYTES, Head, decode_head, encode_head, roots
from formats.ids import Attempt, PipelineId, TxId
from storage import layout
from storage.backend import Backend, KeyAbsentError, SyncFailedError, Version, VersionMismatchError, version_of
from storage.edits import Edit, fenced, touch

MAX_TRIES = 8
MAX_RACES = 16  # that others win
GONE = 3  # swaps of HEAD after which one can be without a trace: it, an expiry, an advance


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


def read_head(backend: Backend, store: str, pipeline: PipelineId) -> CommittedHead:
    """The committed value of HEAD.

    Raises: SnapshotNotFoundError (no such pipeline), CorruptError, WrongStoreError.
    """
    try:
        with backend.open(layout.head(pipeline)) as file:
            data = file.read(MAX_HEAD_BYTES + 1)
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
    for number in range(MAX_RACES):
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
                # A refusal may be the answer to a repetition of what has happened: only HEAD can tell.
                with _unknown_if(pipeline, uncertain=uncertain or isinstance(error, VersionMismatchError)):
                    seen = _read_again(backend, current, error)
            except EoctlError:
                with _unknown_if(pipeline, uncertain=uncertain):
                    raise
            if _shows(seen.head, txid) or seen.head.nonce == successor.nonce:
                return seen
            # Refused, though HEAD is what was expected: somebody contradicts himself, so nothing is sure.
            refused = isinstance(last, VersionMismatchError | KeyAbsentError)
            uncertain = uncertain or (refused and seen.version == current.version)
            # Or it is the answer to a repetition, and the root has come and gone.
            traceless = attempt is not None or once
            uncertain = uncertain or (refused and traceless and seen.head.seq - current.head.seq >= GONE)
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
        ambient.wait(_pause(number) * _spread(successor.nonce))
    message = f"HEAD of {pipeline} keeps changing: lost {MAX_RACES} swaps in a row"
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


def _stamped(head: Head, nonce: str) -> Head:
    return msgspec.structs.replace(head, nonce=nonce)


def _pause(number: int) -> float:
    """Seconds to wait before try `number` + 2: doubling from 10 ms, at most 1 s."""
    return min(1.0, 0.01 * float(2**number))


def _spread(nonce: str) -> float:
    """From 0.5 to 1.5, evenly: those who lost to the same one do not come back together."""
    return 0.5 + zlib.crc32(nonce.encode()) / 2**32
