"""The driver: one thread that does one thing at a time, in the order that somebody says.

Everything a run does is an *activity*: a subtask handles an element, a message is delivered, something in the
background is found done, a sink commits a transaction, time passes for the coordinator. `round` does them as fast as
they come; `act` does one that a seeded scheduler chose, so that every failure replays.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar, assert_never

from msgspec import Struct

from eoctl.runtime import coordinator
from eoctl.runtime.coordinator import Abort, Acknowledged, Complete, Fail, Publish, Ref, Rules, StopPublishing, Trigger
from eoctl.runtime.deployment import refs_of
from eoctl.runtime.graph import Graph
from eoctl.runtime.publishing import Publication, publish
from eoctl.runtime.records import Barrier
from eoctl.runtime.sinks.protocol import CommitPermit
from eoctl.runtime.snapshot import SubtaskFiles
from eoctl.runtime.subtask import Clock, Subtask
from eoctl.runtime.wire import Begin, Done, Drop, MayCommit, Refused, Wire
from eoctl.services.checkpoint import Opened
from formats.errors import CommitUnknownError, ConflictError, FencedError, OutcomeUnknownError, UnavailableError
from formats.head import HeadEntry

RETRY_SECONDS = 1.0  # after a commit that failed

_Result = TypeVar("_Result")
_Outcome_co = TypeVar("_Outcome_co", covariant=True)


class PipelineFailedError(UnavailableError):
    """The pipeline could not go on; its checkpoints are as they were."""

    kind = "pipeline-failed"


class JobLike(Protocol[_Outcome_co]):
    """Something done in the background (storage/transfer.py)."""

    @property
    def done(self) -> bool: ...

    def result(self) -> _Outcome_co: ...


class BackgroundLike(Protocol):
    """Does what it is given, in order."""

    def submit(self, work: Callable[[], _Result]) -> JobLike[_Result]: ...


class Ended(Struct, frozen=True):
    """A checkpoint that is over. `reason`: why it was aborted; "": it is complete."""

    checkpoint: int
    seconds: float
    reason: str = ""


class _Wish:
    """Whether a checkpoint is still wanted: whoever decides first, decides."""

    def __init__(self) -> None:
        self._answer: dict[str, bool] = {}

    def __call__(self) -> bool:
        return self._answer.setdefault("go on", True)

    def stop(self) -> None:
        self._answer.setdefault("go on", False)


class Executor:
    """One attempt of a pipeline."""

    def __init__(
        self,
        opened: Opened,
        graph: Graph,
        subtasks: list[Subtask],
        rules: Rules,
        *,
        clock: Clock,
        wire: Wire,
        background: BackgroundLike,
        properties: Callable[[], dict[str, str]] = dict,
        on_end: Callable[[Ended], None] = lambda _: None,
    ) -> None:
        self.subtasks = subtasks
        self.finished = False
        self.state = coordinator.begin(refs_of(graph), opened.store.head(opened.pipeline).head.last_id, clock(), rules)
        self._opened = opened
        self._graph = graph
        self._rules = rules
        self._clock = clock
        self._wire = wire
        self._background = background
        self._properties = properties
        self._on_end = on_end
        self._by_ref: dict[Ref, Subtask] = {subtask.ref: subtask for subtask in subtasks}
        self._sources = [subtask for subtask in subtasks if subtask.reading is not None]
        self._sinks = [subtask for subtask in subtasks if subtask.second_phase is not None]
        self._timed = any(subtask.aligner.timeout_seconds for subtask in subtasks)
        self._began: dict[int, float] = {}
        self._parts: dict[int, dict[Ref, SubtaskFiles]] = {}
        self._writing: list[JobLike[SubtaskFiles]] = []
        self._publishing: tuple[int, JobLike[HeadEntry], _Wish] | None = None
        self._sweeping: JobLike[None] | None = None
        self._files: dict[int, list[SubtaskFiles]] = {}  # of checkpoints that are not over
        self._entries: dict[int, HeadEntry] = {}
        self._last = 0  # the checkpoint after which the run is over
        self._stopping = False
        self._retry_at: dict[Ref, float] = {}

    # Driving.

    def round(self) -> bool:
        """Whatever could be done was done once. False: there was nothing to do now."""
        now = self._clock()
        worked = self.deliver()
        worked |= self.collect()
        if now >= coordinator.wake_at(self._rules, self.state):
            self.tick()
        for subtask in self.subtasks:
            if self._timed:
                subtask.tick()
            if self._may_step(subtask) and subtask.step():
                worked = True
                while subtask.reading is None and subtask.step():
                    pass
            if subtask.taken or subtask.refused:
                self._hand_over(subtask)
        for subtask in self._sinks:
            worked |= self.commit(subtask)
        self._look_for_the_end()
        return worked

    def act(self, choose: Callable[[int], int]) -> None:
        """One thing was done, or found not to be possible now; `choose(n)` says which of n."""
        others = (self.deliver, self.collect, self.tick, self._look_for_the_end)
        number = choose(len(self.subtasks) + len(others))
        if number >= len(self.subtasks):
            others[number - len(self.subtasks)]()
            return
        subtask = self.subtasks[number]
        if self._timed:
            subtask.tick()
        if subtask.taken or subtask.refused:
            self._hand_over(subtask)
        elif self.commit(subtask):
            pass
        elif self._may_step(subtask) and (ready := subtask.ready()):
            subtask.step(ready[choose(len(ready))])

    def stop(self) -> None:
        """Nothing more is read; after a last checkpoint the run is over."""
        self._stopping = True

    @property
    def busy(self) -> bool:
        """Something is done in the background."""
        return bool(self._writing or self._publishing or self._sweeping)

    def close(self) -> None:
        """Readers and writers hold nothing open."""
        for subtask in self.subtasks:
            subtask.state.close()
            if subtask.reading is not None:
                subtask.reading.close()
            if subtask.second_phase is not None:
                subtask.second_phase.close()

    # Activities.

    def deliver(self) -> bool:
        """The messages that have arrived are handled."""
        worked = False
        while (message := self._wire.receive()) is not None:
            worked = True
            subtask = self._by_ref[message.subtask]
            match message:
                case Begin(checkpoint=checkpoint):
                    subtask.begin(checkpoint)
                    self._hand_over(subtask)
                case Drop(checkpoint=checkpoint):
                    subtask.drop(checkpoint)
                case MayCommit(permit=permit):
                    assert subtask.second_phase is not None
                    subtask.second_phase.permit(permit)
                case Done(ref, checkpoint, files):
                    if checkpoint in self._parts:
                        self._parts[checkpoint][ref] = files
                    self._decide(Acknowledged(checkpoint, ref))
                case Refused(ref, checkpoint, reason):
                    self._decide(coordinator.Declined(checkpoint, ref, reason))
                case _:
                    assert_never(message)
        return worked

    def collect(self) -> bool:
        """What is done in the background is taken up. Raises: what it raised, where the pipeline cannot go on."""
        worked = False
        while self._writing and self._writing[0].done:
            files = self._writing.pop(0).result()
            if files.checkpoint in self._files:
                self._files[files.checkpoint].append(files)
            self._wire.send(Done(files.subtask, files.checkpoint, files))
            worked = True
        if self._sweeping is not None and self._sweeping.done:
            self._sweeping.result()
            self._sweeping = None
        if self._publishing is not None and self._publishing[1].done:
            checkpoint, job, _ = self._publishing
            self._publishing = None
            worked = True
            try:
                self._entries[checkpoint] = job.result()
            except (FencedError, CommitUnknownError):
                raise
            except (UnavailableError, OutcomeUnknownError, ConflictError) as error:
                # Also a blob whose fate is unknown: without the swap of HEAD nothing names it.
                self._decide(coordinator.NotPublished(checkpoint, error.message))
            else:
                self._decide(coordinator.Published(checkpoint))
        return worked

    def tick(self) -> None:
        """Time passes for the coordinator."""
        self._decide(coordinator.Tick())

    def commit(self, subtask: Subtask) -> bool:
        """The sink commits one transaction, if it may; one that failed is tried again after a while."""
        second = subtask.second_phase
        if second is None or second.due is None or self._retry_at.get(subtask.ref, 0.0) > self._clock():
            return False
        second.commit_next()
        if second.failure is not None:
            self._retry_at[subtask.ref] = self._clock() + RETRY_SECONDS
            return False
        return True

    # Checkpoints.

    def _decide(self, event: coordinator.Event) -> None:
        now = self._clock()
        self.state, commands = coordinator.decide(self._rules, self.state, event, now)
        for command in commands:
            match command:
                case Trigger(checkpoint):
                    self._trigger(checkpoint, now)
                case Publish(checkpoint):
                    self._publish(checkpoint, now)
                case StopPublishing():
                    if self._publishing is not None:
                        self._publishing[2].stop()
                case Complete(checkpoint):
                    permit = CommitPermit(self._entries.pop(checkpoint), self._opened.attempt)
                    for sink in self._sinks:
                        self._wire.send(MayCommit(sink.ref, permit))
                    self._end(Ended(checkpoint, now - self._began.pop(checkpoint)))
                case Abort(checkpoint, reason):
                    self._parts.pop(checkpoint, None)
                    for subtask in self.subtasks:
                        self._wire.send(Drop(subtask.ref, checkpoint))
                    self._end(Ended(checkpoint, now - self._began.pop(checkpoint), reason))
                case Fail(reason):
                    raise PipelineFailedError(f"{self._opened.pipeline}: {reason}", hint="run it again to recover")
                case _:
                    assert_never(command)

    def _trigger(self, checkpoint: int, now: float) -> None:
        self._began[checkpoint] = now
        self._parts[checkpoint] = {}
        self._files[checkpoint] = []
        if self._last == 0 and self._drained:
            self._last = checkpoint
        for source in self._sources:
            self._wire.send(Begin(source.ref, checkpoint))

    def _publish(self, checkpoint: int, now: float) -> None:
        publication = Publication(
            checkpoint=checkpoint,
            graph=self._graph,
            parts=self._parts.pop(checkpoint),
            seconds=now - self._began[checkpoint],
            timeout_seconds=self._rules.timeout_seconds,
            properties=self._properties(),
        )
        wish = _Wish()
        job = self._background.submit(partial(publish, self._opened, publication, wish))
        self._publishing = checkpoint, job, wish

    def _end(self, ended: Ended) -> None:
        if ended.reason and ended.checkpoint == self._last:
            self._last = 0
        del self._files[ended.checkpoint]
        if self._sweeping is None and not self._writing:
            # Nothing is being written that is not in `_files`, and what is begun later is written after the sweep.
            kept: dict[Ref, frozenset[str]] = {}
            for files in (one for found in self._files.values() for one in found):
                kept[files.subtask] = kept.get(files.subtask, frozenset()) | files.names
            self._sweeping = self._background.submit(partial(_sweep, self.subtasks, kept))
        self._on_end(ended)

    def _hand_over(self, subtask: Subtask) -> None:
        """Whole snapshots are written in the background."""
        for taken in subtask.taken:
            self._writing.append(self._background.submit(taken.write))
        for checkpoint, reason in subtask.refused:
            self._wire.send(Refused(subtask.ref, checkpoint, reason))
        subtask.taken.clear()
        subtask.refused.clear()

    # The end.

    def _may_step(self, subtask: Subtask) -> bool:
        return not (self._stopping and subtask.reading is not None)

    @property
    def _drained(self) -> bool:
        """No record is left anywhere, or none is to be read any more."""
        if self._stopping:
            return True
        return all(source.reading is not None and source.reading.ended for source in self._sources) and all(
            isinstance(element, Barrier)
            for subtask in self.subtasks
            for channel in subtask.inputs
            for element in channel.queue
        )

    def _look_for_the_end(self) -> None:
        """A last checkpoint is taken once everything is read, so that what sinks hold becomes visible."""
        if self.finished or not self._drained:
            return
        if self._last == 0:
            if not self.state.wanted:
                self._decide(coordinator.Wanted())
        elif self.state.complete >= self._last:
            seconds = [sink.second_phase for sink in self._sinks if sink.second_phase is not None]
            pending = (one for second in seconds for one in second.pending)
            self.finished = all(one.checkpoint > self._last for one in pending)


def _sweep(subtasks: list[Subtask], kept: dict[Ref, frozenset[str]]) -> None:
    for subtask in subtasks:
        subtask.state.sweep(kept.get(subtask.ref, frozenset()))
