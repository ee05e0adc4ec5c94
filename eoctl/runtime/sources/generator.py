"""A source of made-up records: a function of the split and of a number, for tests and measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sources.protocol import ENDED, Polled, Position
from formats.errors import CorruptError


class Generator(Struct, frozen=True, kw_only=True):
    """`count` records of each of `partitions` splits: `make(split, first, stop)` gives those of these numbers."""

    make: Callable[[int, int, int], list[Any]]
    count: int
    partitions: int = 1
    replayable: bool = True

    def splits(self) -> tuple[str, ...]:
        return tuple(f"generator-{number}" for number in range(self.partitions))

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> GeneratorReader:
        return GeneratorReader(self, splits, positions)


class GeneratorReader:
    """Takes a batch of each split in turn."""

    def __init__(self, generator: Generator, splits: tuple[str, ...], positions: Mapping[str, Position]) -> None:
        self._generator = generator
        self._numbers = {split: int(split.rpartition("-")[2]) for split in splits}
        self._next = {split: number_at(split, positions.get(split, 0)) for split in splits}
        self._open = [split for split in splits if self._next[split] < generator.count]

    def poll(self, limit: int) -> Polled:
        if not self._open:
            return ENDED
        split = self._open.pop(0)
        first = self._next[split]
        stop = min(first + limit, self._generator.count)
        self._next[split] = stop
        if stop < self._generator.count:
            self._open.append(split)
        batch = Batch(self._generator.make(self._numbers[split], first, stop))
        return Polled(batch, split, closed=stop == self._generator.count)

    def positions(self) -> Mapping[str, Position]:
        return self._next

    def close(self) -> None:
        pass


def number_at(split: str, position: Position) -> int:
    """A position that is a number. Raises: CorruptError."""
    if isinstance(position, int):
        return position
    raise CorruptError(f"the position of {split} is no number: {position[:100]!r}")
