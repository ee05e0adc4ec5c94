"""Functions with state of a key: what a time to live and timers leave behind, and how much memory they take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.operators.keyed import FORGET, KeyedContext, MapState, Process, ValueState
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.records import Batch
from eoctl.runtime.state.backend import StateBackend
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.state.rocksdb import RocksState

TTL = 1000
Make = Callable[..., Process]


@pytest.fixture(params=[HeapState, RocksState])
def make(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    state: StateBackend = request.param(tmp_path, 128, "a-")

    def opened(*words: Any, **named: Any) -> Process:
        process = Process(*words, **named)
        context = Context(uid="f", subtask=0, parallelism=1, max_parallelism=128, state=state, key_type="string")
        process.open(context)
        return process

    yield opened
    state.close()


def feed(process: Process, *records: tuple[str, int], value: object = None) -> list[Any]:
    keys: list[object] = [key for key, _ in records]
    times = [time for _, time in records]
    out = process.process(Batch([value] * len(keys), times, keys), 0)
    return [] if out is None else out.values


def test_a_value_lives_from_when_it_was_last_set(make: Make) -> None:
    def function(context: KeyedContext, record: object) -> list[Any]:
        state = context.state("seen")
        before = state.get()
        if record is not None:
            state.set(record)
        return [before]

    process = make((function,), [ValueState("seen", "long", ttl_ms=TTL)])
    assert feed(process, ("a", 0), value=1) == [None]
    assert feed(process, ("a", 500), value=2) == [1]
    process.advance(1200)
    assert feed(process, ("a", 1300)) == [2], "set again at 500"
    process.advance(1499)
    assert feed(process, ("a", 1499)) == [2]
    process.advance(1500)
    assert feed(process, ("a", 1600)) == [None]
    assert len(process._handles[0]._view) == 0


def test_a_late_record_sets_back_when_a_value_dies(make: Make) -> None:
    process = make((lambda context, record: context.state("m").put(1, 2),), [MapState("m", "long", ttl_ms=TTL)])
    feed(process, ("a", 900), ("a", 100))
    process.advance(1099)
    assert len(process._handles[0]._view) == 1
    process.advance(1100)
    assert len(process._handles[0]._view) == 0


def test_a_key_that_is_set_often_is_remembered_once(make: Make) -> None:
    process = make((lambda context, record: context.state("v").set(1),), [ValueState("v", ttl_ms=10**9)])
    for time in range(0, 5000, 100):
        feed(process, *(("hot", time + more) for more in range(100)))
        process.advance(time)
    [handle] = process._handles
    assert len(handle._looks) == 1


def test_timers_that_are_set_anew_with_each_record_fire_once_and_are_forgotten(make: Make) -> None:
    def function(context: KeyedContext, _: object) -> None:
        until = context.state("until")
        if until.get() is not None:
            context.delete_timer(until.get())
        until.set(context.timestamp + 10**6)
        context.set_timer(until.get())

    process = make((function,), [ValueState("until", "long")], lambda context, time: [(context.key, time)])
    for time in range(0, 10 * FORGET, 512):
        feed(process, *(("busy", time + more) for more in range(512)))
        process.advance(time)
    assert len(process._timers._due) <= FORGET + 2
    feed(process, ("idle", 0))
    fired = process.advance(10**8)
    assert fired is not None
    assert fired.values == [("idle", 10**6), ("busy", 10 * FORGET - 1 + 10**6)]
