"""The state of a generation: a pure function of its number, so that nobody has to remember what was checkpointed.

Small files, large ones that are replaced, and one that is rewritten in place: every kind of place in the store.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

SMALL = 60
TABLES = 4
PAGE_BYTES = 64 << 10
PAGES = 40


@lru_cache(maxsize=512)
def _noise(name: str, size: int) -> bytes:
    return random.Random(name).randbytes(size)


def files_of(generation: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file."""
    for number in range(SMALL):
        version = (generation + 7 * number) // (3 + number % 11)
        yield f"small/{number:03}", _noise(f"{number}.{version}", 500 + 331 * number)
    for number in range(TABLES):
        version = (generation + number) // (2 + number)
        yield f"{number}-{version:06}.sst", _noise(f"table {number}.{version}", (1 << 20) + 300_000 * number)
    yield (
        "pages.db",
        b"".join(_noise(f"page {page}.{(generation + 5 * page) // 20}", PAGE_BYTES) for page in range(PAGES)),
    )


def write(root: Path, generation: int) -> None:
    """`root` holds this generation. What is as it was keeps its inode and its time."""
    wanted = dict(files_of(generation))
    for path in [path for path in root.rglob("*") if path.is_file()]:
        if path.relative_to(root).as_posix() not in wanted:
            path.unlink()
    for name, data in wanted.items():
        path = root / name
        if path.is_file() and path.read_bytes() == data:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_bytes(data)
        temporary.replace(path)


def difference(root: Path, generation: int) -> str:
    """How what is below `root` differs from the generation; "" where it does not."""
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    wanted = dict(files_of(generation))
    if found.keys() != wanted.keys():
        return f"names: {sorted(found.keys() ^ wanted.keys())[:5]}"
    wrong = [name for name, data in wanted.items() if found[name].read_bytes() != data]
    return f"contents: {wrong[:5]}" if wrong else ""
