"""What can go wrong with one storage call, and how often."""

from __future__ import annotations

import random
from enum import StrEnum


class Crash(BaseException):
    """The process was killed. No `Exception`, so that nothing of ours may catch it."""


class Fault(StrEnum):
    """One thing that goes wrong. What a backend could report of it, it reports."""

    LOST_REQUEST = "lost-request"  # it did not happen, and nobody knows
    LOST_REPLY = "lost-reply"  # it happened, and nobody knows
    DUPLICATE = "duplicate"  # it happens again, now or much later
    LATE = "late"  # nobody knows, and it happens minutes or days later
    REORDERED = "reordered"  # nobody knows, and it happens after the next write of the same process
    CONFLICT = "409"  # refused by the store, though nothing is wrong with it
    PRECONDITION = "412-after-success"  # it happened, and the answer is that of its own repetition
    SERVER_ERROR = "5xx"  # it may have happened
    THROTTLED = "429"  # it did not happen, and the caller is told
    SHORT_BODY = "short-body"  # the end of what was read is missing
    BIT_FLIP = "bit-flip"  # one bit of what was read is wrong
    TORN_WRITE = "torn-write"  # the process was killed while it wrote a file
    SYNC_ERROR = "fsync-error"  # the disk may lose what was linked
    CLOCK_JUMP = "clock-jump"  # of the host or of the store, by up to years
    STOPPED = "stopped"  # the process stands still for days, past the floor, and goes on
    KILLED = "killed"  # just before or just after the effect


_ANY = {Fault.CLOCK_JUMP: 4, Fault.STOPPED: 0.7, Fault.KILLED: 2}
_READ = {Fault.LOST_REQUEST: 5, Fault.LOST_REPLY: 5, Fault.SERVER_ERROR: 5, Fault.THROTTLED: 5} | _ANY
_WRITE = _READ | {Fault.DUPLICATE: 20, Fault.LATE: 10, Fault.REORDERED: 10}
_WEIGHTS: dict[str, dict[Fault, float]] = {
    "stat": _READ,
    "list": _READ,
    "open": _READ | {Fault.SHORT_BODY: 8, Fault.BIT_FLIP: 8, Fault.SYNC_ERROR: 1},
    "create": _WRITE | {Fault.CONFLICT: 8, Fault.PRECONDITION: 12, Fault.TORN_WRITE: 8, Fault.SYNC_ERROR: 10},
    "swap": _WRITE | {Fault.CONFLICT: 12, Fault.PRECONDITION: 20, Fault.TORN_WRITE: 8, Fault.SYNC_ERROR: 2},
    "delete": _WRITE,
}
_TABLES = {verb: (list(weights), list(weights.values())) for verb, weights in _WEIGHTS.items()}


def draw(rng: random.Random, rate: float, verb: str) -> Fault | None:
    """What goes wrong with this call: mostly nothing."""
    if rng.random() >= rate:
        return None
    faults, weights = _TABLES[verb]
    return rng.choices(faults, weights)[0]
