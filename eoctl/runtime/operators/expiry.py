"""What is due at which time: keys that are told once their time has come."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Any


class Expiry:
    """Keys by time, in the order of times; of equal times, in the order of adding."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Any]] = []
        self._serial = 0

    def add(self, time: int, key: Hashable) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (time, self._serial, key))

    def due(self, time: int) -> tuple[int, Any] | None:
        """The earliest that is due at `time`, with its own time; it is taken out."""
        if self._heap and self._heap[0][0] <= time:
            due_at, _, key = heapq.heappop(self._heap)
            return due_at, key
        return None
