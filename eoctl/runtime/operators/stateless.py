"""map, filter, flat_map, and operators on whole batches: nothing to remember."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import compress
from typing import Any

from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.records import Batch


class Stateless:
    """An operator that is one function of batches."""

    def __init__(self, apply: Callable[[Batch], Batch | None]) -> None:
        self._apply = apply

    def open(self, context: Context) -> None:
        pass

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        return self._apply(batch)

    def advance(self, time: int) -> Batch | None:  # noqa: ARG002  (nothing waits for it)
        return None

    def before_snapshot(self) -> None:
        pass


def mapping(function: Callable[[Any], Any]) -> Stateless:
    """Each record is replaced by what `function` makes of it."""
    return Stateless(lambda batch: Batch(list(map(function, batch.values)), batch.timestamps, batch.keys))


def filtering(function: Callable[[Any], bool]) -> Stateless:
    """Records for which `function` is true go on."""

    def apply(batch: Batch) -> Batch | None:
        chosen = list(map(function, batch.values))
        values = list(compress(batch.values, chosen))
        if not values:
            return None
        timestamps = None if batch.timestamps is None else list(compress(batch.timestamps, chosen))
        keys = None if batch.keys is None else list(compress(batch.keys, chosen))
        return Batch(values, timestamps, keys)

    return Stateless(apply)


def flat_mapping(function: Callable[[Any], Iterable[Any]]) -> Stateless:
    """Each record is replaced by all that `function` gives for it."""

    def apply(batch: Batch) -> Batch | None:
        found = [list(function(value)) for value in batch.values]
        counts = list(map(len, found))

        def repeated(column: list[Any] | None) -> list[Any] | None:
            if column is None:
                return None
            return [value for value, count in zip(column, counts, strict=True) for _ in range(count)]

        values = [value for values in found for value in values]
        return Batch(values, repeated(batch.timestamps), repeated(batch.keys)) if values else None

    return Stateless(apply)


def batching(function: Callable[[list[Any]], list[Any]]) -> Stateless:
    """The values of each batch are replaced by as many others, at once."""

    def apply(batch: Batch) -> Batch:
        values = function(batch.values)
        if len(values) != len(batch.values):
            message = f"map_batch made {len(values)} of {len(batch.values)} records"
            raise ValueError(message)
        return Batch(values, batch.timestamps, batch.keys)

    return Stateless(apply)
