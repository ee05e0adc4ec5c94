"""Mutation fuzzing of every decoder: what it is given is an error of ours, or a value of just these bytes.

    python -m tests.hostile.fuzz --count 10000000 --seed 1 [--target NAME]

The seeds are the golden files and what the tiny store of `specimen.py` holds. A mutant that is told in a new way
joins the seeds, so the search goes where the decoders have not been. A mutant may raise nothing but an `EoctlError`;
what is accepted encodes to the very bytes again, and no name in it leads out of a directory. The same seed gives the
same mutants.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator

from formats.errors import EoctlError
from tests.hostile.decoders import TARGETS, Target
from tests.hostile.mutate import Mutator, Seed, json_seed

MAX_CPU_SECONDS = 5  # for one mutant
MAX_RSS_BYTES = 256 << 20
_BATCH = 500
_MAX_FOUND = 300
_MAX_FOUND_BYTES = 1 << 16


class Fault(Exception):  # noqa: N818  (what is told is the word for it)
    """A mutant that was not told as it should be."""


class Tally:
    """How often each target said what."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.slowest = 0.0

    @property
    def total(self) -> int:
        return self.outcomes.total()


def fuzz(target: Target, count: int, seed: int, tally: Tally) -> None:
    """That many mutants were tried. Raises: Fault."""
    rng = random.Random(f"{target.name} {seed}")
    mutator = Mutator(_seeds(target), rng)
    known: set[str] = set()
    outcomes: Counter[str] = Counter()
    left = count
    while left > 0:
        batch = min(_BATCH, left)
        left -= batch
        # Should one mutant take for ever, this ends it.
        signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
        began = time.process_time()
        try:
            for _ in range(batch):
                outcomes[_try(target, mutator, rng, known)] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        tally.slowest = max(tally.slowest, time.process_time() - began)
    tally.outcomes.update({(target.name, outcome): number for outcome, number in outcomes.items()})


def _try(target: Target, mutator: Mutator, rng: random.Random, known: set[str]) -> str:
    """What the target says of the next mutant."""
    data = target.finish(mutator.mutant(), rng)
    try:
        return target.decode(data)
    except EoctlError as error:
        told = error.message
        if len(mutator.found) < _MAX_FOUND and told not in known and len(data) < _MAX_FOUND_BYTES:
            known.add(told)
            mutator.found.append(Seed(data))
        return error.kind
    except Exception as error:
        message = f"{target.name}: {type(error).__name__}: {error}: {data!r}"
        raise Fault(message) from error


def _seeds(target: Target) -> list[Seed]:
    return [json_seed(data) if target.is_json else Seed(data) for data in target.seeds()]


def shares(count: int, only: str = "") -> Iterator[tuple[Target, int]]:
    """How many mutants each target gets of so many."""
    chosen = [target for target in TARGETS if only in {"", target.name}]
    whole = sum(target.weight for target in chosen)
    left = count
    for target in chosen[1:]:
        share = count * target.weight // whole
        left -= share
        yield target, share
    yield chosen[0], left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", default="", choices=["", *(target.name for target in TARGETS)])
    options = parser.parse_args()
    tally = Tally()
    faults = 0
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for target, share in shares(options.count, options.target):
        try:
            fuzz(target, share, options.seed, tally)
        except Fault as fault:
            faults += 1
            sys.stdout.write(f"FAULT {fault}\n")
    seconds = time.process_time() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10
    for name in dict.fromkeys(name for name, _ in sorted(tally.outcomes)):
        parts = ", ".join(f"{outcome} {n}" for (t, outcome), n in sorted(tally.outcomes.items()) if t == name)
        sys.stdout.write(f"{name:14} {parts}\n")
    sys.stdout.write(
        f"{tally.total} mutants, {faults} faults, {seconds:.0f} s of CPU, {tally.total / max(seconds, 0.001):.0f} a "
        f"second, grown by {grown >> 20} MiB, the slowest {_BATCH} took {tally.slowest:.2f} s\n"
    )
    return 1 if faults or grown > MAX_RSS_BYTES else 0


if __name__ == "__main__":
    sys.exit(main())
