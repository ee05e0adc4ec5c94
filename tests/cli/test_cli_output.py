"""What a terminal, a pipe, a closed pipe and Ctrl-C get."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from eoctl.cli.output import Output
from eoctl.cli.quantities import age, human_bytes, human_seconds, parse_duration
from eoctl.cli.table import Column, cut_middle, display_width, render
from formats.errors import UsageError
from tests.cli.conftest import CommandLine, Done, State

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLUMNS = 80


def on_terminal(eoctl: CommandLine, *words: str | Path, columns: int = COLUMNS, **environment: str) -> Done:
    """Runs the command with stdout and stderr on a terminal; `out` is all that it showed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [*eoctl.program, *map(str, words)],
        cwd=eoctl.home,
        env=eoctl.environment(**environment),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while part := _read(terminal.fileno()):
            shown += part
    return Done(process.wait(), shown.decode().replace("\r\n", "\n"), "")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError as error:
        if error.errno == errno.EIO:  # how Linux says that the other side is gone
            return b""
        raise


def without_ages(text: str) -> str:
    return re.sub(r" +\d+ s ", " now ", text)


def widest(text: str) -> int:
    return max(len(ESCAPES.sub("", line)) for line in text.split("\n"))


@pytest.fixture
def busy(orders: CommandLine, state: State) -> CommandLine:
    """Long names, many tags, savable states: what does not fit 80 columns by itself."""
    tags = [word for number in range(8) for word in ("--tag", f"a-rather-long-tag-{number}")]
    orders.ok("checkpoint", "create", state(), "-p", "orders", *tags)
    name = "a-pipeline-with-a-name-that-is-as-long-as-a-name-may-be-0123456"
    orders.ok("checkpoint", "create", f"an-operator-with-a-long-name-too-{'x' * 60}=state", "-p", name)
    return orders


@pytest.mark.parametrize(
    "words",
    [
        ("checkpoint", "list"),
        ("checkpoint", "list", "-p", "orders"),
        ("checkpoint", "inspect", "orders@latest"),
        ("checkpoint", "files", "orders@latest"),
        ("checkpoint", "diff", "orders@1", "orders@2"),
        ("checkpoint", "verify", "-p", "orders"),
        ("checkpoint", "explain", "orders@1"),
        ("pipeline", "list"),
        ("pipeline", "show", "orders"),
        ("store", "stats"),
    ],
    ids=" ".join,
)
def test_a_terminal_of_80_columns_is_enough(busy: CommandLine, words: tuple[str, ...]) -> None:
    shown = on_terminal(busy, *words)
    assert shown.code == 0
    assert widest(shown.out) <= COLUMNS


def test_a_wide_terminal_shows_all(busy: CommandLine) -> None:
    shown = ESCAPES.sub("", on_terminal(busy, "checkpoint", "list", columns=400).out)
    assert "…" not in shown
    assert shown.splitlines()[0].split() == [
        "PIPELINE", "ID", "KIND", "CREATED", "(UTC)", "AGE", "FULL", "ADDED", "NEW/REF", "TAGS", "STATUS"
    ]  # fmt: skip


def test_columns_of_the_environment_count_on_a_terminal_only(busy: CommandLine) -> None:
    assert widest(on_terminal(busy, "checkpoint", "list", columns=400, COLUMNS="80").out) <= 80
    piped = busy.process("checkpoint", "list", environment=busy.environment(COLUMNS="80"))
    assert widest(piped.out) > 80


def test_a_pipe_gets_everything_and_no_colour(busy: CommandLine) -> None:
    done = busy.process("checkpoint", "list")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "…" not in done.out
    assert ",".join(f"a-rather-long-tag-{number}" for number in range(8)) in done.out


def test_a_terminal_gets_colour_unless_it_is_not_wanted(orders: CommandLine) -> None:
    words = ("checkpoint", "list")
    coloured = on_terminal(orders, *words).out
    assert "\x1b[1m" in coloured
    for plain in (
        on_terminal(orders, *words, NO_COLOR="1"),
        on_terminal(orders, *words, TERM="dumb"),
        on_terminal(orders, *words, "--no-color"),
        on_terminal(orders, "--no-color", *words),
    ):
        assert without_ages(plain.out) == without_ages(ESCAPES.sub("", coloured))
    assert "\x1b[31merror:" in on_terminal(orders, "nope").out
    assert "\x1b" not in on_terminal(orders, "nope", NO_COLOR="1").out


def test_json_is_one_line_in_a_pipe_and_indented_on_a_terminal(orders: CommandLine) -> None:
    piped = orders.process("checkpoint", "list", "--json").out
    shown = on_terminal(orders, "checkpoint", "list", "--json").out
    assert (piped.count("\n"), piped[-1]) == (1, "\n")
    assert shown.count("\n") > 10
    assert json.loads(piped) == json.loads(shown)


def test_a_closed_pipe_is_quiet(orders: CommandLine) -> None:
    for words in (["checkpoint", "list"], ["--help"], ["--version"], ["checkpoint", "list", "--jsonl"]):
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                [*orders.program, *words],
                env=orders.environment(),
                stdout=writer,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(writer)
        assert (done.returncode, done.stderr) == (141, b""), words


@pytest.mark.parametrize("words", [("checkpoint", "list"), ("--help",), ("--version",)], ids=" ".join)
def test_a_full_disk_behind_stdout_is_told_once(orders: CommandLine, words: tuple[str, ...]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*orders.program, *words], env=orders.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 16
    assert done.stderr.decode().startswith("error: the ")
    assert done.stderr.decode().count("error") == 1


def test_what_was_done_stands_where_only_its_report_is_lost(orders: CommandLine) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    command = [*orders.program, "checkpoint", "create", "state", "-p", "orders"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, cwd=orders.home, env=orders.environment(), stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert b"what the command did stands" in done.stderr
    assert orders.ok("checkpoint", "list", "-q").lines[-1] == "orders@3"


def test_without_stdout_the_command_fails_and_without_stderr_it_does_not(orders: CommandLine) -> None:
    script = f"{' '.join(orders.program)} checkpoint list"
    for redirection, code in ((">&-", 16), ("2>&-", 0)):
        done = subprocess.run(
            ["sh", "-c", f"{script} {redirection}"], env=orders.environment(), capture_output=True, check=False
        )
        assert done.returncode == code
        assert b"Traceback" not in done.stderr


def test_names_that_the_terminal_cannot_spell_are_escaped(orders: CommandLine) -> None:
    (orders.home / "state" / "m\N{LATIN SMALL LETTER U WITH DIAERESIS}ll").write_bytes(b"x")
    orders.ok("checkpoint", "create", "state", "-p", "orders")
    ascii_only = orders.environment(PYTHONIOENCODING="ascii:strict", PYTHONUTF8="0")
    done = orders.process("checkpoint", "files", "latest", environment=ascii_only)
    assert (done.code, done.err) == (0, "")
    assert "m\\xfcll" in done.out
    document = json.loads(orders.process("checkpoint", "files", "latest", "--json", environment=ascii_only).out)
    assert "m\N{LATIN SMALL LETTER U WITH DIAERESIS}ll" in [row["name"] for row in document["files"]]


# Progress.


def test_progress_is_events_with_jsonl_and_nothing_in_a_pipe(orders: CommandLine, state: State) -> None:
    state(more=3_000_000)
    quiet = orders.process("checkpoint", "create", "state", "-p", "orders", "--json")
    assert (quiet.code, quiet.err) == (0, "")
    state(most=3_000_000)
    done = orders.process("checkpoint", "create", "state", "-p", "orders", "--jsonl")
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events
    assert {tuple(event) for event in events} == {
        (
            "schema",
            "command",
            "files",
            "done_bytes",
            "total_bytes",
            "seconds",
            "bytes_per_second",
            "left_seconds",
        )
    }
    assert {event["schema"] for event in events} == {"eoctl.progress/1"}
    assert events[-1]["done_bytes"] == events[-1]["total_bytes"] == 8_000_020
    assert json.loads(done.out)["schema"] == "eoctl.checkpoint.create/1"
    for words in (("restore", "latest", "--to", "restored"), ("checkpoint", "verify")):
        done = orders.process(*words, "--jsonl")
        assert done.code == 0
        last = json.loads(done.err.splitlines()[-1])
        assert last["done_bytes"] == last["total_bytes"]


# Ctrl-C.


@contextmanager
def held_head(eoctl: CommandLine) -> Iterator[None]:
    """Whoever wants to change HEAD waits."""
    with (eoctl.store / "p/orders/HEAD.lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def interrupted(eoctl: CommandLine, *words: str) -> Done:
    """The command's end, when its process group gets Ctrl-C while it waits for HEAD."""
    process = start(eoctl, *words)
    while process.poll() is None and not wants_head(process.pid):
        os.sched_yield()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    return Done(process.returncode, out, err)


def start(eoctl: CommandLine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*eoctl.program, *words],
        cwd=eoctl.home,
        env=eoctl.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wants_head(process: int) -> bool:
    """Whether it has opened the lock of HEAD, which it does only to take it."""
    names = []
    with suppress(FileNotFoundError, PermissionError):  # it ended, or closed one as we looked
        names = [str(each.readlink()) for each in Path(f"/proc/{process}/fd").iterdir()]
    return any(name.endswith("/HEAD.lock") for name in names)


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc here")


@needs_proc
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("checkpoint", "create", "state", "-p", "orders"), "nothing was committed"),
        (("restore", "orders@1", "--to", "restored"), "restored was not created"),
        (("checkpoint", "tag", "orders@1", "good"), "the change may have been made or not"),
        (("checkpoint", "delete", "orders@1"), "the change may have been made or not"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value[:2]),
)
def test_an_interrupt_says_what_is_true(orders: CommandLine, words: tuple[str, ...], message: str) -> None:
    before = orders.ok("checkpoint", "list", "--json").out
    with held_head(orders):
        done = interrupted(orders, *words)
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[0] == f"interrupted: {message}"
    assert len(done.err.splitlines()) <= 2
    assert orders.ok("checkpoint", "list", "--json").out == before
    assert sorted(path.name for path in orders.home.iterdir()) == ["state", "store"]


def test_an_interrupt_while_files_are_stored_commits_nothing(orders: CommandLine, state: State) -> None:
    with (state(first=2_000_000) / "second.sst").open("wb") as sparse:
        sparse.truncate(4 << 30)
    process = start(orders, "checkpoint", "create", "state", "-p", "orders", "--jsonl")
    assert process.stderr is not None
    assert json.loads(process.stderr.readline())["schema"] == "eoctl.progress/1"
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    told = json.loads(err.splitlines()[-1])
    assert (told["error"], told["message"]) == ("interrupted", "nothing was committed")
    assert orders.ok("checkpoint", "list", "-q").lines == ["orders@1", "orders@2"]
    (orders.home / "state" / "second.sst").unlink()
    orders.ok("checkpoint", "create", "state", "-p", "orders")


def test_an_interrupt_before_anything_was_done_says_so(orders: CommandLine) -> None:
    os.mkfifo(orders.home / "offsets")
    process = start(orders, "checkpoint", "create", "state", "-p", "orders", "--offsets", "offsets")
    with (orders.home / "offsets").open("wb"):  # which the command has opened too, as soon as this returns
        os.killpg(process.pid, signal.SIGINT)
    # A signal between Python's look for one and its call of read is seen once that returns, at the end of the pipe.
    out, err = process.communicate()
    assert (process.returncode, out, err) == (130, "", "interrupted: nothing was changed\n")


# The pieces.


def test_a_table_gives_way_in_order() -> None:
    columns = [
        Column(title="NAME", cells=["a-long-name-indeed", "b"], least=6),
        Column(title="COUNTED", short_title="N", cells=["1", "22"], right=True),
        Column(title="WHEN", cells=["2026-01-02", "2026-01-03"], short=["01-02", "01-03"]),
        Column(title="KIND", cells=["same", "same"], optional=True),
    ]
    assert render(columns, width=None)[1] == "a-long-name-indeed        1  2026-01-02  same"
    assert render(columns, width=44)[1] == "a-long-name-indeed        1  2026-01-02"
    assert render(columns, width=36)[1] == "a-long-name-indeed   1  2026-01-02"
    assert render(columns, width=30)[1] == "a-long-name-indeed   1  01-02"
    assert render(columns, width=27)[1] == "a-long-name-indeed  1 01-02"
    assert render(columns, width=20)[1] == "a-lon…ndeed  1 01-02"
    assert render(columns, width=1)[1] == "a-l…ed  1 01-02"


def test_a_table_shows_what_could_steer_a_terminal_and_measures_wide_letters() -> None:
    lines = render(
        [Column(title="A", cells=["\x1b[2J", "日本", "é"]), Column(title="B", cells=["1", "2", "3"])], width=None
    )
    assert lines == ["A        B", "\\x1b[2J  1", "日本     2", "é        3"]


def test_names_are_cut_in_the_middle() -> None:
    assert cut_middle("abcdefghij", 10) == "abcdefghij"
    assert cut_middle("abcdefghij", 7) == "abc…hij"
    assert cut_middle("abcdefghij", 6) == "abc…ij"
    assert cut_middle("abcdefghij", 6, "...") == "ab...j"
    assert cut_middle("abcdefghij", 1) == "a"
    assert display_width(cut_middle("日本語日本語", 7)) <= 7


def test_bytes_and_times_as_people_read_them() -> None:
    assert [human_bytes(count) for count in (0, 1023, 1024, 1536, 1024 * 1024 - 1, 5 << 30, 1 << 60)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "5.0 GiB", "1.0 EiB"
    ]  # fmt: skip
    assert [age(seconds) for seconds in (0, 59.9, 60, 3599, 3600, 172_799, 172_800, 86400 * 800, -120)] == [
        "0 s", "59 s", "1 min", "59 min", "1 h", "47 h", "2 d", "2 y", "-2 min"
    ]  # fmt: skip
    assert [human_seconds(seconds) for seconds in (0.0421, 3.14, 31.4)] == ["0.04 s", "3.1 s", "31 s"]


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("6h", 21600), ("7d", 604800), ("2w", 1209600)]
)
def test_durations_as_people_type_them(text: str, seconds: int) -> None:
    assert parse_duration(text, "--for") == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "0d", "1.5h", "7D", "٣d", "7d\n", "9999999999d"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="bad duration for --for"):
        parse_duration(text, "--for")


def test_output_without_a_terminal_has_no_width_and_no_colour(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(columns=80)
    assert (out.width, out.colour) == (None, False)
