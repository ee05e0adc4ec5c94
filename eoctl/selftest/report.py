"""What runs of the simulation did, one by one and together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Self

from msgspec import Struct


class Report(Struct, frozen=True, kw_only=True):
    """What a run did. `violation`: what did not hold, with the last calls before it in `trace`; empty where all did.

    `steps`: values of HEAD, each of which was checked. `outcomes`: what the processes were told, by kind.
    """

    seed: int
    hours: int
    calls: int
    commits: int
    restores: int
    gc_runs: int
    deletes: int
    packs_rewritten: int
    steps: int
    faults: dict[str, int]
    outcomes: dict[str, int]
    violation: str
    trace: tuple[str, ...]
    trace_hash: str


class Totals(Struct, frozen=True, kw_only=True):
    """Some runs. `trace_hash`: of the traces of all of them, in order."""

    hours: int
    calls: int
    commits: int
    restores: int
    gc_runs: int
    deletes: int
    packs_rewritten: int
    steps: int
    faults: dict[str, int]
    violations: int
    trace_hash: str
    seconds: float
    runs: tuple[Report, ...]

    @classmethod
    def of(cls, reports: Iterable[Report]) -> Self:
        runs = tuple(reports)
        faults: Counter[str] = Counter()
        for run in runs:
            faults.update(run.faults)
        together = hashlib.blake2b("".join(run.trace_hash for run in runs).encode(), digest_size=16).hexdigest()
        return cls(
            hours=sum(run.hours for run in runs),
            calls=sum(run.calls for run in runs),
            commits=sum(run.commits for run in runs),
            restores=sum(run.restores for run in runs),
            gc_runs=sum(run.gc_runs for run in runs),
            deletes=sum(run.deletes for run in runs),
            packs_rewritten=sum(run.packs_rewritten for run in runs),
            steps=sum(run.steps for run in runs),
            faults=dict(faults),
            violations=sum(bool(run.violation) for run in runs),
            trace_hash=runs[0].trace_hash if len(runs) == 1 else together,
            seconds=0.0,
            runs=runs,
        )
