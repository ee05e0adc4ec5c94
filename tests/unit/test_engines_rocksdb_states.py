"""RocksDB directories as state: every column family, what is only in the log too, and merge operands never lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eoctl.engines.flink import open_snapshot
from eoctl.engines.rocksdb import RocksdbSource
from eoctl.engines.rocksdb_states import _by_rocksdb, _by_tables, _families, rocksdb_tables
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.savepoint import Wish, create_in_store
from eoctl.services.savepoint_sources import source_of_snapshot
from formats.errors import CorruptError, IncompatibleError, UnsupportedError
from formats.ids import PipelineId, operator_id
from formats.manifest import Engine, OperatorState, SubtaskState
from storage.session import open_writer
from storage.store import Store
from tests.properties.test_rescale import restored
from tests.support.flink import unpack
from tests.support.states import content
from tests.support.stores import at, new_store

rocksdict: Any = pytest.importorskip("rocksdict")
pytestmark = pytest.mark.rocksdb


def open_database(path: Path, *, families: tuple[str, ...] = (), **options: object) -> Any:
    chosen = rocksdict.Options(raw_mode=True)
    chosen.create_missing_column_families(True)
    for name, value in options.items():
        getattr(chosen, name)(value)
    database = rocksdict.Rdict(str(path), chosen)
    for family in families:
        database.create_column_family(family, rocksdict.Options(raw_mode=True))
    return database


def take(store: Store, *paths: Path) -> None:
    name = PipelineId("joins")
    parts = tuple(Part(source=RocksdbSource(path), operator="joins", subtask=n) for n, path in enumerate(paths))
    create_checkpoint(Opened(store, name, *open_writer(store, name)), Request(parts=parts))


def states(store: Store, address: str) -> dict[str, dict[tuple[int, bytes], bytes | None]]:
    with source_of_snapshot(store, at(store, address)) as source:
        return {name: {(row[0], row[1]): row[4] for row in rows} for (_, name, _), rows in content(source).items()}


@pytest.mark.parametrize("flushed", [True, False])
def test_every_column_family_is_a_state_also_what_is_only_in_the_log(tmp_path: Path, *, flushed: bool) -> None:
    store = new_store(tmp_path)
    for number in range(2):
        with open_database(tmp_path / f"db{number}", families=("index",)) as database:
            index = database.get_column_family("index")
            for n in range(300):
                database[b"k%d" % n] = b"v%d" % (n + number)
                index[b"i%d" % n] = b"%d" % n
            if flushed:
                database.flush()
                index.flush()
            for n in range(0, 300, 2):
                del database[b"k%d" % n]
            database[b"k1"] = b"new"
            if flushed:
                database.flush()
            take(store, *(tmp_path / f"db{n}" for n in range(number + 1)))
    found = states(store, "joins@2")
    expected = {(part, b"k%d" % n): b"v%d" % (n + part) for part in range(2) for n in range(1, 300, 2)}
    assert found["default"] == expected | {(part, b"k1"): b"new" for part in range(2)}
    assert found["index"] == {(part, b"i%d" % n): b"%d" % n for part in range(2) for n in range(300)}
    with source_of_snapshot(store, at(store, "joins@2")) as source:
        created = create_in_store(source, store, "saved", Wish())
    assert created.rows == 900
    assert states(store, "joins@saved") == found


def flinks_database(tmp_path: Path) -> Path:
    """The database of one subtask of a job of Flink, whose list state is merge operands."""
    (found,) = unpack("a-rocksdb-incremental", tmp_path).rglob("chk-3/_metadata")
    snapshot = open_snapshot(found.parent)
    database = tmp_path / "database"
    database.mkdir()
    for piece in snapshot.pieces():
        if (piece.operator.id, piece.stream.role, piece.stream.subtask) == (operator_id("order-totals"), "keyed", 0):
            with snapshot.paths.open(piece.stream.handle) as file:
                (database / piece.stream.name.rpartition("/")[2]).write_bytes(file.read())
    return database


@pytest.mark.parametrize("by_rocksdb", [False, True])
def test_merge_operands_are_refused_and_the_rest_is_read(tmp_path: Path, *, by_rocksdb: bool) -> None:
    database = flinks_database(tmp_path)
    if by_rocksdb:  # something in the log, which only RocksDB reads
        (database / "000026.log").write_bytes(b"\0")
    families = _families(database)
    assert {pairs.func for pairs in families.values()} == {_by_rocksdb if by_rocksdb else _by_tables}  # type: ignore[attr-defined]  # a partial
    assert sum(len(batch) for batch in families["total"](None)) == 105
    with pytest.raises(UnsupportedError, match="merge operands") as refused:
        list(families["recent"](None))
    assert "compact" in (refused.value.hint or "")


def test_a_savepoint_of_merge_operands_leaves_nothing(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    take(store, flinks_database(tmp_path))
    with (
        source_of_snapshot(store, at(store, "joins@1")) as source,
        pytest.raises(UnsupportedError, match="merge operands"),
    ):
        create_in_store(source, store, "saved", Wish())
    assert [row.label for row in store.head(PipelineId("joins")).head.live] == ["1"]


def test_state_whose_key_groups_are_not_known_stays_at_its_parallelism(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    for number in range(2):
        with open_database(tmp_path / f"db{number}") as database:
            database[b"k"] = b"v%d" % number
    take(store, tmp_path / "db0", tmp_path / "db1")
    assert [one.rows for one in restored(store, "joins@1", tmp_path / "same", parallelism=2).operators] == [1, 1]
    with pytest.raises(IncompatibleError, match="key groups of joins/default are not known"):
        restored(store, "joins@1", tmp_path / "other", parallelism=3)


def test_a_directory_that_is_no_database_is_told(tmp_path: Path) -> None:
    operator = OperatorState(
        id=operator_id("joins"),
        subtasks=(SubtaskState(index=0, files=()),),
        parallelism=1,
        engine=Engine(kind="rocksdb"),
    )
    with pytest.raises(CorruptError, match="no CURRENT"):
        rocksdb_tables(operator, lambda *_: tmp_path)
    (tmp_path / "CURRENT").write_text("../MANIFEST-1\n")
    with pytest.raises(CorruptError, match="names no MANIFEST"):
        rocksdb_tables(operator, lambda *_: tmp_path)
