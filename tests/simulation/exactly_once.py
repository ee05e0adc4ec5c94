"""The runtime under a seeded scheduler: crashes, partitions, slow and lost messages, zombies; and what must come out.

One seed is one story: a pipeline with two-phase and idempotent sinks runs on a store in memory. A scheduler draws what
happens next; attempts die at any step or within any call of the store, or live on as zombies beside their successors,
which have another parallelism. The last attempt runs without faults. Then every sink must hold just what a run without
faults gives, nothing may be left pending, and zombies that go on must change nothing.

    scripts/simulate-runtime --seeds 10000
"""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from eoctl.runtime.deployment import deploy
from eoctl.runtime.executor import Executor
from eoctl.runtime.pipeline import KeyedStream, Options, Pipeline
from eoctl.runtime.recovery import Choice, load, settle
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.sqlite import SqliteTable
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.windows import Tumbling
from eoctl.runtime.wire import Message
from eoctl.services.checkpoint import Opened
from formats.errors import (
    CommitUnknownError,
    EoctlError,
    FencedError,
    OutcomeUnknownError,
    UnavailableError,
)
from formats.ids import HashAlgorithm, PipelineId
from storage.backend import Backend, Place
from storage.backends.memory import MemoryBackend
from storage.head import Ambient
from storage.session import open_writer
from storage.store import Store, init_store
from storage.transfer import alone
from tests.simulation.shapes import Bursts, Matches, Shape
from tests.support.fakes import time_text

NAME = PipelineId("story")
SPLITS = 2
MAX_STEPS = 100_000


class Crash(BaseException):
    """The attempt dies here."""


class World:
    """What all attempts share: the clock, the store's bytes, the sinks."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.now = 0.0
        self.starting = False
        self.ids = 0
        self.memory = MemoryBackend(clock=lambda: self.now)
        self.count = self.rng.randint(20, 120)
        self.keys = self.rng.choice([self.rng.randint(1, 9), 40])
        self.shape = self.rng.choice(["counts", "windows", "both"])
        self.timeout = self.rng.choice([None, None, 0.0, 0.0, 0.5, 3.0])
        self.batch = self.rng.choice([1, 3, 8, 20])
        self.loss = self.rng.choice([0.0, 0.0, 0.05, 0.2])
        span = (20, 40, 200)[seed % 3]  # with short ones most keys have no state most of the time
        self.more: Shape | None = (None, Bursts(span), None, Matches(span))[seed % 4]
        self.patience = (1, 4, 1, 8)[seed % 4]  # each step takes some time, and more subtasks take more steps
        self.count //= 1 if self.more is None else 2
        self.state = "rocksdb" if seed % 16 in {5, 7} else "heap"
        self.crash_calls = self.rng.choice([0.0, 0.02, 0.05])
        self.fault_calls = self.rng.choice([0.0, 0.02])
        self.base = self.store(faults=False)
        database = sqlite3.connect(folder / "sink.db")
        database.execute("CREATE TABLE windows (key TEXT, start INTEGER, n INTEGER, PRIMARY KEY (key, start))")
        database.execute("CREATE TABLE totals (key TEXT PRIMARY KEY, n INTEGER)")
        database.commit()
        database.close()

    def store(self, *, faults: bool) -> Store:
        backend: Backend = Faulty(self) if faults else self.memory
        (self.folder / "scratch").mkdir(exist_ok=True)
        place = Place(url="memory:", backend=backend, scratch=self.folder / "scratch", make_folders=lambda _: None)
        ambient = Ambient(
            now=lambda: time_text(self.now), elapsed=lambda: self.now, new_id=self.new_id, wait=self.wait, host="c" * 32
        )
        if not hasattr(self, "base"):
            return init_store(place, HashAlgorithm.BLAKE3, ambient)
        return Store(place=place, record=self.base.record, ambient=ambient)

    def new_id(self) -> str:
        self.ids += 1
        return f"{self.ids:032x}"

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def records(self, split: int, first: int, stop: int) -> list[Any]:
        return [(f"k{(number * 7 + split) % self.keys}", number * 10 + split) for number in range(first, stop)]

    def pipeline(self) -> Pipeline:
        """At another parallelism each time it is asked for."""
        rng = self.rng
        options = Options(
            interval=rng.choice([0.5, 2.0, 5.0]),
            timeout=rng.choice([10.0, 60.0]) * self.patience,
            tolerable_failures=1000,
            alignment_timeout=self.timeout,
            max_concurrent=1 if self.timeout is not None else rng.choice([1, 2]),
            batch_size=self.batch,
            channel_capacity=rng.choice([1, 2, 8]),
            state=self.state,
        )
        pipeline = Pipeline(NAME.name, parallelism=rng.randint(1, 3), options=options)
        made = Generator(make=self.records, count=self.count, partitions=SPLITS)
        records = pipeline.source("numbers", made, time=lambda record: record[1], parallelism=rng.randint(1, 2))
        same = records.map("same", lambda record: record)
        keyed = same.key_by(lambda record: record[0], type="string")
        if self.shape != "windows":
            self._count(keyed)
        if self.shape != "counts":
            self._window(keyed)
        if self.more is not None:
            self.more.add(same, self.folder)
        return pipeline

    def _count(self, keyed: KeyedStream) -> None:
        counts = keyed.count("count")
        counts.sink("files", Files(self.folder / "out"), parallelism=self.rng.randint(1, 2))
        totals = SqliteTable(path=self.folder / "sink.db", table="totals", columns=("key", "n"), key=("key",))
        counts.sink("totals", totals)

    def _window(self, keyed: KeyedStream) -> None:
        windows = keyed.window("windows", Tumbling(200)).map("row", lambda row: (row[0], row[1], row[3]))
        rows = SqliteTable(
            path=self.folder / "sink.db", table="windows", columns=("key", "start", "n"), key=("key", "start")
        )
        windows.sink("rows", rows)
        windows.sink("windowed", Files(self.folder / "windows"))


class Faulty:
    """The store's bytes, seen by one attempt: it may die within any call, and calls may fail."""

    def __init__(self, world: World) -> None:
        self._world = world

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        world, real = self._world, getattr(self._world.memory, verb)

        def call(*args: Any, **kwargs: Any) -> Any:
            draw = world.rng.random() * (10 if world.starting else 1)
            if draw < world.crash_calls / 2:
                raise Crash
            if verb in {"create", "swap"} and world.rng.random() < world.fault_calls:
                if world.rng.random() < 0.5:
                    raise UnavailableError("the store does not answer")
                real(*args, **kwargs)
                raise OutcomeUnknownError("the reply was lost")
            result = real(*args, **kwargs)
            if draw < world.crash_calls:
                raise Crash
            return result

        return call


class SlowWire:
    """Messages arrive late, out of order, twice or never."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._messages: list[tuple[float, Message]] = []
        self.calm = False

    def send(self, message: Message) -> None:
        rng, world = self._world.rng, self._world
        if self.calm:
            self._messages.append((world.now, message))
            return
        if rng.random() < world.loss:
            return
        for _ in range(2 if rng.random() < world.loss else 1):
            delay = rng.choice([0.0, 0.0, 0.5, 4.0]) * rng.random()
            self._messages.append((world.now + delay, message))

    def receive(self) -> Message | None:
        due = [place for place, (at, _) in enumerate(self._messages) if at <= self._world.now]
        return self._messages.pop(self._world.rng.choice(due) if not self.calm else due[0])[1] if due else None


class SteppedJob:
    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done = False

    def run(self) -> None:
        self.done = True
        try:
            self._result = self._work()
            self._error = None
        except EoctlError as error:
            self._error = error

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result


class SteppedBackground:
    """Things are done in order, one when the scheduler says so."""

    def __init__(self) -> None:
        self.waiting: list[SteppedJob] = []

    def submit(self, work: Callable[[], Any]) -> Any:
        job = SteppedJob(work)
        self.waiting.append(job)
        return job

    def run_next(self) -> None:
        self.waiting.pop(0).run()


class Attempt:
    """One attempt, from opening to its end."""

    def __init__(self, world: World, *, calm: bool) -> None:
        self.world = world
        self.calm = calm
        self.folder = Path(tempfile.mkdtemp(dir=world.folder))
        self.store = world.store(faults=not calm)
        world.starting = True
        self.wire = SlowWire(world)
        self.wire.calm = calm
        self.background = SteppedBackground()
        pipeline = world.pipeline()
        graph = pipeline.graph()
        opened = Opened(self.store, NAME, *open_writer(self.store, NAME))
        loaded = load(opened, graph, Choice(), self.folder)
        settle(opened, graph, loaded, Choice(), lambda *_: None)
        clock = lambda: world.now  # noqa: E731
        subtasks = deploy(opened, graph, pipeline.settings, loaded, self.folder, clock, lambda *_: None)
        self.executor = Executor(
            opened, graph, subtasks, pipeline.rules, clock=clock, wire=self.wire, background=self.background
        )
        world.starting = False

    def step(self) -> None:
        world, executor = self.world, self.executor
        if self.background.waiting and world.rng.random() < 0.2:
            self.background.run_next()
        else:
            executor.act(world.rng.randrange)
        world.now += world.rng.random() * 0.05

    def run(self, steps: int) -> None:
        """So many steps, or to the end."""
        for _ in range(steps):
            if self.executor.finished:
                return
            self.step()

    def bury(self) -> None:
        """Nothing is left open in this process."""
        self.executor.close()


def story(seed: int, folder: Path) -> dict[str, int]:
    """What a seed brings. Raises: AssertionError with what is wrong."""
    world = World(seed, folder)
    rng = world.rng
    seen = Counter[str]()
    zombies: list[Attempt] = []
    for _ in range(rng.randint(0, 4)):
        attempt = begin(world, seen)
        if attempt is None:
            continue
        try:
            for _ in range(rng.randint(1, 30)):
                attempt.run(rng.randint(1, 80))
                walk(zombies, rng, seen)
            if rng.random() < 0.5:
                zombies.append(attempt)
                seen["zombies"] += 1
            else:
                seen["crashes"] += 1
                attempt.bury()
        except Crash:
            seen["crashes in a call"] += 1
            attempt.bury()
        except (CommitUnknownError, FencedError, UnavailableError) as error:
            seen[error.kind] += 1
            attempt.bury()
    sleepers = [zombie for zombie in zombies if rng.random() < 0.5]
    zombies = [zombie for zombie in zombies if zombie not in sleepers]
    last = Attempt(world, calm=True)
    for _ in range(MAX_STEPS * world.patience):
        if last.executor.finished:
            break
        last.step()
        if rng.random() < 0.02:
            walk(zombies, rng, seen)
    assert last.executor.finished, "the last attempt came to its end"
    last.bury()
    zombies += sleepers
    for _ in range(20):
        walk(zombies, rng, seen)
    for zombie in zombies:
        zombie.bury()
    check(world)
    seen["records"] += SPLITS * world.count
    seen["checkpoints"] += last.executor.state.complete
    return dict(seen)


def begin(world: World, seen: Counter[str]) -> Attempt | None:
    try:
        return Attempt(world, calm=False)
    except Crash:
        seen["crashes at the start"] += 1
    except (CommitUnknownError, UnavailableError, FencedError, OutcomeUnknownError) as error:
        seen[f"{error.kind} at the start"] += 1
    return None


def walk(zombies: list[Attempt], rng: random.Random, seen: Counter[str]) -> None:
    """Zombies go on a little, until they learn that they are some."""
    for zombie in list(zombies):
        try:
            zombie.run(rng.choice([0, 20, 100, 400]))
        except (Crash, EoctlError) as error:
            seen["zombies fenced" if isinstance(error, FencedError) else "zombies dead"] += 1
            zombie.bury()
            zombies.remove(zombie)


def check(world: World) -> None:
    """Every sink holds what a run without faults gives."""
    records = [record for split in range(SPLITS) for record in world.records(split, 0, world.count)]
    totals = Counter(key for key, _ in records)
    windows = Counter((key, at // 200 * 200) for key, at in records)
    expected = sorted([key, n] for key, total in totals.items() for n in range(1, total + 1))
    with closing(sqlite3.connect(world.folder / "sink.db")) as database:
        found = dict(database.execute("SELECT key, n FROM totals"))
        rows = {(key, start): n for key, start, n in database.execute("SELECT key, start, n FROM windows")}
    if world.shape != "windows":
        assert lines(world.folder / "out") == expected, "files: every count once"
        assert found == totals, "SQLite: the newest count of each key"
    if world.shape != "counts":
        once = sorted([*key, n] for key, n in windows.items())
        assert lines(world.folder / "windows") == once, "files: every window once"
        assert rows == windows, "SQLite: every window"
    more = {} if world.more is None else world.more.expected(records)
    for name, wanted in more.items():
        assert lines(world.folder / name) == sorted(wanted), f"files: {name}"
    newest = world.base.head(NAME).head.writer.attempt
    for name in ("out", "windows", *more):
        folder = world.folder / name
        hidden = [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
        assert [name for name in hidden if int(name.split("-")[1]) == newest] == [], "nothing is left pending"


def lines(folder: Path) -> list[Any]:
    return sorted(json.loads(line) for path in folder.glob("*.jsonl") for line in path.read_text().splitlines())


def run_seed(seed: int) -> dict[str, int]:
    """One story in a folder of its own."""
    base = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="eoctl-story-", dir=base if base.is_dir() else None))
    try:
        with alone():
            return story(seed, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
