"""Destroying a pipeline: nothing of it can be restored any more, and its name is not used again.

One swap of HEAD decides it; after that every key of the pipeline is garbage, and a sweep deletes them all. HEAD stays
as a tombstone. Whoever is killed between the two, or uploads late, leaves garbage that the next gc deletes.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from eoctl.services.gc import Options, collect
from eoctl.services.stats import show_pipeline
from formats.head import Head, roots
from formats.ids import PipelineId, TxId
from storage import edits
from storage.gc import take_census
from storage.head import swap_head
from storage.store import Store


class Destruction(Struct, frozen=True, kw_only=True):
    """What was destroyed, or would be. Sizes are of stored bytes.

    `destroyed`: by this call; False for a dry run and for what was destroyed before. `state`: the pipeline's, now.
    `left_blobs`: what could not be deleted, and why in `notes`. `writers`: who seems to upload to it, in words.
    """

    pipeline: str
    dry_run: bool
    destroyed: bool
    state: str
    snapshots: tuple[str, ...]
    holds: int
    blobs: int
    bytes: int
    deleted_blobs: int = 0
    freed_bytes: int = 0
    left_blobs: int = 0
    writers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def destroy(
    store: Store, pipeline: PipelineId, *, dry_run: bool = False, progress: Callable[[int, int], None] = lambda *_: None
) -> Destruction:
    """The pipeline has no snapshots and takes no more. Safe to repeat.

    Raises: SnapshotNotFoundError; ConflictError where a hold without an end keeps a snapshot; CorruptError.
    """
    current = store.head(pipeline)
    thought = edits.destroy(current.head)
    before: list[Head] = [current.head]

    def edit(head: Head) -> Head:
        before.append(head)
        return edits.destroy(head)

    writers = show_pipeline(store, pipeline).writers
    census = take_census(store, thought)
    deleted = freed = 0
    notes: tuple[str, ...] = ()
    if not dry_run:
        if current.head.state != "destroyed":
            txid = TxId(store.ambient.new_id())
            swap_head(store.backend, current, edit, store.ambient, txid=txid, attempt=None)
        (swept,) = collect(store, [pipeline], Options(), progress).pipelines
        deleted, freed = swept.deleted_blobs, swept.freed_bytes
        notes = (*swept.notes, *([swept.message] if swept.error else []))
    head = before[-1]
    return Destruction(
        pipeline=pipeline.name,
        dry_run=dry_run,
        destroyed=not dry_run and head.state == "active",
        state=current.head.state if dry_run else "destroyed",
        snapshots=tuple(dict.fromkeys(f"{pipeline}@{entry.label}" for entry in roots(head))),
        holds=len(head.holds),
        blobs=census.stored,
        bytes=census.stored_bytes,
        deleted_blobs=deleted,
        freed_bytes=freed,
        left_blobs=0 if dry_run else max(0, census.stored - deleted),
        writers=writers,
        notes=notes,
    )
