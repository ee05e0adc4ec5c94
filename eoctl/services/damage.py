"""From damaged blobs to what they hurt: every damaged content, its names, and all snapshots that cannot restore it.

Suspects are looked at again, against the newest HEAD and all of its snapshots. So what gc has swept meanwhile is no
damage, a pack hurts only those whose slices in it are wrong, and a disk that answers otherwise the second time shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from eoctl.services.roots import distinct, identity
from eoctl.services.values import DamagedFile
from formats.errors import BlobGoneError, CorruptError
from formats.head import Head, HeadEntry, roots
from formats.ids import BlobKey, PipelineId
from formats.manifest import BLOCK_BYTES, Blocks, Inline, Manifest, StateFile, blobs, files_of
from storage import layout
from storage.audit import (
    MISSING,
    OTHER_CONTENT,
    Content,
    Contents,
    Covering,
    block_contents,
    content_of,
    coverings,
    read_blocks,
)
from storage.backend import Key
from storage.blob_check import Checked, check_blob
from storage.blobs import Blobs
from storage.references import full_name
from storage.store import Store
from storage.transfer import each

_Id = tuple[str, str]

MANIFEST_NAME = "manifest"
NOBODY_HURT = "no file of a snapshot is hurt"
FLAKY = "read again it was right: check the disk and the memory of this host"


def read_manifest(store: Store, head: Head, entry: HeadEntry) -> Manifest | str:
    """The manifest, or why it cannot be read.

    Raises: UnavailableError, AccessDeniedError, UnsupportedError: those are no damage.
    """
    try:
        return store.manifest(head, entry)
    except BlobGoneError:
        return MISSING
    except CorruptError as error:
        found = store.backend.stat(_manifest_name(head, entry.manifest))
        if found is not None and found.bytes != entry.manifest_bytes:
            return f"expected {entry.manifest_bytes} bytes, found {found.bytes}"
        return OTHER_CONTENT if "does not match its digest" in error.message else error.message


def find_damage(
    store: Store, pipeline: PipelineId, suspects: Mapping[BlobKey, str], manifests: Mapping[_Id, str]
) -> tuple[DamagedFile, ...]:
    """What is damaged of suspected blobs and manifests (with what was first seen of each), as the newest HEAD needs it.

    Manifests are told by the identity of their snapshots (roots.py).

    Raises: CorruptError if HEAD has become unreadable.
    """
    head = store.head(pipeline).head
    survey = _Survey(store, head, Blobs(store.backend, pipeline, store.hash))
    survey.read(suspects)
    files = tuple(survey.file_damage())
    return (*survey.manifest_damage(manifests), *files, *survey.other_damage(suspects))


class _Fault(NamedTuple):
    """What is wrong, and the name of the stored value in which it is."""

    reason: str
    blob: str


class _Hurt(NamedTuple):
    """What is known of one damaged content."""

    fault: _Fault
    names: set[str]
    manifests: set[_Id]


class _Survey:
    """One look at all snapshots of a HEAD and at the suspected blobs that they name."""

    def __init__(self, store: Store, head: Head, reader: Blobs) -> None:
        self._store = store
        self._head = head
        self._blobs = reader
        self._entries = distinct(roots(head))
        self._unreadable: dict[_Id, str] = {}
        self._checked: dict[BlobKey, Checked] = {}
        self._contents = Contents(reader, ())
        self._tables: dict[Covering, tuple[int, _Fault | None]] = {}
        self._hurting: set[BlobKey] = set()  # suspects that hurt a file

    def read(self, suspects: Mapping[BlobKey, str]) -> None:
        """Every suspected blob that is still needed has been read once more."""
        self._contents = Contents(self._blobs, suspects.keys())
        sizes: dict[BlobKey, int] = {}
        for key, entry in self._entries.items():
            manifest = read_manifest(self._store, self._head, entry)
            if isinstance(manifest, str):
                self._unreadable[key] = manifest
            else:
                sizes |= {blob: size for blob, size in blobs(manifest).items() if blob in suspects}
                self._contents.add(manifest)
        found = each(sorted(sizes), lambda key: check_blob(self._blobs, key, sizes[key], self._contents.of(key)))
        self._checked = {checked.key: checked for checked in found}

    def manifest_damage(self, suspected: Mapping[_Id, str]) -> Iterator[DamagedFile]:
        for key, reason in self._unreadable.items():
            yield self._damaged_manifest(key, reason, self._addresses({key}))
        for key, reason in suspected.items():
            if key in self._entries and key not in self._unreadable:
                yield self._damaged_manifest(key, f"{reason}; {FLAKY}", ())

    def _damaged_manifest(self, key: _Id, reason: str, snapshots: tuple[str, ...]) -> DamagedFile:
        digest = BlobKey.parse(key[0]).digest
        name = str(_manifest_name(self._head, key[0]))
        return DamagedFile(digest=digest, name=MANIFEST_NAME, snapshots=snapshots, reason=reason, blob=name)

    def file_damage(self) -> Iterator[DamagedFile]:
        """One for each damaged content, by name."""
        hurt: dict[str, _Hurt] = {}
        for key, entry in self._entries.items():
            if key in self._unreadable:
                continue
            manifest = read_manifest(self._store, self._head, entry)
            if isinstance(manifest, str):
                self._unreadable[key] = manifest  # between two looks
                continue
            for operator, subtask, file in files_of(manifest):
                fault = self._fault(file, entry)
                if fault is not None:
                    found = hurt.setdefault(file.digest, _Hurt(fault, set(), set()))
                    found.names.add(full_name(operator, subtask, file))
                    found.manifests.add(key)
        for digest, found in sorted(hurt.items(), key=lambda item: min(item[1].names)):
            first, *others = sorted(found.names)
            yield DamagedFile(
                digest=digest,
                name=first,
                other_names=tuple(others),
                snapshots=self._addresses(found.manifests),
                reason=found.fault.reason,
                blob=found.fault.blob,
            )

    def other_damage(self, suspects: Mapping[BlobKey, str]) -> Iterator[DamagedFile]:
        """After `file_damage`: suspects that hurt no file, or were right at the second look."""
        for key, checked in self._checked.items():
            if key not in self._hurting:
                reason = f"{checked.fault}; {NOBODY_HURT}" if checked.fault else f"{suspects[key]}; {FLAKY}"
                name = self._blob_name(key)
                yield DamagedFile(digest=key.digest, name=name, snapshots=(), reason=reason, blob=name)

    def _fault(self, file: StateFile, entry: HeadEntry) -> _Fault | None:
        match file.place:
            case Inline(data=data):
                right = self._store.hash.digest(data) == file.digest
                return None if right else _Fault(OTHER_CONTENT, str(_manifest_name(self._head, entry.manifest)))
            case Blocks() as place:
                return self._blocks_fault(file, place)
        return self._content_fault(content_of(file))

    def _content_fault(self, found: tuple[BlobKey, Content] | None) -> _Fault | None:
        assert found is not None, "inline data and blocks are looked at elsewhere"
        key, content = found
        checked = self._checked.get(key)
        if checked is None or not checked.hurts(content):
            return None
        self._hurting.add(key)
        return _Fault(checked.fault or OTHER_CONTENT, self._blob_name(key))

    def _blocks_fault(self, file: StateFile, place: Blocks) -> _Fault | None:
        named = {BlobKey.parse(pack) for pack in place.packs}
        wrong = 0
        first: _Fault | None = None
        for covering in coverings(file, place):
            count, fault = self._table_fault(covering, named)
            if fault is not None and not count:
                return fault
            wrong, first = wrong + count, first or fault
        if first is None:
            return None
        return _Fault(f"{wrong} of {-(-file.bytes // BLOCK_BYTES)} blocks: {first.reason}", first.blob)

    def _table_fault(self, covering: Covering, packs: set[BlobKey]) -> tuple[int, _Fault | None]:
        """How many of the table's blocks are wrong, and why the first is; 0 and a reason where the table itself is."""
        if covering not in self._tables:
            self._tables[covering] = self._look_at_table(covering, packs)
        return self._tables[covering]

    def _look_at_table(self, covering: Covering, packs: set[BlobKey]) -> tuple[int, _Fault | None]:
        found = content_of(covering.table)
        fault = self._content_fault(found)
        if fault is not None:
            return 0, _Fault(f"a block table: {fault.reason}", fault.blob)
        assert found is not None, "a table lies in a blob"
        if covering in self._contents.misfits:
            self._hurting.add(found[0])
            return 0, _Fault(self._contents.misfits[covering], self._blob_name(found[0]))
        if packs.isdisjoint(self._checked):
            return 0, None
        try:
            blocks = read_blocks(self._blobs, covering, packs)
        except CorruptError as error:
            return 0, _Fault(error.message, self._blob_name(found[0]))
        faults = [fault for block in block_contents(covering, blocks) if (fault := self._content_fault(block))]
        return len(faults), faults[0] if faults else None

    def _addresses(self, manifests: set[_Id]) -> tuple[str, ...]:
        """The snapshots with these manifests, in the order of HEAD."""
        found = [f"{self._head.pipeline}@{root.label}" for root in roots(self._head) if identity(root) in manifests]
        return tuple(dict.fromkeys(found))

    def _blob_name(self, key: BlobKey) -> str:
        return str(layout.blob(self._blobs.pipeline, key))


def _manifest_name(head: Head, key: str) -> Key:
    return layout.manifest(PipelineId(head.pipeline), BlobKey.parse(key))
