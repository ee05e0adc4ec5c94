"""Each new complete checkpoint below a root of Flink's, into a pipeline: for cron.

A checkpoint is new if the pipeline has none of that job and number, and if it was not written before the newest that
the pipeline has: what retention has dropped since does not come back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from eoctl.engines.flink import FlinkSnapshot, find_folders, is_snapshot, open_snapshot
from eoctl.engines.flink_files import Place
from eoctl.engines.flink_paths import Mapping, Root, named_root
from eoctl.engines.flink_source import KIND, FlinkSource, properties_of
from eoctl.services.checkpoint import Opened, Part, Progress, Request, create_checkpoint
from eoctl.services.values import Created
from formats.errors import CorruptError, EoctlError, SnapshotNotFoundError, UnsupportedError
from formats.head import roots
from formats.ids import PipelineId
from storage.store import Store


class New(Struct, frozen=True):
    """What is to be taken in, oldest first. `unreadable`: folders whose `_metadata` is not understood."""

    root: Root
    mappings: tuple[Mapping, ...]
    snapshots: tuple[FlinkSnapshot, ...]
    unreadable: tuple[str, ...]


def new_snapshots(store: Store, pipeline: PipelineId, path: Place, mappings: Sequence[Mapping] = ()) -> New:
    """The checkpoints below `path` that the pipeline lacks. Savepoints are their owner's, and left alone.

    Raises: SnapshotNotFoundError, CorruptError, and what reading the store raises.
    """
    known, newest = _known(store, pipeline)
    root = named_root(path) if path.is_folder() else None
    found, unreadable = [], []
    for folder in filter(is_snapshot, find_folders(path)):
        try:
            snapshot = open_snapshot(folder, tuple(mappings), root)
        except (CorruptError, UnsupportedError):
            unreadable.append(str(folder))
            continue
        told = properties_of(snapshot)
        if told["kind"] == "checkpoint" and _key(told) not in known and told["written_at"] >= newest:
            found.append(snapshot)
    found.sort(key=lambda snapshot: (snapshot.modified_at, snapshot.metadata.checkpoint_id))
    assert root is not None
    return New(root, tuple(mappings), tuple(found), tuple(unreadable))


def follow(
    opened: Opened,
    new: New,
    operator: str,
    tags: tuple[str, ...],
    link: bool,  # noqa: FBT001  (as the command has them)
    verify: bool,  # noqa: FBT001  (likewise)
    progress: Progress,
) -> Iterator[Created]:
    """One checkpoint of the pipeline for each of them, committed as it is yielded, with its name in Flink as a tag.

    One that Flink has dropped meanwhile is passed over: a newer one took its place.
    """
    for snapshot in new.snapshots:
        source = FlinkSource(snapshot.path, new.mappings, new.root, verify=verify)
        name = f"chk-{snapshot.metadata.checkpoint_id}"
        request = Request(parts=(Part(source=source, operator=operator),), tags=(*tags, name), link=link)
        try:
            yield create_checkpoint(opened, request, progress)
        except (SnapshotNotFoundError, CorruptError):
            if is_snapshot(snapshot.path.afresh()):
                raise


def _known(store: Store, pipeline: PipelineId) -> tuple[set[tuple[str, str]], str]:
    """Job and number of each checkpoint that the pipeline has of Flink, and when the newest of them was written."""
    try:
        head = store.head(pipeline).head
    except SnapshotNotFoundError:
        return set(), ""
    known, newest = set(), ""
    for entry in roots(head):
        if entry.engine != KIND:
            continue
        try:
            manifest = store.manifest(head, entry)
        except EoctlError:  # at worst it is taken in again, which stores nothing twice
            continue
        for operator in manifest.operators:
            told = operator.engine.properties
            if operator.engine.kind == KIND:
                known.add(_key(told))
                newest = max(newest, told.get("written_at", ""))
    return known, newest


def _key(told: dict[str, str]) -> tuple[str, str]:
    return told.get("job", ""), told.get("checkpoint_id", "")
