"""kill -9 at every storage call and every system call of real processes, and power cuts; then everything still works.

`EOCTL_TEST_ALL=1` sweeps every point; otherwise long runs of alike ones (making 256 folders) are sampled.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.crash.bench import Bench, bench

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"


@pytest.fixture(scope="module", name="bench")
def bench_fixture() -> Iterator[Bench]:
    with bench() as ready:
        yield ready


@pytest.mark.parametrize(
    "operation", ["first", "create", "restore", "restore-link", "delete", "undelete", "hold", "release"]
)
def test_a_kill_at_any_storage_call_loses_nothing(bench: Bench, operation: str) -> None:
    calls = bench.storage_calls(operation)
    for at in range(len(calls)):
        for after in (False, True):
            with bench.place(operation) as place:
                bench.kill(bench.job(operation, place, die_at=at, die_after=after), place)
                bench.check_after_kill(operation, place)
