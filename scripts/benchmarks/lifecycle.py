"""One life cycle for every tool in turn: snapshots of a chain, then list, restore, verify and collect."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scripts.benchmarks.measure import Runner, Sample
from scripts.benchmarks.results import Results
from scripts.benchmarks.scratch import Scratch
from scripts.benchmarks.tools import Commands, Tool, fill
from scripts.benchmarks.trees import tree_difference, tree_size
from scripts.benchmarks.workloads import Chain

Item = TypeVar("Item")

COLLECT_RUNS = 6
LATER_ROWS = ("list", "restore", "restore --link", "verify", "gc", "start-up")
BYTES = "bytes stored"
BYTES_AFTER_GC = "bytes after gc"
LIVE_BYTES = "live bytes after gc"
ALLOCATED = "bytes allocated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every benchmark needs to measure anything."""

    runner: Runner
    scratch: Scratch
    reps: int
    warmup: int
    quick: bool  # sizes that show that all works, and nothing more
    sizes_gb: tuple[float, ...] = ()  # empty: those of the benchmark
    only: tuple[str, ...] = ()  # names of tools; empty: those of the benchmark


def progress(text: str) -> None:
    """One line for the person who waits."""
    print(f"  {text}", file=sys.stderr, flush=True)


def take_turns(items: Sequence[Item], bench: Bench, do: Callable[[Item, int], None]) -> None:
    """Calls `do(item, repetition)` for all items in each repetition; 0 and below are warm-up.

    Each repetition starts with another item, so that nobody always follows the same one.
    """
    for turn in range(bench.warmup + bench.reps):
        start = turn % len(items) if items else 0
        for item in (*items[start:], *items[:start]):
            do(item, turn - bench.warmup + 1)


class LifeCycle:
    """Measures tools over one chain; `rows` are those of `LATER_ROWS` that are wanted."""

    def __init__(self, bench: Bench, chain: Chain, rows: Sequence[str] = LATER_ROWS) -> None:
        self._bench = bench
        self._chain = chain
        self._rows = rows
        self._room_bytes = chain.unique_allocated_bytes() + 3 * tree_size(chain.checkpoint(chain.steps)).allocated_bytes

    def measure(self, tools: Sequence[Tool], results: Results) -> None:
        """All tools in turn; the samples of the warm-up are dropped."""
        take_turns(tools, self._bench, lambda tool, rep: self._cycle(tool, rep, results if rep > 0 else Results()))

    def _cycle(self, tool: Tool, rep: int, results: Results) -> None:
        self._bench.scratch.make_room(self._room_bytes)
        folder = self._bench.scratch.fresh(f"{tool.name}-{max(rep, 0)}")
        cycle = _Cycle(self._bench, self._chain, tool, folder, results)
        if cycle.snapshots():
            for row in self._rows:
                cycle.later(row, compare=rep == 1)
        else:
            cycle.give_up(self._rows)
        full = results.median("full", tool.name, "wall_seconds")
        shown = results.void_reason("full", tool.name) or (f"full {full:.2f} s" if full else "done")
        progress(f"{f'repetition {rep}' if rep > 0 else 'warm-up'}, {tool.name}: {shown}")
        self._bench.scratch.retire(folder)


class _Cycle:
    """One tool in one repetition, in a folder of its own."""

    def __init__(self, bench: Bench, chain: Chain, tool: Tool, folder: Path, results: Results) -> None:
        self._bench = bench
        self._chain = chain
        self._tool = tool
        self._folder = folder
        self._results = results
        self._repo = folder / "repo"

    def snapshots(self) -> bool:
        """Whether the first snapshot and all increments succeeded."""
        prepared = self._bench.runner.run_all(self._commands(self._tool.prepare))
        if prepared.error:
            self._results.add("full", self._tool.name, prepared)
            return False
        last = self._chain.steps if self._tool.increments else 2
        for step in range(1, last + 1):
            row = "full" if step == 1 else "incremental"
            commands = self._commands(self._tool.first if step == 1 else self._tool.next, step=step)
            with self._chain.shown(step):
                sample = self._bench.runner.run_all(commands)
            self._results.add(row, self._tool.name, sample, commands)
            if sample.error:
                return False
        size = tree_size(self._repo)
        if self._tool.increments:
            self._results.add_size(BYTES, self._tool.name, size.logical_bytes)
            self._results.add_size(ALLOCATED, self._tool.name, size.allocated_bytes)
        return True

    def give_up(self, rows: Sequence[str]) -> None:
        """What follows a failed snapshot is void too."""
        for row in ("incremental", *rows):
            if row == "incremental" or self._operation(row):
                self._results.add(row, self._tool.name, Sample(error="not run: a snapshot failed"))

    def later(self, row: str, *, compare: bool) -> None:
        """One operation on the finished repository."""
        operation = self._operation(row)
        if not operation:
            return
        match row:
            case "restore" | "restore --link":
                sample = self._restore(row, operation, compare=compare)
            case "gc":
                sample = self._collect(operation)
            case _:
                sample = self._bench.runner.run_all(self._commands(operation))
        self._results.add(row, self._tool.name, sample, self._commands(operation, row=row))

    def _operation(self, row: str) -> Commands:
        tool = self._tool
        known = {
            "list": tool.list,
            "restore": tool.restore,
            "restore --link": tool.restore_link,
            "verify": tool.verify,
            "gc": tool.collect,
            "start-up": tool.start,
        }
        return known[row]

    def _restore(self, row: str, operation: Commands, *, compare: bool) -> Sample:
        out = self._out(row)
        out.mkdir()
        sample = self._bench.runner.run_all(self._commands(operation, row=row), cwd=out)
        if sample.error or not compare:
            return sample
        restored = Path(self._commands(((self._tool.restored,),), row=row)[0][0])
        difference = tree_difference(self._chain.checkpoint(self._last_step), restored)
        return sample.plus(Sample(error=difference))

    def _collect(self, operation: Commands) -> Sample:
        """All runs that it takes: eoctl until it finds nothing to do, which run does not count."""
        runner = self._bench.runner
        total = runner.run_all(self._commands(operation))
        document = _gc_document(runner.output())
        for _ in range(COLLECT_RUNS - 1):
            if total.error or not _did_work(document):
                break
            again = runner.run_all(self._commands(operation))
            document = _gc_document(runner.output())
            if again.error or _did_work(document):
                total = total.plus(again)
        if not total.error:
            self._results.add_size(BYTES_AFTER_GC, self._tool.name, tree_size(self._repo).logical_bytes)
            if document:
                live = sum(int(str(pipeline.get("live_bytes", 0))) for pipeline in document)
                self._results.add_size(LIVE_BYTES, self._tool.name, live)
        return total

    @property
    def _last_step(self) -> int:
        return self._chain.steps if self._tool.increments else 2

    def _out(self, row: str) -> Path:
        return self._folder / row.replace(" ", "")

    def _commands(self, commands: Commands, *, step: int | None = None, row: str = "restore") -> Commands:
        at = step or self._last_step
        dropped = self._chain.steps // 2
        return fill(
            commands,
            {
                "source": self._chain.current,
                "repo": self._repo,
                "out": self._out(row),
                "last": self._chain.checkpoint(self._last_step),
                "step": at,
                "before": at - 1,
                "dropped": dropped,
                "kept": self._chain.steps - dropped,
            },
        )


def _gc_document(text: str) -> list[dict[str, object]]:
    """The pipelines of what `eoctl gc --json` printed; empty for every other tool."""
    try:
        pipelines = json.loads(text)["pipelines"]
    except (ValueError, KeyError, TypeError):
        return []
    return [pipeline for pipeline in pipelines if isinstance(pipeline, dict)]


def _did_work(pipelines: list[dict[str, object]]) -> bool:
    fields = ("expired", "deleted_blobs", "freed_bytes", "repacked_bytes")
    return any(pipeline.get(field) for pipeline in pipelines for field in fields)
