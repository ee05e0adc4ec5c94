"""Checkpoints beside a slow subtask, aligned and unaligned: measured, and drawn from the table in docs/runtime.md.

python -m scripts.benchmarks.skew                         # the table
python -m scripts.benchmarks.skew --draw                  # docs/runtime.md -> docs/runtime-skew.svg
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, PICTURE = ROOT / "docs/runtime.md", ROOT / "docs/runtime-skew.svg"
SKEWS = (1, 2, 5, 10, 20)
ALIGNMENTS = {"aligned": None, "aligned, unaligned after 30": 30.0, "unaligned": 0.0}

WIDTH, HEIGHT = 620, 290
LEFT, TOP, ACROSS, UP = 62, 30, 300, 210
STYLE = """
text{font:12px system-ui,sans-serif;fill:#333}.frame{fill:none;stroke:#999}.grid{stroke:#ddd;fill:none}
polyline,.key{fill:none;stroke-width:1.6}.l0{stroke:#b3440f}.l1{stroke:#1f5fbf;stroke-dasharray:5 4}.l2{stroke:#0a7d4f}
@media(prefers-color-scheme:dark){text{fill:#ddd}.frame{stroke:#777}.grid{stroke:#3a3a3a}
.l0{stroke:#ff9d6b}.l1{stroke:#7fb0ff}.l2{stroke:#4fd19b}}
"""


@dataclass(frozen=True, slots=True)
class Row:
    """How much slower one subtask is, and the steps of a checkpoint in the order of `ALIGNMENTS`."""

    skew: int
    steps: tuple[int, ...]


def measure() -> Iterator[Row]:
    """Each skew with each alignment; the same figures on every machine."""
    from tests.simulation.skew import durations  # noqa: PLC0415  (only to measure)

    with tempfile.TemporaryDirectory() as scratch:
        for skew in SKEWS:
            steps = (durations(Path(scratch), timeout, skew)[0] for timeout in ALIGNMENTS.values())
            yield Row(skew, tuple(round(median) for median in steps))


def rows_in(text: str) -> list[Row]:
    """The rows of the table."""
    rows = re.findall(r"^\| (\d+)x \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    return [Row(int(skew), tuple(int(one.replace(",", "")) for one in steps)) for skew, *steps in rows]


def draw(rows: Sequence[Row]) -> str:
    """Steps of a checkpoint over the skew, both by powers of ten."""
    most = max(max(row.steps) for row in rows)
    powers = range(1, int(-(-log10(most) // 1)) + 1)

    def x_of(skew: float) -> float:
        return LEFT + ACROSS * log10(skew) / log10(SKEWS[-1])

    def y_of(steps: float) -> float:
        return TOP + UP * (1 - (log10(steps) - powers[0]) / (powers[-1] - powers[0]))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Steps of a checkpoint beside a slow subtask</title>",
        f"<style>{STYLE}</style>",
        f'<text x="{LEFT}" y="{TOP - 12}">steps of a checkpoint</text>',
        f'<text x="{LEFT + ACROSS}" y="{TOP + UP + 36}" text-anchor="end">times slower one subtask is</text>',
    ]
    for row in rows:
        x = x_of(row.skew)
        parts.append(f'<path class="grid" d="M{x:.1f} {TOP}v{UP}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP + UP + 18}" text-anchor="middle">{row.skew}</text>')
    for power in powers:
        y = y_of(10**power)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}h{ACROSS}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>')
    parts.append(f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{ACROSS}" height="{UP}"/>')
    for number, name in enumerate(ALIGNMENTS):
        points = " ".join(f"{x_of(row.skew):.1f},{y_of(row.steps[number]):.1f}" for row in rows)
        y = TOP + 20 * number + 10
        parts.append(f'<polyline class="l{number}" points="{points}"/>')
        parts.append(f'<path class="key l{number}" d="M{LEFT + ACROSS + 14} {y}h20"/>')
        parts.append(f'<text x="{LEFT + ACROSS + 40}" y="{y + 4}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> int:
    if sys.argv[1:] == ["--draw"]:
        PICTURE.write_text(draw(rows_in(PAGE.read_text("utf-8"))), "utf-8")
        return 0
    print("| slower | " + " | ".join(ALIGNMENTS) + " |")
    print("|---|" + "---|" * len(ALIGNMENTS))
    for row in measure():
        print(f"| {row.skew}x | " + " | ".join(f"{steps:,}" for steps in row.steps) + " |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
