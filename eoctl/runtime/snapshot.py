"""One subtask's part of a checkpoint: taken at once, written in the background."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from eoctl.runtime.channels import Channel
from eoctl.runtime.coordinator import Ref
from eoctl.runtime.records import Batch
from eoctl.runtime.sources.protocol import Position
from eoctl.runtime.state.backend import Frozen, TableFile
from formats.inflight import InFlight, write_inflight
from formats.manifest import Engine, StateInfo, Transaction


class SubtaskFiles(Struct, frozen=True, kw_only=True):
    """What a subtask hands over: files below `directory`, and what goes into the manifest itself."""

    subtask: Ref
    checkpoint: int
    directory: Path
    tables: tuple[TableFile, ...]
    states: tuple[StateInfo, ...]
    engine: Engine
    in_flight: str = ""  # a file name
    in_flight_bytes: int = 0
    offsets: Mapping[str, Position] | None = None  # of a source
    transactions: tuple[Transaction, ...] | None = None  # of a sink
    watermark: int | None = None
    alignment_seconds: float = 0.0
    snapshot_seconds: float = 0.0
    audit_lines: int = 0
    audit_head: str = ""

    @property
    def names(self) -> frozenset[str]:
        names = {self.directory.name, *(table.name for table in self.tables)}
        return frozenset(names | {self.in_flight} if self.in_flight else names)


class Capture:
    """Records of channels that belong to a checkpoint, in the order of each channel."""

    def __init__(self) -> None:
        self._entries: list[InFlight] = []

    def add(self, side: str, channel: Channel, batches: list[Batch]) -> None:
        """The records are captured; they are not taken out of the channel."""
        for batch in batches:
            self._entries.append(
                InFlight(
                    "in" if side == "in" else "out",
                    channel.upstream[0],
                    channel.upstream[1],
                    channel.target[0],
                    channel.gate,
                    channel.target[1],
                    batch.values,
                    batch.timestamps,
                    batch.keys,
                )
            )

    def write(self, path: Path) -> int:
        """The records are in a file, if there are any; its size."""
        if not self._entries:
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            return write_inflight(file, self._entries)


class Taken(Struct, kw_only=True):
    """A snapshot between being taken and being written."""

    subtask: Ref
    checkpoint: int
    frozen: Frozen
    engine: Engine
    states: tuple[StateInfo, ...]
    captured: Capture
    name: str  # of the in-flight file
    offsets: Mapping[str, Position] | None
    transactions: tuple[Transaction, ...] | None
    watermark: int | None
    alignment_seconds: float = 0.0
    snapshot_seconds: float = 0.0

    def write(self) -> SubtaskFiles:
        """It is on local disk. Runs in the background."""
        tables = self.frozen.write()
        directory = self.frozen.directory
        in_flight_bytes = self.captured.write(directory / self.name)
        return SubtaskFiles(
            subtask=self.subtask,
            checkpoint=self.checkpoint,
            directory=directory,
            tables=tables,
            states=self.states,
            engine=self.engine,
            in_flight=self.name if in_flight_bytes else "",
            in_flight_bytes=in_flight_bytes,
            offsets=self.offsets,
            transactions=self.transactions,
            watermark=self.watermark,
            alignment_seconds=self.alignment_seconds,
            snapshot_seconds=self.snapshot_seconds,
        )
