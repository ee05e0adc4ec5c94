"""Checkpoints and savepoints of Flink below a folder: found, read, and what each consists of. Nothing is written.

    ROOT/JOB/chk-N/_metadata     written last: without it the folder is no checkpoint
    ROOT/JOB/shared|taskowned/   what several checkpoints may name
    FOLDER/savepoint-.../_metadata

A folder is one of Flink's by its `_metadata`, whatever it is called. Symbolic links are not followed on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct, field

from eoctl.engines.flink_files import Place, place_at
from eoctl.engines.flink_paths import CHECKPOINT, JOB, OWN_FOLDERS, Located, Mapping, Paths, Root, fault_of, paths_of
from formats.errors import EoctlError, SnapshotNotFoundError
from formats.flink.handles import AbsoluteFile, RelativeFile, Segment, size_of
from formats.flink.metadata import MAX_METADATA_BYTES, Metadata, Operator, Stream, read_metadata, streams_of

METADATA = "_metadata"
MAX_DEPTH = 8  # of folders below a root in which snapshots are looked for


class FlinkSnapshot(Struct, frozen=True, kw_only=True):
    """A checkpoint or savepoint that was read. `modified_at`: of its `_metadata`, seconds since 1970."""

    path: Place
    metadata: Metadata
    metadata_bytes: int
    modified_at: float
    paths: Paths
    known_pieces: list[Piece] = field(default_factory=list)

    def pieces(self) -> list[Piece]:
        """Every stream of the snapshot, and where it lies; nothing is looked at but names and links."""
        if not self.known_pieces:
            self.known_pieces.extend(_pieces_of(self))
        return self.known_pieces

    @property
    def job(self) -> str:
        """The id of the job whose folder it lies in, or ""."""
        name = self.paths.folder.parent.name
        return name if CHECKPOINT.match(self.paths.folder.name) and JOB.match(name) else ""

    @property
    def is_savepoint(self) -> bool:
        """As its properties say; where version 3 has none, as its folder is called."""
        properties = self.metadata.properties
        if properties is None:
            return CHECKPOINT.match(self.paths.folder.name) is None
        return properties.is_savepoint

    @property
    def file(self) -> Place:
        return self.paths.folder / METADATA


class Piece(Struct, frozen=True, gc=False):
    """One stream of a snapshot. `located`: None where it lies in `_metadata`, or `fault` says why it is not found.

    `file`: the file's path, or its name where it is not found; "" in `_metadata`. `place`: the same, and of a part of
    a file the bytes: what tells one from another.
    """

    operator: Operator
    stream: Stream
    bytes: int
    located: Located | None
    fault: str | None
    file: str
    place: str

    def look(self) -> str | None:
        """What is wrong with the file, as far as a look tells."""
        if self.fault is not None or self.located is None:
            return self.fault
        return fault_of(self.located, exact=self.stream.exact)


def open_snapshot(path: Path | Place, mappings: tuple[Mapping, ...] = (), root: Root | None = None) -> FlinkSnapshot:
    """The snapshot at `path`: its folder, or its `_metadata`.

    Raises: SnapshotNotFoundError, CorruptError, UnsupportedError, AccessDeniedError, TooLargeError.
    """
    place = place_at(path)
    folder = place.parent if place.name == METADATA else place
    file = folder / METADATA
    content = folder.files.content(file.text, MAX_METADATA_BYTES)
    if content is None:
        hint = "name a chk-N, a savepoint's folder or its _metadata; eoctl checkpoint list ROOT finds them"
        if CHECKPOINT.match(folder.name) and folder.is_folder():
            raise SnapshotNotFoundError(f"not a complete checkpoint, as it has no _metadata: {folder}", hint=hint)
        raise SnapshotNotFoundError(f"no snapshot of Flink: {path}", hint=hint)
    return FlinkSnapshot(
        path=folder,
        metadata=read_metadata(content.data, str(file)),
        metadata_bytes=len(content.data),
        modified_at=content.modified_at,
        paths=paths_of(folder, mappings, root),
    )


def is_snapshot(path: Path | Place) -> bool:
    """There is a `_metadata`, or it is one."""
    place = place_at(path)
    return (place / METADATA).is_file() or (place.name == METADATA and place.is_file())


def find_folders(root: Path | Place) -> Iterator[Place]:
    """Every folder below `root` (itself too) that is a snapshot or was to be one (`chk-N`), in order of their names.

    Raises: AccessDeniedError, SnapshotNotFoundError.
    """
    place = place_at(root)
    if not place.is_folder():
        raise SnapshotNotFoundError(f"no such directory: {root}", hint="name the folder that jobs or savepoints lie in")
    place.files.know(place.text)
    yield from _find(place, 0)


def _find(folder: Place, depth: int) -> Iterator[Place]:
    if (folder / METADATA).is_file() or CHECKPOINT.match(folder.name):
        yield folder
        return
    if depth >= MAX_DEPTH:
        return
    below = [entry.name for entry in folder.files.entries(folder.text) if entry.kind == "folder"]
    if JOB.match(folder.name):
        below = [name for name in below if name not in OWN_FOLDERS]
    for name in sorted(below, key=_natural):
        yield from _find(folder / name, depth + 1)


def _pieces_of(snapshot: FlinkSnapshot) -> Iterator[Piece]:
    for operator in snapshot.metadata.operators:
        for stream in streams_of(operator):
            handle = stream.handle
            located, fault, file, place = None, None, "", ""
            if isinstance(handle, AbsoluteFile | RelativeFile | Segment):
                try:
                    located = snapshot.paths.locate(handle)
                except EoctlError as error:
                    fault, file = error.message, handle.path
                else:
                    file = "" if located is None else located.path
                place = f"{file}#{handle.start}+{handle.size}" if isinstance(handle, Segment) else file
            yield Piece(operator, stream, size_of(handle), located, fault, file, place)


def _natural(name: str) -> tuple[str, int, str]:
    """chk-9 before chk-10."""
    match = CHECKPOINT.match(name)
    return ("chk-", int(match[1]), name) if match else (name, 0, name)
