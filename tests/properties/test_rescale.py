"""Rescaling random states: every key in exactly one subtask, nothing lost, and back again as it was."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.engines.tables import TableSource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.rescale import Deal, RestoredState, restore_rows
from eoctl.services.savepoint_sources import source_of_snapshot
from formats.errors import IncompatibleError
from formats.ids import PipelineId
from formats.keygroups import range_of
from formats.remap import OperatorMapping
from formats.rescale import assigned, shares
from formats.sst import SortedTable
from formats.state import StateSchema
from storage.session import open_writer
from storage.store import Store
from tests.properties.test_savepoints import VALUE, a_store, content_at, few, group, operators, taken, text_bytes
from tests.support.states import MAX_PARALLELISM, Operator, Row, rows_of, table_checkpoint
from tests.support.stores import at


def restored(store: Store, address: str, target: Path, **deal: object) -> RestoredState:
    with source_of_snapshot(store, at(store, address)) as source:
        wanted = Deal(**deal)  # type: ignore[arg-type]  # as given
        return restore_rows(source, target, wanted, scratch=target.parent, elapsed=store.ambient.elapsed)


def tables(found: RestoredState) -> dict[tuple[int, str, str], list[Row]]:
    """By subtask, state and kind."""
    rows: dict[tuple[int, str, str], list[Row]] = {}
    for subtask in found.operators:
        for path in sorted(Path(subtask.path).glob("*.parquet")):
            table = SortedTable(pa.OSFile(str(path), "rb"), path.name)
            rows[subtask.subtask, table.schema.name, table.schema.kind] = rows_of(table.scan())
    return rows


def take_again(store: Store, found: RestoredState, pipeline: str) -> None:
    """A checkpoint of what was restored, as a runtime takes one."""
    name = PipelineId(pipeline)
    parts = tuple(
        Part(
            source=TableSource(one.path),
            operator=one.uid,
            subtask=one.subtask,
            max_parallelism=MAX_PARALLELISM,
            key_groups=one.key_groups,
        )
        for one in found.operators
    )
    create_checkpoint(Opened(store, name, *open_writer(store, name)), Request(parts=parts))


@few
@given(operators(), st.integers(1, 9))
def test_there_and_back_is_what_it_was(found: Operator, parallelism: int) -> None:
    with a_store() as (store, folder):
        taken(store, folder, {"totals": found})
        before = content_at(store, "orders@1")
        there = restored(store, "orders@1", folder / "there", parallelism=parallelism)
        dealt = tables(there)
        for (_, name, kind), rows in before.items():
            mine = [(subtask, row) for (subtask, state, _), part in dealt.items() if state == name for row in part]
            if kind in {"value", "map", "timer"}:
                assert sorted(row for _, row in mine) == sorted(rows)
                owners = [range_of(subtask, parallelism, MAX_PARALLELISM) for subtask, _ in mine]
                assert all(row[0] in own for own, (_, row) in zip(owners, mine, strict=True))
            elif kind == "operator-list":
                assert [row[4] for _, row in sorted(mine)] == [row[4] for row in rows]
                counts = [len(part) for (_, state, _), part in sorted(dealt.items()) if state == name]
                assert parallelism == found.parallelism or counts == shares(len(rows), parallelism)
            else:
                assert all(part == rows for (_, state, _), part in dealt.items() if state == name)
        take_again(store, there, "scaled")
        back = restored(store, "scaled@1", folder / "back", parallelism=found.parallelism)
        take_again(store, back, "again")
        after = content_at(store, "again@1")
        for key, rows in before.items():
            if key[2] == "operator-list":
                assert [row[4] for row in after[key]] == [row[4] for row in rows]
            else:
                assert after[key] == rows


@given(st.integers(0, 1000), st.integers(1, 50))
def test_shares_differ_by_one_at_most(total: int, parallelism: int) -> None:
    found = shares(total, parallelism)
    assert (sum(found), len(found)) == (total, parallelism)
    assert found == sorted(found, reverse=True)
    assert found[0] - found[-1] <= 1


@given(st.dictionaries(st.text("ab-019", max_size=5), st.integers(), max_size=12), st.integers(1, 5))
def test_each_partition_goes_to_one_subtask(offsets: dict[str, int | str], parallelism: int) -> None:
    found = assigned(offsets, parallelism)
    assert sum(map(len, found)) == len(offsets)
    assert {name: at for part in found for name, at in part.items()} == offsets
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_partitions_go_in_turn_by_the_order_of_their_numbers() -> None:
    offsets: dict[str, int | str] = {f"topic-{n}": n for n in (10, 9, 2, 1)}
    assert [list(part) for part in assigned(offsets, 2)] == [["topic-1", "topic-9"], ["topic-2", "topic-10"]]


def test_a_union_list_goes_to_every_subtask_whole(tmp_path: Path) -> None:

    union = StateSchema(name="max", kind="operator-union")
    rows: list[Row] = [(subtask, bytes(4), b"", b"", b"%d" % subtask) for subtask in range(3)]
    with a_store() as (store, folder):
        table_checkpoint(store, "orders", {"totals": Operator(states=((union, rows),), parallelism=3)}, folder / "s")
        dealt = tables(restored(store, "orders@1", folder / "there", parallelism=2))
        assert {subtask: [row[4] for row in part] for (subtask, _, _), part in dealt.items()} == {
            0: [b"0", b"1", b"2"],
            1: [b"0", b"1", b"2"],
        }


def test_a_restore_can_rename_hash_anew_and_rescale_at_once() -> None:
    rows = [(group(f"k{n}"), text_bytes(f"k{n}"), b"", b"", n.to_bytes(8, "big")) for n in range(200)]
    with a_store() as (store, folder):
        found = {"totals": Operator(states=((VALUE, rows),), parallelism=2)}
        table_checkpoint(store, "orders", found, folder / "s", offsets={"totals": {"p-1": 1, "p-2": 2}})
        mapping = OperatorMapping(remap=(("totals", "sums"),))
        there = restored(store, "orders@1", folder / "there", parallelism=3, max_parallelism=30, mapping=mapping)
        assert [(one.uid, one.key_groups, one.offsets) for one in there.operators] == [
            ("sums", (0, 10), {"p-1": 1}),
            ("sums", (10, 20), {"p-2": 2}),
            ("sums", (20, 30), {}),
        ]
        keys = {row[1]: row[0] for part in tables(there).values() for row in part}
        assert keys == {text_bytes(f"k{n}"): group(f"k{n}", 30) for n in range(200)}


def test_there_are_not_more_subtasks_than_key_groups() -> None:
    with a_store() as (store, folder):
        table_checkpoint(store, "orders", {"totals": Operator(states=((VALUE, []),))}, folder / "s")
        with pytest.raises(IncompatibleError, match="128 key groups, too few for 129 subtasks"):
            restored(store, "orders@1", folder / "there", parallelism=129)
        assert not (folder / "there").exists()
