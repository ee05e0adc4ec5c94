"""Whether a pipeline's checkpoints are fresh, small and quick enough, and for how long they will be.

Age, size and duration come from HEAD, what each operator takes from two manifests; no blob is read, nothing changed.

Growth lies between the newest checkpoint and the one nearest to a window before it. What grew within less than a day
counts as the growth of a day: a rate is never more than what was seen. The trend of the duration is a line through
the durations of the window (least squares), told only of enough checkpoints, and believed only where its slope is
clear of their scatter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from math import sqrt
from statistics import fmean

from msgspec import Struct

from eoctl.services.check_values import Finding, OperatorGrowth, PipelineCheck
from eoctl.services.roots import distinct
from eoctl.services.stats import list_pipelines
from formats.errors import CorruptError, EoctlError, SnapshotNotFoundError, UsageError
from formats.head import Head, HeadEntry, roots
from formats.ids import PipelineId
from formats.manifest import Manifest, files_of
from storage.store import Store

DAY = 86_400
WINDOW_SECONDS = 7 * DAY
HORIZON_SECONDS = 30 * DAY
LEAST_POINTS = 4
LEAST_SPAN_DAYS = 0.5
CLEAR_SLOPE = 2  # standard errors
TIMEOUT = "timeout_seconds"
_MICRO = 1_000_000


class Limits(Struct, frozen=True, kw_only=True):
    """What is too much; None: no such limit. A value equal to its limit is not over it.

    `window_seconds`: how far back growth and trend are measured. `horizon_seconds`: a limit that will be met within it
    is a warning. Raises: UsageError.
    """

    max_age_seconds: int | None = None
    max_bytes: int | None = None
    max_growth_bytes_per_day: int | None = None
    max_growth_ratio_per_day: float | None = None
    max_duration_seconds: float | None = None
    window_seconds: int = WINDOW_SECONDS
    horizon_seconds: int = HORIZON_SECONDS

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{name} cannot be {value}", hint="a number from 0")
        if self.window_seconds < DAY:
            message = f"the window is less than a day: {self.window_seconds} s"
            raise UsageError(message, hint="growth and trend are told for a day; 7 days are usual")

    def given(self) -> dict[str, float]:
        """The limits by name, without those that are none."""
        named = {name: getattr(self, name) for name in self.__struct_fields__ if name.startswith("max_")}
        return {name: value for name, value in named.items() if value is not None}


class Trend(Struct, frozen=True):
    """A line through durations: seconds now, and what a day adds. `clear`: it rises, beyond their scatter."""

    now_seconds: float
    seconds_per_day: float
    clear: bool


class Facts(Struct, frozen=True, kw_only=True):
    """What a check goes by. `earlier`: what the newest is compared with; `before`: its operators, if they are known."""

    newest: HeadEntry | None = None
    earlier: HeadEntry | None = None
    history: tuple[HeadEntry, ...] = ()
    timeout_seconds: float | None = None
    operators: Mapping[str, int] = {}
    before: Mapping[str, int] | None = None
    names: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()


def check_pipelines(
    store: Store, names: Iterable[PipelineId] | None, limits: Limits
) -> tuple[tuple[PipelineCheck, ...], dict[str, EoctlError]]:
    """These pipelines, or all that were not destroyed; and why some of them could not be looked at.

    Raises: SnapshotNotFoundError where there is no pipeline at all.
    """
    if names is None:
        names = [PipelineId(row.pipeline) for row in list_pipelines(store) if row.state != "destroyed"]
        if not names:
            message = f"the store has no pipeline: {store.place.url}"
            raise SnapshotNotFoundError(message, hint="eoctl checkpoint create DIR -p PIPELINE makes the first")
    checks: list[PipelineCheck] = []
    failed: dict[str, EoctlError] = {}
    for name in names:
        try:
            checks.append(check_pipeline(store, name, limits))
        except EoctlError as error:
            failed[name.name] = error
    return tuple(checks), failed


def check_pipeline(store: Store, pipeline: PipelineId, limits: Limits) -> PipelineCheck:
    """Raises: SnapshotNotFoundError; CorruptError, BlobGoneError where HEAD or the newest manifest is bad."""
    head = store.head(pipeline).head
    if head.state == "destroyed":
        raise SnapshotNotFoundError(f"pipeline {pipeline} was destroyed", hint="eoctl pipeline list")
    return judge(pipeline.name, _gather(store, head, limits), limits, store.ambient.now())


def _gather(store: Store, head: Head, limits: Limits) -> Facts:
    """Entries in the trash or held tell of the past as well as live ones."""
    newest = next((entry for entry in reversed(head.live) if entry.kind == "checkpoint"), None)
    if newest is None:
        return Facts(notes=("there is no complete checkpoint",))
    history = tuple(entry for entry in distinct(roots(head)).values() if entry.kind == "checkpoint")
    earlier = nearest(history, newest, limits.window_seconds)
    manifest = store.manifest(head, newest, thorough=False)
    before: dict[str, int] | None = None
    notes: list[str] = []
    if earlier is not None:
        try:
            before = operator_bytes(store.manifest(head, earlier, thorough=False))
        except CorruptError as error:
            notes.append(f"how much each operator grows is not known: {error.message}")
    return Facts(
        newest=newest,
        earlier=earlier,
        history=history,
        timeout_seconds=manifest.metrics.timeout_micros / _MICRO or None,
        operators=operator_bytes(manifest),
        before=before,
        names=_names(manifest),
        notes=tuple(notes),
    )


def nearest(history: Iterable[HeadEntry], newest: HeadEntry, window_seconds: int) -> HeadEntry | None:
    """The checkpoint nearest to the window before the newest; None where none is older."""
    end = _seconds(newest.created_at)
    older = [entry for entry in history if entry.created_at < newest.created_at]
    return min(older, key=lambda entry: abs(end - window_seconds - _seconds(entry.created_at)), default=None)


def operator_bytes(manifest: Manifest) -> dict[str, int]:
    """Operator id -> bytes of its files."""
    found = dict.fromkeys((operator.id for operator in manifest.operators), 0)
    for operator, _, file in files_of(manifest):
        found[operator.id] += file.bytes
    return found


def _names(manifest: Manifest) -> dict[str, str]:
    """Operator id -> its uid, where it has one of its own."""
    uids = Counter(operator.uid for operator in manifest.operators)
    return {operator.id: operator.uid for operator in manifest.operators if operator.uid and uids[operator.uid] == 1}


def judge(pipeline: str, facts: Facts, limits: Limits, now: str) -> PipelineCheck:
    """The figures, and which limits they pass or are about to pass."""
    newest, earlier = facts.newest, facts.earlier
    notes = list(facts.notes)
    apart = growth = ratio = None
    days = 1.0
    if newest is not None and earlier is not None:
        apart = int(_seconds(newest.created_at) - _seconds(earlier.created_at))
        days = max(apart, DAY) / DAY
        growth = (newest.full_bytes - earlier.full_bytes) / days
        ratio = growth / earlier.full_bytes if earlier.full_bytes else None
    rows = _operators(facts, days)
    trend, points = find_trend(facts.history, newest, limits.window_seconds)
    age = None if newest is None else int(_seconds(now) - _seconds(newest.created_at))
    duration = None if newest is None else newest.duration_micros / _MICRO or None
    limit = facts.timeout_seconds if limits.max_duration_seconds is None else limits.max_duration_seconds
    measured: dict[str, float | None] = {
        "max_age_seconds": age,
        "max_bytes": None if newest is None else newest.full_bytes,
        "max_growth_bytes_per_day": None if growth is None else round(growth),
        "max_growth_ratio_per_day": ratio,
        "max_duration_seconds": duration,
    }
    findings = _findings(pipeline, limits, measured, _culprit(rows))
    ahead = {
        "max_bytes": _days_left(limits.max_bytes, measured["max_bytes"], growth if (apart or 0) >= DAY else None),
        "max_duration_seconds": _trend_left(limit, duration, trend),
    }
    notes += _notes(facts, age, apart, trend, points)
    return PipelineCheck(
        pipeline=pipeline,
        ok=not findings,
        findings=findings,
        warnings=_warnings(pipeline, limits, limit, measured, ahead, findings, _culprit(rows)),
        limits=limits.given(),
        newest=newest.label if newest else "",
        newest_at=newest.created_at if newest else "",
        age_seconds=age,
        full_bytes=newest.full_bytes if newest else None,
        duration_seconds=duration,
        compared_with=earlier.label if earlier else "",
        compared_seconds=apart,
        growth_bytes_per_day=None if growth is None else round(growth),
        growth_ratio_per_day=ratio,
        bytes_limit_days=ahead["max_bytes"],
        duration_growth_seconds_per_day=None if trend is None else trend.seconds_per_day,
        trend_checkpoints=points,
        duration_limit_seconds=limit,
        duration_limit_days=ahead["max_duration_seconds"],
        operators=rows,
        notes=tuple(notes),
    )


def _operators(facts: Facts, days: float) -> tuple[OperatorGrowth, ...]:
    """Those that grow most first; one that is gone has shrunk to nothing."""
    before = facts.before
    ids = dict.fromkeys((*facts.operators, *(before or ())))
    rows = []
    for number in ids:
        size = facts.operators.get(number, 0)
        growth = None if before is None else round((size - before.get(number, 0)) / days)
        name = facts.names.get(number, number)
        rows.append(OperatorGrowth(operator=name, full_bytes=size, growth_bytes_per_day=growth))
    return tuple(sorted(rows, key=lambda row: (-(row.growth_bytes_per_day or 0), -row.full_bytes, row.operator)))


def _culprit(rows: Sequence[OperatorGrowth]) -> str:
    """Which operator grows most; the largest where none is known to grow."""
    if rows and (rows[0].growth_bytes_per_day or 0) > 0:
        return rows[0].operator
    largest = max(rows, key=lambda row: row.full_bytes, default=None)
    return largest.operator if largest is not None and largest.full_bytes else ""


def find_trend(history: Iterable[HeadEntry], newest: HeadEntry | None, window_seconds: int) -> tuple[Trend | None, int]:
    """The line through the durations in the window before the newest checkpoint, and how many they are."""
    if newest is None:
        return None, 0
    end = _seconds(newest.created_at)
    points = [
        ((_seconds(entry.created_at) - end) / DAY, entry.duration_micros / _MICRO)
        for entry in history
        if entry.duration_micros and 0 <= end - _seconds(entry.created_at) <= window_seconds
    ]
    if len(points) < LEAST_POINTS or min(day for day, _ in points) > -LEAST_SPAN_DAYS:
        return None, len(points)
    day_mean, mean = fmean(day for day, _ in points), fmean(seconds for _, seconds in points)
    spread = sum((day - day_mean) ** 2 for day, _ in points)
    slope = sum((day - day_mean) * (seconds - mean) for day, seconds in points) / spread
    left = sum((seconds - mean - slope * (day - day_mean)) ** 2 for day, seconds in points)
    error = sqrt(left / (len(points) - 2) / spread)
    clear = slope > CLEAR_SLOPE * error and slope > 0
    return Trend(mean - slope * day_mean, slope, clear), len(points)


def _trend_left(limit: float | None, duration: float | None, trend: Trend | None) -> float | None:
    if limit is not None and duration is not None and duration < limit and trend is not None:
        return _days_left(limit, trend.now_seconds, trend.seconds_per_day if trend.clear else None)
    return _days_left(limit, duration, None)


def _days_left(limit: float | None, value: float | None, growth_per_day: float | None) -> float | None:
    """Until the value meets the limit; None where there is none, or it does not grow."""
    if limit is None or value is None:
        return None
    if value >= limit:
        return 0.0
    return (limit - value) / growth_per_day if growth_per_day is not None and growth_per_day > 0 else None


def _findings(
    pipeline: str, limits: Limits, measured: Mapping[str, float | None], operator: str
) -> tuple[Finding, ...]:
    found = []
    for limit, threshold in limits.given().items():
        value = measured[limit]
        is_age = limit == "max_age_seconds"
        if (value is None and is_age) or (value is not None and value > threshold):
            named = "" if is_age else operator
            found.append(Finding(pipeline=pipeline, limit=limit, threshold=threshold, value=value, operator=named))
    return tuple(found)


def _warnings(
    pipeline: str,
    limits: Limits,
    duration_limit: float | None,
    measured: Mapping[str, float | None],
    ahead: Mapping[str, float | None],
    findings: Iterable[Finding],
    operator: str,
) -> tuple[Finding, ...]:
    """Limits that are kept now and will not be within the horizon."""
    passed = {finding.limit for finding in findings}
    thresholds = {"max_bytes": limits.max_bytes, "max_duration_seconds": duration_limit}
    found = []
    for limit, days in ahead.items():
        threshold = thresholds[limit]
        if threshold is not None and days is not None and days * DAY <= limits.horizon_seconds and limit not in passed:
            name = TIMEOUT if limit == "max_duration_seconds" and limits.max_duration_seconds is None else limit
            found.append(
                Finding(
                    pipeline=pipeline,
                    limit=name,
                    threshold=threshold,
                    value=measured[limit],
                    operator=operator,
                    days=days,
                )
            )
    return tuple(found)


def _notes(facts: Facts, age: int | None, apart: int | None, trend: Trend | None, points: int) -> list[str]:
    """Why a figure is not known, or not to be trusted."""
    if facts.newest is None:
        return []
    notes = []
    if age is not None and age < 0:
        notes.append("the newest checkpoint is of the future: a clock is wrong, here or where it was taken")
    if apart is None:
        notes.append("growth is not known: there is no older checkpoint to compare with")
    elif apart < DAY:
        notes.append("growth is what was seen within less than a day: keep checkpoints of several days to know more")
    if not facts.newest.duration_micros:
        notes.append("the duration is not known: the checkpoint does not record it")
    elif trend is None:
        notes.append(
            f"the trend of the duration is not known: {points} of {LEAST_POINTS} checkpoints"
            if points < LEAST_POINTS
            else "the trend of the duration is not known: those of the window lie within half a day"
        )
    return notes


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
