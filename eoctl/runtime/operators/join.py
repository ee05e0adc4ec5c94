"""The join of two keyed inputs within an interval of time: `(key, left, right)` for each pair that is close enough."""

from __future__ import annotations

from typing import Any

from eoctl.runtime.operators.expiry import Expiry
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.operators.windowed import keyed_times
from eoctl.runtime.records import Batch
from eoctl.runtime.state.backend import VOID, StateSpec
from formats.errors import UsageError


class IntervalJoin:
    """Pairs with `lower <= right time - left time <= upper`, each kept as long as a partner can come."""

    def __init__(self, lower: int, upper: int) -> None:
        if lower > upper:
            raise UsageError(f"not an interval: {lower} to {upper} ms", hint="lower is at most upper")
        self._reach = ((lower, upper), (-upper, -lower))  # where partners of a left, of a right record lie
        self._due = Expiry()

    def open(self, context: Context) -> None:
        self._tables = tuple(
            context.state.table(StateSpec(name=name, key=context.key_type)) for name in ("left-buffer", "right-buffer")
        )
        for side, table in enumerate(self._tables):
            for key, kept in table.view(VOID).items():
                for time, _ in kept:
                    self._due.add(time + self._reach[side][1], (side, key))

    def process(self, batch: Batch, gate: int) -> Batch | None:
        keys, times = keyed_times(batch)
        own, other = self._tables[gate].view(VOID), self._tables[1 - gate].view(VOID)
        lower, upper = self._reach[gate]
        out: list[Any] = []
        out_times: list[int] = []
        out_keys: list[Any] = []
        for key, time, value in zip(keys, times, batch.values, strict=True):
            for other_time, other_value in other.get(key, ()):
                if time + lower <= other_time <= time + upper:
                    out.append((key, value, other_value) if gate == 0 else (key, other_value, value))
                    out_times.append(max(time, other_time))
                    out_keys.append(key)
            own[key] = (*own.get(key, ()), (time, value))
            self._due.add(time + upper, (gate, key))
        self._tables[gate].touched(VOID, keys)
        return Batch(out, out_times, out_keys) if out else None

    def advance(self, time: int) -> Batch | None:
        while (due := self._due.due(time)) is not None:
            side, key = due[1]
            view = self._tables[side].view(VOID)
            kept = tuple(one for one in view.get(key, ()) if one[0] + self._reach[side][1] > time)
            if kept:
                view[key] = kept
            else:
                view.pop(key, None)
            self._tables[side].touched(VOID, (key,))
        return None

    def before_snapshot(self) -> None:
        pass
