"""The benchmarks of single commands: start-up, listing, and an increment on a large state."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.benchmarks.lifecycle import Bench, progress, take_turns
from scripts.benchmarks.machine import find_program
from scripts.benchmarks.measure import Runner, Sample
from scripts.benchmarks.report import MB, Report, Target, cost_table
from scripts.benchmarks.results import Metric, Results
from scripts.benchmarks.targets import LIST_CPU_MS, UNCHANGED_STATE_RATIO, cpu_ms, quotient, start_targets
from scripts.benchmarks.tools import Commands, Tool, borg, eoctl, fill, restic, split_missing
from scripts.benchmarks.workloads import Chain, make_tables

START_COMMANDS = (
    ("eoctl", "--version"),
    ("eoctl", "--help"),
    ("eoctl", "checkpoint", "list", "--help"),
    ("restic", "version"),
    ("borg", "--version"),
)
SMALL_FILES = 100
NEW_FILES = 10
SCAN = "os.scandir + stat"


def startup(bench: Bench) -> Iterator[Report]:
    """What it costs to start."""
    results = Results()
    names = {" ".join(command): command for command in START_COMMANDS}
    present = {name: command for name, command in names.items() if find_program(command[0])}
    results.missing = tuple(name for name in names if name not in present)

    def start(name: str, rep: int) -> None:
        sample = bench.runner.run(present[name])
        if rep > 0:
            results.add("start", name, sample, (present[name],))

    take_turns(tuple(present), bench, start)
    yield Report(
        name="startup",
        title="Start-up",
        notes=(f"Medians of {bench.reps} runs, commands in turn.",),
        table=cost_table(results, ("start",), tuple(names)),
        targets=start_targets(results),
        results=results,
    )


def list_checkpoints(bench: Bench) -> Iterator[Report]:
    """Listing many checkpoints."""
    counts = {"eoctl": 10, "restic": 3, "borg": 3} if bench.quick else {"eoctl": 1000, "restic": 100, "borg": 100}
    tools = {"eoctl": eoctl(), "restic": restic("restic"), "borg": borg("borg")}
    present = {name: tool for name, tool in tools.items() if find_program(tool.program)}
    results = Results(missing=tuple(name for name in tools if name not in present))
    folder = bench.scratch.fresh("list")
    repos = {name: folder / name for name in present}
    built: dict[str, str] = {}
    for name, repo in repos.items():
        progress(f"{name}: {counts[name]} snapshots")
        if name == "eoctl":
            built[name] = build_store_with_checkpoints(bench.runner, repo, counts[name])
        else:
            built[name] = build_repository(bench.runner, present[name], repo, counts[name])

    def show(name: str, rep: int) -> None:
        commands = fill(present[name].list, {"repo": repos[name]})
        sample = Sample(error=built[name]) if built[name] else bench.runner.run_all(commands)
        if rep > 0:
            results.add("list", name, sample, commands)

    take_turns(tuple(present), bench, show)
    yield Report(
        name="list",
        title=f"Listing {counts['eoctl']:,} checkpoints",
        notes=(f"The peers list fewer: {counts['restic']} in restic, {counts['borg']} in borg.",),
        table=cost_table(results, ("list",), tuple(tools)),
        targets=(cpu_ms(results, "list", "eoctl", LIST_CPU_MS),),
        results=results,
    )


def build_store_with_checkpoints(runner: Runner, path: Path, count: int) -> str:
    """A store at `path` with `count` checkpoints of one small changing file; says why if that failed."""
    return build_repository(runner, eoctl(), path, count)


def build_repository(runner: Runner, tool: Tool, path: Path, count: int) -> str:
    """The same for every tool, by one command for each snapshot."""
    rng = random.Random(count)
    source = path.with_name(f"{path.name}-source")
    source.mkdir()
    values = {"repo": path, "source": source}
    error = runner.run_all(fill(tool.prepare, values)).error
    for step in range(1, count + 1):
        if error:
            break
        (source / "state.bin").write_bytes(rng.randbytes(4096))
        error = runner.run_all(fill(tool.next if step > 1 else tool.first, values | {"step": step})).error
    return error


def increment(bench: Bench) -> Iterator[Report]:
    """Cost does not grow with unchanged state: the same increment on a small and on a large one."""
    large_files, file_bytes = (1000, MB) if bench.quick else (100_000, 10 * MB)
    tool = eoctl()
    results = Results()
    _, results.missing = split_missing((tool,))
    steps = 1 + bench.warmup + bench.reps
    rows = {files: f"{NEW_FILES} new on {files:,}" for files in (SMALL_FILES, large_files)}
    scan_row = f"stat {large_files:,} files"
    stores: dict[int, _Store] = {}
    for files in () if results.missing else rows:
        progress(f"{files:,} sparse files: state and full snapshot")
        chain = bench.scratch.state(
            "increment", make_tables, steps=steps, files=files, file_bytes=file_bytes, new_files=NEW_FILES
        )
        stores[files] = _Store(bench, tool, chain, bench.scratch.fresh(f"increment-{files}") / "repo")
        full, commands = stores[files].create(1)
        results.add(f"full of {files:,}", tool.name, full, commands)
    for step in () if results.missing else range(2, steps + 1):
        measured = results if step > 1 + bench.warmup else Results()
        for files, row in rows.items():
            sample, commands = stores[files].create(step)
            measured.add(row, tool.name, sample, commands)
        measured.add(scan_row, SCAN, scan(stores[large_files].chain.checkpoint(step)))
    order = [*(f"full of {files:,}" for files in rows), *rows.values(), scan_row]

    def target(metric: Metric) -> Target:
        large, least = (results.median(rows[files], tool.name, metric) for files in (large_files, SMALL_FILES))
        listing = results.median(scan_row, SCAN, metric)
        rest = None if large is None or listing is None else large - listing
        text = f"(T({large_files:,}) - T(stat)) / T({SMALL_FILES}), {metric.split('_')[0]}"
        return Target(text=text, measured=quotient(rest, least), limit=UNCHANGED_STATE_RATIO)

    yield Report(
        name="increment",
        title=f"An increment of {NEW_FILES} files on {SMALL_FILES} and on {large_files:,}",
        notes=(f"Sparse files of {file_bytes // MB} MB. Medians of {bench.reps} increments, in turn.",),
        table=cost_table(results, order, (tool.name, SCAN)),
        targets=(target("wall_seconds"), target("cpu_seconds")),
        results=results,
    )


def scan(folder: Path) -> Sample:
    """What it costs Python to list a folder and stat every file in it."""
    wall, cpu = time.perf_counter(), time.process_time()
    with os.scandir(folder) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False).st_mtime_ns) for entry in entries)
    took = Sample(wall_seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)
    return took if found else Sample(error="an empty folder")


class _Store:
    """One eoctl store that takes the checkpoints of one chain; after a failure all that follows is void."""

    def __init__(self, bench: Bench, tool: Tool, chain: Chain, repo: Path) -> None:
        self.chain = chain
        self._runner = bench.runner
        self._tool = tool
        self._repo = repo
        self._error = bench.runner.run_all(self._filled(tool.prepare, 1)).error

    def create(self, step: int) -> tuple[Sample, Commands]:
        commands = self._filled(self._tool.next, step)
        if self._error:
            return Sample(error=self._error), commands
        with self.chain.shown(step):
            sample = self._runner.run_all(commands)
        self._error = sample.error and f"step {step} failed: {sample.error}"
        return sample, commands

    def _filled(self, commands: Commands, step: int) -> Commands:
        return fill(commands, {"repo": self._repo, "source": self.chain.current, "step": step})


Benchmark = Callable[[Bench], Iterator[Report]]
