"""The roots of a pipeline with their manifests, and which of them are on their way out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from formats.head import Head, HeadEntry, Hold
from formats.ids import BlobKey
from storage.references import Root
from storage.store import Store

KEEP_TRASH_HOURS = 24  # what gc grants an entry in the trash unless it is told otherwise


def read_roots(store: Store, head: Head, *, meet: Callable[[Root], None] = lambda _: None) -> Iterator[Root]:
    """Every root of this HEAD; each manifest is read once and is gone after its roots. `meet` sees each root first.

    A live entry or one in the trash is labelled as itself, a hold by `hold_label`.
    Raises: CorruptError, BlobGoneError: then nobody knows who needs what.
    """
    labels = root_labels(head)
    by_manifest: dict[str, list[tuple[str, HeadEntry]]] = {}
    for label, entry in labels.items():
        by_manifest.setdefault(entry.manifest, []).append((label, entry))
    for key, named in by_manifest.items():
        manifest = store.manifest(head, named[0][1])
        for label, entry in named:
            root = Root(label, manifest, BlobKey.parse(key), entry.manifest_bytes)
            meet(root)
            yield root


def root_labels(head: Head) -> dict[str, HeadEntry]:
    """Every root under a label of its own: live entries, then the trash, then holds."""
    entries = [*head.live, *(trashed.entry for trashed in head.trash)]
    found = {entry.label: entry for entry in entries}
    found.update({hold_label(hold): hold.entry for hold in head.holds})
    return found


def hold_label(hold: Hold) -> str:
    """A name that no snapshot can have."""
    return f"hold {hold.id}"


def has_expired(hold: Hold, now: str) -> bool:
    """The next advance of gc drops it. Times are of fixed width, so text sorts by time."""
    return hold.expires_at is not None and hold.expires_at <= now


def leaving(head: Head, labels: Collection[str], now: str) -> frozenset[str]:
    """The roots that are gone once these entries have left the trash.

    gc drops what was put into the trash before, and holds that have expired, no later than that.
    """
    trash = {trashed.entry.label for trashed in head.trash}
    expired = {hold_label(hold) for hold in head.holds if has_expired(hold, now)}
    return frozenset(labels) | trash | expired
