"""Savepoints and reading state, by size: `savepoint create`, `state count`, `state get`, beside rocksdict itself.

    python -m scripts.benchmarks.savepoints                               # 1 and 10 million keys
    python -m scripts.benchmarks.savepoints --millions 1 10 50 --work DIR

Two states of the same rows (a string of 20 bytes -> a long): sorted tables, of which a tenth of the rows is written
again in a second table and a hundredth in a third, as a checkpoint of the runtime has them; and a RocksDB database.
Commands run as processes of their own, with one process for the tables (`--executor 0`), their start included; the
peak of memory is the process' own. Rates are by processor time, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from rocksdict import Options, Rdict, WriteBatch

from eoctl import Part, RocksdbSource, TableSource, init_store
from formats.keygroup_columns import key_groups
from formats.sst import write_table
from formats.state import StateSchema, row_schema

MILLION = 1_000_000
STEP = MILLION // 4
MAX_PARALLELISM = 128
SCHEMA = StateSchema(name="total", kind="value", key="string", value="long")


def keys_of(start: int, stop: int) -> pa.Array:
    return pa.array([b"\x15customer-%011d" % number for number in range(start, stop)], pa.binary())


def batches(numbers: range, level: int) -> Iterator[pa.RecordBatch]:
    """The rows in order, each key group by itself; made from groups of all keys, held as numbers of 8 bytes."""
    groups = pa.chunked_array(
        [
            key_groups(SCHEMA, keys_of(at, min(at + STEP, numbers.stop)), MAX_PARALLELISM)
            for at in range(0, numbers.stop, STEP)
        ]
    )
    for group in range(MAX_PARALLELISM):
        chosen = pc.indices_nonzero(pc.equal(groups, group)).to_pylist()[:: numbers.step]
        for at in range(0, len(chosen), STEP):
            part = chosen[at : at + STEP]
            count = len(part)
            empty = pa.repeat(pa.scalar(b"", pa.binary()), count)
            columns = [
                pa.repeat(pa.scalar(group, pa.uint16()), count),
                pa.array([b"\x15customer-%011d" % number for number in part], pa.binary()),
                empty,
                empty,
                pa.array([struct.pack(">q", number * (level + 1)) for number in part], pa.binary()),
            ]
            yield pa.record_batch(columns, schema=row_schema())


def make(work: Path, count: int) -> None:
    """The store, the tables, the database; two checkpoints, one of each."""
    (work / "tables").mkdir(parents=True)
    for level, step in enumerate((1, 10, 100)):
        with (work / f"tables/{level}.parquet").open("wb") as file:
            write_table(file, SCHEMA, batches(range(0, count, step), level), sequence=level)
    database = Rdict(str(work / "db"), Options(raw_mode=True))
    order = list(range(0, count, STEP))
    random.Random(1).shuffle(order)
    for start in order:
        batch = WriteBatch(raw_mode=True)
        for number in range(start, min(start + STEP, count)):
            batch.put(b"\x15customer-%011d" % number, struct.pack(">q", number))
        database.write(batch)
    database.flush()
    store = init_store(str(work / "store"))
    parts = {"own": Part(source=TableSource(work / "tables"), operator="totals", max_parallelism=MAX_PARALLELISM)}
    parts["rocksdb"] = Part(source=RocksdbSource(work / "db"), operator="totals")
    database.close()
    for name, part in parts.items():
        with store.pipeline(name).writer() as writer:
            writer.checkpoint([part], link=True)


BARE = """
import sys, time
from rocksdict import AccessType, Options, Rdict
database = Rdict(sys.argv[1], Options(raw_mode=True), access_type=AccessType.read_only())
began, count = time.process_time(), 0
for key, value in database.items():
    count += 1
print(time.process_time() - began, count)
"""


def bare(work: Path) -> tuple[float, int]:
    """Processor seconds that rocksdict takes to iterate over the database, and how many rows it finds."""
    done = subprocess.run([sys.executable, "-c", BARE, str(work / "db")], capture_output=True, text=True, check=True)
    seconds, count = done.stdout.split()
    return float(seconds), int(count)


class Run(NamedTuple):
    """What a command took and printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str


def run(work: Path, *words: str) -> Run:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "eoctl.cli.main", *words],
        cwd=work,
        env=os.environ | {"EOCTL_STORE": str(work / "store")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    seconds = time.perf_counter() - began
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def measure(work: Path, millions: int) -> None:
    count = millions * MILLION
    # In a process of its own: a child's peak is never below what its parent held when it was started.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(work, count))
    maker.start()
    maker.join()
    assert maker.exitcode == 0
    iterate, found = min(bare(work) for _ in range(2))
    assert found == count
    rate = count / iterate
    print(f"{millions} M  {'rocksdict, bare iteration':30} {iterate:15.2f} s  {rate / MILLION:5.2f} M/s", flush=True)
    key = f"customer-{count // 3:011d}"
    own = count + count // 10 + count // 100
    cases: list[tuple[str, int, tuple[str, ...]]] = [
        ("savepoint create, own tables", own, ("savepoint", "create", "own@1", "--to", "out-own", "--executor", "0")),
        ("savepoint create, RocksDB", count, ("savepoint", "create", "rocksdb@1", "--to", "out-db", "--executor", "0")),
        ("state count, own tables", own, ("state", "count", "own@1")),
        ("state count, RocksDB", count, ("state", "count", "rocksdb@1")),
        ("state get, own tables", 1, ("state", "get", "own@1", "--key", key)),
    ]
    for name, rows, words in cases:
        found_run = min((run(work, *words) for _ in range(repeats(words))), key=lambda one: one.cpu_seconds)
        assert f"{count:,}" in found_run.output or rows == 1, found_run.output
        rated = rows / found_run.cpu_seconds
        speed = f"{rated / MILLION:5.2f} M/s  {rated / rate:4.2f} of bare" if rows > 1 else f"{'':23}"
        times = f"{found_run.seconds:7.2f} s {found_run.cpu_seconds:6.2f} s"
        print(f"{millions} M  {name:30} {times}  {speed}  peak {found_run.peak_bytes >> 20} MiB", flush=True)


def repeats(words: tuple[str, ...]) -> int:
    """What only reads is run several times."""
    return 3 if words[0] == "state" else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, nargs="+", default=[1, 10])
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    for millions in options.millions:
        work = Path(tempfile.mkdtemp(prefix="savepoints-", dir=options.work))
        try:
            measure(work, millions)
        finally:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
