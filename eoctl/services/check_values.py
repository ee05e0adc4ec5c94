"""What `pipeline check` answers (see values.py): limits, and how a pipeline grows."""

from __future__ import annotations

from msgspec import Struct


class Finding(Struct, frozen=True, kw_only=True):
    """A limit that is passed, or will be.

    `limit` is named as in Python: `max_age_seconds` and so on. `value`: what was measured; None where there is nothing
    to measure, as the age of a checkpoint that does not exist. `operator`: which grows most, or, as long as growth is
    not known, is the largest; "" where operators have no part in it. `days`: of a warning, until the limit is met.
    """

    pipeline: str
    limit: str
    threshold: float
    value: float | None
    operator: str
    days: float | None = None


class OperatorGrowth(Struct, frozen=True, kw_only=True):
    """What one operator takes in the newest checkpoint, and how much that grows; None where it is not known."""

    operator: str
    full_bytes: int
    growth_bytes_per_day: int | None


class PipelineCheck(Struct, frozen=True, kw_only=True):
    """How a pipeline's checkpoints fare, against limits.

    Of the newest complete checkpoint, `newest`: its age, size and duration. Growth is between `compared_with` and that
    one, which lie `compared_seconds` apart; within less than a day it counts as the growth of that day. `operators`:
    those that grow most first. `duration_growth_seconds_per_day`: the slope of a line through the durations of
    `trend_checkpoints` in the window. `duration_limit_seconds`: the limit, or the timeout that the checkpoint
    recorded; the `..._limit_days` say when it is met if it goes on so. None: not known, or never; `notes` says why.
    """

    pipeline: str
    ok: bool
    findings: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    limits: dict[str, float]
    newest: str
    newest_at: str
    age_seconds: int | None
    full_bytes: int | None
    duration_seconds: float | None
    compared_with: str
    compared_seconds: int | None
    growth_bytes_per_day: int | None
    growth_ratio_per_day: float | None
    bytes_limit_days: float | None
    duration_growth_seconds_per_day: float | None
    trend_checkpoints: int
    duration_limit_seconds: float | None
    duration_limit_days: float | None
    operators: tuple[OperatorGrowth, ...]
    notes: tuple[str, ...] = ()
