"""What a gc run costs, drawn from the table in docs/gc.md: the same table gives the same bytes.

    python -m scripts.benchmarks.gc_plot                      # docs/gc.md -> docs/gc-cost.svg

The picture takes its colours from the reader's preference for light or dark.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, PICTURE = ROOT / "docs/gc.md", ROOT / "docs/gc-cost.svg"

WIDTH, HEIGHT = 720, 330
LEFT, TOP, PANEL_WIDTH, PANEL_HEIGHT, GAP = 62, 34, 268, 220, 70
STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.frame{fill:none;stroke:#999}.grid{stroke:#ddd}
path,.dot{stroke-width:1.6}path{fill:none}.warm{stroke-dasharray:5 4}
.s1{stroke:#0a7d4f}.s10{stroke:#1f5fbf}.s100{stroke:#b3440f}.apart{stroke:#7a3fa0}
@media(prefers-color-scheme:dark){text{fill:#ddd}.frame{stroke:#777}.grid{stroke:#3a3a3a}
.s1{stroke:#4fd19b}.s10{stroke:#7fb0ff}.s100{stroke:#ff9d6b}.apart{stroke:#cf9bf0}}
"""


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the table. `apart`: each snapshot names its own part of the blobs, else each names them all."""

    blobs: int
    snapshots: int
    apart: bool
    warm: bool
    cpu_seconds: float
    requests: int

    @property
    def style(self) -> str:
        return "apart" if self.apart else f"s{self.snapshots}"


def runs_in(text: str) -> list[Run]:
    """The rows of the table of costs."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) >= 7 and re.fullmatch(r"[\d,]+", cells[0]) and cells[2] in {"cold", "warm"}:
            snapshots, _, apart = cells[1].partition(" ")
            found.append(
                Run(
                    blobs=int(cells[0].replace(",", "")),
                    snapshots=int(snapshots),
                    apart=bool(apart),
                    warm=cells[2] == "warm",
                    cpu_seconds=float(cells[4]),
                    requests=int(cells[6].replace(",", "")),
                )
            )
    return found


def draw(runs: Sequence[Run]) -> str:
    """Two panels beside each other, both axes by powers of ten: requests, and cpu seconds."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Requests and cpu seconds of a gc run by blobs and snapshots</title>",
        f"<style>{STYLE}</style>",
        *_panel(runs, LEFT, "requests", lambda run: run.requests),
        *_panel(runs, LEFT + PANEL_WIDTH + GAP, "cpu seconds", lambda run: run.cpu_seconds),
        *_legend(runs),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _panel(runs: Sequence[Run], left: int, title: str, value: Callable[[Run], float]) -> Iterator[str]:
    across = _decades(run.blobs for run in runs)
    up = _decades(value(run) for run in runs)

    def place(run: Run) -> tuple[float, float]:
        x = left + PANEL_WIDTH * (log10(run.blobs) - across[0]) / (across[-1] - across[0])
        y = TOP + PANEL_HEIGHT * (1 - (log10(value(run)) - up[0]) / (up[-1] - up[0]))
        return x, y

    yield f'<text x="{left}" y="{TOP - 12}">{title}</text>'
    for power in across:
        x = left + PANEL_WIDTH * (power - across[0]) / (across[-1] - across[0])
        yield f'<path class="grid" d="M{x:.1f} {TOP}v{PANEL_HEIGHT}"/>'
        yield f'<text x="{x:.1f}" y="{TOP + PANEL_HEIGHT + 18}" text-anchor="middle">{_power(power)}</text>'
    for power in up:
        y = TOP + PANEL_HEIGHT * (1 - (power - up[0]) / (up[-1] - up[0]))
        yield f'<path class="grid" d="M{left} {y:.1f}h{PANEL_WIDTH}"/>'
        yield f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_power(power)}</text>'
    yield f'<rect class="frame" x="{left}" y="{TOP}" width="{PANEL_WIDTH}" height="{PANEL_HEIGHT}"/>'
    yield f'<text x="{left + PANEL_WIDTH}" y="{TOP + PANEL_HEIGHT + 34}" text-anchor="end">blobs</text>'
    for style, warm, line in _lines(runs):
        points = " ".join(f"{x:.1f} {y:.1f}" for x, y in map(place, line))
        kind = f"{style}{' warm' if warm else ''}"
        if len(line) > 1:
            yield f'<path class="{kind}" d="M{points}"/>'
        else:
            ((x, y),) = map(place, line)
            yield f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4" fill="none"/>'


def _lines(runs: Sequence[Run]) -> Iterator[tuple[str, bool, list[Run]]]:
    for style, warm in sorted({(run.style, run.warm) for run in runs}, key=lambda key: (len(key[0]), key)):
        line = [run for run in runs if (run.style, run.warm) == (style, warm)]
        yield style, warm, sorted(line, key=lambda run: run.blobs)


def _legend(runs: Sequence[Run]) -> Iterator[str]:
    names = {run.style: f"{run.snapshots} snapshot{'s' if run.snapshots > 1 else ''}" for run in runs}
    names |= {run.style: f"{run.snapshots}, each of its own part" for run in runs if run.apart}
    x, y = LEFT, TOP + PANEL_HEIGHT + 62
    for style in sorted(names, key=lambda style: (len(style), style)):
        yield f'<path class="{style}" d="M{x} {y - 4}h24"/><text x="{x + 30}" y="{y}">{names[style]}</text>'
        x += 60 + 7 * len(names[style])
    right = LEFT + 2 * PANEL_WIDTH + GAP
    yield f'<text x="{right}" y="{TOP - 12}" text-anchor="end">dashed: warm</text>'


def _decades(values: Iterable[float]) -> list[int]:
    """The powers of ten from below the least to above the largest."""
    powers = [log10(value) for value in values]
    return list(range(int(min(powers) // 1), int(-(-max(powers) // 1)) + 1))


def _power(power: int) -> str:
    if power < 0:
        return f"{10.0**power:g}"
    return f"{10**power:,}" if power < 6 else f"{10 ** (power - 6):,} M"


def main() -> int:
    runs = runs_in(PAGE.read_text("utf-8"))
    if not runs:
        print(f"{PAGE} has no table of costs", file=sys.stderr)
        return 1
    PICTURE.write_text(draw(runs), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
