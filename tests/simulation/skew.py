"""A subtask slower than the others, and how long checkpoints take beside it: in steps of the scheduler, not seconds."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

from eoctl.runtime.deployment import deploy
from eoctl.runtime.executor import Ended, Executor
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.wire import LocalWire
from eoctl.services.checkpoint import Opened
from formats.ids import PipelineId
from storage.session import open_writer
from storage.transfer import alone
from tests.simulation.exactly_once import SteppedBackground
from tests.support.places import memory_store

CHECKPOINTS = 8


def durations(tmp_path: Path, timeout: float | None, slowness: int) -> tuple[float, int]:
    """How many steps a checkpoint takes in the median, and the bytes that were in flight in all of them."""
    now = [0.0]
    ended: list[Ended] = []
    options = Options(interval=400.0, timeout=1e9, alignment_timeout=timeout, batch_size=10, channel_capacity=16)
    pipeline = Pipeline("p", options=options)
    made = Generator(make=lambda split, a, b: [f"k{n}" for n in range(a, b)], count=10**7, partitions=2)
    records = pipeline.source("numbers", made, parallelism=2).map("same", lambda record: record, parallelism=2)
    keyed = records.key_by(lambda record: record, type="string")
    keyed.count("count", parallelism=2).sink("out", Files(tmp_path / f"out-{timeout}-{slowness}"), parallelism=2)
    store = memory_store(tmp_path / f"store-{timeout}-{slowness}")
    opened = Opened(store, PipelineId("p"), *open_writer(store, PipelineId("p")))
    graph = pipeline.graph()
    folder = tmp_path / f"work-{timeout}-{slowness}"
    subtasks = deploy(opened, graph, pipeline.settings, None, folder, lambda: now[0], lambda *_: None)
    background = SteppedBackground()
    executor = Executor(
        opened,
        graph,
        subtasks,
        pipeline.rules,
        clock=lambda: now[0],
        wire=LocalWire(),
        background=background,
        on_end=ended.append,
    )
    slow = subtasks.index(next(subtask for subtask in subtasks if subtask.ref == ("count", 1)))
    rng = random.Random(1)

    def has_records() -> bool:
        """What it does next is slow: it handles records, and no barrier."""
        subtask = subtasks[slow]
        heads = [subtask.inputs[place].queue[0] for place in subtask.ready()]
        return not subtask.taken and all(isinstance(head, Batch) for head in heads)

    def choose(count: int) -> int:
        number = rng.randrange(count)
        while count > len(subtasks) and number == slow and has_records() and rng.random() > 1 / slowness:
            number = rng.randrange(count)
        return number

    with alone():
        while len(ended) < CHECKPOINTS:
            executor.act(choose)
            while background.waiting:
                background.run_next()
            now[0] += 1.0
    executor.close()
    assert all(not one.reason for one in ended)
    head = store.head(PipelineId("p")).head
    in_flight = sum(store.manifest(head, entry).metrics.in_flight_bytes for entry in head.live)
    return statistics.median(one.seconds for one in ended[1:]), in_flight
