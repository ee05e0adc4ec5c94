"""One run: the store, everybody on it, the end without faults, and what came of it."""

from __future__ import annotations

import gc
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from eoctl.selftest.actors import (
    Collector,
    Editor,
    Figures,
    Restorer,
    Writer,
    restore_one,
    run_gc,
    take_checkpoint,
)
from eoctl.selftest.faults import Fault
from eoctl.selftest.oracle import Violation
from eoctl.selftest.report import Report
from eoctl.selftest.states import Stock, Tree, steady_stamps
from eoctl.selftest.wire import DAY, HOUR
from eoctl.selftest.world import Process, World
from eoctl.services.gc import Options
from eoctl.services.resolve import resolve
from eoctl.services.writers import writing
from formats.canonical import encode
from formats.errors import EoctlError
from formats.head import roots
from formats.ids import HashAlgorithm, PipelineId
from storage import layout
from storage.store import StoreRecord
from storage.transfer import alone

PIPELINES = 6
WRITERS = 8  # so two pipelines have two each
COLLECTORS = 2
RESTORERS = 2
MEMORY = Path("/dev/shm")  # noqa: S108  (a place for scratch files, each below a directory of our own)


def simulate(seed: int, hours: int, prepare: Callable[[World], None] = lambda _: None) -> Report:
    """So many hours of the life of a store. The same seed and hours give the same run, call for call.

    `prepare` may change the world before it begins.
    """
    base = MEMORY if MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="eoctl-selftest-", dir=base))
    try:
        with steady_stamps(), alone():
            return _Run(seed, hours, folder, prepare).report()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        gc.collect()  # worlds hold each other, and many runs follow one another


class _Run:
    def __init__(self, seed: int, hours: int, folder: Path, prepare: Callable[[World], None]) -> None:
        (folder / "scratch").mkdir()
        (folder / "restored").mkdir()
        record = StoreRecord(
            format="eoctl.store",
            version=1,
            id=f"{1:032x}",
            hash=HashAlgorithm.BLAKE3,
            created_at="2026-01-01T00:00:00.000Z",
            features=(),
        )
        self.seed = seed
        self.hours = hours
        self.world = World(seed, folder / "scratch", record)
        self.world.memory.create(layout.STORE, encode(record))
        self.figures = Figures()
        self.pipelines = [PipelineId(f"pipeline-{number}") for number in range(PIPELINES)]
        self.trees: list[Tree] = []
        self._folder = folder
        prepare(self.world)
        self._populate()

    def report(self) -> Report:
        violation = ""
        try:
            self._live()
            self._settle()
        except Violation as error:
            violation = str(error)
        except EoctlError as error:
            violation = f"I8: without faults: {error}"
        finally:
            self.world.scheduler.close()
        done = self.figures.done
        faults = self.world.faults
        return Report(
            seed=self.seed,
            hours=self.hours,
            calls=self.world.calls,
            commits=self.world.oracle.commits,
            restores=done["restore"],
            gc_runs=done["gc"],
            deletes=self.world.oracle.deleted,
            packs_rewritten=done["packs written again"],
            steps=self.world.oracle.checks,
            faults={fault.value: faults[fault] for fault in Fault},
            outcomes=dict(sorted((self.figures.done + self.figures.failed).items())),
            violation=violation,
            trace=tuple(self.world.tail) if violation else (),
            trace_hash=self.world.trace_hash,
        )

    def _populate(self) -> None:
        world, end = self.world, self.hours * HOUR
        stock = Stock(world.record.hash)
        for number in range(WRITERS):
            tree = Tree(self._folder / f"state-{number}", stock, world.rng, large=number < 2)
            self.trees.append(tree)
            pipeline = self.pipelines[number % PIPELINES]
            lives_on = number % 3 > 0
            about = (world, self.figures, f"writer{number}", number + 1, HOUR, end)
            Writer(*about, pipeline=pipeline, tree=tree, lives_on=lives_on).start()
        for number in range(COLLECTORS):
            # The first gc runs on the host of the first writer, so that it sees its processes live.
            about = (world, self.figures, f"gc{number}", 1 if number == 0 else 50 + number, 6 * HOUR, end)
            Collector(*about, pipelines=self.pipelines).start()
        for number in range(RESTORERS):
            about = (world, self.figures, f"restorer{number}", 60 + number, DAY, end)
            Restorer(*about, pipelines=self.pipelines).start()
        Editor(world, self.figures, "editor", 70, 3 * HOUR, end, pipelines=self.pipelines).start()

    def _live(self) -> None:
        for _ in range(self.hours):
            self.world.scheduler.sleep(HOUR)
            self._raise()

    def _raise(self) -> None:
        if self.world.scheduler.failure is not None:
            raise self.world.scheduler.failure

    def _settle(self) -> None:
        """I8, I9: without faults everything works, and two gc runs leave no garbage below the floor."""
        world = self.world
        world.scheduler.drain()
        self._raise()
        world.settle()
        for number, pipeline in enumerate(self.pipelines):
            process = Process(world, "last writer", 80)
            with writing(process.store, pipeline, take_over=True) as opened:
                take_checkpoint(world, self.figures, opened, self.trees[number])
        for repack in (True, False):
            world.scheduler.sleep(7 * HOUR)
            process = Process(world, "gc last", 81)
            run_gc(world, self.figures, process.store, self.pipelines, Options(repack=repack, expect=1 << 30))
        for pipeline in self.pipelines:
            left = world.oracle.garbage(pipeline)
            if left:
                raise Violation(f"I9: two gc runs left {len(left)} files below the floor, {left[0]} among them")
            process = Process(world, "last restorer", 82)
            head = process.store.head(pipeline).head
            for root in {entry.txid: entry for entry in roots(head)}.values():
                resolved = resolve(process.store, f"{pipeline}@{root.label}")
                restore_one(world, self.figures, process.store, resolved, f"last.{pipeline}.{root.label}")
