"""The same with the core of quixstreams, in its own interpreter: `python runtime_quixstreams.py count|window N`.

Without Kafka: records are given to the composed dataframe as `Application` does it, in its checkpoints, with its state
in RocksDB. No changelog, no output to Kafka, and nothing is deserialized: it is the faster for it.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

from quixstreams import Application
from quixstreams.context import set_message_context
from quixstreams.models import MessageContext, Topic, TopicConfig

sys.path.insert(0, str(Path(__file__).parents[2]))
from scripts.benchmarks.runtime_input import WINDOW_MS, records

COMMIT_EVERY = 5.0  # seconds: the default


class NoBroker:
    """Stands where producer and consumer are asked at a commit."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *_, **__: 0 if name == "flush" else []


def main(what: str, count: int) -> None:
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="eoctl-bench-"))
    seen = {"out": 0, "total": 0}
    app = Application(broker_address="127.0.0.1:9", state_dir=folder, use_changelog_topics=False)
    kept = {"retention.ms": "-1", "retention.bytes": "-1"}
    config = TopicConfig(num_partitions=1, replication_factor=1, extra_config=kept)
    topic = Topic(name="in", create_config=config, value_deserializer="json", key_deserializer="str")
    topic.broker_config = config
    frame = app.dataframe(topic)

    def counted(_: object, state: Any) -> int:  # noqa: ANN401  (a type that depends on the store)
        number: int = state.get("n", 0) + 1
        state.set("n", number)
        return number

    counts = what == "count"
    frame = frame.apply(counted, stateful=True) if counts else frame.tumbling_window(WINDOW_MS).count().final()

    def sink(value: int | dict[str, int], *_: object) -> None:
        seen["out"] += 1
        seen["total"] += value if isinstance(value, int) else value["value"]

    composed = frame.compose(sink=sink)["in"]
    processing = app._processing_context  # noqa: SLF001  (as its `run` does)
    processing.producer = processing.consumer = NoBroker()
    app._state_manager.on_partition_assign(frame.stream_id, 0, {})  # noqa: SLF001  (as above)
    processing.commit_interval = COMMIT_EVERY
    processing.init_checkpoint()
    data = records(count)
    cpu, began = time.process_time(), time.perf_counter()
    for offset, (key, at) in enumerate(data):
        context = copy_context()
        context.run(set_message_context, MessageContext("in", 0, offset, 0))
        context.run(composed, at, key, at, None)
        processing.store_offset("in", 0, offset)
        processing.commit_checkpoint()
    processing.commit_checkpoint(force=True)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    shutil.rmtree(folder)
    sys.stdout.write(json.dumps({"records": count, "seconds": seconds, "cpu_seconds": cpu, **seen}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
