"""The coordinator of checkpoints: a pure machine, `(state, event, now) -> (state, commands)`.

A checkpoint is triggered at the sources, acknowledged by every subtask, published, complete; or it is aborted, by the
timeout, a refusal or a failed publication, and then it has changed nothing. Rules kept here and nowhere else:

- the interval, the pause after a checkpoint ended, and how many may be under way;
- every acknowledgement is needed; what comes for a checkpoint that is over is dropped;
- one publication at a time, and in order: a checkpoint that is complete makes older ones under way pointless, so they
  are aborted, which is no failure;
- a publication that lasts beyond the timeout is *asked* to stop: it may have been committed already, so only its own
  answer ends the checkpoint;
- more consecutive failures than tolerated fail the pipeline.

Times are seconds of one clock that never goes back. Left to others: how things are done, and in which order messages
arrive.
"""

from __future__ import annotations

from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

Ref: TypeAlias = tuple[str, int]  # a subtask: uid of its node, index


class Rules(Struct, frozen=True, kw_only=True):
    """When and how checkpoints are taken. Flink's names and, but for the interval, defaults."""

    interval_seconds: float = 10.0
    timeout_seconds: float = 600.0
    min_pause_seconds: float = 0.0
    max_concurrent: int = 1
    tolerable_failures: int = 0  # consecutive ones that do not fail the pipeline


class Pending(Struct, frozen=True):
    """A checkpoint under way."""

    checkpoint: int
    triggered_at: float
    missing: frozenset[Ref]
    publishing: bool = False
    stopping: bool = False  # the publication was asked to stop


class State(Struct, frozen=True, kw_only=True):
    """`next_at`: when the next checkpoint is due. `wanted`: one is due whatever the interval says."""

    subtasks: frozenset[Ref]
    next_id: int
    next_at: float
    ended_at: float | None = None
    pending: tuple[Pending, ...] = ()
    failures: int = 0
    complete: int = 0
    wanted: bool = False
    failed: bool = False


class Tick(Struct, frozen=True):
    """Time has passed."""


class Wanted(Struct, frozen=True):
    """A checkpoint is to be taken as soon as none is under way: at the end, for a savepoint."""


class Acknowledged(Struct, frozen=True):
    """A subtask's snapshot is whole and durable."""

    checkpoint: int
    subtask: Ref


class Declined(Struct, frozen=True):
    """A subtask could not take its snapshot."""

    checkpoint: int
    subtask: Ref
    reason: str


class Published(Struct, frozen=True):
    """HEAD names the checkpoint."""

    checkpoint: int


class NotPublished(Struct, frozen=True):
    """HEAD surely does not name the checkpoint, and will not."""

    checkpoint: int
    reason: str


Event: TypeAlias = Tick | Wanted | Acknowledged | Declined | Published | NotPublished


class Trigger(Struct, frozen=True):
    """Put barriers in line at the sources."""

    checkpoint: int


class Publish(Struct, frozen=True):
    """Everything is there: commit it to the store."""

    checkpoint: int


class StopPublishing(Struct, frozen=True):
    """If it is not too late."""

    checkpoint: int


class Complete(Struct, frozen=True):
    """Sinks may commit."""

    checkpoint: int


class Abort(Struct, frozen=True):
    """Nothing comes of the checkpoint; clean up."""

    checkpoint: int
    reason: str
    failure: bool = True


class Fail(Struct, frozen=True):
    """The pipeline fails."""

    reason: str


Command: TypeAlias = Trigger | Publish | StopPublishing | Complete | Abort | Fail


def begin(subtasks: frozenset[Ref], last_id: int, now: float, rules: Rules) -> State:
    """Nothing is under way; the first checkpoint is due an interval from now."""
    return State(subtasks=subtasks, next_id=last_id + 1, next_at=now + rules.interval_seconds)


def decide(rules: Rules, state: State, event: Event, now: float) -> tuple[State, tuple[Command, ...]]:
    """What follows from the event."""
    if state.failed:
        return state, ()
    commands: list[Command] = []
    match event:
        case Tick():
            pass
        case Wanted():
            state = replace(state, wanted=True)
        case Acknowledged(checkpoint, subtask):
            state = _acknowledge(state, checkpoint, subtask)
        case Declined(checkpoint, subtask, reason):
            one = _find(state, checkpoint)
            if one is not None and not one.publishing:
                state = _abort(state, one, f"{subtask[0]}/{subtask[1]}: {reason}", now, commands)
        case Published(checkpoint):
            state = _publish_done(state, checkpoint, now, commands)
        case NotPublished(checkpoint, reason):
            one = _find(state, checkpoint)
            if one is not None:
                why = f"not published within {rules.timeout_seconds:g} s" if one.stopping else reason
                state = _abort(state, one, why, now, commands)
        case _:
            assert_never(event)
    state = _time_out(rules, state, now, commands)
    if state.failures > rules.tolerable_failures:
        reason = next(command.reason for command in reversed(commands) if isinstance(command, Abort))
        commands.append(Fail(f"{state.failures} checkpoints failed one after the other, the last one: {reason}"))
        return replace(state, failed=True), tuple(commands)
    state = _publish_next(state, now, commands)
    state = _trigger_next(rules, state, now, commands)
    return state, tuple(commands)


def wake_at(rules: Rules, state: State) -> float:
    """When a `Tick` will have a consequence at the earliest."""
    ends = [one.triggered_at + rules.timeout_seconds for one in state.pending if not one.stopping]
    if len(state.pending) < rules.max_concurrent:
        ends.append(_due(rules, state))
    return min(ends, default=state.next_at)


def _due(rules: Rules, state: State) -> float:
    after = 0.0 if state.ended_at is None else state.ended_at + rules.min_pause_seconds
    return max(0.0 if state.wanted else state.next_at, after)


def _find(state: State, checkpoint: int) -> Pending | None:
    return next((one for one in state.pending if one.checkpoint == checkpoint), None)


def _put(state: State, changed: Pending) -> State:
    pending = tuple(changed if one.checkpoint == changed.checkpoint else one for one in state.pending)
    return replace(state, pending=pending)


def _acknowledge(state: State, checkpoint: int, subtask: Ref) -> State:
    one = _find(state, checkpoint)
    return state if one is None else _put(state, replace(one, missing=one.missing - {subtask}))


def _abort(
    state: State, one: Pending, reason: str, now: float, commands: list[Command], *, failure: bool = True
) -> State:
    commands.append(Abort(one.checkpoint, reason, failure))
    pending = tuple(other for other in state.pending if other is not one)
    return replace(state, pending=pending, ended_at=now, failures=state.failures + failure)


def _publish_done(state: State, checkpoint: int, now: float, commands: list[Command]) -> State:
    commands.append(Complete(checkpoint))
    pending = tuple(one for one in state.pending if one.checkpoint != checkpoint)
    return replace(state, pending=pending, ended_at=now, failures=0, complete=checkpoint)


def _time_out(rules: Rules, state: State, now: float, commands: list[Command]) -> State:
    for one in state.pending:
        if now < one.triggered_at + rules.timeout_seconds or one.stopping:
            continue
        if one.publishing:
            commands.append(StopPublishing(one.checkpoint))
            state = _put(state, replace(one, stopping=True))
        else:
            missing = ", ".join(f"{uid}/{index}" for uid, index in sorted(one.missing)[:3])
            reason = f"not acknowledged within {rules.timeout_seconds:g} s: {missing or 'waits for an older one'}"
            state = _abort(state, one, reason, now, commands)
    return state


def _publish_next(state: State, now: float, commands: list[Command]) -> State:
    if any(one.publishing for one in state.pending):
        return state
    ready = [one for one in state.pending if not one.missing]
    if not ready:
        return state
    newest = ready[-1]
    for one in state.pending:
        if one.checkpoint < newest.checkpoint:
            state = _abort(state, one, f"checkpoint {newest.checkpoint} overtook it", now, commands, failure=False)
    commands.append(Publish(newest.checkpoint))
    return _put(state, replace(newest, publishing=True))


def _trigger_next(rules: Rules, state: State, now: float, commands: list[Command]) -> State:
    limit = 1 if state.wanted else rules.max_concurrent
    if len(state.pending) >= limit or now < _due(rules, state):
        return state
    checkpoint = state.next_id
    commands.append(Trigger(checkpoint))
    return replace(
        state,
        next_id=checkpoint + 1,
        next_at=now + rules.interval_seconds,
        pending=(*state.pending, Pending(checkpoint, now, state.subtasks)),
        wanted=False,
    )
