"""What is due at which time: keys that are told once their time has come."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from typing import Any


class Expiry:
    """Keys by time, in the order of times; of equal times, in the order of adding."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Any]] = []
        self._serial = 0

    def add(self, time: int, key: Hashable) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (time, self._serial, key))

    def __len__(self) -> int:
        return len(self._heap)

    def keep(self, wanted: Callable[[int, Any], bool]) -> None:
        """Only those are left whose time and key are wanted, each once."""
        first: dict[tuple[int, Any], tuple[int, int, Any]] = {}
        for one in sorted(self._heap):
            if wanted(one[0], one[2]):
                first.setdefault((one[0], one[2]), one)
        self._heap = list(first.values())  # sorted, which is a heap

    def due(self, time: int) -> tuple[int, Any] | None:
        """The earliest that is due at `time`, with its own time; it is taken out."""
        if self._heap and self._heap[0][0] <= time:
            due_at, _, key = heapq.heappop(self._heap)
            return due_at, key
        return None


class Looks:
    """When each key is to be looked at next: once, at the earliest time that was asked for since it last was."""

    def __init__(self) -> None:
        self._expiry = Expiry()
        self._next: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._expiry)

    def at(self, time: int, key: Hashable) -> None:
        known = self._next.get(key)
        if known is None or time < known:
            self._next[key] = time
            self._expiry.add(time, key)

    def due(self, time: int) -> tuple[int, Any] | None:
        """As of `Expiry`."""
        while (found := self._expiry.due(time)) is not None:
            if self._next.get(found[1]) == found[0]:
                del self._next[found[1]]
                return found
        return None
