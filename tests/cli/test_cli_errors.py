"""Every failure ends in its promised exit code, with one line and a hint, or with one JSON object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eoctl.ambient import system_ambient
from eoctl.cli.exit_codes import EXIT_CODES
from eoctl.cli.failures import report, understand
from eoctl.cli.interrupts import Interrupted, told_by
from eoctl.cli.main import main
from eoctl.services.writers import writing
from formats import errors
from formats.errors import EoctlError, SnapshotNotFoundError, UnavailableError
from formats.ids import PipelineId
from storage.backends.urls import open_place
from storage.store import Store, open_store
from tests.cli.conftest import CommandLine, State


def store_of(eoctl: CommandLine) -> Store:
    return open_store(open_place(str(eoctl.store), "test"), system_ambient())


def largest_blob(eoctl: CommandLine) -> Path:
    blobs = [path for path in (eoctl.store / "p/orders/o").rglob("*") if path.is_file()]
    return max(blobs, key=lambda path: path.stat().st_size)


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_2_for_a_wrong_setting(eoctl: CommandLine) -> None:
    assert eoctl("checkpoint", "list", "--store", "ftp://host/store").code == 2


def test_3_for_snapshots_that_differ_if_asked(orders: CommandLine) -> None:
    assert orders("checkpoint", "diff", "1", "2").code == 0
    assert orders("checkpoint", "diff", "1", "2", "--exit-code").code == 3
    assert orders("checkpoint", "diff", "2", "2", "--exit-code").code == 0


def test_3_for_damage_with_each_file_and_whom_it_harms(orders: CommandLine) -> None:
    damage(largest_blob(orders))
    done = orders("checkpoint", "verify")
    assert (done.code, done.err) == (3, "")
    assert "1 damaged file" in done.out
    assert "main/0/big" in done.out
    assert "orders@1, orders@2" in done.out
    assert orders("checkpoint", "verify", "-q").lines == ["main/0/big"]


def test_10_for_no_store(eoctl: CommandLine) -> None:
    done = eoctl("checkpoint", "list")
    assert (done.code, done.out) == (10, "")
    assert done.err == f"error: there is no store: {eoctl.store}\nhint: eoctl store init {eoctl.store}\n"


@pytest.mark.parametrize("address", ["9", "orders@9", "orders@nightly", "nobody@1", "nobody@latest"])
def test_11_for_no_such_snapshot(orders: CommandLine, address: str) -> None:
    assert orders("checkpoint", "inspect", address).code == 11


def test_12_for_a_second_store_in_one_place(orders: CommandLine) -> None:
    assert orders("store", "init").code == 12


def test_12_for_an_id_with_other_content(orders: CommandLine, state: State) -> None:
    assert orders("checkpoint", "create", state(small=30), "-p", "orders", "--as-id", "2").code == 12


def test_12_beside_a_live_writer_unless_taken_over(orders: CommandLine) -> None:
    with writing(store_of(orders), PipelineId("orders"), note="writer"):
        refused = orders("checkpoint", "create", "state", "-p", "orders")
        assert refused.code == 12
        assert "orders has a live writer: attempt 3, writer" in refused.err
        assert "--take-over" in refused.err
        orders.ok("checkpoint", "create", "state", "-p", "orders", "--take-over")


def test_13_for_damaged_bytes_and_nothing_is_restored(orders: CommandLine) -> None:
    damage(largest_blob(orders))
    done = orders("restore", "orders@1", "--to", "restored")
    assert (done.code, done.out) == (13, "")
    assert sorted(path.name for path in orders.home.iterdir()) == ["state", "store"]


def test_13_for_a_pipeline_that_cannot_be_read_beside_those_that_can(orders: CommandLine) -> None:
    orders.ok("checkpoint", "create", "state", "-p", "clicks")
    (orders.store / "p/orders/HEAD").write_bytes(b"{}")
    done = orders("checkpoint", "list", "--json")
    assert done.code == 13
    assert [row["pipeline"] for row in json.loads(done.out)["snapshots"]] == ["clicks"]
    assert json.loads(done.err)["error"] == "corrupt"


def test_14_for_a_store_with_features_of_a_later_version(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    path = eoctl.store / "store.json"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"features":[]', b'"features":["moons"]'))
    assert eoctl("checkpoint", "list").code == 14


def test_17_for_bad_names_and_bad_input(orders: CommandLine, state: State) -> None:
    assert orders("checkpoint", "create", "state", "-p", "Orders").code == 17
    assert orders("checkpoint", "create", "state", "-p", "orders", "--tag", "two words").code == 17
    (state() / "link").symlink_to("small")
    assert orders("checkpoint", "create", "state", "-p", "orders").code == 17


def test_18_for_a_place_where_nobody_may_write(eoctl: CommandLine) -> None:
    if not Path("/sys").is_dir():
        pytest.skip("no file system here refuses everybody")
    assert eoctl("store", "init", "/sys/eoctl").code == 18


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("checkpoint", "list", "--nope"), 2),
        (("nope",), 2),
        (("checkpoint", "list"), 10),
        (("checkpoint", "list", "--store", ""), 2),
        (("checkpoint", "create", "missing", "-p", "orders"), 2),
        (("store", "init", "--hash", "md5"), 2),
    ],
)
def test_people_get_lines_and_programs_get_an_object(eoctl: CommandLine, words: tuple[str, ...], code: int) -> None:
    eoctl.ok("store", "init", "elsewhere")
    told = eoctl(*words)
    assert (told.code, told.out) == (code, "")
    first, *rest = told.err.splitlines()
    assert first.startswith("error: ")
    assert all(line.startswith("hint: ") for line in rest)
    assert len(rest) <= 1
    for option in ("--json", "--jsonl"):
        done = eoctl(*words, option)
        assert (done.code, done.out) == (code, "")
        document = json.loads(done.err)
        assert list(document) == ["schema", "error", "message", "hint", "exit_code", "facts"]
        assert document["schema"] == "eoctl.error/1"
        assert document["exit_code"] == code
        assert first == f"error: {document['message']}"
        assert rest == [f"hint: {document['hint']}"] if document["hint"] else not rest


def test_facts_travel_as_fields(eoctl: CommandLine) -> None:
    assert json.loads(eoctl("checkpoint", "list", "--json").err)["facts"] == {"url": str(eoctl.store)}


def test_a_message_with_control_characters_stays_one_line(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    done = eoctl("checkpoint", "inspect", "orders@a\nb\x1b[31m")
    assert len(done.err.splitlines()) == 2
    assert "\x1b" not in done.err


def test_verbose_tells_what_led_to_an_error(orders: CommandLine) -> None:
    (orders.store / "p/orders/HEAD").write_bytes(b"{}")
    assert "because: BadManifestError: " in orders("checkpoint", "list", "-v").err


def test_an_unforeseen_error_is_a_bug_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    error = ZeroDivisionError("by zero")
    assert report(error, ["checkpoint", "list"]) == 1
    told = capsys.readouterr().err
    assert told.endswith("this is a bug, please report it: eoctl 0.1.0, Python " + told.rpartition("Python ")[2])
    assert "error: ZeroDivisionError: by zero\n" in told
    assert report(error, ["checkpoint", "list", "--json"]) == 1
    document = json.loads(capsys.readouterr().err)
    assert (document["error"], document["exit_code"]) == ("bug", 1)
    assert "ZeroDivisionError" in document["traceback"]


def test_too_little_memory_is_no_bug() -> None:
    failure = understand(MemoryError())
    assert (failure.kind, failure.exit_code, failure.trace) == ("out-of-memory", 16, "")


def test_the_word_json_after_the_options_ended_is_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "list", "--nope", "--", "--json"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_every_kind_of_error_has_its_exit_code() -> None:
    codes = {kind: entry.code for entry in EXIT_CODES for kind in entry.kinds}
    known = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, EoctlError)]
    assert {error.kind: error.exit_code for error in known if error is not EoctlError}.items() <= codes.items()
    numbers = [entry.code for entry in EXIT_CODES]
    assert numbers == sorted(set(numbers))


def test_what_an_interrupt_says_is_looked_up_after_it() -> None:
    def look() -> str:
        return "nothing was committed"

    with pytest.raises(Interrupted, match="nothing was committed"), told_by(look, unknown="?", hint="look"):
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [UnavailableError("no network"), OSError("no disk"), KeyboardInterrupt()])
def test_an_interrupt_that_cannot_be_looked_up_says_so(error: BaseException) -> None:
    def look() -> str:
        raise error

    with pytest.raises(Interrupted) as caught, told_by(look, unknown="nobody knows", hint="eoctl list"):
        raise KeyboardInterrupt
    assert (caught.value.message, caught.value.hint) == ("nobody knows", "eoctl list")


def test_other_errors_pass_through_the_interrupt_guard() -> None:
    with pytest.raises(SnapshotNotFoundError), told_by(str, unknown="?", hint="?"):
        raise SnapshotNotFoundError("none")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Interrupted("nothing was committed", "again"), "nothing was committed"),
        (KeyboardInterrupt(), "nothing was changed"),
    ],
)
def test_an_interrupt_is_130_in_one_line(
    capsys: pytest.CaptureFixture[str], error: BaseException, message: str
) -> None:
    assert report(error, []) == 130
    assert capsys.readouterr().err.splitlines()[0] == f"interrupted: {message}"
    assert report(error, ["--json"]) == 130
    assert json.loads(capsys.readouterr().err)["error"] == "interrupted"
