"""Figures in the text format of Prometheus, for the textfile collector of its node exporter.

A file is replaced by a rename, so that whoever reads it finds all figures of one run or all of an earlier one; it
belongs to one command line alone. Source of the format: "Exposition formats", text format 0.0.4, prometheus.io.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from msgspec import Struct

from eoctl.services.check_values import PipelineCheck
from eoctl.services.outfile import replace_text

Labels = tuple[tuple[str, str], ...]

_name = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Metric(Struct, frozen=True):
    """One family of figures: its name with its unit last, a sentence, and a value for each set of labels."""

    name: str
    help: str
    kind: Literal["gauge", "counter"]
    samples: tuple[tuple[Labels, float], ...]


def render(metrics: Iterable[Metric]) -> str:
    """The text of the metrics in their order, those of one name together; one without samples is left out."""
    families: dict[str, list[Metric]] = {}
    for metric in metrics:
        families.setdefault(metric.name, []).append(metric)
    return "".join(_family(family) for family in families.values() if any(metric.samples for metric in family))


def write_metrics(path: Path, metrics: Iterable[Metric]) -> None:
    """The file holds these metrics and nothing else; where that fails, what it held before.

    Raises: UsageError where there is no such directory; NoSpaceError, AccessDeniedError, UnavailableError.
    """
    replace_text(path, render(metrics))


def check_metrics(checks: Iterable[PipelineCheck], failed: Iterable[str] = ()) -> tuple[Metric, ...]:
    """The figures of `pipeline check`; `failed` names the pipelines that could not be looked at.

    What is not known has no sample, except that a checkpoint which does not exist is infinitely old.
    """
    known = tuple(checks)
    success = {check.pipeline: 1.0 for check in known} | dict.fromkeys(failed, 0.0)
    return (
        _by_pipeline(
            "check_success", "1 where the pipeline could be looked at, 0 where its HEAD or manifest is bad.", success
        ),
        *_figures(known),
        Metric(
            "eoctl_pipeline_operator_bytes",
            "Bytes of one operator in the newest complete checkpoint.",
            "gauge",
            tuple(
                ((("pipeline", check.pipeline), ("operator", row.operator)), row.full_bytes)
                for check in known
                for row in check.operators
            ),
        ),
        Metric(
            "eoctl_pipeline_operator_growth_bytes_per_day",
            "How much one operator grows in a day.",
            "gauge",
            tuple(
                ((("pipeline", check.pipeline), ("operator", row.operator)), row.growth_bytes_per_day)
                for check in known
                for row in check.operators
                if row.growth_bytes_per_day is not None
            ),
        ),
        Metric(
            "eoctl_pipeline_limit_exceeded",
            "1 where the limit is passed, 0 where it is kept; of the limits that were given.",
            "gauge",
            tuple(
                (
                    (("pipeline", check.pipeline), ("limit", limit)),
                    float(limit in {row.limit for row in check.findings}),
                )
                for check in known
                for limit in check.limits
            ),
        ),
    )


def _figures(checks: Iterable[PipelineCheck]) -> tuple[Metric, ...]:
    known = {check.pipeline: check for check in checks}

    def of(name: str, help_text: str, field: str, absent: float | None = None) -> Metric:
        values = {pipeline: getattr(check, field) for pipeline, check in known.items()}
        samples = {pipeline: absent if value is None else value for pipeline, value in values.items()}
        return _by_pipeline(name, help_text, samples)

    times = {name: _seconds(check.newest_at) if check.newest_at else 0.0 for name, check in known.items()}
    return (
        _by_pipeline("checkpoint_time_seconds", "When the newest complete checkpoint was taken; 0: never.", times),
        of("checkpoint_age_seconds", "Age of the newest complete checkpoint, at this run.", "age_seconds", math.inf),
        of("checkpoint_bytes", "Full size of the newest complete checkpoint.", "full_bytes"),
        of("checkpoint_duration_seconds", "What the newest complete checkpoint took.", "duration_seconds"),
        of("growth_bytes_per_day", "How much the full size grows in a day.", "growth_bytes_per_day"),
        of("growth_ratio_per_day", "The same as a part of the size that it grew from.", "growth_ratio_per_day"),
        of(
            "duration_growth_seconds_per_day",
            "How much the duration grows in a day, by its trend.",
            "duration_growth_seconds_per_day",
        ),
        of("duration_limit_seconds", "The limit of the duration, or the recorded timeout.", "duration_limit_seconds"),
        of("duration_limit_days", "Days until the duration meets its limit, by its trend.", "duration_limit_days"),
        of("bytes_limit_days", "Days until the full size meets its limit, by its growth.", "bytes_limit_days"),
    )


def _by_pipeline(name: str, help_text: str, values: Mapping[str, float | None]) -> Metric:
    samples = ((((("pipeline", pipeline),)), value) for pipeline, value in values.items() if value is not None)
    return Metric(f"eoctl_pipeline_{name}", help_text, "gauge", tuple(samples))


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _family(metrics: list[Metric]) -> str:
    first = metrics[0]
    assert _name.match(first.name), first.name
    lines = [f"# HELP {first.name} {first.help.translate(_HELP_ESCAPES)}", f"# TYPE {first.name} {first.kind}"]
    seen: set[Labels] = set()
    for metric in metrics:
        assert (metric.help, metric.kind) == (first.help, first.kind), first.name
        for labels, value in metric.samples:
            key = tuple(sorted(labels))
            assert key not in seen, (first.name, labels)  # the collector would refuse the whole file
            seen.add(key)
            lines.append(f"{first.name}{_labels(labels)} {_number(value)}")
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    assert all(_name.match(name) for name, _ in labels), labels
    pairs = (f'{name}="{value.translate(_LABEL_ESCAPES)}"' for name, value in labels)
    return "{" + ",".join(pairs) + "}"


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(float(value))
