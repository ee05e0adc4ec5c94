"""What the file system below a path is, and whether its locks and renames can be trusted with HEAD.

The protocol needs `flock`, `link` and `rename` that are atomic between processes, and an fsync that means it.
Local file systems keep that; network ones and FUSE may not, so a store there has to be asked for, and proves
itself first: two processes race for one value, and no win may be lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from formats.errors import EoctlError, UnsafeBackendError
from storage.backend import Key, VersionMismatchError, version_of
from storage.backends.local import LocalBackend

RACE_ROUNDS = 50
RACERS = 2

_NETWORK = re.compile(
    r"(nfs\d?|cifs|smb\d?|smbfs|fuse(\..*)?|9p|afs|ceph|glusterfs|lustre|beegfs|ocfs2|gfs2|virtiofs)\Z"
)


def file_system_of(path: Path) -> str:
    """The type of the file system that holds `path` or its nearest parent, or `unknown`."""
    found = path.absolute()
    while not found.exists() and found != found.parent:
        found = found.parent
    device = os.stat(found).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            if before.split()[2] == wanted:
                return after.split()[0]
    return "unknown"


def is_network(file_system: str) -> bool:
    return _NETWORK.match(file_system) is not None


def check_file_system(backend: LocalBackend, root: Path, allow_network: bool) -> None:  # noqa: FBT001  (of Place)
    """A store may be made here.

    Raises: UnsafeBackendError on a network file system, unless it is allowed and two processes racing for a
    value lose no update.
    """
    kind = file_system_of(root)
    if not is_network(kind):
        return
    if not allow_network:
        raise UnsafeBackendError(
            f"{root} is on a network file system ({kind}), whose locks and renames may not be atomic",
            hint="choose a local disk, or try it with --allow-network-fs",
        )
    race(backend, root)


def race(backend: LocalBackend, root: Path) -> None:
    """Processes that swap one value in turn have lost no update.

    Raises: UnsafeBackendError.
    """
    key = Key("tmp/race/HEAD")
    backend.delete([key])
    backend.create(key, b"0")
    waiting, go = os.pipe()
    children = [_racer(backend, key, waiting, go) for _ in range(RACERS)]
    os.close(waiting)
    os.close(go)  # all of them start now
    failed = [os.waitpid(child, 0)[1] != 0 for child in children]
    with backend.open(key) as file:
        total = file.read()
    shutil.rmtree(root / "tmp" / "race", ignore_errors=True)
    if any(failed) or total != str(RACERS * RACE_ROUNDS).encode():
        raise UnsafeBackendError(
            "the file system loses updates of processes that race for one value",
            hint="a store here would lose checkpoints; choose a local disk",
        )


def _racer(backend: LocalBackend, key: Key, waiting: int, go: int) -> int:
    """A process that adds one to the value, as often as it takes; its exit code says whether it could."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.close(go)
        os.read(waiting, 1)
        won = 0
        while won < RACE_ROUNDS:
            with backend.open(key) as file:
                seen = file.read()
            with contextlib.suppress(VersionMismatchError):
                backend.swap(key, str(int(seen) + 1).encode(), version_of(seen))
                won += 1
        code = 0
    except (EoctlError, ValueError):
        pass
    finally:
        os._exit(code)
