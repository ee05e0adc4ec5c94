"""Commands that read snapshots of Flink where they lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.support.flink import JOB, SNAPSHOTS, unpack


def answered(eoctl: CommandLine, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = eoctl(*words, "--json")
    assert done.code == code, done
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.fixture
def incremental(tmp_path: Path) -> Path:
    return unpack("a-rocksdb-incremental", tmp_path) / "checkpoints"


def test_every_snapshot_below_a_root_is_listed(eoctl: CommandLine, tmp_path: Path) -> None:
    for case in ("a-crash", "a-finished-source"):
        unpack(case, tmp_path / "corpus")
    done = eoctl("checkpoint", "list", tmp_path / "corpus", "--json")
    assert done.err.count("no _metadata, so it is no checkpoint (yet)") == 1
    rows = json.loads(done.out)["snapshots"]
    expected = {snapshot.name: snapshot for snapshot in SNAPSHOTS if snapshot.case in {"a-crash", "a-finished-source"}}
    assert [row["path"].removeprefix(f"{tmp_path}/corpus/") for row in rows] == sorted(expected)
    for row in rows:
        snapshot = expected[row["path"].removeprefix(f"{tmp_path}/corpus/")]
        assert row["id"] == snapshot.id
        assert row["kind"] == ("savepoint" if "savepoint-" in snapshot.path else "checkpoint")
        assert row["pipeline"] == ("" if row["kind"] == "savepoint" else JOB)
        assert (row["engine"], row["status"], row["files"]) == ("flink", "complete", snapshot.files)
    assert not eoctl.store.exists()


def test_what_is_new_and_what_is_shared_is_told(eoctl: CommandLine, incremental: Path) -> None:
    rows = answered(eoctl, "checkpoint", "list", incremental)["snapshots"]
    assert [row["id"] for row in rows] == list(range(1, 9))
    assert all(row["added_files"] + row["referenced_files"] == row["files"] for row in rows)
    assert rows[0]["referenced_files"] == 0
    assert all(row["referenced_files"] > 0 for row in rows[1:])
    whole = answered(eoctl, "checkpoint", "inspect", incremental / JOB / "chk-8")
    assert (whole["added_files"], whole["referenced_files"]) == (rows[7]["added_files"], rows[7]["referenced_files"])
    assert len(whole["files"]["new"]) == whole["added_files"]
    assert set(whole["references"]) == {"1", "5", "6", "7"}
    assert (whole["parent"], whole["metadata_version"], whole["kind"]) == (7, 6, "checkpoint")


def test_the_operators_are_those_of_the_job(eoctl: CommandLine, incremental: Path) -> None:
    operators = {
        row["uid"]: row
        for row in answered(eoctl, "checkpoint", "inspect", incremental / JOB / "chk-8" / "_metadata")["operators"]
    }
    totals = operators["order-totals"]
    assert (totals["id"], totals["parallelism"], totals["max_parallelism"], totals["subtasks"]) == (
        "64d13d9aa16aa0e7527f2a20c03a2a05", 2, 128, 2,
    )  # fmt: skip
    audit = {state["name"]: (state["kind"], state["entries"]) for state in operators["order-audit"]["states"]}
    assert audit == {"audit-counts": ("operator-list", 2), "audit-max": ("operator-union", 2)}
    assert operators["order-rules"]["states"][0]["kind"] == "broadcast"


def test_an_operator_has_its_files(eoctl: CommandLine, incremental: Path) -> None:
    found = answered(eoctl, "checkpoint", "files", incremental / JOB / "chk-8", "--operator", "order-totals")
    rows = found["files"]
    assert {row["operator"] for row in rows} == {"order-totals"}
    names = [row["name"] for row in rows if row["subtask"] == 0]
    assert {"keyed/CURRENT", "keyed/meta"} <= set(names)
    assert len(names) == len(set(names))
    for row in rows:
        assert row["place"] in {"file", "inline"}
        if row["place"] == "file":
            assert Path(row["path"]).stat().st_size == row["bytes"]
    refused = eoctl("checkpoint", "files", incremental / JOB / "chk-8", "--operator", "nobody")
    assert (refused.code, "has no operator 'nobody'" in refused.err) == (2, True)


def test_two_checkpoints_differ_by_the_files_that_came_and_went(eoctl: CommandLine, incremental: Path) -> None:
    a, b = incremental / JOB / "chk-7", incremental / JOB / "chk-8"
    found = answered(eoctl, "checkpoint", "diff", a, b)
    older, newer = (answered(eoctl, "checkpoint", "files", each)["files"] for each in (a, b))
    paths = [{row["path"] for row in rows if row["place"] == "file"} for rows in (older, newer)]
    assert {row["path"] for row in found["added"] if row["place"] == "file"} == paths[1] - paths[0]
    assert {row["path"] for row in found["removed"] if row["place"] == "file"} == paths[0] - paths[1]
    assert eoctl("checkpoint", "diff", a, b, "--exit-code").code == 3
    assert eoctl("checkpoint", "diff", a, a, "--exit-code").code == 0
    mixed = eoctl("checkpoint", "diff", a, "orders@1")
    assert (mixed.code, "one is a path" in mixed.err) == (2, True)


def test_verify_sees_a_missing_a_short_and_a_damaged_file(eoctl: CommandLine, incremental: Path) -> None:
    snapshot = incremental / JOB / "chk-8"
    whole = answered(eoctl, "checkpoint", "verify", snapshot)
    assert (whole["damaged"], whole["checked_files"], whole["level"]) == ([], 52, "full")
    rows = answered(eoctl, "checkpoint", "files", snapshot)["files"]
    tables = [Path(row["path"]) for row in rows if row["name"].endswith(".sst") and row["bytes"] > 1024]
    other = next(Path(row["path"]) for row in rows if "OPTIONS" in row["name"] and row["place"] == "file")
    tables[0].unlink()
    other.write_bytes(other.read_bytes()[:-1])
    flipped = bytearray(tables[1].read_bytes())
    flipped[100] ^= 1
    tables[1].write_bytes(flipped)
    quick = answered(eoctl, "checkpoint", "verify", snapshot, "--level", "quick", code=3)["damaged"]
    assert {row["name"]: row["reason"].split(" bytes")[0] for row in quick} == {
        str(tables[0]): "is missing", str(other): f"has {other.stat().st_size}",
    }  # fmt: skip
    full = answered(eoctl, "checkpoint", "verify", incremental, code=3)["damaged"]
    assert {row["name"] for row in full} == {str(tables[0]), str(other), str(tables[1])}
    assert next(row for row in full if row["name"] == str(other))["snapshots"] == [str(snapshot)]
    refused = eoctl("checkpoint", "verify", snapshot, "--level", "drill")
    assert (refused.code, "quick or full, not drill" in refused.err) == (2, True)


def test_files_outside_of_the_root_are_looked_at_where_that_is_allowed(eoctl: CommandLine, tmp_path: Path) -> None:
    case = unpack("a-changelog", tmp_path)
    snapshot = case / "checkpoints" / JOB / "chk-4"
    found = answered(eoctl, "checkpoint", "verify", snapshot, code=3)["damaged"]
    assert all("leads out of" in row["reason"] for row in found)
    mapping = f"file:/tmp/eoctl-corpus/a-changelog={case}"
    assert answered(eoctl, "checkpoint", "verify", snapshot, "--map-path", mapping)["damaged"] == []
    wrong = eoctl("checkpoint", "verify", snapshot, "--map-path", "nonsense")
    assert (wrong.code, "not a mapping of paths" in wrong.err) == (2, True)


def test_what_is_no_snapshot_is_refused(eoctl: CommandLine, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for words in (["inspect", empty], ["inspect", f"file://{empty}"], ["files", f"flink:{empty}"]):
        done = eoctl("checkpoint", *words)
        assert (done.code, "no snapshot of Flink" in done.err) == (11, True)
    assert eoctl("checkpoint", "inspect", "hdfs://host/chk-1").code == 2
    assert eoctl("checkpoint", "list", tmp_path / "nothing").code == 11
    (empty / "_metadata").write_bytes(b"\x49\x60\x67\x2d\0\0\0\6\0")
    done = eoctl("checkpoint", "inspect", empty)
    assert (done.code, "at byte 8" in done.err) == (13, True)


def test_people_see_a_table_and_no_steering_characters(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[31m"
    unpack("a-transcoded", folder)
    done = eoctl.ok("checkpoint", "list", folder)
    assert "\x1b" not in done.out
    assert "\x1b" not in eoctl.ok("checkpoint", "inspect", folder / "a-transcoded" / "v3").out
