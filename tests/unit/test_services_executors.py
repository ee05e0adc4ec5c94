"""The same bytes, whoever writes them: this process, others, a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eoctl.services import executors
from eoctl.services.executors import executor_of
from eoctl.services.savepoint import Wish, create_folder
from eoctl.services.savepoint_sources import source_of_snapshot
from formats.errors import EoctlError, UnavailableError, UsageError
from formats.state import StateSchema
from storage.store import Store
from tests.properties.test_savepoints import VALUE, bytes_of, group, text_bytes
from tests.support.states import Operator, Row, table_checkpoint
from tests.support.stores import at, new_store

UNKNOWN = StateSchema(name="unknown", kind="value", key="string", value="long")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A checkpoint of two operators, each over three subtasks."""
    store = new_store(tmp_path, memory=False)
    rows: list[Row] = [(group(f"k{n}"), text_bytes(f"k{n}"), b"", b"", n.to_bytes(8, "big")) for n in range(500)]
    found = {uid: Operator(states=((VALUE, rows),), parallelism=3) for uid in ("totals", "counts")}
    table_checkpoint(store, "orders", found, tmp_path / "tables")
    return store


def written(store: Store, folder: Path, executor: str) -> dict[str, bytes]:
    with source_of_snapshot(store, at(store, "orders@1")) as source, executor_of(executor) as pool:
        create_folder(source, folder, Wish(executor=pool), elapsed=store.ambient.elapsed)
    return bytes_of(folder)


def test_processes_write_the_same_bytes(store: Store, tmp_path: Path) -> None:
    assert written(store, tmp_path / "one", "0") == written(store, tmp_path / "many", "2")


@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_dask_cluster_writes_the_same_bytes(store: Store, tmp_path: Path) -> None:
    with cluster() as address:
        found = written(store, tmp_path / "dask", address)
    assert found == written(store, tmp_path / "one", "0")


def test_an_error_of_a_worker_is_told_as_it_is(store: Store, tmp_path: Path) -> None:
    rows: list[Row] = [(3, text_bytes("k"), b"", b"", b"not eight bytes")]
    table_checkpoint(store, "bad", {"totals": Operator(states=((UNKNOWN, rows),))}, tmp_path / "bad")
    with (
        source_of_snapshot(store, at(store, "bad@1")) as source,
        executor_of("2") as pool,
        pytest.raises(EoctlError, match="a value of 15 bytes, not 8"),
    ):
        create_folder(source, tmp_path / "out", Wish(executor=pool), elapsed=store.ambient.elapsed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["many", "-1", "1.5", "9999", ""])
def test_what_is_no_executor_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not an executor"), executor_of(text):
        pass


def test_state_that_is_small_is_written_by_this_process() -> None:
    with executor_of(None, 1000) as pool:
        assert pool is None


def test_a_cluster_that_is_not_there_is_told() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UnavailableError, match="no Dask cluster"), executor_of("dask://127.0.0.1:1"):
        pass


@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_cluster_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "WORKERS_SECONDS", 0.1)
    with cluster(workers=0) as address, pytest.raises(UnavailableError, match="has no workers"), executor_of(address):
        pass


@contextmanager
def cluster(workers: int = 2) -> Iterator[str]:
    """A scheduler and its workers, processes of their own, on ports of their own."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as found:
        yield f"dask://{found.scheduler_address.removeprefix('tcp://')}"
