"""`eoctl store repair` and `eoctl restore --fallback` as people and scripts see them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine, Done, State

ITEM = ["digest", "name", "snapshots", "reason", "status", "blob", "other_names", "source", "wanted"]
PIPELINE = ["pipeline", "checked_bytes", "items", "rewritten", "uploaded_blobs", "uploaded_bytes", "notes"]
DOCUMENT = ["schema", "dry_run", "whole", "sources", "searched_files", "searched_bytes", "pipelines", "rebuilt"]
REBUILT = [
    "pipeline", "written", "torn", "backup", "seq", "era", "floor", "attempt", "last_id", "snapshots", "left_out",
    "copied_blobs", "copied_bytes",
]  # fmt: skip


@pytest.fixture
def damaged(orders: CommandLine) -> CommandLine:
    """Each large blob of the store has one byte that is wrong; the files lie in `state`, as checkpoint 2 has them."""
    shutil.copytree(orders.store, orders.home / "copy")
    for blob in (orders.store / "p/orders/o").rglob("*.1"):
        data = bytearray(blob.read_bytes())
        if len(data) > 1 << 20:
            data[len(data) // 2] ^= 1
            blob.unlink()
            blob.write_bytes(data)
    return orders


def document(done: Done, code: int = 0) -> dict[str, Any]:
    assert done.code == code, done
    found: dict[str, Any] = json.loads(done.out)
    assert found["schema"] == "eoctl.store.repair/1"
    return found


def test_a_whole_store_is_said_to_be_whole(orders: CommandLine) -> None:
    done = orders.ok("store", "repair")
    assert done.lines[-1] == "no damage"
    found = document(orders("store", "repair", "--json"))
    assert list(found) == DOCUMENT
    assert (found["whole"], found["dry_run"], found["rebuilt"]) == (True, False, None)
    assert [list(one) for one in found["pipelines"]] == [PIPELINE]


def test_an_empty_store_has_nothing_to_repair(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    assert eoctl.ok("store", "repair").out == "no pipelines yet\n"


def test_damage_without_a_source_is_exit_3_and_says_what_would_help(damaged: CommandLine) -> None:
    done = damaged("store", "repair", "-p", "orders")
    assert (done.code, done.err) == (3, "")
    assert "damaged" in done.out
    assert "main/0/big" in done.out
    assert "looked for, and not found, for main/0/big: " in done.out
    assert done.lines[-1] == "1 content not repaired"


@pytest.mark.parametrize("source", ["state", "copy"])
def test_a_source_makes_it_whole(damaged: CommandLine, source: str) -> None:
    expected = (damaged.home / "state/big").read_bytes()
    dry = document(damaged("store", "repair", "--from", source, "--dry-run", "--json"), 3)
    assert [item["status"] for item in dry["pipelines"][0]["items"]] == ["repairable"]
    found = document(damaged("store", "repair", "--from", source, "--json"))
    (one,) = found["pipelines"]
    (item,) = one["items"]
    assert list(item) == ITEM
    assert (item["status"], item["snapshots"]) == ("repaired", ["orders@1", "orders@2"])
    assert item["source"].startswith(source)
    assert one["rewritten"] == ["orders@1", "orders@2"]
    damaged.ok("checkpoint", "verify", "-p", "orders")
    damaged.ok("restore", "orders@1", "--to", "restored")
    assert (damaged.home / "restored/big").read_bytes() == expected


def test_what_was_done_is_told_in_words(damaged: CommandLine) -> None:
    done = damaged.ok("store", "repair", "--from", "state")
    assert "repaired" in done.out
    assert "new manifests: orders@1, orders@2" in done.out
    assert "looked at 2 files below state" in done.out


def test_quietly_only_what_stays_damaged_is_named(damaged: CommandLine) -> None:
    assert damaged("store", "repair", "-q").out == "main/0/big\n"
    assert damaged.ok("store", "repair", "-q", "--from", "state").out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rebuild-head"], "say which pipeline has lost its HEAD"),
        (["--rebuild-head", "-p", "orders", "--from", "state"], "--from is not for --rebuild-head"),
        (["--yes"], "--yes goes with --rebuild-head"),
        (["--from", "nowhere"], "no such directory: nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused(orders: CommandLine, words: list[str], message: str) -> None:
    done = orders("store", "repair", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[0] == f"error: {message}"


# A lost HEAD


def test_a_good_head_is_not_rebuilt(orders: CommandLine) -> None:
    done = orders("store", "repair", "-p", "orders", "--rebuild-head", "--yes")
    assert (done.code, done.err.splitlines()) == (
        12,
        ["error: HEAD of orders is good: there is nothing to rebuild", "hint: eoctl store repair -p orders"],
    )


@pytest.mark.parametrize("torn", [True, False])
def test_a_lost_head_is_proposed_and_made(orders: CommandLine, torn: bool) -> None:
    expected = (orders.home / "state/small").read_bytes()
    head = orders.store / "p/orders/HEAD"
    head.unlink()
    if torn:
        head.write_bytes(b'{"format"')
    lost = orders("checkpoint", "list", "-p", "orders")
    assert lost.code == 13
    proposed = orders("store", "repair", "-p", "orders", "--rebuild-head")
    assert proposed.code == 0
    assert proposed.err == "notice: nothing was written; --yes makes this HEAD\n"
    assert proposed.lines[-1] == "would be made: 2 snapshots; each is tagged resurrected"
    assert orders("checkpoint", "list", "-p", "orders").code == 13
    assert (
        "nothing was written" in orders("store", "repair", "-p", "orders", "--rebuild-head", "--yes", "--dry-run").err
    )
    found = document(orders("store", "repair", "-p", "orders", "--rebuild-head", "--yes", "--json"))
    assert list(found["rebuilt"]) == REBUILT
    assert (found["rebuilt"]["written"], found["whole"]) == (True, True)
    assert [(one["snapshot"], one["status"]) for one in found["rebuilt"]["snapshots"]] == [
        ("orders@1", "live"),
        ("orders@2", "live"),
    ]
    listed = json.loads(orders.ok("checkpoint", "list", "-p", "orders", "--json").out)["snapshots"]
    assert [row["tags"] for row in listed] == [["nightly", "resurrected"], ["resurrected"]]
    orders.ok("restore", "orders@latest", "--to", "restored")
    assert (orders.home / "restored/small").read_bytes() == expected


def test_snapshots_that_are_left_out_are_named(damaged: CommandLine) -> None:
    (damaged.store / "p/orders/HEAD").unlink()
    done = damaged("store", "repair", "-p", "orders", "--rebuild-head", "--yes")
    assert done.code == 12
    assert "nothing whole was found of orders" in done.err
    proposed = damaged("store", "repair", "-p", "orders", "--rebuild-head", "--json")
    left = document(proposed, 3)["rebuilt"]["left_out"]
    assert [one["snapshot"] for one in left] == ["orders@1", "orders@2"]
    assert all("content does not match its digest" in one["reason"] for one in left)


def test_what_is_left_out_is_told_by_the_exit_code_when_head_is_made(newest_is_damaged: CommandLine) -> None:
    (newest_is_damaged.store / "p/orders/HEAD").unlink()
    done = newest_is_damaged("store", "repair", "-p", "orders", "--rebuild-head", "--yes")
    assert done.code == 3
    assert done.lines[-1].startswith("HEAD is made: 2 snapshots, copied ")
    assert any(line.startswith("left out: orders@3: ") for line in done.lines)
    newest_is_damaged.ok("restore", "orders@latest", "--to", "restored")


# restore --fallback


@pytest.fixture
def newest_is_damaged(orders: CommandLine, state: State) -> CommandLine:
    before = set((orders.store / "p/orders/o").rglob("*.1"))
    orders.ok("checkpoint", "create", state(more=2_000_000), "-p", "orders")
    for blob in set((orders.store / "p/orders/o").rglob("*.1")) - before:
        blob.unlink()
    return orders


def test_a_damaged_snapshot_names_what_could_be_restored(newest_is_damaged: CommandLine) -> None:
    done = newest_is_damaged("restore", "orders@latest", "--to", "restored")
    assert done.code == 13
    assert done.err.splitlines()[-1] == "hint: orders@2 looks whole: restore it, or add --fallback"
    assert not Path("restored").exists()


def test_a_fallback_is_said_loudly(newest_is_damaged: CommandLine) -> None:
    done = newest_is_damaged("restore", "orders@latest", "--to", "restored", "--fallback")
    assert done.code == 0
    assert done.err.startswith("warning: orders@3 is damaged; orders@2 was restored in its place: ")
    assert done.lines[0].startswith("orders@2 restored to restored: ")
    assert done.lines[-1] == "NOT what was asked for: fell back from orders@3, which cannot be restored"
    assert sorted(path.name for path in Path("restored").iterdir()) == ["big", "small"]


def test_a_fallback_is_said_though_quiet(newest_is_damaged: CommandLine) -> None:
    done = newest_is_damaged("restore", "orders@latest", "--to", "restored", "--fallback", "-q")
    assert (done.code, done.out) == (0, "restored\n")
    assert done.err.startswith("warning: orders@3 is damaged; ")


def test_a_fallback_is_in_the_document(newest_is_damaged: CommandLine) -> None:
    done = newest_is_damaged("restore", "orders@latest", "--to", "restored", "--fallback", "--json")
    found = json.loads(done.out)
    assert found["snapshot"] == "orders@2"
    assert [list(one) for one in found["fell_back_from"]] == [["snapshot", "reason"]]
    assert found["fell_back_from"][0]["snapshot"] == "orders@3"
    assert json.loads(done.err)["warning"].startswith("orders@3 is damaged; ")
