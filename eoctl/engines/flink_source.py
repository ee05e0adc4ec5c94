"""A checkpoint or savepoint of Flink as a source: gathered into one folder, as `flink export` writes it.

What goes into the store is that folder: `_metadata` with relative handles, and beside it every file that it names,
under the name that Flink gave it. So a file that checkpoints share is the same file in each of them, by name and
content, and is stored once; and a restore brings back a folder that Flink restores from wherever it lies.

Of a bucket only those files are fetched that the store does not have in the version that lies there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path

from msgspec.structs import replace

from eoctl.ambient import format_time
from eoctl.engines.directory import capture_tree, source_file, tick_ns
from eoctl.engines.flink import METADATA, FlinkSnapshot, open_snapshot
from eoctl.engines.flink_contents import check_contents
from eoctl.engines.flink_files import Place
from eoctl.engines.flink_gather import Tally, copy, gather
from eoctl.engines.flink_paths import Located, Mapping, Root
from eoctl.engines.source import Captured
from eoctl.engines.sqlite import privately
from formats.errors import CorruptError
from formats.flink.writer import write_metadata
from formats.manifest import Engine
from storage.packing import ORIGIN, SourceFile
from storage.transfer import REMOTE_THREADS, each

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
        elsewhere = _Elsewhere(files)
        gathered = gather(snapshot, snapshot.metadata, files, Tally(), take=elsewhere.take)
        (files / METADATA).write_bytes(write_metadata(gathered))
        captured = capture_tree(files, Engine(KIND, "", properties_of(snapshot)))
        together = sorted([*captured.files, *elsewhere.files()], key=attrgetter("name"))
        return replace(captured, files=tuple(together), fetch=elsewhere.fetch)


class _Elsewhere:
    """The files of a snapshot that do not lie on this machine, and are not fetched before they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._located: dict[str, Located] = {}
        self._fetched: dict[str, SourceFile] = {}

    def take(self, located: Located, target: Path, tally: Tally) -> None:
        """What lies on this machine is at `target`."""
        if located.files.is_local:
            copy(located, target, tally, link=True)
        else:
            self._located[target.name] = located

    def files(self) -> Iterator[SourceFile]:
        """Each as a look tells."""
        for name, located in self._located.items():
            found = located.files.look(located.path)
            if found is None:
                raise CorruptError(f"{located.path} is missing", hint="eoctl checkpoint verify tells what else")
            size = found.bytes if located.whole else located.size
            yield SourceFile(name, size, "", settled=False, origin=_origin(located, found.version))

    def fetch(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """They are in the folder. Raises: what reading there raises."""
        wanted = [file.name for file in files if file.name in self._located and file.name not in self._fetched]
        with closing(each(wanted, self._fetch, threads=REMOTE_THREADS)) as fetched:
            self._fetched |= {file.name: file for file in fetched}
        return [self._fetched.get(file.name, file) for file in files]

    def _fetch(self, name: str) -> SourceFile:
        target, located, began = self._folder / name, self._located[name], tick_ns()
        version = copy(located, target, Tally())
        return replace(source_file(name, target.stat(), began), origin=_origin(located, version))


def _origin(located: Located, version: str) -> str:
    """What tells that the bytes were taken from there, in that version; "" where nothing tells."""
    if not version:
        return ""
    told = f"{located.path}\0{located.start}\0{-1 if located.whole else located.size}\0{version}"
    return ORIGIN + hashlib.sha256(told.encode()).hexdigest()[:40]


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
