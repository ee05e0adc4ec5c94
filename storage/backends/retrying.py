"""A backend that has patience with a busy one: calls that were surely refused for now are made again, after a while.

Only `BusyError` is met with patience: the server said that it did nothing. What may have happened is left to whoever
can read it back, and a swap to storage/head.py, which settles it: so no conditional write is ever repeated blindly.
Waiting is bounded by a budget that all calls of a process share and that success fills up again: a storm of a minute is
sat out, an outage is told.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from storage.backend import (
    Backend,
    Body,
    BusyError,
    Folder,
    Found,
    Key,
    LocalFile,
    Reach,
    Unfinished,
    Version,
)
from storage.os_errors import told

BUDGET_SECONDS = 120.0  # of waiting, in all
EARNED_SECONDS = 0.5  # given back by each call that succeeds
FIRST_SECONDS = 0.2
LONGEST_SECONDS = 20.0

Result = TypeVar("Result")


class Budget:
    """Seconds that may still be waited; of all threads together."""

    def __init__(self, wait: Callable[[float], None], rng: random.Random, seconds: float = BUDGET_SECONDS) -> None:
        self._wait = wait
        self._rng = rng
        self._lock = threading.Lock()
        self._full = self._left = seconds

    def earn(self) -> None:
        with self._lock:
            self._left = min(self._full, self._left + EARNED_SECONDS)

    def spend(self, tries: int) -> bool:
        """It was waited before try `tries` + 1, at random up to twice as long as before the last. False: not enough."""
        longest = min(LONGEST_SECONDS, FIRST_SECONDS * float(2**tries))
        with self._lock:
            seconds = self._rng.uniform(longest / 2, longest)
            if seconds > self._left:
                return False
            self._left -= seconds
        self._wait(seconds)
        return True


class RetryingBackend:
    """The six verbs of `inner`, with the patience of `budget`."""

    def __init__(self, inner: Backend, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def stat(self, key: Key) -> Found | None:
        return self._patiently(lambda: self._inner.stat(key))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self._patiently(lambda: self._inner.open(key, start, length))

    def create(self, key: Key, body: Body) -> bool:
        if not isinstance(body, LocalFile):
            return self._patiently(lambda: self._inner.create(key, body))
        spare = body.path.with_name(f"{body.path.name}.again")
        with told(spare):
            os.link(body.path, spare)

        def create() -> bool:
            with contextlib.suppress(FileExistsError):
                os.link(spare, body.path)
            return self._inner.create(key, body)

        try:
            return self._patiently(create)
        finally:
            spare.unlink(missing_ok=True)
            body.path.unlink(missing_ok=True)

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self._inner.swap(key, body, expected)

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        """What was shown before a server got busy is not shown again."""
        last: tuple[str, str] | None = None
        tries = 0
        while True:
            try:
                for item in self._inner.list(prefix, reach=reach):
                    place = _place(item)
                    if last is None or place > last:
                        last = place
                        tries = 0
                        yield item
            except BusyError:
                if not self._budget.spend(tries):
                    raise
                tries += 1
            else:
                self._budget.earn()
                return

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        self._patiently(lambda: self._inner.delete(wanted))

    def _patiently(self, call: Callable[[], Result]) -> Result:
        tries = 0
        while True:
            try:
                result = call()
            except BusyError:
                if not self._budget.spend(tries):
                    raise
                tries += 1
            else:
                self._budget.earn()
                return result


def _place(item: Found | Folder | Unfinished) -> tuple[str, str]:
    """Where a listing shows it."""
    if isinstance(item, Unfinished):
        return item.key.path, item.token
    return (f"{item.key}/" if isinstance(item, Folder) else item.key.path), ""
