"""The roots of a pipeline with their manifests, and which of them are on their way out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

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
    naming: dict[tuple[str, str], list[str]] = {}
    for label, entry in labels.items():
        naming.setdefault(identity(entry), []).append(label)
    for names in naming.values():
        entry = labels[names[0]]
        manifest = store.manifest(head, entry)
        for label in names:
            root = Root(label, manifest, BlobKey.parse(entry.manifest), entry.manifest_bytes)
            meet(root)
            yield root


def identity(entry: HeadEntry) -> tuple[str, str]:
    """Roots of one snapshot have one manifest and one transaction id; two snapshots of one manifest are a fault."""
    return entry.manifest, entry.txid


def distinct(entries: Iterable[HeadEntry]) -> dict[tuple[str, str], HeadEntry]:
    """Each snapshot once, in order, by its identity."""
    found: dict[tuple[str, str], HeadEntry] = {}
    for entry in entries:
        found.setdefault(identity(entry), entry)
    return found


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
