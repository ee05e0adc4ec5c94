"""Changing what HEAD says of a snapshot: its tags, its holds, whether it is live or in the trash.

Each change is one swap of HEAD and is safe to repeat. Nothing is deleted here: an entry in the trash is a root until
gc drops it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

from eoctl.ambient import format_time
from eoctl.services.resolve import LATEST, Resolved, latest, row_of
from eoctl.services.roots import has_expired, leaving, read_roots
from eoctl.services.values import Deletion, EntryChange, HoldRow, Release
from formats.canonical import MAX_STRING_BYTES
from formats.errors import CorruptError, SnapshotNotFoundError, UsageError
from formats.head import Head, Hold, check_tag
from formats.ids import PipelineId, TxId
from storage import edits
from storage.edits import Edit
from storage.head import CommittedHead, swap_head
from storage.references import References
from storage.store import Store

MIN_HOLD_PREFIX = 8
MAX_HOLD_SECONDS = 100 * 365 * 86_400


def tag(store: Store, resolved: Resolved, add: Collection[str], remove: Collection[str]) -> EntryChange:
    """The live entry has the tags `add` and none of `remove`.

    Raises: UsageError, BadNameError, SnapshotNotFoundError where the entry is not live.
    """
    both = set(add) & set(remove)
    if both:
        raise UsageError(f"a tag to add and to remove: {min(both)}")
    for text in add:
        check_tag(text)
    label = resolved.entry.label
    before, after = _swap(
        store, resolved.pipeline, lambda head: edits.tag(head, label, frozenset(add), frozenset(remove))
    )
    return _change(before, after, label)


def hold(store: Store, resolved: Resolved, reason: str, expires_after_seconds: int | None = None) -> HoldRow:
    """The snapshot has a further hold. Without an expiry it is a legal hold: kept until it is released.

    Raises: UsageError, SnapshotNotFoundError.
    """
    if not reason.strip() or len(reason) > MAX_STRING_BYTES:
        raise UsageError(f"a hold needs a reason, of at most {MAX_STRING_BYTES} characters", hint="--reason TEXT")
    now = store.ambient.now()
    expires_at = None
    if expires_after_seconds is not None:
        if not 0 < expires_after_seconds <= MAX_HOLD_SECONDS:
            raise UsageError(f"a hold cannot last {expires_after_seconds} s", hint=f"1 to {MAX_HOLD_SECONDS} seconds")
        expires_at = format_time(datetime.fromisoformat(now) + timedelta(seconds=expires_after_seconds))
    hold_id = store.ambient.new_id()
    label = resolved.entry.label
    edit = partial(edits.hold, label=label, hold_id=hold_id, reason=reason, now=now, expires_at=expires_at)
    _, after = _swap(store, resolved.pipeline, edit)
    return hold_row(after, next(found for found in after.holds if found.id == hold_id))


def release(store: Store, what: Resolved | str) -> Release:
    """The holds are gone: every one of the snapshot, or the one of that id (or of its first 8 digits and more).

    A snapshot without a hold is fine. Raises: SnapshotNotFoundError (no such hold), UsageError (more than one).
    """
    if isinstance(what, Resolved):
        pipeline, label = what.pipeline, what.entry.label
        before, after = _swap(
            store, pipeline, lambda head: edits.release(head, frozenset(found.id for found in _holds_of(head, label)))
        )
    else:
        pipeline, hold_id = _find_hold(store, what)
        before, after = _swap(store, pipeline, partial(edits.release, hold_ids=frozenset({hold_id})))
    left = {found.id for found in after.holds}
    return Release(
        pipeline=pipeline.name,
        released=tuple(hold_row(before, found) for found in before.holds if found.id not in left),
    )


def delete(store: Store, pipeline: PipelineId, labels: Collection[str], *, dry_run: bool = False) -> Deletion:
    """The entries are in the trash, from where `undelete` brings them back until gc drops them.

    `latest` and `#42` are understood. With `dry_run` nothing changes, and the answer is the same.
    Raises: UsageError, SnapshotNotFoundError; ConflictError where a legal hold keeps one.
    """
    if not labels:
        raise UsageError("nothing to delete", hint="eoctl checkpoint delete PIPELINE@ID")
    current = store.head(pipeline)
    chosen = frozenset(latest(current.head).label if label == LATEST else label.removeprefix("#") for label in labels)
    now = store.ambient.now()
    if dry_run:
        before, after = current.head, edits.expire(current.head, chosen, now)
    else:
        before, after = _swap(store, pipeline, partial(edits.expire, labels=chosen, now=now), current)
    newest = next((entry.label for entry in reversed(before.live) if entry.kind == "checkpoint"), None)
    order = [entry.label for entry in before.live if entry.label in chosen]
    order += [trashed.entry.label for trashed in before.trash if trashed.entry.label in chosen]
    notes = [
        f"{pipeline}@{label} stays for its hold {found.id} until {found.expires_at}"
        for label in order
        for found in _holds_of(after, label)
        if not has_expired(found, now)
    ]
    freed = None
    try:
        references = References(read_roots(store, after))
        freed = _freed(references, chosen, leaving(after, chosen, now))
    except CorruptError as error:
        notes.append(f"what this frees is not known: {error.message}")
    return Deletion(
        pipeline=pipeline.name,
        dry_run=dry_run,
        entries=tuple(_change(before, after, label, newest=label == newest) for label in order),
        frees_blobs=None if freed is None else freed[0],
        frees_bytes=None if freed is None else freed[1],
        notes=tuple(notes),
    )


def undelete(store: Store, pipeline: PipelineId, label: str) -> EntryChange:
    """The entry is live again, in its old place. Raises: SnapshotNotFoundError where it is not in the trash."""
    label = label.removeprefix("#")
    before, after = _swap(store, pipeline, partial(edits.undelete, label=label))
    return _change(before, after, label)


def hold_row(head: Head, found: Hold) -> HoldRow:
    return HoldRow(
        id=found.id,
        snapshot=f"{head.pipeline}@{found.entry.label}",
        reason=found.reason,
        created_at=found.created_at,
        expires_at=found.expires_at,
    )


def _swap(store: Store, pipeline: PipelineId, edit: Edit, current: CommittedHead | None = None) -> tuple[Head, Head]:
    """HEAD before and after the edit, which was applied to the newest value."""
    seen: list[Head] = []

    def noting(head: Head) -> Head:
        seen.append(head)
        return edit(head)

    txid = TxId(store.ambient.new_id())
    after = swap_head(store.backend, current or store.head(pipeline), noting, store.ambient, txid=txid, attempt=None)
    return seen[-1], after.head


def _change(before: Head, after: Head, label: str, *, newest: bool = False) -> EntryChange:
    was, now = (row_of(head, edits.find(head, label)) for head in (before, after))
    return EntryChange(snapshot=now, changed=was != now, newest=newest)


def _freed(references: References, labels: frozenset[str], gone: frozenset[str]) -> tuple[int, int]:
    """Blobs and bytes that these snapshots need and nothing else will."""
    needed = set().union(*(references.needs(label) for label in labels))
    freed = {stored: size for stored, size in references.freed_by(gone).items() if stored in needed}
    return len(freed), sum(freed.values())


def _holds_of(head: Head, label: str) -> list[Hold]:
    return [found for found in head.holds if found.entry.label == label]


def _find_hold(store: Store, prefix: str) -> tuple[PipelineId, str]:
    if len(prefix) < MIN_HOLD_PREFIX:
        raise UsageError(f"not the id of a hold: {prefix!r}", hint=f"its first {MIN_HOLD_PREFIX} digits or more")
    found = [
        (pipeline, hold.id)
        for pipeline in store.pipelines()
        for hold in store.head(pipeline).head.holds
        if hold.id.startswith(prefix)
    ]
    if not found:
        raise SnapshotNotFoundError(f"there is no hold {prefix}", hint="eoctl pipeline show -p PIPELINE lists holds")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} holds begin with {prefix}", hint="give more digits", candidates=[i for _, i in found]
        )
    return found[0]
