"""Tables for people, 80 columns wide, and the same as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scripts.benchmarks.results import Results

WIDTH = 80
MIB = 1 << 20
MB = 10**6
SUBJECT = "eoctl"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text. A row may be short; then its last cell is a remark that may run on over the rest."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1  # how many columns, from the first, are aligned left

    def text(self) -> str:
        """Aligned columns, no line longer than `WIDTH`."""
        full = [row for row in (self.headers, *self.rows) if len(row) == len(self.headers)]
        widths = [max(len(row[column]) for row in full) for column in range(len(self.headers))]
        for row in self.rows:
            for column in range(min(len(row) - 1, self.left)):
                widths[column] = max(widths[column], len(row[column]))
        lines = [self._line(row, widths) for row in (self.headers, *self.rows)]
        return "\n".join(line if len(line) <= WIDTH else line[: WIDTH - 3] + "..." for line in lines)

    def markdown(self) -> str:
        """A table with pipes."""
        rule = tuple("---" if column < self.left else "---:" for column in range(len(self.headers)))
        padded = ((*row, *("",) * (len(self.headers) - len(row))) for row in self.rows)
        return "\n".join("| " + " | ".join(row) + " |" for row in (self.headers, rule, *padded))

    def _line(self, row: tuple[str, ...], widths: Sequence[int]) -> str:
        cells = []
        for column, cell in enumerate(row):
            remark = len(row) < len(self.headers) and column == len(row) - 1
            left = remark or column < self.left
            cells.append(cell if remark else cell.ljust(widths[column]) if left else cell.rjust(widths[column]))
        return "  ".join(cells).rstrip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One line of the section "Targets": a number that must not pass its limit, from above if `at_least`."""

    text: str
    measured: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """None where nothing was measured."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def row(self) -> tuple[str, ...]:
        """Its line in the table of targets."""
        verdict = {True: "yes", False: "NO", None: "void"}[self.met]
        measured = "-" if self.measured is None else number(self.measured)
        return (self.text, f"{'>=' if self.at_least else '<='} {self.limit:g}", measured, verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of one benchmark."""

    name: str
    title: str
    notes: tuple[str, ...] = ()
    table: Table
    targets: tuple[Target, ...] = ()
    results: Results

    def render(self, *, markdown: bool) -> str:
        """Title, notes, measurements, targets."""
        notes = list(self.notes)
        if self.results.missing:
            notes.append(f"Missing on this machine: {', '.join(self.results.missing)}.")
        goals = Table(("target", "limit", "measured", "met"), tuple(target.row() for target in self.targets))
        if markdown:
            parts = [f"## {self.title}", *notes, self.table.markdown()]
            return "\n\n".join([*parts, goals.markdown()] if self.targets else parts)
        parts = [f"{self.title}\n{'=' * min(len(self.title), WIDTH)}", *(wrap(note) for note in notes)]
        return "\n\n".join([*parts, self.table.text(), *([goals.text()] if self.targets else [])])

    def document(self) -> dict[str, object]:
        """Everything, for JSON."""
        targets = [asdict(target) | {"met": target.met} for target in self.targets]
        return {"name": self.name, "title": self.title, "notes": list(self.notes), "targets": targets} | (
            self.results.document()
        )


def wrap(text: str) -> str:
    """The text in lines of at most `WIDTH`."""
    return textwrap.fill(text, WIDTH)


def number(value: float) -> str:
    """Three digits that matter."""
    magnitude = abs(value)
    return f"{value:.0f}" if magnitude >= 100 else f"{value:.1f}" if magnitude >= 10 else f"{value:.3g}"


def seconds(value: float) -> str:
    """Seconds, three decimals."""
    return f"{value:.3f}" if value < 100 else f"{value:.1f}"


def cost_table(results: Results, rows: Sequence[str], tools: Sequence[str]) -> Table:
    """One line for each row and tool, a missing tool in the first row alone; a ratio is eoctl / that tool."""
    lines = [line for row in rows for line in _cost_lines(results, row, tools, name_missing=row == rows[0])]
    headers = ("", "tool", "wall s", "cpu s", "peak MiB", "ratio", "cpu ratio")
    return Table(headers, tuple(lines), left=2)


def _cost_lines(results: Results, row: str, tools: Sequence[str], *, name_missing: bool) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for tool in tools:
        first = "" if lines else row
        if row in results.sizes:
            size = results.median_size(row, tool)
            if size is not None:
                own = results.median_size(row, SUBJECT)
                ratio = number(own / size) if own is not None and size and tool != SUBJECT else ""
                lines.append((first, tool, f"{size / MB:.1f} MB" + (f", ratio {ratio}" if ratio else "")))
        elif reason := results.void_reason(row, tool):
            lines.append((first, tool, f"void: {reason}"))
        elif tool in results.missing and name_missing:
            lines.append((first, tool, "missing"))
        elif (wall := results.median(row, tool, "wall_seconds")) is not None:
            cpu = results.median(row, tool, "cpu_seconds") or 0.0
            peak = results.peak(row, tool) or 0.0
            own_wall = results.median(row, SUBJECT, "wall_seconds")
            own_cpu = results.median(row, SUBJECT, "cpu_seconds")
            compared = own_wall is not None and own_cpu is not None and tool != SUBJECT
            ratios = (number((own_wall or 0) / wall), number((own_cpu or 0) / cpu) if cpu else "-")
            lines.append(
                (
                    first,
                    tool,
                    seconds(wall),
                    seconds(cpu),
                    f"{peak / MIB:.0f}",
                    *(ratios if compared else ("", "")),
                )
            )
    return lines
