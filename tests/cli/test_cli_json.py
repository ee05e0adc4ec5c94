"""The documents of `--json`: schemas and fields that scripts rely on. Fields may be added here, never taken away."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.cli.conftest import CommandLine, State

ROW = [
    "pipeline", "id", "kind", "name", "created_at", "attempt", "full_bytes", "added_bytes", "files", "added_files",
    "referenced_files", "tags", "status", "engine",
]  # fmt: skip
OPERATOR = [
    "uid", "id", "name", "parallelism", "max_parallelism", "subtasks", "full_bytes", "in_flight_bytes", "files",
    "engine", "properties", "states",
]  # fmt: skip
METRICS = [
    "duration_seconds", "alignment_seconds", "snapshot_seconds", "upload_seconds", "stored_bytes", "in_flight_bytes",
]  # fmt: skip
FILE = ["operator", "subtask", "name", "bytes", "digest", "stored_bytes", "place", "first_stored_in"]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def document(eoctl: CommandLine, *words: str, code: int = 0) -> dict[str, Any]:
    """The one document on stdout; stderr is silent."""
    done = eoctl(*words, "--json")
    assert (done.code, done.err) == (code, ""), done
    assert done.out.count("\n") == 1
    found: dict[str, Any] = json.loads(done.out)
    assert found["schema"] == f"eoctl.{'.'.join(word for word in words[:2] if word in NAMES)}/1"
    return found


NAMES = {
    "store", "init", "info", "stats", "pipeline", "list", "show", "checkpoint", "create", "inspect", "files", "diff",
    "explain", "verify", "tag", "hold", "release", "delete", "undelete", "restore",
}  # fmt: skip


@pytest.fixture
def with_sources(orders: CommandLine, state: State) -> CommandLine:
    """A third checkpoint, which knows offsets."""
    offsets = orders.home / "offsets.json"
    offsets.write_text('{"clicks": {"topic-0": 1234, "topic-1": "token"}}')
    state("other", big=100)
    orders.ok("checkpoint", "create", "a/0=state", "b/1=other", "-p", "orders", "--offsets", str(offsets))
    return orders


def test_checkpoint_list(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "list")
    assert list(found) == ["schema", "store", "snapshots"]
    assert found["store"] == str(orders.store)
    first, second = found["snapshots"]
    assert list(first) == list(second) == ROW
    assert TIME.fullmatch(first.pop("created_at"))
    assert first == {
        "pipeline": "orders",
        "id": 1,
        "kind": "checkpoint",
        "name": "",
        "attempt": 1,
        "full_bytes": 2_000_010,
        "added_bytes": 2_000_010,
        "files": 2,
        "added_files": 2,
        "referenced_files": 0,
        "tags": ["nightly"],
        "status": "complete",
        "engine": "directory",
    }
    assert (second["added_files"], second["referenced_files"]) == (1, 1)


def test_checkpoint_list_of_an_empty_store(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    done = eoctl.ok("checkpoint", "list", "--json")
    assert json.loads(done.out) == {"schema": "eoctl.checkpoint.list/1", "store": str(eoctl.store), "snapshots": []}
    assert eoctl.ok("checkpoint", "list", "--jsonl").out == ""


def test_checkpoint_create(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "create", "state", "-p", "orders", "--as-id", "9")
    assert list(found) == ["schema", *ROW, "stored_bytes", "read_bytes", "seconds", "existed"]
    assert (found["id"], found["existed"], found["stored_bytes"]) == (9, False, 0)
    assert document(orders, "checkpoint", "create", "state", "-p", "orders", "--as-id", "9")["existed"] is True


def test_checkpoint_inspect(with_sources: CommandLine) -> None:
    found = document(with_sources, "checkpoint", "inspect", "latest")
    added = ["parent", "metadata_version", "metrics", "operators", "sources", "sinks", "references"]
    assert list(found) == ["schema", *ROW, *added, "notes", "file_count"]
    assert list(found["metrics"]) == METRICS
    first, second = found["operators"]
    assert list(first) == list(second) == OPERATOR
    assert (first["uid"], second["uid"], second["parallelism"]) == ("a", "b", 2)
    assert re.fullmatch("[0-9a-f]{32}", first["id"])
    assert found["sources"] == [{"uid": "clicks", "offsets": {"topic-0": 1234, "topic-1": "token"}}]
    assert found["sinks"] == []
    assert list(found["files"]) == ["new", "referenced", "obsolete"]
    assert found["files"]["obsolete"] == ["main/0/big", "main/0/small"]
    assert found["file_count"] == 3
    assert found["parent"] == 2
    assert all(isinstance(names, list) for names in found["references"].values())


def test_checkpoint_files(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "files", "orders@2")
    assert list(found) == ["schema", "snapshot", "files"]
    assert found["snapshot"] == "orders@2"
    assert [list(row) for row in found["files"]] == [FILE, FILE]
    assert [(row["name"], row["first_stored_in"]) for row in found["files"]] == [("big", 1), ("small", 2)]
    assert all(re.fullmatch("[0-9a-f]{64}", row["digest"]) for row in found["files"])


def test_checkpoint_diff(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "diff", "1", "2")
    assert list(found) == [
        "schema", "a", "b", "added", "removed", "changed", "same_files", "added_bytes", "removed_bytes",
        "shared_stored_bytes", "differs",
    ]  # fmt: skip
    assert found["changed"] == [{"name": "main/0/small", "old_bytes": 10, "new_bytes": 20}]
    assert (found["same_files"], found["differs"]) == (1, True)


def test_checkpoint_explain(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "explain", "orders@2")
    assert list(found) == [
        "schema", "subject", "kind", "stored_bytes", "shared_bytes", "frees_bytes", "frees_blobs", "referenced_by",
        "shares_with", "kept_because", "blobs",
    ]  # fmt: skip
    assert [list(blob) for blob in found["blobs"]] == [["key", "stored_bytes", "snapshots"]] * len(found["blobs"])


def test_checkpoint_verify(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "verify")
    assert {"pipeline", "level", "snapshots", "checked_files", "checked_bytes", "damaged", "seconds"} <= found.keys()
    assert (found["level"], found["checked_files"], found["damaged"]) == ("full", 4, [])
    for blob in (orders.store / "p/orders/o").rglob("*.1"):
        blob.unlink()
    found = document(orders, "checkpoint", "verify", "--level", "quick", code=3)
    assert list(found["damaged"][0]) == ["digest", "name", "snapshots", "reason", "blob", "other_names"]
    assert found["damaged"][0]["snapshots"] == ["orders@1", "orders@2"]


def test_restore(with_sources: CommandLine) -> None:
    found = document(with_sources, "restore", "latest", "--to", "restored")
    assert list(found) == [
        "schema", "snapshot", "target", "files", "bytes", "linked_files", "seconds", "operators", "source_offsets",
        "transactions", "non_restored", "fell_back_from", "notes",
    ]  # fmt: skip
    assert (found["snapshot"], found["target"], found["files"]) == ("orders@3", "restored", 3)
    assert found["operators"] == [
        {"uid": "a", "subtask": 0, "path": "restored/a/0"},
        {"uid": "b", "subtask": 1, "path": "restored/b/1"},
    ]
    assert found["source_offsets"] == {"clicks": {"topic-0": 1234, "topic-1": "token"}}
    assert found["transactions"] == {"commit": [], "abort": []}


def test_edits_of_head(orders: CommandLine) -> None:
    found = document(orders, "checkpoint", "tag", "1", "good")
    assert list(found) == ["schema", *ROW, "changed"]
    assert (found["tags"], found["changed"]) == (["good", "nightly"], True)
    held = document(orders, "checkpoint", "hold", "1", "--reason", "audit")
    assert list(held) == ["schema", "id", "snapshot", "reason", "created_at", "expires_at"]
    assert (held["snapshot"], held["reason"], held["expires_at"]) == ("orders@1", "audit", None)
    released = document(orders, "checkpoint", "release", "1")
    assert list(released) == ["schema", "pipeline", "released"]
    assert [hold["id"] for hold in released["released"]] == [held["id"]]
    deleted = document(orders, "checkpoint", "delete", "1", "--dry-run")
    assert list(deleted) == ["schema", "pipeline", "dry_run", "entries", "frees_blobs", "frees_bytes", "notes"]
    assert list(deleted["entries"][0]) == ["snapshot", "changed", "newest"]
    assert deleted["dry_run"] is True
    orders.ok("checkpoint", "delete", "1")
    assert list(document(orders, "checkpoint", "undelete", "1")) == ["schema", *ROW, "changed"]


def test_store(eoctl: CommandLine) -> None:
    made = document(eoctl, "store", "init")
    assert list(made) == ["schema", "url", "id", "format_version", "hash", "created_at"]
    info = document(eoctl, "store", "info")
    assert list(info) == [
        "schema", "url", "id", "format_version", "hash", "created_at", "pipelines", "capabilities"
    ]  # fmt: skip
    assert {key: info[key] for key in made if key != "schema"} == {key: made[key] for key in made if key != "schema"}
    stats = document(eoctl, "store", "stats")
    assert {"url", "pipelines", "last_good_drill_age_seconds", "unfinished_uploads"} <= stats.keys()
    assert stats["pipelines"] == []


def test_store_stats_of_pipelines(orders: CommandLine) -> None:
    (row,) = document(orders, "store", "stats")["pipelines"]
    assert {
        "pipeline", "checkpoints", "savepoints", "trash", "holds", "logical_bytes", "referenced_blobs",
        "referenced_bytes", "stored_blobs", "stored_bytes", "orphan_blobs", "orphan_bytes", "saved_by_sharing",
    } <= row.keys()  # fmt: skip


def test_pipeline(orders: CommandLine) -> None:
    found = document(orders, "pipeline", "list")
    assert list(found) == ["schema", "store", "pipelines"]
    row = [
        "pipeline", "state", "checkpoints", "savepoints", "newest", "newest_at", "full_bytes", "attempt", "era",
        "floor", "trash", "holds",
    ]  # fmt: skip
    assert [list(pipeline) for pipeline in found["pipelines"]] == [row]
    shown = document(orders, "pipeline", "show", "orders")
    assert list(shown) == ["schema", *row, "seq", "last_id", "writers", "hold_rows", "snapshots"]
    assert [list(snapshot) for snapshot in shown["snapshots"]] == [ROW, ROW]


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (("checkpoint", "list"), "snapshots"),
        (("checkpoint", "files", "orders@1"), "files"),
        (("pipeline", "list"), "pipelines"),
        (("store", "stats"), "pipelines"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_jsonl_is_the_rows_of_the_document_one_to_a_line(
    orders: CommandLine, words: tuple[str, ...], rows: str
) -> None:
    lines = orders.ok(*words, "--jsonl").lines
    assert [json.loads(line) for line in lines] == document(orders, *words)[rows]


def test_jsonl_of_an_answer_without_rows_is_its_document(orders: CommandLine) -> None:
    (line,) = orders.ok("checkpoint", "diff", "1", "2", "--jsonl").lines
    assert json.loads(line) == document(orders, "checkpoint", "diff", "1", "2")
