"""Parts of a story's pipeline that have state of every kind: what they are made of, and what must come out of them.

Records are `(key, time)`. What comes out depends on them alone, in whatever order they arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from eoctl.runtime.operators.keyed import KeyedContext, ListState, MapState, ValueState
from eoctl.runtime.pipeline import Stream
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.windows import COUNT, Session, Sliding

Record = tuple[str, int]


class Shape(Protocol):
    def add(self, records: Stream, folder: Path) -> None:
        """Its sinks write into folders below `folder`."""
        ...

    def expected(self, records: list[Record]) -> dict[str, list[list[Any]]]:
        """The rows in each of these folders."""
        ...


class Bursts:
    """A function with a value, a list, a map and timers; a key has no state left once all of its timers have fired."""

    def __init__(self, span: int) -> None:
        self._span = span

    def add(self, records: Stream, folder: Path) -> None:
        states = ValueState("left", "long"), ListState("times", "long"), MapState("sums", "long", "long")
        keyed = records.key_by(lambda record: record[0], type="string")
        bursts = keyed.process("gather", self._gather, states=states, on_timer=self._give)
        bursts.sink("burst files", Files(folder / "bursts"))

    def _gather(self, context: KeyedContext, record: Record) -> None:
        left, times, sums = map(context.state, ("left", "times", "sums"))
        burst = record[1] // self._span
        left.set(left.get(0) + 1)
        times.append(record[1])
        sums.put(burst, sums.get_entry(burst, 0) + record[1])
        context.set_timer((burst + 1) * self._span - 1)

    def _give(self, context: KeyedContext, time: int) -> Iterator[Any]:
        left, times, sums = map(context.state, ("left", "times", "sums"))
        burst = time // self._span
        rest = [one for one in times.get(()) if one // self._span != burst]
        count = len(times.get(())) - len(rest)
        oldest = min((one for one, _ in sums.items()), default=None)
        yield (context.key, burst, count, sums.get_entry(burst), oldest)
        if rest:
            left.set(left.get() - count)
            times.set(rest)
            sums.remove(burst)
        else:
            assert left.get() == count, "the state is all there"
            for state in (left, times, sums):
                state.clear()

    def expected(self, records: list[Record]) -> dict[str, list[list[Any]]]:
        found: dict[tuple[str, int], list[int]] = {}
        for key, at in records:
            found.setdefault((key, at // self._span), []).append(at)
        return {"bursts": [[key, burst, len(times), sum(times), burst] for (key, burst), times in found.items()]}


class Matches:
    """Each record twice, of which one is dropped; then sessions, sliding windows, and a join with the records."""

    def __init__(self, span: int) -> None:
        self._gap = span
        self._reach = span + 15

    def add(self, records: Stream, folder: Path) -> None:
        key: Callable[[Record], str] = lambda record: record[0]  # noqa: E731
        twice = records.flat_map("twice", lambda record: (record, record))
        once = twice.key_by(lambda record: record[1], type="long").deduplicate("once", 10 * self._gap)
        keyed = once.key_by(key, type="string")
        sessions = keyed.window("sessions", Session(self._gap, 1_000_000), COUNT)
        sessions.sink("session files", Files(folder / "sessions"))
        slides = keyed.window("slides", Sliding(2 * self._gap, self._gap), COUNT)
        slides.sink("slide files", Files(folder / "slides"))
        pairs = keyed.join("pairs", records.key_by(key, type="string"), lower_ms=0, upper_ms=self._reach)
        rows = pairs.map("times", lambda pair: (pair[0], pair[1][1], pair[2][1]))
        rows.sink("match files", Files(folder / "matches"))

    def expected(self, records: list[Record]) -> dict[str, list[list[Any]]]:
        times: dict[str, list[int]] = {}
        for key, at in sorted(records):
            times.setdefault(key, []).append(at)
        sessions, slides, matches = [], [], []
        for key, mine in times.items():
            breaks = [place for place, (one, other) in enumerate(pairwise(mine), 1) if other - one >= self._gap]
            for first, stop in pairwise([0, *breaks, len(mine)]):
                sessions.append([key, mine[first], mine[stop - 1] + self._gap, stop - first])
            for start in range(-self._gap, mine[-1] + 1, self._gap):
                inside = [at for at in mine if start <= at < start + 2 * self._gap]
                if inside:
                    slides.append([key, start, start + 2 * self._gap, len(inside)])
            matches += [[key, one, other] for one in mine for other in mine if 0 <= other - one <= self._reach]
        return {"sessions": sessions, "slides": slides, "matches": matches}
