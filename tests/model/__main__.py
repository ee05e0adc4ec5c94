"""`python -m tests.model --config NAME`: one configuration, explored to the end; `--mutant NAME`: how one is caught."""

from __future__ import annotations

import argparse
import gc
import sys

from tests.model.actors import Actors
from tests.model.explorer import Result, explore
from tests.model.mutants import LARGE, LIMITS, MEDIUM, MUTANTS, SMALL

CONFIGS = SMALL | MEDIUM | LARGE | LIMITS


def show(name: str, result: Result) -> None:
    """One line, and the trace to a violation."""
    end = result.violation or ("no violation" if result.finished else "not finished")
    counts = f"{result.states:>12,} states {result.transitions:>13,} transitions {result.depth:>4} steps"
    lines = [f"{name:28} {counts} {result.seconds:>8.1f} s  {end}"]
    lines += [f"    {number:2} {label}" for number, label in enumerate(result.trace, 1)]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model")
    parser.add_argument("--config", action="append", choices=CONFIGS, default=[], help="explore it to the end")
    parser.add_argument("--mutant", action="append", choices=MUTANTS, default=[], help="show how it is caught")
    parser.add_argument("--all", choices=("small", "medium", "mutants"), action="append", default=[])
    arguments = parser.parse_args()
    gc.disable()  # nothing here is a cycle, and millions of tuples are slow to look through
    configs = arguments.config
    configs += [*SMALL] if "small" in arguments.all else []
    configs += [*MEDIUM] if "medium" in arguments.all else []
    mutants = arguments.mutant + ([*MUTANTS] if "mutants" in arguments.all else [])
    bad = 0
    for name in configs:
        result = explore(Actors(CONFIGS[name]))
        bad += result.violation is not None
        show(name, result)
    for name in mutants:
        result = explore(Actors(CONFIGS[MUTANTS[name].where]._replace(broken=name)))
        bad += result.violation is None
        show(name, result)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
