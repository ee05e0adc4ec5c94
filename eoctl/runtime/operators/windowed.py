"""Windows over keyed records: `(key, start, end, result)` once the watermark says that a window is over.

A record whose window is over is late, and dropped; how many there were is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Any

from eoctl.runtime.operators.expiry import Looks
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.records import NO_TIME, Batch
from eoctl.runtime.state.backend import VOID, StateSpec
from eoctl.runtime.windows import Aggregate, OpenSession, Session, Sliding, Tumbling, Window, add_to_sessions
from formats.errors import UsageError


class Windowed:
    """Tumbling or sliding windows. The accumulators of a window are one namespace of the state."""

    def __init__(self, windows: Tumbling | Sliding, aggregate: Aggregate) -> None:
        self._windows = windows
        self._aggregate = aggregate
        self._watermark = NO_TIME
        self.late = 0

    def open(self, context: Context) -> None:
        self._table = context.state.table(
            StateSpec(name="window-contents", key=context.key_type, namespace="time-window", value=self._aggregate.type)
        )
        self._windows_open = {_window(space) for space in self._table.namespaces()}

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        keys, times = keyed_times(batch)
        assigner = self._windows
        if isinstance(assigner, Tumbling):
            size, offset = assigner.size, assigner.offset
            starts = [time - (time - offset) % size for time in times]
            distinct = set(starts)
            if len(distinct) == 1:
                self._add((start := starts[0], start + size), keys, batch.values)
                return None
            for start in sorted(distinct):
                places = [place for place, other in enumerate(starts) if other == start]
                self._add((start, start + size), [keys[p] for p in places], [batch.values[p] for p in places])
            return None
        found: dict[Window, list[int]] = {}
        for place, time in enumerate(times):
            for window in assigner.windows(time):
                found.setdefault(window, []).append(place)
        for window, places in found.items():
            self._add(window, [keys[p] for p in places], [batch.values[p] for p in places])
        return None

    def _add(self, window: Window, keys: list[Any], values: list[Any]) -> None:
        if window[1] - 1 <= self._watermark:
            self.late += len(keys)
            return
        self._windows_open.add(window)
        view = self._table.view(window)
        if self._aggregate.counts:
            counts = Counter(keys)
            for key, count in counts.items():
                view[key] = view.get(key, 0) + count
            self._table.touched(window, counts)
            return
        initial, add = self._aggregate.initial, self._aggregate.add
        if isinstance(view, dict):
            for key, value in zip(keys, values, strict=True):
                view[key] = add(view.get(key, initial), value)
        else:  # each look costs: once for each key of a batch
            found: dict[Any, Any] = {}
            for key, value in zip(keys, values, strict=True):
                found[key] = add(found[key] if key in found else view.get(key, initial), value)
            view.update(found)
        self._table.touched(window, keys)

    def advance(self, time: int) -> Batch | None:
        self._watermark = time
        over = [window for window in self._windows_open if window[1] - 1 <= time]
        if not over:
            return None
        self._windows_open.difference_update(over)
        out: list[Any] = []
        times: list[int] = []
        keys: list[Any] = []
        result = self._aggregate.result
        entries = self._table.drain(over)
        for start, end in sorted(over, key=lambda window: (window[1], window[0])):
            for key, value in entries.pop((start, end)):
                keys.append(key)
                out.append((key, start, end, value if result is None else result(value)))
            times += [end - 1] * (len(out) - len(times))
        return Batch(out, times, keys) if out else None

    def before_snapshot(self) -> None:
        pass


class Sessions:
    """Session windows. A key's open sessions are one value of the state."""

    def __init__(self, session: Session, aggregate: Aggregate) -> None:
        if aggregate.merge is None:
            raise UsageError("sessions merge, and the aggregate cannot", hint="give the Aggregate a merge function")
        self._session = session
        self._aggregate = aggregate
        self._watermark = NO_TIME
        self._looks = Looks()
        self.late = 0

    def open(self, context: Context) -> None:
        self._table = context.state.table(StateSpec(name="session-windows", key=context.key_type))
        for key, sessions in self._table.view(VOID).items():
            self._look_at(key, _sessions(sessions))

    def _look_at(self, key: Hashable, sessions: Iterable[OpenSession]) -> None:
        self._looks.at(min(one.window(self._session)[1] for one in sessions) - 1, key)

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        keys, times = keyed_times(batch)
        view = self._table.view(VOID)
        for key, time, value in zip(keys, times, batch.values, strict=True):
            if time + self._session.gap - 1 <= self._watermark:
                self.late += 1
                continue
            after = add_to_sessions(_sessions(view.get(key, ())), time, value, self._session, self._aggregate)
            view[key] = _stored(after)
            self._look_at(key, after)
        self._table.touched(VOID, keys)
        return None

    def advance(self, time: int) -> Batch | None:
        self._watermark = time
        view = self._table.view(VOID)
        out: list[Any] = []
        times: list[int] = []
        keys: list[Hashable] = []
        while (due := self._looks.due(time)) is not None:
            key = due[1]
            rest: list[OpenSession] = []
            for one in _sessions(view.get(key, ())):
                start, end = one.window(self._session)
                if end - 1 > time:
                    rest.append(one)
                    continue
                value = one.value if self._aggregate.result is None else self._aggregate.result(one.value)
                out.append((key, start, end, value))
                times.append(end - 1)
                keys.append(key)
            if rest:
                view[key] = _stored(tuple(rest))
                self._look_at(key, rest)
            else:
                view.pop(key, None)
            self._table.touched(VOID, (key,))
        return Batch(out, times, keys) if out else None

    def before_snapshot(self) -> None:
        pass


def keyed_times(batch: Batch) -> tuple[list[Any], list[int]]:
    """The keys and timestamps, which there have to be. Raises: UsageError."""
    if batch.timestamps is None:
        raise UsageError("windows, joins and times to live need timestamps", hint="give the source time=FUNCTION")
    assert batch.keys is not None, "a keyed edge"
    return batch.keys, batch.timestamps


def _window(space: Hashable) -> Window:
    assert isinstance(space, tuple)
    return space


def _sessions(stored: tuple[tuple[int, int, Any], ...]) -> tuple[OpenSession, ...]:
    return tuple(OpenSession(*one) for one in stored)


def _stored(sessions: tuple[OpenSession, ...]) -> tuple[tuple[int, int, Any], ...]:
    return tuple((one.first, one.last, one.value) for one in sessions)
