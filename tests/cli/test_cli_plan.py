"""`eoctl plan`: what is given, what is measured, and what cannot be kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from eoctl.cli.plan import parse_seconds, parse_share, span
from formats.errors import UsageError
from tests.cli.conftest import CommandLine, State

GIVEN = ("--state-bytes", "10GiB", "--added-bytes", "200MB", "--bandwidth", "100MB", "--snapshot", "5s")
RATES = ("--input-rate", "50000", "--capacity", "80000")


def document(eoctl: CommandLine, *words: str, code: int = 0) -> dict[str, Any]:
    done = eoctl("plan", *words, "--json")
    assert (done.code, done.err) == (code, ""), done
    found: dict[str, Any] = json.loads(done.out)
    return found


def test_five_seconds_of_sixty_leave_91_7_percent(eoctl: CommandLine) -> None:
    found = document(eoctl, "cost", *GIVEN, "--interval", "60s")
    assert round(100 * found["throughput_share"], 1) == 91.7
    assert found["duration_seconds"] == 7
    assert found["recovery_worst_seconds"] is None
    assert "91.7 %" in eoctl.ok("plan", "cost", *GIVEN, "--interval", "60s").out


def test_nothing_is_opened_where_no_snapshot_is_named(eoctl: CommandLine) -> None:
    eoctl.ok("plan", "cost", *GIVEN, "--store", "/nowhere/at/all")


def test_a_snapshot_is_measured_and_an_option_goes_first(eoctl: CommandLine, state: State) -> None:
    eoctl.ok("store", "init")
    state("s", a=1_000_000)
    eoctl.ok("checkpoint", "create", "s", "-p", "orders")
    state("s", a=1_000_000, b=50_000)
    eoctl.ok("checkpoint", "create", "s", "-p", "orders")
    found = document(eoctl, "cost", "orders@latest", "--bandwidth", "1MB")
    figures = found["figures"]
    assert found["measured"] == "orders@2"
    assert figures["state_bytes"] == {"value": 1_050_000.0, "origin": "measured"}
    assert figures["added_bytes"] == {"value": 50_000.0, "origin": "measured"}
    assert figures["upload_bytes_per_second"] == {"value": 1e6, "origin": "given"}
    assert figures["upload_share"]["origin"] == "assumed"
    assert found["full_bytes"] == 1_050_000 + figures["metadata_bytes"]["value"]


def test_of_a_pipeline_the_newest_checkpoint_is_measured(eoctl: CommandLine, state: State) -> None:
    eoctl.ok("store", "init")
    state("s", a=1000)
    eoctl.ok("checkpoint", "create", "s", "-p", "orders")
    assert document(eoctl, "interval", "-p", "orders", "--mtbf", "7d")["cost"]["measured"] == "orders@1"


def test_the_suggestion_names_its_reason_and_its_bounds(eoctl: CommandLine) -> None:
    found = document(eoctl, "interval", *GIVEN, "--mtbf", "1d")
    assert found["because"] == "failures"
    assert round(found["interval_seconds"], 1) == 929.5
    assert found["bounds"]["least"] == 7
    assert eoctl.ok("plan", "interval", "-q", *GIVEN, "--mtbf", "1d").out == "15 min 30 s\n"


def test_what_cannot_be_kept_is_told_with_exit_3(eoctl: CommandLine) -> None:
    found = document(eoctl, "interval", *GIVEN, *RATES, "--recovery", "30s", code=3)
    assert found["because"] == "duration"
    assert len(found["conflicts"]) == 1


def test_a_pipeline_no_faster_than_its_input_never_recovers(eoctl: CommandLine) -> None:
    words = ("cost", *GIVEN, "--input-rate", "10", "--capacity", "10")
    assert "never" in eoctl.ok("plan", *words).out
    assert document(eoctl, *words)["recovery_worst_seconds"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cost",), "state_bytes is not known"),
        (("cost", "--state-bytes", "1GiB"), "upload_bytes_per_second is not known"),
        (("cost", "--state-bytes", "1GiB", "--bandwidth", "0B"), "0 bytes in a second"),
        (("cost", *GIVEN, "--interval", "60"), "bad duration for --interval"),
        (("cost", *GIVEN, "--interval", "0s"), "an interval cannot be"),
        (("cost", *GIVEN, "--upload-share", "1000%"), "bad percentage"),
        (("interval", *GIVEN, "--recovery", "5m"), "rates of records"),
        (("interval", *GIVEN, "--mtbf", "0s"), "time between failures"),
    ],
)
def test_figures_that_are_missing_or_cannot_be_are_refused(
    eoctl: CommandLine, words: tuple[str, ...], said: str
) -> None:
    done = eoctl("plan", *words)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (7.14, "7.1 s"), (60, "1 min"), (107, "1 min 47 s"), (43_500, "12 h 5 min"), (864_000, "10 d")],
)
def test_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_durations_and_shares() -> None:
    assert [parse_seconds(text, "-x") for text in ("200ms", "0.5s", "2m", "1d")] == [0.2, 0.5, 120, 86_400]
    assert parse_share("5%", "-x") == 0.05
    with pytest.raises(UsageError):
        parse_seconds("5", "-x")
