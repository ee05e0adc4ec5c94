"""A place for crash sweeps: states, stores in each stage, and what follows a kill: look, check, run again, check."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.crash.checks import Files, Seen, calls_of, check, clone, files_at, look
from tests.support.crash.operations import Job, make_small_trees, make_trees
from tests.support.crash.server import KillServer, kill_server

NO_STORE = "no-store"
_STAGES = {  # operation -> the store that it finds, and what a store is called in which it was done
    "first": (NO_STORE, "one"),
    "create": ("one", "two"),
    "restore": ("two", ""),
    "restore-link": ("two", ""),
    "delete": ("two", "deleted"),
    "undelete": ("deleted", ""),
    "hold": ("two", "held"),
    "release": ("held", ""),
    "tag": ("two", ""),
    "gc": ("deleted", ""),
    "destroy": ("deleted", ""),
    "life": ("one", ""),
}
_CREATES = {"first": 1, "create": 2, "life": 2}  # operation -> checkpoint id


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run of a job works: a store of its own, a target of its own."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def store(self) -> Path:
        # Two levels that do not exist at first, so that making them is part of the sweep.
        return self.disk / "new/store"

    @property
    def target(self) -> Path:
        return self.disk / "restored"

    @property
    def report(self) -> Path:
        return self.folder / "report"


@dataclass(frozen=True, slots=True)
class Bench:
    """The stages, each a store that is only ever cloned, and what each stage held."""

    root: Path
    server: KillServer
    trees: tuple[Path, Path]
    expected: Mapping[str, Files] = field(repr=False)
    stages: dict[str, tuple[Path, Seen]] = field(default_factory=dict, repr=False)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def job(self, operation: str, place: Place, **how: object) -> Job:
        checkpoint = _CREATES.get(operation, 0)
        fields = {
            "operation": operation,
            "store": str(place.store),
            "target": str(place.target),
            "report": str(place.report),
            "source": str(self.trees[checkpoint - 1]) if checkpoint else "",
            "checkpoint": checkpoint,
        }
        return Job(**{**fields, **how})  # type: ignore[arg-type]  # fields of one type each, by name

    @contextlib.contextmanager
    def place(self, operation: str) -> Iterator[Place]:
        """A fresh place with the store that the operation finds; gone afterwards."""
        with self.empty_place() as place:
            place.disk.mkdir()
            clone(self.stages[_STAGES[operation][0]][0], place.store)
            yield place

    @contextlib.contextmanager
    def empty_place(self) -> Iterator[Place]:
        """A fresh place whose disk is still to be made; gone afterwards."""
        place = Place(self.root / f"run-{next(self.numbers)}")
        place.folder.mkdir()
        yield place
        shutil.rmtree(place.folder)

    def before(self, operation: str) -> Seen:
        return self.stages[_STAGES[operation][0]][1]

    def storage_calls(self, operation: str) -> list[str]:
        """What the operation asks of the backend where nothing kills it."""
        with self.place(operation) as place:
            assert self.server.run(self.job(operation, place)) == 0
            self.check_done(operation, place)
            return calls_of(place.report)

    def kill(self, job: Job, place: Place) -> None:
        """The job has run into its death; it acknowledged nothing."""
        assert self.server.run(job) == -signal.SIGKILL
        assert not place.report.exists()

    def check_after_crash(
        self, operation: str, place: Place, *, acknowledged: bool = False, retry: bool = True
    ) -> None:
        """The store is whole, and the same command, run again by a new process, has its effect exactly once."""
        before = self.before(operation)
        seen = check(place.store, before, self.expected)
        if place.target.exists():
            self._check_target(place)
            place.target.rename(place.folder / "restored-by-the-dead")
        match operation:
            case "first" | "create":
                label = str(_CREATES[operation])
                assert set(seen.roots) - {label} == set(before.roots)
                assert label in seen.roots or not acknowledged
            case "delete":
                assert (seen.live, seen.trash) in [(["2"], ["1"])] + [(["1", "2"], [])] * (not acknowledged)
            case _:
                assert sorted(seen.live + seen.trash) == sorted(before.live + before.trash)
        if retry:
            assert self.server.run(self.job(operation, place)) == 0
            self.check_done(operation, place)

    def check_done(self, operation: str, place: Place) -> None:
        """The operation has been acknowledged: its effect is there, once, and everything else too."""
        before = self.before(operation)
        seen = check(place.store, before, self.expected)
        assert seen.head is not None
        match operation:
            case "first" | "create":
                label = str(_CREATES[operation])
                assert seen.live == [*before.live, label]
                assert list((place.store / "p/orders/pin").iterdir()) == []
                assert seen.head.last_id == int(label)
            case "restore" | "restore-link":
                self._check_target(place)
                assert [path.name for path in place.target.parent.iterdir() if "eoctl" in path.name] == []
            case "delete":
                assert (seen.live, seen.trash) == (["2"], ["1"])
            case "undelete":
                assert (seen.live, seen.trash) == (["1", "2"], [])
            case "hold":
                assert {hold.entry.label for hold in seen.head.holds} == {"1"}
            case "release":
                assert seen.head.holds == ()

    def _check_target(self, place: Place) -> None:
        assert files_at(place.target) == self.expected["2"]
        assert (place.target / "counts/1/empty-directory").is_dir()


@contextlib.contextmanager
def bench(*, small: bool = False) -> Iterator[Bench]:
    """Everything set up, where a sync costs nothing if there is such a place: no power is lost here."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30 else None
    with tempfile.TemporaryDirectory(prefix="eoctl-crash-", dir=parent) as folder, kill_server() as server:
        root = Path(folder)
        trees = (make_small_trees if small else make_trees)(root / "states")
        expected = {str(number): files_at(tree) for number, tree in enumerate(trees, 1)}
        ready = Bench(root, server, trees, expected)
        ready.stages[NO_STORE] = (root / "no-store", look(root / "no-store"))
        for operation, (_, becomes) in _STAGES.items():
            if becomes:
                with ready.place(operation) as place:
                    assert server.run(ready.job(operation, place)) == 0
                    ready.check_done(operation, place)
                    ready.stages[becomes] = (clone(place.store, root / becomes), look(place.store))
        yield ready
