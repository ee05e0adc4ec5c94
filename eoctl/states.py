"""A pipeline's snapshots, open for reading by rows, for scripts: what the methods of `PipelineHandle` begin with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from eoctl.services import savepoint
from eoctl.services.resolve import resolve
from eoctl.services.savepoint_build import SnapshotSource
from eoctl.services.savepoint_check import whole_source
from eoctl.services.savepoint_sources import source_at_path, source_of_snapshot
from formats.ids import PipelineId
from formats.remap import OperatorMapping
from storage.store import Store


@contextmanager
def opened(
    store: Store,
    pipeline: PipelineId,
    snapshot: str | int | Path,
    operator: str | None = None,
    *,
    ranged: bool = False,
) -> Iterator[SnapshotSource]:
    """The snapshot, to look into; a `Path` is a savepoint's folder, or a snapshot of Flink."""
    if isinstance(snapshot, Path):
        with source_at_path(snapshot) as source:
            yield source
    else:
        resolved = resolve(store, str(snapshot), pipeline.name)
        with source_of_snapshot(store, resolved, operator=operator, verified=False, ranged=ranged) as source:
            yield source


@contextmanager
def held(store: Store, pipeline: PipelineId, snapshot: str | int | Path) -> Iterator[SnapshotSource]:
    """As `opened`, to copy it, every byte of it checked; one of the store is held meanwhile."""
    if isinstance(snapshot, Path):
        with whole_source(snapshot, (), elapsed=store.ambient.elapsed) as source:
            yield source
    else:
        with savepoint.held_source(store, resolve(store, str(snapshot), pipeline.name)) as source:
            yield source


def mapping_of(remap: Mapping[str, str] | None, drop: Iterable[str], *, merge: bool) -> OperatorMapping:
    return OperatorMapping(remap=tuple((remap or {}).items()), drop=tuple(drop), merge=merge)
