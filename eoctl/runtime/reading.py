"""A source's end in a subtask: batches with their timestamps, and the watermark that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from eoctl.runtime.records import END_OF_TIME, NO_TIME, Batch
from eoctl.runtime.sources.protocol import Position, Reader


class Reading:
    """Reads the splits of one subtask. The watermark is behind the slowest split by `max_delay_ms`.

    A subtask without splits has nothing to wait for: its watermark is the end of time.
    """

    def __init__(
        self,
        reader: Reader,
        splits: tuple[str, ...],
        time: Callable[[Any], int] | None,
        max_delay_ms: int,
        batch_size: int,
    ) -> None:
        self.ended = False
        self.idle = False  # the last poll gave nothing
        self._reader = reader
        self._time = time
        self._delay = max_delay_ms
        self._batch_size = batch_size
        self._newest = dict.fromkeys(splits, NO_TIME)
        self._floor = NO_TIME

    def resume(self, watermark: int) -> None:
        """The watermark was there before the restore."""
        self._floor = watermark

    def poll(self) -> tuple[Batch | None, int]:
        """The next records, if there are any now, and the watermark after them."""
        polled = self._reader.poll(self._batch_size)
        batch = polled.batch
        self.idle = batch is None and not polled.ended
        if polled.ended:
            self.ended = True
            return None, END_OF_TIME
        if batch is not None and self._time is not None:
            batch = Batch(batch.values, list(map(self._time, batch.values)))
        if batch is not None and batch.timestamps:
            newest = max(batch.timestamps)
            self._newest[polled.split] = max(self._newest.get(polled.split, NO_TIME), newest)
        if polled.closed:
            self._newest.pop(polled.split, None)
        slowest = min(self._newest.values(), default=NO_TIME)
        return batch, self._floor if slowest == NO_TIME else max(self._floor, slowest - self._delay - 1)

    def positions(self) -> Mapping[str, Position]:
        return dict(self._reader.positions())

    def close(self) -> None:
        self._reader.close()
