"""What was measured: samples by row and tool, and their medians. One void sample makes its row void."""

from __future__ import annotations

import shlex
import statistics
from dataclasses import asdict, dataclass, field
from typing import Literal

from scripts.benchmarks.measure import Command, Sample

Metric = Literal["wall_seconds", "cpu_seconds", "peak_bytes"]


@dataclass(slots=True)
class Results:
    """All samples of one benchmark."""

    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    sizes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    commands: dict[str, dict[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def add(self, row: str, tool: str, sample: Sample, commands: tuple[Command, ...] = ()) -> None:
        """Records a sample, and the command line of the first one."""
        self.samples.setdefault(row, {}).setdefault(tool, []).append(sample)
        if commands:
            typed = " && ".join(shlex.join(command) for command in commands)
            self.commands.setdefault(row, {}).setdefault(tool, typed)

    def add_size(self, row: str, tool: str, size_bytes: int) -> None:
        """Records a number of bytes."""
        self.sizes.setdefault(row, {}).setdefault(tool, []).append(size_bytes)

    def void_reason(self, row: str, tool: str) -> str:
        """Why this row of the tool is void, or empty."""
        return next((sample.error for sample in self._of(row, tool) if sample.error), "")

    def median(self, row: str, tool: str, metric: Metric) -> float | None:
        """The median over all samples; None if there are none or one is void."""
        samples = self._of(row, tool)
        if not samples or self.void_reason(row, tool):
            return None
        values: list[float] = [getattr(sample, metric) for sample in samples]
        return statistics.median(values)

    def median_size(self, row: str, tool: str) -> float | None:
        """The median number of bytes, or None."""
        sizes = self.sizes.get(row, {}).get(tool)
        return statistics.median(sizes) if sizes else None

    def peak(self, row: str, tool: str) -> float | None:
        """The highest peak of memory of all samples, in bytes; None as in `median`."""
        samples = self._of(row, tool)
        return None if not samples or self.void_reason(row, tool) else max(sample.peak_bytes for sample in samples)

    def take_row(self, row: str, other: Results, name: str) -> None:
        """Takes one row of other results in, under another name."""
        self.samples[name] = other.samples.get(row, {})
        self.commands[name] = other.commands.get(row, {})

    def document(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "samples": {
                row: {tool: [asdict(sample) for sample in samples] for tool, samples in by_tool.items()}
                for row, by_tool in self.samples.items()
            },
            "sizes": self.sizes,
            "commands": self.commands,
            "missing": list(self.missing),
        }

    def _of(self, row: str, tool: str) -> list[Sample]:
        return self.samples.get(row, {}).get(tool, [])
