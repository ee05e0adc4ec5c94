"""The place itself, the network in front of it, and the clocks: what the processes of a run share."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from eoctl.ambient import format_time
from eoctl.selftest.faults import Crash, Fault
from eoctl.selftest.oracle import Oracle
from eoctl.selftest.schedule import Scheduler
from eoctl.selftest.wire import DAY, HOUR, Wire
from storage.backend import (
    CopyOf,
    Key,
    Place,
    Unfinished,
    Version,
)
from storage.backends.memory import MemoryBackend
from storage.head import Ambient
from storage.pins import SYNC_FAILED
from storage.store import Store, StoreRecord

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
FAULT_RATE = 1 / 20
SLOWNESS = (1.0, 1.0, 1.0, 40.0)  # one host of four takes so much longer
TRACE_TAIL = 60
_FIRST, _LAST = datetime(1971, 1, 1, tzinfo=UTC), datetime(9990, 1, 1, tzinfo=UTC)


class World:
    """One store, everything that reaches it, and what is known of it. `settle` ends all trouble."""

    def __init__(self, seed: int, scratch: Path, record: StoreRecord) -> None:
        self.scheduler = Scheduler()
        self.rng = random.Random(f"eoctl selftest {seed}")
        self.scratch = scratch
        self.record = record
        self.rate = FAULT_RATE
        self.memory = MemoryBackend(clock=lambda: self.moment(self.store_skew).timestamp())
        self.values = self.memory._values  # noqa: SLF001  (the oracle looks at the bytes themselves)
        self.oracle = Oracle(self.values, record.hash)
        self.faults: Counter[Fault] = Counter()
        self.store_skew = 0.0
        self.calls = 0
        self.tail: deque[str] = deque(maxlen=TRACE_TAIL)
        self.processes = 0
        self.unfinished: dict[str, float] = {}
        self.volatile: dict[str, Process] = {}  # what the disk failed to make durable, and who was told
        self._hash = hashlib.blake2b(digest_size=16)

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()

    def moment(self, skew: float) -> datetime:
        """What a clock shows that is wrong by so much."""
        try:
            return min(_LAST, max(_FIRST, EPOCH + timedelta(seconds=self.scheduler.now + skew)))
        except OverflowError:
            return _LAST if skew > 0 else _FIRST

    def trace(self, line: str) -> None:
        line = f"{self.scheduler.now:.3f} {line}"
        self._hash.update(line.encode())
        self.tail.append(line)

    def settle(self) -> None:
        """No more faults; the clocks are right."""
        self.rate = 0.0
        self.store_skew = 0.0

    def jump(self) -> float:
        """By how much a clock is wrong now: often not at all, else by minutes to years, to either side."""
        size = self.rng.choice((0.0, 0.0, 120.0, HOUR, 7 * HOUR, 3 * DAY, 40 * DAY, 700 * DAY, 30_000 * DAY))
        return size * self.rng.choice((-1, 1))

    def delay(self) -> float:
        """Of what comes late: seconds or days."""
        return self.rng.choice((10.0, HOUR, DAY, 10 * DAY)) * self.rng.random()

    # Effects, checked as they happen

    def create(self, key: Key, body: bytes | CopyOf, by: Process) -> bool:
        created = self.memory.create(key, body)
        if created:
            self.oracle.created(key)
            if isinstance(body, bytes) and SYNC_FAILED.encode() in body and "/pin/" in key.path:
                by.reacted = by.reacted or self.processes
        elif key.path in self.volatile:
            # Whoever was at work already makes it durable by its own sync; those who came later were warned.
            told = self.volatile[key.path]
            if by is not told and (told.reacted == 0 or by.number <= told.reacted):
                del self.volatile[key.path]
        return created

    def swap(self, key: Key, body: bytes, expected: Version, by: Process) -> None:
        self.memory.swap(key, body, expected)
        self.oracle.swapped(body)
        by.reacted = by.reacted or self.processes

    def delete(self, keys: Iterable[Key | Unfinished], by: str) -> None:
        for key in keys:
            if isinstance(key, Unfinished):
                self.unfinished.pop(key.key.path, None)
            elif key.path in self.values:
                self.memory.delete([key])
                self.oracle.gone(key.path, by, lawful=by.startswith("gc"))

    def drop_pins(self) -> None:
        """I10: nobody needs them. Word of a failed sync lies among them and stays."""
        for name in [name for name in self.values if "/pin/" in name]:
            if SYNC_FAILED.encode() not in self.values[name][0]:
                del self.values[name]

    def lose(self, key: Key) -> None:
        """The disk loses what it said it could not keep, unless somebody has made it durable since."""
        told = self.volatile.pop(key.path, None)
        if told is not None and told.reacted and key.path in self.values:
            self.trace(f"lost {key}")
            del self.values[key.path]
            self.oracle.lost(key.path)


class Process:
    """One process on one host: a clock that may be wrong, ids of its own, and a backend with faults."""

    def __init__(self, world: World, name: str, host: int, on_stop: Callable[[], None] = lambda: None) -> None:
        world.processes += 1
        self.world = world
        self.name = name
        self.dead = False
        self.stopped = False
        self.skew = 0.0
        self.slowness = world.rng.choice(SLOWNESS)
        self.on_stop = on_stop
        self.held_back: list[Callable[[], None]] = []
        self.number = world.processes
        self.reacted = 0  # how many processes there were when this one, told of a failed sync, had warned the others
        self._ids = 0
        ambient = Ambient(now=self.now, elapsed=self.elapsed, new_id=self.new_id, wait=self.wait, host=f"{host:032x}")
        place = Place(url="memory:", backend=Wire(self), scratch=world.scratch, make_folders=lambda _: None)
        self.store = Store(place=place, record=world.record, ambient=ambient)

    def now(self) -> str:
        return format_time(self.world.moment(self.skew))

    def elapsed(self) -> float:
        return self.world.scheduler.now

    def new_id(self) -> str:
        self._ids += 1
        return f"{self.number:016x}{self._ids:016x}"

    def wait(self, seconds: float) -> None:
        if self.dead:
            raise Crash
        self.world.scheduler.sleep(seconds)

    def die(self) -> Crash:
        self.dead = True
        return Crash()
