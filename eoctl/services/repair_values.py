"""What `store repair` answers (see values.py)."""

from __future__ import annotations

from msgspec import Struct


class RepairItem(Struct, frozen=True, kw_only=True):
    """One damaged content, as `DamagedFile` tells it, and what became of it.

    `status`: repaired; repairable (a dry run: intact bytes were found); damaged (none were found). `source`: where
    intact bytes were found; of many, the first. `wanted`: what would help, where nothing did: a file or stored blob of
    that digest and size.
    """

    digest: str
    name: str
    snapshots: tuple[str, ...]
    reason: str
    status: str
    blob: str = ""
    other_names: tuple[str, ...] = ()
    source: str = ""
    wanted: tuple[str, ...] = ()


class PipelineRepair(Struct, frozen=True, kw_only=True):
    """What was damaged in one pipeline, and what became of it.

    `rewritten`: snapshots that have a new manifest. `uploaded_bytes`: stored bytes that were written for that.
    """

    pipeline: str
    checked_bytes: int
    items: tuple[RepairItem, ...]
    rewritten: tuple[str, ...] = ()
    uploaded_blobs: int = 0
    uploaded_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return all(item.status == "repaired" for item in self.items)


class RisenSnapshot(Struct, frozen=True, kw_only=True):
    """A snapshot of a rebuilt HEAD. `status`: live, trash, held. `origin`: a copy of HEAD (`backup`) or `manifest`."""

    snapshot: str
    kind: str
    created_at: str
    attempt: int
    files: int
    full_bytes: int
    status: str
    origin: str
    tags: tuple[str, ...]


class LostSnapshot(Struct, frozen=True, kw_only=True):
    """A snapshot that a rebuilt HEAD leaves out. `snapshot` is "" where its manifest cannot be read."""

    snapshot: str
    manifest: str
    reason: str


class HeadRebuild(Struct, frozen=True, kw_only=True):
    """The HEAD that was made, or would be (`written` is false). `torn`: what is wrong with the old one, "" if missing.

    `backup`: the copy of HEAD that it starts from, "" where there is none.
    """

    pipeline: str
    written: bool
    torn: str
    backup: str
    seq: int
    era: int
    floor: int
    attempt: int
    last_id: int
    snapshots: tuple[RisenSnapshot, ...]
    left_out: tuple[LostSnapshot, ...]
    copied_blobs: int = 0
    copied_bytes: int = 0


class StoreRepair(Struct, frozen=True, kw_only=True):
    """What a repair found and did. `whole`: nothing is damaged any more. `searched_files`: read in the sources."""

    dry_run: bool
    whole: bool
    sources: tuple[str, ...]
    searched_files: int
    searched_bytes: int
    pipelines: tuple[PipelineRepair, ...]
    rebuilt: HeadRebuild | None = None
