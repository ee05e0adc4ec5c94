"""Bit flips: every bit of what the snapshots of a tiny store need, turned over one at a time.

    python -m tests.hostile.flips --count 100000 --seed 1

For each: `verify --level full` (the service) must report damage and name every snapshot that cannot be restored; a
restore must fail and leave no target, or give the right bytes. Positions are drawn without replacement from all bits
of HEAD, manifests and blobs; `--start` goes on where an earlier run with the same seed ended.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from eoctl.services.verify import verify
from formats.errors import BlobGoneError, CorruptError, EoctlError
from formats.head import Head, HeadEntry, roots
from formats.ids import BlobKey
from formats.manifest import Blocks, Slice, StateFile, Table, Whole, blob_key, files_of
from storage import layout
from storage.backend import Key
from storage.backends.memory import MemoryBackend
from storage.blobs import Blobs
from storage.store import Store
from storage.transfer import alone
from tests.hostile.specimen import CONTENTS, PIPELINE, specimen

# What became of one flip, for the snapshot that was restored.
REFUSED = "refused"  # the restore failed with an error of ours
ABSENT = "no such snapshot"  # HEAD does not name it any more
UNHARMED = "right bytes"  # restored as it was committed
UNSEEN = "NOT REPORTED"  # verify found nothing
WRONG = "WRONG BYTES"
UNNAMED = "NOT NAMED"  # verify does not name a snapshot whose restore failed
LITTER = "LITTER"  # a failed restore left something behind
FAULTS = (UNSEEN, WRONG, UNNAMED, LITTER)


class Specimen:
    """The store with all its values, and who needs which byte."""

    def __init__(self, scratch: Path) -> None:
        self.store = specimen(scratch / "store")
        assert isinstance(self.store.backend, MemoryBackend)
        self.backend = self.store.backend
        self.scratch = scratch
        self.values = dict(self.backend._values)
        self.head = self.store.head(PIPELINE).head
        self.users: dict[str, list[tuple[int, int, str]]] = {}  # key -> start, stop, label
        self.kinds: dict[str, str] = {layout.head(PIPELINE).path: "HEAD"}
        for entry in roots(self.head):
            self._add(self.head, entry)
        self.keys = sorted(self.kinds)
        self.ends = list(accumulate(8 * len(self.values[key][0]) for key in self.keys))

    def position(self, number: int) -> tuple[str, int]:
        """The stored value and the bit in it that this number stands for."""
        index = bisect_right(self.ends, number)
        return self.keys[index], number - (self.ends[index - 1] if index else 0)

    def labels(self, key: str, byte: int) -> list[str]:
        """The snapshots that need this byte."""
        return sorted({label for start, stop, label in self.users.get(key, ()) if start <= byte < stop})

    def flip(self, key: str, bit: int) -> None:
        data = bytearray(self.values[key][0])
        data[bit // 8] ^= 1 << bit % 8
        self.backend._values[key] = (bytes(data), 0.0)

    def heal(self) -> None:
        self.backend._values = dict(self.values)

    def _add(self, head: Head, entry: HeadEntry) -> None:
        label = entry.label
        name = layout.manifest(PIPELINE, BlobKey.parse(entry.manifest))
        self._need(name, 0, entry.manifest_bytes, label, "manifest")
        self._need(layout.head(PIPELINE), 0, 1 << 30, label, "HEAD")
        reader = Blobs(self.store.backend, PIPELINE, self.store.hash)
        for _, _, file in files_of(self.store.manifest(head, entry)):
            if isinstance(file.place, Blocks):
                for table in file.place.tables:
                    self._stored(table, label, "pack with blocks")
                    for block in reader.table(table):
                        name = layout.blob(PIPELINE, block.pack)
                        self._need(name, block.offset, block.offset + block.length, label, "pack with blocks")
            else:
                self._stored(file, label, "pack of files")

    def _stored(self, file: StateFile | Table, label: str, pack: str) -> None:
        match file.place:
            case Whole(codec=codec) as place:
                self._need(layout.blob(PIPELINE, blob_key(file, place)), 0, 1 << 30, label, f"whole, {codec}")
            case Slice(pack=key, offset=offset, length=length):
                name = layout.blob(PIPELINE, BlobKey.parse(key))
                self._need(name, offset, offset + length, label, pack)

    def _need(self, name: Key, start: int, stop: int, label: str, kind: str) -> None:
        self.users.setdefault(name.path, []).append((start, stop, label))
        self.kinds.setdefault(name.path, kind)


def try_flip(specimen: Specimen, key: str, bit: int, rng: random.Random) -> str:
    """What became of this one flip; the store is as it was afterwards."""
    labels = specimen.labels(key, bit // 8)
    label = rng.choice(labels or sorted(CONTENTS))
    specimen.flip(key, bit)
    try:
        with alone():  # so small a store costs less than the threads
            named = reported(specimen.store, specimen.scratch)
            outcome = restored(specimen.store, label, specimen.scratch)
    finally:
        specimen.heal()
    if outcome in {WRONG, LITTER}:
        return outcome
    if named is None:
        return UNSEEN
    if outcome == REFUSED and named and f"{PIPELINE}@{label}" not in named:
        return UNNAMED
    return outcome


def reported(store: Store, scratch: Path) -> frozenset[str] | None:
    """The snapshots that verify names as hurt, empty where it says that none can be read; None: it finds nothing."""
    try:
        done = verify(store, PIPELINE, None, "full", scratch=scratch)
    except EoctlError:
        return frozenset()
    if not done.damaged:
        return None
    if any(found.name == "HEAD" for found in done.damaged):
        return frozenset()
    # Damage that hurts nobody names nobody; then no restore may fail.
    return frozenset().union(*(found.snapshots for found in done.damaged)) or frozenset({"nobody"})


def restored(store: Store, label: str, scratch: Path) -> str:
    target = scratch / "work" / "target"
    target.parent.mkdir(exist_ok=True)
    try:
        restore(store, resolve(store, f"{PIPELINE}@{label}"), target)
    except EoctlError as error:
        if any(target.parent.iterdir()):
            return LITTER
        return REFUSED if isinstance(error, CorruptError | BlobGoneError) else ABSENT
    found = {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    shutil.rmtree(target)
    return UNHARMED if found == CONTENTS[label] else WRONG


def run(count: int, seed: int, scratch: Path, start: int = 0) -> Iterator[tuple[str, int, str, str]]:
    """For each flip: key, bit, kind of value, what became of it."""
    specimen = Specimen(scratch)
    total = specimen.ends[-1]
    numbers = random.Random(f"flips {seed}").sample(range(total), min(total, start + count))[start:]
    for number in numbers:
        key, bit = specimen.position(number)
        rng = random.Random(f"flip {seed} {number}")
        yield key, bit, specimen.kinds[key], try_flip(specimen, key, bit, rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    tally: Counter[tuple[str, str]] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        for key, bit, kind, outcome in run(options.count, options.seed, Path(scratch), options.start):
            tally[kind, outcome] += 1
            if outcome in FAULTS:
                faults.append(f"{outcome}: bit {bit} of {key}")
    for kind in sorted({kind for kind, _ in tally}):
        parts = ", ".join(f"{outcome} {n}" for (k, outcome), n in sorted(tally.items()) if k == kind)
        total = sum(n for (k, _), n in tally.items() if k == kind)
        sys.stdout.write(f"{kind:18} {total:7} flips: {parts}\n")
    sys.stdout.write(f"{'all':18} {tally.total():7} flips, {len(faults)} faults\n")
    for fault in faults[:100]:
        sys.stdout.write(f"{fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
