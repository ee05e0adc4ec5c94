"""Savepoints of random states: what goes in comes out, whatever is mapped, merged, hashed anew, and by whomever."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from eoctl.services.rescale import Deal, restore_rows
from eoctl.services.savepoint import Wish, create_folder, create_in_store, export, import_folder
from eoctl.services.savepoint_build import SnapshotSource, names_of
from eoctl.services.savepoint_check import check_folder
from eoctl.services.savepoint_sources import source_of_folder, source_of_snapshot
from eoctl.services.savepoint_values import SavepointCreated
from eoctl.services.state import Filter, count
from formats.errors import IncompatibleError
from formats.ids import PipelineId
from formats.keygroups import java_string_hash, key_group_of, subtask_of
from formats.manifest import Inline, StateFile
from formats.remap import OperatorMapping, plan_remap
from formats.state import Kind, StateSchema
from storage.store import Store
from tests.support.states import MAX_PARALLELISM, Operator, Row, content, table_checkpoint
from tests.support.stores import at, new_store

pytestmark = pytest.mark.thorough

VALUE = StateSchema(name="sum", kind="value", key="string", value="long")
MAP = StateSchema(name="by day", kind="map", key="string", map_key="string", value="long")
LIST = StateSchema(name="pending", kind="operator-list", value="string")
BROADCAST = StateSchema(name="rules", kind="broadcast", key="string", value="string")
TIMER = StateSchema(name="late", kind="timer", key="string")

few = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def text_bytes(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode("ascii")


def group(key: str, limit: int = MAX_PARALLELISM) -> int:
    return key_group_of(java_string_hash(key), limit)


_words = st.text("abcxyz", max_size=3)
_longs = st.integers(-(2**63), 2**63 - 1).map(lambda number: struct.pack(">q", number))


@st.composite
def operators(draw: st.DrawFn) -> Operator:
    parallelism = draw(st.integers(1, 5))
    values = draw(st.dictionaries(_words, _longs, max_size=12))
    days = draw(st.dictionaries(st.tuples(_words, _words), _longs, max_size=12))
    lists = draw(st.lists(st.lists(_words, max_size=4), min_size=parallelism, max_size=parallelism))
    rules = draw(st.dictionaries(_words, _words, max_size=4))
    timers = draw(st.sets(st.tuples(_words, _longs), max_size=6))
    rows_by_day = tuple(
        (group(key), text_bytes(key), b"", text_bytes(day), value) for (key, day), value in days.items()
    )
    elements = tuple(
        (subtask, struct.pack(">i", place), b"", b"", text_bytes(element))
        for subtask, found in enumerate(lists)
        for place, element in enumerate(found)
    )
    states: tuple[tuple[StateSchema, tuple[Row, ...]], ...] = (
        (VALUE, tuple((group(key), text_bytes(key), b"", b"", value) for key, value in values.items())),
        (MAP, rows_by_day),
        (LIST, elements),
        (TIMER, tuple((group(key), text_bytes(key), b"\0", time, b"") for key, time in timers)),
        (BROADCAST, tuple((0, text_bytes(key), b"", b"", text_bytes(value)) for key, value in rules.items())),
    )
    return Operator(states=states, parallelism=parallelism)


_pipelines = st.dictionaries(st.sampled_from(["totals", "joins", "sink", "a/b=c"]), operators(), min_size=1, max_size=3)


@contextmanager
def a_store() -> Iterator[tuple[Store, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="savepoints-"))
    try:
        yield new_store(folder, memory=False), folder
    finally:
        shutil.rmtree(folder)


def taken(store: Store, folder: Path, found: Mapping[str, Operator], pipeline: str = "orders") -> None:
    offsets = {uid: {"part-0": number} for number, uid in enumerate(found)}
    table_checkpoint(store, pipeline, found, folder / "sources", offsets=offsets)


def saved(store: Store, address: str, name: str, **wish: object) -> SavepointCreated:
    with source_of_snapshot(store, at(store, address)) as source:
        return create_in_store(source, store, name, Wish(**wish))  # type: ignore[arg-type]  # as given


def content_at(store: Store, address: str) -> dict[tuple[str, str, str], list[Row]]:
    with source_of_snapshot(store, at(store, address)) as source:
        return content(source)


@few
@given(_pipelines)
def test_a_savepoint_holds_what_the_snapshot_holds(found: dict[str, Operator]) -> None:
    with a_store() as (store, folder):
        taken(store, folder, found)
        before = content_at(store, "orders@1")
        saved(store, "orders@1", "first")
        assert content_at(store, "orders@first") == before
        assert counts_at(store, "orders@1") == {
            name: (len(rows), len({row[:2] for row in rows}), len({row[0] for row in rows}))
            for name, rows in before.items()
        }
        saved(store, "orders@first", "second")  # of a savepoint
        assert content_at(store, "orders@second") == before
        head = export(store, at(store, "orders@first"), folder / "out")
        assert export(store, at(store, "orders@second"), folder / "again") == head
        assert check_folder(folder / "out", elapsed=store.ambient.elapsed).damaged == ()
        assert content(source_of_folder(folder / "out")[1]) == before
        import_folder(store, PipelineId("elsewhere"), "third", folder / "out")
        assert content_at(store, "elsewhere@third") == before
        assert {one.uid: one.offsets for one in head.sources} == {uid: {"part-0": n} for n, uid in enumerate(found)}


def counts_at(store: Store, address: str) -> dict[tuple[str, str, str], tuple[int, int, int]]:
    """Rows, keys and key groups of each state."""
    with source_of_snapshot(store, at(store, address)) as source:
        found = [(operator, table) for operator in source.operators for table in operator.open()]
        counts = [(operator, table.schema, count(operator, table, Filter())) for operator, table in found]
        return {(one.state.id, schema.name, schema.kind): (n.rows, n.keys, n.key_groups) for one, schema, n in counts}


@pytest.mark.slow
@few
@given(
    operators(), st.dictionaries(st.integers(0, 4), st.binary(min_size=1, max_size=9), min_size=1), st.integers(1, 6)
)
def test_records_in_flight_go_along_or_nothing_goes(
    found: Operator, flying: dict[int, bytes], parallelism: int
) -> None:
    flying = {index: data for index, data in flying.items() if index < found.parallelism} or {0: b"record"}
    with a_store() as (store, folder):
        taken(store, folder, {"totals": found})
        with source_of_snapshot(store, at(store, "orders@1")) as resting:
            source = with_records(resting, flying)
            create_in_store(source, store, "s", Wish())
            export(store, at(store, "orders@s"), folder / "out")
            _, saved = source_of_folder(folder / "out")
            create_folder(saved, folder / "again", Wish(), elapsed=store.ambient.elapsed)
            assert bytes_of(folder / "again") == bytes_of(folder / "out")
            carried = {name: data for name, data in bytes_of(folder / "out").items() if name.endswith("/records")}
            assert {int(name.split("/")[1]): data for name, data in carried.items()} == flying
            wish = Wish(mapping=OperatorMapping(remap=(("totals", "sums"),)))
            deal, target = Deal(parallelism=parallelism), folder / "no"
            for opened in (source, saved):
                with pytest.raises(IncompatibleError, match="records in flight"):
                    create_folder(opened, target, wish, elapsed=store.ambient.elapsed)
                with pytest.raises(IncompatibleError, match="records in flight"):
                    restore_rows(opened, target, deal, scratch=folder, elapsed=store.ambient.elapsed)
                assert not target.exists()


def with_records(source: SnapshotSource, flying: Mapping[int, bytes]) -> SnapshotSource:
    """The snapshot as if it were unaligned: these records were on their way to the subtasks of its operator."""
    (operator,) = source.operators
    subtasks = []
    for subtask in operator.state.subtasks:
        files = subtask.files
        if data := flying.get(subtask.index):
            place = operator.files / str(subtask.index)
            place.mkdir(parents=True, exist_ok=True)
            (place / "records").write_bytes(data)
            digest = source.hash.digest(data)
            made = StateFile(
                name="records", bytes=len(data), digest=digest, place=Inline(b""), first_stored_in=0, role="in-flight"
            )
            files = (*files, made)
        subtasks.append(replace(subtask, files=files))
    state = replace(operator.state, subtasks=tuple(subtasks))
    return replace(source, operators=(replace(operator, state=state),))


@few
@given(_pipelines, st.data())
def test_a_mapping_and_its_inverse_change_nothing(found: dict[str, Operator], data: st.DataObject) -> None:
    uids = sorted(found)
    goals = data.draw(st.permutations([*uids, "new-one", "new-two"]), label="goals")[: len(uids)]
    forth = OperatorMapping(remap=tuple(zip(uids, goals, strict=True)))
    back = OperatorMapping(remap=tuple(zip(goals, uids, strict=True)))
    with a_store() as (store, folder):
        taken(store, folder, found)
        saved(store, "orders@1", "forth", mapping=forth)
        saved(store, "orders@forth", "back", mapping=back)
        assert content_at(store, "orders@back") == content_at(store, "orders@1")
        heads = [export(store, at(store, f"orders@{name}"), folder / name) for name in ("forth", "back")]
        assert sorted(operator.uid for operator in heads[0].operators) == sorted(goals)
        assert {one.uid: one.offsets for one in heads[1].sources} == {uid: {"part-0": n} for n, uid in enumerate(found)}


@few
@given(operators(), st.integers(5, 300))
def test_keys_hashed_anew_and_back_are_where_they_were(found: Operator, limit: int) -> None:
    with a_store() as (store, folder):
        taken(store, folder, {"totals": found})
        saved(store, "orders@1", "other", max_parallelism=limit)
        assert check_folder_of(store, folder, "other") == ()
        for (_, name, kind), rows in content_at(store, "orders@other").items():
            if kind in {"value", "map", "timer"}:
                assert all(row[0] == group(row[1][1:].decode(), limit) for row in rows), name
        saved(store, "orders@other", "back", max_parallelism=MAX_PARALLELISM)
        assert content_at(store, "orders@back") == content_at(store, "orders@1")


def check_folder_of(store: Store, folder: Path, name: str) -> tuple[object, ...]:
    export(store, at(store, f"orders@{name}"), folder / name)
    return check_folder(folder / name, elapsed=store.ambient.elapsed).damaged


@few
@given(_pipelines)
def test_the_bytes_do_not_depend_on_who_writes_them(found: dict[str, Operator]) -> None:
    with a_store() as (store, folder), ThreadPoolExecutor(2) as pool:
        taken(store, folder, found)
        with source_of_snapshot(store, at(store, "orders@1")) as source:
            for name, executor in (("one", None), ("many", pool)):
                create_folder(source, folder / name, Wish(executor=executor), elapsed=store.ambient.elapsed)
        assert bytes_of(folder / "one") == bytes_of(folder / "many")


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(_words, st.integers(1, 128))
def test_a_key_is_in_the_subtask_that_owns_its_group(key: str, parallelism: int) -> None:
    assert 0 <= subtask_of(group(key), parallelism, MAX_PARALLELISM) < parallelism


def test_a_mapping_of_a_real_snapshot_names_sources_that_are_no_operators() -> None:
    with a_store() as (store, folder):
        table_checkpoint(
            store, "orders", {"totals": Operator(states=((VALUE, ()),))}, folder / "s", offsets={"clicks": {"p": 1}}
        )
        with source_of_snapshot(store, at(store, "orders@1")) as source:
            moves = plan_remap(names_of(source), OperatorMapping(remap=(("clicks", "views"),)))
        assert [(str(move.old), str(move.new), move.action) for move in moves] == [
            ("totals", "totals", "kept"),
            ("clicks", "views", "remapped"),
        ]


@pytest.mark.parametrize("kind", ["value", "map"])
def test_states_of_one_name_and_two_kinds_are_two_tables(kind: Kind) -> None:
    other = StateSchema(name="sum", kind="operator-list")
    with a_store() as (store, folder):
        keyed = StateSchema(name="sum", kind=kind)
        states = ((keyed, [(3, b"k", b"", b"", b"v")]), (other, [(0, bytes(4), b"", b"", b"e")]))
        table_checkpoint(store, "orders", {"totals": Operator(states=states)}, folder / "s")
        created = saved(store, "orders@1", "s")
        assert sorted(state.path.partition("/")[2] for state in created.states) == ["sum.parquet", "sum~2.parquet"]
        assert content_at(store, "orders@s") == content_at(store, "orders@1")
