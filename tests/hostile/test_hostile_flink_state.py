"""A short form of what `python -m tests.hostile.flink_state` does."""

from __future__ import annotations

import pytest

from tests.hostile.flink_state import mutants, try_one, victims


def test_what_is_not_changed_is_read():
    for victim in victims():
        handle, data = next(iter(victim.streams.items()))
        assert try_one(victim, handle, data), victim.name


def test_three_hundred_mutants_are_read_or_refused():
    accepted = sum(try_one(*mutant) for mutant in mutants(300, 2))
    assert 0 < accepted < 300


@pytest.mark.slow
def test_ten_thousand_mutants_are_read_or_refused():
    assert sum(try_one(*mutant) for mutant in mutants(10_000, 3)) > 0
