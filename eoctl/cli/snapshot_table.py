"""Snapshots as a table."""

from __future__ import annotations

from collections.abc import Sequence

from eoctl.cli.output import DIM, YELLOW
from eoctl.cli.quantities import age, human_bytes, minute, timestamp
from eoctl.cli.table import Column
from eoctl.services.values import ForeignRow, SnapshotRow

_KINDS = {"checkpoint": "chk", "savepoint": "sav"}
_TAGS_LEAST, _PIPELINE_LEAST, _PATH_LEAST = 6, 8, 16


def snapshot_columns(rows: Sequence[SnapshotRow], now: float) -> list[Column]:
    """ID KIND CREATED AGE FULL ADDED NEW/REF TAGS STATUS, and PIPELINE before them where there are several.

    Those of another engine end with their PATH instead, as they are told apart by that.
    """
    created = [minute(row.created_at) for row in rows]
    columns = [
        Column(title="ID", cells=[row.name or str(row.id) for row in rows], right=True),
        Column(
            title="KIND",
            cells=[row.kind for row in rows],
            short=[_KINDS.get(row.kind, row.kind) for row in rows],
            # Where every row says the same, the column is the first to go.
            optional=all(row.kind == "checkpoint" for row in rows),
        ),
        Column(
            title="CREATED (UTC)",
            short_title="UTC",
            cells=created,
            short=[text[5:] for text in created],
        ),
        Column(title="AGE", cells=[age(now - timestamp(row.created_at)) for row in rows], right=True),
        Column(title="FULL", cells=[human_bytes(row.full_bytes) for row in rows], right=True),
        Column(title="ADDED", cells=[human_bytes(row.added_bytes) for row in rows], right=True),
        Column(title="NEW/REF", cells=[f"{row.added_files}/{row.referenced_files}" for row in rows], right=True),
        Column(
            title="TAGS",
            cells=[",".join(row.tags) for row in rows],
            least=_TAGS_LEAST,
            optional=not any(row.tags for row in rows),
        ),
        Column(title="STATUS", cells=[row.status for row in rows], styles={"held": YELLOW, "trash": DIM}),
    ]
    if any(isinstance(row, ForeignRow) for row in rows):
        return [*columns[:7], Column(title="PATH", cells=[row.address for row in rows], least=_PATH_LEAST)]
    pipelines = [row.pipeline for row in rows]
    if len(set(pipelines)) > 1:
        columns.insert(0, Column(title="PIPELINE", cells=pipelines, least=_PIPELINE_LEAST))
    return columns
