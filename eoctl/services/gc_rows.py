"""What a collection says of each pipeline: one row, made bit by bit while it goes on (services/gc.py)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct

from formats.errors import CorruptError, EoctlError
from formats.ids import PipelineId
from storage.gc import Dangling, name_of
from storage.references import Stored
from storage.repack import Repacked


class Reasoned(Struct, frozen=True):
    """A snapshot, and why it is kept or expired."""

    snapshot: str
    reason: str


class PipelineGc(Struct, frozen=True, kw_only=True):
    """What was done in one pipeline, or would be. Sizes are of stored bytes.

    `expired`: moved to the trash by this run; `by_rules`: there were rules that could. `young_orphans`: unreferenced,
    but perhaps in use by a session, for a later run. `dangling`: what snapshots need and is not there. `stopped`: why
    garbage was left and nothing re-packed. `error`, `message`: why the pipeline could not be collected, or re-packed:
    then the figures are there (`era` is not 0).
    """

    pipeline: str
    dry_run: bool
    expired: tuple[Reasoned, ...] = ()
    kept: tuple[Reasoned, ...] = ()
    by_rules: bool = False
    advanced: bool = False
    era: int = 0
    floor: int = 0
    left_trash: int = 0
    garbage_blobs: int = 0
    garbage_bytes: int = 0
    deleted_blobs: int = 0
    freed_bytes: int = 0
    repacked_packs: int = 0
    repacked_bytes: int = 0
    live_blobs: int = 0
    live_bytes: int = 0
    stored_bytes: int = 0
    young_orphans: int = 0
    young_bytes: int = 0
    garbage: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()
    dangling: tuple[Dangling, ...] = ()
    notes: tuple[str, ...] = ()
    stopped: str = ""
    error: str = ""
    message: str = ""
    hint: str = ""
    exit_code: int = 0
    seconds: float = 0.0


class GcRun(Struct, frozen=True, kw_only=True):
    """One run over some pipelines."""

    dry_run: bool
    pipelines: tuple[PipelineGc, ...]
    unfinished_removed: int = 0
    notes: tuple[str, ...] = ()


def with_repacked(row: PipelineGc, done: Repacked) -> PipelineGc:
    """What re-packing did, and how it left the pipeline."""
    row = msgspec.structs.replace(row, repacked_packs=done.packs, repacked_bytes=done.pack_bytes)
    if not done.new:
        return row
    new_bytes, left_bytes = (sum(placed.bytes for placed in group) for group in (done.new, done.left))
    return msgspec.structs.replace(
        row,
        live_blobs=row.live_blobs + len(done.new) - len(done.left),
        live_bytes=row.live_bytes + new_bytes - left_bytes,
        stored_bytes=row.stored_bytes + new_bytes,
    )


def with_swept(row: PipelineGc, swept: Mapping[Stored, int], *, names: bool) -> PipelineGc:
    """As `row`, and these are gone too, or would be."""
    count, freed = len(swept), sum(swept.values())
    pipeline = PipelineId(row.pipeline)
    told = sorted(str(name_of(pipeline, stored)) for stored in swept) if names else []
    row = msgspec.structs.replace(
        row,
        garbage_blobs=row.garbage_blobs + count,
        garbage_bytes=row.garbage_bytes + freed,
        garbage=(*row.garbage, *told),
    )
    if row.dry_run:
        return row
    return msgspec.structs.replace(
        row,
        deleted_blobs=row.deleted_blobs + count,
        freed_bytes=row.freed_bytes + freed,
        stored_bytes=row.stored_bytes - freed,
    )


def with_trouble(row: PipelineGc, what: str, error: EoctlError) -> PipelineGc:
    """As `row`, but for what this error has kept from being done."""
    return msgspec.structs.replace(
        row,
        error=error.kind,
        message=f"{what}: {error.message}",
        hint=error.hint or "",
        exit_code=error.exit_code,
    )


def failed(pipeline: PipelineId, error: EoctlError, *, dry_run: bool) -> PipelineGc:
    """Of a pipeline that could not be collected."""
    message = error.message
    if isinstance(error, CorruptError):
        message = f"{message}; nothing was deleted"
    return PipelineGc(
        pipeline=pipeline.name,
        dry_run=dry_run,
        error=error.kind,
        message=message,
        hint=error.hint or "",
        exit_code=error.exit_code,
    )
