"""Negative control: the simulation finds seeded bugs in the real code."""

from __future__ import annotations

import pytest

from eoctl.selftest.simulation import simulate
from tests.simulation.bugs import BUGS, planted

# Bug: how many seeds it may take, and hours in each.
QUICK = {
    "swap without compare": (1, 12),
    "attempts are not compared": (1, 12),
    "gc blind to the trash": (2, 24),
    "success on an unknown outcome": (2, 24),
}
SLOW = {
    name: (40, 120) if name in {"no check of what is borrowed", "reuse is not told"} else (12, 120) for name in BUGS
}


def found(name: str, seeds: int, hours: int) -> str:
    for seed in range(1, seeds + 1):
        with planted(name):
            violation = simulate(seed, hours).violation
        if violation:
            return violation
    return ""


@pytest.mark.parametrize("name", QUICK)
def test_the_simulation_finds(name: str) -> None:
    assert found(name, *QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_the_simulation_finds_in_time(name: str) -> None:
    assert found(name, *SLOW[name])


def test_a_bug_is_gone_after_its_context() -> None:
    with planted("swap without compare"):
        assert simulate(1, 12).violation
    assert simulate(1, 12).violation == ""
