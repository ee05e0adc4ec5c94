"""Seeded states to take snapshots of: chains of checkpoints in which an unchanged file is a hard link.

The same arguments give the same names and bytes on every machine. `rocksdb_state.py` adds one by RocksDB.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.trees import tree_size, walk_files

PAGE_BYTES = 4096
HEAD_BYTES = 4096
FILL_BYTES = 1 << 20
PAGES_IN_A_RUN = 8
FIRST_MTIME_SECONDS = 1_704_067_200  # 2024-01-01
STEP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Chain:
    """Checkpoints 1 to `steps` of one state, each a folder below `root`."""

    root: Path
    steps: int

    @property
    def current(self) -> Path:
        """The path at which a tool sees every checkpoint: the best case for caches keyed by path."""
        return self.root / "current"

    def checkpoint(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.root / f"ckpt-{step:04d}"

    @contextmanager
    def shown(self, step: int) -> Iterator[Path]:
        """Within it the checkpoint lies at `current`; a rename, so its files keep inode and times."""
        self.checkpoint(step).rename(self.current)
        try:
            yield self.current
        finally:
            self.current.rename(self.checkpoint(step))

    def is_whole(self) -> bool:
        """Whether every checkpoint is in its place."""
        return all(self.checkpoint(step).is_dir() for step in range(1, self.steps + 1))

    def new_bytes(self, step: int) -> int:
        """Bytes of the files that the checkpoint before does not share."""
        return sum(entry.stat().st_size for entry in self._new_files(step))

    def stamp(self, step: int) -> None:
        """Gives the files that are new in this checkpoint its time, a minute after the one before.

        Generated in one second, a changed file of equal size would pass for unchanged where a tool compares
        times by the second.
        """
        seconds = FIRST_MTIME_SECONDS + step * STEP_SECONDS
        for entry in self._new_files(step):
            os.utime(entry.path, (seconds, seconds))

    def unique_allocated_bytes(self) -> int:
        """Disk space of the whole chain."""
        return tree_size(*(self.checkpoint(step) for step in range(1, self.steps + 1))).allocated_bytes

    def _new_files(self, step: int) -> Iterator[os.DirEntry[str]]:
        before = {entry.inode() for entry in walk_files(self.checkpoint(step - 1))} if step > 1 else set()
        return (entry for entry in walk_files(self.checkpoint(step)) if entry.inode() not in before)


def make_small_files(root: Path, *, files: int, steps: int, fraction: float = 0.05, seed: int = 11) -> Chain:
    """Files of 1 to 20 KB in folders of 100 subtasks each; a step writes `fraction` of them anew."""
    rng = random.Random(seed)
    chain = Chain(root, steps)
    names = [f"op-{i // 100:03d}/sub-{i % 100:03d}.bin" for i in range(files)]
    for step in range(1, steps + 1):
        changed = set(names if step == 1 else rng.sample(names, round(files * fraction)))
        for folder in sorted({name.partition("/")[0] for name in names}):
            (chain.checkpoint(step) / folder).mkdir(parents=True)
        for name in names:
            path = chain.checkpoint(step) / name
            if name in changed:
                path.write_bytes(_small_body(rng))
            else:
                path.hardlink_to(chain.checkpoint(step - 1) / name)
        chain.stamp(step)
    return chain


def make_mutable_file(root: Path, *, size_bytes: int, steps: int, fraction: float = 0.01, seed: int = 13) -> Chain:
    """One page file as of an embedded SQL store; a step rewrites `fraction` of its pages in runs."""
    rng = random.Random(seed)
    chain = Chain(root, steps)
    pages = size_bytes // PAGE_BYTES
    for step in range(1, steps + 1):
        path = chain.checkpoint(step) / "state.db"
        path.parent.mkdir(parents=True)
        if step == 1:
            with path.open("wb") as file:
                file.writelines(_page(rng) for _ in range(pages))
        else:
            shutil.copyfile(chain.checkpoint(step - 1) / "state.db", path)
            _rewrite_pages(path, pages, max(1, round(pages * fraction / PAGES_IN_A_RUN)), rng)
        chain.stamp(step)
    return chain


def make_tables(
    root: Path,
    *,
    files: int,
    file_bytes: int,
    steps: int,
    new_files: int,
    filled: bool = False,
    seed: int = 17,
) -> Chain:
    """Immutable tables NNNNNN.sst, each a distinct 4 KiB head, then a hole, or noise where `filled`.

    A step adds `new_files` and drops as many old ones, as a compaction does.
    """
    rng = random.Random(seed)
    chain = Chain(root, steps)
    live = list(range(1, files + 1))
    written = 0
    for step in range(1, steps + 1):
        if step > 1:
            dropped = set(rng.sample(live, new_files))
            live = [number for number in live if number not in dropped]
            live.extend(range(written + 1, written + new_files + 1))
        folder = chain.checkpoint(step)
        folder.mkdir(parents=True)
        for number in live:
            name = f"{number:06d}.sst"
            if number > written:
                _write_table(folder / name, file_bytes, rng, filled=filled)
            else:
                os.link(chain.checkpoint(step - 1) / name, folder / name)
        written = live[-1]
        chain.stamp(step)
    return chain


def _rewrite_pages(path: Path, pages: int, runs: int, rng: random.Random) -> None:
    with path.open("r+b") as file:
        for _ in range(runs):
            file.seek(rng.randrange(max(1, pages - PAGES_IN_A_RUN)) * PAGE_BYTES)
            file.writelines(_page(rng) for _ in range(PAGES_IN_A_RUN))


def _write_table(path: Path, size_bytes: int, rng: random.Random, *, filled: bool) -> None:
    with path.open("wb") as file:
        file.write(rng.randbytes(min(HEAD_BYTES, size_bytes)))
        while filled and file.tell() < size_bytes:
            file.write(rng.randbytes(min(FILL_BYTES, size_bytes - file.tell())))
        file.truncate(size_bytes)


def _small_body(rng: random.Random) -> bytes:
    """Half random, half text that repeats: small state compresses to about two thirds."""
    size = rng.randint(1000, 20_000)
    noise = rng.randbytes(size)
    return b"".join(noise[i : i + 32] + b'{"offset":1234,"partition":7,..}' for i in range(0, size, 64))[:size]


def _page(rng: random.Random) -> bytes:
    halves = struct.unpack("32s" * (PAGE_BYTES // 64), rng.randbytes(PAGE_BYTES // 2))
    return b"".join(half + b"row:0000;status=ok;amount=000042" for half in halves)
