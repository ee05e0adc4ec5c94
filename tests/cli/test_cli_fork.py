"""`eoctl pipeline fork`: what it says, what it refuses, what is there afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


@pytest.fixture
def orders(eoctl, tmp_path: Path):
    """Three checkpoints of one pipeline."""
    state = tmp_path / "state"
    state.mkdir()
    eoctl.ok("store", "init", eoctl.store)
    for number in range(3):
        (state / f"{number}.sst").write_bytes(bytes([number]) * 1_200_000)
        eoctl.ok("checkpoint", "create", state, "-p", "orders")
    return eoctl


def ids(eoctl, pipeline: str, *store: str | Path) -> list[int]:
    document = json.loads(eoctl.ok("checkpoint", "list", "-p", pipeline, "--json", *store).out)
    return [row["id"] for row in document["snapshots"]]


def test_the_newest_checkpoint_is_forked(orders) -> None:
    assert orders.ok("pipeline", "fork", "orders", "trial", "-q").out == "trial@3\n"
    assert ids(orders, "trial") == [3]
    orders.ok("checkpoint", "verify", "-p", "trial", "--level", "full")


def test_one_or_all_are_forked_into_another_store(orders, tmp_path: Path) -> None:
    other = tmp_path / "other"
    orders.ok("store", "init", "--store", other)
    assert orders.ok("pipeline", "fork", "orders@1", "one", "--to", other, "-q").out == "one@1\n"
    done = orders.ok("pipeline", "fork", "orders", "--all", "--to", other)
    assert done.out.startswith(f"orders@1, orders@2, orders@3 in {other}: ")
    again = orders.ok("pipeline", "fork", "orders", "--all", "--to", other)
    assert again.out == f"3 snapshots of orders were there already in {other}\n"
    assert ids(orders, "orders", "--store", other) == [1, 2, 3]
    orders.ok("checkpoint", "verify", "-p", "orders", "--level", "full", "--store", other)


def test_the_document_has_a_row_for_each_copy(orders) -> None:
    document = json.loads(orders.ok("pipeline", "fork", "orders", "trial", "--all", "--json").out)
    assert list(document) == [
        "schema", "source", "from_store", "pipeline", "store", "copies", "copied_blobs", "copied_bytes", "seconds",
        "notes",
    ]  # fmt: skip
    assert document["schema"] == "eoctl.pipeline.fork/1"
    copies = document["copies"]
    assert list(copies[0]) == ["source", "snapshot", "copied_blobs", "copied_bytes", "existed", "notes"]
    assert [copy["source"] for copy in copies] == ["orders@1", "orders@2", "orders@3"]
    assert sum(copy["copied_bytes"] for copy in copies) == document["copied_bytes"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("orders",), 2, "the fork has no name"),
        (("orders", "orders"), 2, "orders is the pipeline itself"),
        (("orders@1", "trial", "--all"), 2, "orders@1 is one snapshot"),
        (("orders", "Trial"), 17, "bad pipeline name"),
        (("orders@9", "trial"), 11, "no such snapshot"),
        (("nobody", "trial"), 11, "no such pipeline"),
        (("orders", "--to", "s3cret@nowhere"), 10, "there is no store"),
        (("orders", "taken"), 12, "taken@1 is no copy of orders"),
    ],
)
def test_what_cannot_be_forked_is_said(orders, tmp_path: Path, words, code, said) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_bytes(b"1")
    orders.ok("checkpoint", "create", tmp_path / "mine", "-p", "taken")
    done = orders("pipeline", "fork", *words)
    assert (done.code, done.out) == (code, "")
    assert said in done.err


def test_an_interrupted_fork_says_what_was_copied(orders, monkeypatch) -> None:
    from eoctl.services import fork

    real = fork.copy_snapshot

    def stopped(source, snapshot, *rest, **more):
        if snapshot.entry.id == 3:
            raise KeyboardInterrupt
        return real(source, snapshot, *rest, **more)

    monkeypatch.setattr(fork, "copy_snapshot", stopped)
    done = orders("pipeline", "fork", "orders", "trial", "--all")
    assert done.code == 130
    assert "trial has 2 snapshots, each of them whole; the same command goes on" in done.err
