"""The state that writers take checkpoints of: small files that change partly each hour, and now and then a large one.

Contents come from a small stock, so that equal ones meet: of rivals, of different hours, of what was garbage before.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

import storage.files
from eoctl.engines.source import Captured
from formats.ids import HashAlgorithm
from formats.manifest import Engine
from storage.packing import SourceFile

_TINY, _SMALL, _LARGE = (100, 1500, 4000), (5_000, 9_000, 20_000), ((1 << 20) + 70_000,)
_NAMES = {"t0": _TINY, "t1": _TINY, "s0": _SMALL, "s1": _SMALL, "s2": _SMALL, "d/s3": _SMALL}
_LARGE_NAMES = ("x.sst", "y.db")
_VARIANTS = 12
_BUSY = 0.25  # of the hours
_CHANGES = (0.05, 0.6)  # of the files, in a quiet hour and in a busy one
_FIRST_NS = 1_600_000_000_123_456_789


class Stock:
    """Contents by number of bytes and variant, and their digests."""

    def __init__(self, algorithm: HashAlgorithm) -> None:
        self._hash = algorithm
        self._made: dict[tuple[int, int], tuple[bytes, str]] = {}

    def take(self, size: int, variant: int) -> tuple[bytes, str]:
        key = (size, variant)
        if key not in self._made:
            rng = random.Random(f"{size} {variant}")
            half = size // 2 if variant % 3 == 0 else size  # some can be compressed
            data = rng.randbytes(half) + bytes(size - half)
            if size >= 1 << 20:
                data = random.Random(f"{size}").randbytes(size - 60_000) + rng.randbytes(60_000)
            self._made[key] = data, self._hash.digest(data)
        return self._made[key]


class Snapshot(Struct, frozen=True):
    """The files of a tree at one moment, as a source."""

    root: Path
    files: tuple[SourceFile, ...]
    contents: dict[str, bytes]
    digests: dict[str, str]

    @contextmanager
    def capture(self) -> Iterator[Captured]:
        yield Captured(engine=Engine(kind="directory"), root=self.root, files=self.files)


class Tree:
    """The working state of one writer: files below `root`."""

    def __init__(self, root: Path, stock: Stock, rng: random.Random, *, large: bool) -> None:
        self.root = root
        self._stock = stock
        self._rng = rng
        self._large = large
        self._files: dict[str, tuple[bytes, str]] = {}
        self._listed: dict[str, SourceFile] = {}
        self._written = 0
        (root / "d").mkdir(parents=True)
        for name, sizes in _NAMES.items():
            self._put(name, sizes)

    def snapshot(self) -> Snapshot:
        """The state as it is now; it may have changed when it is read."""
        contents = {name: data for name, (data, _) in self._files.items()}
        digests = {name: digest for name, (_, digest) in self._files.items()}
        return Snapshot(self.root, tuple(self._listed[name] for name in sorted(self._listed)), contents, digests)

    def change(self) -> None:
        """An hour has passed."""
        rng = self._rng
        changes = _CHANGES[rng.random() < _BUSY]
        for name, sizes in _NAMES.items():
            if rng.random() < changes:
                if name in self._files and rng.random() < 0.1:
                    self._drop(name)
                else:
                    self._put(name, sizes)
        if self._large and rng.random() < 0.02:
            name = rng.choice(_LARGE_NAMES)
            if name in self._files and rng.random() < 0.5:
                self._drop(name)
            else:
                self._put(name, _LARGE)

    def _put(self, name: str, sizes: tuple[int, ...]) -> None:
        rng = self._rng
        data, digest = self._stock.take(rng.choice(sizes), rng.randrange(_VARIANTS))
        path = self.root / name
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        self._written += 1
        moment = _FIRST_NS + self._written * 1_000_003
        os.utime(path, ns=(moment, moment))
        self._files[name] = data, digest
        self._listed[name] = SourceFile(name, len(data), f"{moment:x}", settled=True)

    def _drop(self, name: str) -> None:
        (self.root / name).unlink()
        del self._files[name], self._listed[name]


@contextmanager
def steady_stamps() -> Iterator[None]:
    """Files are known by size and time only: numbers of devices and inodes are not the same in every run."""
    real = storage.files.stamp_of
    storage.files.stamp_of = lambda found: f"{found.st_mtime_ns:x}"
    try:
        yield
    finally:
        storage.files.stamp_of = real


def compare(root: Path, contents: dict[str, bytes]) -> tuple[str, ...]:
    """The names below `root` that are not there, not wanted, or not what they should be."""
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    return tuple(sorted(name for name in found.keys() | contents.keys() if found.get(name) != contents.get(name)))
