"""`eoctl pipeline check`: for cron, and for whoever is on call."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoctl.cli import exit_codes
from eoctl.cli.completion import complete_pipelines
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import GREEN, RED, YELLOW, Output
from eoctl.cli.quantities import age, human_bytes, human_seconds, minute, parse_duration, percent
from eoctl.cli.table import Column
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.services.check import Limits
    from eoctl.services.check_values import Finding, OperatorGrowth, PipelineCheck
    from formats.errors import EoctlError

app = typer.Typer()
_DAY = 86_400
_NAME_LEAST = 12
_SHOWN_OPERATORS = 10
_UNITS = ("B", "KIB", "MIB", "GIB", "TIB", "PIB")
_DECIMAL = ("B", "KB", "MB", "GB", "TB", "PB")
_SPANS = (("d", _DAY), ("h", 3600), ("min", 60), ("s", 1))
_bytes = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([a-zA-Z]*)\Z")
_percent = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?) ?%\Z")
_STATES = {"ok": GREEN, "over a limit": RED, "warning": YELLOW}


@app.command("check")
def check(
    ctx: typer.Context,
    *,
    pipeline: Annotated[
        str | None,
        typer.Argument(
            metavar="PIPELINE", help="Only this one. Else all of the store.", autocompletion=complete_pipelines
        ),
    ] = None,
    option: Annotated[
        str | None,
        typer.Option("-p", "--pipeline", metavar="PIPELINE", help="The same.", autocompletion=complete_pipelines),
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Of the newest complete checkpoint: 2h, 30m.")
    ] = None,
    max_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="Of its full size: 10GiB.")] = None,
    max_growth: Annotated[
        str | None, typer.Option(metavar="GROWTH", help="Of the full size in a day: 10%, or 1GiB.")
    ] = None,
    max_duration: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Of taking the newest checkpoint: 5m.")
    ] = None,
    window: Annotated[str, typer.Option(metavar="DURATION", help="How far back growth and trend are measured.")] = "7d",
    horizon: Annotated[
        str, typer.Option(metavar="DURATION", help="Warn of a limit that will be met within this.")
    ] = "30d",
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE.prom", help="Write the figures for Prometheus, by rename.")
    ] = None,
) -> None:
    """Check age, size, growth and duration of checkpoints.

    Exit 3 where a limit is passed; the operator that grows most is named. A pipeline without a complete checkpoint is
    over every --max-age. A warning says in how many days size or duration will meet its limit, going on like this;
    without --max-duration that is the timeout, where the checkpoint records one. With -q only what is wrong is said.

    Example:
        eoctl pipeline check orders --max-age 2h --max-growth 10% --max-duration 5m
        eoctl pipeline check -q --max-age 2h --metrics /var/lib/node_exporter/eoctl-check.prom
    """
    from eoctl.services.check import Limits, check_pipelines  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    limits = Limits(
        max_age_seconds=None if max_age is None else parse_duration(max_age, "--max-age"),
        max_bytes=None if max_bytes is None else parse_bytes(max_bytes, "--max-bytes"),
        **parse_growth(max_growth, "--max-growth"),
        max_duration_seconds=None if max_duration is None else parse_duration(max_duration, "--max-duration"),
        window_seconds=parse_duration(window, "--window"),
        horizon_seconds=parse_duration(horizon, "--horizon"),
    )
    invocation = invocation_of(ctx)
    out = invocation.out
    if pipeline and option and pipeline != option:
        raise UsageError(f"two pipelines are named: {pipeline} and -p {option}", hint="name one of them, or none")
    name = pipeline or option
    store = invocation.open_store()
    checks, failed = check_pipelines(store, [PipelineId(name)] if name else None, limits)
    if metrics is not None:
        from eoctl.services.prometheus import check_metrics, write_metrics  # noqa: PLC0415  (start-up)

        write_metrics(metrics, check_metrics(checks, failed))
    if checks:
        out.answer(
            "pipeline.check",
            _document(checks, failed),
            lambda: _lines(checks, limits, out),
            rows="pipelines",
            brief=lambda: _troubles(checks),
        )
    if failed:
        raise next(iter(failed.values()))
    if not all(found.ok for found in checks):
        raise typer.Exit(exit_codes.ANSWER_NO)


def parse_bytes(text: str, option: str) -> int:
    """`1073741824`, `10GiB`, `1.5 GB`. Raises: UsageError."""
    match = _bytes.match(text)
    unit = match[2].upper() or "B" if match else ""
    if match is None or unit not in {*_UNITS, *_DECIMAL}:
        raise UsageError(f"bad size for {option}: {text!r}", hint=f"a number and KiB, MiB, GiB or TiB: {option} 10GiB")
    power = _UNITS.index(unit) if unit in _UNITS else _DECIMAL.index(unit)
    factor: int = (1024 if unit in _UNITS else 1000) ** power
    return round(float(match[1]) * factor)


def parse_growth(text: str | None, option: str) -> dict[str, Any]:
    """`10%` or `1GiB` of growth in a day, as the limit of that kind. Raises: UsageError."""
    if text is None:
        return {}
    if match := _percent.match(text):
        return {"max_growth_ratio_per_day": float(match[1]) / 100}
    if "%" in text:
        raise UsageError(f"bad growth for {option}: {text!r}", hint=f"of a day: {option} 10%, or {option} 1GiB")
    return {"max_growth_bytes_per_day": parse_bytes(text, option)}


def _document(checks: Sequence[PipelineCheck], failed: dict[str, EoctlError]) -> dict[str, Any]:
    return {
        "pipeline": checks[0].pipeline if len(checks) + len(failed) == 1 else "",
        "ok": all(found.ok for found in checks) and not failed,
        "findings": [finding for found in checks for finding in found.findings],
        "warnings": [warning for found in checks for warning in found.warnings],
        "pipelines": checks,
        "failed": {name: error.message for name, error in failed.items()},
    }


def _lines(checks: Sequence[PipelineCheck], limits: Limits, out: Output) -> Iterator[str]:
    if len(checks) == 1:
        yield from _details(checks[0], limits, out)
    else:
        yield from out.table(_columns(checks))
    told = [(sentence, RED) for found in checks for sentence in _sentences(found, found.findings)]
    told += [(sentence, YELLOW) for found in checks for sentence in _sentences(found, found.warnings)]
    if len(checks) == 1:
        told += [(f"note: {note}", "") for note in checks[0].notes]
    if told:
        yield ""
    for sentence, style in told:
        yield from (out.paint(line, style) if style else line for line in out.wrapped(sentence))


def _troubles(checks: Iterable[PipelineCheck]) -> Iterator[str]:
    for found in checks:
        yield from _sentences(found, (*found.findings, *found.warnings))


def _details(found: PipelineCheck, limits: Limits, out: Output) -> Iterator[str]:
    yield f"{out.heading(found.pipeline)}  {_painted_state(found, out)}"
    if found.age_seconds is None or found.full_bytes is None:
        return
    growth, ratio = found.growth_bytes_per_day, found.growth_ratio_per_day
    size = human_bytes(found.full_bytes)
    if growth is not None:
        size += f", {_signed_bytes(growth)} a day{'' if ratio is None else f' ({_signed_percent(ratio)})'}"
    duration = "not known" if found.duration_seconds is None else human_seconds(found.duration_seconds)
    if found.duration_growth_seconds_per_day is not None:
        duration += f", {_signed_seconds(found.duration_growth_seconds_per_day)} a day"
    pairs = [
        ("newest", f"{found.pipeline}@{found.newest}, {minute(found.newest_at)} UTC, {age(found.age_seconds)} ago"),
        ("size", size + _meets(found.bytes_limit_days, limits.max_bytes, human_bytes)),
        ("duration", duration + _meets(found.duration_limit_days, found.duration_limit_seconds, _span)),
    ]
    if found.compared_seconds is not None:
        pairs.append(
            ("growth since", f"{found.pipeline}@{found.compared_with}, {_span(found.compared_seconds)} before")
        )
    yield from out.fields(pairs)
    if found.operators:
        yield ""
        shown = found.operators[:_SHOWN_OPERATORS]
        yield from out.table(_operator_columns(shown, found.full_bytes))
        if len(found.operators) > len(shown):
            yield f"and {len(found.operators) - len(shown)} more: --json has them all"


def _meets(days: float | None, limit: float | None, spell: Any) -> str:  # noqa: ANN401  (bytes or seconds)
    if not days or limit is None:
        return ""
    return f"; meets {spell(limit)} in {_days(days)}"


def _state(found: PipelineCheck) -> str:
    return "over a limit" if not found.ok else "warning" if found.warnings else "ok"


def _painted_state(found: PipelineCheck, out: Output) -> str:
    state = _state(found)
    return out.paint(state, _STATES[state])


def _operator_columns(rows: Sequence[OperatorGrowth], whole: int) -> list[Column]:
    growth = ["-" if row.growth_bytes_per_day is None else _signed_bytes(row.growth_bytes_per_day) for row in rows]
    return [
        Column(title="OPERATOR", cells=[row.operator for row in rows], least=_NAME_LEAST),
        Column(title="BYTES", cells=[human_bytes(row.full_bytes) for row in rows], right=True),
        Column(title="%", cells=[percent(row.full_bytes, whole) for row in rows], right=True),
        Column(title="GROWTH/DAY", cells=growth, right=True),
    ]


def _columns(checks: Sequence[PipelineCheck]) -> list[Column]:
    def cells(spell: Any, field: str) -> list[str]:  # noqa: ANN401  (bytes, seconds, parts)
        values = [getattr(found, field) for found in checks]
        return ["-" if value is None else spell(value) for value in values]

    return [
        Column(title="PIPELINE", cells=[found.pipeline for found in checks], least=_NAME_LEAST),
        Column(title="NEWEST", cells=[found.newest or "-" for found in checks], right=True, optional=True),
        Column(title="AGE", cells=cells(age, "age_seconds"), right=True),
        Column(title="FULL", cells=cells(human_bytes, "full_bytes"), right=True),
        Column(title="GROWTH/DAY", cells=cells(_signed_bytes, "growth_bytes_per_day"), right=True),
        Column(title="DURATION", cells=cells(human_seconds, "duration_seconds"), right=True),
        Column(title="STATE", cells=[_state(found) for found in checks], styles=_STATES),
    ]


def _sentences(found: PipelineCheck, findings: Iterable[Finding]) -> Iterator[str]:
    """What is over its limit, or when it will be; and by which operator."""
    for finding in findings:
        spell, exactly, what = _MEASURES[finding.limit]
        threshold = spell(finding.threshold)
        if finding.value is None:
            yield f"{finding.pipeline}: there is no complete checkpoint; the limit of its age is {threshold}"
            continue
        value = spell(finding.value)
        if finding.days is not None:
            rest = f"meets {threshold} in {_days(finding.days)}"
            yield f"{finding.pipeline}: warning: {what} is {value}, and {rest}{_blamed(found, finding.operator)}"
            continue
        if value == threshold:  # the units are too coarse to tell them apart
            value, threshold = exactly(finding.value), exactly(finding.threshold)
        rest = f"over the limit of {threshold}{_blamed(found, finding.operator)}"
        yield f"{finding.pipeline}: {what} is {value}, {rest}"


def _blamed(found: PipelineCheck, operator: str) -> str:
    row = next((row for row in found.operators if row.operator == operator), None)
    if row is None:
        return ""
    if (row.growth_bytes_per_day or 0) > 0:
        return f"; {operator} grows most, {_signed_bytes(row.growth_bytes_per_day or 0)} a day"
    return f"; {operator} is the largest, {human_bytes(row.full_bytes)}"


def _days(days: float) -> str:
    return "less than a day" if days < 1 else f"{int(days)} d"


def _span(seconds: float) -> str:
    """In its two largest units: `2 h 5 min`, `3 d`, `12.5 s`."""
    if seconds < 60:
        return human_seconds(seconds) if seconds < 10 else f"{seconds:.3g} s"
    parts: list[str] = []
    for unit, size in _SPANS:
        count, seconds = divmod(int(seconds), size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def _signed_bytes(count: float) -> str:
    return f"{'-' if count < 0 else '+'}{human_bytes(abs(round(count)))}"


def _signed_seconds(seconds: float) -> str:
    return f"{'-' if seconds < 0 else '+'}{_span(abs(seconds))}"


def _signed_percent(part: float) -> str:
    return f"{100 * part:+.1f}%"


def _growth_bytes(count: float) -> str:
    return f"{human_bytes(round(count))} a day"


def _growth_percent(part: float) -> str:
    return f"{100 * part:.3g}% a day"


def _exact_seconds(seconds: float) -> str:
    return f"{seconds:,.9g} s"


# How a limit is told, how exactly where that is too coarse, and what it is of.
_MEASURES: dict[str, tuple[Any, Any, str]] = {
    "max_age_seconds": (_span, _exact_seconds, "the newest checkpoint's age"),
    "max_bytes": (lambda count: human_bytes(round(count)), lambda count: f"{count:,} B", "its size"),
    "max_growth_bytes_per_day": (_growth_bytes, lambda count: f"{count:,} B a day", "growth"),
    "max_growth_ratio_per_day": (_growth_percent, lambda part: f"{100 * part:.9g}% a day", "growth"),
    "max_duration_seconds": (_span, _exact_seconds, "its duration"),
    "timeout_seconds": (_span, _exact_seconds, "its duration (the limit is the timeout that it records)"),
}
