"""One subtask: its inputs and outputs, its part in checkpoints, and the step it takes when it is its turn.

A step handles one element of one input, or reads one batch from a source. Rules kept here: an element is taken only
from an input that is not blocked, and only while every output has room, but for barriers, which never wait; a snapshot
is taken between two elements, and the barrier leaves by every output before anything else does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from eoctl.runtime.alignment import Action, Aligner, Captured, GivenUp, Snapshot
from eoctl.runtime.channels import Channel
from eoctl.runtime.coordinator import Ref
from eoctl.runtime.graph import Partition
from eoctl.runtime.keys import Split
from eoctl.runtime.operators.protocol import Operator
from eoctl.runtime.reading import Reading
from eoctl.runtime.records import END_OF_TIME, NO_TIME, Barrier, Batch, Watermark
from eoctl.runtime.sinks.protocol import NotNowError
from eoctl.runtime.sinks.second_phase import SecondPhase
from eoctl.runtime.snapshot import Capture, Taken
from eoctl.runtime.state.backend import StateBackend

Clock = Callable[[], float]


class Output:
    """An edge as the sender meets it: a channel to each subtask that it may send to."""

    def __init__(
        self,
        channels: list[Channel],
        partition: Partition,
        split: Split | None = None,
        key: Callable[[Any], Hashable] | None = None,
    ) -> None:
        self.channels = channels
        self._partition = partition
        self._split = split
        self._key = key
        self._turn = 0

    @property
    def full(self) -> bool:
        return any(channel.full for channel in self.channels)

    def emit(self, batch: Batch) -> None:
        match self._partition:
            case Partition.FORWARD:
                self.channels[0].put(batch)
            case Partition.KEYED:
                assert self._split is not None
                keys = batch.keys if self._key is None else list(map(self._key, batch.values))
                for subtask, part in self._split.batches(Batch(batch.values, batch.timestamps, keys)):
                    self.channels[subtask].put(part)
            case Partition.REBALANCE:
                self._turn = (self._turn + 1) % len(self.channels)
                self.channels[self._turn].put(batch)
            case Partition.BROADCAST:
                for channel in self.channels:
                    channel.put(batch)


class Subtask:
    """A source, which has a `reading`, or an operator; a sink is one with a second phase."""

    def __init__(
        self,
        ref: Ref,
        *,
        inputs: list[Channel],
        outputs: list[Output],
        aligner: Aligner,
        state: StateBackend,
        directory: Path,
        prefix: str,
        clock: Clock,
        unaligned: bool = False,
    ) -> None:
        self.ref = ref
        self.inputs = inputs
        self.outputs = outputs
        self.aligner = aligner
        self.state = state
        self.directory = directory
        self.operator: Operator | None = None
        self.reading: Reading | None = None
        self.second_phase: SecondPhase | None = None
        self.watermark = NO_TIME
        self.records_in = 0
        self.taken: list[Taken] = []  # whole, for the executor to have written
        self.refused: list[tuple[int, str]] = []  # checkpoints, and why
        self._watermarks = [NO_TIME] * len(inputs)
        self._saved_watermark = NO_TIME
        self._under_way: Taken | None = None
        self._refused = 0
        self._clock = clock
        self._prefix = prefix
        self._unaligned = unaligned
        self._turn = 0
        self._over = 0  # checkpoints up to this one are not begun any more

    # Steps.

    def ready(self) -> list[int]:
        """Inputs from which an element can be taken now; of a source [0], if it may read."""
        room = not any(output.full for output in self.outputs)
        if self.reading is not None:
            return [0] if room and not self.reading.ended else []
        return [
            place
            for place, channel in enumerate(self.inputs)
            if channel.queue and not self.aligner.blocks(place) and (room or isinstance(channel.queue[0], Barrier))
        ]

    def step(self, place: int | None = None) -> bool:
        """One element was handled, of this input or of the next in turn. False: nothing could be done."""
        if place is None:
            ready = self.ready()
            if not ready:
                return False
            self._turn += 1
            place = ready[self._turn % len(ready)]
        if self.reading is not None:
            return self._read()
        channel = self.inputs[place]
        element = channel.take()
        match element:
            case Batch():
                if self.aligner.captures(place):
                    self._capture.add("in", channel, [element])
                self.records_in += len(element)
                self._emit(self._operator.process(element, channel.gate))
            case Watermark(time):
                self._watermarks[place] = time
                self._advance(min(self._watermarks))
            case Barrier(checkpoint, unaligned):
                self._act(self.aligner.received(place, checkpoint, self._clock(), unaligned=unaligned))
        return True

    def tick(self) -> None:
        """An alignment that has lasted too long goes on unaligned."""
        now = self._clock()
        for channel in self.inputs:
            for barrier in channel.arrived:
                self.aligner.announced(barrier.checkpoint, now)
            channel.arrived.clear()
        late = self.aligner.overdue(now)
        if late is not None and self.inputs:
            self._act(self.aligner.go_unaligned(late, now))

    # Checkpoints.

    def begin(self, checkpoint: int) -> None:
        """Of a source: the snapshot is taken, and the barrier is on its way."""
        if checkpoint > self._over:
            self._over = checkpoint
            self._act([Snapshot(checkpoint, self._unaligned), Captured(checkpoint)])

    def drop(self, checkpoint: int) -> None:
        """The checkpoint was aborted."""
        self._over = max(self._over, checkpoint)
        if self.inputs:
            self._act(self.aligner.aborted(checkpoint))

    def reopen(self, watermark: int | None) -> None:
        """After a restore: time goes on where it was, behind what was in flight."""
        if watermark is not None:
            self._saved_watermark = watermark
            if self.reading is not None:
                self.reading.resume(watermark)
            self._advance(watermark)

    @property
    def _operator(self) -> Operator:
        assert self.operator is not None, "a source has no inputs"
        return self.operator

    @property
    def _capture(self) -> Capture:
        assert self._under_way is not None, "captured after the snapshot"
        return self._under_way.captured

    def _read(self) -> bool:
        assert self.reading is not None
        batch, time = self.reading.poll()
        if batch is not None:
            self.records_in += len(batch)
            self._emit(batch)
        if time > self.watermark:
            self._advance(time)
            return True
        return batch is not None

    def _advance(self, time: int) -> None:
        if time <= self.watermark:
            return
        self.watermark = time
        if time != END_OF_TIME:
            self._saved_watermark = time
        if self.operator is not None:
            self._emit(self.operator.advance(time))
        mark = Watermark(time)
        for output in self.outputs:
            for channel in output.channels:
                channel.put(mark)

    def _emit(self, batch: Batch | None) -> None:
        if batch is not None:
            for output in self.outputs:
                output.emit(batch)

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Snapshot(checkpoint, unaligned):
                    self._take(checkpoint, unaligned=unaligned)
                case Captured(checkpoint):
                    taken, self._under_way = self._under_way, None
                    assert taken is not None, "the snapshot comes before it is whole"
                    taken.alignment_seconds = self.aligner.alignment_seconds if self.inputs else 0.0
                    if checkpoint != self._refused:
                        self.taken.append(taken)
                case GivenUp():
                    # Its changes are in no other table: they are written, for the next checkpoint to stand on.
                    if self._under_way is not None:
                        self._under_way.checkpoint, self._under_way.captured = 0, Capture()
                        self.taken.append(self._under_way)
                    self._under_way = None

    def _take(self, checkpoint: int, *, unaligned: bool) -> None:
        """The state of this moment is frozen; the barrier goes on."""
        began = self._clock()
        if self.operator is not None:
            self.operator.before_snapshot()
        transactions = None
        if self.second_phase is not None:
            try:
                transactions = self.second_phase.pre_commit(checkpoint)
            except NotNowError as error:
                self.refused.append((checkpoint, error.message))
                self._refused = checkpoint
        taken = Taken(
            subtask=self.ref,
            checkpoint=checkpoint,
            frozen=self.state.freeze(),
            engine=self.state.engine,
            states=self.state.describe(),
            captured=Capture(),
            name=f"{self._prefix}{checkpoint:08d}.inflight",
            offsets=None if self.reading is None else self.reading.positions(),
            transactions=transactions,
            watermark=None if self._saved_watermark == NO_TIME else self._saved_watermark,
        )
        self._under_way = taken
        barrier = Barrier(checkpoint, unaligned)
        for channel in [channel for output in self.outputs for channel in output.channels]:
            if unaligned:
                taken.captured.add("out", channel, channel.overtake(barrier))
            else:
                channel.put(barrier)
        taken.snapshot_seconds = self._clock() - began
        for place, channel in enumerate(self.inputs) if unaligned else ():
            # A barrier that waits behind records is taken out, and the records are in flight.
            before = channel.advance(checkpoint) if self.aligner.captures(place) else None
            if before is not None:
                taken.captured.add("in", channel, before)
                self._act(self.aligner.received(place, checkpoint, self._clock()))
