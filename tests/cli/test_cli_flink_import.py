"""Snapshots of Flink in the store: taken in once, found again, given back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from eoctl.engines.flink import open_snapshot
from eoctl.engines.flink_states import flink_states
from formats.flink.handles import AbsoluteFile, Segment
from formats.flink.metadata import read_metadata, streams_of
from tests.cli.conftest import CommandLine
from tests.support.flink import CASES, JOB, SNAPSHOTS, unpack


def answered(eoctl: CommandLine, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = eoctl(*words, "--json")
    assert done.code == code, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def store(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    eoctl.ok("store", "init", eoctl.store)
    monkeypatch.setenv("EOCTL_STORE", str(eoctl.store))
    return eoctl


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return unpack("a-rocksdb-incremental", tmp_path / "corpus") / "checkpoints"


@pytest.mark.parametrize("case", CASES)
def test_what_comes_out_of_the_store_is_what_export_makes(store: CommandLine, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path)
    before = tree(folder)
    mapping = f"file:/tmp/eoctl-corpus/{case}={folder}"
    for number, snapshot in enumerate((each for each in SNAPSHOTS if each.case == case), 1):
        path = folder / snapshot.path
        store.ok("checkpoint", "create", f"flink:{path}", "-p", "orders", "--map-path", mapping, "--verify-capture")
        store.ok("flink", "export", path, "--to", tmp_path / f"direct-{number}", "--map-path", mapping)
        store.ok("restore", f"orders@{number}", "--to", tmp_path / f"restored-{number}")
        store.ok("flink", "export", f"orders@{number}", "--to", tmp_path / f"exported-{number}")
        expected = tree(tmp_path / f"direct-{number}")
        assert tree(tmp_path / f"restored-{number}") == expected
        assert tree(tmp_path / f"exported-{number}") == expected
    assert tree(folder) == before
    shutil.rmtree(folder)
    assert answered(store, "checkpoint", "verify", "-p", "orders")["damaged"] == []
    assert not list(tmp_path.glob(".eoctl-*"))


def test_shared_tables_are_stored_once(store: CommandLine, checkpoints: Path, tmp_path: Path) -> None:
    done = answered(store, "checkpoint", "create", f"flink:{checkpoints}", "-p", "orders", "--follow")
    rows = done["created"]
    assert [row["id"] for row in rows] == list(range(1, 9))
    assert [row["tags"] for row in rows] == [[f"chk-{number}"] for number in range(1, 9)]
    distinct: dict[str, bytes] = {}
    for number in range(1, 9):
        for name, data in tree_of(store, tmp_path, number).items():
            if name != "_metadata":
                assert distinct.setdefault(name, data) == data
    metadata_bytes = sum(len(tree_of(store, tmp_path, number)["_metadata"]) for number in range(1, 9))
    assert sum(row["added_bytes"] for row in rows) <= sum(map(len, distinct.values())) + metadata_bytes
    assert sum(row["full_bytes"] for row in rows) > 3 * sum(row["added_bytes"] for row in rows)


def tree_of(store: CommandLine, tmp_path: Path, number: int) -> dict[str, bytes]:
    to = tmp_path / f"tree-{number}"
    if not to.exists():
        store.ok("restore", f"orders@{number}", "--to", to)
    return tree(to)


def test_following_takes_each_new_checkpoint_once(store: CommandLine, checkpoints: Path, tmp_path: Path) -> None:
    job, later = checkpoints / JOB, tmp_path / "later"
    later.mkdir()
    for number in (6, 7, 8):
        (job / f"chk-{number}").rename(later / f"chk-{number}")
    follow = ("checkpoint", "create", f"flink:{checkpoints}", "-p", "orders", "--follow")
    assert len(answered(store, *follow)["created"]) == 5
    assert answered(store, *follow)["created"] == []
    shutil.copytree(later / "chk-6", job / "chk-6")
    (job / "chk-7").mkdir()  # being written
    assert [row["id"] for row in answered(store, *follow)["created"]] == [6]
    shutil.copytree(later / "chk-7", job / "chk-7", dirs_exist_ok=True)
    assert [row["id"] for row in answered(store, *follow)["created"]] == [7]
    assert answered(store, *follow)["created"] == []
    attempts = {row["attempt"] for row in answered(store, "checkpoint", "list", "-p", "orders")["snapshots"]}
    assert len(attempts) == 3  # who finds nothing new fences nobody off


def test_what_retention_dropped_does_not_come_back(store: CommandLine, checkpoints: Path) -> None:
    for number in range(1, 9):
        metadata = checkpoints / JOB / f"chk-{number}" / "_metadata"
        os.utime(metadata, (1_700_000_000 + number, 1_700_000_000 + number))
    follow = ("checkpoint", "create", f"flink:{checkpoints}", "-p", "orders", "--follow")
    assert len(answered(store, *follow)["created"]) == 8
    for _ in range(3):
        assert store("gc", "--keep-last", "2", "--keep-trash", "0s", "--grace", "0s").code == 0
    assert [row["id"] for row in answered(store, "checkpoint", "list")["snapshots"]] == [7, 8]
    assert answered(store, *follow)["created"] == []
    assert answered(store, "checkpoint", "verify", "-p", "orders")["damaged"] == []


def test_following_passes_over_what_it_cannot_read(store: CommandLine, checkpoints: Path) -> None:
    metadata = checkpoints / JOB / "chk-3" / "_metadata"
    metadata.write_bytes(metadata.read_bytes()[:-5])
    done = store("checkpoint", "create", f"flink:{checkpoints}", "-p", "orders", "--follow")
    assert (done.code, "left out, as it cannot be read" in done.err) == (0, True)
    assert len(answered(store, "checkpoint", "list")["snapshots"]) == 7


def test_a_retry_with_an_id_commits_once(store: CommandLine, checkpoints: Path) -> None:
    create = ("checkpoint", "create", f"flink:{checkpoints / JOB / 'chk-8'}", "-p", "orders", "--as-id", "8")
    assert answered(store, *create)["existed"] is False
    assert answered(store, *create)["existed"] is True
    other = ("checkpoint", "create", f"flink:{checkpoints / JOB / 'chk-7'}", "-p", "orders", "--as-id", "8")
    assert store(*other).code == 12


def test_the_store_knows_flinks_operators(store: CommandLine, checkpoints: Path) -> None:
    snapshot = checkpoints / JOB / "chk-8"
    store.ok("checkpoint", "create", f"flink:{snapshot}", "-p", "orders")
    inside = answered(store, "checkpoint", "inspect", "orders@1")
    outside = answered(store, "checkpoint", "inspect", snapshot)
    assert (inside["metadata_version"], inside["engine"]) == (6, "flink")
    keys = ("uid", "id", "name", "parallelism", "max_parallelism", "subtasks", "full_bytes", "files")
    assert [[row[key] for key in keys] for row in inside["operators"]] == [
        [row[key] for key in keys] for row in outside["operators"]
    ]


def test_no_handle_of_a_restored_folder_is_absolute(store: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-filemerging", tmp_path) / "checkpoints" / JOB / "chk-4"
    store.ok("checkpoint", "create", f"flink:{folder}", "-p", "orders")
    store.ok("restore", "orders@latest", "--to", tmp_path / "restored")
    metadata = read_metadata((tmp_path / "restored" / "_metadata").read_bytes())
    handles = [stream.handle for operator in metadata.operators for stream in streams_of(operator)]
    assert not [handle for handle in handles if isinstance(handle, AbsoluteFile | Segment)]
    assert [piece.look() for piece in open_snapshot(tmp_path / "restored").pieces()] == [None] * len(handles)


def test_a_renamed_folder_is_made_of_one_in_the_store(store: CommandLine, checkpoints: Path, tmp_path: Path) -> None:
    store.ok("checkpoint", "create", f"flink:{checkpoints / JOB / 'chk-8'}", "-p", "orders")
    done = answered(store, "flink", "remap", "orders@1", "--to", tmp_path / "to", "--remap", "order-totals=totals")
    assert (done["source"], done["remapped"]) == ("orders@1", {"order-totals": "totals"})
    older = answered(store, "flink", "export", "orders@1", "--to", tmp_path / "v4", "--metadata-version", "4")
    assert (older["metadata_version"], older["source"]) == (4, "orders@1")


def test_what_is_damaged_or_wrong_is_not_taken_in(store: CommandLine, checkpoints: Path, tmp_path: Path) -> None:
    snapshot = checkpoints / JOB / "chk-8"
    refused = [
        (("checkpoint", "create", f"flink:{checkpoints}", "-p", "orders"), 11),
        (("checkpoint", "create", f"flink:{tmp_path}/nothing", "-p", "orders"), 11),
        (("checkpoint", "create", str(tmp_path), "-p", "orders", "--follow"), 2),
        (("checkpoint", "create", f"flink:{checkpoints}", "-p", "orders", "--follow", "--as-id", "3"), 2),
    ]
    for words, code in refused:
        assert store(*words).code == code, words
    table = next(
        Path(piece.file)
        for piece in open_snapshot(snapshot).pieces()
        if piece.stream.name.endswith(".sst") and piece.bytes > 1000 and piece.file
    )
    data = bytearray(table.read_bytes())
    data[200] ^= 1
    table.write_bytes(data)
    done = store("checkpoint", "create", f"flink:{snapshot}", "-p", "orders", "--verify-capture")
    assert done.code == 13, done
    table.unlink()
    assert store("checkpoint", "create", f"flink:{snapshot}", "-p", "orders").code == 13
    assert answered(store, "checkpoint", "list")["snapshots"] == []


def test_what_is_no_rows_of_state_is_not_exported(store: CommandLine, tmp_path: Path) -> None:
    source = tmp_path / "state"
    source.mkdir()
    (source / "file").write_text("x")
    store.ok("checkpoint", "create", source, "-p", "plain")
    done = store("flink", "export", "plain@1", "--to", tmp_path / "to")
    assert (done.code, "has what is no rows of state" in done.err) == (15, True)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("case", ["a-crash", "a-finished-source", "a-flink120", "a-hashmap-snappy"])
def test_a_portable_savepoint_becomes_a_canonical_one(store: CommandLine, tmp_path: Path, case: str) -> None:
    newest = max(unpack(case, tmp_path).rglob("_metadata")).parent
    portable, to = tmp_path / "portable", tmp_path / "to"
    store.ok("savepoint", "create", newest, "--to", portable)
    store.ok("savepoint", "create", newest, "-p", "orders", "--name", "kept")
    for address, target in ((str(portable), to), ("orders@kept", tmp_path / "of-the-store")):
        assert store("flink", "export", address, "--to", target).code == 0
        assert rows_of(target) == rows_of(newest)
        found = open_snapshot(target)
        assert found.is_savepoint
        known = {operator.id: operator for operator in open_snapshot(newest).metadata.operators}
        for operator in found.metadata.operators:
            assert operator.coordinator is None or operator.coordinator.data == known[operator.id].coordinator.data  # type: ignore[union-attr]  # both inline
            assert operator.max_parallelism == 128
    older = answered(store, "flink", "export", str(portable), "--to", tmp_path / "v4", "--metadata-version", "4")
    assert older["metadata_version"] == 4


def rows_of(folder: Path) -> dict[tuple[str, str], list[Any]]:
    """Operator and state -> type and rows; those of broadcast states without their order."""
    snapshot = open_snapshot(folder)
    found = {}
    for operator in flink_states(snapshot.metadata, snapshot.paths.open):
        for table in operator.tables:
            rows = [row for batch in table.scan() for row in batch.to_pylist()]
            if table.schema.kind == "broadcast":
                rows.sort(key=lambda row: row["key"])
            if rows:
                found[operator.id, table.schema.name] = [table.schema, *rows]
    return found


def test_the_rows_in_the_store_are_those_of_the_folder(store: CommandLine, checkpoints: Path) -> None:
    snapshot = checkpoints / JOB / "chk-8"
    store.ok("checkpoint", "create", f"flink:{snapshot}", "-p", "orders")
    listed = [answered(store, "state", "list", address)["states"] for address in ("orders@1", str(snapshot))]
    assert listed[0] == listed[1]
    scan = ("--operator", "order-totals", "--state", "per-item", "--jsonl")
    rows = [store.ok("state", "scan", address, *scan).out for address in ("orders@1", str(snapshot))]
    assert rows[0] == rows[1]
    assert rows[0].count("\n") > 900
    shutil.rmtree(checkpoints)
    found = answered(store, "state", "get", "orders@1", "--operator", "order-totals", "--state", "total", "--key",
                     "user-0")  # fmt: skip
    expected = sum(number for number in (*range(1500), *range(4000, 5500)) if number * 7 % 211 == 0)
    assert [row["value"] for row in found["rows"]] == [expected]
