"""Too large for its timeout: a user who never goes idle, a session that never ends, checkpoints that take too long.

Days pass on a virtual clock; an uplink of 2 KB/s is the bottleneck. A checkpoint has to be up within 10 minutes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct
from msgspec.structs import replace

from eoctl.runtime import coordinator
from eoctl.runtime.deployment import deploy
from eoctl.runtime.executor import Ended, Executor, PipelineFailedError
from eoctl.runtime.graph import Node
from eoctl.runtime.operators.keyed import KeyedContext, ValueState
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.publishing import Publication, publish
from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sources.protocol import NOTHING_YET, Polled, Position
from eoctl.runtime.state.heap import HeapFrozen, HeapState
from eoctl.runtime.windows import Session, collecting
from eoctl.runtime.wire import LocalWire
from eoctl.services.check import Limits, check_pipeline
from eoctl.services.checkpoint import Opened
from formats.ids import HashAlgorithm, PipelineId
from storage.backend import Body, Key, Place
from storage.backends.memory import MemoryBackend
from storage.head import Ambient
from storage.session import open_writer
from storage.store import init_store
from storage.transfer import alone
from tests.support.fakes import FakeAmbient, time_text

HOUR, DAY = 3600, 86_400
UPLINK = 2000  # bytes in a second
TIMEOUT = 600
PERIOD = 432  # seconds between two events of the user who is never idle
USERS, PAYLOAD = 1000, 500
FOREVER = 10**15  # milliseconds
NAME = PipelineId("sessions")
pytestmark = pytest.mark.slow


class Clock:
    """Virtual seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def ambient(self) -> Ambient:
        ids = FakeAmbient().ambient()
        return Ambient(
            now=lambda: time_text(self.now),
            elapsed=lambda: self.now,
            new_id=ids.new_id,
            wait=lambda _: None,
            host=ids.host,
        )


class Remote(MemoryBackend):
    """A store behind the uplink: what is created there is there when the upload is over."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=lambda: 0.0)
        self._virtual = clock
        self.arrives_at = 0.0

    def create(self, key: Key, body: Body) -> bool:
        self._virtual.now = max(self._virtual.now, self.arrives_at)
        return super().create(key, body)


class Job:
    """An upload under way, or something that takes no time."""

    def __init__(self, work: Callable[[], Any], due: float) -> None:
        self.due = due
        self._work: Callable[[], Any] | None = work
        self._began = 0.0
        self._outcome: Any = None
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        return self._work is None

    def run(self) -> None:
        assert self._work is not None
        try:
            self._outcome = self._work()
        except Exception as error:  # noqa: BLE001  (told by `result`)
            self._error = error
        self._work = None

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._outcome


class Uplink:
    """A background whose publications take as long as their new bytes need."""

    def __init__(self, clock: Clock, remote: Remote) -> None:
        self.job: Job | None = None
        self._clock = clock
        self._remote = remote
        self._began = 0.0
        self._new: set[Path] = set()
        self._there: set[Path] = set()

    def submit(self, work: Callable[[], Any]) -> Any:
        if isinstance(work, partial) and work.func is publish:
            publication: Publication = work.args[1]
            files = {part.directory / table.name for part in publication.parts.values() for table in part.tables}
            self._new = files - self._there
            self._began = self._clock.now
            self.job = Job(work, self._clock.now + sum(path.stat().st_size for path in self._new) / UPLINK)
            return self.job
        job = Job(work, self._clock.now)
        job.run()
        return job

    def finish(self) -> None:
        """The upload under way is over."""
        job = self.job
        assert job is not None
        self._remote.arrives_at, self._clock.now = job.due, self._began
        with alone():
            job.run()
        self._clock.now = max(self._clock.now, job.due)
        if job._error is None:
            self._there |= self._new
        self.job = None


class FullHeap(HeapState):
    """State of which every checkpoint writes everything."""

    def freeze(self) -> HeapFrozen:
        for table in self._tables.values():
            table.everything_changed()
        self.files.clear()
        return super().freeze()


def full(directory: Path, node: Node, prefix: str) -> HeapState:
    return FullHeap(directory, node.max_parallelism, prefix)


class Visits(Struct, frozen=True):
    """Everybody comes once on the first day; one user never goes away."""

    clock: Clock
    replayable: bool = True

    def splits(self) -> tuple[str, ...]:
        return ("visits",)

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> VisitReader:
        return VisitReader(self.clock)


class VisitReader:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 0
        self._rng = random.Random(7)

    def poll(self, limit: int) -> Polled:
        stop = int(self._clock.now / PERIOD) + 1
        if stop <= self._next:
            return NOTHING_YET
        found: list[Any] = [
            ("never-idle", n * PERIOD * 1000, self._rng.randbytes(PAYLOAD)) for n in range(self._next, stop)
        ]
        if self._next == 0:
            found += [(f"user-{n}", n, self._rng.randbytes(PAYLOAD)) for n in range(USERS)]
        self._next = stop
        return Polled(Batch(found), "visits")

    def positions(self) -> Mapping[str, Position]:
        return {"visits": self._next}

    def close(self) -> None:
        pass


class Told(Struct, frozen=True):
    """What became of the pipeline: when `pipeline check` first warned, when and why it failed, how long it took."""

    warned_on: float | None
    failed_on: float | None
    reason: str
    seconds: list[float]
    aborted: int


def live(tmp_path: Path, days: int, max_length: int, *, incremental: bool) -> Told:
    """The pipeline ran for so many days, or failed before."""
    clock = Clock()
    remote = Remote(clock)
    place = Place(url="memory:", backend=remote, scratch=tmp_path / "scratch", make_folders=lambda _: None)
    place.scratch.mkdir()
    store = init_store(place, HashAlgorithm.BLAKE3, clock.ambient())
    options = Options(interval=6 * HOUR, timeout=TIMEOUT, tolerable_failures=3)
    pipeline = Pipeline(NAME.name, options=options)
    visits = pipeline.source("visits", Visits(clock), time=lambda visit: visit[1])
    by_user = visits.key_by(lambda visit: visit[0], type="string")
    by_user.process("profiles", remember, states=[ValueState("last")]).sink("none", Files(tmp_path / "none"))
    by_user.window("sessions", Session(2 * HOUR * 1000, max_length), collecting()).map(
        "length", lambda session: (*session[:3], len(session[3]))
    ).sink("out", Files(tmp_path / "out"))
    settings = pipeline.settings if incremental else replace(pipeline.settings, make_state=full)
    opened = Opened(store, NAME, *open_writer(store, NAME))
    subtasks = deploy(
        opened, graph := pipeline.graph(), settings, None, tmp_path / "w", lambda: clock.now, lambda *_: None
    )
    uplink = Uplink(clock, remote)
    ended: list[Ended] = []
    executor = Executor(
        opened,
        graph,
        subtasks,
        pipeline.rules,
        clock=lambda: clock.now,
        wire=LocalWire(),
        background=uplink,
        on_end=ended.append,
    )
    warned: float | None = None
    seen = 0
    reason = ""
    try:
        while clock.now < days * DAY:
            while executor.round():
                pass
            if len(ended) > seen:
                seen = len(ended)
                if warned is None and any(one.limit == "timeout_seconds" for one in warnings(store)):
                    warned = clock.now / DAY
            moments = [clock.now + PERIOD, coordinator.wake_at(pipeline.rules, executor.state)]
            clock.now = min([*moments, *([] if uplink.job is None else [uplink.job.due])])
            if uplink.job is not None and uplink.job.due <= clock.now:
                uplink.finish()
    except PipelineFailedError as error:
        reason = error.message
    executor.close()
    return Told(
        warned,
        clock.now / DAY if reason else None,
        reason,
        [one.seconds for one in ended if not one.reason],
        sum(bool(one.reason) for one in ended),
    )


def warnings(store: Any) -> Any:
    return check_pipeline(store, NAME, Limits()).warnings


def remember(context: KeyedContext, visit: Any) -> None:
    context.state("last").set(visit[2])


def test_full_checkpoints_of_a_session_that_never_ends_fail_long_after_the_check_warned(tmp_path: Path) -> None:
    told = live(tmp_path, 10, FOREVER, incremental=False)
    assert told.reason == "sessions: 4 checkpoints failed one after the other, the last one: not published within 600 s"
    assert told.aborted == 4, "three may fail"
    assert told.seconds == sorted(told.seconds), "each takes longer than the one before"
    assert told.seconds[-1] <= TIMEOUT
    assert told.warned_on is not None
    assert told.failed_on is not None
    assert told.warned_on < 1.1
    assert told.failed_on > 7


def test_incremental_checkpoints_alone_fail_later(tmp_path: Path) -> None:
    told = live(tmp_path, 14, FOREVER, incremental=True)
    assert told.failed_on is not None
    assert told.failed_on > 10, "a session is one value, written again whenever it grows"
    assert told.warned_on is not None
    assert told.failed_on - told.warned_on > 5


def test_incremental_checkpoints_and_a_maximal_length_cure_it(tmp_path: Path) -> None:
    told = live(tmp_path, 14, DAY * 1000, incremental=True)
    assert (told.reason, told.aborted, told.warned_on) == ("", 0, None)
    assert max(told.seconds[1:]) < TIMEOUT / 10
    assert len(told.seconds) == 55
