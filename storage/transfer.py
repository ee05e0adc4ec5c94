"""Parallel work on many files: the only module with threads.

Bounded: at most `threads` items are worked on and as many wait. The first error stops the rest and is the one
raised; after return or error no thread of ours runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

THREADS = 2

Item = TypeVar("Item")
Result = TypeVar("Result")

_alone = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Meanwhile the calling thread does all work itself, in order: a run can be replayed exactly."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def each(
    items: Iterable[Item], work: Callable[[Item], Result], *, threads: int = THREADS
) -> Generator[Result, None, None]:
    """`work` of every item, in the order of the items."""
    if _alone.get():
        yield from map(work, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (start-up)

    pool = ThreadPoolExecutor(threads, thread_name_prefix="eoctl")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
        pool.shutdown(wait=True, cancel_futures=True)
