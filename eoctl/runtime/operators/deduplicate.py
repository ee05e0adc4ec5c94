"""De-duplication of at-least-once input: of each key the first record within a time to live goes on."""

from __future__ import annotations

from typing import Any

from eoctl.runtime.deduplication import BloomPlan, Filter, RotatingFilter
from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.operators.expiry import Expiry
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.operators.windowed import keyed_times
from eoctl.runtime.records import END_OF_TIME, Batch
from eoctl.runtime.state.backend import VOID, StateSpec


class ExactDeduplication:
    """Keys are remembered, with the time at which each was first seen."""

    def __init__(self, ttl_ms: int) -> None:
        self._ttl = ttl_ms
        self._due = Expiry()
        self.duplicates = 0

    def open(self, context: Context) -> None:
        self._table = context.state.table(StateSpec(name="seen", key=context.key_type, value="long"))
        for key, time in self._table.view(VOID).items():
            self._due.add(time + self._ttl, key)

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        keys, times = keyed_times(batch)
        view = self._table.view(VOID)
        new: list[int] = []
        for place, (key, time) in enumerate(zip(keys, times, strict=True)):
            seen = view.get(key)
            if seen is None or time >= seen + self._ttl:
                view[key] = time
                self._due.add(time + self._ttl, key)
                new.append(place)
        self._table.touched(VOID, [keys[place] for place in new])
        self.duplicates += len(keys) - len(new)
        return batch.take(new) if new else None

    def advance(self, time: int) -> Batch | None:
        view = self._table.view(VOID)
        gone: list[Any] = []
        while (due := self._due.due(time)) is not None:
            key = due[1]
            if key in view and view[key] + self._ttl <= time:
                del view[key]
                gone.append(key)
        self._table.touched(VOID, gone)
        return None

    def before_snapshot(self) -> None:
        pass


class BloomDeduplication:
    """Keys are remembered in Bloom filters: a share of at most `plan.rate` of new records is dropped by mistake."""

    def __init__(self, plan: BloomPlan) -> None:
        self._plan = plan
        self._filter = RotatingFilter(plan)
        self.duplicates = 0

    def open(self, context: Context) -> None:
        spec = StateSpec(
            name="bloom", kind="map", key="int", namespace="long", map_key="int", value="bytes", by_group=True
        )
        self._table = context.state.table(spec)
        self._groups = KeyGroups(context.max_parallelism)
        for generation in self._table.namespaces():
            assert isinstance(generation, int)
            groups = self._filter.filters.setdefault(generation, {})
            for place, data in self._table.view(generation).items():
                assert isinstance(place, tuple)
                groups.setdefault(place[0], Filter(self._plan)).put_block(place[1], data)

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        keys, times = keyed_times(batch)
        is_new, group_of = self._filter.is_new, self._groups.of
        new = [
            place for place, (key, time) in enumerate(zip(keys, times, strict=True)) if is_new(key, group_of(key), time)
        ]
        self.duplicates += len(keys) - len(new)
        return batch.take(new) if new else None

    def advance(self, time: int) -> Batch | None:
        if time != END_OF_TIME:
            for generation in self._filter.expire(time):
                self._table.drain([generation])
        return None

    def before_snapshot(self) -> None:
        for generation, groups in self._filter.filters.items():
            view = self._table.view(generation)
            for group, one in groups.items():
                for block in one.changed:
                    view[group, block] = one.block(block)
                self._table.touched(generation, [(group, block) for block in one.changed])
                one.changed.clear()
