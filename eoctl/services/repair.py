"""Damaged contents, replaced by intact copies of the same bytes.

A full verification says what is damaged. Copies are looked for in the directories given and in the store itself, by
digest alone; what was found is put into the current era, and the snapshots concerned get new manifests in one swap of
HEAD, under the commit rule. Nothing is overwritten, and a repair that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec

from eoctl.services.copies import Copies, check_folders, search_folders, search_manifest, search_store
from eoctl.services.damage import FLAKY, MANIFEST_NAME
from eoctl.services.mending import Mender
from eoctl.services.repair_values import PipelineRepair, RepairItem, StoreRepair
from eoctl.services.stats import list_pipelines
from eoctl.services.survey import Survey
from eoctl.services.values import DamagedFile, Verification
from eoctl.services.verify import HEAD_NAME, verify
from eoctl.services.writers import _distrust_lost_writes
from formats.head import roots
from formats.ids import BlobKey, PipelineId, TxId
from formats.manifest import Manifest, files_of
from storage.audit import MISSING
from storage.edits import raise_era
from storage.head import swap_head
from storage.session import Session
from storage.store import Store

MAX_ROUNDS = 4  # a manifest that is back shows blobs that it needs, a table shows blocks
MAX_WANTED = 8  # told for one damaged content

Progress = Callable[[int, int], None]


def repair(
    store: Store,
    pipeline: PipelineId | None,
    folders: Sequence[Path],
    *,
    dry_run: bool = False,
    progress: Progress = lambda *_: None,
) -> StoreRepair:
    """What could be repaired is, in this pipeline or in all of them. With `dry_run` nothing is written but reports.

    Raises: UsageError (no such directory), SnapshotNotFoundError, UnavailableError, NoSpaceError, AccessDeniedError.
    """
    copies = Copies(store.hash)
    folders = check_folders(folders)  # a name that is mistyped is told before hours of reading
    names = [row.pipeline for row in list_pipelines(store) if row.state != "destroyed"]
    chosen = [PipelineId(name) for name in names] if pipeline is None else [pipeline]
    done = tuple(_Repair(store, each, folders, copies, progress).run(dry_run=dry_run) for each in chosen)
    return StoreRepair(
        dry_run=dry_run,
        whole=all(one.whole for one in done),
        sources=tuple(str(folder) for folder in folders),
        searched_files=copies.searched_files,
        searched_bytes=copies.searched_bytes,
        pipelines=done,
    )


class _Repair:
    """One pipeline."""

    def __init__(
        self, store: Store, pipeline: PipelineId, folders: Sequence[Path], copies: Copies, progress: Progress
    ) -> None:
        self._store = store
        self._pipeline = pipeline
        self._folders = folders
        self._copies = copies
        self._progress = progress
        self._searched: set[str] = set()
        self._rewritten: dict[str, None] = {}
        self._uploaded: dict[BlobKey, int] = {}
        self._items: dict[tuple[str, str], RepairItem] = {}
        self._notes: dict[str, None] = {}

    def run(self, *, dry_run: bool) -> PipelineRepair:
        found = self._verify()
        read = found.checked_bytes
        for _ in range(MAX_ROUNDS):
            if not found.damaged or any(damage.name == HEAD_NAME for damage in found.damaged):
                break
            changed = self._round(found.damaged, dry_run=dry_run)
            if not changed or dry_run:
                break
            found = self._verify()
            read += found.checked_bytes
        left = {_identity(damage) for damage in found.damaged}
        for damage in found.damaged:
            if _identity(damage) not in self._items and not self._is_passing(damage):
                self._items[_identity(damage)] = _item(damage, status="damaged")
        items = []
        for identity, item in self._items.items():
            if identity not in left:
                items.append(msgspec.structs.replace(item, status="repaired", wanted=()))
            else:
                items.append(item if dry_run else msgspec.structs.replace(item, status="damaged"))
        return PipelineRepair(
            pipeline=self._pipeline.name,
            checked_bytes=read,
            items=tuple(items),
            rewritten=tuple(self._rewritten),
            uploaded_blobs=len(self._uploaded),
            uploaded_bytes=sum(self._uploaded.values()),
            notes=tuple(self._notes),
        )

    def _verify(self) -> Verification:
        return verify(
            self._store, self._pipeline, None, "full", scratch=self._store.place.scratch, progress=self._progress
        )

    def _is_passing(self, damage: DamagedFile) -> bool:
        """It was right when it was read again: nothing to repair, and something to know."""
        if FLAKY not in damage.reason:
            return False
        self._notes[f"{damage.blob or damage.name}: {damage.reason}"] = None
        return True

    def _round(self, damaged: Sequence[DamagedFile], *, dry_run: bool) -> bool:
        """Copies were looked for, and used. True where something was stored or swapped in."""
        damaged = [damage for damage in damaged if not self._is_passing(damage)]
        head = self._store.head(self._pipeline).head
        survey = Survey(self._store, self._pipeline, head, damaged, self._copies)
        self._search(survey)
        self._judge(survey, damaged)
        if dry_run or not any(item.status == "repairable" for item in self._items.values()):
            return False
        self._leave_poisoned_era(survey)
        return self._mend(damaged)

    def _search(self, survey: Survey) -> None:
        """Whatever was not looked for yet is looked for everywhere."""
        wanted = {digest: size for digest, size in survey.wanted().items() if digest not in self._searched}
        self._searched |= wanted.keys()
        if not wanted:
            return
        search_folders(self._copies, self._folders, wanted)
        search_store(self._copies, self._store, self._pipeline, wanted)
        for _, manifest in survey.manifests():
            search_manifest(self._copies, survey.reader, manifest, wanted)

    def _judge(self, survey: Survey, damaged: Iterable[DamagedFile]) -> None:
        """Of each damage: is there what it takes?"""
        harm, lacking = _harm(survey, {damage.digest for damage in damaged})
        sizes = survey.wanted()
        for damage in damaged:
            blob = damage.blob.rpartition("/")[2].partition(".")[0]
            lacks = lacking.get(damage.digest, []) if damage.snapshots else []  # else what is right in it is moved
            if damage.name == MANIFEST_NAME and damage.digest not in self._copies:
                lacks = [damage.digest]
            # What helps most: the stored blob, the file as a whole, then what is missing of it.
            digests = dict.fromkeys([blob, damage.digest, *harm.get(damage.digest, ())])
            wanted = [f"{digest} ({sizes[digest]} bytes)" for digest in digests if lacks and digest in sizes]
            self._items[_identity(damage)] = _item(
                damage,
                status="damaged" if lacks else "repairable",
                source=next((where for digest in digests if (where := self._copies.where(digest))), ""),
                wanted=tuple(wanted[:MAX_WANTED]),
            )

    def _leave_poisoned_era(self, survey: Survey) -> None:
        """Under a name that wrong bytes have taken nothing can be put: go on in the era after it."""
        taken = {key.era for key, checked in survey.bad.items() if checked.fault != MISSING}
        taken |= {BlobKey.parse(key).era for key in survey.unreadable}
        _distrust_lost_writes(self._store, self._pipeline)
        current = self._store.head(self._pipeline)
        if current.head.era in taken:
            txid = TxId(self._store.ambient.new_id())
            edit = partial(raise_era, floor=False)
            swap_head(self._store.backend, current, edit, self._store.ambient, txid=txid, attempt=None)

    def _mend(self, damaged: Sequence[DamagedFile]) -> bool:
        uploaded: dict[BlobKey, int] = {}
        addresses: dict[str, list[str]] = {}

        def plan(session: Session) -> Iterator[tuple[str, Manifest]]:
            head = session.head.head
            survey = Survey(self._store, self._pipeline, head, damaged, self._copies)
            mender = Mender(session, survey, self._copies)
            yield from mender.manifests()
            uploaded.clear()
            uploaded.update(mender.uploaded)
            addresses.clear()
            for root in roots(head):
                addresses.setdefault(root.manifest, []).append(f"{self._pipeline}@{root.label}")

        swapped = Session(self._store, self._pipeline, based=False).rewrite(plan)
        self._uploaded |= uploaded
        self._rewritten |= dict.fromkeys(address for old in swapped for address in addresses.get(old, ()))
        return bool(swapped or uploaded)


def _harm(survey: Survey, digests: set[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """For each damaged file, by digest: what is wrong with it, and what of that is missing to mend it everywhere."""
    harm: dict[str, dict[str, None]] = {}
    lacking: dict[str, dict[str, None]] = {}
    for _, manifest in survey.manifests():
        for _, _, file in files_of(manifest):
            if file.digest in digests:
                harm.setdefault(file.digest, {}).update(dict.fromkeys(survey.harm(file)))
                lacking.setdefault(file.digest, {}).update(dict.fromkeys(survey.lacks(file)))
    return (
        {digest: list(found) for digest, found in harm.items()},
        {digest: list(found) for digest, found in lacking.items()},
    )


def _identity(damage: DamagedFile) -> tuple[str, str]:
    """A content is damaged once, whatever names it has; a value that no file needs is told by its own name."""
    is_file = bool(damage.snapshots) and damage.name != MANIFEST_NAME
    return damage.digest, "" if is_file else damage.blob


def _item(damage: DamagedFile, *, status: str, source: str = "", wanted: tuple[str, ...] = ()) -> RepairItem:
    return RepairItem(
        digest=damage.digest,
        name=damage.name,
        snapshots=damage.snapshots,
        reason=damage.reason,
        status=status,
        blob=damage.blob,
        other_names=damage.other_names,
        source=source,
        wanted=wanted,
    )
