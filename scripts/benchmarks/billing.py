"""The billing example beside 100,000 events a second: `python -m scripts.benchmarks.billing [--quick]`.

Events lie in 3 files, in the order of time, 100,000 to a second; the pipeline reads them as fast as it can, pinned to
one core, on files and SQLite. Told is how many it takes in a second, by the clock and of CPU, with a checkpoint every
30 s and every second; so a figure above 100,000 keeps up. After each run invoices, ledger and mails are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eoctl.library import init_store
from eoctl.runtime.run import Request, run
from tests.support import billing

ROOT = Path(__file__).parents[2]
RATE = 100_000
CUSTOMERS = 1000
CORE = 0


def write_events(folder: Path, seconds: int) -> None:
    """So many seconds of events, before the end of an hour and after it."""
    folder.mkdir(parents=True)
    partitions = billing.example.PARTITIONS
    first = billing.example.HOUR - seconds * 1000 // 2
    with ExitStack() as stack:
        files = [stack.enter_context((folder / f"usage-{n}.jsonl").open("w")) for n in range(partitions)]
        for number in range(seconds * RATE):
            customer, units = number * 7919 % CUSTOMERS, 1 + number % 9
            time = first + number * 1000 // RATE
            files[number % partitions].write(f'{{"customer":"customer-{customer}","time":{time},"units":{units}}}\n')


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Them all, one by one."""
    for path in folder.iterdir():
        with path.open() as file:
            yield from map(json.loads, file)


def measure(folder: Path, interval: float) -> dict[str, Any]:
    """One run in this process, from an empty store."""
    shutil.rmtree(folder / "store", ignore_errors=True)
    store = init_store(folder / "store")._store  # noqa: SLF001  (as Pipeline.run does)
    place = folder / f"billing-{interval:g}"
    place.mkdir()
    (place / "in").symlink_to(folder / "in")
    pipeline = billing.example.billing(place, interval=interval)
    seconds: list[float] = []
    began = time.process_time()
    finished = run(
        store, pipeline, Request(directory=folder / "work", on_checkpoint=lambda e: seconds.append(e.seconds))
    )
    cpu = time.process_time() - began
    return {
        "records": finished.records,
        "seconds": finished.seconds,
        "cpu_seconds": cpu,
        "checkpoints": finished.checkpoints,
        "longest": max(seconds),
        "invoices": finished.written["invoices"],
    }


def counted(folder: Path, interval: float, due: list[billing.Invoice]) -> None:
    """What the run charged is what the events cost."""
    place = folder / f"billing-{interval:g}"
    assert billing.invoices_in(place / "invoices.db") == due
    assert billing.ledger_in(place / "ledger") == billing.bookings(due)
    assert billing.mails_in(place / "mails") == billing.mails_of(due)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short form, for CI")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "INTERVAL"), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=90, help="of events")
    arguments = parser.parse_args()
    out = sys.stdout.write
    if arguments.worker:
        folder, interval = arguments.worker
        out(json.dumps(measure(Path(folder), float(interval))) + "\n")
        return
    folder = Path(tempfile.mkdtemp(prefix="eoctl-billing-"))
    try:
        write_events(folder / "in", 1 if arguments.quick else arguments.seconds)
        due = billing.expected(read_events(folder / "in"))
        out("| interval | events/s | events/s of CPU | checkpoints | the longest | invoices |\n")
        out("|---|---|---|---|---|---|\n")
        for interval in (30.0, 0.2 if arguments.quick else 1.0):
            words = [sys.executable, "-m", "scripts.benchmarks.billing", "--worker", str(folder), str(interval)]
            done = subprocess.run(
                ["taskset", "-c", str(CORE), *words],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                check=True,
            )
            found: dict[str, Any] = json.loads(done.stdout)
            counted(folder, interval, due)
            rate, of_cpu = found["records"] / found["seconds"], found["records"] / found["cpu_seconds"]
            out(f"| {interval:g} s | {rate:,.0f} | {of_cpu:,.0f} | {found['checkpoints']} ")
            out(f"| {found['longest']:.2f} s | {found['invoices']:,} |\n")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
