"""What guarantees cost: `python -m scripts.benchmarks.guarantees [--quick]`.

*Aligned, unaligned*: two subtasks behind a shuffle, one of them ten times slower, driven step by step by a seeded
scheduler, so that the figures are the same on every machine. *Two phases, upserts*: a source of a steady rate, real
time, a crash in the middle; latency is from the moment when a record was read to the moment when others can see it.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from eoctl.library import init_store
from eoctl.runtime.deployment import deploy
from eoctl.runtime.executor import Ended, Executor
from eoctl.runtime.operators.keyed import ValueState
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.recovery import Choice, load, settle
from eoctl.runtime.run import Request, Told, run
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.protocol import CommitPermit, Committer, Delivery, Sink, SinkContext, Writer
from eoctl.runtime.sinks.sqlite import SqliteTable
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.sources.protocol import ENDED, NOTHING_YET, Polled, Position
from eoctl.runtime.wire import LocalWire
from eoctl.services.checkpoint import Opened
from formats.ids import PipelineId
from formats.manifest import Transaction
from storage.session import open_writer
from storage.store import Store
from storage.transfer import alone

NAME = PipelineId("guarantees")
KEYS = 200
SLOWNESS = 10
MOST_STEPS = 100_000
RATE = 2000  # records in a second


# Aligned and unaligned: steps of a scheduler.


class Steps:
    """Virtual time: steps."""

    def __init__(self) -> None:
        self.now = 0.0


class Job:
    """Done at once, seen at the next look."""

    def __init__(self, work: Any) -> None:  # noqa: ANN401  (whatever it returns)
        self._outcome = work()
        self.done = True

    def result(self) -> Any:  # noqa: ANN401
        return self._outcome


class AtOnce:
    """A background without a thread."""

    def submit(self, work: Any) -> Any:  # noqa: ANN401
        return Job(work)


class Seen:
    """A sink that notes how long each record was under way, and which were committed."""

    delivery = Delivery.TRANSACTIONAL

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.delays: list[float] = []
        self.written: set[tuple[str, int]] = set()
        self.committed: set[tuple[str, int]] = set()
        self._epochs: dict[str, set[tuple[str, int]]] = {}

    def writer(self, context: SinkContext) -> Writer:
        return SeenWriter(self, context)

    def committer(self, context: SinkContext) -> Committer:  # noqa: ARG002
        return self

    def pre_committed(self, name: str, records: set[tuple[str, int]]) -> None:
        self._epochs[name] = records

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:  # noqa: ARG002
        self.committed |= self._epochs[transaction.id]

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:  # noqa: ARG002
        return ()

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        pass


class SeenWriter:
    """One subtask's."""

    def __init__(self, sink: Seen, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._epoch: set[tuple[str, int]] = set()

    def write(self, batch: Batch) -> None:
        records: list[Any] = batch.values
        self._sink.delays += [self._sink.steps.now - read_at for _, _, read_at in records]
        found = {(key, number) for key, number, _ in records}
        self._epoch |= found
        self._sink.written |= found

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        if not self._epoch:
            return ()
        name = self._context.transaction_id(checkpoint)
        self._sink.pre_committed(name, self._epoch)
        self._epoch = set()
        subtask = self._context.subtask
        return (Transaction(id=name, state="pre-committed", checkpoint=checkpoint, subtask=subtask),)

    def close(self) -> None:
        pass


class Alignment:
    """A pipeline with a slow subtask under one rule of alignment, and what was measured of it."""

    def __init__(self, folder: Path, timeout: float | None, checkpoints: int, seed: int) -> None:
        self.steps = Steps()
        self.sink = Seen(self.steps)
        self.ended: list[Ended] = []
        self._folder = folder
        self._timeout = timeout
        self._store: Store = init_store(folder / "store")._store  # noqa: SLF001  (as Pipeline.run does)
        self._attempts = 0
        self._seed = seed
        executor = self._executor(None)
        with alone():
            while len(self.ended) < checkpoints:
                self._act(executor)
            for _ in range(400):
                self._act(executor)
        executor.close()
        self.delays = list(self.sink.delays)
        head = self._store.head(NAME).head
        manifests = [self._store.manifest(head, entry) for entry in head.live]
        self.bytes = statistics.median(one.metrics.full_bytes for one in manifests)
        self.in_flight = statistics.median(one.metrics.in_flight_bytes for one in manifests)
        self.recovery = self._recover()

    def _recover(self) -> float:
        """Steps until all that was written before the crash is written again, or is committed."""
        wanted = set(self.sink.written)
        self.sink.written.clear()
        began = self.steps.now
        with alone():
            executor = self._executor(Choice())
            while not all(one in self.sink.committed or one in self.sink.written for one in wanted):
                for _ in range(20):
                    self._act(executor)
                if self.steps.now - began > MOST_STEPS:
                    raise TimeoutError
        executor.close()
        return self.steps.now - began

    def _executor(self, choice: Choice | None) -> Executor:
        self._attempts += 1
        self._rng = random.Random(1000 * self._seed + self._attempts)
        options = Options(interval=400.0, timeout=1e9, alignment_timeout=self._timeout, batch_size=10)
        pipeline = Pipeline(NAME.name, parallelism=2, options=options)
        made = Generator(
            make=lambda split, a, b: [
                (f"k{(n * 7 + split) % KEYS}", 2 * n + split, self.steps.now) for n in range(a, b)
            ],
            count=10**7,
            partitions=2,
        )
        records = pipeline.source("records", made).key_by(lambda record: record[0], type="string")
        records.process("count", counting_up, states=[ValueState("count")]).sink("seen", self.sink)
        graph = pipeline.graph()
        opened = Opened(self._store, NAME, *open_writer(self._store, NAME))
        folder = self._folder / f"attempt-{self._attempts}"
        loaded = None if choice is None else load(opened, graph, choice, folder)
        settle(opened, graph, loaded, Choice(), lambda *_: None)
        clock = self._clock
        subtasks = deploy(opened, graph, pipeline.settings, loaded, folder, clock, lambda *_: None)
        self._slow = next(number for number, one in enumerate(subtasks) if one.ref == ("count", 1))
        self._subtasks = subtasks
        return Executor(
            opened,
            graph,
            subtasks,
            pipeline.rules,
            clock=clock,
            wire=LocalWire(),
            background=AtOnce(),
            on_end=self.ended.append,
        )

    def _clock(self) -> float:
        return self.steps.now

    def _act(self, executor: Executor) -> None:
        executor.act(self._choose)
        self.steps.now += 1.0

    def _choose(self, count: int) -> int:
        number = self._rng.randrange(count)
        while count > len(self._subtasks) and number == self._slow and self._is_slow():
            number = self._rng.randrange(count)
        return number

    def _is_slow(self) -> bool:
        subtask = self._subtasks[self._slow]
        heads = [subtask.inputs[place].queue[0] for place in subtask.ready()]
        records = not subtask.taken and all(isinstance(head, Batch) for head in heads)
        return records and self._rng.random() > 1 / SLOWNESS


def counting_up(context: Any, record: Any) -> list[Any]:  # noqa: ANN401
    """Each record as it is; the state that it is counted in makes checkpoints of some size."""
    state = context.state("count")
    state.set((state.get() or 0) + 1)
    return [record]


RULES: dict[str, float | None] = {"aligned": None, "unaligned after 30": 30.0, "unaligned": 0.0}


def alignment(folder: Path, rule: str, checkpoints: int, seeds: int) -> dict[str, float]:
    """Medians over the seeds."""
    runs = [Alignment(folder / str(seed), RULES[rule], checkpoints, seed) for seed in range(seeds)]
    return {
        "checkpoint, steps": statistics.median(statistics.median(e.seconds for e in one.ended[1:]) for one in runs),
        "its bytes": statistics.median(one.bytes for one in runs),
        "of them in flight": statistics.median(one.in_flight for one in runs),
        "delay of a record, median": statistics.median(statistics.median(one.delays) for one in runs),
        "worst": statistics.median(max(one.delays) for one in runs),
        "recovery, steps": statistics.median(one.recovery for one in runs),
    }


# Two phases and upserts: seconds.


class CrashError(Exception):
    """The process is gone."""


class Steady:
    """`RATE` records in each second: `(number, second when it was read)`."""

    replayable = True

    def __init__(self, count: int, crash_at: int) -> None:
        self.count = count
        self.crash_at = crash_at

    def splits(self) -> tuple[str, ...]:
        return ("steady",)

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> SteadyReader:  # noqa: ARG002
        return SteadyReader(self, int(positions.get("steady", 0)))


class SteadyReader:
    """Of one run: its first record is due now."""

    def __init__(self, source: Steady, first: int) -> None:
        self._source = source
        self._first = self._next = first
        self._began = time.perf_counter()

    def poll(self, limit: int) -> Polled:
        now = time.perf_counter()
        stop = min(self._source.count, self._next + limit, self._first + 1 + int((now - self._began) * RATE))
        if self._next >= self._source.crash_at:
            raise CrashError
        if self._next == self._source.count:
            return ENDED
        if stop <= self._next:
            return NOTHING_YET
        batch = Batch([(number, now) for number in range(self._next, stop)])
        self._next = stop
        return Polled(batch, "steady")

    def positions(self) -> Mapping[str, Position]:
        return {"steady": self._next}

    def close(self) -> None:
        pass


class Watched:
    """A sink, and when its records became visible."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.latencies: list[float] = []
        self.first: float | None = None
        self._waiting: list[float] = []
        self._epochs: dict[str, list[float]] = {}

    @property
    def delivery(self) -> Delivery:
        return self.sink.delivery

    def writer(self, context: SinkContext) -> Writer:
        return WatchedWriter(self, self.sink.writer(context))

    def committer(self, context: SinkContext) -> Committer | None:
        committer = self.sink.committer(context)
        return None if committer is None else WatchedCommitter(self, committer)

    def written(self, read_at: list[float]) -> None:
        if self.sink.delivery is Delivery.IDEMPOTENT:
            self.visible(read_at)
        else:
            self._waiting += read_at

    def pre_committed(self, transactions: tuple[Transaction, ...]) -> None:
        for transaction in transactions:
            self._epochs[transaction.id], self._waiting = self._waiting, []

    def committed(self, transaction: Transaction) -> None:
        self.visible(self._epochs.pop(transaction.id, []))

    def visible(self, read_at: list[float]) -> None:
        now = time.perf_counter()
        self.first = self.first or now
        self.latencies += [now - moment for moment in read_at]


class WatchedWriter:
    """Beside the real one."""

    def __init__(self, watched: Watched, writer: Writer) -> None:
        self._watched = watched
        self._writer = writer

    def write(self, batch: Batch) -> None:
        records: list[Any] = batch.values
        self._writer.write(batch)
        self._watched.written([read_at for _, read_at in records])

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        transactions = self._writer.pre_commit(checkpoint)
        self._watched.pre_committed(transactions)
        return transactions

    def close(self) -> None:
        self._writer.close()


class WatchedCommitter:
    """Beside the real one."""

    def __init__(self, watched: Watched, committer: Committer) -> None:
        self._watched = watched
        self._committer = committer

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        self._committer.commit(permit, transaction)
        self._watched.committed(transaction)

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:
        return self._committer.abort_others(keep)

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:
        return self._committer.visible_after(checkpoint)

    def close(self) -> None:
        self._committer.close()


def phases(folder: Path, sink: Sink, interval: float, seconds: float) -> dict[str, float]:
    """Latency of a run that crashed, and how long the next one took to restore, and until its first record was seen."""
    store = init_store(folder / "store")._store  # noqa: SLF001  (as Pipeline.run does)
    count = int(RATE * seconds)
    latencies: list[float] = []
    for crash_at in (count * 2 // 3, count + 1):
        watched = Watched(sink)
        pipeline = Pipeline(NAME.name, options=Options(interval=interval))
        pipeline.source("steady", Steady(count, crash_at)).sink("sink", watched)
        began = time.perf_counter()
        started: list[float] = []

        def on_start(_: Told, started: list[float] = started) -> None:
            started.append(time.perf_counter())

        try:
            run(store, pipeline, Request(directory=folder / "work", on_start=on_start))
        except CrashError:
            latencies = watched.latencies
    return {
        "median": statistics.median(latencies),
        "worst": max(latencies),
        "restore": started[0] - began,
        "seen": (watched.first or began) - began,
    }


def two_sinks(folder: Path, interval: float, seconds: float) -> dict[str, dict[str, float]]:
    """Both, in the same steady rain."""
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "sink.db")) as database:
        database.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, read_at REAL)")
    table = SqliteTable(path=folder / "sink.db", table="records", columns=("number", "read_at"), key=("number",))
    sinks: dict[str, Sink] = {"two phases (files)": Files(folder / "out"), "upserts (SQLite)": table}
    return {name: phases(folder / name.split()[0], sink, interval, seconds) for name, sink in sinks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short form, for CI")
    arguments = parser.parse_args()
    checkpoints, seeds, interval, seconds = (4, 1, 0.1, 0.6) if arguments.quick else (8, 7, 1.0, 12.0)
    folder = Path(tempfile.mkdtemp(prefix="eoctl-guarantees-"))
    out = sys.stdout.write
    try:
        for number, rule in enumerate(RULES):
            found = alignment(folder / str(number), rule, checkpoints, seeds)
            if not number:
                out(f"| one subtask {SLOWNESS}x slower | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}\n")
            out(f"| {rule} | {' | '.join(f'{value:,.0f}' for value in found.values())} |\n")
        out(f"\n| interval {interval:g} s | visible after, median | worst | restored after | first output after |\n")
        out("|---|---|---|---|---|\n")
        for name, figures in two_sinks(folder / "phases", interval, seconds).items():
            out(f"| {name} | " + " | ".join(f"{1000 * value:.1f} ms" for value in figures.values()) + " |\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
