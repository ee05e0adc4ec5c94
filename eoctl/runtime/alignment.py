"""Alignment: when a subtask takes its snapshot, and what it does with its inputs until every barrier is there.

One `Aligner` for each subtask, told of every barrier, with the time; it answers with what to do. It does no I/O and
looks at no clock. Chandy and Lamport's cut, in three forms:

- aligned: an input that has delivered the barrier is blocked; when all have, the snapshot is taken. Nothing is in
  flight, and a slow input holds up the others;
- unaligned: the snapshot is taken at the first barrier, which overtakes everything; what comes in without a barrier
  is processed *and* captured until its barrier comes;
- aligned with a timeout: begins aligned, and goes on unaligned if the barriers take longer than that, counted from the
  first barrier that reached a channel of ours.

At least once, nothing is blocked: the snapshot is taken at the last barrier, and records that came between the first
and the last one are in it and will come again.

A barrier of a newer checkpoint than the one under way says that this one was aborted: it is given up. Barriers of
checkpoints that are over are passed over. Source: Flink, `SingleCheckpointBarrierHandler`, `CheckpointBarrierTracker`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from msgspec import Struct


class Mode(StrEnum):
    """How barriers of a pipeline are aligned."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class Snapshot(Struct, frozen=True):
    """Take the snapshot now and send the barrier on; unaligned: it overtakes, and open inputs are captured."""

    checkpoint: int
    unaligned: bool


class Captured(Struct, frozen=True):
    """Every barrier is there: what was captured is complete, and the snapshot may be acknowledged."""

    checkpoint: int


class GivenUp(Struct, frozen=True):
    """The checkpoint is over for this subtask: drop what was captured for it."""

    checkpoint: int


Action: TypeAlias = Snapshot | Captured | GivenUp


class Aligner:
    """Of one subtask with the channels `0 .. channels - 1`, of which there is at least one.

    `timeout_seconds`: after how long an alignment goes on unaligned; 0: at once; None: never.
    """

    def __init__(self, channels: int, mode: Mode = Mode.EXACTLY_ONCE, timeout_seconds: float | None = None) -> None:
        self._channels = frozenset(range(channels))
        self._mode = mode
        self.timeout_seconds = timeout_seconds
        self._checkpoint = 0  # under way, or the newest that is over
        self._open = False
        self._taken = False  # the snapshot
        self._waiting: set[int] = set()  # channels whose barrier has not come
        self._announced: tuple[int, float] | None = (
            None  # checkpoint and time of the first barrier in a channel of ours
        )
        self._began = 0.0
        self.alignment_seconds = 0.0  # of the newest complete alignment

    @property
    def checkpoint(self) -> int | None:
        """What is under way."""
        return self._checkpoint if self._open else None

    def blocks(self, channel: int) -> bool:
        """Nothing may be taken from the channel now."""
        return self._open and not self._taken and self._mode is Mode.EXACTLY_ONCE and channel not in self._waiting

    def captures(self, channel: int) -> bool:
        """Records from the channel belong to the checkpoint under way, beside being processed."""
        return self._open and self._taken and channel in self._waiting

    def announced(self, checkpoint: int, now: float) -> None:
        """A barrier has reached a channel, behind other elements perhaps."""
        if checkpoint > self._checkpoint and (self._announced is None or self._announced[0] < checkpoint):
            self._announced = checkpoint, now

    def received(self, channel: int, checkpoint: int, now: float, *, unaligned: bool = False) -> list[Action]:
        """The barrier is the next element of the channel, and is taken out of it."""
        if checkpoint < self._checkpoint or (checkpoint == self._checkpoint and not self._open):
            return []
        actions: list[Action] = []
        if checkpoint > self._checkpoint:
            actions += self._give_up()
            self._begin(checkpoint, now)
        self._waiting.discard(channel)
        exactly = self._mode is Mode.EXACTLY_ONCE
        if exactly and not self._taken and (unaligned or self.timeout_seconds == 0):
            actions += self._go_unaligned()
        if not self._waiting:
            actions += self._complete(now)
        return actions

    def overdue(self, now: float) -> int | None:
        """The checkpoint whose alignment has lasted longer than the timeout; go on with `go_unaligned`."""
        if self.timeout_seconds is None or self._mode is not Mode.EXACTLY_ONCE:
            return None
        if self._announced is None or now < self._announced[1] + self.timeout_seconds:
            return None
        checkpoint = self._announced[0]
        if checkpoint < self._checkpoint or (checkpoint == self._checkpoint and (self._taken or not self._open)):
            return None
        return checkpoint

    def go_unaligned(self, checkpoint: int, now: float) -> list[Action]:
        """The alignment goes on unaligned. Barriers that wait in channels are to be taken out and told now."""
        actions: list[Action] = []
        if checkpoint > self._checkpoint:
            actions += self._give_up()
            self._begin(checkpoint, now)
        assert self._open, "a checkpoint that is over is not overdue"
        assert not self._taken, "nor is one that is unaligned"
        return actions + self._go_unaligned()

    def aborted(self, checkpoint: int) -> list[Action]:
        """The coordinator gave the checkpoint up; its barriers, and older ones, mean nothing any more."""
        if checkpoint < self._checkpoint or (checkpoint == self._checkpoint and not self._open):
            return []
        actions = self._give_up()
        self._checkpoint, self._open = checkpoint, False
        return actions

    def _begin(self, checkpoint: int, now: float) -> None:
        self._checkpoint, self._open, self._taken = checkpoint, True, False
        self._waiting = set(self._channels)
        announced = self._announced
        self._began = announced[1] if announced is not None and announced[0] == checkpoint else now

    def _go_unaligned(self) -> list[Action]:
        self._taken = True
        return [Snapshot(self._checkpoint, unaligned=True)]

    def _complete(self, now: float) -> list[Action]:
        self.alignment_seconds = now - self._began
        self._open = False
        done = Captured(self._checkpoint)
        return [done] if self._taken else [Snapshot(self._checkpoint, unaligned=False), done]

    def _give_up(self) -> list[Action]:
        if not self._open:
            return []
        self._open = False
        return [GivenUp(self._checkpoint)]
