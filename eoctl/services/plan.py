"""Plans: the planner's arithmetic on what checkpoints in the store measured, or on figures that are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

from msgspec import Struct

from eoctl.planner.costs import Checkpoint, throughput_share
from eoctl.planner.interval import Suggestion, bounds, suggest
from eoctl.planner.recovery import Recovery, longest_age, mean_age, recovery, worst_age
from eoctl.services.resolve import Resolved
from formats.errors import UsageError
from formats.head import HeadEntry
from formats.manifest import Manifest
from storage.store import Store

MOST_CHECKPOINTS = 20  # the newest so many are measured
USUAL_SECONDS = 60.0
_MICRO = 1_000_000


class Figure(Struct, frozen=True):
    """A figure and where it is from: `given`, `measured`, or `assumed`."""

    value: float
    origin: str


class Workload(Struct, frozen=True, kw_only=True):
    """Everything a plan goes by, each with its origin.

    Keys of `figures` are the fields of `Checkpoint`, and `interval_seconds`, `min_pause_seconds`, `restart_seconds`,
    `restore_bytes_per_second`, `records_per_second`, `capacity_per_second`; rates are absent where they are not known.
    `measured`: the snapshot whose figures these are, and how many checkpoints were looked at.
    """

    figures: dict[str, Figure]
    measured: str = ""
    checkpoints: int = 0

    def value(self, name: str) -> float:
        return self.figures[name].value

    def known(self, name: str) -> float | None:
        found = self.figures.get(name)
        return None if found is None else found.value


class CostPlan(Struct, frozen=True, kw_only=True):
    """What checkpoints at one interval cost. `recovery_*`: None where the rates of records are not known."""

    workload: Workload
    full_bytes: int
    uploaded_bytes: int
    upload_seconds: float
    duration_seconds: float
    lost_seconds: float
    interval_seconds: float
    throughput_share: float
    restore_seconds: float
    recovery_mean: Recovery | None
    recovery_worst: Recovery | None


class IntervalPlan(Struct, frozen=True, kw_only=True):
    """The suggested interval and what it costs."""

    suggestion: Suggestion
    cost: CostPlan


def measure(store: Store, resolved: Resolved) -> Workload:
    """The figures of this checkpoint and of those before it; medians, where one alone says little."""
    manifest = store.manifest(resolved.head, resolved.entry)
    entries = [entry for entry in resolved.head.live if entry.kind == "checkpoint" and entry.seq <= resolved.entry.seq]
    entries = entries[-MOST_CHECKPOINTS:] or [resolved.entry]
    found = {
        "state_bytes": float(resolved.entry.full_bytes),
        "added_bytes": _added(entries),
        "metadata_bytes": float(resolved.entry.manifest_bytes),
        **_times(manifest, entries),
    }
    spans = _spans(entries)
    if spans:
        found["interval_seconds"] = median(spans)
    return Workload(
        figures={name: Figure(value, "measured") for name, value in found.items()},
        measured=resolved.address,
        checkpoints=len(entries),
    )


def _added(entries: Sequence[HeadEntry]) -> float:
    """Of increments: the first checkpoint of all adds everything and says nothing about the next."""
    increments = [entry.added_bytes for entry in entries if entry.base]
    return float(median(increments or [entry.added_bytes for entry in entries]))


def _times(manifest: Manifest, entries: Sequence[HeadEntry]) -> dict[str, float]:
    metrics = manifest.metrics
    durations = [entry.duration_micros / _MICRO for entry in entries if entry.duration_micros]
    if not durations:
        return {}
    found = {
        "propagation_seconds": metrics.alignment_micros / _MICRO,
        "snapshot_seconds": metrics.snapshot_micros / _MICRO,
    }
    rates = [
        (entry.added_bytes + entry.manifest_bytes) / (entry.duration_micros / _MICRO)
        for entry in entries
        if entry.duration_micros
    ]
    if metrics.upload_micros:
        rates = [(metrics.added_bytes + entries[-1].manifest_bytes) / (metrics.upload_micros / _MICRO)]
    found["upload_bytes_per_second"] = median(rates)
    return found


def _spans(entries: Sequence[HeadEntry]) -> list[float]:
    times = [datetime.fromisoformat(entry.created_at).timestamp() for entry in entries]
    return [later - earlier for earlier, later in pairwise(times) if later > earlier]


def workload(measured: Workload | None, given: Mapping[str, float | None]) -> Workload:
    """What is given goes before what was measured, and that before what is assumed.

    Raises: UsageError where the size of the state, or the rate of uploads, is known from neither.
    """
    figures: dict[str, Figure] = dict(measured.figures) if measured else {}
    figures |= {name: Figure(value, "given") for name, value in given.items() if value is not None}
    for name, option in (("state_bytes", "--state-bytes"), ("upload_bytes_per_second", "--bandwidth")):
        if name not in figures:
            raise UsageError(f"{name} is not known", hint=f"give it by {option}, or name a snapshot that measured it")
    assumed = {
        "added_bytes": figures["state_bytes"].value,
        "offsets_bytes": 0.0,
        "metadata_bytes": 0.0,
        "propagation_seconds": 0.0,
        "snapshot_seconds": 0.0,
        "upload_share": 0.0,
        "interval_seconds": USUAL_SECONDS,
        "min_pause_seconds": 0.0,
        "restart_seconds": 0.0,
        "restore_bytes_per_second": figures["upload_bytes_per_second"].value,
    }
    for name, value in assumed.items():
        figures.setdefault(name, Figure(value, "assumed"))
    return Workload(
        figures=figures,
        measured=measured.measured if measured else "",
        checkpoints=measured.checkpoints if measured else 0,
    )


def plan_cost(found: Workload) -> CostPlan:
    """Raises: UsageError."""
    return _cost(found, _checkpoint(found), found.value("interval_seconds"))


def plan_interval(
    found: Workload,
    *,
    max_overhead: float | None = None,
    failure_seconds: float | None = None,
    recovery_seconds: float | None = None,
) -> IntervalPlan:
    """`recovery_seconds` is what the worst recovery may take. Raises: UsageError."""
    checkpoint = _checkpoint(found)
    age = None
    if recovery_seconds is not None:
        rates = _rates(found)
        if rates is None:
            raise UsageError(
                "a recovery time needs the rates of records",
                hint="give --input-rate and --capacity, in records a second",
            )
        age = longest_age(recovery_seconds, **_down(found, checkpoint), **rates)
    limits = bounds(
        duration_seconds=checkpoint.duration_seconds,
        min_pause_seconds=found.value("min_pause_seconds"),
        lost_seconds=checkpoint.lost_seconds,
        max_overhead=max_overhead,
        failure_seconds=failure_seconds,
        longest_age_seconds=age,
    )
    suggestion = suggest(limits, found.value("interval_seconds"))
    return IntervalPlan(suggestion=suggestion, cost=_cost(found, checkpoint, suggestion.interval_seconds))


def _checkpoint(found: Workload) -> Checkpoint:
    def whole(name: str) -> int:
        return round(found.value(name))

    return Checkpoint(
        state_bytes=whole("state_bytes"),
        added_bytes=whole("added_bytes"),
        offsets_bytes=whole("offsets_bytes"),
        metadata_bytes=whole("metadata_bytes"),
        upload_bytes_per_second=found.value("upload_bytes_per_second"),
        propagation_seconds=found.value("propagation_seconds"),
        snapshot_seconds=found.value("snapshot_seconds"),
        upload_share=found.value("upload_share"),
    )


def _cost(found: Workload, checkpoint: Checkpoint, interval: float) -> CostPlan:
    down, rates = _down(found, checkpoint), _rates(found)

    def at(age: float) -> Recovery | None:
        return None if rates is None else recovery(age_seconds=age, **down, **rates)

    duration = checkpoint.duration_seconds
    return CostPlan(
        workload=found,
        full_bytes=checkpoint.full_bytes,
        uploaded_bytes=checkpoint.uploaded_bytes,
        upload_seconds=checkpoint.upload_seconds,
        duration_seconds=duration,
        lost_seconds=checkpoint.lost_seconds,
        interval_seconds=interval,
        throughput_share=throughput_share(interval, checkpoint.lost_seconds),
        restore_seconds=down["restore_seconds"],
        recovery_mean=at(mean_age(interval, duration)),
        recovery_worst=at(worst_age(interval, duration)),
    )


def _down(found: Workload, checkpoint: Checkpoint) -> dict[str, Any]:
    rate = found.value("restore_bytes_per_second")
    if rate <= 0:
        raise UsageError("nothing can be restored at 0 bytes in a second", hint="give --restore-bandwidth")
    return {"restart_seconds": found.value("restart_seconds"), "restore_seconds": checkpoint.full_bytes / rate}


def _rates(found: Workload) -> dict[str, float] | None:
    records, capacity = found.known("records_per_second"), found.known("capacity_per_second")
    if records is None or capacity is None:
        return None
    return {"records_per_second": records, "capacity_per_second": capacity}
