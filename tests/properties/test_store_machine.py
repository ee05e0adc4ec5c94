"""The store as a state machine: writers, zombies, retention and gc in any order, with faults at any call.

The oracle is what a user may count on (docs/protocol.md): after every step each root is whole and holds just the
bytes that were there when it was taken; a reported success is in history once, a reported failure never; entries go
only by expiry and gc, holds only by release; what was garbage once is never named again; counters never go back.

gc is the strongest that the delete rule allows. Everything is drawn by Hypothesis and nothing else decides, so a
failure replays.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest
from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from eoctl.services.checkpoint import Opened
from formats.errors import CommitUnknownError, EoctlError
from formats.head import Head, HeadEntry, decode_head, roots
from formats.ids import BlobKey, Era, HashAlgorithm, TxId
from formats.manifest import Manifest, blobs
from storage import layout
from storage.backend import Backend, Body, Folder, Found, Key, Reach, Unfinished, Version
from storage.edits import Edit, expire, hold, raise_era, release, tag, undelete
from storage.head import swap_head
from storage.session import Session
from storage.store import Store, init_store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.faulty import Call, Crash, Fault, FaultyBackend, Meanwhile
from tests.support.places import (
    PIPELINE,
    Plan,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    local_place,
    memory_place,
    opened,
    stored_keys,
    write_tree,
)
from tests.support.stores import noise
from tests.support.sweeper import Sweeper

pytestmark = pytest.mark.thorough

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
STEPS = int(os.environ.get("EOCTL_TEST_STEPS", "30" if ALL else "20"))
QUIET = settings(deadline=None, stateful_step_count=STEPS)


def runs(number: int) -> settings:
    """So many runs, or as many as EOCTL_TEST_RUNS says."""
    return settings(QUIET, max_examples=int(os.environ.get("EOCTL_TEST_RUNS", number)))


LOOK_AGAIN = 10  # steps after which everything is read again

LARGE = noise((1 << 20) + 70_000, 9)
CONTENTS = {
    "empty": b"",
    "tiny": b"a few bytes",
    "other tiny": b"other bytes",
    "small": noise(5_000, 1),
    "other small": noise(5_000, 2),
    "repeats": b"over and over. " * 900,
    "large": LARGE,
    "large, changed": LARGE[:-5] + b"other",
    "large, shorter": LARGE[: 1 << 20],
    "large, longer": LARGE + bytes(1000),
}
SMALL = [name for name in CONTENTS if not name.startswith("large")]
NAMES = ["a", "b", "c/d", "c/e"]
ACTIONS = [
    "advance",
    "advance twice and sweep",
    "expire the newest",
    "expire all, advance and sweep",
    "expire all, advance twice and sweep",
    "a rival attempt",
    "a rival commit",
    "poison",
    "raise the era",
    "raise the floor",
    "deliver",
]
Where = tuple[str, int]  # a verb, and which of its calls, from 0
What = tuple[Fault | None, str]  # a fault, and what others do: before the effect; after it where the reply is lost


def troubles() -> Iterator[tuple[Where, What]]:
    """Every trouble that one call may meet; the more telling ones more than once."""
    swaps: list[Where] = [("swap", 0), ("swap", 0), ("swap", 1), ("swap", 2)]
    creates: list[Where] = [("create", number) for number in range(4)]
    opens: list[Where] = [("open", number) for number in range(6)]
    for where in swaps + creates:
        for fault in Fault:
            yield where, (fault, "")
    for where in swaps:
        for action in ACTIONS:
            yield where, (Fault.LOST, action)
            yield where, (Fault.REPLY_LOST, action)
            yield where, (None, action)
    for where in creates + opens:
        for action in ACTIONS:
            yield where, (None, action)
    for where in opens:
        for fault in (Fault.REFUSED, Fault.DENIED, Fault.CRASH_BEFORE):
            yield where, (fault, "")


BETWEEN: list[Where] = [("open", 0), ("open", 3), ("create", 0), ("create", 1), ("swap", 0)]
Trouble = dict[Where, What]
TROUBLE = st.lists(st.sampled_from([*troubles()]), max_size=3).map(dict)


class Watched:
    """The place itself: notes every value that HEAD ever had, what is there, and what was deleted."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.heads: list[Head] = []
        self.deleted: list[str] = []
        self.stored: dict[str, tuple[str, BlobKey]] = {}  # by name

    def stat(self, key: Key) -> Found | None:
        return self.inner.stat(key)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self.inner.open(key, start, length)

    def create(self, key: Key, body: Body) -> bool:
        created = self.inner.create(key, body)
        if created and key.path.endswith("/HEAD") and isinstance(body, bytes):
            self.heads.append(decode_head(body))
        for kind, parsed in (("o", layout.parse_blob(PIPELINE, key)), ("m", layout.parse_manifest(PIPELINE, key))):
            if created and parsed is not None:
                self.stored[str(key)] = kind, parsed
        return created

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.inner.swap(key, body, expected)
        self.heads.append(decode_head(body))

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return self.inner.list(prefix, reach=reach)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        wanted = [*keys]
        self.deleted += [str(key) for key in wanted]
        self.inner.delete(wanted)
        for key in wanted:
            self.stored.pop(str(key), None)

    def keys(self) -> dict[str, set[BlobKey]]:
        """What a listing would show: every blob and manifest, by kind."""
        found: dict[str, set[BlobKey]] = {"o": set(), "m": set()}
        for kind, key in self.stored.values():
            found[kind].add(key)
        return found


class StoreMachine(RuleBasedStateMachine):
    """In memory; a subclass says otherwise."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # power loss is tested elsewhere
        self.folder = Path(tempfile.mkdtemp(prefix="eoctl-machine-", dir=memory))
        place = memory_place(self.folder / "tmp") if self.kind == "memory" else local_place(self.folder / "store")
        store = init_store(place, HashAlgorithm.BLAKE3, FakeAmbient().ambient())
        self.watched = Watched(place.backend)
        self.truth = behind(store, self.watched, FakeAmbient(2).ambient())
        self.sweeper = Sweeper(self.truth, process=3)
        self.processes = iter(range(10, 10**6))
        self.bags: list[FaultyBackend] = []  # every backend that ever was, for the late requests in it
        self.writers: list[Opened] = []
        self.sessions: list[tuple[Session, int, dict[str, bytes]]] = []
        self.files: dict[str, bytes] = {"a": CONTENTS["tiny"], "b": CONTENTS["small"]}
        self.taken: list[dict[str, bytes]] = []  # by number of the try: what the tree held
        self.reported: dict[int, bool | None] = {}  # by number of the try: success, failure, or unknown
        self.appeared: Counter[int] = Counter()
        self.checked_heads = 0
        self.looks = itertools.count()
        self.whole: dict[str, frozenset[str]] = {}  # manifests found whole, and the keys that they stand on
        self.known: dict[str, frozenset[BlobKey]] = {}  # manifests, and what they name
        self.condemned: set[tuple[str, BlobKey]] = set()
        self.writers.append(opened(self.truth))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # What goes wrong

    def process(self, trouble: Trouble) -> Store:
        """The store as a new process sees it, which is to meet this trouble at these of its calls."""

        seen: Counter[str] = Counter()

        def decide(call: Call) -> Fault | Meanwhile | None:
            fault, action = trouble.get((call.verb, seen[call.verb]), (None, ""))
            seen[call.verb] += 1
            if not action:
                return fault
            act = partial(self.others, action)
            return Meanwhile(after=act, fault=fault) if fault is Fault.REPLY_LOST else Meanwhile(act, fault=fault)

        faulty = FaultyBackend(self.watched, decide)
        self.bags.append(faulty)
        return behind(self.truth, faulty, FakeAmbient(next(self.processes)).ambient())

    def others(self, what: str) -> None:
        """Somebody without faults comes in between."""
        actions: dict[str, list[Callable[[], object]]] = {
            "advance": [self.sweeper.advance],
            "advance twice and sweep": [self.sweeper.advance, self.sweeper.advance, self.sweep],
            "expire the newest": [lambda: self.expire_last(1)],
            "expire all, advance and sweep": [lambda: self.expire_last(99), self.sweeper.advance, self.sweep],
            "expire all, advance twice and sweep": [
                lambda: self.expire_last(99),
                self.sweeper.advance,
                self.sweeper.advance,
                self.sweep,
            ],
            "a rival attempt": [lambda: self.writers.append(opened(self.truth))],
            "a rival commit": [self.rival_commit],
            "poison": [self.poison],
            "raise the era": [lambda: self.sweeper.edit(partial(raise_era, floor=False))],
            "raise the floor": [lambda: self.sweeper.edit(partial(raise_era, floor=True))],
            "deliver": [self.deliver],
        }
        for action in actions[what]:
            action()

    def expire_last(self, count: int) -> None:
        legal = {one.entry.label for one in self.head.holds if one.expires_at is None}
        labels = [entry.label for entry in self.head.live[-count:] if entry.label not in legal]
        self.sweeper.expire(*labels)

    def rival_commit(self) -> None:
        files = {"rival": CONTENTS["other small"]}
        number = self.new_try(files)
        writer = opened(self.truth)
        session = Session(self.truth, PIPELINE, writer.attempt, writer.owner)
        session.commit(lambda own: tagged(Plan(files)(own), number))
        self.reported[number] = True

    def poison(self) -> None:
        """Other bytes lie under names that sessions are about to use."""
        for name in ("other small", "small"):
            digest = self.truth.hash.digest(CONTENTS[name])
            for era in range(self.head.era, self.head.era + 3):
                key = layout.blob(PIPELINE, BlobKey(digest, Era(era)))
                self.watched.create(key, b"other bytes")

    def sweep(self) -> None:
        """The keys that the delete rule lets go are gone, and stay condemned."""
        before = stored_keys(self.truth)
        self.sweeper.sweep()
        after = stored_keys(self.truth)
        self.condemned |= {(kind, key) for kind in before for key in before[kind] if key not in set(after[kind])}

    @property
    def head(self) -> Head:
        return self.watched.heads[-1]

    def new_try(self, files: dict[str, bytes]) -> int:
        self.taken.append(dict(files))
        return len(self.taken) - 1

    def attempt(self, number: int | None, work: Callable[[], object]) -> str:
        """Runs it as a process would; notes what was reported of the try of that number."""
        try:
            work()
        except Crash:
            outcome = "crash"
        except CommitUnknownError:
            outcome = "unknown"
        except EoctlError:
            outcome = "failure"
        else:
            outcome = "success"
        event(outcome)
        if number is not None:
            self.reported[number] = {"success": True, "failure": False}.get(outcome)
        return outcome

    # What happens

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from([*SMALL, None]))
    def change_a_file(self, name: str, content: str | None) -> None:
        self.files.pop(name, None)
        if content is not None:
            self.files[name] = CONTENTS[content]

    @rule(content=st.sampled_from([name for name in CONTENTS if name.startswith("large")]), name=st.sampled_from("xy"))
    def change_a_large_file(self, content: str, name: str) -> None:
        self.files.pop("x.db", None)
        self.files.pop("y.sst", None)
        self.files["x.db" if name == "x" else "y.sst"] = CONTENTS[content]

    @rule(trouble=TROUBLE)
    def open_a_writer(self, trouble: Trouble) -> None:
        store = self.process(trouble)
        self.attempt(None, lambda: self.writers.append(opened(store)))

    @rule(index=st.integers(0, 7), trouble=TROUBLE)
    def create_a_checkpoint(self, index: int, trouble: Trouble) -> None:
        """By any writer that ever was: all but the newest are zombies."""
        writer = self.writers[index % len(self.writers)]
        tree = write_tree(self.folder / "tree", self.files)
        number = self.new_try(self.files)
        living = Opened(self.process(trouble), PIPELINE, writer.attempt, writer.owner)
        self.attempt(number, lambda: checkpoint_tree(living, tree, tags=(tag_of(number),)))

    @rule(place=st.sampled_from(BETWEEN), what=st.sampled_from(ACTIONS))
    def create_a_checkpoint_while_others_act(self, place: Where, what: str) -> None:
        """Without a fault only a rival can keep a newest writer from its checkpoint."""
        writer = opened(self.truth)
        tree = write_tree(self.folder / "tree", self.files)
        number = self.new_try(self.files)
        living = Opened(self.process({place: (None, what)}), PIPELINE, writer.attempt, writer.owner)
        outcome = self.attempt(number, lambda: checkpoint_tree(living, tree, tags=(tag_of(number),)))
        assert outcome == "success" or what.startswith("a rival")

    @rule(index=st.integers(0, 7))
    def begin_a_session(self, index: int) -> None:
        writer = self.writers[index % len(self.writers)]
        number = self.new_try(self.files)
        session = Session(self.process({}), PIPELINE, writer.attempt, writer.owner)
        self.sessions.append((session, number, self.taken[number]))

    @rule()
    def begin_a_savepoint(self) -> None:
        number = self.new_try(self.files)
        self.sessions.append((Session(self.process({}), PIPELINE), number, self.taken[number]))

    @precondition(lambda self: self.sessions)
    @rule(index=st.integers(0, 7), trouble=TROUBLE)
    def end_a_session(self, index: int, trouble: Trouble) -> None:
        """However long it slept."""
        session, number, files = self.sessions.pop(index % len(self.sessions))
        faulty = session.store.backend
        assert isinstance(faulty, FaultyBackend)
        awake = self.process(trouble).backend
        assert isinstance(awake, FaultyBackend)
        faulty.revive(awake.decide)
        kind = {"kind": "savepoint", "name": f"s{number}", "id": 0} if session.attempt is None else {}
        self.attempt(
            number,
            lambda: session.commit(lambda own: msgspec.structs.replace(tagged(Plan(files)(own), number), **kind)),
        )

    @rule(
        what=st.sampled_from(["expire", "undelete", "hold", "legal hold", "release", "tag"]),
        index=st.integers(0, 7),
        trouble=TROUBLE,
    )
    def edit_head(self, what: str, index: int, trouble: Trouble) -> None:
        known = [*dict.fromkeys(entry.label for entry in roots(self.head))] or ["1"]
        label = known[index % len(known)]
        identity = f"{len(self.bags):032x}"
        holding = partial(hold, label=label, hold_id=identity, reason="", now=time_text(1))
        held = [one.id for one in self.head.holds] or ["e" * 32]
        edits: dict[str, tuple[Edit, Callable[[Head], bool]]] = {
            "expire": (
                partial(expire, labels=frozenset({label}), now=time_text(1)),
                lambda head: label not in {entry.label for entry in head.live},
            ),
            "undelete": (partial(undelete, label=label), lambda head: label in {entry.label for entry in head.live}),
            "hold": (partial(holding, expires_at=time_text(9)), lambda head: identity in {o.id for o in head.holds}),
            "legal hold": (partial(holding, expires_at=None), lambda head: identity in {o.id for o in head.holds}),
            "release": (
                partial(release, hold_ids=frozenset({held[index % len(held)]})),
                lambda head: held[index % len(held)] not in {o.id for o in head.holds},
            ),
            "tag": (
                partial(tag, label=label, add=frozenset({"good"}), remove=frozenset()),
                lambda head: any("good" in entry.tags for entry in roots(head) if entry.label == label),
            ),
        }
        store = self.process(trouble)
        change, done = edits[what]
        began = len(self.watched.heads)

        def swap() -> None:
            txid = TxId(store.ambient.new_id())
            swap_head(store.backend, store.head(PIPELINE), change, store.ambient, txid=txid, attempt=None)

        if self.attempt(None, swap) == "success":
            assert any(done(head) for head in self.watched.heads[began - 1 :]), f"{what} of {label} was reported"

    @rule(what=st.sampled_from(ACTIONS))
    def others_act(self, what: str) -> None:
        self.others(what)

    @rule()
    def poisoned_names_are_used(self) -> None:
        self.poison()
        self.rival_commit()

    def deliver(self) -> None:
        """Every late request arrives now, whoever sent it and however dead that one is."""
        for faulty in self.bags:
            faulty.deliver()

    @rule()
    def drop_what_no_answer_depends_on(self) -> None:
        for unfinished in [*self.truth.backend.list(Key("p"), reach=Reach.UNFINISHED)]:
            self.truth.backend.delete([unfinished])  # type: ignore[list-item]  # what UNFINISHED lists

    @rule()
    def settle(self) -> None:
        """With faults off: a writer that tries commits, and two gc runs leave no garbage below the floor."""
        self.deliver()
        self.create_a_checkpoint_without_trouble()
        for _ in range(2):
            self.sweeper.advance()
            self.sweep()
        head = self.head
        named, manifests = self.named(head)
        found = stored_keys(self.truth)
        assert [key for key in found["o"] if key.era < head.floor and key not in named] == []
        assert [key for key in found["m"] if key.era < head.floor and key not in manifests] == []

    def create_a_checkpoint_without_trouble(self) -> None:
        tree = write_tree(self.folder / "tree", self.files)
        number = self.new_try(self.files)
        created = checkpoint_tree(opened(self.truth), tree, tags=(tag_of(number),))
        self.reported[number] = True
        assert str(created.snapshot.id) == self.head.live[-1].label

    # What must hold

    def named(self, head: Head) -> tuple[set[BlobKey], set[BlobKey]]:
        """The blobs and the manifests that the roots of `head` name."""
        named: set[BlobKey] = set()
        for root in roots(head):
            if root.manifest not in self.known:
                self.known[root.manifest] = frozenset(blobs(self.truth.manifest(head, root)))
            named |= self.known[root.manifest]
        return named, {BlobKey.parse(root.manifest) for root in roots(head)}

    @invariant()
    def every_root_is_whole_and_what_it_was(self) -> None:
        """I1, I7. What was whole is, until one of its keys is deleted; now and then all is read again."""
        if next(self.looks) % LOOK_AGAIN == 0:
            self.whole.clear()
            self.known.clear()
            check_roots(self.truth)
            assert {kind: set(keys) for kind, keys in stored_keys(self.truth).items()} == self.watched.keys()
        gone = frozenset(self.watched.deleted)
        self.watched.deleted.clear()
        self.whole = {manifest: keys for manifest, keys in self.whole.items() if not keys & gone}
        head = self.truth.head(PIPELINE).head
        assert head == self.head
        for root in {root.manifest: root for root in roots(head)}.values():
            if root.manifest not in self.whole:
                named = blobs(self.truth.manifest(head, root))
                for key, size in named.items():
                    found = self.truth.backend.stat(layout.blob(PIPELINE, key))
                    assert found is not None
                    assert found.bytes == size
                assert contents(self.truth, root, head) == self.taken[try_of(root)]
                names = [layout.manifest(PIPELINE, BlobKey.parse(root.manifest))]
                names += [layout.blob(PIPELINE, key) for key in named]
                self.whole[root.manifest] = frozenset(map(str, names))

    @invariant()
    def what_was_garbage_is_named_by_nobody(self) -> None:
        """I4; and no process but gc deletes anything."""
        named, manifests = self.named(self.head)
        assert not self.condemned & ({("o", key) for key in named} | {("m", key) for key in manifests})
        found = self.watched.keys()
        floor = self.head.floor
        self.condemned |= {("o", key) for key in found["o"] if key.era < floor and key not in named}
        self.condemned |= {("m", key) for key in found["m"] if key.era < floor and key not in manifests}
        assert all(call.verb != "delete" for faulty in self.bags for call in faulty.calls)

    @invariant()
    def history_is_lawful_and_so_are_reports(self) -> None:
        """I2, I3, I5, I6."""
        heads = self.watched.heads
        for before, after in zip(heads[max(0, self.checked_heads - 1) :], heads[self.checked_heads :], strict=False):
            if before is not after:
                self.check_step(before, after)
        self.checked_heads = len(heads)
        for number, success in self.reported.items():
            times = self.appeared[number]
            expected = {True: {1}, False: {0}, None: {0, 1}}[success]
            assert times in expected, f"try {number} was reported as {success}, and is in history {times} times"

    def check_step(self, before: Head, after: Head) -> None:
        assert after.seq == before.seq + 1
        assert after.nonce not in {head.nonce for head in self.watched.heads if head.seq < after.seq}
        assert (after.era, after.floor) >= (before.era, before.floor)
        assert before.floor <= after.floor <= after.era
        assert before.last_id <= after.last_id
        assert before.writer.attempt <= after.writer.attempt
        known = {root.txid for root in roots(before)}
        live = {entry.txid for entry in after.live}
        kept = live | {trashed.entry.txid for trashed in after.trash}
        assert {entry.txid for entry in before.live} <= kept, "a live entry vanished"
        if after.era == before.era:
            assert {trashed.entry.txid for trashed in before.trash} <= kept, "an entry in the trash vanished without gc"
        assert {one.entry.txid for one in after.holds} <= known, "a hold of what was no root"
        assert {trashed.entry.txid for trashed in after.trash} <= known, "trash from nowhere"
        for entry in after.live:
            if entry.txid not in known:
                self.check_commit(before, after, entry)

    def check_commit(self, before: Head, after: Head, entry: HeadEntry) -> None:
        self.appeared[try_of(entry)] += 1
        assert entry.seq == after.seq
        assert BlobKey.parse(entry.manifest).era >= before.floor
        assert (before.era, before.floor) == (after.era, after.floor)
        if entry.kind == "checkpoint":
            assert entry.attempt == before.writer.attempt == after.writer.attempt, "a zombie committed"
            assert before.writer.owner == after.writer.owner
            assert entry.id > before.last_id
        else:
            assert before.writer == after.writer


def tag_of(number: int) -> str:
    return f"try-{number}"


def tagged(manifest: Manifest, number: int) -> Manifest:
    return msgspec.structs.replace(manifest, tags=(tag_of(number),))


def try_of(entry: HeadEntry) -> int:
    """The number of the try that made it."""
    return int(next(text for text in entry.tags if text.startswith("try-")).removeprefix("try-"))


class LocalStoreMachine(StoreMachine):
    """On disk."""

    kind = "local"


TestInMemory = StoreMachine.TestCase
TestInMemory.settings = runs(500 if ALL else 100)
TestOnDisk = LocalStoreMachine.TestCase
TestOnDisk.settings = runs(150 if ALL else 25)
