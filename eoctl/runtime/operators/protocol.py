"""What an operator is: batches in, batches out, state in a backend."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.state.backend import StateBackend


class Context(Struct, frozen=True, kw_only=True):
    """What a subtask's operator is given when it opens."""

    uid: str
    subtask: int
    parallelism: int
    max_parallelism: int
    state: StateBackend
    key_type: str = ""


class Operator(Protocol):
    """One subtask's operator. What it knows beyond a call is in the state, at the latest after `before_snapshot`."""

    def open(self, context: Context) -> None:
        """Before anything else; the state holds what was restored."""
        ...

    def process(self, batch: Batch, gate: int) -> Batch | None:
        """Records of an input came; what goes on from here."""
        ...

    def advance(self, time: int) -> Batch | None:
        """The watermark is at `time` now, which is later than before; what goes on before it does."""
        ...

    def before_snapshot(self) -> None:
        """The state is about to be frozen."""
        ...
