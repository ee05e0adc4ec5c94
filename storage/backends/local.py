"""A directory on a local file system: crash-safe by write order, atomic by link and rename.

The rules it keeps, which docs/protocol.md builds on:

- `create` writes a temporary file below `tmp/`, fsyncs it, links it to its name (which never overwrites),
  fsyncs the directory, and only then reports success. Where the name exists it fsyncs that file and its
  directory as well: whoever linked it may have died before doing so.
- `swap` holds `flock` on `NAME.lock` while it re-reads, compares, writes, fsyncs, renames, fsyncs.
- Opening HEAD fsyncs its directory, so whatever was read is committed, whoever wrote it and died.
- A failed fsync is final: the same descriptor is never synced twice, and nothing is settled by reading back.

It leaves to others: what keys mean, and whether bytes are the right ones.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import itertools
import os
import shutil
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from formats.errors import CommitUnknownError
from storage.backend import (
    Body,
    BusyError,
    CopyOf,
    Folder,
    Found,
    Key,
    KeyAbsentError,
    LocalFile,
    Reach,
    SyncFailedError,
    Unfinished,
    Version,
    VersionMismatchError,
    is_key,
    version_of,
)
from storage.os_errors import NO_SPACE, told

TMP = "tmp"
LOCK_TRIES = 250  # to get into a swap, about 5 s; whoever is in there needs two fsyncs
LOCK_PAUSE = 0.02
_READ_BYTES = 4 << 20  # at once: room for it is made before it is known how much there is


class LocalBackend:
    """The six verbs below `root`. `token` makes this process's temporary names its own."""

    def __init__(self, root: Path, token: str) -> None:
        self._root = str(root)
        self._token = token
        self._numbers = itertools.count()
        self._made: set[str] = set()

    @property
    def scratch(self) -> Path:
        """Where a file may be written so that `create` only has to link it."""
        return Path(self._root, TMP)

    def make_folders(self, folders: Iterable[Key]) -> None:
        """The folders exist and their names are durable, at one fsync for each parent."""
        parents = set()
        for folder in folders:
            path = self._path(folder)
            with told(folder):
                self._make_directory(os.path.dirname(path))
                with contextlib.suppress(FileExistsError):
                    os.mkdir(path)
            parents.add(os.path.dirname(path))
        # Whoever made a directory above may have died before its fsync, so all of them are synced here.
        for parent in list(parents):
            above = parent
            while above != os.path.dirname(above):
                above = os.path.dirname(above)
                parents.add(above)
        for parent in sorted(parents):
            ours = parent.startswith(self._root)
            # Above the store a directory may be closed to us, or know no fsync; then nobody like us made it.
            with told(Key("p")) if ours else contextlib.suppress(PermissionError, SyncFailedError):
                _sync_directory(parent)

    def stat(self, key: Key) -> Found | None:
        path = self._path(key)
        with told(path):
            try:
                found = os.stat(path, follow_symlinks=False)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return Found(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        path = self._path(key)
        with told(path):
            try:
                # O_NONBLOCK: what is no file (a pipe) must not make us wait for it.
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError) as error:
                message = f"there is no {key}"
                raise KeyAbsentError(message) from error
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                message = f"there is no {key}, but something that is not a file"
                raise KeyAbsentError(message)
            if key.swappable:
                _sync_directory(os.path.dirname(path))  # I2: nobody acts on a HEAD that a power loss could take back
            if length is None:
                file = open(descriptor, "rb", buffering=0)  # noqa: SIM115  (the caller closes it)
                file.seek(start)
                return file
            with open(descriptor, "rb", buffering=0) as file:
                return io.BytesIO(_read_range(file.fileno(), start, length))

    def create(self, key: Key, body: Body) -> bool:
        target = self._path(key)
        with told(target):
            temporary = self._temporary_of(body)
            try:
                self._make_directory(os.path.dirname(target))
                # Order (I1): bytes, then the name, then the directory that holds the name.
                _sync_file(temporary, unnamed=True)
                try:
                    os.link(temporary, target)
                    created = True
                except FileExistsError:
                    _sync_file(target)
                    created = False
                _sync_directory(os.path.dirname(target))
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            return created

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        path = self._path(key)
        if self.stat(key) is None:
            message = f"there is no {key}"
            raise KeyAbsentError(message)
        with told(path), _locked(_lock_of(path)):
            try:
                with open(path, "rb", buffering=0) as file:
                    current = file.read()
            except FileNotFoundError as error:
                message = f"there is no {key}"
                raise KeyAbsentError(message) from error
            if version_of(current) != expected:
                message = f"{key} has changed"
                raise VersionMismatchError(message)
            temporary = self._temporary_of(body)
            try:
                _sync_file(temporary, unnamed=True)
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            try:
                _sync_directory(os.path.dirname(path))
            except (OSError, SyncFailedError) as error:
                message = f"{key} was renamed into place, but its directory could not be synced: {error}"
                hint = "check the disk; then list the pipeline before a retry"
                raise CommitUnknownError(message, hint=hint) from error

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        with told(prefix):
            if reach is Reach.ALL:
                yield from self._walk(prefix.path)
            elif reach is Reach.FOLDERS:
                for item in _scan(self._path(prefix)):
                    if item.is_dir(follow_symlinks=False):
                        yield Folder(Key(f"{prefix}/{item.name}"))
            else:
                for item in _scan(os.path.join(self._root, TMP)):
                    yield Unfinished(Key(f"{TMP}/{item.name}"), item.name)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        for key in keys:
            named = key.key if isinstance(key, Unfinished) else key
            # Not synced: a delete that a power loss takes back leaves garbage, which the next gc finds again.
            with told(named), contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(named))

    def _walk(self, prefix: str) -> Iterator[Found]:
        for item in _scan(os.path.join(self._root, prefix)):
            path = f"{prefix}/{item.name}"
            if item.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            elif item.is_file(follow_symlinks=False) and not item.name.endswith(".lock"):
                try:
                    found = item.stat(follow_symlinks=False)
                except FileNotFoundError:  # deleted since the directory was read
                    continue
                yield Found(Key(path), found.st_size, found.st_mtime)

    def _path(self, key: Key) -> str:
        return f"{self._root}/{key.path}"

    def _temporary_of(self, body: Body) -> str:
        """A file below `tmp/` that holds `body` and is ours alone."""
        if isinstance(body, LocalFile) and body.path.parent == self.scratch:
            return str(body.path)
        temporary = f"{self._root}/{TMP}/{self._token}.{next(self._numbers)}"
        self._make_directory(os.path.dirname(temporary))
        try:
            match body:
                case LocalFile(path=path):
                    shutil.move(path, temporary)
                case CopyOf(key=source):
                    with self.open(source) as reader, open(temporary, "xb") as writer:
                        shutil.copyfileobj(reader, writer, 4 << 20)
                case _:
                    with open(temporary, "xb") as writer:
                        writer.write(body)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return temporary

    def _make_directory(self, path: str) -> None:
        """The directory exists, and its name survives a power loss."""
        if path in self._made:
            return
        missing = []
        parent = path
        while parent not in self._made and not os.path.isdir(parent):
            missing.append(parent)
            parent = os.path.dirname(parent)
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
            # Another process may have made it and died before its fsync, so ours follows in either case.
            _sync_directory(os.path.dirname(directory))
        self._made.add(path)


def _lock_of(path: str) -> str:
    return f"{path}.lock"


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """No other process or thread is in here. Raises: BusyError where one does not leave."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        for number in range(LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                threading.Event().wait(min(LOCK_PAUSE, 0.001 * float(2**number)))
        else:
            holder = _holder_of(os.fstat(descriptor).st_ino)
            raise BusyError(
                f"{path} is held by {holder}, and not let go of",
                hint=f"is {holder} stopped, or its disk? let it go on, or end it: its lock ends with it",
            )
        yield
    finally:
        os.close(descriptor)


def _holder_of(inode: int) -> str:
    """The process that has locked the file, as far as the system tells."""
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        for words in map(str.split, locks):
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f"process {words[4]}"
    return "another process"


def _read_range(descriptor: int, start: int, length: int) -> bytes:
    parts = []
    while length > 0 and (part := os.pread(descriptor, min(length, _READ_BYTES), start)):
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)


def _scan(path: str) -> list[os.DirEntry[str]]:
    """The entries of a directory sorted as S3 sorts keys: a directory counts with its `/`.

    Names that are no keys (somebody's `.DS_Store`) are nobody's business.
    """
    try:
        with os.scandir(path) as entries:
            return sorted((entry for entry in entries if is_key(entry.name)), key=_sort_key)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sort_key(entry: os.DirEntry[str]) -> str:
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _sync_file(path: str, *, unnamed: bool = False) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _fsync(descriptor, path, unnamed=unnamed)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _fsync(descriptor, path)
    finally:
        os.close(descriptor)


def _fsync(descriptor: int, path: str, *, unnamed: bool = False) -> None:
    """What is under `path` is durable. `unnamed`: nobody could trust its name yet, so a full disk is just that."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno == errno.EROFS:  # a read-only place has nothing to lose
            return
        if unnamed and error.errno in NO_SPACE:
            raise
        message = f"the disk could not make {path} durable: {error.strerror}"
        raise SyncFailedError(message, hint="check the disk; files are written again at the next try") from error
