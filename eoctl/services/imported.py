"""Snapshots of Flink that are in the store: what their `_metadata` says, and how they come out again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eoctl.engines.flink import METADATA, FlinkSnapshot, open_snapshot
from eoctl.engines.flink_files import LOCAL, Place
from eoctl.engines.flink_paths import Paths
from eoctl.engines.flink_source import KIND
from eoctl.services.foreign import by_operator, operator_row
from eoctl.services.resolve import Resolved
from eoctl.services.restore import restore
from eoctl.services.values import OperatorRow
from formats.errors import CorruptError, UnsupportedError
from formats.flink.metadata import MAX_METADATA_BYTES, read_metadata
from formats.manifest import OperatorState, StateFile
from storage.blobs import Blobs
from storage.os_errors import told
from storage.store import Store


def imported_operators(blobs: Blobs, state: OperatorState) -> list[OperatorRow]:
    """Flink's operators of a folder that is kept as one operator; only its `_metadata` is read.

    Raises: CorruptError, BlobGoneError, UnsupportedError.
    """
    file = metadata_file(state)
    data = b"".join(bytes(piece) for piece in blobs.content(file))
    folder = Place(LOCAL, "/")
    snapshot = FlinkSnapshot(
        path=folder,
        metadata=read_metadata(data, METADATA),
        metadata_bytes=len(data),
        modified_at=0.0,
        paths=Paths(folder=folder, root=None),
    )
    return [operator_row(operator, pieces) for operator, pieces in by_operator(snapshot)]


def metadata_file(state: OperatorState) -> StateFile:
    """Raises: CorruptError."""
    for subtask in state.subtasks:
        for file in subtask.files:
            if file.name == METADATA and file.bytes <= MAX_METADATA_BYTES:
                return file
    raise CorruptError(f"operator {state.uid or state.id} is a folder of Flink without {METADATA}")


def is_of_flink(store: Store, resolved: Resolved) -> bool:
    """The snapshot is a folder of Flink's, kept as one operator."""
    return [state.engine.kind for state in store.manifest(resolved.head, resolved.entry).operators] == [KIND]


@contextmanager
def restored_beside(store: Store, resolved: Resolved, target: Path) -> Iterator[FlinkSnapshot]:
    """The snapshot's folder, restored beside `target` until the end of the context.

    Raises: UnsupportedError where it is not one of Flink; what a restore raises.
    """
    if not is_of_flink(store, resolved):
        raise UnsupportedError(
            f"{resolved.address} is not a snapshot of Flink",
            hint="eoctl restore brings its files back",
        )
    with told(target):
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".eoctl-restored-", dir=target.absolute().parent))
    try:
        restore(store, resolved, scratch / "snapshot")
        yield open_snapshot(scratch / "snapshot")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
