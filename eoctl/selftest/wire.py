"""The network and the disk between a process and the place: where things go wrong."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from eoctl.selftest.faults import Crash, Fault, draw
from eoctl.selftest.oracle import Violation
from formats.errors import CommitUnknownError, EoctlError, OutcomeUnknownError, UnavailableError
from storage.backend import (
    Body,
    Folder,
    Found,
    Key,
    LocalFile,
    Reach,
    SyncFailedError,
    Unfinished,
    Version,
    VersionMismatchError,
)

if TYPE_CHECKING:
    from eoctl.selftest.world import Process

HOUR, DAY = 3600.0, 86_400.0
LATENCY = 2.0  # seconds, on average
SUCCEEDED = 0.6  # of the processes that stop; the place of others stays empty, for a day at most
UNSEEN = 0.6  # of what may have happened or not

Result = TypeVar("Result")


class Wire:
    """The six verbs as one process sees them: each takes a while, and one in twenty goes wrong."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world = process.world

    def stat(self, key: Key) -> Found | None:
        return self._read("stat", key, lambda: self._world.memory.stat(key))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self._read("open", key, lambda: self._world.memory.open(key, start, length))

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        if reach is Reach.UNFINISHED:
            world = self._world
            return iter(self._read("list", prefix, lambda: [Unfinished(Key(p), p) for p in sorted(world.unfinished)]))
        return iter(self._read("list", prefix, lambda: [*self._world.memory.list(prefix, reach=reach)]))

    def create(self, key: Key, body: Body) -> bool:
        if isinstance(body, LocalFile):
            data = body.path.read_bytes()
            body.path.unlink()
        else:
            data = body  # type: ignore[assignment]  # bytes or a copy
        return self._write("create", key, lambda: self._world.create(key, data, self._process))

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        return self._write("swap", key, lambda: self._world.swap(key, body, expected, self._process))

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        if wanted:
            first = wanted[0].key if isinstance(wanted[0], Unfinished) else wanted[0]
            self._write("delete", first, lambda: self._world.delete(wanted, self._process.name))

    # One call

    def _begin(self, verb: str, key: Key) -> Fault | None:
        """The request is on its way; others act meanwhile. What will go wrong with it."""
        process, world = self._process, self._world
        if process.dead:
            raise Crash
        world.calls += 1
        fault = draw(world.rng, world.rate, verb)
        if fault is Fault.SYNC_ERROR and verb == "open" and not key.swappable:
            fault = Fault.SERVER_ERROR
        if fault is not None:
            world.faults[fault] += 1
        seconds = process.slowness * world.rng.expovariate(1 / LATENCY)
        if fault is Fault.STOPPED:
            seconds = world.rng.choice((HOUR, DAY, 12 * DAY)) * (0.3 + world.rng.random())
            if not process.stopped and world.rng.random() < SUCCEEDED:
                process.stopped = True
                process.on_stop()
            else:
                seconds = min(seconds, 1.1 * DAY)
        elif fault is Fault.CLOCK_JUMP:
            if world.rng.random() < 0.2:
                world.store_skew = world.jump()
            else:
                process.skew = world.jump()
        elif fault is Fault.KILLED and world.rng.random() < 0.5:
            world.trace(f"{process.name} {verb} {key} killed before")
            raise process.die()
        world.scheduler.sleep(seconds)
        return fault

    def _read(self, verb: str, key: Key, effect: Callable[[], Result]) -> Result:
        fault = self._begin(verb, key)
        world = self._world
        outcome = "read"
        try:
            result = effect()
        except EoctlError as error:
            outcome = error.kind
            raise
        finally:
            world.trace(f"{self._process.name} {verb} {key} {fault or '-'} {outcome}")
        match fault:
            case Fault.LOST_REQUEST | Fault.LOST_REPLY | Fault.SERVER_ERROR | Fault.THROTTLED:
                raise UnavailableError(f"{fault}: {verb} {key}")
            case Fault.SYNC_ERROR:
                raise SyncFailedError(f"{fault}: {verb} {key}")
            case Fault.KILLED:
                raise self._process.die()
            case Fault.SHORT_BODY | Fault.BIT_FLIP if isinstance(result, io.BytesIO):
                return _damaged(world.rng, fault, result)  # type: ignore[return-value]  # a reader too
        return result

    def _write(self, verb: str, key: Key, effect: Callable[[], Result]) -> Result:
        fault = self._begin(verb, key)
        process = self._process
        held_back, process.held_back = process.held_back, []
        outcome = "killed"
        try:
            self._before(fault, verb, key, effect)
            result = effect()
            if self._again(fault, verb, key, effect):
                result = effect()
            outcome = str(result)
        except EoctlError as error:
            outcome = error.kind
            raise
        except Violation:
            held_back.clear()  # it is over
            raise
        finally:
            self._world.trace(f"{process.name} {verb} {key} {fault or '-'} {outcome}")
            for request in held_back:
                request()
        return result

    def _before(self, fault: Fault | None, verb: str, key: Key, effect: Callable[[], object]) -> None:
        """What keeps the effect from happening now, or from being heard of."""
        world, what = self._world, f"{fault}: {verb} {key}"
        match fault:
            case Fault.LOST_REQUEST:
                raise OutcomeUnknownError(what)
            case Fault.THROTTLED:
                raise UnavailableError(what)
            case Fault.LATE:
                world.scheduler.at(world.delay(), self._later(verb, key, effect))
                raise OutcomeUnknownError(what)
            case Fault.REORDERED:
                request = self._later(verb, key, effect)
                self._process.held_back.append(request)
                world.scheduler.at(HOUR, request)
                raise OutcomeUnknownError(what)
            case Fault.CONFLICT:
                raise VersionMismatchError(what) if verb == "swap" else OutcomeUnknownError(what)
            case Fault.TORN_WRITE:
                world.unfinished[f"tmp/{self._process.name.replace(' ', '-')}.{world.calls}"] = world.scheduler.now
                raise self._process.die()
            case Fault.SERVER_ERROR if world.rng.random() < UNSEEN:
                raise OutcomeUnknownError(what)
            case Fault.SYNC_ERROR if verb == "create":
                self._fail_sync(key, effect)
                raise SyncFailedError(what)

    def _fail_sync(self, key: Key, effect: Callable[[], object]) -> None:
        """Nothing was linked; or it was, and the disk may lose it."""
        world, process = self._world, self._process
        if world.rng.random() < UNSEEN and effect() is True and not key.swappable:
            world.volatile[key.path], process.reacted = process, 0
            world.scheduler.at(world.delay(), lambda: world.lose(key))

    def _again(self, fault: Fault | None, verb: str, key: Key, effect: Callable[[], object]) -> bool:
        """The effect has happened. What becomes of the answer; True: it is that of a repetition."""
        world, what = self._world, f"{fault}: {verb} {key}"
        match fault:
            case Fault.LOST_REPLY | Fault.SERVER_ERROR:
                raise OutcomeUnknownError(what)
            case Fault.SYNC_ERROR:
                raise CommitUnknownError(what)
            case Fault.KILLED:
                raise self._process.die()
            case Fault.DUPLICATE if world.rng.random() < UNSEEN:
                world.scheduler.at(world.delay(), self._later(verb, key, effect))
                return False
        return fault in {Fault.PRECONDITION, Fault.DUPLICATE}

    def _later(self, verb: str, key: Key, effect: Callable[[], object]) -> Callable[[], None]:
        """The request, to arrive once at some time, with nobody to hear the answer."""
        arrived: list[bool] = []

        def arrive() -> None:
            if arrived:
                return
            arrived.append(True)
            try:
                outcome = str(effect())
            except EoctlError as error:
                outcome = error.kind
            self._world.trace(f"late {self._process.name} {verb} {key} {outcome}")

        return arrive


def _damaged(rng: random.Random, fault: Fault, reader: io.BytesIO) -> io.BytesIO:
    """What was read, with its end missing or a bit wrong."""
    data = bytearray(reader.getvalue())
    if not data:
        return reader
    if fault is Fault.SHORT_BODY:
        return io.BytesIO(bytes(data[: rng.randrange(len(data))]))
    at = rng.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    return io.BytesIO(bytes(data))
