"""Charts as SVG text: no script, no font, no request; colours come from the page's CSS variables.

Every mark has a `<title>` with its figure, which browsers show on hover and screen readers read out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from math import ceil, floor, log10

from msgspec import Struct

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 86, 12, 26, 30
BYTE_UNITS = tuple(1024.0**power for power in range(6))
SPAN_UNITS = (1.0, 60.0, 3600.0, 86_400.0)
_TICKS = 4
_BAR_MOST = 26.0


class Series(Struct, frozen=True):
    """A value for each point of time, None where there is none; `colour` is a CSS variable's name."""

    name: str
    colour: str
    values: tuple[float | None, ...]


Format = Callable[[float], str]


def lines(
    times: Sequence[float],
    series: Sequence[Series],
    form: Format,
    *,
    label: str,
    limit: float | None,
    units: Sequence[float] = BYTE_UNITS,
) -> str:
    """Values over time; `limit` is a dashed line. Times are seconds since 1970, ascending."""
    top = max([value for one in series for value in one.values if value is not None] + [limit or 0.0])
    frame = _Frame(times, top, form, units)
    parts = frame.axes()
    if limit is not None:
        y = frame.y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="limit" x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">{form(limit)}</text>')
    for one in series:
        points = [(frame.x(i), frame.y(v), i, v) for i, v in enumerate(one.values) if v is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
        parts.append(f'<polyline points="{path}" style="stroke:var(--{one.colour})"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill:var(--{one.colour})">'
            f"<title>{escape(one.name)} {_day(times[i])}: {form(v)}</title></circle>"
            for x, y, i, v in points
        ]
    return _svg(parts, label)


def stacks(times: Sequence[float], series: Sequence[Series], form: Format, *, label: str) -> str:
    """One bar for each point of time, the first series at the bottom."""
    totals = [sum(one.values[i] or 0.0 for one in series) for i in range(len(times))]
    frame = _Frame(times, max(totals, default=0.0), form, BYTE_UNITS, even=True)
    width = min(_BAR_MOST, 0.8 * (WIDTH - LEFT - RIGHT) / max(1, len(times)))
    parts = frame.axes()
    for i in range(len(times)):
        below = 0.0
        for one in series:
            value = one.values[i] or 0.0
            if value <= 0:
                continue
            y, bottom = frame.y(below + value), frame.y(below)
            below += value
            parts.append(
                f'<rect x="{frame.x(i) - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" '
                f'height="{max(bottom - y, 0.5):.1f}" style="fill:var(--{one.colour})">'
                f"<title>{escape(one.name)} {_day(times[i])}: {form(value)}</title></rect>"
            )
    return _svg(parts, label)


class _Frame:
    """Where a point of time and a value lie; `even`: points lie apart by their number, not by their time."""

    def __init__(
        self, times: Sequence[float], top: float, form: Format, units: Sequence[float], *, even: bool = False
    ) -> None:
        self._times, self._form, self._even = times, form, even
        self._step = _nice(top / _TICKS, units) if top > 0 else 1.0
        self._top = self._step * max(1, ceil(top / self._step - 1e-9))

    def x(self, index: int) -> float:
        count = len(self._times)
        room = WIDTH - LEFT - RIGHT
        if self._even:
            return LEFT + room * (index + 0.5) / count
        span = self._times[-1] - self._times[0]
        share = (self._times[index] - self._times[0]) / span if span > 0 else 0.5
        return LEFT + 8 + (room - 16) * share

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._top

    def axes(self) -> list[str]:
        parts = []
        for number in range(round(self._top / self._step) + 1):
            value = number * self._step
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{self._form(value)}</text>')
        first, last = _day(self._times[0]), _day(self._times[-1])
        parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">{first}</text>')
        if last != first:
            parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{last}</text>')
        return parts


def _nice(step: float, units: Sequence[float]) -> float:
    """The next of 1, 2, 5 times a power of ten, in the largest unit that fits."""
    unit = max((unit for unit in units if unit <= step), default=units[0])
    power = 10.0 ** floor(log10(step / unit))
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step / unit * (1 - 1e-9)) * unit)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def _svg(parts: Sequence[str], label: str) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">\n{body}\n</svg>'
