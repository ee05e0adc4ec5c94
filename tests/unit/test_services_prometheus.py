"""Figures for Prometheus: what is written can be read again, all of it or none, whatever the names."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.services.check import Facts, Limits, judge
from eoctl.services.check_values import PipelineCheck
from eoctl.services.prometheus import Labels, Metric, check_metrics, render, write_metrics
from formats.errors import AccessDeniedError, NoSpaceError, UnavailableError, UsageError
from tests.support.examples import HEAD

NOW = "2026-11-23T10:30:00.000Z"
_ESCAPED = {r"\\": "\\", r"\"": '"', r"\n": "\n"}
_sample = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\]|\\.)*",?)*)\})? (\S+)\Z')
_label = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|\Z)')


def unescaped(text: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPED[match[0]], text)


def read(text: str) -> dict[str, tuple[str, str, dict[Labels, float]]]:
    """Name -> help, kind and samples, as the collector reads them: by the rules of the text format 0.0.4."""
    assert text == "" or text.endswith("\n")
    found: dict[str, tuple[str, str, dict[Labels, float]]] = {}
    pending = ""
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            name, _, told = line.removeprefix("# HELP ").partition(" ")
            assert name not in found, "lines of one metric are together"
            pending, found[name] = name, (unescaped(told), "", {})
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name == pending
            found[name] = (found[name][0], kind, {})
        else:
            match = _sample.match(line)
            assert match is not None, line
            assert match[1] == pending
            labels = tuple((name, unescaped(value)) for name, value in _label.findall(match[2] or ""))
            assert labels not in found[pending][2]
            found[pending][2][labels] = float(match[3])
    return found


def gauge(name: str, *samples: tuple[Labels, float]) -> Metric:
    return Metric(name, f"Help of {name}.", "gauge", samples)


def test_the_text_is_what_the_format_says() -> None:
    labels = (("pipeline", "orders"), ("operator", 'a "b"\\c\nd'))
    metrics = [
        Metric("eoctl_bytes", "Bytes \\ of\nthings.", "gauge", ((labels, 1.5), ((), 3))),
        Metric("eoctl_runs_total", "Runs.", "counter", (((), 1e300),)),
    ]
    assert render(metrics) == (
        "# HELP eoctl_bytes Bytes \\\\ of\\nthings.\n"
        "# TYPE eoctl_bytes gauge\n"
        'eoctl_bytes{pipeline="orders",operator="a \\"b\\"\\\\c\\nd"} 1.5\n'
        "eoctl_bytes 3\n"
        "# HELP eoctl_runs_total Runs.\n"
        "# TYPE eoctl_runs_total counter\n"
        "eoctl_runs_total 1e+300\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (True, "1"),
        (2**53 - 1, "9007199254740991"),
        (2**60, "1.152921504606847e+18"),
        (0.1, "0.1"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_spelled_as_the_format_wants(value: float, text: str) -> None:
    assert render([gauge("a", ((), value))]).splitlines()[-1] == f"a {text}"


def test_metrics_of_one_name_stand_together_and_empty_ones_nowhere() -> None:
    one, other = ((("pipeline", "a"),), 1.0), ((("pipeline", "b"),), 2.0)
    text = render([gauge("x", one), gauge("empty"), gauge("y"), gauge("x", other)])
    assert [line for line in text.splitlines() if line.startswith("#")] == ["# HELP x Help of x.", "# TYPE x gauge"]
    assert read(text)["x"][2] == dict([one, other])
    assert render([]) == ""


def test_a_figure_told_twice_is_a_mistake_of_ours() -> None:
    twice = ((("pipeline", "a"),), 1.0)
    with pytest.raises(AssertionError):
        render([gauge("x", twice), gauge("x", twice)])
    with pytest.raises(AssertionError):
        render([gauge("no-such-name", twice)])


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(_texts, st.floats(allow_nan=False), min_size=1, max_size=5), _texts)
def test_any_label_and_value_comes_back(values: dict[str, float], told: str) -> None:
    samples = tuple(((("operator", name),), value) for name, value in values.items())
    text = render([Metric("x", told, "gauge", samples)])
    assert read(text) == {"x": (told, "gauge", dict(samples))}


# Files.


def test_the_file_is_replaced_whole_and_can_be_read_by_all(tmp_path: Path) -> None:
    path = tmp_path / "eoctl.prom"
    old_umask = os.umask(0o077)
    try:
        write_metrics(path, [gauge("x", ((), 1))])
        first = path.stat()
        write_metrics(path, [gauge("y", ((), 2))])
    finally:
        os.umask(old_umask)
    assert path.read_text("utf-8").splitlines()[-1] == "y 2"
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.stat().st_ino != first.st_ino
    assert list(tmp_path.iterdir()) == [path]


def test_until_the_rename_the_old_file_is_there_and_no_other_that_the_collector_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "eoctl.prom"
    write_metrics(path, [gauge("x", ((), 1))])
    seen: list[list[str]] = []
    synced = os.fsync

    def look(descriptor: int) -> None:
        seen.append(sorted(found.name for found in tmp_path.iterdir() if found.suffix == ".prom"))
        assert path.read_text("utf-8").splitlines()[-1] == "x 1"
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    write_metrics(path, [gauge("x", ((), 2))])
    assert seen == [["eoctl.prom"]]


@pytest.mark.parametrize(("number", "error"), [(28, NoSpaceError), (13, AccessDeniedError), (5, UnavailableError)])
def test_what_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    path = tmp_path / "eoctl.prom"
    write_metrics(path, [gauge("x", ((), 1))])

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error, match=str(path)):
        write_metrics(path, [gauge("x", ((), 2))])
    assert path.read_text("utf-8").splitlines()[-1] == "x 1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_that_is_not_there_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        write_metrics(tmp_path / "nowhere" / "eoctl.prom", [])


def test_a_directory_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "eoctl.prom").mkdir()
    with pytest.raises(UnavailableError):
        write_metrics(tmp_path / "eoctl.prom", [])
    assert [found.name for found in tmp_path.iterdir()] == ["eoctl.prom"]


# The figures of a check.


def check_of(pipeline: str, limits: Limits, **facts: object) -> PipelineCheck:
    return judge(pipeline, Facts(**facts), limits, NOW)  # type: ignore[arg-type]  # a test's own facts


def test_the_figures_of_a_check_are_there_with_their_pipeline() -> None:
    newest = HEAD.live[0]
    limits = Limits(max_age_seconds=10**9, max_bytes=1)
    found = check_of("orders", limits, newest=newest, history=(newest,), operators={"a": 5, "b": 6}, before={"a": 3})
    metrics = read(render(check_metrics([found], failed=["broken"])))
    orders = (("pipeline", "orders"),)
    assert metrics["eoctl_pipeline_check_success"][2] == {orders: 1, (("pipeline", "broken"),): 0}
    assert metrics["eoctl_pipeline_checkpoint_bytes"][2] == {orders: newest.full_bytes}
    assert metrics["eoctl_pipeline_checkpoint_age_seconds"][2] == {orders: found.age_seconds}
    assert metrics["eoctl_pipeline_operator_bytes"][2] == {
        (*orders, ("operator", "a")): 5,
        (*orders, ("operator", "b")): 6,
    }
    assert metrics["eoctl_pipeline_operator_growth_bytes_per_day"][2] == {
        (*orders, ("operator", "a")): 2,
        (*orders, ("operator", "b")): 6,
    }
    assert metrics["eoctl_pipeline_limit_exceeded"][2] == {
        (*orders, ("limit", "max_age_seconds")): 0,
        (*orders, ("limit", "max_bytes")): 1,
    }
    assert "eoctl_pipeline_duration_limit_days" not in metrics
    assert all(help_text.endswith(".") and kind == "gauge" for help_text, kind, _ in metrics.values())


def test_a_checkpoint_that_does_not_exist_is_infinitely_old() -> None:
    metrics = read(render(check_metrics([check_of("orders", Limits())])))
    (age,) = metrics["eoctl_pipeline_checkpoint_age_seconds"][2].values()
    (time,) = metrics["eoctl_pipeline_checkpoint_time_seconds"][2].values()
    assert (age, time) == (math.inf, 0)
    assert "eoctl_pipeline_checkpoint_bytes" not in metrics


def test_every_field_that_is_a_figure_has_a_metric() -> None:
    """What is added to the check is added here, or left out on purpose."""
    left_out = {
        "pipeline", "ok", "warnings", "newest", "compared_with", "compared_seconds", "trend_checkpoints", "notes",
    }  # fmt: skip
    told = {
        "findings": "limit_exceeded",
        "limits": "limit_exceeded",
        "operators": "operator_bytes",
        "newest_at": "checkpoint_time_seconds",
        "age_seconds": "checkpoint_age_seconds",
        "full_bytes": "checkpoint_bytes",
        "duration_seconds": "checkpoint_duration_seconds",
    }
    names = {metric.name.removeprefix("eoctl_pipeline_") for metric in check_metrics([])}
    for field in set(PipelineCheck.__struct_fields__) - left_out:
        assert told.get(field, field) in names, field
