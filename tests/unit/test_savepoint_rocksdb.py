"""State of the runtime moves between its backends by a savepoint: every kind of state, timers, another parallelism."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.operators.keyed import KeyedContext, ListState, MapState, ValueState
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.recovery import Choice
from eoctl.runtime.sinks.files import Files
from formats.errors import IncompatibleError
from tests.support.places import local_store
from tests.unit.test_runtime_run import execute, output, source
from tests.unit.test_savepoint_runtime import save

pytestmark = [pytest.mark.rocksdb, pytest.mark.slow]
COUNT = 120


def build(tmp_path: Path, state: str, parallelism: int) -> Pipeline:
    pytest.importorskip("rocksdict")
    options = Options(interval=0.0, batch_size=32, state=state)
    pipeline = Pipeline("p", parallelism=parallelism, options=options)
    states: list[ValueState | ListState | MapState] = [
        ValueState("n", "long"),
        ListState("all"),
        MapState("digits", "long", "long"),
    ]

    def add(context: KeyedContext, record: Any) -> None:
        context.state("n").set((context.state("n").get() or 0) + 1)
        context.state("all").append(record[1])
        digits = context.state("digits")
        digits.put(record[1] % 10, (digits.get_entry(record[1] % 10) or 0) + 1)
        context.set_timer(10**6)

    def tell(context: KeyedContext, _: int) -> Iterator[Any]:
        entries = sorted(context.state("digits").items())
        yield context.key, context.state("n").get(), sorted(context.state("all").get()), entries

    keyed = source(pipeline, COUNT).key_by(lambda record: record[0], type="string")
    keyed.process("all", add, states=states, on_timer=tell).sink("out", Files(tmp_path / "out"))
    return pipeline


@pytest.mark.parametrize(("before", "after"), [("rocksdb", "rocksdb"), ("rocksdb", "heap"), ("heap", "rocksdb")])
def test_a_savepoint_moves_all_state_to_any_backend(tmp_path: Path, before: str, after: str) -> None:
    store = local_store(tmp_path)
    rounds = iter([False] * 3)
    first = execute(store, build(tmp_path, before, 2), tmp_path, stop=partial(next, rounds, True))
    assert 0 < first.records < 2 * COUNT
    if (before, after) == ("rocksdb", "heap"):
        with pytest.raises(IncompatibleError, match="is to be restored into eoctl"):
            execute(store, build(tmp_path, after, 2), tmp_path)
    save(store, "move")
    execute(store, build(tmp_path, after, 3), tmp_path, choice=Choice(snapshot="move"))
    numbers = [(f"k{n % 7}", n * 10 + split) for split in range(2) for n in range(COUNT)]
    assert output(tmp_path) == [
        [key, len(mine), mine, sorted([digit, n] for digit, n in Counter(one % 10 for one in mine).items())]
        for key in sorted({key for key, _ in numbers})
        for mine in [sorted(one for other, one in numbers if other == key)]
    ]
