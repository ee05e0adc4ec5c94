"""A directory of this process for files on their way to a store that is not on this host.

It is gone at the end of the process. What a killed process left is removed by the next one that makes such a
directory: nobody holds its lock any more.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from storage.os_errors import told

_PREFIX = "eoctl-scratch-"


def scratch_directory() -> Path:
    """A new, empty directory that nobody else can look into; of the process that asks, not of its children.

    Raises: NoSpaceError, AccessDeniedError, UnavailableError.
    """
    with told("a temporary directory (TMPDIR)"):
        _clear_leftovers(Path(tempfile.gettempdir()))
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            lock = locked(path)
            if lock is not None:
                atexit.register(_remove, path, lock, os.getpid())
                return path


def locked(path: Path) -> int | None:
    """The lock of a new directory; None where somebody took it for a leftover before it was locked."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    fcntl.flock(lock, fcntl.LOCK_EX)
    if path.exists():
        return lock
    os.close(lock)
    return None


def _remove(path: Path, lock: int, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _clear_leftovers(parent: Path) -> None:
    for leftover in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)
