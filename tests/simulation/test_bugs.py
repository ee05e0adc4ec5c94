"""Negative control: the simulation finds seeded bugs in the real code."""

from __future__ import annotations

import pytest

from eoctl.selftest.simulation import simulate
from tests.simulation.bugs import BUGS, planted

# Bug: the first seed, how many, and hours in each.
QUICK = {
    "swap without compare": (1, 1, 12),
    "attempts are not compared": (1, 1, 12),
    "gc blind to the trash": (1, 2, 24),
    "success on an unknown outcome": (1, 2, 24),
}
# These need two rare things at once; the first seed is one that met them.
RARE = {"no check of what is borrowed": 16, "reuse is not told": 16, "no reading back after a refusal": 44}
SLOW = {name: (RARE[name], 40, 120) if name in RARE else (1, 12, 120) for name in BUGS if name not in QUICK}


def found(name: str, first: int, seeds: int, hours: int) -> str:
    for seed in range(first, first + seeds):
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
