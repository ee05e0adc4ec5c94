"""Snapshots for Flink, made from snapshots of Flink: renamed operators, another place, one self-contained folder.

The source is only read. The result is written beside its target, made durable, and renamed: it is whole, or not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from eoctl.engines.flink import METADATA, FlinkSnapshot, open_snapshot
from eoctl.engines.flink_files import Place
from eoctl.engines.flink_gather import Tally, copy, gather, whole
from eoctl.engines.flink_paths import Located, named_root
from formats.errors import EoctlError, IncompatibleError, UsageError
from formats.flink.handles import (
    AbsoluteFile,
    Changelog,
    Incremental,
    RelativeFile,
    SavepointKeyGroups,
    Segment,
    StreamHandle,
)
from formats.flink.metadata import Metadata
from formats.flink.rewrite import change_streams, move_operators, plan_moves
from formats.flink.writer import write_metadata
from formats.remap import OperatorMapping
from storage.extract import fresh_directory, sync_tree
from storage.os_errors import told

_SINKS = "a sink's own state may name files by absolute paths: those are not changed"


class Written(Struct, frozen=True, kw_only=True):
    """What was written. `rewritten_paths`: handles that name another place than before."""

    source: str
    target: str
    snapshots: tuple[str, ...]
    files: int
    bytes: int
    metadata_version: int
    remapped: dict[str, str]
    dropped: tuple[str, ...]
    rewritten_paths: int
    notes: tuple[str, ...] = ()


Progress = Callable[[Tally, int], None]


def remap(
    snapshot: FlinkSnapshot, target: Path, mapping: OperatorMapping, progress: Progress = lambda *_: None
) -> Written:
    """`target` is the snapshot with other operators. Its own files come with it; those of the job stay where they are.

    Raises: BadRemapError, CorruptError, UsageError, NoSpaceError.
    """
    moves = plan_moves(snapshot.metadata, mapping)
    tally = Tally()
    total = sum(piece.bytes for piece in snapshot.pieces() if isinstance(piece.stream.handle, RelativeFile))
    with fresh_directory(target) as temporary:

        def change(handle: StreamHandle) -> StreamHandle:
            match handle:
                case RelativeFile(path=name):
                    located = whole(snapshot, handle)
                    if not (temporary / name).exists():
                        copy(located, temporary / name, tally)
                        progress(tally, total)
                    return handle
                case AbsoluteFile(size=size):
                    path = _present_path(snapshot, handle)
                    tally.rewritten += path != handle.path
                    return AbsoluteFile(path, size)
                case Segment():
                    path = _present_path(snapshot, handle)
                    tally.rewritten += path != handle.path
                    return Segment(path, handle.start, handle.size, handle.scope, handle.file_id)
            return handle

        moved = move_operators(change_streams(snapshot.metadata, change, lambda folder: folder), moves)
        _finish(temporary, moved, None, tally)
    away = sum(isinstance(piece.stream.handle, AbsoluteFile | Segment) for piece in snapshot.pieces())
    notes = [f"{away} files stay where they are: keep them, or eoctl flink export {target} first"] if away else []
    return Written(
        source=str(snapshot.path),
        target=str(target),
        snapshots=(str(target),),
        files=tally.files,
        bytes=tally.total_bytes,
        metadata_version=snapshot.metadata.version,
        remapped={str(move.old): str(move.new) for move in moves if move.action == "remapped"},
        dropped=tuple(str(move.old) for move in moves if move.action == "dropped"),
        rewritten_paths=tally.rewritten,
        notes=tuple(notes),
    )


def export(
    snapshot: FlinkSnapshot,
    target: Path,
    *,
    version: int | None = None,
    canonical: bool = False,
    link: bool = False,
    progress: Progress = lambda *_: None,
) -> Written:
    """`target` is the snapshot in one folder, which may be moved: every file lies in it, and handles are relative.

    A file that several handles name is there once; segments of merged files are files of their own. `canonical`: keyed
    state is written anew, as canonical savepoints have it.
    Raises: CorruptError, IncompatibleError, UnsupportedError, AccessDeniedError, UsageError, NoSpaceError.
    """
    write_metadata(Metadata(snapshot.metadata.version, 0, (), (), snapshot.metadata.raw_properties, None), version)
    tally = Tally()
    total = sum({piece.place: piece.bytes for piece in snapshot.pieces() if piece.file}.values())
    with fresh_directory(target) as temporary:
        metadata, made = snapshot.metadata, frozenset[str]()
        if canonical:
            metadata, made = write_canonical_state(snapshot, temporary, tally, lambda: progress(tally, total))
        gathered = gather(
            snapshot,
            metadata,
            temporary,
            tally,
            made,
            take=partial(copy, link=link),
            progress=lambda: progress(tally, total),
        )
        _finish(temporary, gathered, version, tally)
    return Written(
        source=str(snapshot.path),
        target=str(target),
        snapshots=(str(target),),
        files=tally.files,
        bytes=tally.total_bytes,
        metadata_version=snapshot.metadata.version if version is None else version,
        remapped={},
        dropped=(),
        rewritten_paths=tally.rewritten,
        notes=() if canonical else tuple(_too_new(snapshot, version)),
    )


def write_canonical_state(
    snapshot: FlinkSnapshot, folder: Path, tally: Tally, progress: Callable[[], None]
) -> tuple[Metadata, frozenset[str]]:
    """The metadata with canonical handles for all managed keyed state, and the files in `folder` that these name."""
    from eoctl.engines.flink_states import keyed_sources  # noqa: PLC0415  (heavy)
    from formats.flink.keyed import to_canonical  # noqa: PLC0415  (likewise)

    made: set[str] = set()
    operators = []
    for operator in snapshot.metadata.operators:
        sources = {source.what.rpartition(" ")[2]: source for source in keyed_sources(operator, snapshot.paths.open)}
        subtasks = []
        for subtask in operator.subtasks:
            source = sources.get(str(subtask.index))
            if source is None or isinstance(subtask.managed_keyed, SavepointKeyGroups):
                subtasks.append(subtask)
                continue
            name = f"keyed-{operator.id}-{subtask.index}"
            with told(folder / name), (folder / name).open("xb") as file:
                offsets = to_canonical(file, source)
                size = file.tell()
            made.add(name)
            tally.files += 1
            tally.total_bytes += size
            handle = SavepointKeyGroups(source.groups.start, offsets, RelativeFile(name, size))
            subtasks.append(replace(subtask, managed_keyed=handle))
            progress()
        operators.append(replace(operator, subtasks=tuple(subtasks)))
    return replace(snapshot.metadata, operators=tuple(operators)), frozenset(made)


def relocate(source: Place, target: Path, told_as: str | None = None, progress: Progress = lambda *_: None) -> Written:
    """`target` is a copy of the folder `source`, in which every snapshot names its files at their new place.

    `told_as`: the URL under which Flink will find `target`; None: its path.
    Raises: IncompatibleError where a snapshot needs files outside of `source`; CorruptError, UsageError.
    """
    real, place = source.local("relocating").resolve(), target.absolute()
    if place == real or place.is_relative_to(real):
        raise UsageError(f"the target lies in the source: {target}", hint="name a place outside of it")
    root = named_root(source)
    told_place = (told_as or f"file:{place}").rstrip("/")
    tally = Tally()
    written, version = [], 0
    with fresh_directory(target) as temporary:
        for path, name in _tree(str(real)):
            copied = temporary / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            if copied.name == METADATA:
                snapshot = open_snapshot(Path(path), (), root)
                copied.write_bytes(write_metadata(_relocated(snapshot, str(real), told_place, tally)))
                tally.files += 1
                written.append(str((target / name).parent))
                version = max(version, snapshot.metadata.version)
            else:
                copy(Located(path, 0, os.stat(path).st_size, whole=True), copied, tally)  # noqa: PTH116  (a text)
                progress(tally, 0)
        if not written:
            raise UsageError(f"no snapshot of Flink lies in {source}", hint="eoctl checkpoint list ROOT")
        sync_tree(temporary, tally.files)
    return Written(
        source=str(source),
        target=str(target),
        snapshots=tuple(written),
        files=tally.files,
        bytes=tally.total_bytes,
        metadata_version=version,
        remapped={},
        dropped=(),
        rewritten_paths=tally.rewritten,
        notes=(_SINKS,),
    )


def _relocated(snapshot: FlinkSnapshot, source: str, told_place: str, tally: Tally) -> Metadata:
    def moved(name: str) -> str:
        try:
            located = snapshot.paths.locate(AbsoluteFile(name, 0))
        except EoctlError as error:
            raise IncompatibleError(
                f"{snapshot.path} needs a file outside of {source}: {name[:300]!r}",
                hint="name a folder that holds all of them, or gather the snapshot: eoctl flink export",
            ) from error
        assert located is not None
        tally.rewritten += 1
        return f"{told_place}{located.path.removeprefix(source)}"

    def change(handle: StreamHandle) -> StreamHandle:
        match handle:
            case AbsoluteFile(path=path, size=size):
                return AbsoluteFile(moved(path), size)
            case Segment(path=path):
                return Segment(moved(path), handle.start, handle.size, handle.scope, handle.file_id)
        return handle

    return change_streams(snapshot.metadata, change, lambda folder: moved(f"{folder}/x").removesuffix("/x"))


def _present_path(snapshot: FlinkSnapshot, handle: AbsoluteFile | Segment) -> str:
    """The handle's own name; where the snapshot was moved, that of the file's present place."""
    try:
        located = snapshot.paths.locate(handle)
    except EoctlError:
        return handle.path
    if located is None or not located.moved:
        return handle.path
    return f"file:{located.path}" if located.files.is_local else located.path


def _too_new(snapshot: FlinkSnapshot, version: int | None) -> Iterator[str]:
    """Flink 2 has a RocksDB whose tables that of 1.20 does not open."""
    older = version is not None and version < 5 <= snapshot.metadata.version
    keyed = (subtask.managed_keyed for operator in snapshot.metadata.operators for subtask in operator.subtasks)
    if older and any(isinstance(handle, Incremental | Changelog) for handle in keyed):
        yield "RocksDB's tables of Flink 2 are not opened by 1.20: add --canonical"


def _finish(folder: Path, metadata: Metadata, version: int | None, tally: Tally) -> None:
    """`_metadata` comes last, as Flink writes it; then all is made durable."""
    data = write_metadata(metadata, version)
    (folder / METADATA).write_bytes(data)
    tally.files += 1
    tally.total_bytes += len(data)
    sync_tree(folder, tally.files)


def _tree(folder: str, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and name below `folder` of every file. Raises: UsageError for a link."""
    with told(folder), os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _tree(entry.path, f"{name}/")
        elif entry.is_file(follow_symlinks=False):
            yield entry.path, name
        else:
            raise UsageError(f"not a file: {entry.path}", hint="take it out, or copy what it points to")
