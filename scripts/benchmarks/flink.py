"""State of a real Flink, exported by us and read by Flink's own SQL connector for savepoints; and a large `_metadata`.

    python -m scripts.benchmarks.flink                                    # 10 million keys, 100,000 handles
    python -m scripts.benchmarks.flink --millions 1 --work DIR --savepoints DIR

A job of Flink 2.3.0 (flink_job/ManyEntries.java) writes a string -> a long in RocksDB, and of it a native savepoint,
whose tables are RocksDB's, and a canonical one. The connector reads canonical ones only; its query counts and sums all
rows, in one JVM with parallelism 1, and writes nothing. Ours writes Parquet with typed columns. All start anew, and
their start is included. Needs scripts/setup-flink with Maven, and Java 17.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from formats.binary import Buffer
from formats.flink.handles import AbsoluteFile, Incremental, Inline, NamedFile, RelativeFile
from formats.flink.keyed_header import header_of, write_keyed_header
from formats.flink.metadata import Metadata, Operator, Subtask
from formats.flink.savepoint_properties import CANONICAL_SAVEPOINT
from formats.flink.writer import write_metadata
from formats.ids import operator_id
from formats.state import StateSchema

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("flink_job") / "ManyEntries.java"
JOB = "a" * 32
OPERATORS, SUBTASKS, TABLES = 20, 100, 47  # with three private files each: 100,000 handles
_OPEN = ("lang", "util", "util.concurrent", "net", "io", "nio", "lang.reflect", "text", "time",
         "util.concurrent.atomic", "util.concurrent.locks")  # fmt: skip


class Run(NamedTuple):
    """What a command took and printed."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    output: str

    def told(self, name: str, rows: int = 0) -> str:
        rate = f"   {rows / self.cpu_seconds:10,.0f} rows/s of processor" if rows else ""
        return (
            f"{name:54} {self.seconds:7.2f} s   {self.cpu_seconds:7.2f} s CPU   {self.peak_bytes / 1e6:6.0f} MB{rate}"
        )


def run(words: Sequence[str | Path]) -> Run:
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    seconds = time.perf_counter() - began
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, output)


def eoctl(*words: str | Path) -> Run:
    return run([sys.executable, "-m", "eoctl.cli.main", *words])


class Flink:
    """The program, compiled."""

    def __init__(self, work: Path) -> None:
        home = ROOT / ".venv-flink2.3"
        jars = [*home.glob("lib/python3*/site-packages/pyflink/lib/*.jar"), *home.glob("eoctl-jars/flink-state-*.jar")]
        if not any("state-processor" in jar.name for jar in jars):
            sys.exit("no flink-state-processor-api: scripts/setup-flink gets it where mvn is")
        self._path = os.pathsep.join(map(str, [work / "classes", *jars]))
        self._scratch = work / "tmp"
        self._scratch.mkdir()
        subprocess.run(["javac", "-nowarn", "-d", work / "classes", "-cp", self._path, PROGRAM], check=True)

    def __call__(self, *words: str | Path) -> Run:
        opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPEN]
        return run(["java", "-Xmx1g", *opened, "-cp", self._path, "ManyEntries", *words, self._scratch])


def make_metadata(work: Path) -> Path:
    """A checkpoint of 100,000 handles; only its `_metadata` is there."""
    root, draw = work / "checkpoints" / JOB, random.Random(1)

    def name() -> str:
        return str(uuid.UUID(int=draw.getrandbits(128)))

    def handle(subtask: int) -> Incremental:
        tables = (
            NamedFile(f"{n:06d}.sst", AbsoluteFile(f"file:{root}/shared/{name()}", 64 << 20)) for n in range(TABLES)
        )
        private = (
            NamedFile("MANIFEST-000005", RelativeFile(name(), 900)),
            NamedFile("CURRENT", Inline(name(), b"MANIFEST-000005\n")),
            NamedFile("OPTIONS-000017", RelativeFile(name(), 20_000)),
        )
        start, stop = subtask * 128 // SUBTASKS, (subtask + 1) * 128 // SUBTASKS
        return Incremental(
            7, name(), start, stop, Inline(name(), bytes(header.data)), tuple(tables), private, 1, name()
        )

    header = Buffer()
    states = [StateSchema(name=f"s{n}", kind="value", key="string", namespace="void", value="long") for n in range(4)]
    write_keyed_header(header, header_of(states))
    operators = tuple(
        Operator(
            id=operator_id(f"op-{number}"),
            uid=f"op-{number}",
            name=f"op {number}",
            parallelism=SUBTASKS,
            max_parallelism=128,
            coordinator=None,
            subtasks=tuple(Subtask(index, managed_keyed=handle(index)) for index in range(SUBTASKS)),
        )
        for number in range(OPERATORS)
    )
    folder = root / "chk-7"
    folder.mkdir(parents=True)
    metadata = Metadata(6, 7, (), operators, CANONICAL_SAVEPOINT, None)
    (folder / "_metadata").write_bytes(write_metadata(metadata))
    return folder


def measure(work: Path, rows: int, savepoints: Path | None, repetitions: int) -> None:
    flink = Flink(work)
    if savepoints is None:
        savepoints = work / "savepoints"
        flink("write", savepoints, str(rows))
    canonical, native = sorted(savepoints.glob("savepoint-*"), key=lambda folder: len(list(folder.iterdir())))
    for _ in range(repetitions):
        for name, folder in (("RocksDB's tables", native), ("canonical savepoint", canonical)):
            target = work / "state.parquet"
            done = eoctl("state", "export", folder, "--operator", "totals", "--state", "total", "--to", target)
            print(done.told(f"state export, {name}", rows), flush=True)
            target.unlink()
        done = flink("read", canonical)
        assert f" {rows} " in done.output, done.output
        print(done.told("Flink's SQL connector, canonical savepoint", rows), flush=True)
    folder = make_metadata(work)
    for words in (("inspect",), ("inspect", "--operators"), ("files", "-q")):
        print(eoctl("checkpoint", *words, folder).told(f"checkpoint {' '.join(words)}, 100,000 handles"), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=float, default=10)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--savepoints", type=Path, help="what an earlier run wrote")
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="flink-", dir=options.work))
    try:
        measure(work, round(options.millions * 1_000_000), options.savepoints, options.repetitions)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
