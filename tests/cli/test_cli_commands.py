"""Whole stories through the command line, and the words that it takes."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from eoctl.cli.sources import SourceText, parse_offsets, parse_source
from formats.errors import InvalidInputError, UsageError
from tests.cli.conftest import CommandLine, State


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_story_from_init_to_restore(eoctl: CommandLine, state: State) -> None:
    made = eoctl.ok("store", "init")
    assert made.lines == [
        f"made a store at {eoctl.store} (hash blake3)",
        "next: eoctl checkpoint create DIR -p PIPELINE",
    ]
    nothing = eoctl("checkpoint", "list")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", f"notice: no snapshots in {eoctl.store}\n")

    folder = state(table=1_500_000, journal=300)
    first = eoctl.ok("checkpoint", "create", folder, "-p", "orders", "--tag", "release-7")
    assert first.lines[0] == "orders@1: 1.4 MiB in 2 files"
    before = content_of(folder)
    state(journal=900)
    assert eoctl.ok("checkpoint", "create", folder, "-p", "orders", "-q").out == "orders@2\n"

    listed = eoctl.ok("checkpoint", "list").lines
    assert re.split("  +", listed[0]) == [
        "ID", "KIND", "CREATED (UTC)", "AGE", "FULL", "ADDED", "NEW/REF", "TAGS", "STATUS"
    ]  # fmt: skip
    assert [line.split()[0] for line in listed[1:]] == ["1", "2"]
    assert "release-7  complete" in listed[1]
    assert " 1/1 " in listed[2]
    assert eoctl.ok("checkpoint", "list", "--limit", "1", "-q").lines == ["orders@2"]
    assert eoctl.ok("pipeline", "list", "-q").lines == ["orders"]

    overview = eoctl.ok("checkpoint", "inspect", "orders@latest").out
    assert overview.startswith("orders@2  checkpoint, complete\n")
    assert "parent   orders@1" in overview
    assert "1  referenced, first stored by orders@1" in overview
    difference = eoctl.ok("checkpoint", "diff", "orders@1", "orders@2").lines
    assert difference[0] == "orders@1 -> orders@2: 0 added, 0 removed, 1 changed, 1 the same"
    assert difference[1] == "~  main/0/journal  300 B -> 900 B"
    assert eoctl.ok("checkpoint", "verify").lines[-1] == "no damage"

    restored = eoctl.ok("restore", "orders@1", "--to", "restored")
    assert restored.out.startswith("orders@1 restored to restored: 1.4 MiB in 2 files, in ")
    assert content_of(eoctl.home / "restored") == before
    again = eoctl("restore", "orders@1", "--to", "restored")
    assert (again.code, again.err.splitlines()[0]) == (2, f"error: the target is not empty: {eoctl.home / 'restored'}")


def test_a_story_of_keeping_and_deleting(orders: CommandLine) -> None:
    assert orders.ok("checkpoint", "tag", "orders@1", "good").out == "orders@1: tags good, nightly\n"
    assert orders.ok("checkpoint", "tag", "orders@1", "good", "--remove").out == "orders@1: tags nightly\n"
    assert "nothing to change" in orders.ok("checkpoint", "tag", "orders@1", "good", "--remove").out

    held = orders.ok("checkpoint", "hold", "orders@1", "--reason", "audit").out
    assert held == "orders@1 is held until it is released: audit\n"
    refused = orders("checkpoint", "delete", "orders@1", "orders@2")
    assert (refused.code, refused.out) == (12, "")
    assert orders.ok("checkpoint", "list", "-q").lines == ["orders@1", "orders@2"]
    assert "audit" in orders.ok("pipeline", "show").out
    assert orders.ok("checkpoint", "release", "orders@1").out.startswith("released: orders@1 was held")
    assert orders.ok("checkpoint", "release", "orders@1").out == "there was no hold: nothing to release\n"

    before = orders.ok("checkpoint", "list", "--json").out
    assert "would go to the trash" in orders.ok("checkpoint", "delete", "orders@1", "--dry-run").out
    assert orders.ok("checkpoint", "list", "--json").out == before
    gone = orders.ok("checkpoint", "delete", "orders@1").out
    assert "orders@1 is in the trash" in gone
    assert "eoctl checkpoint undelete orders@1" in gone
    assert "trash" in orders.ok("checkpoint", "list").out
    assert orders.ok("checkpoint", "undelete", "orders@1").out == "orders@1 is back: complete\n"
    assert orders.ok("checkpoint", "list", "--json").out == before


def test_a_hold_with_an_end_and_its_release_by_id(orders: CommandLine) -> None:
    hold = orders.ok("checkpoint", "hold", "orders@1", "--reason", "week", "--for", "7d", "-q").out.strip()
    assert orders.ok("checkpoint", "release", "--hold", hold[:8], "-q").out.strip() == hold
    assert orders("checkpoint", "release", "orders@1", "--hold", hold).code == 2
    assert orders("checkpoint", "release").code == 2


def test_deleting_the_newest_checkpoint_is_said(orders: CommandLine) -> None:
    assert "it was the newest checkpoint" in orders.ok("checkpoint", "delete", "orders@latest").out
    assert orders.ok("checkpoint", "inspect", "latest", "-q").out == "orders@1\n"


def test_snapshots_of_two_pipelines_are_not_deleted_together(orders: CommandLine) -> None:
    orders.ok("checkpoint", "create", "state", "-p", "clicks")
    assert orders("checkpoint", "delete", "orders@1", "clicks@1").code == 2
    assert orders.ok("checkpoint", "list", "-q").lines == ["clicks@1", "orders@1", "orders@2"]


def test_with_several_pipelines_one_has_to_be_named(orders: CommandLine) -> None:
    orders.ok("checkpoint", "create", "state", "-p", "clicks")
    assert orders.ok("checkpoint", "list").lines[0].startswith("PIPELINE")
    refused = orders("checkpoint", "inspect", "latest")
    assert (refused.code, "clicks, orders" in refused.err) == (2, True)
    assert orders.ok("checkpoint", "inspect", "latest", "-p", "orders", "-q").out == "orders@2\n"
    assert orders("checkpoint", "inspect", "clicks@1", "-p", "orders").code == 2


def test_the_same_command_with_an_id_commits_once(eoctl: CommandLine, state: State) -> None:
    eoctl.ok("store", "init")
    words = ("checkpoint", "create", state(a=10), "-p", "orders", "--as-id", "7")
    eoctl.ok(*words)
    again = eoctl.ok(*words)
    assert again.out == "orders@7 was there already, with the same content: nothing was written\n"
    assert eoctl.ok("checkpoint", "list", "-q").lines == ["orders@7"]


def test_several_operators_and_subtasks(eoctl: CommandLine, state: State) -> None:
    eoctl.ok("store", "init")
    state("left", a=10)
    state("right", a=20)
    state("sums", b=30)
    sources = ("joins/0=left", "joins/1=right", "sums=dir:sums")
    eoctl.ok("checkpoint", "create", *sources, "-p", "orders", "--max-parallelism", "128")
    table = eoctl.ok("checkpoint", "inspect", "latest", "--operators").out
    assert [line.split()[0] for line in table.splitlines()[3:]] == ["UID", "joins", "sums"]
    assert " 128 " in table
    eoctl.ok("restore", "latest", "--to", "joins-only", "--operator", "joins")
    assert content_of(eoctl.home / "joins-only") == {
        "joins/0/a": (eoctl.home / "left/a").read_bytes(),
        "joins/1/a": (eoctl.home / "right/a").read_bytes(),
    }
    names = eoctl.ok("checkpoint", "files", "latest", "-q").lines
    assert names == ["joins/0/a", "joins/1/a", "sums/0/b"]
    for name in names:
        assert eoctl.ok("checkpoint", "explain", name).out.startswith(f"orders@1 {name}  file\n")


def test_a_sqlite_database_is_a_source(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    with sqlite3.connect(eoctl.home / "app.db") as database:
        database.execute("create table counts (word text, n integer)")
        database.execute("insert into counts values ('a', 1)")
    database.close()
    eoctl.ok("checkpoint", "create", "sqlite:app.db", "-p", "orders", "--verify-capture")
    eoctl.ok("restore", "latest", "--to", "restored")
    (path,) = (eoctl.home / "restored").iterdir()
    with sqlite3.connect(path) as copy:
        assert copy.execute("select * from counts").fetchall() == [("a", 1)]
    copy.close()


def test_linked_files_share_their_inode(eoctl: CommandLine, state: State) -> None:
    eoctl.ok("store", "init")
    folder = state(**{"table.sst": 2_000_000})
    eoctl.ok("checkpoint", "create", folder, "-p", "orders", "--link")
    eoctl.ok("restore", "latest", "--to", "restored", "--link")
    assert (eoctl.home / "restored/table.sst").stat().st_nlink > 1


def test_offsets_come_back_with_the_restore(orders: CommandLine) -> None:
    (orders.home / "offsets.json").write_text('{"clicks": {"topic-0": 1234}}')
    orders.ok("checkpoint", "create", "state", "-p", "orders", "--offsets", "offsets.json")
    assert "clicks topic-0  1234" in orders.ok("checkpoint", "inspect", "latest", "--offsets").out
    restored = orders.ok("restore", "latest", "--to", "restored")
    assert restored.lines[-1] == "source clicks goes on from: topic-0 at 1234"


def test_offsets_may_come_from_stdin(orders: CommandLine) -> None:
    words = ["checkpoint", "create", "state", "-p", "orders", "--offsets", "-", "-q"]
    done = subprocess.run(
        [*orders.program, *words],
        cwd=orders.home,
        env=orders.environment(),
        input=b'{"clicks": {"topic-0": 5}}',
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"orders@3\n")


def test_a_source_that_is_not_there_makes_no_pipeline(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    assert eoctl("checkpoint", "create", "nowhere", "-p", "orders").code == 2
    assert eoctl("pipeline", "list", "-q").lines == []


def test_parts_of_an_inspection_can_be_chosen(orders: CommandLine) -> None:
    shown = orders.ok("checkpoint", "inspect", "orders@2", "--files", "--references", "--states").out
    assert "new         main/0/small" in shown
    assert "referenced  main/0/big" in shown
    assert "orders@1: 1 file\n  main/0/big" in shown
    assert "no states" in shown
    assert "created" not in shown


def test_the_drill_runs_the_hook_on_what_it_restored(orders: CommandLine) -> None:
    good = orders.ok("checkpoint", "verify", "latest", "--level", "drill", "--hook", "ls", "--scratch", "scratch")
    assert good.lines[-1] == "no damage"
    bad = orders("checkpoint", "verify", "latest", "--level", "drill", "--hook", "false", "--scratch", "scratch")
    assert bad.code == 3
    assert list((orders.home / "scratch").iterdir()) == []


# The words that a source takes.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("state", SourceText("", 0, "dir", "state")),
        ("/var/lib/app", SourceText("", 0, "dir", "/var/lib/app")),
        ("rocksdb:/data/db", SourceText("", 0, "rocksdb", "/data/db")),
        ("sqlite:app.db", SourceText("", 0, "sqlite", "app.db")),
        ("dir:rocksdb:x", SourceText("", 0, "dir", "rocksdb:x")),
        ("a:b", SourceText("", 0, "dir", "a:b")),
        ("rocksdb:a=b", SourceText("", 0, "rocksdb", "a=b")),
        ("joins=state", SourceText("joins", 0, "dir", "state")),
        ("joins/3=state", SourceText("joins", 3, "dir", "state")),
        ("joins/3=sqlite:x", SourceText("joins", 3, "sqlite", "x")),
        ("a/b=state", SourceText("a/b", 0, "dir", "state")),
        ("a/b/7=state", SourceText("a/b", 7, "dir", "state")),
        ("main=./a=b", SourceText("main", 0, "dir", "./a=b")),
        ("main=dir:rocksdb:x", SourceText("main", 0, "dir", "rocksdb:x")),
    ],
)
def test_sources_are_taken_apart(text: str, expected: SourceText) -> None:
    assert parse_source(text) == expected


@pytest.mark.parametrize(
    "text", ["./a=b", "/a=b", "../a=b", "~/a=b", "=b", "main=", "rocksdb:", "main=sqlite:", "/3=b"]
)
def test_bad_sources_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_source(text)


def test_several_sources_need_their_operators(orders: CommandLine) -> None:
    refused = orders("checkpoint", "create", "a=state", "state", "-p", "orders")
    assert (refused.code, refused.err.splitlines()) == (
        2, ["error: one of several sources has no operator: 'state'", "hint: OPERATOR=state"]
    )  # fmt: skip
    assert orders("checkpoint", "create", "a=state", "a=state", "-p", "orders").code == 2
    assert orders("checkpoint", "create", "state", "-p", "orders", "--verify-capture").code == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("{} {}", "is not JSON"),
        ('{"a": {"b": 1}, "a": {}}', "'a' is there twice"),
        ('{"a": {"b": 1, "b": 2}}', "'b' is there twice"),
        ("[]", "holds a list where an object of source uids belongs"),
        ("7", "holds a number where an object of source uids belongs"),
        ('{"a": 7}', "a holds a number where an object of partitions belongs"),
        ('{"": {}}', "a source uid is empty"),
        ('{"a": {"b": 1.5}}', "a.b is the number 1.5"),
        ('{"a": {"b": NaN}}', "a.b is the number nan"),
        ('{"a": {"b": true}}', "a.b is true or false"),
        ('{"a": {"b": null}}', "a.b is null"),
        ('{"a": {"b": {}}}', "a.b is an object"),
        ('{"a": {"b": [1]}}', "a.b is a list"),
        ('{"a": {"b": 9007199254740993}}', "a.b is beyond 2^53"),
        ('{"a": {"b": "' + "x" * 5000 + '"}}', "a.b is longer than 4096 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_bad_offsets_are_refused_with_what_and_where(text: str, told: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_offsets(text.encode("utf-8", "surrogateescape"), "offsets.json")
    assert caught.value.message.startswith("bad offsets: offsets.json")
    assert told in caught.value.message


def test_offsets_that_are_not_there_are_a_wrong_command(orders: CommandLine) -> None:
    words = ("checkpoint", "create", "state", "-p", "orders", "--offsets")
    assert orders(*words, "nowhere.json").code == 2
    (orders.home / "bad.json").write_text("[]")
    assert orders(*words, "bad.json").code == 17
    assert orders.ok("checkpoint", "list", "-q").lines == ["orders@1", "orders@2"]


# Completion.


def complete(eoctl: CommandLine, *words: str, shell: str = "bash") -> list[str]:
    """What bash is answered when the last of the words is completed."""
    asked = {
        "_EOCTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(["eoctl", *words]),
        "COMP_CWORD": str(len(words)),
        "_TYPER_COMPLETE_ARGS": " ".join(["eoctl", *words]),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = eoctl.process(environment=eoctl.environment(**asked))
    assert (done.code, done.err) == (0, "")
    return done.out.split("\n")[:-1]


def test_commands_and_options_are_completed(orders: CommandLine) -> None:
    assert complete(orders, "che") == ["checkpoint"]
    assert complete(orders, "checkpoint", "un") == ["undelete"]
    assert complete(orders, "checkpoint", "list", "--li") == ["--limit"]
    assert complete(orders, "checkpoint", "list", "--js") == ["--json", "--jsonl"]


def test_pipelines_and_snapshots_are_completed_from_the_store(orders: CommandLine) -> None:
    orders.ok("checkpoint", "create", "state", "-p", "clicks")
    assert complete(orders, "checkpoint", "list", "-p", "") == ["clicks", "orders"]
    assert complete(orders, "restore", "") == ["clicks@", "orders@"]
    assert complete(orders, "restore", "-p", "orders", "") == ["latest", "2", "1"]


def test_bash_breaks_words_at_some_signs_and_is_answered_the_piece_that_it_replaces(orders: CommandLine) -> None:
    assert complete(orders, "restore", "orders", "@") == ["@latest", "@2", "@1"]
    assert complete(orders, "restore", "orders", "@", "l") == ["@latest"]
    assert complete(orders, "--store", "=", "nowhere", "restore", "orders", "@") == [""]
    assert complete(orders, "--store", "=", str(orders.store), "restore", "orders", "@", "2") == ["@2"]
    assert complete(orders, "checkpoint", "list", "--pipeline", "=", "o") == ["orders"]
    assert complete(orders, "checkpoint", "list", "--pipeline", "=") == ["orders"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_whole_addresses(orders: CommandLine, shell: str) -> None:
    assert any("orders@2" in line for line in complete(orders, "restore", "orders@", shell=shell))


def test_completion_never_makes_a_store(eoctl: CommandLine) -> None:
    environment = eoctl.environment()
    del environment["EOCTL_STORE"]
    eoctl.process(
        environment=environment
        | {"_EOCTL_COMPLETE": "complete_bash", "COMP_WORDS": "eoctl\nrestore\n", "COMP_CWORD": "2"}
    )
    assert list(eoctl.home.iterdir()) == []


def test_the_completion_script_is_printed(eoctl: CommandLine) -> None:
    environment = eoctl.environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    done = eoctl.process("--show-completion", "bash", environment=environment)
    assert done.code == 0
    assert "complete -o default -F" in done.out


def test_the_program_runs_in_a_directory_that_is_gone(orders: CommandLine, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"cd {gone} && rmdir {gone} && exec {' '.join(orders.program)} checkpoint list -q"
    done = subprocess.run(["sh", "-c", script], env=orders.environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["orders@1", "orders@2"])


def test_a_store_may_be_named_relative_to_the_working_directory(orders: CommandLine) -> None:
    assert json.loads(orders.ok("checkpoint", "list", "--store", "./store", "--json").out)["store"] == str(orders.store)
    assert os.fspath(orders.store) in orders.ok("store", "info").out
