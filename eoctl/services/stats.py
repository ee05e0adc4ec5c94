"""What a store is, what its pipelines are, and what they take."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from eoctl.services.capabilities import find_capabilities
from eoctl.services.entries import hold_row
from eoctl.services.reports import read_reports
from eoctl.services.resolve import rows_of
from eoctl.services.roots import read_roots, root_labels
from eoctl.services.store_values import PipelineStats, StoreInfo, StoreStats
from eoctl.services.values import PipelineDetail, PipelineRow
from eoctl.services.writers import FRESH_SECONDS, _process
from formats.errors import AccessDeniedError, BadNameError, CorruptError, SnapshotNotFoundError, UnsupportedError
from formats.head import Head
from formats.ids import PipelineId
from storage import layout
from storage.backend import Folder, Found, Reach
from storage.pins import SYNC_FAILED, read_pins
from storage.references import References, Space, Stored
from storage.store import Store


def store_info(store: Store) -> StoreInfo:
    """What the store is, and what its place turned out to be able to do."""
    return StoreInfo(
        url=store.place.url,
        id=store.record.id,
        format_version=store.record.version,
        hash=store.hash.value,
        created_at=store.record.created_at,
        pipelines=len(list_pipelines(store)),
        capabilities=find_capabilities(store),
    )


def list_pipelines(store: Store) -> tuple[PipelineRow, ...]:
    """Every pipeline by name. One whose HEAD cannot be read says so in its `state` and hides no other."""
    rows = []
    for pipeline in _folders(store):
        head = _head_or_state(store, pipeline)
        if isinstance(head, Head):
            rows.append(_row(head))
        elif head:
            rows.append(_unreadable_row(pipeline, head))
    return tuple(rows)


def show_pipeline(store: Store, pipeline: PipelineId) -> PipelineDetail:
    """Raises: SnapshotNotFoundError, CorruptError."""
    head = store.head(pipeline).head
    return PipelineDetail(
        row=_row(head),
        seq=head.seq,
        last_id=head.last_id,
        writers=_live_writers(store, pipeline),
        hold_rows=tuple(hold_row(head, hold) for hold in head.holds),
        snapshots=rows_of(head),
    )


def store_stats(store: Store) -> StoreStats:
    """What each pipeline references and stores; every blob is listed once, every manifest read once.

    A pipeline whose HEAD or a manifest cannot be read is in `damaged`, with why: what it needs is not known.
    """
    rows: list[PipelineStats] = []
    damaged: dict[str, str] = {}
    for pipeline in _folders(store):
        # Listed before HEAD is read: a blob that is committed meanwhile is then no orphan.
        stored = _list_stored(store, pipeline)
        head = _head_or_state(store, pipeline)
        if isinstance(head, Head):
            try:
                rows.append(_stats(store, pipeline, head, stored))
            except CorruptError as error:
                damaged[pipeline.name] = error.message
        elif head:
            damaged[pipeline.name] = head
    drills = [row.last_good_drill_age_seconds for row in rows if row.last_good_drill_age_seconds is not None]
    return StoreStats(
        url=store.place.url,
        pipelines=tuple(rows),
        last_good_drill_age_seconds=min(drills, default=None),
        unfinished_uploads=sum(1 for _ in store.backend.list(layout.PIPELINES, reach=Reach.UNFINISHED)),
        damaged=damaged,
    )


def _folders(store: Store) -> list[PipelineId]:
    """Every name of ours below the folder of pipelines."""
    found = []
    for folder in store.backend.list(layout.PIPELINES, reach=Reach.FOLDERS):
        if isinstance(folder, Folder):
            try:
                found.append(PipelineId(folder.key.path.rpartition("/")[2]))
            except BadNameError:
                continue  # every pipeline of ours was named by PipelineId
    return sorted(found)


def _head_or_state(store: Store, pipeline: PipelineId) -> Head | str:
    """HEAD, or why it cannot be read; "" where there is no pipeline (yet)."""
    try:
        return store.head(pipeline).head
    except SnapshotNotFoundError:
        return ""
    except CorruptError as error:
        return f"damaged: {error.message}"
    except (UnsupportedError, AccessDeniedError) as error:
        return f"not readable: {error.message}"


def _row(head: Head) -> PipelineRow:
    checkpoints = [entry for entry in head.live if entry.kind == "checkpoint"]
    newest = checkpoints[-1] if checkpoints else None
    return PipelineRow(
        pipeline=head.pipeline,
        state=head.state,
        checkpoints=len(checkpoints),
        savepoints=len(head.live) - len(checkpoints),
        newest=newest.label if newest else "",
        newest_at=newest.created_at if newest else "",
        full_bytes=newest.full_bytes if newest else 0,
        attempt=head.writer.attempt,
        era=head.era,
        floor=head.floor,
        trash=len(head.trash),
        holds=len(head.holds),
    )


def _unreadable_row(pipeline: PipelineId, state: str) -> PipelineRow:
    return PipelineRow(
        pipeline=pipeline.name,
        state=state,
        checkpoints=0,
        savepoints=0,
        newest="",
        newest_at="",
        full_bytes=0,
        attempt=0,
        era=0,
        floor=0,
        trash=0,
        holds=0,
    )


def _list_stored(store: Store, pipeline: PipelineId) -> dict[Stored, int]:
    """Every blob and manifest of the pipeline; what does not parse is none of ours."""
    found: dict[Stored, int] = {}
    for value in store.backend.list(layout.blobs(pipeline)):
        key = layout.parse_blob(pipeline, value.key)
        if key is not None and isinstance(value, Found):
            found[Stored(Space.BLOB, key)] = value.bytes
    for value in store.backend.list(layout.manifests(pipeline)):
        key = layout.parse_manifest(pipeline, value.key)
        if key is not None and isinstance(value, Found):
            found[Stored(Space.MANIFEST, key)] = value.bytes
    return found


def _stats(store: Store, pipeline: PipelineId, head: Head, stored: Mapping[Stored, int]) -> PipelineStats:
    needed = References(read_roots(store, head)).everything()
    orphans = {key: size for key, size in stored.items() if key not in needed}
    # A held snapshot that is live too counts once.
    logical = sum({entry.label: entry.full_bytes for entry in root_labels(head).values()}.values())
    unique = sum(needed.values())
    row = _row(head)
    return PipelineStats(
        pipeline=pipeline.name,
        checkpoints=row.checkpoints,
        savepoints=row.savepoints,
        trash=row.trash,
        holds=row.holds,
        logical_bytes=logical,
        referenced_blobs=len(needed),
        referenced_bytes=unique,
        stored_blobs=len(stored),
        stored_bytes=sum(stored.values()),
        orphan_blobs=len(orphans),
        orphan_bytes=sum(orphans.values()),
        saved_by_sharing=1 - unique / logical if logical else 0.0,
        missing_blobs=sum(1 for key in needed if key not in stored and _is_missing(store, pipeline, key)),
        last_good_drill_age_seconds=_last_good_drill(store, pipeline),
    )


def _is_missing(store: Store, pipeline: PipelineId, stored: Stored) -> bool:
    """What was committed since the listing is not in it, and is there all the same."""
    name = layout.blob if stored.space is Space.BLOB else layout.manifest
    return store.backend.stat(name(pipeline, stored.key)) is None


def _last_good_drill(store: Store, pipeline: PipelineId) -> int | None:
    """Seconds since the newest drill that found nothing wrong."""
    for report in read_reports(store, pipeline, "drill"):
        if report.good:
            return int(_seconds(store.ambient.now()) - _seconds(report.created_at))
    return None


def _live_writers(store: Store, pipeline: PipelineId) -> tuple[str, ...]:
    """Who uploads now, as far as pins tell: of this host a process that lives, of another a fresh pin."""
    now = _seconds(store.ambient.now())
    told = []
    for found, record in read_pins(store.backend, pipeline):
        number = record.process.partition(".")[0]
        here = record.host == store.ambient.host
        lives = number.isdecimal() and _process(int(number)) == record.process
        fresh = abs(now - found.modified_at) < FRESH_SECONDS
        if record.note != SYNC_FAILED and (lives if here else fresh):
            where = f"process {number} of this host" if here else "another host"
            told.append(f"attempt {record.attempt}, {record.note}, {where}")
    return tuple(told)


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
