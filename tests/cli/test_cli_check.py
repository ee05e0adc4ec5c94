"""`eoctl pipeline check`: exit codes for cron, the document, the screen, the words that it takes, and the figures."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from eoctl import open_store
from eoctl.cli.check import parse_bytes, parse_growth
from eoctl.cli.main import main
from formats.errors import CorruptError, UsageError
from storage import layout
from tests.cli.conftest import CommandLine, State

ROW = [
    "pipeline", "ok", "findings", "warnings", "limits", "newest", "newest_at", "age_seconds", "full_bytes",
    "duration_seconds", "compared_with", "compared_seconds", "growth_bytes_per_day", "growth_ratio_per_day",
    "bytes_limit_days", "duration_growth_seconds_per_day", "trend_checkpoints", "duration_limit_seconds",
    "duration_limit_days", "operators", "notes",
]  # fmt: skip
FINDING = ["pipeline", "limit", "threshold", "value", "operator", "days"]


@pytest.fixture
def grown(eoctl: CommandLine, state: State) -> CommandLine:
    """`orders` with two operators, of which `joins` has doubled; and `clicks`, with one checkpoint."""
    eoctl.ok("store", "init")
    state("joins", a=1_000_000)
    state("totals", b=2_000_000)
    words = ("checkpoint", "create", "joins=joins", "totals=totals", "-p")
    eoctl.ok(*words, "orders")
    eoctl.ok(*words, "clicks")
    state("joins", a=1_000_000, c=1_000_000)
    eoctl.ok(*words, "orders")
    return eoctl


def document(eoctl: CommandLine, *words: str, code: int = 0) -> dict[str, Any]:
    done = eoctl("pipeline", "check", *words, "--json")
    assert (done.code, done.err) == (code, ""), done
    found: dict[str, Any] = json.loads(done.out)
    return found


def later(monkeypatch: pytest.MonkeyPatch, **duration: float) -> None:
    """The clock of the command line is ahead."""
    moment = datetime.now(UTC) + timedelta(**duration)
    monkeypatch.setattr("eoctl.ambient._now", lambda: f"{moment:%Y-%m-%dT%H:%M:%S}.000Z")


def test_within_all_limits_it_is_0_and_quiet(grown: CommandLine) -> None:
    words = ("--max-age", "2h", "--max-bytes", "10GiB", "--max-growth", "100%", "--max-duration", "5m")
    assert grown.ok("pipeline", "check", "-q", *words).out == ""
    assert grown.ok("pipeline", "check", "orders", *words).lines[0] == "orders  ok"


def test_over_a_limit_it_is_3_and_names_the_operator_that_grows_most(grown: CommandLine) -> None:
    done = grown("pipeline", "check", "orders", "--max-growth", "10%", "-q")
    assert (done.code, done.err) == (3, "")
    assert done.lines == [
        "orders: growth is 33.3% a day, over the limit of 10% a day; joins grows most, +976.6 KiB a day"
    ]
    done = grown("pipeline", "check", "-p", "orders", "--max-bytes", "3MB", "--max-growth", "500kB", "-q")
    assert (done.code, [line.partition(",")[0] for line in done.lines]) == (
        3, ["orders: its size is 3.8 MiB", "orders: growth is 976.6 KiB a day"],
    )  # fmt: skip


def test_where_growth_is_not_known_the_largest_operator_is_named(grown: CommandLine) -> None:
    done = grown("pipeline", "check", "clicks", "--max-bytes", "2MB", "--max-growth", "0%", "-q")
    assert (done.code, done.lines) == (
        3, ["clicks: its size is 2.9 MiB, over the limit of 1.9 MiB; totals is the largest, 1.9 MiB"]
    )  # fmt: skip


def test_an_old_checkpoint_is_told_with_its_age(grown: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    later(monkeypatch, hours=2, seconds=30, minutes=5)
    assert grown("pipeline", "check", "--max-age", "3h").code == 0
    done = grown("pipeline", "check", "orders", "--max-age", "2h", "-q")
    assert (done.code, done.lines) == (3, ["orders: the newest checkpoint's age is 2 h 5 min, over the limit of 2 h"])


def test_a_pipeline_without_a_checkpoint_is_over_every_age(orders: CommandLine) -> None:
    orders.ok("checkpoint", "delete", "orders@1", "orders@2")
    done = orders("pipeline", "check", "-q", "--max-age", "52w")
    assert (done.code, done.lines) == (
        3, ["orders: there is no complete checkpoint; the limit of its age is 364 d"]
    )  # fmt: skip
    assert orders.ok("pipeline", "check", "--max-bytes", "1").lines == [
        "orders  ok", "", "note: there is no complete checkpoint"
    ]  # fmt: skip


def test_the_document_of_one_pipeline(grown: CommandLine) -> None:
    found = document(grown, "orders", "--max-growth", "10%", "--max-age", "1h", code=3)
    assert list(found) == ["schema", "pipeline", "ok", "findings", "warnings", "pipelines", "failed"]
    assert (found["schema"], found["pipeline"], found["ok"]) == ("eoctl.pipeline.check/1", "orders", False)
    (finding,) = found["findings"]
    assert list(finding) == FINDING
    assert (finding["limit"], finding["threshold"], finding["operator"]) == (
        "max_growth_ratio_per_day", 0.1, "joins"
    )  # fmt: skip
    assert finding["value"] == pytest.approx(1 / 3)
    (row,) = found["pipelines"]
    assert list(row) == ROW
    assert row["findings"] == found["findings"]
    assert row["limits"] == {"max_age_seconds": 3600, "max_growth_ratio_per_day": 0.1}
    assert (row["newest"], row["compared_with"], row["full_bytes"]) == ("2", "1", 4_000_000)
    assert row["growth_bytes_per_day"] == 1_000_000
    assert row["operators"] == [
        {"operator": "joins", "full_bytes": 2_000_000, "growth_bytes_per_day": 1_000_000},
        {"operator": "totals", "full_bytes": 2_000_000, "growth_bytes_per_day": 0},
    ]
    assert (row["bytes_limit_days"], row["duration_limit_days"]) == (None, None)


def test_the_document_of_all_pipelines_has_the_findings_of_all(grown: CommandLine) -> None:
    found = document(grown, "--max-bytes", "1", code=3)
    assert (found["pipeline"], [row["pipeline"] for row in found["pipelines"]]) == ("", ["clicks", "orders"])
    assert [finding["pipeline"] for finding in found["findings"]] == ["clicks", "orders"]
    lines = grown("pipeline", "check", "--max-bytes", "1", "--jsonl").lines
    assert [json.loads(line)["pipeline"] for line in lines] == ["clicks", "orders"]


def test_the_only_pipeline_of_a_store_is_named_in_the_document(orders: CommandLine) -> None:
    assert document(orders)["pipeline"] == "orders"


def test_the_screen_of_one_pipeline(grown: CommandLine) -> None:
    done = grown("pipeline", "check", "orders", "--max-growth", "10%")
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d|\d+(?:\.\d+)? s\b", "<t>", done.out)
    assert text.splitlines() == [
        "orders  over a limit",
        "newest        orders@2, <t> UTC, <t> ago",
        "size          3.8 MiB, +976.6 KiB a day (+33.3%)",
        "duration      <t>",
        "growth since  orders@1, <t> before",
        "",
        "OPERATOR    BYTES     %  GROWTH/DAY",
        "joins     1.9 MiB  50.0  +976.6 KiB",
        "totals    1.9 MiB  50.0        +0 B",
        "",
        "orders: growth is 33.3% a day, over the limit of 10% a day; joins grows most, +976.6 KiB a day",
        "note: growth is what was seen within less than a day: keep checkpoints of several days to know more",
        "note: the trend of the duration is not known: 2 of 4 checkpoints",
    ]


def test_the_screen_of_several_pipelines_is_a_table(grown: CommandLine) -> None:
    done = grown("pipeline", "check", "--max-growth", "10%")
    assert done.code == 3
    titles, clicks, orders, empty, finding = done.lines
    assert titles.split() == ["PIPELINE", "NEWEST", "AGE", "FULL", "GROWTH/DAY", "DURATION", "STATE"]
    assert clicks.split()[:2] + clicks.split()[-1:] == ["clicks", "1", "ok"]
    assert orders.endswith("  over a limit")
    assert (empty, finding.partition(" is ")[0]) == ("", "orders: growth")


def test_sizes_that_look_alike_are_told_to_the_byte(grown: CommandLine) -> None:
    done = grown("pipeline", "check", "orders", "--max-bytes", "3999999", "-q")
    assert done.lines[0].startswith("orders: its size is 4,000,000 B, over the limit of 3,999,999 B")


# What goes wrong.


def test_a_damaged_pipeline_hides_no_other_and_is_the_exit_code(grown: CommandLine) -> None:
    head = grown.store / "p/clicks/HEAD"
    head.write_bytes(b"{")
    done = grown("pipeline", "check", "--max-growth", "10%", "--json", "--metrics", "x.prom")
    found = json.loads(done.out)
    assert (done.code, json.loads(done.err)["error"]) == (13, "corrupt")
    assert (found["ok"], [row["pipeline"] for row in found["pipelines"]]) == (False, ["orders"])
    assert list(found["failed"]) == ["clicks"]
    figures = (grown.home / "x.prom").read_text("utf-8")
    assert 'eoctl_pipeline_check_success{pipeline="clicks"} 0\n' in figures
    assert 'eoctl_pipeline_check_success{pipeline="orders"} 1\n' in figures


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("nope", 11, "no such pipeline: nope"),
        ("Nope", 17, "bad pipeline name"),
        ("orders -p clicks", 2, "two pipelines are named"),
        ("--max-age 0s", 2, "bad duration for --max-age"),
        ("--max-bytes 1x", 2, "bad size for --max-bytes"),
        ("--max-growth 10%%", 2, "bad growth for --max-growth"),
        ("--max-growth ten", 2, "bad size for --max-growth"),
        ("--window 1h", 2, "the window is less than a day"),
        ("--metrics nowhere/x.prom", 2, "no such directory: nowhere"),
    ],
)
def test_a_wrong_command_is_told(orders: CommandLine, words: str, code: int, message: str) -> None:
    done = orders("pipeline", "check", *words.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"error: {message}")
    assert "\nhint: " in done.err


def test_a_store_without_pipelines_is_not_well(eoctl: CommandLine) -> None:
    eoctl.ok("store", "init")
    assert eoctl("pipeline", "check", "--max-age", "2h").code == 11


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("1024", 1024), ("1KiB", 1024), ("1kb", 1000), ("10GiB", 10 << 30), ("1.5 MiB", 3 << 19),
        ("2TB", 2 * 10**12), ("1PiB", 1 << 50), ("7B", 7),
    ],
)  # fmt: skip
def test_sizes_are_read(text: str, expected: int) -> None:
    assert parse_bytes(text, "--max-bytes") == expected


@pytest.mark.parametrize("text", ["", "-1", "1e9", "1 Gi", "GiB", "1,5GiB", "0x10", "1 KiB ", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_bytes(text, "--max-bytes")


def test_growth_is_a_part_or_a_size() -> None:
    assert parse_growth(None, "--max-growth") == {}
    assert parse_growth("2.5 %", "--max-growth") == {"max_growth_ratio_per_day": 0.025}
    assert parse_growth("1GiB", "--max-growth") == {"max_growth_bytes_per_day": 1 << 30}


# Python, figures, start.


def test_python_answers_what_the_document_has(grown: CommandLine) -> None:
    orders = open_store(grown.store).pipeline("orders")
    found = orders.check(max_growth_ratio_per_day=0.1, max_age_seconds=3600)
    (row,) = document(grown, "orders", "--max-growth", "10%", "--max-age", "1h", code=3)["pipelines"]
    told = {name: getattr(found, name) for name in ROW}
    assert (told["full_bytes"], told["limits"], told["notes"]) == (
        row["full_bytes"], row["limits"], tuple(row["notes"])
    )  # fmt: skip
    assert [finding.operator for finding in found.findings] == ["joins"]
    (grown.store / "p/orders/HEAD").write_bytes(b"{")
    with pytest.raises(CorruptError):
        orders.check()


def test_the_figures_are_written_whatever_the_answer(grown: CommandLine) -> None:
    path = grown.home / "eoctl.prom"
    assert grown("pipeline", "check", "--max-growth", "10%", "--metrics", path, "-q").code == 3
    figures = path.read_text("utf-8").splitlines()
    assert 'eoctl_pipeline_limit_exceeded{pipeline="orders",limit="max_growth_ratio_per_day"} 1' in figures
    assert 'eoctl_pipeline_operator_growth_bytes_per_day{pipeline="orders",operator="joins"} 1000000' in figures
    assert 'eoctl_pipeline_checkpoint_bytes{pipeline="clicks"} 3000000' in figures


def test_a_check_changes_nothing(grown: CommandLine) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in grown.store.rglob("*") if path.is_file()}

    before = everything()
    assert main(["pipeline", "check", "--max-age", "2h"]) == 0
    assert everything() == before
    assert any(str(layout.PIPELINES) in str(path) for path in before)
