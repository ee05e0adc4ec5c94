"""Who acts on the store: writers, gcs, restorers, and those who delete, hold and bring back. All by the real services.

Each keeps to a timetable, with a new process for each job (some writers live on for many). A process that is stopped
for days gets a successor at once, and goes on beside it when it wakes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable

from eoctl.selftest.faults import Crash
from eoctl.selftest.oracle import Violation
from eoctl.selftest.states import Tree, compare
from eoctl.selftest.wire import DAY, HOUR
from eoctl.selftest.world import Process, World
from eoctl.services import entries
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.gc import Options, collect
from eoctl.services.resolve import Resolved, resolve
from eoctl.services.restore import restore
from eoctl.services.retention import Policy
from eoctl.services.writers import writing
from formats.errors import CommitUnknownError, EoctlError, FencedError
from formats.head import Head, roots
from formats.ids import PipelineId
from storage.store import Store
from storage.transfer import alone

TRIES = 5  # of one job, as a supervisor would
_EDITS = ("delete", "delete", "undelete", "undelete", "hold", "legal hold", "release", "release all", "tag")
HASTY = 0.4  # of the gc runs know no grace and advance more than once
PINLESS = 0.6  # of the checkpoints are taken while pins vanish
SPREAD = 120.0  # seconds within which jobs of an hour begin, mostly


class Figures:
    """What was done, for the report."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()

    def note(self, what: str, error: BaseException | None = None) -> None:
        if error is None:
            self.done[what] += 1
        else:
            self.failed[f"{what}: {error.kind if isinstance(error, EoctlError) else 'killed'}"] += 1


class Actor:
    """A line of processes of one kind on one host."""

    def __init__(self, world: World, figures: Figures, name: str, host: int, period: float, end: float) -> None:
        self.world = world
        self.figures = figures
        self.name = name
        self.host = host
        self.period = period
        self.end = end

    def start(self) -> None:
        self.world.scheduler.spawn(self.name, self._loop, self._next())

    def job(self, process: Process) -> None:
        raise NotImplementedError

    def _next(self) -> float:
        """Seconds to the next job: at its hour, or not."""
        rng, now = self.world.rng, self.world.scheduler.now
        due = (now // self.period + 1) * self.period
        late = rng.random() * (SPREAD if rng.random() < 0.7 else self.period)
        return due - now + late

    def _loop(self) -> None:
        scheduler = self.world.scheduler
        with alone():
            while scheduler.now < self.end:
                process = self.process()
                pause = self._next
                try:
                    self.job(process)
                except Crash as error:
                    self.figures.note(self.name.rstrip("0123456789"), error)
                    pause = self._restart
                if process.stopped:
                    return
                scheduler.sleep(pause())

    def _restart(self) -> float:
        """Seconds until somebody has noticed that the process died."""
        return min(self.world.rng.uniform(60, HOUR), self.period)

    def process(self) -> Process:
        return Process(self.world, self.name, self.host, self._replace)

    def _replace(self) -> None:
        self.world.scheduler.spawn(self.name, self._loop, self.world.rng.uniform(60, HOUR))


class Writer(Actor):
    """Takes a checkpoint every hour, as one long process or as one process each."""

    def __init__(self, *args: object, pipeline: PipelineId, tree: Tree, lives_on: bool, **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # what an actor takes
        self.pipeline = pipeline
        self.tree = tree
        self.lives_on = lives_on

    def job(self, process: Process) -> None:
        for number in range(TRIES):
            if number:
                process.wait(self.world.rng.uniform(1, 100))
            try:
                with writing(process.store, self.pipeline, take_over=True) as opened:
                    self.take(opened)
                    while self.lives_on and not process.stopped and self.world.scheduler.now < self.end:
                        self.world.scheduler.sleep(self._next())
                        self.take(opened)
            except EoctlError as error:
                self.figures.note("open", error)
                if process.stopped or isinstance(error, FencedError):
                    return  # another one has taken over; the pipeline is ours again in an hour
            else:
                return

    def take(self, opened: Opened) -> None:
        """One checkpoint, tried again as long as that makes sense."""
        self.tree.change()
        if self.world.rng.random() < PINLESS:
            self.world.scheduler.at(self.world.rng.uniform(0, 30), self.world.drop_pins)
        for number in range(TRIES):
            if number:
                opened.store.ambient.wait(self.world.rng.uniform(1, 100))
            try:
                take_checkpoint(self.world, self.figures, opened, self.tree)
            except EoctlError as error:
                if number == TRIES - 1 or error.exit_code == 12:
                    raise
            else:
                return


def take_checkpoint(world: World, figures: Figures, opened: Opened, tree: Tree) -> None:
    """What is reported of it is told to the oracle."""
    state = tree.snapshot()
    number, tag = world.oracle.new_try(opened.pipeline, state.contents, state.digests)
    request = Request(parts=(Part(source=state),), tags=(tag,), reread=world.rng.random() < 0.1)
    try:
        create_checkpoint(opened, request)
    except CommitUnknownError as error:
        figures.note("checkpoint", error)
        raise
    except EoctlError as error:
        figures.note("checkpoint", error)
        world.oracle.report(number, success=False)
        raise
    figures.note("checkpoint")
    world.oracle.report(number, success=True)


class Collector(Actor):
    """`eoctl gc` over all pipelines, with policies that differ."""

    def __init__(self, *args: object, pipelines: list[PipelineId], **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # what an actor takes
        self.pipelines = pipelines

    def job(self, process: Process) -> None:
        rng = self.world.rng
        hasty = rng.random() < HASTY
        options = Options(
            policy=Policy(keep_last=rng.choice((1, 2, 3)), keep_daily=rng.choice((0, 0, 0, 1))),
            grace_seconds=0 if hasty else rng.choice((int(6 * HOUR), int(6 * HOUR), 60)),
            keep_trash_seconds=0 if hasty else rng.choice((int(6 * HOUR), int(HOUR), 0)),
            repack=rng.random() < 0.9,
            expect=1 << 30,
        )
        try:
            pipelines = rng.sample(self.pipelines, len(self.pipelines))
            run_gc(self.world, self.figures, process.store, pipelines, options)
        except EoctlError as error:
            self.figures.note("gc", error)


def run_gc(world: World, figures: Figures, store: Store, pipelines: list[PipelineId], options: Options) -> None:
    """Nothing that it says is missing is needed and missing."""
    run = collect(store, pipelines, options)
    figures.note("gc")
    for row in run.pipelines:
        figures.done["gc of a pipeline"] += not row.error
        figures.failed["gc of a pipeline"] += bool(row.error)
        figures.done["deletes"] += row.deleted_blobs
        figures.done["packs written again"] += row.repacked_packs
        if row.dangling:
            raise Violation(f"I1: gc misses {row.dangling[0].key} of {row.dangling[0].snapshots}")
    world.scheduler.sleep(0.0)


class Restorer(Actor):
    """Restores some snapshot, and looks at every byte."""

    def __init__(self, *args: object, pipelines: list[PipelineId], **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # what an actor takes
        self.pipelines = pipelines
        self._number = 0

    def job(self, process: Process) -> None:
        rng = self.world.rng
        pipeline = rng.choice(self.pipelines)
        for _ in range(TRIES):
            try:
                resolved = choose(self.world, process.store, pipeline)
                if resolved is None:
                    return
                self._number += 1
                restore_one(
                    self.world, self.figures, process.store, resolved, f"{self.name}.{process.name}.{self._number}"
                )
            except EoctlError as error:
                self.figures.note("restore", error)
                process.wait(rng.uniform(1, 100))
            else:
                return


def choose(world: World, store: Store, pipeline: PipelineId) -> Resolved | None:
    """Some root as HEAD shows it, the newest more often."""
    head = store.head(pipeline)
    known = list(dict.fromkeys(entry.label for entry in roots(head.head)))
    if not known:
        return None
    label = "latest" if head.head.live and world.rng.random() < 0.5 else world.rng.choice(known)
    return resolve(store, f"{pipeline}@{label}")


def restore_one(world: World, figures: Figures, store: Store, resolved: Resolved, name: str) -> None:
    """I7: the bytes that were committed, or an error and nothing."""
    target = world.scratch.parent / "restored" / name
    try:
        restore(store, resolved, target)
    except EoctlError:
        if target.exists():
            raise Violation(f"I7: a restore of {resolved.address} failed and left its target") from None
        raise
    wrong = compare(target, dict(world.oracle.contents_of(resolved.entry)))
    shutil.rmtree(target)
    if wrong:
        raise Violation(f"I7: a restore of {resolved.address} gave other bytes: {wrong}")
    figures.note("restore")


class Editor(Actor):
    """Deletes, brings back, holds, releases and tags whatever it finds."""

    def __init__(self, *args: object, pipelines: list[PipelineId], **more: object) -> None:
        super().__init__(*args, **more)  # type: ignore[arg-type]  # what an actor takes
        self.pipelines = pipelines

    def job(self, process: Process) -> None:
        rng = self.world.rng
        pipeline = rng.choice(self.pipelines)
        what = rng.choice(_EDITS)
        try:
            mark = self.world.oracle.mark(pipeline)
            done = self._edit(process.store, pipeline, what)
        except EoctlError as error:
            self.figures.note(what, error)
            return
        if done is not None:
            self.figures.note(what)
            if not any(done(head) for head in self.world.oracle.heads_since(pipeline, mark)):
                raise Violation(f"I2: {what} in {pipeline} was reported as done, and is not in history")

    def _edit(self, store: Store, pipeline: PipelineId, what: str) -> Callable[[Head], bool] | None:
        rng = self.world.rng
        resolved = choose(self.world, store, pipeline)
        if resolved is None:
            return None
        if what == "release all":
            for hold in resolved.head.holds:
                entries.release(store, hold.id)
            return None
        label = resolved.entry.label
        match what:
            case "delete":
                entries.delete(store, pipeline, [label])
                return lambda head: label not in {entry.label for entry in head.live}
            case "undelete":
                trash = resolved.head.trash
                if not trash:
                    return None
                label = rng.choice(trash).entry.label
                entries.undelete(store, pipeline, label)
                return lambda head: label in {entry.label for entry in head.live}
            case "hold" | "legal hold":
                seconds = None if what == "legal hold" else rng.choice((int(HOUR), int(DAY), int(5 * DAY)))
                row = entries.hold(store, resolved, "selftest", seconds)
                return lambda head: row.id in {hold.id for hold in head.holds}
            case "release":
                gone = {row.id for row in entries.release(store, resolved).released}
                return lambda head: gone.isdisjoint(hold.id for hold in head.holds)
        entries.tag(store, resolved, {"seen"}, set())
        return lambda head: any("seen" in entry.tags for entry in roots(head) if entry.label == label)
