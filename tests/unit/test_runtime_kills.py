"""Real processes, killed at random moments, on files and SQLite: what comes out is what comes out of one quiet run."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from eoctl.library import init_store

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
COUNT = 6000
KEYS = 40
PROGRAM = f"""
from pathlib import Path
from eoctl import Files, Generator, Options, Pipeline, SqliteTable, Tumbling

folder = Path("FOLDER")
parallelism = 1 + len(list((folder / "out").glob("*.jsonl"))) % 3
options = Options(interval=0.02, batch_size=50, tolerable_failures=100, alignment_timeout=UNALIGNED)
pipeline = Pipeline("killed", parallelism=parallelism, options=options)
source = Generator(
    make=lambda split, first, stop: [(f"k{{number % {KEYS}}}", number) for number in range(first, stop)],
    count={COUNT}, partitions=2,
)
records = pipeline.source("numbers", source, time=lambda record: record[1], parallelism=1)
keyed = records.key_by(lambda record: record[0], type="string")
keyed.count("count").sink("files", Files(folder / "out"))
windows = keyed.window("windows", Tumbling(500)).map("row", lambda row: (row[0], row[1], row[3]))
columns = ("k", "start", "n")
windows.sink("rows", SqliteTable(path=folder / "sink.db", table="rows", columns=columns, key=columns[:2]))
"""


def command(file: Path, store: Path) -> list[str]:
    return [sys.executable, "-m", "eoctl.cli.main", "run", str(file), "--store", str(store), "--take-over", "--json"]


@pytest.mark.parametrize(
    ("kills", "unaligned"),
    [(8, None), pytest.param(50, None, marks=pytest.mark.slow), pytest.param(50, 0, marks=pytest.mark.slow)],
)
def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(
    tmp_path: Path, kills: int, unaligned: float | None
) -> None:
    init_store(tmp_path / "store")
    file = tmp_path / "killed.py"
    file.write_text(PROGRAM.replace("FOLDER", str(tmp_path)).replace("UNALIGNED", repr(unaligned)))
    with closing(sqlite3.connect(tmp_path / "sink.db")) as database:
        database.execute("CREATE TABLE rows (k TEXT, start INTEGER, n INTEGER, PRIMARY KEY (k, start))")
    rng = random.Random(kills)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = 0
    for _ in range(kills):
        with subprocess.Popen(
            command(file, tmp_path / "store"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stderr is not None
            process.stderr.readline()  # it has restored, and begins
            try:
                process.wait(timeout=rng.random() * 0.6)
            except subprocess.TimeoutExpired:
                killed += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
    done = subprocess.run(command(file, tmp_path / "store"), env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert killed, "processes were killed at work"
    check(tmp_path)


def check(folder: Path) -> None:
    records = [(f"k{number % KEYS}", number) for _ in range(2) for number in range(COUNT)]
    totals = Counter(key for key, _ in records)
    lines = [json.loads(line) for path in (folder / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted([key, n] for key, total in totals.items() for n in range(1, total + 1))
    windows = Counter((key, number // 500 * 500) for key, number in records)
    with closing(sqlite3.connect(folder / "sink.db")) as database:
        rows = {(key, start): n for key, start, n in database.execute("SELECT k, start, n FROM rows")}
    assert rows == windows
    assert [path for path in (folder / "out").rglob("files-*") if path.suffix != ".jsonl"] == []
