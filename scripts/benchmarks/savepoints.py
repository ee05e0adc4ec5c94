"""Savepoints and reading state, by size: `savepoint create`, `state count`, `state get`, beside rocksdict itself.

    python -m scripts.benchmarks.savepoints                               # 1 and 10 million keys
    python -m scripts.benchmarks.savepoints --millions 1 10 50 --work DIR

Two states of the same rows (a long -> a long): sorted tables, of which a tenth of the rows is written
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
from array import array
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
SCHEMA = StateSchema(name="total", kind="value", key="long", value="long")


def big_endian(numbers: pa.Array) -> pa.Array:
    """Numbers as Flink writes them, 8 bytes each."""
    data = array("q")
    data.frombytes(memoryview(numbers.buffers()[1])[8 * numbers.offset : 8 * (numbers.offset + len(numbers))])
    data.byteswap()
    offsets = array("i", range(0, 8 * len(numbers) + 1, 8))
    return pa.Array.from_buffers(pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def batches(numbers: range, level: int) -> Iterator[pa.RecordBatch]:
    """The rows in order of key group and key; the value of a row says the level that wrote it."""
    keys = pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(array("q", numbers))])
    groups = [key_groups(SCHEMA, big_endian(keys.slice(at, STEP)), MAX_PARALLELISM) for at in range(0, len(keys), STEP)]
    rows = pa.table({"group": pa.chunked_array(groups), "number": keys})
    rows = rows.sort_by([("group", "ascending"), ("number", "ascending")]).combine_chunks()
    for at in range(0, len(rows), STEP):
        part = rows.slice(at, STEP).to_batches()[0]
        empty = pa.repeat(pa.scalar(b"", pa.binary()), len(part))
        values = big_endian(pc.multiply(part["number"], level + 1))
        columns = [part["group"], big_endian(part["number"]), empty, empty, values]
        yield pa.record_batch(columns, schema=row_schema())


def make(work: Path, count: int, *, database: bool = True) -> None:
    """The store, the tables and, unless it is not wanted, the database; a checkpoint of each."""
    (work / "tables").mkdir(parents=True)
    for level, step in enumerate((1, 10, 100)):
        with (work / f"tables/{level}.parquet").open("wb") as file:
            write_table(file, SCHEMA, batches(range(0, count, step), level), sequence=level)
    store = init_store(str(work / "store"))
    parts = {"own": Part(source=TableSource(work / "tables"), operator="totals", max_parallelism=MAX_PARALLELISM)}
    if database:
        write_database(work, count)
        parts["rocksdb"] = Part(source=RocksdbSource(work / "db"), operator="totals")
    for name, part in parts.items():
        with store.pipeline(name).writer() as writer:
            writer.checkpoint([part], link=True)


def write_database(work: Path, count: int) -> None:
    database = Rdict(str(work / "db"), Options(raw_mode=True))
    order = list(range(0, count, STEP))
    random.Random(1).shuffle(order)
    for start in order:
        batch = WriteBatch(raw_mode=True)
        for number in range(start, min(start + STEP, count)):
            batch.put(struct.pack(">q", number), struct.pack(">q", number))
        database.write(batch)
    database.flush()
    database.close()


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


def measure(work: Path, millions: float, *, database: bool) -> None:
    count = round(millions * MILLION)
    # In a process of its own: a child's peak is never below what its parent held when it was started.
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(work, count), kwargs={"database": database})
    maker.start()
    maker.join()
    assert maker.exitcode == 0
    rate = 0.0
    if database:
        iterate, found = min(bare(work) for _ in range(2))
        assert found == count
        rate = count / iterate
        print(
            f"{millions:g} M  {'rocksdict, bare iteration':30} {iterate:15.2f} s  {rate / MILLION:5.2f} M/s", flush=True
        )
    key = str(count // 3)
    own = count + count // 10 + count // 100
    cases: list[tuple[str, int, tuple[str, ...]]] = [
        ("state list: start and files", 1, ("state", "list", "own@1")),
        ("savepoint create, own tables", own, ("savepoint", "create", "own@1", "--to", "out-own", "--executor", "0")),
        ("savepoint create, RocksDB", count, ("savepoint", "create", "rocksdb@1", "--to", "out-db", "--executor", "0")),
        ("state count, own tables", own, ("state", "count", "own@1")),
        ("state count, RocksDB", count, ("state", "count", "rocksdb@1")),
        ("state get, own tables", 1, ("state", "get", "own@1", "--key", key)),
    ]
    for name, rows, words in cases:
        if not database and "rocksdb@1" in words:
            continue
        found_run = min((run(work, *words) for _ in range(repeats(words))), key=lambda one: one.cpu_seconds)
        assert f"{count:,}" in found_run.output or rows == 1, found_run.output
        rated = rows / found_run.cpu_seconds
        beside = f"{rated / rate:4.2f} of bare" if rate else ""
        speed = f"{rated / MILLION:5.2f} M/s  {beside:12}" if rows > 1 else f"{'':23}"
        times = f"{found_run.seconds:7.2f} s {found_run.cpu_seconds:6.2f} s"
        print(f"{millions:g} M  {name:30} {times}  {speed}  peak {found_run.peak_bytes >> 20} MiB", flush=True)


def repeats(words: tuple[str, ...]) -> int:
    """What only reads is run several times."""
    return 2 if words[0] == "state" else 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--work", type=Path)
    parser.add_argument("--tables-only", action="store_true", help="no database, and no bare iteration")
    options = parser.parse_args()
    for millions in options.millions:
        work = Path(tempfile.mkdtemp(prefix="savepoints-", dir=options.work))
        try:
            measure(work, millions, database=not options.tables_only)
        finally:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
