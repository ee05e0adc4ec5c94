"""`eoctl plan`: what checkpoints cost, and how often to take one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoctl.cli.check import parse_bytes
from eoctl.cli.completion import complete_snapshots
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.parameters import Pipeline
from eoctl.cli.quantities import human_bytes
from eoctl.cli.table import Column
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.planner.recovery import Recovery
    from eoctl.services.plan import CostPlan, IntervalPlan, Workload

app = typer.Typer()
_seconds = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d|w)\Z")
_percent = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%\Z")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BECAUSE = {
    "usual": "nothing asks for another",
    "failures": "least time lost between checkpoints and failures",
    "recovery": "the longest that keeps the recovery time",
    "overhead": "the shortest that keeps the overhead",
    "duration": "a checkpoint and the pause after it take that long",
}

Snapshot = Annotated[
    str | None,
    typer.Argument(metavar="[SNAP]", help="Measure this one and those before it.", autocompletion=complete_snapshots),
]
StateBytes = Annotated[str | None, typer.Option("--state-bytes", metavar="SIZE", help="Of the whole state: 10GiB.")]
AddedBytes = Annotated[
    str | None, typer.Option("--added-bytes", metavar="SIZE", help="Uploaded by one checkpoint; else all.")
]
OffsetsBytes = Annotated[str | None, typer.Option("--offsets-bytes", metavar="SIZE", help="Of all source offsets.")]
Bandwidth = Annotated[str | None, typer.Option("--bandwidth", metavar="SIZE", help="Of uploads, in a second: 100MB.")]
Propagation = Annotated[
    str | None, typer.Option("--propagation", metavar="DURATION", help="Until all have the barriers: 200ms.")
]
SnapshotTime = Annotated[
    str | None, typer.Option("--snapshot", metavar="DURATION", help="Of the synchronous part: 50ms.")
]
UploadShare = Annotated[
    str | None, typer.Option("--upload-share", metavar="PERCENT", help="Of the processor, that an upload takes: 10%.")
]
Interval = Annotated[
    str | None,
    typer.Option("--interval", metavar="DURATION", help="From one start to the next; else measured, or 60s."),
]
Restart = Annotated[
    str | None, typer.Option("--restart", metavar="DURATION", help="From the failure to the restore: 20s.")
]
RestoreBandwidth = Annotated[
    str | None, typer.Option("--restore-bandwidth", metavar="SIZE", help="In a second; else as uploads.")
]
InputRate = Annotated[
    float | None, typer.Option("--input-rate", metavar="N", min=0, help="Records that arrive in a second.")
]
Capacity = Annotated[
    float | None, typer.Option("--capacity", metavar="N", min=0, help="Records that it can process in a second.")
]


@app.command("cost")
def cost(
    ctx: typer.Context,
    *,
    snapshot: Snapshot = None,
    pipeline: Pipeline = None,
    state_bytes: StateBytes = None,
    added_bytes: AddedBytes = None,
    offsets_bytes: OffsetsBytes = None,
    bandwidth: Bandwidth = None,
    propagation: Propagation = None,
    snapshot_time: SnapshotTime = None,
    upload_share: UploadShare = None,
    interval: Interval = None,
    restart: Restart = None,
    restore_bandwidth: RestoreBandwidth = None,
    input_rate: InputRate = None,
    capacity: Capacity = None,
) -> None:
    """Say what checkpoints cost, and a recovery.

    Figures come from the checkpoints in the store, or from options; these go first. Each is told with its origin and
    its formula. The time to catch up needs --input-rate and --capacity.

    Example:
        eoctl plan cost orders@latest --interval 60s
        eoctl plan cost --state-bytes 10GiB --added-bytes 200MiB --bandwidth 100MB --snapshot 5s --interval 60s
    """
    from eoctl.services.plan import plan_cost  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    given = {
        **_sizes(state_bytes, added_bytes, offsets_bytes, bandwidth, restore_bandwidth),
        **_times(propagation, snapshot_time, interval, restart),
        "upload_share": None if upload_share is None else parse_share(upload_share, "--upload-share"),
        "records_per_second": input_rate,
        "capacity_per_second": capacity,
    }
    plan = plan_cost(_workload(invocation, snapshot, pipeline, given))
    invocation.out.answer(
        "plan.cost", _cost_document(plan), lambda: invocation.out.table(_cost_columns(plan)) + _origins(plan.workload)
    )


@app.command("interval")
def interval(
    ctx: typer.Context,
    *,
    snapshot: Snapshot = None,
    pipeline: Pipeline = None,
    max_overhead: Annotated[
        str | None, typer.Option(metavar="PERCENT", help="Of the throughput that checkpoints may take: 5%.")
    ] = None,
    mtbf: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Mean time between failures of the pipeline: 7d.")
    ] = None,
    recovery: Annotated[
        str | None, typer.Option(metavar="DURATION", help="What the worst recovery may take: 5m.")
    ] = None,
    min_pause: Annotated[
        str | None, typer.Option(metavar="DURATION", help="From the end of one to the start of the next.")
    ] = None,
    state_bytes: StateBytes = None,
    added_bytes: AddedBytes = None,
    offsets_bytes: OffsetsBytes = None,
    bandwidth: Bandwidth = None,
    propagation: Propagation = None,
    snapshot_time: SnapshotTime = None,
    upload_share: UploadShare = None,
    restart: Restart = None,
    restore_bandwidth: RestoreBandwidth = None,
    input_rate: InputRate = None,
    capacity: Capacity = None,
) -> None:
    """Suggest how often to take a checkpoint.

    Where failures are known (--mtbf) the interval is Young's; --recovery makes it shorter, --max-overhead longer; it
    is never below a checkpoint's duration and the pause after it. Exit 3 where what is asked for cannot all be kept.

    Example:
        eoctl plan interval orders@latest --mtbf 7d --max-overhead 5%
        eoctl plan interval orders@latest --recovery 5m --input-rate 50000 --capacity 80000 --restart 20s
    """
    from eoctl.cli.exit_codes import ANSWER_NO  # noqa: PLC0415  (start-up)
    from eoctl.services.plan import plan_interval  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    given = {
        **_sizes(state_bytes, added_bytes, offsets_bytes, bandwidth, restore_bandwidth),
        **_times(propagation, snapshot_time, None, restart),
        "min_pause_seconds": None if min_pause is None else parse_seconds(min_pause, "--min-pause"),
        "upload_share": None if upload_share is None else parse_share(upload_share, "--upload-share"),
        "records_per_second": input_rate,
        "capacity_per_second": capacity,
    }
    plan = plan_interval(
        _workload(invocation, snapshot, pipeline, given),
        max_overhead=None if max_overhead is None else parse_share(max_overhead, "--max-overhead"),
        failure_seconds=None if mtbf is None else parse_seconds(mtbf, "--mtbf"),
        recovery_seconds=None if recovery is None else parse_seconds(recovery, "--recovery"),
    )
    out = invocation.out
    out.answer(
        "plan.interval",
        _interval_document(plan),
        lambda: [*_interval_lines(plan), "", *out.table(_cost_columns(plan.cost)), *_origins(plan.cost.workload)],
        brief=lambda: [span(plan.suggestion.interval_seconds)],
    )
    if plan.suggestion.conflicts:
        raise typer.Exit(ANSWER_NO)


def parse_seconds(text: str, option: str) -> float:
    """`200ms`, `0.5s`, `5m`, `7d`. Raises: UsageError."""
    match = _seconds.match(text)
    if match is None:
        raise UsageError(f"bad duration for {option}: {text!r}", hint=f"a number and ms, s, m, h, d or w: {option} 5s")
    return float(match[1]) * _UNITS[match[2]]


def span(seconds: float) -> str:
    """`0.25 s`, `7.1 s`, `1 min 47 s`, `12 h 5 min`: exact enough to set an interval by."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    parts = (("d", whole // 86_400), ("h", whole // 3600 % 24), ("min", whole // 60 % 60), ("s", whole % 60))
    told = [f"{count} {unit}" for unit, count in parts]
    first = next(index for index, (_, count) in enumerate(parts) if count)
    return " ".join(text for text in told[first : first + 2] if not text.startswith("0 "))


def parse_share(text: str, option: str) -> float:
    """`5%` as 0.05. Raises: UsageError."""
    match = _percent.match(text)
    if match is None or float(match[1]) > 100:
        raise UsageError(f"bad percentage for {option}: {text!r}", hint=f"from 0 to 100: {option} 5%")
    return float(match[1]) / 100


def _workload(
    invocation: Invocation, snapshot: str | None, pipeline: str | None, given: Mapping[str, float | None]
) -> Workload:
    from eoctl.services.plan import measure, workload  # noqa: PLC0415  (start-up)

    if snapshot is None and pipeline is None:
        return workload(None, given)
    from eoctl.services.resolve import LATEST, resolve  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    return workload(measure(store, resolve(store, snapshot or LATEST, pipeline)), given)


def _sizes(
    state: str | None, added: str | None, offsets: str | None, bandwidth: str | None, restore: str | None
) -> dict[str, float | None]:
    options = (
        ("state_bytes", state, "--state-bytes"),
        ("added_bytes", added, "--added-bytes"),
        ("offsets_bytes", offsets, "--offsets-bytes"),
        ("upload_bytes_per_second", bandwidth, "--bandwidth"),
        ("restore_bytes_per_second", restore, "--restore-bandwidth"),
    )
    return {name: None if text is None else float(parse_bytes(text, option)) for name, text, option in options}


def _times(
    propagation: str | None, snapshot: str | None, interval: str | None, restart: str | None
) -> dict[str, float | None]:
    options = (
        ("propagation_seconds", propagation, "--propagation"),
        ("snapshot_seconds", snapshot, "--snapshot"),
        ("interval_seconds", interval, "--interval"),
        ("restart_seconds", restart, "--restart"),
    )
    return {name: None if text is None else parse_seconds(text, option) for name, text, option in options}


def _cost_columns(plan: CostPlan) -> list[Column]:
    rows = [
        ("size", human_bytes(plan.full_bytes), "state + offsets + metadata"),
        ("upload", human_bytes(plan.uploaded_bytes), "added + offsets + metadata"),
        ("upload time", span(plan.upload_seconds), "upload / bandwidth"),
        ("duration", span(plan.duration_seconds), "propagation + snapshot + upload time"),
        ("lost", span(plan.lost_seconds), "snapshot + upload share x upload time"),
        ("interval", span(plan.interval_seconds), "from one start to the next"),
        ("throughput", f"{100 * plan.throughput_share:.1f} %", "1 - lost / interval"),
        ("restore", span(plan.restore_seconds), "size / restore bandwidth"),
    ]
    if plan.recovery_mean and plan.recovery_worst:
        rows += [
            ("recovery, mean", _recovery(plan.recovery_mean), "restart + restore + replay, interval / 2 back"),
            ("recovery, worst", _recovery(plan.recovery_worst), "restart + restore + replay, an interval back"),
        ]
    names, values, formulas = zip(*rows, strict=True)
    return [
        Column("WHAT", names),
        Column("VALUE", values, right=True),
        Column("FORMULA", formulas, optional=True),
    ]


def _recovery(found: Recovery) -> str:
    return span(found.seconds) if found.seconds != float("inf") else "never"


def _origins(workload: Workload) -> list[str]:
    """Which figures were measured, given, assumed."""
    lines = []
    for origin in ("measured", "given", "assumed"):
        names = [name for name, figure in workload.figures.items() if figure.origin == origin]
        where = f" ({workload.measured}, {workload.checkpoints} checkpoints)" if origin == "measured" else ""
        if names:
            lines.append(f"{origin}{where}: {', '.join(f'{name}={workload.value(name):.6g}' for name in names)}")
    return ["", *lines]


def _interval_lines(plan: IntervalPlan) -> list[str]:
    suggestion = plan.suggestion
    found = suggestion.bounds
    lines = [f"interval {span(suggestion.interval_seconds)}: {_BECAUSE[suggestion.because]}"]
    told = (
        ("at least", found.least, "duration + pause"),
        ("at least", found.overhead, "lost / overhead"),
        ("at best", found.young, "sqrt(2 x lost x time between failures)"),
        ("at most", found.recovery, "for the recovery time"),
    )
    lines += [f"  {word} {_bound(seconds)}  ({formula})" for word, seconds, formula in told if seconds is not None]
    return lines + [f"cannot be kept: {conflict}" for conflict in suggestion.conflicts]


def _bound(seconds: float) -> str:
    if seconds <= 0:
        return "none"
    return "any" if seconds == float("inf") else span(seconds)


def _cost_document(plan: CostPlan) -> dict[str, Any]:
    workload = plan.workload
    return {
        "measured": workload.measured,
        "checkpoints": workload.checkpoints,
        "figures": {
            name: {"value": figure.value, "origin": figure.origin} for name, figure in workload.figures.items()
        },
        "full_bytes": plan.full_bytes,
        "uploaded_bytes": plan.uploaded_bytes,
        "upload_seconds": plan.upload_seconds,
        "duration_seconds": plan.duration_seconds,
        "lost_seconds": plan.lost_seconds,
        "interval_seconds": plan.interval_seconds,
        "throughput_share": plan.throughput_share,
        "restore_seconds": plan.restore_seconds,
        "recovery_mean_seconds": _finite(plan.recovery_mean),
        "recovery_worst_seconds": _finite(plan.recovery_worst),
        "replayed_records_worst": None if plan.recovery_worst is None else plan.recovery_worst.replayed_records,
    }


def _finite(found: Recovery | None) -> float | None:
    """None where the rates are not known, or the pipeline never catches up."""
    return None if found is None or found.seconds == float("inf") else found.seconds


def _interval_document(plan: IntervalPlan) -> dict[str, Any]:
    found = plan.suggestion
    bounds = found.bounds
    return {
        "interval_seconds": found.interval_seconds,
        "because": found.because,
        "bounds": {
            "least": bounds.least,
            "overhead": bounds.overhead,
            "young": bounds.young,
            "recovery": None if bounds.recovery == float("inf") else bounds.recovery,
        },
        "conflicts": list(found.conflicts),
        "cost": _cost_document(plan.cost),
    }
