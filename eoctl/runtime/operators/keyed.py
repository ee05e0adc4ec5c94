"""Running aggregates, and functions of one's own with state and timers: one key at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from eoctl.runtime.operators.expiry import Expiry, Looks
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.records import END_OF_TIME, NO_TIME, Batch
from eoctl.runtime.state.backend import VOID, StateSpec, Table, View
from eoctl.runtime.windows import Aggregate
from formats.errors import UsageError

FORGET = 1024  # times of timers that were deleted, and as many again as there are timers, may be remembered
TIMERS = "_timer_state/event_user-timers"  # Flink's name for timers by event time of a function


class Running:
    """For each record `(key, value so far)`, this record included."""

    def __init__(self, aggregate: Aggregate) -> None:
        self._aggregate = aggregate

    def open(self, context: Context) -> None:
        self._table = context.state.table(StateSpec(name="aggregate", key=context.key_type, value=self._aggregate.type))

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        assert batch.keys is not None, "a keyed edge"
        view = self._table.view(VOID)
        values: list[object] = []
        keys = batch.keys
        if self._aggregate.counts:
            for key in keys:
                view[key] = count = view.get(key, 0) + 1
                values.append((key, count))
        else:
            initial, add, result = self._aggregate.initial, self._aggregate.add, self._aggregate.result
            for key, value in zip(keys, batch.values, strict=True):
                view[key] = so_far = add(view.get(key, initial), value)
                values.append((key, so_far if result is None else result(so_far)))
        self._table.touched(VOID, keys)
        return Batch(values, batch.timestamps, keys)

    def advance(self, time: int) -> Batch | None:  # noqa: ARG002  (nothing waits for it)
        return None

    def before_snapshot(self) -> None:
        pass


class ValueState(Struct, frozen=True):
    """One value for each key. `ttl_ms`: of event time since it was last set, after which it is gone."""

    name: str
    type: str = ""
    ttl_ms: int | None = None


class ListState(Struct, frozen=True):
    """A list for each key."""

    name: str
    type: str = ""
    ttl_ms: int | None = None


class MapState(Struct, frozen=True):
    """A map for each key."""

    name: str
    key_type: str = ""
    type: str = ""
    ttl_ms: int | None = None


Declared = ValueState | ListState | MapState


class KeyedContext:
    """What a function sees while it handles a record or a timer of one key."""

    def __init__(self, handles: Mapping[str, Handle], timers: Timers) -> None:
        self.key: Hashable = None
        self.timestamp = NO_TIME
        self.watermark = NO_TIME
        self._handles = handles
        self._timers = timers

    def state(self, name: str) -> Handle:
        """The key's state of that name."""
        return self._handles[name]

    def set_timer(self, time: int) -> None:
        """`on_timer` will be called once the watermark reaches `time`; twice set, it is one timer."""
        self._timers.set(self.key, time)

    def delete_timer(self, time: int) -> None:
        self._timers.delete(self.key, time)


class Handle:
    """One state, of the key that is being handled."""

    def __init__(self, declared: Declared, table: Table) -> None:
        self.declared = declared
        self.context: KeyedContext
        self._looks = Looks()
        self._table = table
        self._ttl = declared.ttl_ms
        self._view: View = table.view(VOID)
        if self._ttl is not None:
            for place, value in self._view.items():
                self._looks.at(value[0] + self._ttl, place)

    def get(self, default: Any = None) -> Any:  # noqa: ANN401  (what was put in)
        """The value; of a list a tuple."""
        return self._get(self.context.key, default)

    def set(self, value: Any) -> None:  # noqa: ANN401  (anything the type can hold)
        self._set(self.context.key, value)

    def append(self, value: Any) -> None:  # noqa: ANN401  (likewise)
        """The list has one more element."""
        self._set(self.context.key, [*self._get(self.context.key, ()), value])

    def clear(self) -> None:
        """There is nothing of this state for the key."""
        key = self.context.key
        for place in [(key, map_key) for map_key in self._table.map_keys(VOID, key)] if self._is_map else [key]:
            self._delete(place)

    def get_entry(self, map_key: Hashable, default: Any = None) -> Any:  # noqa: ANN401  (what was put in)
        return self._get((self.context.key, map_key), default)

    def put(self, map_key: Hashable, value: Any) -> None:  # noqa: ANN401  (anything the type can hold)
        """The map has the entry."""
        self._set((self.context.key, map_key), value)

    def remove(self, map_key: Hashable) -> None:
        self._delete((self.context.key, map_key))

    def items(self) -> Iterator[tuple[Any, Any]]:
        """The entries of the map."""
        key = self.context.key
        for map_key in self._table.map_keys(VOID, key):
            value = self._get((key, map_key), None)
            if value is not None:
                yield map_key, value

    def expire(self, time: int) -> None:
        """What was not set within its time to live is gone."""
        while self._ttl is not None and (due := self._looks.due(time)) is not None:
            place = due[1]
            found = self._view.get(place)
            if found is None:
                continue
            if found[0] + self._ttl <= time:
                self._delete(place)
            else:
                self._looks.at(found[0] + self._ttl, place)

    @property
    def _is_map(self) -> bool:
        return isinstance(self.declared, MapState)

    def _get(self, place: Hashable, default: Any) -> Any:  # noqa: ANN401  (what was put in)
        found = self._view.get(place)
        if found is None:
            return default
        if self._ttl is None:
            return found
        return found[1] if found[0] + self._ttl > self.context.watermark else default

    def _set(self, place: Hashable, value: Any) -> None:  # noqa: ANN401  (anything the type can hold)
        if self._ttl is not None:
            value = (max(self.context.timestamp, self.context.watermark), value)
            self._looks.at(value[0] + self._ttl, place)
        self._view[place] = value
        self._table.touched(VOID, (place,))

    def _delete(self, place: Hashable) -> None:
        if self._view.pop(place, None) is not None:
            self._table.touched(VOID, (place,))


class Timers:
    """Timers of all keys by event time."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._view: View = table.view(VOID)
        self._due = Expiry()
        for place in self._view:
            assert isinstance(place, tuple)
            self._due.add(place[1], place[0])
        self._count = len(self._due)

    def set(self, key: Hashable, time: int) -> None:
        if (key, time) not in self._view:
            self._view[key, time] = True
            self._table.touched(VOID, ((key, time),))
            self._due.add(time, key)
            self._count += 1
            if len(self._due) > FORGET + 2 * self._count:
                self._due.keep(lambda at, key: (key, at) in self._view)

    def delete(self, key: Hashable, time: int) -> None:
        if self._view.pop((key, time), None) is not None:
            self._table.touched(VOID, ((key, time),))
            self._count -= 1

    def due(self, time: int) -> Iterator[tuple[int, Hashable]]:
        """Timers that are due, each taken out before it is given; set meanwhile, they come too."""
        while (found := self._due.due(time)) is not None:
            if (found[1], found[0]) in self._view:
                self.delete(found[1], found[0])
                yield found


Function = Callable[[KeyedContext, Any], Iterable[Any] | None]


class Process:
    """A function of one's own for each record, one for each input, and one for timers."""

    def __init__(
        self,
        on_record: Sequence[Function],
        states: Iterable[Declared] = (),
        on_timer: Callable[[KeyedContext, int], Iterable[Any] | None] | None = None,
    ) -> None:
        self._on_record = on_record
        self._declared = tuple(states)
        self._on_timer = on_timer
        names = [state.name for state in self._declared]
        if len(set(names)) != len(names):
            raise UsageError(f"two states of one name: {', '.join(names)}", hint="give each state its own name")

    def open(self, context: Context) -> None:
        handles = {one.name: Handle(one, context.state.table(_spec(one, context.key_type))) for one in self._declared}
        self._handles = tuple(handles.values())
        self._timers = Timers(context.state.table(StateSpec(name=TIMERS, kind="timer", key=context.key_type)))
        self._context = KeyedContext(handles, self._timers)
        for handle in self._handles:
            handle.context = self._context

    def process(self, batch: Batch, gate: int) -> Batch | None:
        assert batch.keys is not None, "a keyed edge"
        function, context = self._on_record[gate], self._context
        out: list[Any] = []
        times: list[int] = []
        keys: list[Any] = []
        for place, (key, value) in enumerate(zip(batch.keys, batch.values, strict=True)):
            context.key = key
            context.timestamp = NO_TIME if batch.timestamps is None else batch.timestamps[place]
            for result in function(context, value) or ():
                out.append(result)
                times.append(context.timestamp)
                keys.append(key)
        return Batch(out, None if batch.timestamps is None else times, keys) if out else None

    def advance(self, time: int) -> Batch | None:
        context = self._context
        out: list[Any] = []
        times: list[int] = []
        keys: list[Any] = []
        for due, key in self._timers.due(time):
            if self._on_timer is None:
                continue
            context.key, context.timestamp = key, due
            for result in self._on_timer(context, due) or ():
                out.append(result)
                times.append(due)
                keys.append(key)
        if time != END_OF_TIME:
            context.watermark = time
            for handle in self._handles:
                handle.expire(time)
        return Batch(out, times, keys) if out else None

    def before_snapshot(self) -> None:
        pass


def _spec(declared: Declared, key_type: str) -> StateSpec:
    # A value with a time to live is kept with the time when it was set, as plain values.
    value = declared.type if declared.ttl_ms is None else ""
    match declared:
        case ValueState():
            return StateSpec(name=declared.name, key=key_type, value=value)
        case ListState():
            kind = "list" if declared.ttl_ms is None else "value"
            return StateSpec(name=declared.name, kind=kind, key=key_type, value=value)  # type: ignore[arg-type]  # one of two kinds
        case MapState():
            return StateSpec(name=declared.name, kind="map", key=key_type, map_key=declared.key_type, value=value)
