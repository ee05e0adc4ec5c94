"""What a source is: splits, each read in order from a position that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

from msgspec import Struct

from eoctl.runtime.records import Batch

Position: TypeAlias = int | str  # the next one to read


class Polled(Struct, frozen=True, gc=False):
    """What a reader gave: records of one split, perhaps none for now; or the end of all its splits.

    `closed`: it was the last of this split, which time need not wait for any more.
    """

    batch: Batch | None = None
    split: str = ""
    closed: bool = False
    ended: bool = False


NOTHING_YET = Polled()
ENDED = Polled(ended=True)


class Reader(Protocol):
    """Reads the splits of one subtask."""

    def poll(self, limit: int) -> Polled:
        """About so many records at most. It does not wait long."""
        ...

    def positions(self) -> Mapping[str, Position]:
        """Of each split what is to be read next."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    """Splits that can be dealt out to subtasks. `replayable`: a position can be read from again."""

    @property
    def replayable(self) -> bool: ...

    def splits(self) -> tuple[str, ...]:
        """All of them, in an order that stays."""
        ...

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> Reader:
        """Of these splits, each from its position, or from its beginning."""
        ...
