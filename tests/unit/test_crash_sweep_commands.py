"""Every command that changes a store, killed before each of its storage calls and after the last, on stores drawn by
a seed; then the same command once more, by a new process, and gc: nothing else is ever needed.

    EOCTL_TEST_LONG=1 pytest tests/unit/test_crash_sweep_commands.py -rP -k thousands_of_points
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from eoctl.engines.directory import DirectorySource
from eoctl.services import entries
from eoctl.services.checkpoint import Part, Request, create_checkpoint
from eoctl.services.destroy import destroy
from eoctl.services.fork import fork
from eoctl.services.gc import Options, collect
from eoctl.services.rebuild import rebuild_head
from eoctl.services.repair import repair
from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from eoctl.services.retention import Policy
from eoctl.services.writers import writing
from formats.errors import BlobGoneError, ConflictError, CorruptError, SnapshotNotFoundError
from formats.head import Head, roots
from formats.ids import HashAlgorithm, PipelineId
from formats.manifest import blobs
from storage import layout
from storage.backend import Body, Found, Key, Version
from storage.store import Store, init_store, open_store
from storage.transfer import alone
from tests.support.fakes import FakeAmbient
from tests.support.faulty import Crash, Decide, Fault, FaultyBackend, at
from tests.support.places import PIPELINE, behind, check_roots, checkpoint_tree, contents, entry_of, opened, write_tree
from tests.support.stores import noise, overwrite, text, value_of
from tests.unit.test_crash_sweep import World

pytestmark = pytest.mark.thorough

POINTS = 10_000 if os.environ.get("EOCTL_TEST_LONG") == "1" else 2000
SHORT = 4  # a seed that draws no large file
FORK = PipelineId("orders-test")
NAMES = ("CURRENT", "a.sst", "b.sst", "deep/c.sst", "deep/d.sst")
DATABASE = noise((1 << 20) + 70_000, 3)
Files = dict[str, bytes]


class Drawn:
    """A store of two to four checkpoints, in which things have happened; what each snapshot holds, by label."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.expected: dict[str, Files] = {}
        self.files: Files = {}
        if rng.random() < 0.1:
            self.files |= {rng.choice(("large.sst", "large.db")): DATABASE}
        store = init_store(world.place(), rng.choice([*HashAlgorithm]), FakeAmbient().ambient())
        for number in range(1, rng.randint(2, 4) + 1):
            self.change()
            checkpoint_tree(opened(store), write_tree(world.tree, self.files), as_id=number)
            self.expected[str(number)] = dict(self.files)
            if rng.random() < 0.3:
                gc(store, AT_ONCE)
        self.newest = str(number)
        if rng.random() < 0.4:
            entries.delete(store, PIPELINE, ["1"])
        if rng.random() < 0.3:
            entries.hold(store, resolve(store, f"{PIPELINE}@{number}"), "audit", 10**6)
        if rng.random() < 0.3:
            entries.tag(store, resolve(store, f"{PIPELINE}@{number}"), ["good"], [])
        self.keep()

    def change(self) -> None:
        """Some files of the tree are others."""
        for name in self.rng.sample(NAMES, self.rng.randint(1, 4)):
            size, seed = self.rng.choice((0, 20, 5000, 12_000)), self.rng.randrange(20)
            self.files[name] = self.rng.choice((noise, text))(size, seed)
        for name in [name for name in self.files if name.startswith("large")]:
            if self.rng.random() < 0.5:
                self.files[name] = bytes([self.rng.randrange(256)]) + self.files[name][1:]

    def changed(self, change: Callable[[Store], object]) -> None:
        """Something has happened to the store before the command."""
        self.world.put_back()
        change(self.world.store())
        self.keep()

    def keep(self) -> None:
        """Without the hundreds of folders of a local store that are empty, and made again when they are needed."""
        blobs_below = self.path("store") / layout.blobs(PIPELINE).path
        for folder in blobs_below.iterdir() if blobs_below.is_dir() else ():
            if not any(folder.iterdir()):
                folder.rmdir()
        self.world.keep()

    def path(self, name: str) -> Path:
        return self.world.tree.parent / name


class Command(NamedTuple):
    """What is run, and what it must have come to."""

    run: Callable[[Store], object]
    done: Callable[[Head], bool]
    adds: Mapping[str, Files] = MappingProxyType({})
    keeps: frozenset[str] | None = None  # the snapshots that it must leave; None: all
    lost: tuple[type[Exception], ...] = ()  # what a look at HEAD may raise until the command is done
    damaged: frozenset[str] = frozenset()  # snapshots that need not be whole until it is done


AT_ONCE = Options(grace_seconds=0, keep_trash_seconds=0)


def gc(store: Store, options: Options) -> None:
    run = collect(store, [PIPELINE], options)
    (row,) = run.pipelines
    assert (row.error, row.stopped, row.dangling, run.notes) == ("", "", (), ()), run


def live(head: Head) -> list[str]:
    return [entry.label for entry in head.live]


def create(drawn: Drawn) -> Command:
    drawn.change()
    tree, number = write_tree(drawn.world.tree, drawn.files), int(drawn.newest) + 1

    def run(store: Store) -> None:
        with writing(store, PIPELINE, take_over=True) as writer:
            create_checkpoint(writer, Request(parts=(Part(source=DirectorySource(tree)),), as_id=number))

    return Command(run, lambda head: live(head).count(str(number)) == 1, adds={str(number): dict(drawn.files)})


def tag(drawn: Drawn) -> Command:
    def run(store: Store) -> None:
        entries.tag(store, resolve(store, f"{PIPELINE}@latest"), ["release"], ["good"])

    return Command(run, lambda head: head.live[-1].tags == ("release",))


def hold(drawn: Drawn) -> Command:
    def run(store: Store) -> None:
        entries.hold(store, resolve(store, f"{PIPELINE}@latest"), "an investigation")

    return Command(run, lambda head: "an investigation" in {found.reason for found in head.holds})


def release(drawn: Drawn) -> Command:
    drawn.changed(lambda store: entries.hold(store, resolve(store, f"{PIPELINE}@latest"), "audit"))

    def run(store: Store) -> None:
        entries.release(store, resolve(store, f"{PIPELINE}@{drawn.newest}"))

    return Command(run, lambda head: head.holds == ())


def delete(drawn: Drawn) -> Command:
    return Command(
        lambda store: entries.delete(store, PIPELINE, [drawn.newest]), lambda head: drawn.newest not in live(head)
    )


def undelete(drawn: Drawn) -> Command:
    drawn.changed(lambda store: entries.delete(store, PIPELINE, [drawn.newest]))
    return Command(
        lambda store: entries.undelete(store, PIPELINE, drawn.newest), lambda head: drawn.newest in live(head)
    )


def collect_at_once(drawn: Drawn) -> Command:
    """It expires, empties the trash, sweeps and writes packs again."""
    options = Options(policy=Policy(keep_last=1), grace_seconds=0, keep_trash_seconds=0)
    keeps = frozenset({drawn.newest})
    return Command(lambda store: gc(store, options), lambda head: live(head) == [drawn.newest], keeps=keeps)


def expire(drawn: Drawn) -> Command:
    """As from cron."""
    options = Options(policy=Policy(keep_last=1))
    return Command(lambda store: gc(store, options), lambda head: live(head) == [drawn.newest])


def end(drawn: Drawn) -> Command:
    return Command(lambda store: destroy(store, PIPELINE), lambda head: head.state == "destroyed", keeps=frozenset())


def fork_it(drawn: Drawn) -> Command:
    """Into another pipeline of the store."""

    def run(store: Store) -> None:
        backend = drawn.world.place().backend
        backend.delete(
            [found.key for found in backend.list(layout.pins(FORK)) if isinstance(found, Found)]
        )  # of the dead
        fork(store, [resolve(store, f"{PIPELINE}@{drawn.newest}")], store, FORK)

    def done(_: Head) -> bool:
        store = drawn.world.store()
        head = check_roots(store, FORK)
        return contents(store, entry_of(store, drawn.newest, FORK), head) == drawn.expected[drawn.newest]

    return Command(run, done)


def restore_it(drawn: Drawn, *, link: bool = False) -> Command:
    """Its target is not there or whole."""
    target = drawn.path("restored") / "now"

    def run(store: Store) -> None:
        if target.exists():
            assert_tree(target, drawn.expected[drawn.newest])
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        restore(store, resolve(store, f"{PIPELINE}@{drawn.newest}"), target, link=link)
        assert_tree(target, drawn.expected[drawn.newest])

    def done(head: Head) -> bool:
        assert_tree(target, drawn.expected[drawn.newest])
        return True

    return Command(run, done)


def assert_tree(root: Path, files: Files) -> None:
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == files


def mend(drawn: Drawn) -> Command:
    """A blob of the newest snapshot is damaged, and the source is still there."""
    source = write_tree(drawn.path("source"), drawn.expected[drawn.newest])
    store = drawn.world.store()
    head = store.head(PIPELINE).head
    needed = {root.label: blobs(store.manifest(head, root)) for root in roots(head)}
    stored = sorted(needed[drawn.newest])

    def run(store: Store) -> None:
        assert repair(store, PIPELINE, sources).whole

    sources = [source]
    if not stored:
        return Command(run, lambda _: True)
    bad = drawn.rng.choice(stored)
    hurt = frozenset(label for label, keys in needed.items() if bad in keys)
    sources += [write_tree(drawn.path(f"source-{label}"), drawn.expected[label]) for label in hurt - {drawn.newest}]

    def damage(store: Store) -> None:
        name = layout.blob(PIPELINE, bad)
        data = bytearray(value_of(store.backend, name))
        data[drawn.rng.randrange(len(data))] ^= 1
        overwrite(store.backend, name, drawn.rng.choice((bytes(data), None)))

    drawn.changed(damage)
    return Command(run, lambda _: True, damaged=hurt)


def rebuild(drawn: Drawn) -> Command:
    torn = drawn.rng.choice((None, b"torn"))
    drawn.changed(lambda store: overwrite(store.backend, layout.head(PIPELINE), torn))

    def run(store: Store) -> None:
        try:
            rebuild_head(store, PIPELINE, write=True)
        except ConflictError:
            store.head(PIPELINE)  # it was done when its process was killed

    keeps = frozenset({drawn.newest})
    return Command(
        run, lambda head: drawn.newest in live(head), keeps=keeps, lost=(CorruptError, SnapshotNotFoundError)
    )


COMMANDS: dict[str, Callable[[Drawn], Command]] = {
    "checkpoint create": create,
    "checkpoint tag": tag,
    "checkpoint hold": hold,
    "checkpoint release": release,
    "checkpoint delete": delete,
    "checkpoint undelete": undelete,
    "gc at once": collect_at_once,
    "gc": expire,
    "pipeline destroy": end,
    "pipeline fork": fork_it,
    "restore": restore_it,
    "restore --link": lambda drawn: restore_it(drawn, link=True),
    "store repair": mend,
    "store repair --rebuild-head": rebuild,
}


def sweep(folder: Path, kind: str, seed: int, name: str) -> Iterator[int]:
    """The numbers of the calls before which the command was killed, and one more: after the last."""
    drawn = Drawn(World(folder, kind), random.Random(f"{seed} {name}"))
    command = COMMANDS[name](drawn)
    world, expected = drawn.world, {**drawn.expected, **command.adds}
    world.put_back()
    keeps = command.keeps
    if keeps is None:
        keeps = frozenset(root.label for root in roots(world.store().head(PIPELINE).head))
    count = len(run_to(world, command, None).calls)
    for number in range(count + 1):
        world.put_back()
        fault = at(number, Fault.CRASH_BEFORE) if number < count else at(count - 1, Fault.CRASH_AFTER)
        faulty = run_to(world, command, fault)
        try:
            with suppress(*command.lost):
                look(world.store(), expected, keeps, besides=command.damaged)
            command.run(world.store())
            head = look(world.store(), expected, keeps | command.adds.keys())
            assert command.done(head)
            gc(world.store(), AT_ONCE)
            look(world.store(), expected, {root.label for root in roots(head)} - {t.entry.label for t in head.trash})
            check_roots(world.store())
        except BaseException as error:
            error.add_note(f"{name}, seed {seed}, {kind}, killed at {number} of {count}: {faulty.calls[-1]}")
            raise
        yield number


def run_to(world: World, command: Command, death: Decide | None) -> FaultyBackend:
    """The command as a process runs it that dies there; without a death, to its end."""
    plain = world.place()
    faulty = FaultyBackend(plain.backend, death or (lambda _: None))
    store = open_store(plain, FakeAmbient(next(world._processes)).ambient())
    with alone(), nullcontext() if death is None else pytest.raises(Crash):
        command.run(behind(store, faulty))
    return faulty


def look(
    store: Store, expected: Mapping[str, Files], keeps: AbstractSet[str], besides: AbstractSet[str] = frozenset()
) -> Head:
    """What must be there is, and each snapshot that is there holds what was handed over."""
    head = store.head(PIPELINE).head
    assert PIPELINE in [*store.pipelines()]
    for other in {*store.pipelines()} - {PIPELINE}:
        check_roots(store, other)
    found = {root.label: root for root in roots(head)}
    assert keeps <= found.keys()
    for label in found.keys() - besides:
        assert contents(store, found[label], head) == expected[label], label
    return head


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where a sync costs nothing, if there is such a place: no power is lost here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_any_call_leaves_all_whole_and_is_done_by_the_next_try(scratch, kind, name) -> None:
    assert sum(1 for _ in sweep(scratch, kind, SHORT, name)) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "local"])
def test_thousands_of_points_at_which_commands_are_killed_need_no_repair(scratch, kind) -> None:
    points: Counter[str] = Counter()
    for seed in itertools.count(1):
        for name in COMMANDS:
            folder = scratch / "one"
            points[name] += sum(1 for _ in sweep(folder, kind, seed, name))
            shutil.rmtree(folder)
        if points.total() >= POINTS:
            break
    sys.stdout.write(f"{kind}: {points.total()} points, seeds 1 to {seed}: {dict(points)}\n")
    assert points.keys() == COMMANDS.keys()


def test_a_manifest_that_is_stored_after_head_names_it_is_found(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[tuple[Key, Body]] = []
    create, swap = FaultyBackend.create, FaultyBackend.swap

    def create_later(self: FaultyBackend, key: Key, body: Body) -> bool:
        if "/m/" not in key.path:
            return create(self, key, body)
        late.append((key, body))
        return True

    def swap_first(self: FaultyBackend, key: Key, body: bytes, expected: Version) -> None:
        swap(self, key, body, expected)
        while late:
            create(self, *late.pop())

    monkeypatch.setattr(FaultyBackend, "create", create_later)
    monkeypatch.setattr(FaultyBackend, "swap", swap_first)
    with pytest.raises(BlobGoneError):
        [*sweep(scratch, "memory", SHORT, "checkpoint create")]
