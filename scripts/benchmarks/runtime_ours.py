"""Keyed and windowed count on one core: `python -m scripts.benchmarks.runtime_ours WHAT N [INTERVAL [STATE]]`.

Prints one JSON object: records, seconds, cpu seconds, checkpoints, and what came out, to be compared.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eoctl.library import init_store
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.protocol import Committer, Delivery, SinkContext
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.windows import Tumbling
from formats.manifest import Transaction
from scripts.benchmarks.runtime_input import WINDOW_MS, records


class Counting:
    """A sink that only counts: how many records, and the sum of their last field."""

    def __init__(self) -> None:
        self.count = self.total = 0

    @property
    def delivery(self) -> Delivery:
        return Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> "Counting":  # noqa: ARG002
        return self

    def committer(self, context: SinkContext) -> Committer | None:  # noqa: ARG002
        return None

    def write(self, batch: Batch) -> None:
        self.count += len(batch)
        self.total += sum(record[-1] for record in batch.values)  # type: ignore[index]

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        pass


def main(what: str, count: int, interval: float = 1e9, state: str = "heap") -> None:
    data = records(count)

    def make(_: int, first: int, stop: int) -> list[Any]:
        return data[first:stop]

    sink = Counting()
    pipeline = Pipeline("bench", options=Options(interval=interval, state=state))
    source = Generator(make=make, count=count)
    if what == "count":
        stream = pipeline.source("records", source)
        stream.key_by(lambda record: record[0], type="string").count("count").sink("sink", sink)
    else:
        stream = pipeline.source("records", source, time=lambda record: record[1])
        keyed = stream.key_by(lambda record: record[0], type="string")
        keyed.window("windows", Tumbling(WINDOW_MS)).sink("sink", sink)
    folder = Path(tempfile.mkdtemp(prefix="eoctl-bench-"))
    try:
        store = init_store(folder / "store")
        began = time.process_time()
        finished = run(store._store, pipeline, Request(directory=folder))  # noqa: SLF001  (as Pipeline.run does)
        cpu = time.process_time() - began
    finally:
        shutil.rmtree(folder)
    answer = {"records": count, "seconds": finished.seconds, "cpu_seconds": cpu, "checkpoints": finished.checkpoints}
    sys.stdout.write(json.dumps({**answer, "out": sink.count, "total": sink.total}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:4]), *sys.argv[4:])
