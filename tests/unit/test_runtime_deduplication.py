"""De-duplication: exact within the time to live; the Bloom filter's rates, memory and restored knowledge."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.deduplication import BloomPlan, RotatingFilter, places_of
from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sources.generator import Generator
from formats.errors import UsageError
from storage.store import Store
from tests.support.places import local_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return local_store(tmp_path)


def deduplicated(store: Store, tmp_path: Path, records: list[Any], ttl: int, bloom: BloomPlan | None) -> list[Any]:
    """What comes out, in three runs that restore from each other, at parallelism 1, 3, 2."""
    for parallelism, stop_after in ((1, 6), (3, 6), (2, None)):
        pipeline = Pipeline("p", parallelism=parallelism, options=Options(interval=0.0, batch_size=16))
        source = Generator(make=lambda _, a, b: records[a:b], count=len(records))
        stream = pipeline.source("records", source, time=lambda record: record[1], parallelism=1)
        once = stream.key_by(lambda record: record[0]).deduplicate("once", ttl, bloom=bloom)
        once.sink("out", Files(tmp_path / "out"))
        rounds = iter([False] * (stop_after or 10**6))
        run(store, pipeline, Request(stop=lambda rounds=rounds: next(rounds, True), directory=tmp_path / "work"))  # type: ignore[misc]
    files = (tmp_path / "out").glob("*.jsonl")
    return sorted(json.loads(line) for path in files for line in path.read_text().splitlines())


MANY = 10_000_000 if os.environ.get("EOCTL_TEST_LONG") == "1" else 300_000
RECORDS = [[f"k{number * 7 % 50}", number * 10] for number in range(400)]  # each key every 500 ms


def test_of_each_key_the_first_within_the_time_to_live_goes_on(store: Store, tmp_path: Path) -> None:
    expected = []
    last: dict[Any, Any] = {}
    for key, time in RECORDS:
        if key not in last or time >= last[key] + 1200:
            last[key] = time
            expected.append([key, time])
    assert deduplicated(store, tmp_path, RECORDS, 1200, None) == sorted(expected)


def test_a_bloom_filter_lets_no_duplicate_through_also_restored(store: Store, tmp_path: Path) -> None:
    plan = BloomPlan(keys=1000, rate=0.001, ttl_ms=10_000)
    found = deduplicated(store, tmp_path, RECORDS, 10_000, plan)
    assert found == sorted(RECORDS[:50])


@pytest.mark.parametrize("keys", [3000, pytest.param(MANY, marks=pytest.mark.slow)])
def test_the_rate_of_false_positives_is_within_the_stated_one(keys: int) -> None:
    plan = BloomPlan(keys=keys, rate=0.01, ttl_ms=3000)
    rotating = RotatingFilter(plan)
    groups = KeyGroups(plan.max_parallelism)
    wrong = 0
    for number in range(keys):
        wrong += not rotating.is_new(number, groups.of(number), number * 3000 // keys)
    probes = min(keys, 200_000)
    wrong_later = 0
    for number in range(keys, keys + probes):
        places = [one for one in rotating.filters.values() if groups.of(number) in one]
        bits = places_of(number, plan.bits, plan.probes)
        wrong_later += any(one[groups.of(number)].knows(bits) for one in places)
    assert wrong / keys <= 0.01
    assert wrong_later / probes <= 0.01 * 1.1
    used = sum(len(one.bits) for groups_of in rotating.filters.values() for one in groups_of.values())
    assert used == plan.memory_bytes * len(rotating.filters) // plan.generations


def test_keys_are_remembered_for_the_whole_time_to_live_and_then_forgotten() -> None:
    plan = BloomPlan(keys=100, rate=1e-6, ttl_ms=900, generations=4)
    for offset in range(0, 300, 37):
        rotating = RotatingFilter(plan)
        assert rotating.is_new("a", 0, offset)
        assert not rotating.is_new("a", 0, offset + 900)
        rotating.expire(offset + 900)
        assert not rotating.is_new("a", 0, offset + 900)
        assert rotating.is_new("a", 0, offset + 900 + 900 + 1200)
        rotating.expire(offset + 10_000)
        assert rotating.filters == {}


def test_what_is_no_filter_is_refused() -> None:
    for bad in ({"keys": 0}, {"rate": 1.0}, {"ttl_ms": 0}, {"generations": 1}):
        with pytest.raises(UsageError):
            BloomPlan(**{"keys": 1, "rate": 0.1, "ttl_ms": 1, **bad})  # type: ignore[arg-type]
