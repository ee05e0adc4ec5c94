"""`eoctl selftest`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoctl.selftest import simulation
from eoctl.selftest.faults import Fault
from tests.cli.conftest import CommandLine
from tests.simulation.bugs import planted

pytestmark = pytest.mark.thorough

FEW = ("--seed", "3", "--hours", "3")


def test_a_run_says_what_it_did_and_replays(eoctl: CommandLine) -> None:
    first, second = (eoctl.ok("selftest", *FEW).lines for _ in range(2))
    assert [line.split("  ")[0] for line in first] == [
        "Seed", "Simulated", "Commits", "Restores", "Gc runs", "Checked", "Faults", "Trace hash", "Violations", "Took"
    ]  # fmt: skip
    assert first[:-1] == second[:-1]
    assert " 3 hours, " in first[1]
    assert first[-2].split() == ["Violations", "0"]


def test_no_store_is_touched_or_needed(eoctl: CommandLine) -> None:
    eoctl.ok("selftest", *FEW, "-q")
    assert not eoctl.store.exists()


def test_without_a_seed_one_is_drawn_and_told(eoctl: CommandLine) -> None:
    answer = json.loads(eoctl.ok("selftest", "--hours", "1", "--json").out)
    again = json.loads(eoctl.ok("selftest", "--hours", "1", "--seed", answer["runs"][0]["seed"], "--json").out)
    assert answer["trace_hash"] == again["trace_hash"]


def test_each_run_is_a_line(eoctl: CommandLine) -> None:
    rows = [json.loads(line) for line in eoctl.ok("selftest", *FEW, "--runs", "2", "--jsonl").lines]
    assert [(row["seed"], row["hours"], row["violation"]) for row in rows] == [(3, 3, ""), (4, 3, "")]
    assert set(rows[0]["faults"]) == set(Fault)
    alone = json.loads(eoctl.ok("selftest", *FEW, "--jsonl").out)
    assert alone == rows[0]


def test_a_violation_is_told_with_the_seed_to_replay_it(eoctl: CommandLine) -> None:
    with planted("attempts are not compared"):
        done = eoctl("selftest", "--seed", "1", "--hours", "12")
    assert done.code == 3
    assert "replay: eoctl selftest --seed 1 --hours 12" in done.err
    assert "Violations  1" in done.out


def test_nothing_is_left_behind(eoctl: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation, "MEMORY", tmp_path)
    eoctl.ok("selftest", *FEW)
    assert list(tmp_path.glob("eoctl-selftest-*")) == []
