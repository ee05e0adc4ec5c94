"""What `store info` and `store stats` answer (see values.py)."""

from __future__ import annotations

from msgspec import Struct


class StoreInfo(Struct, frozen=True, kw_only=True):
    """`capabilities`: what was found of the place: atomic create, swap, hard links, reflinks, free bytes."""

    url: str
    id: str
    format_version: int
    hash: str
    created_at: str
    pipelines: int
    capabilities: dict[str, str]


class PipelineStats(Struct, frozen=True, kw_only=True):
    """What one pipeline references and stores, manifests included.

    `logical_bytes`: sum of the full sizes of all snapshots, those in the trash or held too. `referenced_bytes`: stored
    bytes that they name, each blob once; `saved_by_sharing`: the part of the logical bytes that this saves, by sharing
    and by compression. Orphans are stored, and no snapshot names them: uploads under way, or what gc will delete.
    `missing_blobs` are named and not stored: damage.
    """

    pipeline: str
    checkpoints: int
    savepoints: int
    trash: int
    holds: int
    logical_bytes: int
    referenced_blobs: int
    referenced_bytes: int
    stored_blobs: int
    stored_bytes: int
    orphan_blobs: int
    orphan_bytes: int
    saved_by_sharing: float
    missing_blobs: int = 0
    last_good_drill_age_seconds: int | None = None


class StoreStats(Struct, frozen=True, kw_only=True):
    """`damaged`: pipeline -> why what it needs is not known; such a one is not among `pipelines`.

    `last_good_drill_age_seconds`: of the newest drill of any pipeline that found nothing wrong.
    """

    url: str
    pipelines: tuple[PipelineStats, ...]
    last_good_drill_age_seconds: int | None
    unfinished_uploads: int
    damaged: dict[str, str] = {}
