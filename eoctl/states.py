"""Savepoints and state by rows, for scripts: what `PipelineHandle` hands on of them.

saved = orders.savepoint("latest", "before-upgrade", remap={"totals": "sums"})
for row in orders.scan("before-upgrade", "sums", "total"):
    print(row["key"], row["value"])
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from eoctl.services import savepoint, state
from eoctl.services.executors import executor_of
from eoctl.services.rescale import Deal, RestoredState, restore_rows
from eoctl.services.resolve import Resolved
from eoctl.services.savepoint import Wish
from eoctl.services.savepoint_build import SnapshotSource
from eoctl.services.savepoint_sources import source_at_path, source_of_snapshot
from eoctl.services.savepoint_values import SavepointCreated
from eoctl.services.state import StateListRow
from formats.ids import PipelineId
from formats.remap import OperatorMapping
from formats.state_text import RowText, bytes_of
from storage.store import Store


class PipelineStates:
    """The part of a pipeline that knows what is in its snapshots. Snapshots are resolved by who mixes it in."""

    _store: Store
    _pipeline: PipelineId

    def _resolve(self, snapshot: str | int) -> Resolved:
        raise NotImplementedError

    def savepoint(
        self,
        snapshot: str | int | Path,
        name: str = "",
        *,
        to: str | Path | None = None,
        remap: Mapping[str, str] | None = None,
        drop: Iterable[str] = (),
        merge: bool = False,
        max_parallelism: int = 0,
        executor: str | None = "0",
        tags: Iterable[str] = (),
    ) -> SavepointCreated:
        """A portable savepoint of the snapshot: `name` in the store, or the folder `to`.

        A `Path` is a savepoint's folder, or a snapshot of Flink. `executor`: how many processes, or a Dask cluster.
        Raises: ConflictError (the name is taken), IncompatibleError (a mapping that does not fit), UnsupportedError.
        """
        mapping = _mapping(remap, drop, merge=merge)
        with self._held(snapshot) as source, executor_of(executor) as pool:
            wish = Wish(mapping=mapping, executor=pool, tags=tuple(tags), max_parallelism=max_parallelism)
            if to is not None:
                return savepoint.create_folder(source, Path(to), wish, elapsed=self._store.ambient.elapsed)
            return savepoint.create_in_store(_of(source, self._pipeline), self._store, name, wish)

    def export_savepoint(self, name: str, to: str | Path) -> None:
        """`to` is the folder of the savepoint, every byte of it checked."""
        savepoint.export(self._store, self._resolve(name), Path(to))

    def import_savepoint(self, folder: str | Path, name: str, *, tags: Iterable[str] = ()) -> SavepointCreated:
        """The store has the savepoint of that folder, which was checked throughout first."""
        return savepoint.import_folder(self._store, self._pipeline, name, Path(folder), tuple(tags))

    def restore_state(
        self,
        snapshot: str | int | Path,
        to: str | Path,
        *,
        parallelism: int = 0,
        max_parallelism: int = 0,
        operator: str | None = None,
        remap: Mapping[str, str] | None = None,
        drop: Iterable[str] = (),
        merge: bool = False,
    ) -> RestoredState:
        """`to` holds the state by rows, dealt out to `parallelism` subtasks (0: as many as there were).

        Raises: IncompatibleError, UnsupportedError, CorruptError.
        """
        mapping = _mapping(remap, drop, merge=merge)
        deal = Deal(parallelism=parallelism, max_parallelism=max_parallelism, operator=operator, mapping=mapping)
        elapsed = self._store.ambient.elapsed
        with self._held(snapshot) as source, tempfile.TemporaryDirectory(prefix="eoctl-restore-") as scratch:
            return restore_rows(source, Path(to), deal, scratch=Path(scratch), elapsed=elapsed)

    def states(self, snapshot: str | int | Path) -> tuple[StateListRow, ...]:
        """The states of the snapshot, with the types of their bytes as far as they are known."""
        with self._opened(snapshot) as source:
            return state.list_states(source)

    def scan(
        self,
        snapshot: str | int | Path,
        operator: str | None = None,
        name: str | None = None,
        *,
        key: str | None = None,
    ) -> Iterator[dict[str, object]]:
        """The rows of a state, decoded as `state scan --jsonl` prints them; of one key, written as on the command line.

        Raises: SnapshotNotFoundError (no such state), UsageError (several could be meant), UnsupportedError.
        """
        with self._opened(snapshot, operator) as source:
            holder, table = state.find_state(source, operator, name)
            wanted = state.Filter(key=None if key is None else bytes_of(key, table.schema.key, "key"))
            text = RowText(table.schema)
            for batch in state.scan(holder, table, wanted):
                yield from text.rows(batch)

    @contextmanager
    def _opened(self, snapshot: str | int | Path, operator: str | None = None) -> Iterator[SnapshotSource]:
        if isinstance(snapshot, Path):
            with source_at_path(snapshot) as source:
                yield source
        else:
            resolved = self._resolve(snapshot)
            with source_of_snapshot(self._store, resolved, operator=operator, verified=False) as source:
                yield source

    @contextmanager
    def _held(self, snapshot: str | int | Path) -> Iterator[SnapshotSource]:
        if isinstance(snapshot, Path):
            with source_at_path(snapshot) as source:
                yield source
        else:
            with savepoint.held_source(self._store, self._resolve(snapshot)) as source:
                yield source


def _mapping(remap: Mapping[str, str] | None, drop: Iterable[str], *, merge: bool) -> OperatorMapping:
    return OperatorMapping(remap=tuple((remap or {}).items()), drop=tuple(drop), merge=merge)


def _of(source: SnapshotSource, pipeline: PipelineId) -> SnapshotSource:
    return replace(source, pipeline=pipeline.name)
