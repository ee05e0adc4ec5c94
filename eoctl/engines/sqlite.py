"""A SQLite database as a source: one consistent file, by the backup API, beside a live writer.

The copy is taken in one read transaction, whatever the journal mode, so it is the database as of one commit. In
WAL mode nobody waits. In a rollback-journal mode a writer's commit waits until the copy is done. Pages keep their
positions, so that the next snapshot stores only the 64 KiB blocks that changed.

SQLite itself leaves `-wal` and `-shm` files beside a WAL-mode database that nobody had open. A damaged page is
copied as it is, unless `verify` is asked for.

`privately` serves every source that makes a private copy.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from eoctl.engines.directory import capture_tree
from eoctl.engines.source import Captured
from formats.errors import AccessDeniedError, CorruptError, EoctlError, NoSpaceError, UnavailableError, UsageError
from formats.manifest import Engine
from storage.os_errors import told
from storage.packing import Layout

BUSY_TIMEOUT_SECONDS = 5.0

_STEP_PAGES = 4096  # between steps an interrupt gets through; the read transaction holds the state still
_PRIMARY_CODE = 0xFF  # an extended result code holds the primary one in its low byte
_LOCK_TRIES = 10
_SCRATCH_PREFIX = ".eoctl-capture-"


@dataclass(frozen=True, slots=True)
class SqliteSource:
    """The database in file `path`. `verify` runs SQLite's quick check on the copy.

    A lock that outlasts `timeout_seconds` is an UnavailableError.
    """

    path: Path
    verify: bool = field(default=False, kw_only=True)
    timeout_seconds: float = field(default=BUSY_TIMEOUT_SECONDS, kw_only=True)

    def capture(self) -> AbstractContextManager[Captured]:
        return privately(self.path.absolute(), self._take)

    def _take(self, path: Path, scratch: Path) -> Captured:
        _check_is_file(path)
        copy = scratch / "files" / path.name
        copy.parent.mkdir()
        try:
            properties = self._copy(copy)
            if self.verify:
                _check_pages(copy, path)
        except sqlite3.Error as error:
            raise _error_of(error, path) from error
        except UnicodeDecodeError as error:  # what SQLite says of a damaged schema quotes it
            raise _damaged(path, error.object.decode("utf-8", "backslashreplace")) from error
        found = capture_tree(copy.parent, Engine("sqlite", sqlite3.sqlite_version, properties))
        return replace(found, layout=Layout.BLOCKS)

    def _copy(self, target: Path) -> dict[str, str]:
        uri = f"{self.path.absolute().as_uri()}?mode=ro"
        source = sqlite3.connect(uri, uri=True, timeout=self.timeout_seconds, isolation_level=None)
        with closing(source), closing(sqlite3.connect(target, isolation_level=None)) as copy:
            # The first read takes the snapshot; all below, and the copy, see that one.
            source.execute("BEGIN")
            source.execute("SELECT count(*) FROM sqlite_master").fetchone()
            names = ("page_size", "journal_mode", "user_version")
            properties = {name: str(source.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}
            # The copy is private and needs to survive nothing.
            copy.execute("PRAGMA synchronous = OFF")
            copy.execute("PRAGMA journal_mode = OFF")
            source.backup(copy, pages=_STEP_PAGES, progress=_give_up_if_locked)
        return properties


@contextmanager
def privately(path: Path, take: Callable[[Path, Path], Captured]) -> Iterator[Captured]:
    """What `take` makes of `path` in a private directory, which is removed at the end.

    The directory is a hidden one beside `path`, or where temporary files go if that cannot be. Its owner holds a
    lock on a file in it, so that the next capture can remove what a killed one left. An OSError of `take` comes
    out as an error of ours.
    """
    with _private_directory(path) as scratch:
        with told(path):
            captured = take(path, scratch)
        yield captured


@contextmanager
def _private_directory(neighbour: Path) -> Iterator[Path]:
    for place in (neighbour.resolve().parent, Path(tempfile.gettempdir())):
        with suppress(OSError):
            _sweep(place)
            scratch, lock = _locked_directory(place)
            break
    else:
        raise UnavailableError(f"no private directory can be made beside {neighbour}, nor where temporary files go")
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(lock)


def _check_is_file(path: Path) -> None:
    # The file is never opened here: closing it would drop the locks that this process may hold on it by SQLite.
    hint = "name the database file"
    if not path.exists():
        raise UsageError(f"no such file: {path}", hint=hint)
    if not path.is_file() or path.stat().st_size == 0:
        raise UsageError(f"not a SQLite database: {path}", hint=hint)
    if not os.access(path, os.R_OK):
        raise AccessDeniedError(f"no permission to read {path}", hint="check its owner and mode")


def _give_up_if_locked(status: int, _remaining: int, _total: int) -> None:
    # Without this, `backup` would try again for ever.
    if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorcode = status
        raise error


def _check_pages(copy: Path, path: Path) -> None:
    # Immutable, so that no -wal or -shm file appears beside the copy.
    with closing(sqlite3.connect(f"{copy.as_uri()}?immutable=1", uri=True)) as connection:
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise _damaged(path, answer)


def _error_of(error: sqlite3.Error, path: Path) -> EoctlError:
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & _PRIMARY_CODE:
        case sqlite3.SQLITE_CORRUPT:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_NOTADB:
            return UsageError(f"not a SQLite database: {path}: {error}", hint="an encrypted one cannot be read")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            hint = "end the transaction that holds the lock, or use WAL mode: PRAGMA journal_mode = WAL"
            return UnavailableError(f"{path} is locked by another process", hint=hint)
        case sqlite3.SQLITE_READONLY:
            hint = f'let SQLite recover it: sqlite3 {path} "PRAGMA user_version"'
            return UnavailableError(f"{path} was left in the middle of a transaction: {error}", hint=hint)
        case sqlite3.SQLITE_FULL:
            return NoSpaceError(f"no space for a private copy of {path}", hint="free some beside it")
        case sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return AccessDeniedError(f"no permission to read {path}: {error}")
        case sqlite3.SQLITE_CANTOPEN:
            hint = "a WAL-mode database needs write permission for its directory, or a process that has it open"
            return UnavailableError(f"{path} cannot be opened: {error}", hint=hint)
        case _:
            return UnavailableError(f"{path} cannot be read: {error}")


def _damaged(path: Path, what: str) -> CorruptError:
    hint = f'see what is left: sqlite3 {path} "PRAGMA integrity_check"; or restore the newest snapshot'
    return CorruptError(f"{path} is damaged: {what}", hint=hint)


def _locked_directory(place: Path) -> tuple[Path, int]:
    """A new directory in `place` and a descriptor that locks it. Where a sweep comes in between, another one."""
    for _ in range(_LOCK_TRIES):
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=place))
        with suppress(OSError):
            lock = os.open(scratch / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            if _locks(lock) and (scratch / "lock").exists():
                return scratch, lock
            os.close(lock)
        shutil.rmtree(scratch, ignore_errors=True)
    raise OSError


def _sweep(place: Path) -> None:
    """Removes the directories in `place` that nobody holds any more."""
    for left in place.glob(f"{_SCRATCH_PREFIX}*"):
        with suppress(OSError):
            if left.is_symlink() or left.stat().st_uid != os.getuid():
                continue
            lock = os.open(left / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if _locks(lock):
                shutil.rmtree(left, ignore_errors=True)
            os.close(lock)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
