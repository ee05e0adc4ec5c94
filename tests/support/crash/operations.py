"""What a killed process was doing: operations on a local store, each told by a job that fits on one line."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from eoctl.ambient import system_ambient
from eoctl.library import PipelineHandle
from eoctl.services.destroy import destroy
from eoctl.services.gc import Options, collect
from formats.errors import ConflictError
from formats.ids import HashAlgorithm, PipelineId
from storage.backend import Backend, Body, Folder, Found, Key, Place, Reach, Unfinished, Version
from storage.backends.urls import open_place
from storage.store import Store, init_store, open_store

PIPELINE = PipelineId("orders")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One operation, and at which storage call its process dies: just before that call, or just after.

    `store`, `source`, `target`, `report` are paths. At its end the process writes to `report` which storage calls
    it made; that is its acknowledgement. `one_thread`: system calls come in the same order in every run.
    """

    operation: str
    store: str
    report: str
    source: str = ""
    target: str = ""
    checkpoint: int = 0
    die_at: int = -1
    die_after: bool = False
    one_thread: bool = False
    mutant: str = ""

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, line: str) -> Job:
        return cls(**json.loads(line))


def perform(job: Job) -> None:
    """The operation is done and acknowledged, or this process is dead."""
    if job.one_thread:
        futures.ThreadPoolExecutor = InCallingThread  # type: ignore[misc,assignment]  # as much of it as is used
    ambient = system_ambient()
    plain = open_place(job.store, ambient.new_id()[:12])
    mortal = MortalBackend(plain.backend, job.die_at, after=job.die_after)
    place = Place(
        url=plain.url,
        backend=ManifestLast(mortal) if job.mutant == "manifest-last" else mortal,
        scratch=plain.scratch,
        make_folders=lambda keys: mortal.call("make_folders", lambda: plain.make_folders(keys)),
    )
    started_of(job).write_text("")
    _operate(job, place)
    Path(job.report).write_text(json.dumps(mortal.calls))


def started_of(job: Job) -> Path:
    """Made when the operation begins: its system calls lie between this and the report."""
    return Path(f"{job.report}.started")


def acknowledgement_of(job: Job, step: str) -> Path:
    """Made when that step of a longer operation is done."""
    return Path(f"{job.report}.{step.replace(' ', '-')}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _operate(job: Job, place: Place) -> None:
    store = _store_at(place) if job.operation == "first" else open_store(place, system_ambient())
    orders = PipelineHandle(store, PIPELINE)
    match job.operation:
        case "first" | "create":
            with orders.writer() as writer:
                parts = _parts(Path(job.source))
                writer.checkpoint(parts, offsets={"clicks": {"topic-0": job.checkpoint}}, as_id=job.checkpoint)
        case "restore":
            orders.restore("latest", to=job.target)
        case "restore-link":
            orders.restore("latest", to=job.target, link=True)
        case "delete":
            orders.delete(1)
        case "undelete":
            orders.undelete(1)
        case "hold":
            orders.hold(1, "audit")
        case "release":
            orders.release(1)
        case "tag":
            orders.tag(2, add=["good"])
        case "gc":
            _collect(store)
        case "destroy":
            destroy(store, PIPELINE)
        case "life":
            _live(job, store, orders)
        case _:
            raise NotImplementedError(job.operation)


def _parts(state: Path) -> dict[str, Path]:
    return {name: state / name for name in ("counts/0", "counts/1", "window")}


def _collect(store: Store) -> None:
    """All that may go goes at once."""
    (row,) = collect(store, [PIPELINE], Options(grace_seconds=0, keep_trash_seconds=0)).pipelines
    assert (row.error, row.stopped, row.dangling) == ("", "", ())


def _live(job: Job, store: Store, orders: PipelineHandle) -> None:
    """A day, one thing after the other; each is acknowledged."""
    source = Path(job.source)

    def create(number: int, state: Path) -> None:
        with orders.writer() as writer:
            writer.checkpoint(_parts(state), as_id=number)

    day: dict[str, Callable[[], object]] = {
        "create 2": lambda: create(2, source),
        "delete 1": lambda: orders.delete(1),
        "gc 1": lambda: _collect(store),
        "hold 2": lambda: orders.hold(2, "audit"),
        "create 3": lambda: create(3, source.parent / "first"),
        "release 2": lambda: orders.release(2),
        "delete 2": lambda: orders.delete(2),
        "gc 2": lambda: _collect(store),
    }
    for step, work in day.items():
        work()
        acknowledgement_of(job, step).write_text("")


def _store_at(place: Place) -> Store:
    ambient = system_ambient()
    try:
        return init_store(place, HashAlgorithm.BLAKE3, ambient)
    except ConflictError:
        return open_store(place, ambient)


class MortalBackend:
    """Counts the calls of every thread, and kills this process before or after number `at`."""

    def __init__(self, inner: Backend, at: int, *, after: bool) -> None:
        self.calls: list[str] = []
        self._inner = inner
        self._at = at
        self._after = after
        self._lock = threading.Lock()

    def call(self, name: str, effect: Callable[[], Result]) -> Result:
        with self._lock:
            mine = len(self.calls) == self._at
            self.calls.append(name)
        if mine and not self._after:
            die()
        try:
            return effect()
        finally:
            if mine:
                die()

    def stat(self, key: Key) -> Found | None:
        return self.call(f"stat {key}", lambda: self._inner.stat(key))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self.call(f"open {key}", lambda: self._inner.open(key, start, length))

    def create(self, key: Key, body: Body) -> bool:
        return self.call(f"create {key}", lambda: self._inner.create(key, body))

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.call(f"swap {key}", lambda: self._inner.swap(key, body, expected))

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return iter(self.call(f"list {prefix}", lambda: [*self._inner.list(prefix, reach=reach)]))

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        for key in keys:
            self.call(f"delete {key}", partial(self._inner.delete, [key]))


class ManifestLast:
    """A seeded bug: a manifest is stored only after HEAD names it. Every sweep must find that."""

    def __init__(self, inner: MortalBackend) -> None:
        self._inner = inner
        self._late: list[tuple[Key, Body]] = []
        self.stat, self.open, self.list, self.delete = inner.stat, inner.open, inner.list, inner.delete

    def create(self, key: Key, body: Body) -> bool:
        if "/m/" in str(key):
            self._late.append((key, body))
            return True
        return self._inner.create(key, body)

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self._inner.swap(key, body, expected)
        while self._late:
            self._inner.create(*self._late.pop())


class InCallingThread:
    """A pool whose work is done at once, by who hands it in."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, work: Callable[..., Result], *arguments: object) -> futures.Future[Result]:
        future: futures.Future[Result] = futures.Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as error:  # noqa: BLE001  (handed to who asks for the result)
            future.set_exception(error)
        return future

    def shutdown(self, **_: object) -> None:
        pass


def make_trees(root: Path) -> tuple[Path, Path]:
    """Two states, the second made from the first, with files of every kind of place; all are old enough to be settled.

    What the second has in common with the first are hard links, as an engine's own checkpoints make them.
    """
    noise = _Noise()
    first, second = root / "first", root / "second"
    _write(first / "counts/0/CURRENT", b"MANIFEST-1\n")  # inline
    _write(first / "counts/0/MANIFEST-1", noise.bytes(9_000))  # in a pack
    for twin in ("twin-a", "twin-b"):
        _write(first / "counts/0" / twin, b"twin" * 5_000)
    _write(first / "counts/0/000001.sst", noise.bytes((1 << 20) + 100))  # whole
    _write(first / "counts/0/000002.sst", noise.bytes(1_200_000).hex().encode())  # whole, compressed
    _write(first / "counts/0/000004.sst", b"compressible " * 90_000)  # so small then that it goes into a pack
    _write(first / "counts/1/empty-file", b"")
    (first / "counts/1/empty-directory").mkdir()
    database = bytearray(noise.bytes((1 << 20) + (3 << 16) + 17))
    _write(first / "window/state.db", bytes(database))  # blocks

    shutil.copytree(first, second, copy_function=os.link)
    for changed in ("counts/0/CURRENT", "counts/0/MANIFEST-1", "counts/0/000002.sst", "window/state.db"):
        (second / changed).unlink()
    _write(second / "counts/0/CURRENT", b"MANIFEST-2\n")
    _write(second / "counts/0/MANIFEST-2", noise.bytes(12_000))
    _write(second / "counts/0/000003.sst", noise.bytes((1 << 20) + 300))
    database[70_000:70_008] = b"changed!"
    _write(second / "window/state.db", bytes(database))
    return first, second


def make_small_trees(root: Path) -> tuple[Path, Path]:
    """The same in a few bytes, so that what a checkpoint does to the disk is a short story."""
    noise = _Noise()
    first, second = root / "first", root / "second"
    for number, tree in enumerate((first, second), 1):
        _write(tree / "counts/0/CURRENT", f"MANIFEST-{number}\n".encode())  # inline
        _write(tree / "counts/0/MANIFEST", noise.bytes(5_000))  # in a pack
        _write(tree / "counts/1/empty-file", b"")
        (tree / "counts/1/empty-directory").mkdir()
        _write(tree / "window/log", b"of both")
    return first, second


class _Noise:
    """Bytes that no compressor likes, the same in every run."""

    def __init__(self) -> None:
        self._number = 0

    def bytes(self, size: int) -> bytes:
        self._number += 1
        hasher = HashAlgorithm.BLAKE3.hasher()
        hasher.update(f"noise {self._number}".encode())
        return bytes(hasher.digest(length=size))  # type: ignore[call-arg]  # blake3 gives as many as one likes


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    long_ago_ns = 1_600_000_000_123_456_789
    os.utime(path, ns=(long_ago_ns, long_ago_ns))
