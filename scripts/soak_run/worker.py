"""One process of a soak run: does one thing over and over, until it is killed or told to end.

    python -m scripts.soak_run.worker ROLE URL FOLDER SEED

What it has done goes to `FOLDER/log` as JSON, a line each, with one write: a kill loses at most the line to come.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from eoctl import CorruptError, EoctlError, Policy, SnapshotNotFoundError, open_store
from eoctl.library import PipelineHandle, StoreHandle
from scripts.soak_run.state import difference, write

PIPELINE, COPY = "soak", "soak-copy"
SOURCE = "generations"
KEPT = 6
COPIES_KEPT = 3
DAMAGE = {"corrupt", "blob-gone", "wrong-store"}


class Worker:
    """What every role has in common."""

    def __init__(self, url: str, folder: Path, seed: int) -> None:
        self.store: StoreHandle = open_store(url)
        self.folder = folder
        self.rng = random.Random(seed)
        self.stopping = False
        self._log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, event: str, **facts: object) -> None:
        os.write(self._log, json.dumps({"event": event, **facts}).encode() + b"\n")

    def go_on(self, step: Callable[[], None]) -> int:
        """Steps, until told to end. Damage ends it at once; what may pass is noted."""
        while not self.stopping:
            try:
                step()
            except CorruptError as error:
                self.note("DAMAGE", error=error.kind, message=error.message)
                return 1
            except EoctlError as error:
                self.note("trouble", error=error.kind, message=error.message)
                time.sleep(self.rng.uniform(0.05, 0.5))
        return 0

    def pipeline(self, name: str = PIPELINE) -> PipelineHandle:
        return self.store.pipeline(name)

    def generation(self, name: str, snapshot: int) -> int:
        (source,) = self.pipeline(name).inspect(snapshot).sources
        return int(source.offsets["number"])

    # Roles.

    def writer(self) -> None:
        """An attempt that commits a few checkpoints, each of a new generation."""
        try:
            newest = self.generation(PIPELINE, self.pipeline().latest().id)
        except SnapshotNotFoundError:
            newest = 0
        state = self.folder / "state"
        with self.pipeline().writer(take_over=True) as writer:
            for generation in range(newest + 1, newest + self.rng.randrange(2, 12)):
                write(state, generation)
                created = writer.checkpoint(state, offsets={SOURCE: {"number": generation}})
                self.note("checkpoint", id=created.snapshot.id, generation=generation, bytes=created.stored_bytes)
                if self.stopping:
                    return

    def collector(self) -> None:
        """gc with no patience at all: the floor rises under whoever writes."""
        name, kept = self.rng.choice([(PIPELINE, KEPT), (COPY, COPIES_KEPT)])
        if name not in {row.pipeline for row in self.store.pipelines()}:
            name, kept = PIPELINE, KEPT
        found = self.pipeline(name).gc(
            Policy(keep_last=kept), grace_seconds=self.rng.choice([0, 0, 2]), keep_trash_seconds=0
        )
        if found.dangling or found.error in DAMAGE:
            self.note("DAMAGE", error=found.error, message=found.message, dangling=len(found.dangling))
            self.stopping = True
        elif found.error:
            self.note("trouble", error=found.error, message=found.message)
        self.note("gc", pipeline=name, deleted=found.deleted_blobs, freed=found.freed_bytes)
        time.sleep(self.rng.uniform(0.0, 1.0))

    def restorer(self) -> None:
        """Some snapshot, compared byte for byte with what its generation consists of."""
        name = self.rng.choice([PIPELINE, PIPELINE, COPY])
        try:
            snapshot = self.rng.choice(self.pipeline(name).checkpoints()).id
        except (SnapshotNotFoundError, IndexError):
            time.sleep(0.2)
            return
        target = self.folder / "restored"
        shutil.rmtree(target, ignore_errors=True)
        try:
            restored = self.pipeline(name).restore(snapshot, to=target)
        except SnapshotNotFoundError:  # it went before there was a hold
            self.note("missed")
            return
        wrong = difference(target, int(restored.source_offsets[SOURCE]["number"]))
        if wrong:
            self.note("DAMAGE", error="difference", message=f"{name}@{snapshot}: {wrong}")
            self.stopping = True
        self.note("restore", pipeline=name, id=snapshot, bytes=restored.bytes)

    def forker(self) -> None:
        """The newest checkpoint goes on into the copy."""
        forked = self.pipeline().fork(COPY, "latest")
        new = [copy for copy in forked.copies if not copy.existed]
        self.note("fork", copies=len(new), bytes=forked.copied_bytes)
        time.sleep(self.rng.uniform(0.0, 1.0))


ROLES = ("writer", "collector", "restorer", "forker")


def main() -> int:
    role, url, folder, seed = sys.argv[1:]
    worker = Worker(url, Path(folder), int(seed))

    def stop(_: int, __: object) -> None:
        worker.stopping = True

    signal.signal(signal.SIGTERM, stop)
    return worker.go_on(getattr(worker, role))


if __name__ == "__main__":
    sys.exit(main())
