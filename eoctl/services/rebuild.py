"""A lost HEAD: what could be made of what is left, told; and made, if that is wanted."""

from __future__ import annotations

from eoctl.services.repair_values import HeadRebuild, LostSnapshot, RisenSnapshot
from formats.head import HeadEntry
from formats.ids import PipelineId
from storage.rebuild import rebuild
from storage.remains import LeftOut, Progress, Proposal, propose
from storage.store import Store


def rebuild_head(
    store: Store, pipeline: PipelineId, *, write: bool, progress: Progress = lambda *_: None
) -> HeadRebuild:
    """The HEAD that could be made of the pipeline's remains; with `write` it is there.

    Every byte that it needs is read and checked in either case. Without `write` nothing is changed.
    Raises: ConflictError where HEAD is good, nothing whole is left, or somebody else made one; SnapshotNotFoundError.
    """
    proposal = propose(store, pipeline, progress)
    if not write:
        return _told(pipeline, proposal, written=False)
    done = rebuild(store, pipeline, proposal, progress)
    told = _told(pipeline, proposal, written=True, copied_blobs=done.copied_blobs, copied_bytes=done.copied_bytes)
    assert (told.era, told.floor) == (done.head.era, done.head.floor), "told as it is"
    return told


def _told(
    pipeline: PipelineId, proposal: Proposal, *, written: bool, copied_blobs: int = 0, copied_bytes: int = 0
) -> HeadRebuild:
    remains, counters = proposal.remains, proposal.counters
    return HeadRebuild(
        pipeline=pipeline.name,
        written=written,
        torn=remains.torn,
        backup=remains.backup_name,
        seq=counters.seq,
        era=counters.era,
        floor=counters.era,
        attempt=counters.attempt,
        last_id=counters.last_id,
        snapshots=tuple(_risen(pipeline, one.entry, one.status, one.origin) for one in proposal.risen),
        left_out=tuple(
            LostSnapshot(
                snapshot=f"{pipeline}@{left.label}" if left.label else "", manifest=left.manifest, reason=left.reason
            )
            for left in sorted(proposal.left_out, key=_place_of)
        ),
        copied_blobs=copied_blobs,
        copied_bytes=copied_bytes,
    )


def _place_of(left: LeftOut) -> tuple[int, str, str]:
    """By checkpoint id, then by name; what cannot be read last."""
    if not left.label:
        return 1 << 62, "", left.manifest
    return (int(left.label), "", "") if left.label.isdecimal() else (1 << 61, left.label, left.manifest)


def _risen(pipeline: PipelineId, entry: HeadEntry, status: str, origin: str) -> RisenSnapshot:
    return RisenSnapshot(
        snapshot=f"{pipeline}@{entry.label}",
        kind=entry.kind,
        created_at=entry.created_at,
        attempt=entry.attempt,
        files=entry.files,
        full_bytes=entry.full_bytes,
        status=status,
        origin=origin,
        tags=entry.tags,
    )
