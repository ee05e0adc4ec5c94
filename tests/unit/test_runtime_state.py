"""The heap backend: what a checkpoint writes, what merging costs, what comes back; and that a replay gives the same."""

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from eoctl.runtime.keys import KeyGroups, Split, hash_code
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.recovery import Choice, load
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.state.backend import VOID, Restored, StateSpec, TableFile
from eoctl.runtime.state.columns import batch_of
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.state.serializers import serializer
from eoctl.runtime.windows import Tumbling
from eoctl.services.checkpoint import Opened
from formats.errors import IncompatibleError, InvalidInputError
from formats.ids import PipelineId
from formats.keygroups import KeyGroupRange, java_string_hash, range_of
from formats.sst import SortedTable, merge
from storage.session import open_writer
from storage.store import Store
from tests.support.places import local_store

COUNT = StateSpec(name="count", key="string", value="long")


def heap(folder: Path, prefix: str = "a-") -> HeapState:
    return HeapState(folder, 128, prefix)


def reopened(state: HeapState, files: tuple[TableFile, ...], key_groups: KeyGroupRange | None = None) -> HeapState:
    tables: dict[str, list[SortedTable]] = {}
    for file in files:
        table = SortedTable(pa.memory_map(str(state.directory / file.name)), file.name)
        tables.setdefault(file.state, []).append(table)
    again = HeapState(state.directory, 128, "b-")
    newest_first = {name: tuple(sorted(one, key=lambda table: -table.sequence)) for name, one in tables.items()}
    again.restore([Restored(name, one) for name, one in newest_first.items()], key_groups)
    return again


def put(state: HeapState, spec: StateSpec, values: dict[Any, Any], namespace: Any = VOID) -> None:
    table = state.table(spec)
    table.view(namespace).update(values)
    table.touched(namespace, values)


def test_state_of_every_kind_comes_back(tmp_path: Path) -> None:
    specs = {
        "value": StateSpec(name="v", key="string", value="long"),
        "window": StateSpec(name="w", key="long", namespace="time-window", value="double"),
        "list": StateSpec(name="l", kind="list", key="string", value="string"),
        "map": StateSpec(name="m", kind="map", key="string", map_key="long", value="string"),
        "timer": StateSpec(name="t", kind="timer", key="string"),
        "plain": StateSpec(name="p"),
    }
    contents: dict[str, tuple[Any, dict[Any, Any]]] = {
        "value": (VOID, {"a": 1, "b": -2}),
        "window": ((1000, 2000), {7: 1.5}),
        "list": (VOID, {"a": ["x", "", "y,z"]}),
        "map": (VOID, {("a", 1): "one", ("a", -1): "minus"}),
        "timer": (VOID, {("a", 5): True, ("a", -5): True}),
        "plain": (VOID, {("a", 1): {"x": [1, None]}, "b": (1, 2.0)}),
    }
    state = heap(tmp_path)
    for kind, (namespace, values) in contents.items():
        put(state, specs[kind], values, namespace)
    again = reopened(state, state.freeze().write())
    for kind, (namespace, values) in contents.items():
        assert again.table(specs[kind]).view(namespace) == values, kind
    assert again.unclaimed() == ()


def test_a_change_in_place_after_the_barrier_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    state, spec = heap(tmp_path), StateSpec(name="p")
    value = {"n": 1}
    put(state, spec, {"a": value})
    frozen = state.freeze()
    value["n"] = 2
    assert reopened(state, frozen.write()).table(spec).view(VOID) == {"a": {"n": 1}}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_a_checkpoint_writes_what_changed_and_nothing_else(tmp_path: Path, share: float) -> None:
    state, keys = heap(tmp_path), 20_000
    put(state, COUNT, {f"key-{number}": number for number in range(keys)})
    [base] = state.freeze().write()
    changed = random.Random(1).sample(range(keys), int(keys * share))
    put(state, COUNT, {f"key-{number}": -number for number in changed})
    before, delta = state.freeze().write()
    assert before == base
    assert delta.rows == len(changed)
    assert delta.bytes <= base.bytes * share * 1.1
    put(state, COUNT, {})
    assert state.freeze().write() == (base, delta), "nothing changed, nothing written"


def test_merging_writes_a_few_times_what_changed_and_keeps_few_tables(tmp_path: Path) -> None:
    state, keys, rng = heap(tmp_path), 4000, random.Random(2)
    put(state, COUNT, {f"key-{number}": 0 for number in range(keys)})
    state.freeze().write()
    expected = {f"key-{number}": 0 for number in range(keys)}
    changed = written = 0
    for step in range(1, 61):
        some = {f"key-{number}": step for number in rng.sample(range(keys), 200)}
        expected |= some
        put(state, COUNT, some)
        changed += len(some)
        known = {file.name for file in state.files["count"]}
        files = state.freeze().write()
        written += sum(file.rows for file in files if file.name not in known)
        assert len(files) <= 8
        state.sweep(frozenset())
    assert written <= 6 * changed
    assert reopened(state, files).table(COUNT).view(VOID) == expected
    assert len(list(tmp_path.iterdir())) == len(files), "what was merged away is gone"


def test_deleted_keys_and_dropped_namespaces_stay_away(tmp_path: Path) -> None:
    state, spec = heap(tmp_path), StateSpec(name="w", key="string", namespace="time-window", value="long")
    put(state, spec, {f"k{number}": number for number in range(100)}, (0, 10))
    put(state, spec, {"x": 1}, (10, 20))
    state.freeze().write()
    table = state.table(spec)
    table.drain([(0, 10)])
    put(state, spec, {"never": 1}, (20, 30))
    table.drain([(20, 30)])
    again = reopened(state, state.freeze().write())
    assert list(again.table(spec).namespaces()) == [(10, 20)]


def test_a_view_goes_on_after_a_checkpoint_of_nothing(tmp_path: Path) -> None:
    state = heap(tmp_path)
    table = state.table(COUNT)
    view = table.view(VOID)
    for values in ({"a": 1}, {}, {"b": 2}):
        before = set(view)
        view.clear()
        view.update(values)
        table.touched(VOID, before | values.keys())
        files = state.freeze().write()
    assert reopened(state, files).table(COUNT).view(VOID) == {"b": 2}


def test_key_groups_are_dealt_out_and_met_by_routing(tmp_path: Path) -> None:
    state = heap(tmp_path)
    keys = {f"key-{number}": number for number in range(500)}
    put(state, COUNT, keys)
    files = state.freeze().write()
    split = Split(3, 128)
    found: dict[Any, Any] = {}
    for subtask in range(3):
        part = reopened(state, files, range_of(subtask, 3, 128)).table(COUNT).view(VOID)
        assert all(split.subtask_of(key) == subtask for key in part)
        found |= part
    assert found == keys


def test_a_state_that_is_declared_otherwise_is_refused(tmp_path: Path) -> None:
    state = heap(tmp_path)
    put(state, COUNT, {"a": 1})
    again = reopened(state, state.freeze().write())
    with pytest.raises(IncompatibleError, match="'count' was saved as"):
        again.table(StateSpec(name="count", key="string", value="string"))


def test_hash_codes_are_those_of_java() -> None:
    assert hash_code("abc") == java_string_hash("abc") == 96354
    assert [hash_code(True), hash_code(False), hash_code(None)] == [1231, 1237, 0]
    assert [hash_code(5), hash_code(-1), hash_code(1 << 40)] == [5, 0, 256]
    assert hash_code(1.5) == 0x3FF80000
    assert hash_code(b"\x01\xff") == 31 * (31 + 1) - 1
    assert hash_code((1, "a")) == 31 * 1 + 97
    assert KeyGroups(128).of(1) != KeyGroups(128).of(1.0), "equal in Python, and not the same key"
    with pytest.raises(InvalidInputError):
        hash_code([1])


def build(tmp_path: Path, parallelism: int) -> Pipeline:
    pipeline = Pipeline("p", parallelism=parallelism, options=Options(interval=0.0, batch_size=16))
    made = Generator(
        make=lambda split, a, b: [(f"k{n * 7 % 31}", n * 10 + split) for n in range(a, b)], count=400, partitions=2
    )
    records = pipeline.source("numbers", made, time=lambda record: record[1])
    keyed = records.key_by(lambda record: record[0], type="string")
    keyed.window("windows", Tumbling(1_000_000)).sink("a", Files(tmp_path / "out"))
    keyed.count("count").sink("b", Files(tmp_path / "out"))
    return pipeline


def state_of(store: Store, tmp_path: Path) -> dict[str, Any]:
    """What the newest checkpoint means: rows of every state, and positions."""
    name = PipelineId("p")
    opened = Opened(store, name, *open_writer(store, name))
    folder = tmp_path / f"loaded-{opened.attempt}"
    loaded = load(opened, build(tmp_path, 1).graph(), Choice(), folder)
    assert loaded is not None
    found: dict[str, Any] = {"positions": loaded.positions("numbers")}
    for uid, state in loaded.states.items():
        for subtask in state.subtasks:
            tables = [
                SortedTable(pa.memory_map(str(loaded.folders[uid] / str(subtask.index) / file.name)))
                for file in subtask.files
                if file.role == "keyed"
            ]
            for batch in merge(sorted(tables, key=lambda table: -table.sequence), keep_tombstones=False):
                found.setdefault(uid, []).extend(map(tuple, (row.values() for row in batch.to_pylist())))
    return {uid: sorted(rows) if isinstance(rows, list) else rows for uid, rows in found.items()}


def test_a_replay_gives_the_same_checkpoint_however_often_and_at_any_parallelism(tmp_path: Path) -> None:
    store = local_store(tmp_path)
    rounds = iter([False] * 5)
    run(store, build(tmp_path, 1), Request(stop=lambda: next(rounds, True), directory=tmp_path / "w"))
    head = store.head(PipelineId("p")).head
    began = head.live[-1].label
    found = []
    for parallelism in (1, 1, 2, 3):
        pipeline = build(tmp_path, parallelism)
        choice = Choice(snapshot=began, allow_repeated_output=True)
        run(store, pipeline, Request(choice=choice, directory=tmp_path / "w"))
        found.append(state_of(store, tmp_path))
    assert found[0]["positions"] == {"generator-0": 400, "generator-1": 400}
    assert len(found[0]["count"]) == 31
    assert all(one == found[0] for one in found)


@pytest.mark.parametrize("size", [3, 300])
def test_columns_made_at_once_are_those_made_one_by_one(size: int) -> None:
    rng = random.Random(size)
    texts = ["".join(chr(rng.randrange(32, 127)) for _ in range(rng.randrange(126))) for _ in range(size)]
    for keys in (texts, [*texts, "naïve"], [*texts, "x" * 200]):
        values = [rng.randrange(-(1 << 63), 1 << 63) for _ in keys]
        distinct = dict(zip(keys, values, strict=True))
        batch = batch_of(COUNT, [(VOID, list(distinct), list(distinct.values()))], KeyGroups(100))
        found = {row["key"]: (row["key_group"], row["value"]) for row in batch.to_pylist()}
        key, value = serializer("string"), serializer("long")
        groups = KeyGroups(100)
        assert found == {key.encode(k): (groups.of(k), value.encode(v)) for k, v in distinct.items()}
        order = [(row["key_group"], row["key"]) for row in batch.to_pylist()]
        assert order == sorted(order)
