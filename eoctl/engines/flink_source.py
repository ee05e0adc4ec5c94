"""A checkpoint or savepoint of Flink as a source: gathered into one folder, as `flink export` writes it.

What goes into the store is that folder: `_metadata` with relative handles, and beside it every file that it names,
under the name that Flink gave it. So a file that checkpoints share is the same file in each of them, by name and
content, and is stored once; and a restore brings back a folder that Flink restores from wherever it lies.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from eoctl.ambient import format_time
from eoctl.engines.directory import capture_tree
from eoctl.engines.flink import METADATA, FlinkSnapshot, open_snapshot
from eoctl.engines.flink_contents import check_contents
from eoctl.engines.flink_files import Place
from eoctl.engines.flink_gather import Tally, gather
from eoctl.engines.flink_paths import Mapping, Root
from eoctl.engines.source import Captured
from eoctl.engines.sqlite import privately
from formats.flink.writer import write_metadata
from formats.manifest import Engine

KIND = "flink"


@dataclass(frozen=True, slots=True)
class FlinkSource:
    """The snapshot in the folder `path`. `verify` reads every file, and RocksDB's tables with their checksums."""

    path: Path | Place
    mappings: tuple[Mapping, ...] = ()
    root: Root | None = None
    verify: bool = field(default=False, kw_only=True)

    def capture(self) -> AbstractContextManager[Captured]:
        snapshot = open_snapshot(self.path, self.mappings, self.root)
        folder = snapshot.paths.folder
        beside = Path(folder.text if folder.files.is_local else f"{tempfile.gettempdir()}/{folder.name}")
        return privately(beside, lambda _, scratch: self._take(snapshot, scratch))

    def _take(self, snapshot: FlinkSnapshot, scratch: Path) -> Captured:
        if self.verify:
            check_contents(snapshot)
        files = scratch / "files"
        files.mkdir()
        gathered = gather(snapshot, snapshot.metadata, files, Tally(), link=True)
        (files / METADATA).write_bytes(write_metadata(gathered))
        return capture_tree(files, Engine(KIND, "", properties_of(snapshot)))


def properties_of(snapshot: FlinkSnapshot) -> dict[str, str]:
    """What the store remembers of where a snapshot came from."""
    return {
        "checkpoint_id": str(snapshot.metadata.checkpoint_id),
        "job": snapshot.job,
        "kind": "savepoint" if snapshot.is_savepoint else "checkpoint",
        "metadata_version": str(snapshot.metadata.version),
        "name": snapshot.paths.folder.name,
        "written_at": format_time(datetime.fromtimestamp(snapshot.modified_at, UTC)),
    }
