"""The runtime goes on from a portable savepoint as from the checkpoint that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from eoctl.runtime.pipeline import Pipeline
from eoctl.runtime.recovery import Choice
from eoctl.runtime.sinks.files import Files
from eoctl.services.savepoint import Wish, create_in_store, held_source
from eoctl.services.savepoint_sources import source_of_snapshot
from eoctl.services.state import Filter, find_state, scan
from formats.remap import OperatorMapping
from formats.state_text import RowText
from storage.store import Store
from tests.support.places import local_store
from tests.support.stores import at
from tests.unit.test_runtime_run import SMALL, execute, numbers, output, source


def build(tmp_path: Path, parallelism: int, uid: str = "count") -> Pipeline:
    pipeline = Pipeline("p", parallelism=parallelism, options=SMALL)
    keyed = source(pipeline).key_by(lambda record: record[0], type="string")
    keyed.count(uid).sink("out", Files(tmp_path / "out"))
    return pipeline


def save(store: Store, name: str, remap: Iterable[tuple[str, str]] = ()) -> None:
    with held_source(store, at(store, "p@latest")) as opened:
        create_in_store(opened, store, name, Wish(mapping=OperatorMapping(remap=tuple(remap))))


def counts(store: Store, address: str, uid: str) -> dict[object, object]:
    with source_of_snapshot(store, at(store, address)) as opened:
        operator, table = find_state(opened, uid, None)
        text = RowText(table.schema)
        return {row["key"]: row["value"] for batch in scan(operator, table, Filter()) for row in text.rows(batch)}


@pytest.mark.parametrize(
    ("before", "parallelism", "uid"),
    [(2, 2, "count"), (2, 1, "count"), (1, 1, "count"), (2, 3, "tally"), (1, 3, "tally")],
)
def test_a_run_goes_on_from_a_savepoint(tmp_path: Path, before: int, parallelism: int, uid: str) -> None:
    store = local_store(tmp_path)
    rounds = iter([False] * 8)
    execute(store, build(tmp_path, before), tmp_path, stop=partial(next, rounds, True))
    save(store, "before-upgrade", [("count", uid)] if uid != "count" else [])
    assert counts(store, "p@before-upgrade", uid) == counts(store, "p@latest", "count")
    assert counts(store, "p@before-upgrade", uid)
    execute(store, build(tmp_path, parallelism, uid), tmp_path, choice=Choice(snapshot="before-upgrade"))
    expected = Counter(key for split in range(2) for key, _ in numbers(split, 0, 400))
    assert output(tmp_path) == sorted(
        ([key, n] for key, all_ in expected.items() for n in range(1, all_ + 1)), key=repr
    )
    assert counts(store, "p@latest", uid) == dict(expected)
