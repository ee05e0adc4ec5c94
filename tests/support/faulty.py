"""Backends around a backend: one that fails where a test says, one that counts.

`FaultyBackend` asks `decide` before each call what shall go wrong with it. What can happen to a request happens
here: it never arrives, its reply is lost, it arrives twice, it arrives late, the process dies just before or just
after its effect, or somebody else acts in between.
"""

from __future__ import annotations

import io
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, TypeVar

from formats.errors import AccessDeniedError, EoctlError, OutcomeUnknownError, UnavailableError
from storage.backend import (
    Backend,
    Body,
    Folder,
    Found,
    Key,
    LocalFile,
    Reach,
    Unfinished,
    Version,
)

Result = TypeVar("Result")
WRITES = frozenset({"create", "swap", "delete"})


class Crash(BaseException):
    """The process was killed. No `Exception`, so that nothing of ours may catch it."""


class Fault(StrEnum):
    """What goes wrong with one call."""

    REFUSED = "refused"  # it did not happen, and the caller is told so
    DENIED = "denied"  # likewise, for lack of permission
    LOST = "lost"  # the request is lost: it did not happen, and nobody knows
    REPLY_LOST = "reply lost"  # it happened, and nobody knows
    LATE = "late"  # nobody knows, and it happens when the test calls `deliver`
    TWICE = "twice"  # it arrives twice, and the caller sees the second answer
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"


@dataclass(frozen=True, slots=True)
class Call:
    """The call to come: its number among all calls from 0, its verb, and its key (the first one of a delete)."""

    number: int
    verb: str
    key: str


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """Somebody else acts just before or just after the effect; then `fault` happens."""

    before: Callable[[], object] = lambda: None
    after: Callable[[], object] = lambda: None
    fault: Fault | None = None


Decide = Callable[[Call], Fault | Meanwhile | None]


class FaultyBackend:
    """The six verbs of `inner`, with faults. A crash is final: every later call crashes as well, until `revive`."""

    def __init__(self, inner: Backend, decide: Decide = lambda _: None) -> None:
        self.inner = inner
        self.decide = decide
        self.calls: list[Call] = []
        self.swapped: list[bytes] = []  # the body of every swap that was asked for
        self._lock = threading.Lock()
        self._dead = False
        self._late: list[Callable[[], object]] = []

    def revive(self, decide: Decide = lambda _: None) -> None:
        """Another process, from here on: calls are counted from 0 again."""
        self._dead = False
        self.decide = decide
        self.calls = []

    def deliver(self) -> None:
        """Every late request arrives now, whatever becomes of it."""
        late, self._late = self._late, []
        for request in late:
            _unseen(request)

    def stat(self, key: Key) -> Found | None:
        return self._call("stat", key, lambda: self.inner.stat(key))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self._call("open", key, lambda: self.inner.open(key, start, length))

    def create(self, key: Key, body: Body) -> bool:
        return self._call("create", key, lambda: self.inner.create(key, body), body)

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.swapped.append(body)
        return self._call("swap", key, lambda: self.inner.swap(key, body, expected))

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return iter(self._call("list", prefix, lambda: [*self.inner.list(prefix, reach=reach)]))

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        first = wanted[0] if wanted else Key("none")
        key = first.key if isinstance(first, Unfinished) else first
        return self._call("delete", key, lambda: self.inner.delete(wanted))

    def _call(self, verb: str, key: Key, effect: Callable[[], Result], body: Body = b"") -> Result:
        with self._lock:
            if self._dead:
                raise Crash
            call = Call(len(self.calls), verb, key.path)
            self.calls.append(call)
            decided = self.decide(call)
        if isinstance(decided, Meanwhile):
            decided.before()
            result = self._with(decided.fault, call, effect, body, decided.after)
            decided.after()
            return result
        return self._with(decided, call, effect, body)

    def _with(
        self,
        fault: Fault | None,
        call: Call,
        effect: Callable[[], Result],
        body: Body,
        after: Callable[[], object] = lambda: None,
    ) -> Result:
        what = f"{call.verb} {call.key}"
        match fault:
            case None:
                return effect()
            case Fault.REFUSED:
                raise UnavailableError(f"refused by the test: {what}")
            case Fault.DENIED:
                raise AccessDeniedError(f"denied by the test: {what}")
            case Fault.LOST:
                raise OutcomeUnknownError(f"lost by the test: {what}")
            case Fault.REPLY_LOST:
                _unseen(effect)
                after()
                raise OutcomeUnknownError(f"its reply was lost by the test: {what}")
            case Fault.LATE:
                self._late.append(self._repeatable(call, effect, body))
                raise OutcomeUnknownError(f"delayed by the test: {what}")
            case Fault.TWICE:
                again = self._repeatable(call, effect, body)
                _unseen(again)
                return again()
            case Fault.CRASH_BEFORE:
                self._dead = True
                raise Crash
            case Fault.CRASH_AFTER:
                _unseen(effect)
                after()
                self._dead = True
                raise Crash

    def _repeatable(self, call: Call, effect: Callable[[], Result], body: Body) -> Callable[[], Result]:
        """The same request again, though a file that was handed over is gone after the first time."""
        if not isinstance(body, LocalFile):
            return effect
        data = body.path.read_bytes()
        body.path.unlink()
        return lambda: self.inner.create(Key(call.key), data)  # type: ignore[return-value]  # a create's effect is a bool


def _unseen(effect: Callable[[], object]) -> None:
    """It happens, or is refused, and nobody sees the answer; a reader is closed."""
    try:
        result = effect()
    except EoctlError:
        return
    if isinstance(result, io.IOBase):
        result.close()


def at(number: int, fault: Fault | Meanwhile) -> Decide:
    """At call `number`, counted from 0."""
    return lambda call: fault if call.number == number else None


def script(verb: str, faults: list[Fault | Meanwhile | None], key_ends: str = "") -> Decide:
    """The calls of `verb` whose key ends so meet these, in turn; later ones meet nothing."""
    rest = iter(faults)
    return lambda call: next(rest, None) if call.verb == verb and call.key.endswith(key_ends) else None


def seeded(rng: random.Random, rate: float, faults: list[Fault]) -> Decide:
    """Each call meets one of the faults with this probability; a call that only reads is never late or twice."""

    def decide(call: Call) -> Fault | None:
        if rng.random() >= rate:
            return None
        chosen = rng.choice(faults)
        effect_only = chosen in {Fault.LATE, Fault.TWICE, Fault.LOST, Fault.REPLY_LOST}
        return Fault.REFUSED if effect_only and call.verb not in WRITES else chosen

    return decide


class CountingBackend:
    """The six verbs of `inner`, counted: calls by verb, and bytes read and written."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        self.bytes_read: Counter[str] = Counter()
        self.bytes_written: Counter[str] = Counter()
        self.created: list[str] = []

    def stat(self, key: Key) -> Found | None:
        self.calls["stat"] += 1
        return self.inner.stat(key)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        """Counted as read: what the range holds, whether the caller reads on or not."""
        self.calls["open"] += 1
        reader = self.inner.open(key, start, length)
        found = self.inner.stat(key)
        there = max(0, (0 if found is None else found.bytes) - start)
        self.bytes_read["open"] += there if length is None else min(there, length)
        return reader

    def create(self, key: Key, body: Body) -> bool:
        self.calls["create"] += 1
        created = self.inner.create(key, body)
        if created:
            found = self.inner.stat(key)
            self.bytes_written["create"] += 0 if found is None else found.bytes
            self.created.append(key.path)
        return created

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.calls["swap"] += 1
        self.inner.swap(key, body, expected)
        self.bytes_written["swap"] += len(body)

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        self.calls["list"] += 1
        return self.inner.list(prefix, reach=reach)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        self.calls["delete"] += len(wanted)
        self.inner.delete(wanted)
