"""Channels: what one subtask sends to another, in order. A barrier that may overtake says what it overtook."""

from __future__ import annotations

from collections import deque

from eoctl.runtime.records import Barrier, Batch, Element

CAPACITY = 8  # batches that may wait before the sender has to


class Channel:
    """From subtask `upstream` of a node to one input of a subtask of another. Marks take no room.

    `arrived` is told a barrier's place while it is still behind other elements, so that a timeout counts from then.
    """

    def __init__(self, upstream: tuple[str, int], target: tuple[str, int], gate: int, capacity: int = CAPACITY) -> None:
        self.upstream = upstream
        self.target = target
        self.gate = gate
        self.queue: deque[Element] = deque()
        self.arrived: list[Barrier] = []
        self._capacity = capacity
        self._batches = 0

    @property
    def full(self) -> bool:
        return self._batches >= self._capacity

    def put(self, element: Element) -> None:
        """The element is the last."""
        self.queue.append(element)
        if isinstance(element, Batch):
            self._batches += 1
        elif isinstance(element, Barrier):
            self.arrived.append(element)

    def take(self) -> Element:
        """The first element is out of the channel."""
        element = self.queue.popleft()
        if isinstance(element, Batch):
            self._batches -= 1
        return element

    def overtake(self, barrier: Barrier) -> list[Batch]:
        """The barrier is the first element; the records that it overtook, which stay in the channel."""
        overtaken = [element for element in self.queue if isinstance(element, Batch)]
        self.queue.appendleft(barrier)
        self.arrived.append(barrier)
        return overtaken

    def advance(self, checkpoint: int) -> list[Batch] | None:
        """The barrier of `checkpoint` is out of the queue; the records before it, which stay. None: there is none."""
        before: list[Batch] = []
        for place, element in enumerate(self.queue):
            if isinstance(element, Barrier) and element.checkpoint == checkpoint:
                del self.queue[place]
                return before
            if isinstance(element, Batch):
                before.append(element)
        return None
