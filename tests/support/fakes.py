"""A world that a test decides: a clock that stands still until told, ids that count, waits that are only noted."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime, timedelta

from storage.head import Ambient

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class FakeAmbient:
    """The ambient of one process. `process` makes its ids its own; `now` and `elapsed` advance by 1 ms a look."""

    def __init__(self, process: int = 1, host: str = "c" * 32) -> None:
        self.seconds = 0.0
        self.waits: list[float] = []
        self.host = host
        self._process = process
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def ambient(self) -> Ambient:
        return Ambient(now=self.now, elapsed=self.elapsed, new_id=self.new_id, wait=self.wait, host=self.host)

    def now(self) -> str:
        return time_text(self.elapsed())

    def elapsed(self) -> float:
        with self._lock:
            self.seconds += 0.001
            return self.seconds

    def new_id(self) -> str:
        with self._lock:
            return f"{self._process:08x}{next(self._numbers):024x}"

    def wait(self, seconds: float) -> None:
        with self._lock:
            self.waits.append(seconds)
            self.seconds += seconds


def time_text(seconds: float) -> str:
    """RFC 3339 with milliseconds, `seconds` after the fake epoch."""
    moment = EPOCH + timedelta(seconds=seconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
