"""`eoctl gc` and `eoctl pipeline destroy`: what they say, what cron sees of it, what is gone afterwards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine, State

AT_ONCE = ("--grace", "0s", "--keep-trash", "0s")
ROW = [
    "pipeline", "dry_run", "expired", "kept", "by_rules", "advanced", "era", "floor", "left_trash", "garbage_blobs",
    "garbage_bytes", "deleted_blobs", "freed_bytes", "repacked_packs", "repacked_bytes", "live_blobs", "live_bytes",
    "stored_bytes", "young_orphans", "young_bytes", "garbage", "strangers", "dangling", "notes", "stopped", "error",
    "message", "hint", "exit_code", "seconds",
]  # fmt: skip
DESTROYED = [
    "schema", "pipeline", "dry_run", "destroyed", "state", "snapshots", "holds", "blobs", "bytes", "deleted_blobs",
    "freed_bytes", "left_blobs", "writers", "notes",
]  # fmt: skip


@pytest.fixture
def three(orders: CommandLine, state: State) -> CommandLine:
    """Checkpoints 1 to 3; the large file is another one since 3."""
    state(big=1_900_000)
    orders.ok("checkpoint", "create", "state", "-p", "orders")
    return orders


def blobs(eoctl: CommandLine, pipeline: str = "orders") -> set[str]:
    root = eoctl.store / "p" / pipeline
    found = [*(root / "o").rglob("*.*"), *(root / "m").rglob("*.*")]
    return {path.relative_to(eoctl.store).as_posix() for path in found}


def orphan(eoctl: CommandLine, era: int, number: int = 0) -> Path:
    path = eoctl.store / f"p/orders/o/ab/ab{number:062x}.{era}"
    path.write_bytes(b"nobody's")
    return path


# What it says.


def test_a_table_says_why_each_snapshot_is_kept_or_goes(three: CommandLine) -> None:
    done = three.ok("gc", "--keep-last", "1", "--keep-tag", "nightly")
    assert done.lines[0] == "orders"
    rows = [re.split("  +", line.strip()) for line in done.lines[1:5]]
    assert rows == [
        ["SNAPSHOT", "REASON"],
        ["orders@2", "expire", "no rule keeps it"],
        ["orders@1", "keep", "tag nightly"],
        ["orders@3", "keep", "last 1"],
    ]
    assert re.search(r"^Expired +1 snapshot moved to the trash$", done.out, re.MULTILINE)
    assert three.ok("checkpoint", "undelete", "orders@2").out == "orders@2 is back: complete\n"


def test_without_a_rule_there_is_no_table_and_nothing_expires(three: CommandLine) -> None:
    done = three.ok("gc")
    assert "SNAPSHOT" not in done.out
    assert [line.split()[0] for line in done.lines[1:]] == ["Deleted", "Live", "Stored", "Took"]
    assert three.ok("checkpoint", "list", "-q").lines == ["orders@1", "orders@2", "orders@3"]


def test_bytes_are_free_at_once_where_nothing_is_to_be_waited_for(three: CommandLine) -> None:
    done = three.ok("gc", "--keep-last", "1", *AT_ONCE)
    assert re.search(r"^Trash +2 snapshots dropped for good$", done.out, re.MULTILINE)
    assert re.search(r"^Deleted +\d blobs, 1\.9 MiB$", done.out, re.MULTILINE)
    assert three.ok("checkpoint", "list", "-q").lines == ["orders@3"]
    assert three.ok("checkpoint", "verify", "-q").out == ""
    assert three("checkpoint", "undelete", "orders@1").code == 11


def test_a_dry_run_names_what_the_run_then_deletes(three: CommandLine) -> None:
    words = ("gc", "--keep-last", "1", "--grace", "0s", "-v")
    three.ok("gc", "--keep-last", "1", *AT_ONCE)
    garbage = orphan(three, 0)
    before = blobs(three)
    told = three(*words, "--dry-run")
    assert told.code == 0
    assert told.lines[0] == "orders  (dry run: nothing is changed)"
    names = {line.removeprefix("garbage: ") for line in told.lines if line.startswith("garbage: ")}
    assert names == {garbage.relative_to(three.store).as_posix()}
    assert blobs(three) == before
    done = three(*words)
    assert done.code == 0
    assert before - blobs(three) == names
    assert {line.removeprefix("garbage: ") for line in done.lines if line.startswith("garbage: ")} == names


def test_every_pipeline_or_those_that_are_named(three: CommandLine) -> None:
    three.ok("checkpoint", "create", "state", "-p", "clicks")
    assert [line for line in three.ok("gc").lines if line in {"clicks", "orders"}] == ["clicks", "orders"]
    assert "clicks" not in three.ok("gc", "-p", "orders").out
    both = json.loads(three.ok("gc", "-p", "orders", "-p", "clicks", "-p", "orders", "--json").out)
    assert [row["pipeline"] for row in both["pipelines"]] == ["orders", "clicks"]


def test_a_store_without_pipelines(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    done = eoctl("gc")
    assert (done.code, done.out, done.err) == (0, "", "notice: there are no pipelines in this store\n")
    assert eoctl.ok("gc", "-q").out == ""


# What cron sees.


@pytest.mark.parametrize("words", [(), ("--keep-last", "1"), ("--keep-last", "1", *AT_ONCE), ("--dry-run",)])
def test_quiet_says_nothing_where_all_is_well(three: CommandLine, words: tuple[str, ...]) -> None:
    for _ in range(2):
        assert three.ok("gc", "-q", *words).out == ""


def test_quiet_still_says_what_is_wrong_and_3_says_that_something_is(three: CommandLine) -> None:
    (name,) = (path for path in (three.store / "p/orders/o").rglob("*.1") if path.stat().st_size > 1_950_000)
    name.unlink()
    done = three("gc", "-q")
    where = name.relative_to(three.store).as_posix()
    assert (done.code, done.out) == (3, "")
    assert done.err.splitlines()[0] == f"error: orders: {where} is gone, and orders@1, orders@2 need it"
    document = json.loads(three("gc", "--json").out)
    assert document["pipelines"][0]["dangling"] == [{"key": where, "snapshots": ["orders@1", "orders@2"]}]


def test_13_for_a_pipeline_that_cannot_be_collected_and_the_others_are(three: CommandLine) -> None:
    three.ok("checkpoint", "create", "state", "-p", "clicks")
    head = three.store / "p/clicks/HEAD"
    good = head.read_bytes()
    head.write_bytes(good[:-1])
    done = three("gc", "--keep-last", "1")
    assert done.code == 13
    assert done.err.startswith("error: clicks: HEAD is damaged")
    assert "nothing was deleted" in done.err
    assert "no rule keeps it" in done.out
    head.unlink()
    lost = three("gc", "-q")
    assert (lost.code, lost.out) == (13, "")
    assert lost.err.startswith("error: clicks: HEAD of clicks is missing")


def test_11_for_a_pipeline_that_is_not_there(three: CommandLine) -> None:
    done = three("gc", "-p", "shop")
    assert (done.code, done.err.splitlines()[0]) == (11, "error: shop: no such pipeline: shop")


def test_3_for_more_garbage_than_expected(three: CommandLine) -> None:
    three.ok("gc", "--grace", "0s")
    for number in range(1001):
        orphan(three, 0, number)
    done = three("gc")
    assert done.code == 3
    assert re.search(r"^Garbage +1,001 blobs, ", done.out, re.MULTILINE)
    first, second = done.err.splitlines()
    found = re.fullmatch(
        r"error: orders: 1001 of (\d+) blobs are garbage; if that is right, run again with --expect 1001", first
    )
    assert found is not None
    assert second == "hint: it is left as it is; eoctl gc -p orders --dry-run -v names the blobs"
    assert three("gc", "--expect", "1000").code == 3
    assert re.search(r"^Deleted +1,001 blobs, ", three.ok("gc", "--expect", "1001").out, re.MULTILINE)


def test_files_of_nobody_are_left_alone_and_said(three: CommandLine) -> None:
    stranger = three.store / "p/orders/o/notes.txt"
    stranger.write_text("mine")
    done = three("gc", *AT_ONCE)
    assert (done.code, stranger.exists()) == (0, True)
    assert done.err == "notice: orders: 1 file of nobody's, left alone: p/orders/o/notes.txt\n"
    assert three.ok("gc", "-q").out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--keep-within", "soon"), "bad duration for --keep-within: 'soon'"),
        (("--grace", "-1h"), "bad duration for --grace: '-1h'"),
        (("--keep-trash", "1y"), "bad duration for --keep-trash: '1y'"),
        (("--keep-last", "-1"), "invalid value for '--keep-last'"),
        (("--keep-tag", "no tag"), "bad tag: 'no tag'"),
        (("-p", "No Pipeline"), "bad pipeline name: 'No Pipeline'"),
        (("--metrics", "nowhere/gc.prom"), "no such directory: nowhere"),
    ],
)
def test_words_that_are_wrong(three: CommandLine, words: tuple[str, ...], message: str) -> None:
    done = three("gc", *words)
    assert done.code in {2, 17}
    assert done.err.startswith(f"error: {message}")


def test_spans_of_time_beyond_all_bounds(three: CommandLine) -> None:
    huge = "999999999d"
    done = three.ok("gc", "--keep-within", huge, "--grace", huge, "--keep-trash", huge)
    assert "expire" not in done.out


# Documents and figures.


def test_the_json_document(three: CommandLine) -> None:
    done = three.ok("gc", "--keep-last", "1", *AT_ONCE, "--json")
    assert done.out.count("\n") == 1
    document = json.loads(done.out)
    assert list(document) == ["schema", "dry_run", "pipelines", "unfinished_removed", "notes"]
    assert (document["schema"], document["dry_run"]) == ("eoctl.gc/1", False)
    (row,) = document["pipelines"]
    assert list(row) == ROW
    assert row["expired"] == [
        {"snapshot": "orders@1", "reason": "no rule keeps it"},
        {"snapshot": "orders@2", "reason": "no rule keeps it"},
    ]
    assert row["kept"] == [{"snapshot": "orders@3", "reason": "last 1"}]
    assert (row["left_trash"], row["dangling"], row["error"], row["exit_code"]) == (2, [], "", 0)
    assert row["freed_bytes"] > 1_900_000
    assert row["garbage"] == []
    assert json.loads(three.ok("gc", "--dry-run", "--json").out)["dry_run"] is True


def test_jsonl_is_a_row_for_each_pipeline(three: CommandLine) -> None:
    three.ok("checkpoint", "create", "state", "-p", "clicks")
    done = three("gc", "--jsonl")
    assert [json.loads(line)["pipeline"] for line in done.lines] == ["clicks", "orders"]
    assert all(json.loads(line)["schema"] == "eoctl.progress/1" for line in done.err.splitlines())


def test_figures_for_prometheus_are_replaced_at_once(three: CommandLine) -> None:
    path = three.home / "gc.prom"
    path.write_text("old\n")
    three.ok("gc", "--keep-last", "1", *AT_ONCE, "--metrics", path)
    text = path.read_text()
    assert 'eoctl_gc_success{pipeline="orders"} 1\n' in text
    assert re.search(r'^eoctl_gc_freed_bytes\{pipeline="orders"\} [1-9]\d{6}$', text, re.MULTILINE)
    assert re.search(r"^eoctl_gc_finished_time_seconds 1[0-9]{9}(\.\d+)?$", text, re.MULTILINE)
    assert [each.name for each in three.home.iterdir() if "prom" in each.name] == ["gc.prom"]
    assert path.stat().st_mode & 0o777 == 0o644
    (three.store / "p/orders/HEAD").write_bytes(b"")
    assert three("gc", "--metrics", path).code == 13
    assert 'eoctl_gc_success{pipeline="orders"} 0\n' in path.read_text()


# The end of a pipeline.


def test_without_yes_it_says_what_would_be_and_does_nothing(three: CommandLine) -> None:
    before = blobs(three)
    done = three("pipeline", "destroy", "orders")
    assert done.code == 2
    assert done.lines[0].startswith("orders would be destroyed: 3 snapshots in ")
    assert done.lines[1] == "lost for ever: orders@1, orders@2, orders@3"
    assert done.err.splitlines()[0] == "error: nothing was done: orders is destroyed with --yes only"
    dry = three.ok("pipeline", "destroy", "orders", "--dry-run")
    assert dry.out == done.out
    assert blobs(three) == before
    assert three("pipeline", "destroy", "orders", "--dry-run", "--yes").code == 2


def test_a_destroyed_pipeline_is_a_tombstone(three: CommandLine) -> None:
    three.ok("checkpoint", "create", "state", "-p", "clicks")
    others = blobs(three, "clicks")
    done = three.ok("pipeline", "destroy", "orders", "--yes")
    assert done.lines[0].startswith("orders is destroyed: 3 snapshots in ")
    assert blobs(three) == set()
    assert blobs(three, "clicks") == others
    rows = {row["pipeline"]: row for row in json.loads(three.ok("pipeline", "list", "--json").out)["pipelines"]}
    assert (rows["orders"]["state"], rows["clicks"]["state"]) == ("destroyed", "active")
    assert (rows["orders"]["floor"], rows["orders"]["checkpoints"]) == (rows["orders"]["era"] + 1, 0)
    assert re.search(r"^orders +destroyed ", three.ok("pipeline", "list").out, re.MULTILINE)
    for words in (
        ("checkpoint", "create", "state", "-p", "orders"),
        ("checkpoint", "delete", "orders@3"),
        ("restore", "orders@3", "--to", "back"),
    ):
        refused = three(*words)
        assert refused.code == 11, words
    assert three.ok("pipeline", "destroy", "orders", "--yes").out == "orders was destroyed before\n"
    assert three.ok("gc", "-q").out == ""
    assert three.ok("checkpoint", "verify", "-p", "clicks", "-q").out == ""


def test_a_legal_hold_forbids_it_and_one_with_an_end_does_not(three: CommandLine) -> None:
    three.ok("checkpoint", "hold", "orders@1", "--reason", "audit")
    three.ok("checkpoint", "hold", "orders@2", "--reason", "week", "--for", "7d")
    before = blobs(three)
    for option in ("--yes", "--dry-run"):
        refused = three("pipeline", "destroy", "orders", option)
        assert (refused.code, refused.out) == (12, "")
        assert refused.err.splitlines() == [
            "error: orders@1 is under a hold without an end",
            "hint: eoctl checkpoint release orders@1",
        ]
    assert blobs(three) == before
    three.ok("checkpoint", "release", "orders@1")
    assert "1 hold with an end went with it" in three.ok("pipeline", "destroy", "orders", "--yes").out


def test_the_document_of_a_destruction(three: CommandLine) -> None:
    document = json.loads(three.ok("pipeline", "destroy", "orders", "--yes", "--json").out)
    assert list(document) == DESTROYED
    assert document["schema"] == "eoctl.pipeline.destroy/1"
    assert (document["destroyed"], document["state"]) == (True, "destroyed")
    assert document["snapshots"] == ["orders@1", "orders@2", "orders@3"]
    assert document["deleted_blobs"] == document["blobs"] > 0
    again = json.loads(three.ok("pipeline", "destroy", "orders", "--yes", "--json").out)
    assert (again["destroyed"], again["blobs"]) == (False, 0)


def test_quiet_names_what_was_destroyed(three: CommandLine) -> None:
    assert three("pipeline", "destroy", "orders", "-q").out == ""
    assert three.ok("pipeline", "destroy", "orders", "--yes", "-q").lines == ["orders"]


def test_what_is_not_there_cannot_be_destroyed(three: CommandLine) -> None:
    assert three("pipeline", "destroy", "shop", "--yes").code == 11
    assert three("pipeline", "destroy", "Shop", "--yes").code == 17
    (three.store / "p/orders/HEAD").write_bytes(b"{}")
    assert three("pipeline", "destroy", "orders", "--yes").code == 13
    assert blobs(three) != set()


# In scripts.


def test_a_script_can_do_the_same(three: CommandLine) -> None:
    from eoctl import ConflictError, Policy, open_store

    store = open_store(three.store)
    orders = store.pipeline("orders")
    told = orders.gc(Policy(keep_last=1), dry_run=True)
    assert [each.snapshot for each in told.expired] == ["orders@1", "orders@2"]
    row = orders.gc(Policy(keep_last=1), grace_seconds=0, keep_trash_seconds=0)
    assert (row.left_trash, row.error) == (2, "")
    assert [row.pipeline for row in store.gc().pipelines] == ["orders"]
    assert [row.pipeline for row in store.gc(pipelines=["orders"], cache=three.home / "cache").pipelines] == ["orders"]
    orders.hold(3, "audit")
    with pytest.raises(ConflictError):
        orders.destroy()
    orders.release(3)
    assert orders.destroy(dry_run=True).state == "active"
    assert orders.destroy().destroyed
