"""What the coordinator and the subtasks tell each other. In one process nothing is lost; in the simulation it is."""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeAlias

from msgspec import Struct

from eoctl.runtime.coordinator import Ref
from eoctl.runtime.sinks.protocol import CommitPermit
from eoctl.runtime.snapshot import SubtaskFiles


class Begin(Struct, frozen=True):
    """To a source: put a barrier in line."""

    subtask: Ref
    checkpoint: int


class Drop(Struct, frozen=True):
    """To a subtask: the checkpoint was aborted."""

    subtask: Ref
    checkpoint: int


class MayCommit(Struct, frozen=True):
    """To a sink: the checkpoint is complete."""

    subtask: Ref
    permit: CommitPermit


class Done(Struct, frozen=True):
    """To the coordinator: the subtask's snapshot is whole."""

    subtask: Ref
    checkpoint: int
    files: SubtaskFiles


class Refused(Struct, frozen=True):
    """To the coordinator: the subtask could not take its snapshot."""

    subtask: Ref
    checkpoint: int
    reason: str


Message: TypeAlias = Begin | Drop | MayCommit | Done | Refused


class Wire(Protocol):
    """Between the coordinator and subtasks."""

    def send(self, message: Message) -> None: ...

    def receive(self) -> Message | None:
        """The next message that has arrived."""
        ...


class LocalWire:
    """Every message arrives, in order."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()

    def send(self, message: Message) -> None:
        self._messages.append(message)

    def receive(self) -> Message | None:
        return self._messages.popleft() if self._messages else None
