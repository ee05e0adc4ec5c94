"""The store as a state machine, with the real gc among those who act: faults at any of its calls, and any clock.

The oracle is that of test_store_machine.py, and the delete rule at the moment at which a delete arrives, however late.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

import msgspec
import pytest
from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from eoctl.services.gc import Options, collect
from eoctl.services.gc_rows import PipelineGc
from eoctl.services.retention import Policy
from formats.ids import BlobKey, Era
from storage import layout
from storage.backend import Key, Unfinished
from storage.store import Store
from tests.properties.test_store_machine import (
    ACTIONS,
    BETWEEN,
    CONTENTS,
    TROUBLE,
    StoreMachine,
    Trouble,
    What,
    Where,
    runs,
)
from tests.support.fakes import FakeAmbient
from tests.support.faulty import Fault, FaultyBackend
from tests.support.places import PIPELINE, behind, stored_keys

pytestmark = pytest.mark.thorough

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
HOUR, DAY, YEAR = 3600, 86_400, 365 * 86_400
CLOCKS = st.sampled_from([0, HOUR, 7 * HOUR, 30 * HOUR, 9 * DAY, YEAR, -YEAR, 900 * YEAR, -900 * YEAR])
OPTIONS = st.builds(
    Options,
    policy=st.builds(Policy, keep_last=st.integers(0, 3), keep_within_seconds=st.sampled_from([0, DAY])),
    grace_seconds=st.sampled_from([0, 6 * HOUR]),
    keep_trash_seconds=st.sampled_from([0, DAY]),
    repack=st.booleans(),
)
AT_ONCE = Options(grace_seconds=0, keep_trash_seconds=0)
DELETES: list[tuple[Where, What]] = [(("delete", number), (fault, "")) for number in range(3) for fault in Fault] + [
    ((verb, number), (None, action)) for verb in ("list", "delete") for number in range(3) for action in ACTIONS
]
PLACES: list[Where] = [*BETWEEN, ("list", 0), ("list", 2), ("delete", 0)]
GC_TROUBLE = st.one_of(TROUBLE, st.lists(st.sampled_from(DELETES), max_size=2).map(dict))


class GcMachine(StoreMachine):
    """In memory; a subclass says otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[FaultyBackend] = []
        self.seconds = 0.0
        self.delete = self.watched.delete
        self.watched.delete = self.deleted_by_the_rule  # type: ignore[method-assign]  # of this one

    def deleted_by_the_rule(self, keys: Iterable[Key | Unfinished]) -> None:
        """I4."""
        wanted = [*keys]
        named, manifests = self.named(self.head)
        for key in wanted:
            if isinstance(key, Key):
                blob, manifest = layout.parse_blob(PIPELINE, key), layout.parse_manifest(PIPELINE, key)
                assert blob is None or (blob.era < self.head.floor and blob not in named), key
                assert manifest is None or (manifest.era < self.head.floor and manifest not in manifests), key
        self.delete(wanted)

    def collector(self, trouble: Trouble) -> Store:
        store = self.process(trouble)
        assert isinstance(store.backend, FaultyBackend)
        self.collectors.append(store.backend)
        clock = FakeAmbient(next(self.processes))
        clock.seconds = self.seconds
        return behind(store, store.backend, clock.ambient())

    def run(self, store: Store, options: Options) -> PipelineGc:
        (row,) = collect(store, [PIPELINE], options).pipelines
        event(f"gc: {row.error or 'done'}")
        assert row.error not in {"corrupt", "blob-gone", "wrong-store"}, row
        assert (row.dangling, row.strangers, row.stopped) == ((), (), "")
        return row

    @rule(options=OPTIONS, jump=CLOCKS, trouble=GC_TROUBLE)
    def collect(self, options: Options, jump: float, trouble: Trouble) -> None:
        self.seconds = min(max(self.seconds + jump, -1000 * YEAR), 5000 * YEAR)
        self.attempt(None, partial(self.run, self.collector(trouble), options))

    @rule(
        options=OPTIONS, place=st.sampled_from([*BETWEEN, ("list", 0), ("list", 2), ("delete", 0)]), trouble=GC_TROUBLE
    )
    def collect_twice_at_once(self, options: Options, place: Where, trouble: Trouble) -> None:
        """One begins, another runs from its beginning to its end, with faults of its own, and the one goes on."""
        outer = self.collector({place: (None, "another gc")})
        self.other = partial(self.attempt, None, partial(self.run, self.collector(trouble), AT_ONCE))
        self.attempt(None, partial(self.run, outer, options))

    def poison(self) -> None:
        """In the era that is now: of a later one gc would say, rightly, that HEAD went back."""
        for name in ("other small", "small"):
            key = BlobKey(self.truth.hash.digest(CONTENTS[name]), Era(self.head.era))
            self.watched.create(layout.blob(PIPELINE, key), b"other bytes")

    def others(self, what: str) -> None:
        if what == "another gc":
            self.other()
        else:
            super().others(what)

    @rule(jump=CLOCKS)
    def a_dry_run_changes_nothing_and_names_what_goes(self, jump: float) -> None:
        self.seconds = min(max(self.seconds + jump, -1000 * YEAR), 5000 * YEAR)
        options = Options(policy=Policy(keep_last=2), names=True, repack=False)
        before, head = stored_keys(self.truth), self.head
        told = self.run(self.collector({}), msgspec.structs.replace(options, dry_run=True))
        assert (stored_keys(self.truth), self.head) == (before, head)
        done = self.run(self.collector({}), options)
        assert (told.garbage, told.expired, told.kept) == (done.garbage, done.expired, done.kept)
        after = stored_keys(self.truth)
        gone = {BlobKey.parse(name.rpartition("/")[2]) for name in told.garbage}
        assert gone == {key for kind in before for key in set(before[kind]) - set(after[kind])}

    @rule()
    def settle_by_gc(self) -> None:
        """I9: with faults off, two runs leave no garbage below the floor."""
        self.deliver()
        for _ in range(2):
            row = self.run(self.collector({}), AT_ONCE)
            assert row.error == ""
        head = self.head
        named, manifests = self.named(head)
        found = stored_keys(self.truth)
        assert [key for key in found["o"] if key.era < head.floor and key not in named] == []
        assert [key for key in found["m"] if key.era < head.floor and key not in manifests] == []

    @invariant()
    def what_was_garbage_is_named_by_nobody(self) -> None:
        """I4; and no process but gc deletes anything."""
        named, manifests = self.named(self.head)
        assert not self.condemned & ({("o", key) for key in named} | {("m", key) for key in manifests})
        found = self.watched.keys()
        floor = self.head.floor
        self.condemned |= {("o", key) for key in found["o"] if key.era < floor and key not in named}
        self.condemned |= {("m", key) for key in found["m"] if key.era < floor and key not in manifests}
        others = [faulty for faulty in self.bags if all(faulty is not collector for collector in self.collectors)]
        assert all(call.verb != "delete" for faulty in others for call in faulty.calls)


class LocalGcMachine(GcMachine):
    """On disk."""

    kind = "local"


TestInMemory = GcMachine.TestCase
TestInMemory.settings = runs(200 if ALL else 60)
TestOnDisk = LocalGcMachine.TestCase
TestOnDisk.settings = runs(50 if ALL else 15)
