"""What a checkpoint every second costs a pipeline whose state is large, and changes all over.

`python -m scripts.benchmarks.large_state [--state heap|rocksdb] [--keys 1000000] [--updates 3000000] [--rounds 3]`

Each key has 1,000 bytes that nothing compresses. A first run fills the state; then each round goes on from there twice,
on copies of that store: without a checkpoint until the end, and with one every `--interval` seconds. Every update
reads a key and writes it anew; the keys come in an order that is all over. Measured is from the first update to the
last one, in this process, with the median of the rounds.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eoctl.library import init_store, open_store
from eoctl.runtime.operators.keyed import KeyedContext, ValueState
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.run import Request, run
from eoctl.runtime.sources.generator import Generator
from scripts.benchmarks.runtime_ours import Counting

VALUE_BYTES = 1000
STEP = 2_654_435_761  # prime, so that each key comes once before any comes again
SPREAD = 7_368_787  # likewise, over the pool that values are cut from
POOL = random.Random(1).randbytes(64 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", choices=["heap", "rocksdb"], default="rocksdb")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--updates", type=int, default=3_000_000)
    parser.add_argument("--interval", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        folder, interval = Path(arguments.one[0]), float(arguments.one[1])
        print(json.dumps(updates(folder, arguments.state, arguments.keys, arguments.updates, interval)))
        return
    with tempfile.TemporaryDirectory(prefix="eoctl-bench-") as name:
        compare(Path(name), arguments)


def compare(home: Path, arguments: argparse.Namespace) -> None:
    filled = home / "filled"
    fill(filled, arguments.state, arguments.keys)
    found: dict[float, list[dict[str, Any]]] = {}
    for _ in range(arguments.rounds):
        for interval in (1e9, arguments.interval):
            folder = home / "copy"
            shutil.copytree(filled, folder)
            words = [sys.executable, "-m", "scripts.benchmarks.large_state", *sys.argv[1:]]
            done = subprocess.run([*words, "--one", str(folder), str(interval)], capture_output=True, check=True)
            found.setdefault(interval, []).append(json.loads(done.stdout))
            shutil.rmtree(folder)
    print("| checkpoints | updates/s | updates/s of CPU | new MB each |")
    print("|---|---|---|---|")
    for answers in found.values():
        middle = {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}
        rates = arguments.updates / middle["seconds"], arguments.updates / middle["cpu_seconds"]
        added = middle["added_bytes"] / 1e6
        print(f"| {middle['checkpoints']:g} | {rates[0]:,.0f} | {rates[1]:,.0f} | {added:.0f} |")
    without, with_them = (statistics.median(answer["seconds"] for answer in answers) for answers in found.values())
    print(f"throughput with them: {without / with_them:.3f} of that without")


def fill(folder: Path, state: str, keys: int) -> None:
    """A store at `folder` with one checkpoint, in which every key has its value."""
    folder.mkdir()
    store = init_store(folder / "store")
    pipeline = pipeline_of(state, Generator(make=lambda _, first, stop: list(range(first, stop)), count=keys), 1e9)
    run(store._store, pipeline, Request(directory=folder / "work"))  # noqa: SLF001  (as Pipeline.run does)


def updates(folder: Path, state: str, keys: int, count: int, interval: float) -> dict[str, float]:
    """So many more from the store's last checkpoint on."""
    moments: list[tuple[float, float]] = []

    def make(_: int, first: int, stop: int) -> list[int]:
        moments.append((time.monotonic(), time.process_time()))
        return [number * STEP % keys for number in range(first, stop)]

    store = open_store(folder / "store")
    pipeline = pipeline_of(state, Generator(make=make, count=keys + count), interval)
    finished = run(store._store, pipeline, Request(directory=folder / "work"))  # noqa: SLF001
    rows = store.pipeline("bench").checkpoints()
    during = [row for row in rows if row.id > 1][:-1] or rows[-1:]  # the last one is taken at the end
    return {
        "seconds": moments[-1][0] - moments[0][0],
        "cpu_seconds": moments[-1][1] - moments[0][1],
        "checkpoints": finished.checkpoints,
        "added_bytes": statistics.mean(row.added_bytes for row in during),
    }


def pipeline_of(state: str, source: Generator, interval: float) -> Pipeline:
    pipeline = Pipeline("bench", options=Options(interval=interval, state=state))

    def update(context: KeyedContext, number: int) -> None:
        value = context.state("value")
        old = value.get(b"")
        at = (number + len(old)) * SPREAD % (len(POOL) - VALUE_BYTES)
        value.set(POOL[at : at + VALUE_BYTES])

    keyed = pipeline.source("numbers", source).key_by(lambda number: number, type="long")
    keyed.process("update", update, states=[ValueState("value", "bytes")]).sink("sink", Counting())
    return pipeline


if __name__ == "__main__":
    main()
