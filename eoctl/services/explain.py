"""Who needs a snapshot or a file, what deleting the snapshot would free, and why gc keeps it until then."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from eoctl.ambient import format_time
from eoctl.services.inspect import stored_parts
from eoctl.services.resolve import Resolved
from eoctl.services.roots import KEEP_TRASH_HOURS, has_expired, leaving, read_roots, root_labels
from eoctl.services.values import BlobUse, Explanation
from formats.errors import UsageError
from formats.ids import BlobKey, PipelineId
from formats.manifest import Manifest, StateFile, files_of
from storage import layout
from storage.blobs import Blobs
from storage.references import References, Root, Space, Stored, full_name
from storage.store import Store

MAX_CANDIDATES = 10
MAX_COMPARED_NAMES = 20_000  # comparing spellings is slow

_digest_prefix = re.compile(r"[0-9a-f]{8,64}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Subject:
    """What is asked about: what it takes of each stored value, and who else has it."""

    name: str
    kind: str
    takes: Mapping[Stored, int]
    referenced_by: tuple[str, ...]


def explain(store: Store, resolved: Resolved, file: str | None = None) -> Explanation:
    """The snapshot explained, or one file of it: `NAME`, `OPERATOR/SUBTASK/NAME`, or 8 and more digits of a digest.

    For a file, too, deleting means deleting the snapshot: what of the file's bytes goes with it.
    Raises: UsageError (no such file, or more than one), CorruptError and BlobGoneError where a manifest is damaged.
    """
    manifest = store.manifest(resolved.head, resolved.entry)
    picked = None if file is None else _pick(resolved, manifest, file)
    having: set[str] = set()

    def meet(root: Root) -> None:
        if picked is not None and any(found.digest == picked[1].digest for _, _, found in files_of(root.manifest)):
            having.add(root.label)

    references = References(read_roots(store, resolved.head, meet=meet))
    view = _View(resolved, references, store.ambient.now())
    if picked is None:
        takes = references.needs(view.label)
        needing = view.snapshots(label for stored in takes for label in references.users(stored))
        subject = _Subject(name=resolved.address, kind="snapshot", takes=takes, referenced_by=view.others(needing))
    else:
        name = f"{resolved.address} {picked[0]}"
        takes = _file_takes(store, resolved, picked[1])
        subject = _Subject(name=name, kind="file", takes=takes, referenced_by=view.snapshots(having))
    return _explanation(view, subject, {BlobKey.parse(pack.key) for pack in manifest.packs})


class _View:
    """HEAD and references as seen from one snapshot."""

    def __init__(self, resolved: Resolved, references: References, now: str) -> None:
        self.resolved = resolved
        self.references = references
        self.now = now
        self.entries = root_labels(resolved.head)
        self.label = next(label for label, entry in self.entries.items() if entry == resolved.entry)
        self.gone = leaving(resolved.head, {resolved.entry.label}, now)
        self._known: dict[frozenset[str], tuple[str, ...]] = {}

    def snapshots(self, labels: Iterable[str]) -> tuple[str, ...]:
        """The addresses of these roots' snapshots, in the order of HEAD."""
        wanted = frozenset(labels)
        if wanted not in self._known:
            found = [entry.label for label, entry in self.entries.items() if label in wanted]
            self._known[wanted] = tuple(f"{self.resolved.pipeline}@{label}" for label in dict.fromkeys(found))
        return self._known[wanted]

    def others(self, addresses: Iterable[str]) -> tuple[str, ...]:
        return tuple(address for address in addresses if address != self.resolved.address)

    def users(self, stored: Stored) -> tuple[str, ...]:
        return self.snapshots(self.references.users(stored))

    def staying(self, stored: Stored) -> tuple[str, ...]:
        """Other snapshots that still need it once this one is gone."""
        return self.others(self.snapshots(set(self.references.users(stored)) - self.gone))


def _explanation(view: _View, subject: _Subject, packs: set[BlobKey]) -> Explanation:
    freed = view.references.freed_by(view.gone)
    frees = {stored: size for stored, size in subject.takes.items() if stored in freed}
    shares: dict[str, int] = {}
    shared = 0
    for stored, size in subject.takes.items():
        others = view.others(view.users(stored))
        shared += size if others else 0
        for other in others:
            shares[other] = shares.get(other, 0) + size
    reasons = [*_entry_reasons(view), *_sharing_reasons(view, subject, frees, packs), *_era_reasons(view, subject)]
    pipeline = view.resolved.pipeline
    return Explanation(
        subject=subject.name,
        kind=subject.kind,
        stored_bytes=sum(subject.takes.values()),
        shared_bytes=shared,
        frees_bytes=sum(frees.values()),
        frees_blobs=len(frees),
        referenced_by=subject.referenced_by,
        shares_with=dict(sorted(shares.items(), key=lambda item: (-item[1], item[0]))),
        kept_because=tuple(reasons),
        blobs=tuple(
            BlobUse(key=_key_name(pipeline, stored), stored_bytes=view.references.bytes_of(stored), snapshots=users)
            for stored in sorted(subject.takes)
            for users in [view.users(stored)]
        ),
    )


def _entry_reasons(view: _View) -> Iterator[str]:
    head, entry, address = view.resolved.head, view.resolved.entry, view.resolved.address
    if any(live.label == entry.label for live in head.live):
        newest = next((live for live in reversed(head.live) if live.kind == "checkpoint"), None)
        if newest is not None and newest.label == entry.label:
            yield f"{address} is live, and the newest checkpoint: no age rule expires it"
        else:
            yield f"{address} is live"
    for trashed in head.trash:
        if trashed.entry.label == entry.label:
            until = format_time(datetime.fromisoformat(trashed.trashed_at) + timedelta(hours=KEEP_TRASH_HOURS))
            seen = "" if trashed.seen_by_advance else ", and after an advance that meets it there, which none has yet"
            yield (
                f"{address} is in the trash since {trashed.trashed_at}: gc drops it from {until} on "
                f"(--keep-trash {KEEP_TRASH_HOURS}h){seen}"
            )
    for hold in head.holds:
        if hold.entry.label == entry.label:
            if has_expired(hold, view.now):
                end = f"expired at {hold.expires_at}: the next advance of gc drops it"
            else:
                end = f"until {hold.expires_at}" if hold.expires_at else "without an end: until it is released"
            yield f"the hold {hold.id} keeps {address} ({hold.reason}), {end}"


def _sharing_reasons(view: _View, subject: _Subject, frees: Mapping[Stored, int], packs: set[BlobKey]) -> Iterator[str]:
    """What stays for the sake of others, and what goes only together with others."""
    kept = {stored: size for stored, size in subject.takes.items() if stored not in frees and view.staying(stored)}
    if kept:
        needing = view.snapshots(set().union(*(view.references.users(stored) for stored in kept)) - view.gone)
        yield f"{_amount(kept)} of it stay for {_names(view.others(needing))}"
        whole = [stored for stored in kept if stored.space is Space.BLOB and stored.key in packs]
        if whole:
            packs_of_it = _count(len(whole), "pack")
            yield f"among them {packs_of_it}: a pack stays whole as long as one slice of it is needed"
    trash = {trashed.entry.label for trashed in view.resolved.head.trash} - {view.resolved.entry.label}
    both = {stored: size for stored, size in frees.items() if trash & set(view.references.users(stored))}
    if both:
        labels = set().union(*(view.references.users(stored) for stored in both)) & trash
        others = _names(view.snapshots(labels))
        yield f"{_amount(both)} of it are needed by {others} in the trash too: they go once both have left it"


def _era_reasons(view: _View, subject: _Subject) -> Iterator[str]:
    floor = view.resolved.head.floor
    young = {stored: size for stored, size in subject.takes.items() if stored.key.era >= floor}
    if young:
        eras = sorted({stored.key.era for stored in young})
        told = f"era {eras[0]}" if len(eras) == 1 else f"eras {eras[0]} to {eras[-1]}"
        yield f"{_amount(young)} of it are of {told}: gc deletes only what is below the floor, which is {floor} now"


def _file_takes(store: Store, resolved: Resolved, file: StateFile) -> dict[Stored, int]:
    reader = Blobs(store.backend, resolved.pipeline, store.hash)
    found = {}
    for key, size in stored_parts(reader, file):
        if key:
            found[Stored(Space.BLOB, BlobKey.parse(key))] = size
        else:
            found[Stored(Space.MANIFEST, BlobKey.parse(resolved.entry.manifest))] = size
    return found


def _pick(resolved: Resolved, manifest: Manifest, wanted: str) -> tuple[str, StateFile]:
    """The file of that name or digest, with its full name."""
    files = [(full_name(*found), found[2]) for found in files_of(manifest)]
    picked = [(name, file) for name, file in files if wanted in {file.name, name}]
    if not picked and _digest_prefix.match(wanted):
        picked = [(name, file) for name, file in files if file.digest.startswith(wanted)]
    if not picked:
        near = _nearest(wanted, [file.name for _, file in files]) or _nearest(wanted, [name for name, _ in files])
        hint = f"did you mean {' or '.join(near)}?" if near else f"eoctl checkpoint files {resolved.address}"
        raise UsageError(f"{resolved.address} has no file {wanted!r}", hint=hint, candidates=near)
    if len({file.digest for _, file in picked}) > 1:
        names = [f"{name} ({file.digest[:12]})" for name, file in picked]
        more = f" and {len(names) - MAX_CANDIDATES} more" if len(names) > MAX_CANDIDATES else ""
        raise UsageError(
            f"{wanted!r} names {len(names)} files of {resolved.address}",
            hint=f"say which: {', '.join(names[:MAX_CANDIDATES])}{more}",
            candidates=[name for name, _ in picked[:MAX_CANDIDATES]],
        )
    return picked[0]


def _nearest(wanted: str, names: list[str]) -> list[str]:
    return difflib.get_close_matches(wanted, list(dict.fromkeys(names))[:MAX_COMPARED_NAMES], n=3)


def _key_name(pipeline: PipelineId, stored: Stored) -> str:
    name = layout.blob if stored.space is Space.BLOB else layout.manifest
    return name(pipeline, stored.key).path


def _amount(stored: Mapping[Stored, int]) -> str:
    return f"{_count(len(stored), 'blob')} ({_count(sum(stored.values()), 'byte')})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _names(addresses: tuple[str, ...]) -> str:
    more = f" and {len(addresses) - MAX_CANDIDATES} more" if len(addresses) > MAX_CANDIDATES else ""
    return ", ".join(addresses[:MAX_CANDIDATES]) + more
