"""Files below a root of Flink that no retained checkpoint or savepoint names: told, put aside, deleted.

Only what lies where Flink puts state is looked at: `shared`, `taskowned`, `dstl` and `chk-N` of a job's folder, and the
folders of savepoints. A file is an orphan if no `_metadata` that was found names it. So all of them have to be found
and read: with one that cannot be read nothing is moved or deleted. What a running job is writing looks like an orphan
until its checkpoint completes: hence ages, and `live`.

Before anything is moved or deleted, everything is looked at a second time: what is named meanwhile stays.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from eoctl.ambient import format_time
from eoctl.engines.flink import METADATA, FlinkSnapshot, find_folders, is_snapshot, open_snapshot
from eoctl.engines.flink_files import Files, Found, Place
from eoctl.engines.flink_paths import CHECKPOINT, JOB, OWN_FOLDERS, Mapping, Root, named_root
from formats.errors import AnswerNoError, CorruptError, EoctlError, UsageError
from storage.os_errors import told

_SAVEPOINT = "savepoint-"
_UNFINISHED = "its checkpoint was never completed"
_UNNAMED = "no retained checkpoint names it"
_NEWER = f"{_UNNAMED}; newer than the newest one, so it may be of one under way"


class Orphan(Struct, frozen=True, kw_only=True):
    """A file that nothing names."""

    path: str
    bytes: int
    modified_at: str
    reason: str


class Survey(Struct, frozen=True, kw_only=True):
    """What lies below a root. `missing`: files that a snapshot names and that are not there."""

    root: str
    snapshots: int
    referenced_files: int
    orphans: tuple[Orphan, ...]
    orphan_bytes: int
    missing: tuple[str, ...]
    problems: tuple[EoctlError, ...]


class Known(Struct, frozen=True):
    """Every snapshot that counts, and what could not be read."""

    snapshots: tuple[FlinkSnapshot, ...]
    problems: tuple[EoctlError, ...]


def survey(
    path: Place,
    live_jobs: Sequence[Place] = (),
    mappings: Sequence[Mapping] = (),
    before: float | None = None,
) -> Survey:
    """The orphans below `path`; those modified before `before` (seconds since 1970) where that is given.

    `live_jobs`: folders of running jobs. Their snapshots count wherever they lie, and what is newer than the newest
    of them is theirs. Where `path` lies in a job's folder, the jobs beside that one count too.
    Raises: SnapshotNotFoundError, AccessDeniedError.
    """
    scope = scope_of(path)
    known = read_all([scope, *live_jobs], mappings, named_root(scope) if scope.is_folder() else None)
    pieces = [piece for snapshot in known.snapshots for piece in snapshot.pieces() if piece.file]
    named = {piece.file for piece in pieces}
    # Of what is named by a path that leads nowhere here, the name alone counts: Flink gives none twice.
    names = {piece.file.rpartition("/")[2] for piece in pieces if piece.fault is not None}
    newest = _newest_by_job(known.snapshots)
    live = {job.real().text for job in live_jobs}
    orphans = []
    for name, file, folder in _state_files(path.files, path.real().text, _job_of(path)):
        if name in named or file.name in names or file.name == METADATA:
            continue
        last = newest.get(folder)
        is_newer = last is None or file.modified_at >= last
        if (folder in live and is_newer) or (before is not None and file.modified_at >= before):
            continue
        parent = Place(path.files, name).parent
        unfinished = CHECKPOINT.match(parent.name) and not is_snapshot(parent)
        orphans.append(
            Orphan(
                path=name,
                bytes=file.bytes,
                modified_at=format_time(datetime.fromtimestamp(file.modified_at, UTC)),
                reason=_UNFINISHED
                if unfinished
                else _NEWER
                if last is not None and file.modified_at > last
                else _UNNAMED,
            )
        )
    orphans.sort(key=lambda orphan: orphan.path)
    return Survey(
        root=str(path),
        snapshots=len(known.snapshots),
        referenced_files=len(named),
        orphans=tuple(orphans),
        orphan_bytes=sum(orphan.bytes for orphan in orphans),
        missing=tuple(sorted(_missing(known.snapshots))),
        problems=known.problems,
    )


def scope_of(path: Place) -> Place:
    """Below which folder lie the jobs that may name what lies at `path`: that of the job's own folder, or `path`."""
    place = path.real()
    for folder in (place, *place.parents):
        if JOB.match(folder.name):
            return folder.parent
    return path


def _job_of(path: Place) -> str:
    return next((str(folder) for folder in path.real().parents if JOB.match(folder.name)), "")


def read_all(paths: Iterable[Place], mappings: Sequence[Mapping], root: Root | None) -> Known:
    """Every snapshot at or below the paths, each once; handles of all of them may lead below `root`."""
    found: dict[str, FlinkSnapshot] = {}
    problems: list[EoctlError] = []
    for path in paths:
        for folder in find_folders(path):
            real = str(folder.real())
            if real in found or not is_snapshot(folder):
                continue
            try:
                found[real] = open_snapshot(folder, tuple(mappings), root)
            except EoctlError as error:
                problems.append(error)
    return Known(tuple(found.values()), tuple(problems))


def quarantine(first: Survey, again: Survey, into: Path) -> int:
    """The orphans of both surveys lie below `into`, as they lay below the root; how many there were.

    Raises: UsageError, CorruptError, AnswerNoError, and what moving raises.
    """
    root = Path(os.path.realpath(first.root))
    target = Path(os.path.realpath(into))
    if target == root or target.is_relative_to(root):
        raise UsageError(f"the quarantine lies below the root: {into}", hint="name a directory outside of it")
    both = _both(first, again, None)
    for orphan in both:
        moved = target / Path(orphan.path).relative_to(root)
        with told(moved):
            moved.parent.mkdir(parents=True, exist_ok=True)
            if moved.exists():
                raise UsageError(f"the quarantine has a file of that name: {moved}", hint="name a new directory")
            _move(orphan.path, str(moved))
    _drop_empty(both)
    return len(both)


def delete(first: Survey, again: Survey, expect: int) -> int:
    """The orphans of both surveys are gone; how many there were. `expect`: so many, or nothing is deleted.

    Raises: AnswerNoError, CorruptError, and what deleting raises.
    """
    both = _both(first, again, expect)
    for orphan in both:
        with told(orphan.path):
            os.unlink(orphan.path)  # noqa: PTH108  (a path as it was listed)
    _drop_empty(both)
    return len(both)


def _both(first: Survey, again: Survey, expect: int | None) -> list[Orphan]:
    problems = [*first.problems, *again.problems]
    if problems:
        raise CorruptError(
            f"nothing was touched, as what a snapshot names is not known: {problems[0].message}",
            hint="move the damaged snapshot out of the root, if it is not needed",
        )
    if expect is not None and len(first.orphans) != expect:
        raise AnswerNoError(
            f"{len(first.orphans)} orphans, where {expect} were expected: nothing was deleted",
            hint=f"look at them; then --expect {len(first.orphans)}",
            orphans=len(first.orphans),
        )
    still = {(orphan.path, orphan.bytes, orphan.modified_at) for orphan in again.orphans}
    return [orphan for orphan in first.orphans if (orphan.path, orphan.bytes, orphan.modified_at) in still]


def _move(source: str, target: str) -> None:
    try:
        os.rename(source, target)  # noqa: PTH104  (a path as it was listed)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)
        with open(target, "rb") as copied:  # noqa: PTH123  (likewise)
            os.fsync(copied.fileno())
        os.unlink(source)  # noqa: PTH108  (likewise)


def _drop_empty(orphans: Iterable[Orphan]) -> None:
    """Folders of checkpoints that were never completed go with their last file."""
    for folder in {Path(orphan.path).parent for orphan in orphans if orphan.reason == _UNFINISHED}:
        if not any(folder.iterdir()):
            folder.rmdir()


def _missing(snapshots: Iterable[FlinkSnapshot]) -> set[str]:
    looked: dict[str, bool] = {}
    for snapshot in snapshots:
        for piece in snapshot.pieces():
            if piece.located is not None and piece.file not in looked:
                found = piece.located.files.look(piece.file)
                looked[piece.file] = found is not None and found.kind == "file"
    return {path for path, is_there in looked.items() if not is_there}


def _newest_by_job(snapshots: Iterable[FlinkSnapshot]) -> dict[str, float]:
    """Job's folder -> when its newest checkpoint was completed."""
    newest: dict[str, float] = {}
    for snapshot in snapshots:
        if snapshot.job:
            job = str(snapshot.paths.folder.parent)
            newest[job] = max(newest.get(job, 0.0), snapshot.modified_at)
    return newest


def _state_files(files: Files, folder: str, job: str = "") -> Iterator[tuple[str, Found, str]]:
    """Every file where Flink puts state, with its job's folder or "". `job`: of the job in which `folder` lies."""
    name = folder.rpartition("/")[2]
    if job or name.startswith(_SAVEPOINT):
        yield from ((path, file, job) for path, file in files.below(folder))
        return
    for entry in files.entries(folder):
        if entry.kind == "folder":
            path = f"{folder}/{entry.name}"
            if not JOB.match(name):
                yield from _state_files(files, path)
            elif entry.name in OWN_FOLDERS or CHECKPOINT.match(entry.name):
                yield from _state_files(files, path, folder)
