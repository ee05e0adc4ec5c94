"""Any directory as a source: regular files below it, as they are.

Symbolic links, devices, sockets and pipes are refused rather than skipped: a checkpoint that silently lacks
something is worse than none. Hard links are normal here (engines' own checkpoints are made of them).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

from msgspec import Struct

from eoctl.engines.source import Captured
from formats.errors import BadNameError, UsageError
from formats.manifest import Engine
from formats.names import MAX_NAME_PARTS
from storage.files import stamp_of as stamp_of  # noqa: PLC0414  (its home is below; sources use it here)
from storage.os_errors import translated
from storage.packing import SourceFile

_SECOND_NS = 1_000_000_000
_COARSE_NS = 10_000_000


class DirectorySource(Struct, frozen=True):
    """Everything below `path`."""

    path: Path

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        yield capture_tree(self.path, Engine(kind="directory"))


def capture_tree(root: Path, engine: Engine) -> Captured:
    """The files below `root`, sorted by name, and the directories that hold nothing.

    Raises: UsageError, BadNameError, AccessDeniedError.
    """
    files: list[SourceFile] = []
    empty: list[str] = []
    now = tick_ns()
    try:
        if not root.is_dir():
            message = f"no such directory: {root}"
            raise UsageError(message, hint="name a directory, rocksdb:DIR or sqlite:FILE")
        _walk(str(root), "", files, empty, now)
    except OSError as error:
        raise translated(error, root) from error
    files.sort(key=attrgetter("name"))
    return Captured(engine=engine, root=root, files=tuple(files), empty_directories=tuple(sorted(empty)))


def source_file(name: str, found: os.stat_result, now_ns: int) -> SourceFile:
    """A file as `found` by a listing that began at `now_ns` of the clock that stamps files."""
    modified = found.st_mtime_ns
    # Two seconds are more than any file system's granularity: of older files it need not be found out.
    settled = modified + 2 * _SECOND_NS <= now_ns or modified + _granularity_ns(modified) <= now_ns
    return SourceFile(name, found.st_size, f"{found.st_dev:x}.{found.st_ino:x}.{modified:x}", settled)


def tick_ns() -> int:
    """Now, by the clock that the kernel stamps files with, which advances in ticks of some milliseconds."""
    if hasattr(time, "CLOCK_REALTIME_COARSE"):
        return time.clock_gettime_ns(time.CLOCK_REALTIME_COARSE)
    return time.clock_gettime_ns(time.CLOCK_REALTIME) - _COARSE_NS


def _granularity_ns(mtime_ns: int) -> int:
    """How long a later write may go unseen: a file system that keeps whole seconds shows by its zeros."""
    if mtime_ns % _SECOND_NS == 0:
        return 2 * _SECOND_NS
    return _COARSE_NS if mtime_ns % _COARSE_NS == 0 else 1


def _walk(root: str, prefix: str, files: list[SourceFile], empty: list[str], now_ns: int) -> None:
    if prefix.count("/") > MAX_NAME_PARTS:
        message = f"the source is deeper than {MAX_NAME_PARTS} directories: {prefix[:200]!r}"
        raise BadNameError(message, hint="flatten it; nothing was taken in")
    entries = 0
    with os.scandir(f"{root}/{prefix}") as listing:
        for entry in listing:
            entries += 1
            name = prefix + entry.name
            if entry.is_file(follow_symlinks=False):
                files.append(source_file(name, entry.stat(follow_symlinks=False), now_ns))
            elif entry.is_dir(follow_symlinks=False):
                _walk(root, f"{name}/", files, empty, now_ns)
            else:
                kind = "a symbolic link" if entry.is_symlink() else "a device, socket or pipe"
                message = f"the source holds {kind}: {name!r}"
                raise BadNameError(message, hint="take it out, or name the directory that it points to")
    if entries == 0 and prefix:
        empty.append(prefix.rstrip("/"))
