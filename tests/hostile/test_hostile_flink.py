"""A short form of what `python -m tests.hostile.flink` does."""

from __future__ import annotations

import tracemalloc

import pytest

from formats.errors import EoctlError
from formats.flink.metadata import read_metadata
from tests.hostile.flink import mutants, truncations, try_one
from tests.support.flink import metadata_files


def test_truncated_metadata_is_refused_with_its_byte():
    tried = [try_one(data) for data in truncations(step=331)]
    assert len(tried) > 2000
    assert not any(tried)


def test_three_thousand_mutants_are_refused_or_are_just_what_they_say():
    accepted = sum(try_one(data) for data in mutants(3_000, 3))
    assert 0 < accepted < 3_000


def test_a_length_that_lies_costs_no_memory():
    name, data = next(metadata_files())
    tracemalloc.start()
    try:
        for at in range(8, 6000, 31):
            with_lie = data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :]
            try:
                read_metadata(with_lie)
            except EoctlError:
                continue
        assert tracemalloc.get_traced_memory()[1] < 8 << 20, name
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_every_seventh_truncation_and_a_hundred_thousand_mutants():
    assert not any(try_one(data) for data in truncations(step=7))
    assert sum(try_one(data) for data in mutants(100_000, 4)) > 0
