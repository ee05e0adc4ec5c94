"""The library: a store, its pipelines and their snapshots, for scripts.

    store = open_store("/var/lib/eoctl")
    orders = store.pipeline("orders")
    with orders.writer() as writer:
        writer.checkpoint("/data/orders-state", offsets={"clicks": {"topic-0": 1234}})
    restored = orders.restore("latest", to="/data/orders-restored")

Everything here forwards to one service; values are frozen records with the fields that `--json` shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from eoctl.ambient import system_ambient
from eoctl.services import (
    check,
    destroy,
    diff,
    entries,
    explain,
    fork,
    gc,
    inspect,
    resolve,
    restore,
    savepoint,
    state,
    stats,
    verify,
    writers,
)
from eoctl.services.check_values import PipelineCheck
from eoctl.services.destroy import Destruction
from eoctl.services.executors import executor_of
from eoctl.services.fork import Forked
from eoctl.services.gc import GRACE_SECONDS, KEEP_TRASH_SECONDS
from eoctl.services.gc_rows import GcRun, PipelineGc
from eoctl.services.rescale import Deal, RestoredState, restore_rows
from eoctl.services.retention import Policy
from eoctl.services.savepoint import Wish
from eoctl.services.savepoint_values import SavepointCreated
from eoctl.services.state import StateListRow
from eoctl.services.store_values import StoreInfo, StoreStats
from eoctl.services.values import (
    Difference,
    Explanation,
    FileRow,
    HoldRow,
    Inspection,
    PipelineRow,
    Restored,
    SnapshotRow,
    Verification,
)
from eoctl.states import held, mapping_of, opened
from eoctl.writer import Writer
from formats.ids import HashAlgorithm, PipelineId
from formats.state_text import RowText, bytes_of
from storage import store as stores
from storage.backends.urls import open_place
from storage.store import Store


def init_store(url: str | Path, *, hash_name: str = "blake3", allow_network_fs: bool = False) -> StoreHandle:
    """A new, empty store. Raises: ConflictError if there is one; UnsafeBackendError on a network file system."""
    ambient = system_ambient()
    place = open_place(str(url), ambient.new_id()[:12])
    algorithm = HashAlgorithm(hash_name)
    return StoreHandle(stores.init_store(place, algorithm, ambient, allow_network_fs=allow_network_fs))


def open_store(url: str | Path) -> StoreHandle:
    """The store at `url`. Raises: StoreNotFoundError, CorruptError, UnsupportedError."""
    ambient = system_ambient()
    return StoreHandle(stores.open_store(open_place(str(url), ambient.new_id()[:12]), ambient))


class StoreHandle:
    """An open store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pipeline(self, name: str) -> PipelineHandle:
        """The pipeline of that name; it need not exist before its first checkpoint."""
        return PipelineHandle(self._store, PipelineId(name))

    def pipelines(self) -> tuple[PipelineRow, ...]:
        return stats.list_pipelines(self._store)

    def info(self) -> StoreInfo:
        return stats.store_info(self._store)

    def stats(self) -> StoreStats:
        return stats.store_stats(self._store)

    def gc(
        self,
        policy: Policy | None = None,
        *,
        pipelines: Iterable[str] | None = None,
        grace_seconds: int = GRACE_SECONDS,
        keep_trash_seconds: int = KEEP_TRASH_SECONDS,
        expect: int = 0,
        dry_run: bool = False,
        repack: bool = True,
        cache: str | Path | None = None,
    ) -> GcRun:
        """Old checkpoints are expired by the policy, and what no snapshot needs is deleted; of these or all pipelines.

        What went wrong with one pipeline is in its row, and keeps none of the others from it. `cache`: a directory
        where the manifests of a store elsewhere are kept from one run to the next.
        """
        options = gc.Options(
            policy=policy or Policy(),
            grace_seconds=grace_seconds,
            keep_trash_seconds=keep_trash_seconds,
            expect=expect,
            dry_run=dry_run,
            names=dry_run,
            repack=repack,
            cache=None if cache is None else Path(cache),
        )
        names = gc.pipelines_to_collect(self._store) if pipelines is None else map(PipelineId, pipelines)
        return gc.collect(self._store, list(names), options)


class PipelineHandle:
    """One pipeline of a store. A snapshot is named by its id, its name, or `latest`."""

    def __init__(self, store: Store, pipeline: PipelineId) -> None:
        self._store = store
        self._pipeline = pipeline

    def checkpoints(self) -> tuple[SnapshotRow, ...]:
        """Every snapshot in order of commit, those in the trash too."""
        return resolve.rows_of(self._store.head(self._pipeline).head)

    def latest(self) -> SnapshotRow:
        """The newest complete checkpoint. Raises: SnapshotNotFoundError."""
        resolved = self._resolve("latest")
        return resolve.row_of(resolved.head, resolved.entry)

    @contextmanager
    def writer(self, *, take_over: bool = False) -> Iterator[Writer]:
        """We are the pipeline's writer inside the context; every older attempt is fenced.

        Raises: ConflictError where another writer is live.
        """
        with writers.writing(self._store, self._pipeline, take_over=take_over, note="writer") as opened:
            yield Writer(opened)

    def restore(
        self,
        snapshot: str | int,
        to: str | Path,
        *,
        operator: str | None = None,
        link: bool = False,
        fallback: bool = False,
    ) -> Restored:
        """`to` holds the snapshot, byte for byte, or does not exist.

        With `fallback`, instead of a damaged one, the newest older checkpoint that is whole: see `fell_back_from`.
        """
        resolved = self._resolve(snapshot)
        return restore.restore(self._store, resolved, Path(to), operator=operator, link=link, fallback=fallback)

    def inspect(self, snapshot: str | int) -> Inspection:
        return inspect.inspect(self._store, self._resolve(snapshot))

    def files(self, snapshot: str | int, *, operator: str | None = None) -> tuple[FileRow, ...]:
        return inspect.list_files(self._store, self._resolve(snapshot), operator)

    def diff(self, a: str | int, b: str | int) -> Difference:
        return diff.diff(self._store, self._resolve(a), self._resolve(b))

    def explain(self, snapshot: str | int, file: str | None = None) -> Explanation:
        return explain.explain(self._store, self._resolve(snapshot), file)

    def verify(self, snapshot: str | int | None = None, *, level: str = "full", scratch: str | Path) -> Verification:
        """Damage is returned, not raised. `scratch`: where the level `drill` restores to."""
        resolved = None if snapshot is None else self._resolve(snapshot)
        return verify.verify(self._store, self._pipeline, resolved, level, scratch=Path(scratch))

    def check(
        self,
        *,
        max_age_seconds: int | None = None,
        max_bytes: int | None = None,
        max_growth_bytes_per_day: int | None = None,
        max_growth_ratio_per_day: float | None = None,
        max_duration_seconds: float | None = None,
        window_seconds: int = check.WINDOW_SECONDS,
        horizon_seconds: int = check.HORIZON_SECONDS,
    ) -> PipelineCheck:
        """How old, large and slow the newest checkpoint is, how that grows, and which limits it passes or will."""
        limits = check.Limits(
            max_age_seconds=max_age_seconds,
            max_bytes=max_bytes,
            max_growth_bytes_per_day=max_growth_bytes_per_day,
            max_growth_ratio_per_day=max_growth_ratio_per_day,
            max_duration_seconds=max_duration_seconds,
            window_seconds=window_seconds,
            horizon_seconds=horizon_seconds,
        )
        return check.check_pipeline(self._store, self._pipeline, limits)

    def tag(self, snapshot: str | int, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> None:
        entries.tag(self._store, self._resolve(snapshot), frozenset(add), frozenset(remove))

    def hold(self, snapshot: str | int, reason: str, *, expires_after_seconds: int | None = None) -> HoldRow:
        """No expiry: a legal hold, kept until it is released."""
        return entries.hold(self._store, self._resolve(snapshot), reason, expires_after_seconds)

    def release(self, snapshot: str | int) -> None:
        entries.release(self._store, self._resolve(snapshot))

    def delete(self, *snapshots: str | int) -> None:
        """The snapshots are in the trash, from where `undelete` brings them back until gc drops them."""
        entries.delete(self._store, self._pipeline, frozenset(map(str, snapshots)), dry_run=False)

    def undelete(self, snapshot: str | int) -> None:
        entries.undelete(self._store, self._pipeline, str(snapshot))

    def gc(
        self,
        policy: Policy | None = None,
        *,
        grace_seconds: int = GRACE_SECONDS,
        keep_trash_seconds: int = KEEP_TRASH_SECONDS,
        expect: int = 0,
        dry_run: bool = False,
        repack: bool = True,
        cache: str | Path | None = None,
    ) -> PipelineGc:
        """As `StoreHandle.gc`, of this pipeline."""
        run = StoreHandle(self._store).gc(
            policy,
            pipelines=[self._pipeline.name],
            grace_seconds=grace_seconds,
            keep_trash_seconds=keep_trash_seconds,
            expect=expect,
            dry_run=dry_run,
            repack=repack,
            cache=cache,
        )
        return run.pipelines[0]

    def fork(self, name: str, snapshot: str | int | None = "latest", *, to: StoreHandle | None = None) -> Forked:
        """The pipeline `name`, here or in the store `to`, holds a copy of the snapshot; None: of all live ones.

        Safe to repeat. Raises: ConflictError where `name` holds something else.
        """
        chosen = resolve.live(self._store, self._pipeline) if snapshot is None else [self._resolve(snapshot)]
        target = self if to is None else to.pipeline(name)
        return fork.fork(self._store, chosen, target._store, PipelineId(name))  # noqa: SLF001  (of our own class)

    def destroy(self, *, dry_run: bool = False) -> Destruction:
        """All of the pipeline is deleted, for good, and its name is not used again.

        Raises: SnapshotNotFoundError; ConflictError where a hold without an end keeps a snapshot.
        """
        return destroy.destroy(self._store, self._pipeline, dry_run=dry_run)

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
        mapping = mapping_of(remap, drop, merge=merge)
        with held(self._store, self._pipeline, snapshot) as source, executor_of(executor) as pool:
            wish = Wish(mapping=mapping, executor=pool, tags=tuple(tags), max_parallelism=max_parallelism)
            if to is not None:
                return savepoint.create_folder(source, Path(to), wish, elapsed=self._store.ambient.elapsed)
            return savepoint.create_in_store(replace(source, pipeline=self._pipeline.name), self._store, name, wish)

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
        mapping = mapping_of(remap, drop, merge=merge)
        deal = Deal(parallelism=parallelism, max_parallelism=max_parallelism, operator=operator, mapping=mapping)
        elapsed = self._store.ambient.elapsed
        with (
            held(self._store, self._pipeline, snapshot) as source,
            tempfile.TemporaryDirectory(prefix="eoctl-restore-") as scratch,
        ):
            return restore_rows(source, Path(to), deal, scratch=Path(scratch), elapsed=elapsed)

    def states(self, snapshot: str | int | Path) -> tuple[StateListRow, ...]:
        """The states of the snapshot, with the types of their bytes as far as they are known."""
        with opened(self._store, self._pipeline, snapshot) as source:
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
        with opened(self._store, self._pipeline, snapshot, operator, ranged=key is not None) as source:
            holder, table = state.find_state(source, operator, name)
            wanted = state.Filter(key=None if key is None else bytes_of(key, table.schema.key, "key"))
            text = RowText(table.schema)
            for batch in state.scan(holder, table, wanted):
                yield from text.rows(batch)

    def _resolve(self, snapshot: str | int) -> resolve.Resolved:
        return resolve.resolve(self._store, str(snapshot), self._pipeline.name)
