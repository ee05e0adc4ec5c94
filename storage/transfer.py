"""Parallel work on many files: the only module with threads.

Bounded: at most `threads` items are worked on and as many wait. The first error stops the rest and is the one
raised; after return or error no thread of ours runs. Work that nobody waits for any more ends when it next tells how
far it is (`Portion`): so Ctrl-C takes a moment, whatever the size of the file under way.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from storage.backend import StoppedError

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 2
REMOTE_THREADS = 6  # where each request takes its time and little of ours
LATER_THREADS = 4  # each has a pack on the disk
TICK_SECONDS = 0.25

Item = TypeVar("Item")
Result = TypeVar("Result")

_alone = ContextVar("alone", default=False)
_stopped: ContextVar[threading.Event | None] = ContextVar("stopped", default=None)


class Moving:
    """Bytes of items that are under way, counted by the threads that work on them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


class Portion:
    """One item of `total` bytes under way, in so many stages; made by the thread that works on it."""

    def __init__(self, moving: Moving, total: int, *, stages: int = 1) -> None:
        self._moving = moving
        self._total = total
        self._stages = stages
        self._begun = 0
        self._done = 0
        self._lock = threading.Lock()
        self._stop = _stopped.get()

    def stage(self, size: int) -> Callable[[int], None]:
        """The next stage begins; what is returned is told by how many of its `size` bytes it has got on, by any thread.

        That raises StoppedError once nobody waits for the item any more.
        """
        before = self._total * self._begun // self._stages
        self._begun += 1
        done = 0

        def told(count: int) -> None:
            nonlocal done
            if self._stop is not None and self._stop.is_set():
                raise StoppedError
            with self._lock:
                done = min(size, done + count)  # what is sent again counts once
                self._to(before + self._total * done // (self._stages * max(1, size)))

        return told

    def end(self) -> None:
        """All of it is done."""
        with self._lock:
            self._to(self._total)

    def _to(self, now: int) -> None:
        self._moving.add(now - self._done)
        self._done = now


def check_stopped() -> None:
    """Raises: StoppedError in a thread that is to end."""
    event = _stopped.get()
    if event is not None and event.is_set():
        raise StoppedError


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile the calling thread does all work itself, in order: a run can be replayed exactly."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def each(
    items: Iterable[Item],
    work: Callable[[Item], Result],
    *,
    threads: int = THREADS,
    tick: Callable[[], object] = lambda: None,
) -> Generator[Result, None, None]:
    """`work` of every item, in the order of the items. `tick` is called now and then while one is waited for."""
    if _alone.get():
        yield from map(work, items)
        return
    pool = _Pool(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield _result(waiting.popleft(), tick)
        while waiting:
            yield _result(waiting.popleft(), tick)
    finally:
        pool.end()


class Later:
    """Calls that are made in threads of their own, so many at once and none beyond; `wait`: all have succeeded."""

    def __init__(self, threads: int = LATER_THREADS) -> None:
        self._threads = threads
        self._pool: _Pool | None = None
        self._waiting: deque[Future[object]] = deque()

    def add(self, call: Callable[[], object]) -> None:
        """The call is under way, or made. Raises: what an earlier one raised."""
        if _alone.get():
            call()
            return
        if self._pool is None:
            self._pool = _Pool(self._threads)
        while len(self._waiting) >= self._threads:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(lambda _: call(), None))

    def wait(self) -> None:
        """Raises: what the first call that failed raised."""
        while self._waiting:
            self._waiting.popleft().result()

    def end(self) -> None:
        """No call is under way any more; those that have not begun are not made."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.end()
            self._pool = None


class _Pool:
    """Threads that are told when nobody waits for them any more."""

    def __init__(self, threads: int) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (start-up)

        self._threads: ThreadPoolExecutor = ThreadPoolExecutor(threads, thread_name_prefix="eoctl")
        self._stop = threading.Event()

    def submit(self, work: Callable[[Item], Result], item: Item) -> Future[Result]:
        return self._threads.submit(self._run, work, item)

    def _run(self, work: Callable[[Item], Result], item: Item) -> Result:
        token = _stopped.set(self._stop)
        try:
            check_stopped()
            return work(item)
        finally:
            _stopped.reset(token)

    def end(self) -> None:
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Result], tick: Callable[[], object]) -> Result:
    """What the future comes to."""
    while True:
        try:
            return future.result(TICK_SECONDS)
        except TimeoutError:
            if future.done():
                return future.result()  # an error of the work's own, or it has just ended
        tick()


class Job(Generic[Result]):
    """Something that is done in the background."""

    def __init__(self, future: Future[Result]) -> None:
        self._future = future

    @property
    def done(self) -> bool:
        return self._future.done()

    def result(self) -> Result:
        """What came of it; to be asked once it is done. Raises: what the work raised."""
        return self._future.result(timeout=0)


class Background:
    """One thread that does what it is given, in order. The giver asks from time to time what is done."""

    def __init__(self) -> None:
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (start-up)

        self._pool = ThreadPoolExecutor(1, thread_name_prefix="eoctl")
        self._ended = threading.Event()

    def submit(self, work: Callable[[], Result]) -> Job[Result]:
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._ended.set())
        return Job(future)

    def wait(self, seconds: float) -> None:
        """Until something is done, `seconds` at most."""
        self._ended.wait(seconds)
        self._ended.clear()

    def close(self) -> None:
        """What was begun is done, what was not begun will not be."""
        self._pool.shutdown(wait=True, cancel_futures=True)
