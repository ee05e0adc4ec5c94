"""The simulation of everybody on one store: no seed breaks a promise, and a seed is a run, call for call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from eoctl.selftest.faults import Fault
from eoctl.selftest.report import Totals
from eoctl.selftest.simulation import simulate
from formats.errors import CorruptError
from formats.head import decode_head, encode_head
from formats.ids import PipelineId
from storage.edits import first_head
from storage.transfer import each

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
ROOT = Path(__file__).parents[2]
HASH = "from eoctl.selftest.simulation import simulate; print(simulate(5, 6).trace_hash)"


@pytest.mark.parametrize("seed", range(3))
def test_a_day_of_faults_breaks_no_promise(seed: int) -> None:
    report = simulate(seed, 24)
    assert report.violation == "", "\n".join(report.trace)
    assert report.commits >= 100
    assert report.gc_runs >= 5
    assert report.restores >= 10
    assert report.deletes >= 50


def test_a_seed_is_a_run_whatever_the_order_of_sets() -> None:
    hashes = {
        subprocess.run(
            [sys.executable, "-c", HASH],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(hashes) == 1
    assert hashes != {simulate(6, 6).trace_hash + "\n"}


def test_a_run_leaves_nothing_behind_and_work_has_threads_again() -> None:
    simulate(1, 2)
    assert list(each([1, 2], lambda number: -number)) == [-1, -2]


def test_a_wrong_bit_of_head_is_told() -> None:
    data = encode_head(first_head("1" * 32, PipelineId("orders"), "2026-01-01T00:00:00.000Z", "2" * 32))
    with pytest.raises(CorruptError):
        decode_head(data.replace(b'"era":1', b'"era":3'))


@pytest.mark.slow
def test_a_hundred_seeds_meet_every_fault_and_break_no_promise() -> None:
    totals = Totals.of(simulate(seed, 24) for seed in range(100, 200))
    assert [(run.seed, run.violation) for run in totals.runs if run.violation] == []
    assert min(totals.faults[fault] for fault in Fault) >= 20
    assert totals.commits >= 100 * 24 * 5
