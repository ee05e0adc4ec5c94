"""Windows: which ones a record belongs to, and how the records of one become a result. Times in milliseconds.

A window is `(start, end)`, half-open; it is over when a watermark has reached its last millisecond. Source: Flink,
`TimeWindow`, `SlidingEventTimeWindows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from msgspec import Struct

from formats.errors import UsageError

Window: TypeAlias = tuple[int, int]


class Tumbling(Struct, frozen=True):
    """Every `size` milliseconds one window ends and the next begins."""

    size: int
    offset: int = 0

    def __post_init__(self) -> None:
        _check(self.size > 0, f"a window of {self.size} ms")

    def windows(self, time: int) -> tuple[Window, ...]:
        start = time - (time - self.offset) % self.size
        return ((start, start + self.size),)


class Sliding(Struct, frozen=True):
    """Windows of `size` milliseconds, one beginning every `slide`."""

    size: int
    slide: int
    offset: int = 0

    def __post_init__(self) -> None:
        _check(0 < self.slide <= self.size, f"windows of {self.size} ms that slide by {self.slide} ms")

    def windows(self, time: int) -> tuple[Window, ...]:
        last = time - (time - self.offset) % self.slide
        return tuple((start, start + self.size) for start in range(last, time - self.size, -self.slide))


class Session(Struct, frozen=True):
    """Records of a key with less than `gap` milliseconds between them; at most `max_length` together.

    Without that bound a key that is never idle would have a session that never ends, and state that grows for ever.
    """

    gap: int
    max_length: int

    def __post_init__(self) -> None:
        _check(0 < self.gap <= self.max_length, f"sessions of at most {self.max_length} ms with a gap of {self.gap} ms")


class Aggregate(Struct, frozen=True, kw_only=True):
    """How records become one value, a step at a time. Accumulators are never changed, but replaced.

    `merge` joins two of them (sessions need it); `type`: of the accumulator, a text of formats/types; "": plain values.
    """

    initial: Any
    add: Callable[[Any, Any], Any]
    merge: Callable[[Any, Any], Any] | None = None
    result: Callable[[Any], Any] | None = None
    type: str = ""
    counts: bool = False


COUNT = Aggregate(initial=0, add=lambda count, _: count + 1, merge=lambda a, b: a + b, type="long", counts=True)


def summing(value: Callable[[Any], Any], type_text: str = "") -> Aggregate:
    """The sum of a part of each record."""
    return Aggregate(
        initial=0, add=lambda total, record: total + value(record), merge=lambda a, b: a + b, type=type_text
    )


def collecting() -> Aggregate:
    """All records, in the order of arrival."""
    return Aggregate(initial=(), add=lambda found, record: (*found, record), merge=lambda a, b: a + b)


class OpenSession(Struct, frozen=True, array_like=True):
    """A session that is under way: of the records so far the first and the last time, and what they add up to."""

    first: int
    last: int
    value: Any

    def window(self, session: Session) -> Window:
        return self.first, min(self.last + session.gap, self.first + session.max_length)


def add_to_sessions(
    sessions: tuple[OpenSession, ...], time: int, record: object, session: Session, aggregate: Aggregate
) -> tuple[OpenSession, ...]:
    """The sessions of a key, in order of time, with one more record."""
    added = OpenSession(time, time, aggregate.add(aggregate.initial, record))
    result: list[OpenSession] = []
    for other in sorted((*sessions, added), key=lambda one: (one.first, one.last)):
        if result and _joins(result[-1], other, session):
            before = result.pop()
            assert aggregate.merge is not None, "checked when the pipeline was built"
            value = aggregate.merge(before.value, other.value)
            result.append(OpenSession(before.first, max(before.last, other.last), value))
        else:
            result.append(other)
    return tuple(result)


def _joins(before: OpenSession, after: OpenSession, session: Session) -> bool:
    together = max(before.last, after.last) - before.first < session.max_length
    return after.first < before.last + session.gap and together


def _check(holds: bool, what: str) -> None:  # noqa: FBT001  (private)
    if not holds:
        message = f"not a window: {what}"
        raise UsageError(message, hint="sizes are positive milliseconds; a slide is at most the size, a gap the length")
