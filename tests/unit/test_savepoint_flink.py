"""Savepoints of what Flink wrote: every row of it, and what only its job understands, as files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from eoctl.engines.flink_paths import Mapping
from eoctl.engines.flink_source import FlinkSource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.rescale import Deal, restore_rows
from eoctl.services.savepoint import Wish, create_folder, create_in_store
from eoctl.services.savepoint_build import SnapshotSource
from eoctl.services.savepoint_check import check_folder
from eoctl.services.savepoint_flink import source_of_flink
from eoctl.services.savepoint_sources import source_of_folder, source_of_snapshot
from eoctl.services.state import Filter, find_state, scan
from formats.errors import IncompatibleError
from formats.ids import PipelineId
from formats.remap import OperatorMapping
from formats.state_text import RowText, bytes_of
from storage.session import open_writer
from tests.support.flink import SNAPSHOTS, WRITTEN_AT, unpack
from tests.support.states import content
from tests.support.stores import at, new_store

pytestmark = pytest.mark.thorough

CASES = (
    "a-rocksdb-incremental",
    "a-hashmap-full",
    "a-changelog",
    "a-flink120",
    "a-savepoint-canonical",
    "a-savepoint-native",
)


def newest(case: str, tmp_path: Path) -> Path:
    folder = unpack(case, tmp_path)
    found = [snapshot for snapshot in SNAPSHOTS if snapshot.case == case]
    return folder / max(found, key=lambda snapshot: snapshot.id).path


@pytest.mark.parametrize("case", CASES)
def test_a_savepoint_of_flinks_snapshot_holds_all_its_rows(case: str, tmp_path: Path) -> None:
    mapping = Mapping(f"file:{WRITTEN_AT}/{case}", tmp_path / case)
    with source_of_flink(newest(case, tmp_path), (mapping,)) as source:
        before = {name: rows for name, rows in content(source).items() if rows}
        create_folder(source, tmp_path / "out", Wish(), elapsed=time.monotonic)
    assert len(before) >= 8
    after = content(source_of_folder(tmp_path / "out")[1])
    assert {name: rows for name, rows in after.items() if rows} == before
    found = check_folder(tmp_path / "out", elapsed=time.monotonic)
    assert found.damaged == ()
    assert found.rows == sum(map(len, before.values()))


def total_of(source: SnapshotSource, key: str) -> object:
    operator, table = find_state(source, "order-totals", "total")
    wanted = Filter(key=bytes_of(key, table.schema.key, "key"))
    (row,) = [row for batch in scan(operator, table, wanted) for row in RowText(table.schema).rows(batch)]
    return row["value"]


def test_flinks_state_can_be_renamed_rescaled_and_read(tmp_path: Path) -> None:
    mapping = OperatorMapping(remap=(("order-totals", "totals"),))
    with source_of_flink(newest("a-rocksdb-incremental", tmp_path)) as source:
        operator, table = find_state(source, "order-totals", "total")
        key = next(RowText(table.schema).rows(next(iter(scan(operator, table, Filter())))))["key"]
        expected = total_of(source, key)
        create_folder(source, tmp_path / "out", Wish(mapping=mapping), elapsed=time.monotonic)
    _, saved = source_of_folder(tmp_path / "out")
    deal = Deal(parallelism=5, operator="totals")
    found = restore_rows(saved, tmp_path / "dealt", deal, scratch=tmp_path, elapsed=time.monotonic)
    assert [one.key_groups for one in found.operators] == [(0, 26), (26, 52), (52, 77), (77, 103), (103, 128)]
    operator, table = find_state(saved, "totals", "total")
    wanted = Filter(key=bytes_of(key, table.schema.key, "key"))
    (row,) = [row for batch in scan(operator, table, wanted) for row in RowText(table.schema).rows(batch)]
    assert row["value"] == expected


def unaligned(tmp_path: Path) -> Path:
    folder = unpack("a-flink120-unaligned", tmp_path)
    for snapshot in SNAPSHOTS:
        if snapshot.case == "a-flink120-unaligned":
            with source_of_flink(folder / snapshot.path) as source:
                if any(
                    file.role == "in-flight" for one in source.operators for s in one.state.subtasks for file in s.files
                ):
                    return folder / snapshot.path
    raise AssertionError


def test_records_in_flight_are_carried_where_operators_stay_and_else_refused(tmp_path: Path) -> None:
    with source_of_flink(unaligned(tmp_path)) as source:
        create_folder(source, tmp_path / "out", Wish(), elapsed=time.monotonic)
        head, saved = source_of_folder(tmp_path / "out")
        carried = {file.path: file for one in head.operators for s in one.subtasks for file in s.files}
        flying = [file for file in carried.values() if file.role == "in-flight"]
        assert flying
        assert all((tmp_path / "out" / file.path).stat().st_size == file.bytes for file in flying)
        mapping = OperatorMapping(remap=((str(source.operators[0].name), "other"),))
        for number, opened in enumerate((source, saved)):
            with pytest.raises(IncompatibleError, match="records in flight") as refused:
                create_folder(opened, tmp_path / f"no-{number}", Wish(mapping=mapping), elapsed=time.monotonic)
            assert "aligned" in (refused.value.hint or "")
            assert not (tmp_path / f"no-{number}").exists()
        with pytest.raises(IncompatibleError, match="records in flight"):
            restore_rows(saved, tmp_path / "x", Deal(parallelism=7), scratch=tmp_path, elapsed=time.monotonic)


def test_what_was_taken_into_a_store_is_read_and_saved_as_where_it_lay(tmp_path: Path) -> None:
    path = newest("a-rocksdb-incremental", tmp_path)
    store = new_store(tmp_path / "s")
    name = PipelineId("orders")
    part = Part(source=FlinkSource(path), operator="main")
    create_checkpoint(Opened(store, name, *open_writer(store, name)), Request(parts=(part,)))
    with source_of_flink(path) as lying, source_of_snapshot(store, at(store, "orders@1")) as stored:
        assert content(stored) == content(lying)
        created = create_in_store(stored, store, "saved", Wish())
        before = content(lying)
    assert created.rows == sum(map(len, before.values()))
    with source_of_snapshot(store, at(store, "orders@saved")) as saved:
        after = content(saved)
    assert {key: rows for key, rows in after.items() if rows} == {key: rows for key, rows in before.items() if rows}
