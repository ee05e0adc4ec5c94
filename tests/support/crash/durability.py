"""What a log of system calls must show, whatever the disk does later: everything that is relied on is synced first.

Objects, then their directories, then the manifest, its directory, HEAD, its directory, success.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tests.support.crash.disk import Disk
from tests.support.crash.tracing import Call

_VALUE = r"[0-9a-f]{64}\.\d+\Z"
_FOLDERS = re.compile(rf"\A(?!.*/[om]/.*{_VALUE})")
_BLOBS = re.compile(rf"\A(?!.*/m/{_VALUE})")
_ALL = re.compile("")


def faults(disk: Disk, calls: Sequence[Call], disk_root: Path, *, acknowledged: bool) -> list[str]:
    """Where the order is broken, in words. The disk has played the calls afterwards.

    A value that the dead left unsynced counts from when it may be named: blobs by a manifest of these calls, and
    both by a HEAD that comes after it. An unsynced folder always counts.
    """
    found = []
    counts = _FOLDERS
    for call in calls:
        target = _named_by(call, disk_root)
        if target is not None:
            source = str(Path(call.paths[0]).relative_to(disk_root))
            if not disk.bytes_synced(source):
                found.append(f"{target} gets its name before its bytes are synced")
            if "/m/" in target:
                counts = _BLOBS
            if "/m/" in target or target.endswith("/HEAD"):
                found += [f"{target} is there before {name} is synced" for name in _unsynced(disk, counts)]
            if "/m/" in target:
                counts = _ALL
        disk.play(call)
    if acknowledged:
        found += [f"success is told before {name} is synced" for name in _unsynced(disk, counts)]
    return found


def is_advisory(path: str) -> bool:
    """No answer depends on it: temporary files, pins, locks."""
    parts = Path(path).parts
    return "tmp" in parts or "pin" in parts or path.endswith(".lock")


def _named_by(call: Call, disk_root: Path) -> str | None:
    """The blob, manifest, HEAD or store.json that gets its name by this call."""
    if call.name not in {"link", "linkat", "rename", "renameat", "renameat2"} or call.returned != 0:
        return None
    target = str(Path(call.paths[1]).relative_to(disk_root))
    return None if is_advisory(target) else target


def _unsynced(disk: Disk, counts: re.Pattern[str]) -> list[str]:
    """What a power cut could still take back of that which counts."""
    paths = {disk.path_of(number) for number in disk.unsynced()}
    return sorted(path for path in paths if path and not is_advisory(path) and counts.search(path))
