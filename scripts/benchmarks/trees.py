"""Trees of files: how many bytes they hold, and whether two of them are equal. Holes are never read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeSize:
    """`logical_bytes` by file length, `allocated_bytes` by blocks on disk; a hard-linked file counts once."""

    files: int
    logical_bytes: int
    allocated_bytes: int


def walk_files(root: Path) -> Iterator[os.DirEntry[str]]:
    """Every file below `root` that is not a directory, in no order."""
    pending = [str(root)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry


def tree_size(*roots: Path) -> TreeSize:
    """The size of all roots together; a root that does not exist is empty."""
    seen: set[int] = set()
    logical = allocated = 0
    for root in roots:
        for entry in walk_files(root) if root.exists() else ():
            found = entry.stat(follow_symlinks=False)
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                logical += found.st_size
                allocated += found.st_blocks * 512
    return TreeSize(files=len(seen), logical_bytes=logical, allocated_bytes=allocated)


def tree_difference(expected: Path, actual: Path) -> str:
    """Empty if both hold the same names with the same bytes, else one sentence about the first difference."""
    if not actual.is_dir():
        return "nothing was restored"
    wanted = {os.path.relpath(entry.path, expected) for entry in walk_files(expected)}
    got = {os.path.relpath(entry.path, actual) for entry in walk_files(actual)}
    if wanted != got:
        name = min(wanted ^ got)
        return f"{'not restored' if name in wanted else 'not in the source'}: {name}"
    for name in sorted(wanted):
        if not _same_bytes(expected / name, actual / name):
            return f"restored differently: {name}"
    return ""


def _same_bytes(left: Path, right: Path) -> bool:
    with left.open("rb", buffering=0) as a, right.open("rb", buffering=0) as b:
        size = os.fstat(a.fileno()).st_size
        if os.fstat(b.fileno()).st_size != size:
            return False
        position = 0
        while (position := min(_next_data(a.fileno(), position, size), _next_data(b.fileno(), position, size))) < size:
            block = os.pread(a.fileno(), BLOCK_BYTES, position)
            if block != os.pread(b.fileno(), BLOCK_BYTES, position):
                return False
            position += len(block)
    return True


def _next_data(descriptor: int, position: int, size: int) -> int:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError:  # ENXIO: nothing but a hole up to the end
        return size
