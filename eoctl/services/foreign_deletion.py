"""Whether a checkpoint, a savepoint, a folder or a file of Flink can be deleted: who else needs what lies there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from eoctl.engines.flink import FlinkSnapshot
from eoctl.engines.flink_paths import CHECKPOINT, Mapping, named_root
from eoctl.services.foreign_orphans import read_all, scope_of
from formats.errors import SnapshotNotFoundError


class Blocker(Struct, frozen=True, kw_only=True):
    """A snapshot elsewhere, and a file at the place in question that it names."""

    snapshot: str
    file: str


class Deletable(Struct, frozen=True, kw_only=True):
    """`frees_bytes`: what lies there. `leaves_orphans`: files elsewhere that only snapshots there name.

    `searched`: below which folder other snapshots were looked for, and how many there are.
    """

    path: str
    safe: bool
    blocked_by: tuple[Blocker, ...]
    frees_bytes: int
    frees_files: int
    leaves_orphans: int
    orphan_bytes: int
    searched: str
    other_snapshots: int
    notes: tuple[str, ...]


def can_delete(
    path: Path, root: Path | None = None, live_jobs: Sequence[Path] = (), mappings: Sequence[Mapping] = ()
) -> Deletable:
    """Who needs what lies at `path`, among the snapshots below `root`; by default below its job's folder's parent.

    Raises: SnapshotNotFoundError, AccessDeniedError.
    """
    if not path.exists():
        raise SnapshotNotFoundError(f"there is nothing at {path}", hint="eoctl checkpoint list ROOT")
    place = Path(os.path.realpath(path))
    scope = _scope(place) if root is None else root
    known = read_all([scope, *live_jobs], mappings, named_root(scope))
    inside = [snapshot for snapshot in known.snapshots if _is_at(snapshot.paths.folder, place)]
    others = [snapshot for snapshot in known.snapshots if not _is_at(snapshot.paths.folder, place)]
    blocked = [
        Blocker(snapshot=str(snapshot.path), file=file)
        for snapshot in others
        for file in sorted({piece.file for piece in snapshot.pieces() if piece.file})
        if _is_at(Path(file), place)
    ]
    blocked += [Blocker(snapshot="", file=error.message) for error in known.problems]
    needed = {piece.file for snapshot in others for piece in snapshot.pieces() if piece.file}
    alone = {
        file: size
        for snapshot in inside
        for file, size in _sizes(snapshot).items()
        if file not in needed and not _is_at(Path(file), place)
    }
    files = [place] if place.is_file() else [found for found in place.rglob("*") if found.is_file()]
    return Deletable(
        path=str(path),
        safe=not blocked,
        blocked_by=tuple(blocked),
        frees_bytes=sum(found.lstat().st_size for found in files),
        frees_files=len(files),
        leaves_orphans=len(alone),
        orphan_bytes=sum(alone.values()),
        searched=str(scope),
        other_snapshots=len(others),
        notes=tuple(_notes(inside, others, scope if root is None else None)),
    )


def _scope(place: Path) -> Path:
    """The folder that jobs lie in, or savepoints."""
    folder = place if place.is_dir() else place.parent
    beside = CHECKPOINT.match(folder.name) or folder.name.startswith("savepoint-")
    scope = scope_of(place)
    return folder.parent if scope == place and beside else scope


def _is_at(path: Path, place: Path) -> bool:
    return path == place or path.is_relative_to(place)


def _sizes(snapshot: FlinkSnapshot) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in snapshot.pieces():
        if piece.located is not None and piece.file not in sizes:
            file = Path(piece.file)
            sizes[piece.file] = file.lstat().st_size if file.is_file() else 0
    return sizes


def _notes(inside: Sequence[FlinkSnapshot], others: Sequence[FlinkSnapshot], guessed: Path | None) -> list[str]:
    """What no file tells: that a job has nothing left to go on from; that others may name a savepoint's files."""
    left = {snapshot.job for snapshot in others}
    notes = [
        f"no other checkpoint of job {job} is left then"
        for job in sorted({snapshot.job for snapshot in inside if snapshot.job} - left)
    ]
    if guessed is not None and any(snapshot.is_savepoint for snapshot in inside):
        notes.append(f"only {guessed} was searched: a job elsewhere that claimed it names its files; --root finds that")
    return notes
