"""The same with bytewax, in its own interpreter: `python runtime_bytewax.py count|window N`."""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.runtime_input import WINDOW_MS, records

BATCH = 2048
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
seen = {"out": 0, "total": 0}


class Partition(StatelessSourcePartition[Any]):
    """Gives slices of what is in memory."""

    def __init__(self, data: list[Any]) -> None:
        self.data, self.at = data, 0

    def next_batch(self) -> list[Any]:
        if self.at >= len(self.data):
            raise StopIteration
        self.at += BATCH
        return self.data[self.at - BATCH : self.at]


class Source(DynamicSource[Any]):
    """One partition."""

    def __init__(self, data: list[Any]) -> None:
        self.data = data

    def build(self, *_: object) -> Partition:
        return Partition(self.data)


class CountingPartition(StatelessSinkPartition[Any]):
    """Counts records, and sums what they say."""

    def write_batch(self, items: list[Any]) -> None:
        seen["out"] += len(items)
        seen["total"] += sum(item[1] if isinstance(item[1], int) else item[1][1] for item in items)


class Counting(DynamicSink[Any]):
    """One partition."""

    def build(self, *_: object) -> CountingPartition:
        return CountingPartition()


def main(what: str, count: int) -> None:
    flow = Dataflow("bench")
    data: list[Any] = records(count)
    if what == "window":
        data = [(key, EPOCH + timedelta(milliseconds=at)) for key, at in data]
    stream = op.input("in", flow, Source(data))
    if what == "count":
        counted = op.stateful_map("count", stream, lambda state, _: ((state or 0) + 1,) * 2)
        op.output("out", counted, Counting())
    else:
        clock: Any = win.EventClock(lambda record: record, timedelta(hours=1))
        tumbling = win.TumblingWindower(length=timedelta(milliseconds=WINDOW_MS), align_to=EPOCH)
        counts = win.fold_window("count", stream, clock, tumbling, lambda: 0, lambda n, _: n + 1, lambda a, b: a + b)
        op.output("out", counts.down, Counting())
    cpu, began = time.process_time(), time.perf_counter()
    run_main(flow)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    sys.stdout.write(json.dumps({"records": count, "seconds": seconds, "cpu_seconds": cpu, **seen}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
