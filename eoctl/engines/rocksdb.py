"""A RocksDB database as a source: from outside, beside a writer that goes on, or from inside by its Checkpoint.

Never through a read-only or secondary handle: a copy made by one lacks what is only in the write-ahead logs
(WALs), so that column families disagree, and opening one beside a writer can miss a log or a table.

`RocksdbSource` takes what a kill of the writer at one moment T would leave on disk, save the newest WAL's end; so
recovery makes a prefix of all writes of it, in which column families agree. It relies on this:

F1. A table (SST or blob file) that MANIFEST names never changes. It is deleted, as is a WAL still needed, only
    after MANIFEST was appended to, or CURRENT names another one.
F2. MANIFEST and WALs only grow, at the end (recycled WALs are refused). A new CURRENT is renamed into place.
F3. A WAL gets its first write only after the last byte of the WAL before it is in the file.
F4. MANIFEST calls a write flushed only after the WAL that holds it was closed, and its successor made.

A try: (1) Look: CURRENT; the size of MANIFEST; a listing of the WALs with their lengths. T is when the newest
one's length was read. (2) Hold every table, MANIFEST and these WALs by hard links. (3) Look again, and accept
only if (a) CURRENT and MANIFEST are the same in name, inode, size and time; (b) every WAL is still there, all but
the newest with the same length; (c) a WAL not seen before is newer than those. (4) Copy MANIFEST and the WALs,
cut at the lengths of the first look; keep the tables that MANIFEST names.

Proof. By (a) and F2 nothing was committed to MANIFEST from 1 to 3, T included, so by F1 each table and WAL that it
needs was there to be held. By (b) and F2 each older WAL is cut where it ended at T. None is missing before the
newest: a listing shows what is there throughout, so the second shows what was born during the first, for (c) to
reject. If the newest held a write at T, the older ones are whole by F3; if not, they end where they ended at T: a
prefix either way. What a WAL left out holds is newer (F3), and is not called flushed (F4): MANIFEST was seen
before it was born. A record torn at the cut is dropped by recovery. So what was in a WAL before the capture began
is there. Writes that bypass the WAL are there once flushed, as after a kill.
Source: RocksDB 9.8, options/options_parser.cc (OPTIONS).
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from msgspec.structs import replace

from eoctl.engines.directory import capture_tree, stamp_of
from eoctl.engines.rocksdb_manifest import RESTORE, USE_CHECKPOINT, Version, read_version
from eoctl.engines.source import Captured
from eoctl.engines.sqlite import privately
from formats.canonical import MAX_STRING_BYTES
from formats.errors import CorruptError, SourceChangedError, UnavailableError, UnsupportedError, UsageError
from formats.manifest import Engine, StateInfo
from storage.packing import Layout

if TYPE_CHECKING:
    from rocksdict import Rdict

TRIES = 200
_WAIT_SECONDS = tuple(min(0.001 * 2**i, 0.05) for i in range(TRIES))
_TABLE = re.compile(r"([0-9]+)\.(?:sst|ldb|blob)\Z")
_WAL = re.compile(r"([0-9]+)\.log\Z")
_MAX_OPTIONS_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class RocksdbSource:
    """The database in directory `path`, open in another process or closed.

    `verify` opens a copy of what was captured and reads the first and last key of every column family.
    `wait` is how a failed try waits. `step` is called with the name of each step done; tests interfere there.
    """

    path: Path
    verify: bool = field(default=False, kw_only=True)
    wait: Callable[[float], None] = field(default=time.sleep, kw_only=True)
    step: Callable[[str], None] = field(default=lambda _name: None, kw_only=True)

    def capture(self) -> AbstractContextManager[Captured]:
        return privately(self.path.resolve(), self._take)

    def _take(self, database: Path, scratch: Path) -> Captured:
        if not (database / "CURRENT").is_file():
            raise UsageError(f"not a RocksDB directory: {self.path}", hint="name the directory that holds CURRENT")
        attempt, reason = _Attempt(database, scratch, self.step), ""
        for tries, seconds in enumerate(_WAIT_SECONDS, 1):
            try:
                reason = attempt.run()
            except FileNotFoundError as error:
                reason = f"{Path(str(error.filename)).name} was removed"
            if not reason:
                captured = _describe(attempt.files, captured=attempt.how, tries=str(tries))
                return _verified(captured, database, scratch / "verified") if self.verify else captured
            self.wait(seconds)
        hint = f"lower the write rate, flush less often, or {USE_CHECKPOINT}"
        raise SourceChangedError(f"{database} changed in each of {TRIES} tries to capture it: {reason}", hint=hint)


@dataclass(frozen=True, slots=True)
class RocksdbCheckpoint:
    """The database that this process has open for writing, by RocksDB's own checkpoint."""

    database: Rdict

    def capture(self) -> AbstractContextManager[Captured]:
        return privately(Path(self.database.path()).resolve(), self._take)

    def _take(self, database: Path, scratch: Path) -> Captured:
        from rocksdict import Checkpoint  # noqa: PLC0415  # an extra

        try:
            self.database.flush_wal()  # refused by a handle that is not for writing, whose checkpoint would be torn
            Checkpoint(self.database).create_checkpoint(str(scratch / "files"))
        except Exception as error:
            raise UnavailableError(f"no checkpoint of {database}: {error}") from error
        return _describe(scratch / "files", captured="checkpoint")


class _Attempt:
    """Tries to capture. Tables once held stay held, so that a later try has less to do."""

    def __init__(self, database: Path, scratch: Path, step: Callable[[str], None]) -> None:
        self.files, self.how = scratch / "files", "links"
        self._database, self._rest, self._step = database, scratch / "rest", step
        self._held: dict[str, str] = {}
        self.files.mkdir()
        try:
            os.link(database / "CURRENT", scratch / "probe")
        except OSError:  # another file system, or links are not allowed
            self.how = "copy"

    def run(self) -> str:
        """Why this try failed; empty if `files` holds the state."""
        shutil.rmtree(self._rest, ignore_errors=True)
        self._rest.mkdir()
        options = self._take_options()
        self._step("options")
        before = _look(self._database)
        self._step("looked")
        self._hold_tables()
        self._step("tables")
        for name in before.lengths:
            self._hold(name, self._rest)
        self._step("logs")
        if reason := _difference(before, _look(self._database)):
            return reason
        manifest = before.heads[1]
        version = read_version(self._rest / manifest, before.lengths[manifest])
        if set(version.families) != set(_families(options)):
            return "OPTIONS and MANIFEST name other column families"
        self._keep_live(before, version, options)
        (self._rest / "CURRENT").write_text(f"{manifest}\n")
        for path in self._rest.iterdir():
            shutil.copyfile(path, self.files / path.name)
            os.truncate(self.files / path.name, before.lengths.get(path.name, path.stat().st_size))
        return ""

    def _take_options(self) -> str:
        newest, options = _read_options(self._database)
        for name in (newest, "IDENTITY", "rocksdict-config.json"):
            if (self._database / name).is_file():
                shutil.copyfile(self._database / name, self._rest / name)
        if _setting(options, "recycle_log_file_num") not in {"", "0"}:
            self._refuse("recycle_log_file_num", "logs are overwritten in place")
        if _setting(options, "wal_recovery_mode") == "kAbsoluteConsistency":
            self._refuse("wal_recovery_mode=kAbsoluteConsistency", "it may not open after a kill")
        return options

    def _hold_tables(self) -> None:
        found = {}
        with os.scandir(self._database) as listing:
            for entry in listing:
                if _TABLE.match(entry.name):
                    # A link follows what happens to its file; a copy is good while the file looks the same.
                    status = None if self.how == "links" else entry.stat(follow_symlinks=False)
                    found[entry.name] = f"{stamp_of(status)}.{status.st_size}" if status else f"{entry.inode()}"
        self._step("listed")
        for name in [name for name in self._held if self._held[name] != found.get(name)]:
            del self._held[name]
            (self.files / name).unlink()
        for name in found.keys() - self._held.keys():
            with suppress(FileNotFoundError):  # if MANIFEST stays the same, it does not name this table
                self._hold(name, self.files)
                self._held[name] = found[name]

    def _hold(self, name: str, into: Path) -> None:
        if (self._database / name).is_symlink():
            self._refuse("symbolic links", f"{name} is one")
        take = os.link if self.how == "links" else shutil.copyfile
        take(self._database / name, into / name)

    def _keep_live(self, look: _Look, version: Version, options: str) -> None:
        """What MANIFEST names is held, and no table else: not those being written or no longer needed."""
        # A log is in use that is no older than MANIFEST says, save where none was opened: there is no LOCK. OPTIONS
        # alone cannot tell: that of a copy names the place of the original, a database too. Nor has it db_paths.
        wals, newest = Path(_setting(options, "wal_dir")), max([_number(name) for name in look.lengths][1:], default=0)
        apart = wals.is_absolute() and any(wals.glob("*.log")) and not (wals / "CURRENT").exists()
        if apart or (newest < version.newest_log and (self._database / "LOCK").exists()):
            self._refuse(f"wal_dir={wals}", "its logs are elsewhere")
        sizes = {_number(name): (self.files / name).stat().st_size for name in self._held}
        for number, size in sorted(version.tables.items()):
            if number not in sizes:
                self._refuse("db_paths or cf_paths", f"table {number} is elsewhere, or lost")
            if sizes[number] != size:
                message = f"table {number} in {self._database} has {sizes[number]} bytes (MANIFEST: {size})"
                raise CorruptError(message, hint=RESTORE)
        for name in [name for name in self._held if _number(name) not in version.tables.keys() | version.blobs]:
            del self._held[name]
            (self.files / name).unlink()

    def _refuse(self, option: str, why: str) -> NoReturn:
        raise UnsupportedError(f"{self._database} uses {option}: {why}", hint=USE_CHECKPOINT)


@dataclass(frozen=True, slots=True)
class _Look:
    """What would show that CURRENT or MANIFEST changed; lengths of MANIFEST and, oldest first, of the WALs."""

    heads: tuple[str, str, str]
    lengths: dict[str, int]


def _look(database: Path) -> _Look:
    with (database / "CURRENT").open("rb") as file:
        current = os.fstat(file.fileno())
        manifest = file.read(256).decode("utf-8", "replace").rstrip("\n")
    if not re.fullmatch("MANIFEST-[0-9]+", manifest):
        raise CorruptError(f"CURRENT in {database} names no MANIFEST: {manifest[:60]!r}")
    # MANIFEST before the WALs: what it calls flushed is then in logs that were closed when they are listed.
    status = (database / manifest).stat()
    if not stat.S_ISREG(status.st_mode):
        raise CorruptError(f"{manifest} in {database} is no file")
    with os.scandir(database) as listing:
        wals = {e.name: e.stat(follow_symlinks=False).st_size for e in listing if _WAL.match(e.name)}
    lengths = {manifest: status.st_size} | {name: wals[name] for name in sorted(wals, key=_number)}
    return _Look((stamp_of(current), manifest, stamp_of(status)), lengths)


def _difference(before: _Look, after: _Look) -> str:
    """What the second look shows that the proof does not allow; empty if nothing."""
    manifest, *wals = before.lengths
    if before.heads != after.heads or before.lengths[manifest] != after.lengths[manifest]:
        return "MANIFEST changed"
    for name in wals:
        grown = after.lengths.get(name, -1) - before.lengths[name]
        if grown < 0 or (grown and name != wals[-1]):
            return f"{name} changed"
    born = after.lengths.keys() - before.lengths.keys()
    return "a log appeared late" if wals and any(_number(name) < _number(wals[-1]) for name in born) else ""


def _read_options(directory: Path) -> tuple[str, str]:
    """Name and text of the newest OPTIONS file."""
    found = (path for path in directory.glob("OPTIONS-*[0-9]") if path.is_file())
    newest = max(found, key=lambda path: _number(path.name), default=None)
    if newest is None:
        raise UnsupportedError(f"{directory} has no OPTIONS file: not RocksDB, or older than 4.3")
    with newest.open("rb") as file:
        data = file.read(_MAX_OPTIONS_BYTES + 1)
    if len(data) > _MAX_OPTIONS_BYTES:
        raise UnsupportedError(f"{newest} is larger than {_MAX_OPTIONS_BYTES} bytes", hint=USE_CHECKPOINT)
    return newest.name, data.decode("utf-8", "backslashreplace")


@lru_cache(maxsize=8)  # a try that failed is mostly followed by one with the same OPTIONS
def _setting(options: str, name: str) -> str:
    found = re.search(rf"^[ \t]*{name}=(.*)$", options, re.MULTILINE)
    return found[1].strip() if found else ""


@lru_cache(maxsize=2)
def _families(options: str) -> tuple[str, ...]:
    names: list[str] = re.findall(r'^\[CFOptions "(.*)"\]$', options, re.MULTILINE)
    return tuple(re.sub(r"\\(.)", lambda c: {"n": "\n", "r": "\r"}.get(c[1], c[1]), name) for name in names)


def _describe(files: Path, **properties: str) -> Captured:
    _, options = _read_options(files)
    names = ",".join(families := _families(options))
    properties["column_families"] = names if len(names.encode()) <= MAX_STRING_BYTES else str(len(families))
    tree = capture_tree(files, Engine("rocksdb", _setting(options, "rocksdb_version"), properties))
    states = tuple(StateInfo(name=name, kind="column-family") for name in families)
    return replace(tree, role="keyed", layout=Layout.WHOLE, states=states)


def _verified(captured: Captured, database: Path, directory: Path) -> Captured:
    try:
        from rocksdict import Rdict  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise UnsupportedError("rocksdict is not installed", hint="pip install eoctl[rocksdb]") from error
    directory.mkdir()
    for file in captured.files:
        # Opening writes, but never into a table.
        take = os.link if _TABLE.match(file.name) else shutil.copyfile
        take(captured.root / file.name, directory / file.name)
    try:
        with Rdict(str(directory)) as opened:
            for state in captured.states:
                keys = opened.get_column_family(state.name).iter()
                for seek in (keys.seek_to_first, keys.seek_to_last):
                    seek()
                    keys.status()
    except Exception as error:
        raise CorruptError(f"what was captured of {database} does not open: {error}", hint=RESTORE) from error
    return captured


def _number(name: str) -> int:
    return int(re.sub("[^0-9]", "", name))
