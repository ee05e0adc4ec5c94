"""Whether a checkpoint, a savepoint, a folder or a file of Flink can be deleted: who else needs what lies there."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from eoctl.engines.flink import FlinkSnapshot
from eoctl.engines.flink_files import Place, is_below
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
    path: Place, root: Place | None = None, live_jobs: Sequence[Place] = (), mappings: Sequence[Mapping] = ()
) -> Deletable:
    """Who needs what lies at `path`, among the snapshots below `root`; by default below its job's folder's parent.

    Raises: SnapshotNotFoundError, AccessDeniedError.
    """
    is_file = path.is_file()
    if not is_file and not path.is_folder():
        raise SnapshotNotFoundError(f"there is nothing at {path}", hint="eoctl checkpoint list ROOT")
    place = path.real()
    scope = _scope(place, is_file=is_file) if root is None else root
    known = read_all([scope, *live_jobs], mappings, named_root(scope))
    inside = [snapshot for snapshot in known.snapshots if snapshot.paths.folder.is_at(place)]
    others = [snapshot for snapshot in known.snapshots if not snapshot.paths.folder.is_at(place)]
    blocked = [
        Blocker(snapshot=str(snapshot.path), file=file)
        for snapshot in others
        for file in sorted({piece.file for piece in snapshot.pieces() if piece.file})
        if is_below(file, place.text)
    ]
    blocked += [Blocker(snapshot="", file=error.message) for error in known.problems]
    needed = {piece.file for snapshot in others for piece in snapshot.pieces() if piece.file}
    alone = {
        file: size
        for snapshot in inside
        for file, size in _sizes(snapshot).items()
        if file not in needed and not is_below(file, place.text)
    }
    files = [place.files.look(place.text)] if is_file else [found for _, found in place.files.below(place.text)]
    sizes = [found.bytes for found in files if found is not None]
    return Deletable(
        path=str(path),
        safe=not blocked,
        blocked_by=tuple(blocked),
        frees_bytes=sum(sizes),
        frees_files=len(sizes),
        leaves_orphans=len(alone),
        orphan_bytes=sum(alone.values()),
        searched=str(scope),
        other_snapshots=len(others),
        notes=tuple(_notes(inside, others, scope if root is None else None)),
    )


def _scope(place: Place, *, is_file: bool) -> Place:
    """The folder that jobs lie in, or savepoints."""
    folder = place.parent if is_file else place
    beside = CHECKPOINT.match(folder.name) or folder.name.startswith("savepoint-")
    scope = scope_of(place)
    return folder.parent if scope == place and beside else scope


def _sizes(snapshot: FlinkSnapshot) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for piece in snapshot.pieces():
        if piece.located is not None and piece.file not in sizes:
            found = piece.located.files.look(piece.file)
            sizes[piece.file] = 0 if found is None or found.kind != "file" else found.bytes
    return sizes


def _notes(inside: Sequence[FlinkSnapshot], others: Sequence[FlinkSnapshot], guessed: Place | None) -> list[str]:
    """What no file tells: that a job has nothing left to go on from; that others may name a savepoint's files."""
    left = {snapshot.job for snapshot in others}
    notes = [
        f"no other checkpoint of job {job} is left then"
        for job in sorted({snapshot.job for snapshot in inside if snapshot.job} - left)
    ]
    if guessed is not None and any(snapshot.is_savepoint for snapshot in inside):
        notes.append(f"only {guessed} was searched: a job elsewhere that claimed it names its files; --root finds that")
    return notes
