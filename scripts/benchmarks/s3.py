"""S3: a state up and down again, beside rclone and plain boto3, on one SeaweedFS in one run.

Only the client is measured; the server works on the same cores, for everybody alike.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.lifecycle import Bench, progress, take_turns
from scripts.benchmarks.machine import find_program
from scripts.benchmarks.measure import Command, Sample
from scripts.benchmarks.report import MB, MIB, SUBJECT, Report, Target, cost_table
from scripts.benchmarks.results import Metric, Results
from scripts.benchmarks.targets import quotient
from scripts.benchmarks.trees import tree_difference
from scripts.s3_server import s3_server
from tests.support.seaweed import REGION, Server

BOTO3, RCLONE = "boto3", "rclone"
PUT, GET, SMALL_PUT, SMALL_GET = "S3 put", "S3 get", "S3 small files", "S3 small files, get"
LIMIT_BYTES = 200 * MB
_BOTO3_PROGRAM = Path(__file__).with_name("s3_boto3.py")


def s3(bench: Bench) -> Iterator[Report]:
    """Large files, then small ones."""
    large, small = bench.scratch.fresh("s3-large"), bench.scratch.fresh("s3-small")
    sizes = [4 << 20] * 3 if bench.quick else [64 << 20] * 12
    _write(large, ((f"{number:06}.sst", size) for number, size in enumerate(sizes)))
    noise = random.Random(1)
    count = 200 if bench.quick else 10_000
    _write(small, ((f"{n % 100:02}/{n:06}", noise.randrange(1000, 20_001)) for n in range(count)))
    names = [name for name in (SUBJECT, RCLONE, BOTO3) if not bench.only or name in bench.only]
    present = tuple(name for name in names if name == BOTO3 or find_program(name) is not None)
    results = Results(missing=tuple(name for name in names if name not in present))
    with s3_server() as server:
        bench.runner.add_environment(server.environment())
        for state, put, get in ((large, PUT, GET), (small, SMALL_PUT, SMALL_GET)):
            take_turns(present, bench, _Turn(bench, server, state, put, get, results))
    yield Report(
        name="s3",
        title=f"S3: {len(sizes)} files of {sizes[0] >> 20} MiB, and {count:,} of 1 to 20 KB",
        notes=(f"Medians of {bench.reps} runs, tools in turn, each into a bucket of its own; every restore compared.",),
        table=cost_table(results, (PUT, GET, SMALL_PUT, SMALL_GET), names),
        targets=(
            _ratio(results, PUT, RCLONE, "cpu_seconds", 0.6),
            _ratio(results, GET, RCLONE, "cpu_seconds", 0.85),
            _ratio(results, PUT, RCLONE, "wall_seconds", 1.0),
            _ratio(results, GET, RCLONE, "wall_seconds", 1.0),
            _peak(results, PUT),
            _peak(results, GET),
            _ratio(results, SMALL_PUT, BOTO3, "wall_seconds", 0.1),
        ),
        results=results,
    )


def s3_memory(bench: Bench) -> Iterator[Report]:
    """Peak memory while a hundred files of 64 MiB go up and come back."""
    files, size = (6, 8 << 20) if bench.quick else (100, 64 << 20)
    state = bench.scratch.fresh("s3-memory")
    _write(state, ((f"{number:06}.sst", size) for number in range(files)))
    results = Results()
    with s3_server() as server:
        bench.runner.add_environment(server.environment())
        take_turns((SUBJECT,), bench, _Turn(bench, server, state, PUT, GET, results))
    yield Report(
        name="s3-memory",
        title=f"S3: peak memory, {files} files of {size >> 20} MiB",
        table=cost_table(results, (PUT, GET), (SUBJECT,)),
        targets=(_peak(results, PUT), _peak(results, GET)),
        results=results,
    )


class _Turn:
    """One tool puts the state into a bucket of its own, and gets it back."""

    def __init__(self, bench: Bench, server: Server, state: Path, put: str, get: str, results: Results) -> None:
        self._bench = bench
        self._server = server
        self._state = state
        self._rows = put, get
        self._results = results

    def __call__(self, tool: str, rep: int) -> None:
        put_row, get_row = self._rows
        progress(f"{put_row}: {tool}, {rep}")
        out = self._bench.scratch.fresh(f"s3-{tool}")
        prepare, put, get = self._commands(tool, self._server.bucket(), out)
        error = self._bench.runner.run_all(prepare).error
        sent = Sample(error=error) if error else self._bench.runner.run(put)
        got = Sample(error=sent.error) if sent.error else self._bench.runner.run(get)
        if not got.error and (wrong := tree_difference(self._state, out / "state")):
            got = Sample(error=f"not what was put: {wrong}")
        if rep > 0:
            self._results.add(put_row, tool, sent, (put,))
            self._results.add(get_row, tool, got, (get,))
        self._bench.scratch.retire(out)

    def _commands(self, tool: str, bucket: str, out: Path) -> tuple[tuple[Command, ...], Command, Command]:
        state, target = str(self._state), str(out / "state")
        endpoint = self._server.endpoint
        match tool:
            case "rclone":
                options = f"provider=Other,env_auth=true,endpoint='{endpoint}',region={REGION}"
                place = f":s3,{options}:{bucket}/state"
                copy = ("rclone", "--config", "/dev/null", "--quiet", "copy", "--s3-no-check-bucket")
                return (), (*copy, state, place), (*copy, place, target)
            case "boto3":
                run = (sys.executable, str(_BOTO3_PROGRAM))
                end = (bucket, "state", endpoint)
                return (), (*run, "put", state, *end), (*run, "get", target, *end)
            case _:
                store = ("--store", self._server.url(bucket, "store"))
                create = ("eoctl", "checkpoint", "create", state, "-p", "bench", *store)
                restore = ("eoctl", "restore", "bench@latest", "--to", target, *store)
                return (("eoctl", "store", "init", *store),), create, restore


def _write(root: Path, files: Iterator[tuple[str, int]]) -> None:
    """Noise, which nobody can compress."""
    noise = random.Random(2)
    for name, size in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, MIB):
                file.write(noise.randbytes(min(MIB, size - start)))


def _ratio(results: Results, row: str, peer: str, metric: Metric, limit: float) -> Target:
    measured = quotient(results.median(row, SUBJECT, metric), results.median(row, peer, metric))
    return Target(text=f"{row}, {metric.split('_')[0]}: {SUBJECT} / {peer}", measured=measured, limit=limit)


def _peak(results: Results, row: str) -> Target:
    peak = results.peak(row, SUBJECT)
    return Target(text=f"{row}: peak MB", measured=None if peak is None else peak / MB, limit=LIMIT_BYTES / MB)
