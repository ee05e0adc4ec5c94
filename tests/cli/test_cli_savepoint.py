"""Savepoints and state through the command line: what is printed, and what every kind of bad input ends in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from eoctl.ambient import system_ambient
from formats.keygroups import java_string_hash, key_group_of
from formats.savepoint import HEAD_NAME
from formats.state import StateSchema
from storage.backends.urls import open_place
from storage.store import open_store
from tests.cli.conftest import CommandLine
from tests.support.states import Operator, Row, table_checkpoint, write_rows

SUM = StateSchema(name="sum", kind="value", key="string", value="long")
DAYS = StateSchema(name="by-day", kind="map", key="string", map_key="string", value="long")
RAW = StateSchema(name="raw", kind="value")


def text(word: str) -> bytes:
    return bytes([len(word) + 1]) + word.encode()


def row(key: str, number: int, day: str = "") -> Row:
    group = key_group_of(java_string_hash(key), 128)
    return group, text(key), b"", text(day) if day else b"", struct.pack(">q", number)


@pytest.fixture
def eoctl_with_state(eoctl: CommandLine) -> CommandLine:
    """Checkpoints orders@1 and orders@2 of two operators; in the second, k1 is changed, k2 gone, k3 new."""
    eoctl.ok("store", "init")
    store = open_store(open_place(str(eoctl.store), "t" * 12), system_ambient())
    for number, sums in enumerate(([row("k1", 1), row("k2", 2)], [row("k1", 5), row("k3", 3)])):
        table_checkpoint(
            store,
            "orders",
            {
                "totals": Operator(
                    states=((SUM, sums), (DAYS, [row("k1", 7, "mon"), row("k1", 8, "tue")])), parallelism=2
                ),
                "sink": Operator(states=((RAW, [(3, b"\0\xff", b"", b"", b"plain")]),)),
            },
            eoctl.home / f"tables-{number}",
            offsets={"clicks": {"p0": 10}},
        )
    return eoctl


def test_a_story_of_a_savepoint(eoctl_with_state: CommandLine) -> None:
    eoctl = eoctl_with_state
    made = eoctl.ok("savepoint", "create", "orders@2", "--name", "release", "--remap", "totals=sums").lines
    assert made[0].startswith("orders@release: 5 rows of 3 states, ")
    assert [line.split()[:3] for line in made[1:]] == [
        ["OLD", "NEW", "ACTION"],
        ["totals", "sums", "remapped"],
        ["sink", "sink", "kept"],
        ["clicks", "clicks", "kept"],
    ]
    assert eoctl.ok("savepoint", "list", "-q").lines == ["orders@release"]
    shown = json.loads(eoctl.ok("savepoint", "inspect", "orders@release", "--json").out)
    assert [(one["uid"], one["rows"]) for one in shown["operators"]] == [("sums", 4), ("sink", 1)]
    assert shown["source_offsets"] == {"clicks": {"p0": 10}}
    eoctl.ok("savepoint", "export", "orders@release", "--to", "out")
    assert eoctl.ok("savepoint", "verify", "./out").lines[-1] == "no damage"
    assert eoctl.ok("savepoint", "verify", "orders@release").lines[-1] == "no damage"
    assert eoctl.ok("state", "diff", "orders@release", "./out", "--exit-code", "-q").out == "same\n"
    eoctl.ok("savepoint", "import", "./out", "--name", "copy", "-p", "other")
    assert eoctl.ok("state", "diff", "other@copy", "./out", "--exit-code", "-q").out == "same\n"
    assert eoctl("savepoint", "delete", "orders@1").code == 2
    eoctl.ok("savepoint", "delete", "orders@release")
    eoctl.ok("checkpoint", "undelete", "orders@release")


def test_the_document_of_a_savepoint(eoctl_with_state: CommandLine) -> None:
    made = json.loads(eoctl_with_state.ok("savepoint", "create", "orders@2", "--drop", "sink", "--json").out)
    assert made["schema"] == "eoctl.savepoint.create/1"
    assert (made["pipeline"], made["name"], made["kind"]) == ("orders", "savepoint-2", "savepoint")
    assert (made["dropped"], made["remapped"], made["rows"]) == (["sink"], {}, 4)
    assert [(one["operator"], one["name"], one["rows"]) for one in made["states"]] == [
        ("totals", "by-day", 2),
        ("totals", "sum", 2),
    ]


def test_retention_never_touches_a_savepoint(eoctl_with_state: CommandLine) -> None:
    eoctl = eoctl_with_state
    eoctl.ok("savepoint", "create", "orders@1", "--name", "keep-me")
    before = eoctl.ok("state", "scan", "orders@keep-me", "--state", "sum", "--jsonl").out
    for _ in range(3):
        eoctl.ok(
            "gc", "-p", "orders", "--keep-last", "1", "--grace", "0s", "--keep-trash", "0s", "--expect", "100", "-q"
        )
    assert eoctl.ok("checkpoint", "list", "-q").lines == ["orders@2", "orders@keep-me"]
    assert eoctl.ok("state", "scan", "orders@keep-me", "--state", "sum", "--jsonl").out == before


def test_what_state_prints(eoctl_with_state: CommandLine) -> None:
    eoctl = eoctl_with_state
    listed = json.loads(eoctl.ok("state", "list", "orders@2", "--json").out)["states"]
    assert [(one["operator"], one["name"], one["key"]) for one in listed] == [
        ("totals", "by-day", "string"),
        ("totals", "sum", "string"),
        ("sink", "raw", ""),
    ]
    assert eoctl.ok("state", "get", "orders@2", "--state", "sum", "--key", "k1", "-q").out == "5\n"
    assert eoctl.ok("state", "get", "orders@2", "--state", "by-day", "--key", "k1", "-q").lines == ["7", "8"]
    gone = eoctl("state", "get", "orders@2", "--state", "sum", "--key", "k2")
    assert (gone.code, gone.out) == (3, "")
    rows = [json.loads(line) for line in eoctl.ok("state", "scan", "orders@2", "--operator", "sink", "--jsonl").lines]
    assert rows == [{"key_group": 3, "key": {"hex": "00ff"}, "namespace": "", "value": "plain"}]
    in_hex = eoctl.ok("state", "scan", "orders@2", "--operator", "sink", "--jsonl", "--hex").out
    assert json.loads(in_hex)["value"] == {"hex": b"plain".hex()}
    counted = json.loads(eoctl.ok("state", "count", "orders@2", "--json").out)["states"]
    assert [(one["name"], one["rows"], one["keys"]) for one in counted] == [
        ("by-day", 2, 1),
        ("sum", 2, 2),
        ("raw", 1, 1),
    ]
    compared = json.loads(eoctl.ok("state", "diff", "orders@1", "orders@2", "--state", "sum", "--json").out)
    (found,) = compared["states"]
    assert (found["added"], found["removed"], found["changed"], found["same"]) == (1, 1, 1, 0)
    assert {(one["sign"], one["row"]["key"], one["row"]["value"], one["old"]) for one in compared["rows"]} == {
        ("+", "k3", 3, None),
        ("-", "k2", 2, None),
        ("~", "k1", 5, 1),
    }
    assert eoctl("state", "diff", "orders@1", "orders@2", "--exit-code").code == 3
    eoctl.ok("state", "export", "orders@2", "--state", "sum", "--to", "sum.jsonl")
    assert {json.loads(line)["key"] for line in Path("sum.jsonl").read_text().splitlines()} == {"k1", "k3"}


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("savepoint create orders@9 --name x", 11, "no such snapshot in the pipeline orders: 9"),
        ("savepoint create orders@1 --name 7", 2, "a number names a checkpoint"),
        ("savepoint create orders@1 --name ../x", 17, "bad savepoint name"),
        ("savepoint create orders@1 --name x --remap total=y", 15, "has no operator 'total'"),
        ("savepoint create orders@1 --name x --remap totals", 2, "not a mapping"),
        ("savepoint create orders@1 --name x --remap totals=sink", 15, "totals and sink would both become sink"),
        ("savepoint create orders@1 --name x --remap totals=a --remap totals=b", 15, "is mapped to two operators"),
        ("savepoint create orders@1 --name x --drop totals --remap totals=b", 15, "is dropped and remapped"),
        ("savepoint create orders@1 --name x --map none.toml", 2, "no such mapping file"),
        ("savepoint create orders@1 --name x --map broken.toml", 17, "is no mapping"),
        ("savepoint create orders@1 --name x --map fields.toml", 17, "is no mapping"),
        ("savepoint create orders@1 --name x --map bytes.toml", 17, "is not UTF-8"),
        ("savepoint create orders@1 --name x --map few.toml", 15, "state that no operator asks for: sink"),
        ("savepoint create orders@1 --name x --max-parallelism 64", 14, "how keys of raw are hashed is not known"),
        ("savepoint create orders@1 --name x --drop sink --max-parallelism 1", 15, "has parallelism 2, more than 1"),
        ("savepoint create orders@1 --name x --executor many", 2, "not an executor"),
        ("savepoint create ./nothing --to y", 11, "no snapshot"),
        ("savepoint inspect orders@1", 14, "is no portable savepoint"),
        ("savepoint inspect ./nothing", 11, "no savepoint"),
        ("state get orders@1 --key k --operator totals", 2, "2 states could be meant"),
        ("state get orders@1 --key k --operator total", 11, "has no operator 'total'"),
        ("state scan orders@1 --operator totals --state sun", 11, "there is no state 'sun'"),
        ("state get orders@1 --key hex:xyz --state sum", 2, "not hex digits"),
        ("state scan orders@1 --state sum --key-groups 9-3", 2, "not key groups"),
        ("state export orders@1 --state sum --to x.csv", 2, "neither .parquet nor .jsonl"),
    ],
)
def test_bad_input_ends_in_its_exit_code(eoctl_with_state: CommandLine, words: str, code: int, error: str) -> None:
    Path("broken.toml").write_text("remap = [")
    Path("fields.toml").write_text("[rename]\na = 'b'\n")
    Path("bytes.toml").write_bytes(b"\xff\xfe")
    Path("few.toml").write_text('operators = ["totals", "clicks"]\n')
    done = eoctl_with_state(*words.split())
    assert (done.code, done.out) == (code, ""), done
    assert error in done.err
    assert eoctl_with_state.ok("savepoint", "list", "-q").out == ""


def test_state_that_nobody_asks_for_may_be_left_out(eoctl_with_state: CommandLine) -> None:
    Path("few.toml").write_text('operators = ["sums", "clicks"]\n[remap]\ntotals = "sums"\n')
    words = (
        "savepoint",
        "create",
        "orders@1",
        "--name",
        "x",
        "--map",
        "few.toml",
        "--allow-non-restored-state",
        "--json",
    )
    made = json.loads(eoctl_with_state.ok(*words).out)
    assert (made["non_restored"], made["remapped"]) == (["sink"], {"totals": "sums"})


def test_merged_operators_may_not_have_a_key_in_common(eoctl_with_state: CommandLine) -> None:
    eoctl = eoctl_with_state
    eoctl.ok("savepoint", "create", "orders@2", "--name", "one", "--remap", "sink=totals", "--merge")
    assert eoctl.ok("state", "count", "orders@one", "-q").lines == ["2", "1", "2"]
    store = open_store(open_place(str(eoctl.store), "t" * 12), system_ambient())
    twice = {uid: Operator(states=((SUM, [row("k1", 1)]),)) for uid in ("a", "b")}
    table_checkpoint(store, "twice", twice, eoctl.home / "twice")
    done = eoctl("savepoint", "create", "twice@1", "--name", "x", "--remap", "a=b", "--merge")
    assert done.code == 17
    assert "a and b have a key in common" in done.err


Damage = Callable[[Path], object]


def replaced(name: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        (path,) = folder.rglob(name)
        data = path.read_bytes()
        assert old.encode() in data
        path.write_bytes(data.replace(old.encode(), new.encode(), 1))

    return damage


def flipped(folder: Path) -> None:
    (path,) = folder.rglob("sum.parquet")
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "verify", "taken_in", "error"),
    [
        (flipped, 3, 13, "does not match its digest"),
        (lambda folder: next(folder.rglob("sum.parquet")).unlink(), 3, 13, "missing"),
        (lambda folder: next(folder.rglob("sum.parquet")).write_bytes(b""), 3, 13, "it has 0 bytes"),
        (lambda folder: (folder / HEAD_NAME).unlink(), 11, 11, "has no savepoint.json"),
        (lambda folder: (folder / HEAD_NAME).write_bytes(b"{}"), 17, 17, "is not valid"),
        (lambda folder: (folder / HEAD_NAME).write_bytes(b"no json"), 17, 17, "is not valid"),
        (replaced(HEAD_NAME, '"version":1', '"version":2'), 14, 14, "has version 2"),
        (replaced(HEAD_NAME, "eoctl.savepoint", "eoctl.manifests"), 17, 17, "is a 'eoctl.manifests'"),
        (replaced(HEAD_NAME, "/sum.parquet", "/../x.parquet"), 17, 17, "bad file name"),
        (replaced(HEAD_NAME, '"rows":2', '"rows":3'), 3, 13, "rows"),
        (lambda folder: (folder / "other.parquet").write_bytes(b""), 3, 13, "the head does not name it"),
    ],
)
def test_a_damaged_folder_is_told_and_not_taken_in(
    eoctl_with_state: CommandLine, damage: Damage, verify: int, taken_in: int, error: str
) -> None:
    eoctl = eoctl_with_state
    eoctl.ok("savepoint", "create", "orders@2", "--to", "out")
    damage(Path("out"))
    done = eoctl("savepoint", "verify", "./out")
    assert done.code == verify
    assert error in done.out + done.err
    done = eoctl("savepoint", "import", "./out", "--name", "x", "-p", "new")
    assert (done.code, done.out) == (taken_in, "")
    assert error in done.err
    done = eoctl("restore", "./out", "--to", "dealt", "--parallelism", "3")
    assert (done.code, done.out) == (taken_in, "")
    assert not Path("dealt").exists()
    assert eoctl.ok("savepoint", "list", "-q").out == ""


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ([(0, text("k1"), b"", b"", bytes(8))], "a key outside of its key group"),
        ([(200, text("k1"), b"", b"", bytes(8))], "a key in key group 200, of 128"),
    ],
)
def test_keys_outside_of_their_key_group_are_found(eoctl_with_state: CommandLine, rows: list[Row], error: str) -> None:
    eoctl = eoctl_with_state
    eoctl.ok("savepoint", "create", "orders@2", "--to", "out")
    forge(Path("out"), rows)
    done = eoctl("savepoint", "verify", "./out")
    assert done.code == 3
    assert error in done.out
    for words in (("savepoint", "create", "./out", "--to", "copy"), ("restore", "./out", "--to", "copy")):
        done = eoctl(*words)
        assert (done.code, done.out) == (13, "")
        assert error in done.err
        assert not Path("copy").exists()


def forge(folder: Path, rows: list[Row]) -> None:
    """The table `sum` holds these rows, and the head vouches for it."""

    (path,) = folder.rglob("sum.parquet")
    write_rows(path, SUM, rows)
    head = json.loads((folder / HEAD_NAME).read_bytes())
    for operator in head["operators"]:
        for table in operator.get("tables", ()):
            if table["path"].endswith("sum.parquet"):
                table |= {
                    "rows": len(rows),
                    "bytes": path.stat().st_size,
                    "digest": blake3(path.read_bytes()).hexdigest(),
                }
    (folder / HEAD_NAME).write_text(json.dumps(head, sort_keys=True, separators=(",", ":")))


def test_nothing_is_left_where_a_savepoint_fails(eoctl_with_state: CommandLine) -> None:
    eoctl = eoctl_with_state
    assert eoctl("savepoint", "create", "orders@1", "--to", "out", "--max-parallelism", "64").code == 14
    assert not Path("out").exists()
    assert [path for path in eoctl.home.iterdir() if path.name.startswith(".out")] == []
    assert list((eoctl.store / "tmp").iterdir()) == []


def test_state_that_is_files_is_carried_as_it_is(orders: CommandLine) -> None:
    before = {path.name: path.read_bytes() for path in Path("state").iterdir()}
    orders.ok("savepoint", "create", "orders@2", "--name", "kept", "--remap", "main=renamed")
    assert orders.ok("state", "list", "orders@kept", "--json").out.count('"kind": "files"') == 1
    orders.ok("restore", "orders@kept", "--to", "back")
    assert {path.name: path.read_bytes() for path in Path("back").iterdir()} == before
    orders.ok("savepoint", "export", "orders@kept", "--to", "out")
    assert {path.name: path.read_bytes() for path in next(Path("out").glob("*/0")).iterdir()} == before
    orders.ok("savepoint", "create", "./out", "--to", "again")
    assert Path("again", HEAD_NAME).read_bytes() == Path("out", HEAD_NAME).read_bytes()
    orders.ok("restore", "./again", "--to", "by-rows")
    assert {path.name: path.read_bytes() for path in Path("by-rows/renamed/0").iterdir()} == before
    done = orders("restore", "./again", "--to", "more", "--parallelism", "2")
    assert (done.code, done.out) == (15, "")
    assert "is files, which are those of 1 subtasks" in done.err
    assert orders("state", "scan", "orders@kept").code == 14


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        ("--parallelism 129", 15, "128 key groups, too few for 129 subtasks"),
        ("--parallelism 2 --link", 2, "by rows here"),
        ("--remap nobody=x", 15, "has no operator 'nobody'"),
        ("--max-parallelism 7", 14, "how keys of raw are hashed is not known"),
        ("--operator nobody --parallelism 2", 2, "has no operator 'nobody'"),
    ],
)
def test_a_restore_that_cannot_be_leaves_nothing(
    eoctl_with_state: CommandLine, words: str, code: int, error: str
) -> None:
    done = eoctl_with_state("restore", "orders@2", "--to", "target", *words.split())
    assert (done.code, done.out) == (code, "")
    assert error in done.err
    assert not Path("target").exists()


def test_a_dry_run_of_a_restore_shows_the_plan_and_writes_nothing(eoctl_with_state: CommandLine) -> None:
    shown = eoctl_with_state.ok("restore", "orders@2", "--to", "target", "--drop", "sink", "--dry-run").lines
    assert [line.split()[:3] for line in shown[1:]] == [
        ["totals", "totals", "kept"],
        ["sink", "-", "dropped"],
        ["clicks", "clicks", "kept"],
    ]
    assert not Path("target").exists()


def test_no_folder_shares_a_file_with_the_store(orders: CommandLine) -> None:
    """`big` is a blob of its own: were it linked, whoever writes into the folder would write into the store."""
    orders.ok("savepoint", "create", "orders@2", "--name", "kept")
    orders.ok("savepoint", "create", "orders@2", "--to", "written")
    orders.ok("savepoint", "export", "orders@kept", "--to", "exported")
    orders.ok("savepoint", "create", "./exported", "--name", "again", "-p", "other")
    orders.ok("savepoint", "import", "./written", "--name", "taken", "-p", "third")
    orders.ok("restore", "./written", "--to", "by-rows")
    for folder in ("written", "exported", "by-rows"):
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        assert [path for path in files if path.stat().st_nlink > 1] == []
        for path in files:
            path.write_bytes(b"somebody writes here")
    for address in ("orders@kept", "other@again", "third@taken", "orders@2"):
        orders.ok("checkpoint", "verify", address, "--level", "full", "-q")


def test_a_list_of_states_needs_no_file(eoctl_with_state: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    eoctl_with_state.ok("savepoint", "create", "orders@2", "--name", "kept")
    read = eoctl_with_state.ok("savepoint", "export", "orders@kept", "--to", "out")
    assert read.lines
    by_rows = json.loads(eoctl_with_state.ok("state", "list", "./out", "--json").out)["states"]
    monkeypatch.setattr("eoctl.services.savepoint_sources.extracted", None)
    for address in ("orders@2", "orders@kept"):
        assert json.loads(eoctl_with_state.ok("state", "list", address, "--json").out)["states"] == by_rows


def test_what_cannot_be_shown_is_carried_as_bytes_and_told(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    store = open_store(open_place(str(eoctl.store), "t" * 12), system_ambient())
    zoo = StateSchema(
        name="zoo", kind="value", key="string", value="pojo<lab.Animal; legs: int; pojo<lab.Fish; legs: int>>"
    )
    untold = b"\x08\x07\x02\x00\x00\x00\x00\x00"  # the eighth of the registered subclasses
    group, key, *_ = row("k1", 1)
    states = ((zoo, [(group, key, b"", b"", untold)]),)
    table_checkpoint(store, "zoo", {"animals": Operator(states=states)}, eoctl.home / "tables")
    for words in (("savepoint", "create", "zoo@1", "--to", "out"), ("restore", "./out", "--to", "dealt")):
        done = eoctl(*words, "--json")
        assert done.code == 0
        assert "zoo: 1 value is bytes only, and null in the typed column: a POJO of a subclass" in done.err
        assert len(json.loads(done.out)["notes"]) == 1
    done = eoctl("state", "export", "./out", "--to", "zoo.parquet")
    assert done.code == 0
    assert "1 value is bytes only" in done.err
    (shown,) = pq.read_table("zoo.parquet").to_pylist()
    assert (shown["value"], shown["typed_value"], shown["typed_key"]) == (untold, None, "k1")


@pytest.mark.slow
def test_there_and_back_by_commands(eoctl_with_state: CommandLine) -> None:
    eoctl, swap = eoctl_with_state, ("--remap", "totals=sink", "--remap", "sink=totals")
    eoctl.ok("savepoint", "create", "orders@2", "--name", "there", *swap)
    assert eoctl("state", "diff", "orders@2", "orders@there", "--exit-code").code == 3
    eoctl.ok("savepoint", "create", "orders@there", "--to", "back", *swap)
    eoctl.ok("state", "diff", "orders@2", "./back", "--exit-code")
    eoctl.ok("savepoint", "create", "./back", "--to", "hashed", "--max-parallelism", "64", "--drop", "sink")
    eoctl.ok("savepoint", "create", "./hashed", "--to", "again", "--max-parallelism", "128")
    eoctl.ok("state", "diff", "orders@2", "./again", "--operator", "totals", "--exit-code")
    answer = json.loads(eoctl.ok("restore", "./again", "--to", "dealt", "--parallelism", "3", "--json").out)
    dealt = {
        one["subtask"]: (one["key_groups"], pq.read_table(Path(one["path"]) / "sum.parquet").to_pylist())
        for one in answer["operators"]
    }
    assert all(own[0] <= row["key_group"] < own[1] for own, rows in dealt.values() for row in rows)
    assert sorted(row["typed_key"] for _, rows in dealt.values() for row in rows) == ["k1", "k3"]
