"""verify and gc alone: each tool on copies of one finished repository of small files.

    python -m scripts.benchmarks.upkeep --work DIR            # eoctl, restic and borg, each at its best
    python -m scripts.benchmarks.upkeep --work DIR --reps 0   # only makes what is not there yet

`scripts/bench small` measures the same commands at the end of a whole life cycle, which takes minutes for each tool.
Here states and repositories stay in DIR, with the caches that their tools made; each repetition gets fresh copies.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from scripts.benchmarks.lifecycle import progress
from scripts.benchmarks.measure import Runner
from scripts.benchmarks.report import cost_table
from scripts.benchmarks.results import Results
from scripts.benchmarks.tools import Commands, Tool, eoctl, fill, peers
from scripts.benchmarks.workloads import Chain, make_small_files

STEPS, FILES = 10, 10_000
ROWS = ("verify", "gc")
TOOLS = "eoctl,restic tuned,borg tuned"


class _Upkeep:
    """The finished repositories below `work`."""

    def __init__(self, work: Path, files: int) -> None:
        self._work = work
        self.runner = Runner(_made(work / "runner"), timeout_seconds=1800, min_free_bytes=1 << 30)
        self._chain = Chain(work / "small", STEPS)
        if not self._chain.is_whole():
            progress("making small files")
            self._chain = make_small_files(work / "small", files=files, steps=STEPS)

    def prepare(self, tool: Tool) -> None:
        """The tool's repository is there, with its caches."""
        whole = self._work / f"{_folder(tool)}.whole"
        if whole.exists():
            return
        folder = _made(self._work / _folder(tool))
        progress(f"{tool.name}: {STEPS} snapshots")
        self._run(tool.prepare, folder)
        for step in range(1, STEPS + 1):
            with self._chain.shown(step):
                self._run(tool.first if step == 1 else tool.next, folder, step)
        whole.touch()

    def measure(self, tool: Tool, rep: int, results: Results) -> None:
        """Both rows, on a copy."""
        copy = self._work / f"copy-{_folder(tool)}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._work / _folder(tool), copy)
        for row, commands in (("verify", tool.verify), ("gc", tool.collect)):
            self._environment(copy)
            sample = self.runner.run_all(self._filled(commands, copy))
            results.add(row, tool.name, sample, self._filled(commands, copy))
            progress(f"{rep}, {tool.name}, {row}: {sample.wall_seconds:.2f} s, cpu {sample.cpu_seconds:.2f} s")
        shutil.rmtree(copy)

    def _run(self, commands: Commands, folder: Path, step: int = STEPS) -> None:
        self._environment(folder)
        sample = self.runner.run_all(self._filled(commands, folder, step))
        if sample.error:
            sys.exit(f"{commands[0][0]}: {sample.error}")

    def _environment(self, folder: Path) -> None:
        self.runner.add_environment(
            {"BORG_BASE_DIR": str(folder / "borg"), "RESTIC_CACHE_DIR": str(folder / "restic-cache")}
        )

    def _filled(self, commands: Commands, folder: Path, step: int = STEPS) -> Commands:
        dropped = STEPS // 2
        values = {"source": self._chain.current, "repo": folder / "repo", "step": step, "before": step - 1}
        return fill(commands, {**values, "dropped": dropped, "kept": STEPS - dropped, "out": folder, "last": ""})


def _made(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _folder(tool: Tool) -> str:
    return tool.name.replace(" ", "-")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--tools", default=TOOLS)
    args = parser.parse_args()
    names = args.tools.split(",")
    known = {tool.name: tool for tool in (eoctl(), *peers())}
    tools = [known[name] for name in names]
    upkeep = _Upkeep(args.work.resolve(), args.files)
    for tool in tools:
        upkeep.prepare(tool)
    results = Results()
    for rep in range(args.reps):
        for number in range(len(tools)):  # nobody always follows the same one
            upkeep.measure(tools[(rep + number) % len(tools)], rep + 1, results)
    if args.reps:
        print(cost_table(results, ROWS, names).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
