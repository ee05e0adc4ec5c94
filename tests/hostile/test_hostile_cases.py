"""Every bad input gets its error, within memory and time, and changes nothing outside. See docs/hostile-input.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.bounds import MAX_CPU_SECONDS, MAX_RSS_BYTES
from tests.hostile.groups import GROUPS, cases_of

ROOT = Path(__file__).parents[2]
MIN_CASES = 300


def outcomes_of(group: str, *words: str) -> list[dict[str, Any]]:
    """In a process of its own: what it grows by is measured."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.bounds", group, "--json", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.stderr == ""
    assert done.returncode == any(outcome["fault"] for outcome in outcomes)
    return outcomes


@pytest.mark.parametrize("group", GROUPS)
def test_every_bad_input_gets_its_error_within_bounds(group) -> None:
    outcomes = outcomes_of(group)
    assert [outcome for outcome in outcomes if outcome["fault"]] == []
    assert [outcome["name"] for outcome in outcomes] == [case.name for case in cases_of(group)]
    assert max(outcome["rss_bytes"] for outcome in outcomes) <= MAX_RSS_BYTES == 256 << 20
    assert max(outcome["cpu_seconds"] for outcome in outcomes) <= MAX_CPU_SECONDS == 5


def test_there_are_enough_of_them_and_no_two_of_one_name() -> None:
    names = [case.name for group in GROUPS for case in cases_of(group)]
    assert len(names) == len(set(names)) >= MIN_CASES


def test_the_runner_tells_every_fault() -> None:
    told = {
        outcome["name"].removeprefix("control: "): outcome["fault"] for outcome in outcomes_of("controls", "--cpu", "1")
    }
    assert told.pop("sound") == ""
    assert told == {
        "raises nothing": "no CorruptError",
        "raises another kind": "BadNameError: no",
        "raises where nothing is expected": "TooLargeError: no",
        "a bug": "ValueError: no",
        "out of memory": "MemoryError: ",
        "a message that floods": "a message of 100000 characters",
        "grows": told["grows"],
        "spins": "ended by SIGXCPU",
        "writes beside": "wrote outside of its box",
        "changes outside": "wrote outside of its box",
    }
    assert told["grows"].startswith("too much: 30")
