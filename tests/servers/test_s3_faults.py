"""Faults on the wire to a real S3 server: nothing that was reported is lost, and nothing that was denied shows.

`EOCTL_TEST_LONG=1` injects a thousand of each class, otherwise fifty.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator

import pytest

from formats.errors import CommitUnknownError, EoctlError
from formats.head import roots
from formats.ids import Attempt, HashAlgorithm, TxId
from storage.backend import Place
from storage.backends.s3 import s3_place
from storage.backends.s3_client import Limits
from storage.session import Session, open_writer
from storage.store import Store, init_store, open_store
from tests.support.fakes import FakeAmbient
from tests.support.places import PIPELINE, Plan, check_roots, contents
from tests.support.s3_proxy import Proxy, WireFault, proxy, seeded
from tests.support.seaweed import Server, running_server
from tests.support.stores import noise
from tests.support.sweeper import Sweeper

pytestmark = pytest.mark.lane("s3")

FAULTS = 1000 if os.environ.get("EOCTL_TEST_LONG") == "1" else 50
RENEWED = 25  # processes after which connections are made, and the endpoint is tried, anew
COMMITS = FAULTS // 25  # that came through, at least
CROWD = 0.3  # how often others act between two writers
KEPT = 4  # checkpoints, before the oldest ones go
LIMITS = Limits(connect_seconds=5, read_seconds=20, attempts=4, wait=lambda _: None)
FILES = {name: noise(size, size) for name, size in (("a", 10), ("b", 3000), ("c", 90_000))}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def between(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """On the way to the server; nobody waits where something fails."""
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: True)
    with proxy(server.endpoint) as ready:
        yield ready


class Troubled:
    """A store that is seen through the proxy by writers and directly by everybody else, and what writers were told."""

    def __init__(self, server: Server, between: Proxy, rng: random.Random) -> None:
        url = server.url(server.bucket(), "tenant")
        self.store = init_store(s3_place(url, "clean", None, LIMITS), HashAlgorithm.BLAKE3, FakeAmbient().ambient())
        self.sweeper = Sweeper(self.store)
        self.expected: dict[TxId, dict[str, bytes]] = {}  # reported as committed, and not expired since
        self.refused: set[TxId] = set()
        self.unknown: set[TxId] = set()
        self.commits = 0
        self._url = url.replace(server.endpoint.rpartition(":")[2], between.endpoint.rpartition(":")[2])
        self._between = between
        self._rng = rng
        self._place: Place | None = None
        self._processes = itertools.count(1000)

    def process(self) -> Store:
        """The store as a process sees it that starts now, beyond the proxy."""
        number = next(self._processes)
        if self._place is None or number % RENEWED == 0:
            self._place = s3_place(self._url, f"p{number}", None, LIMITS)
        return open_store(self._place, FakeAmbient(number).ambient())

    def write(self) -> None:
        """A writer opens an attempt and commits, until something is wrong."""
        try:
            store = self.process()
            attempt, owner = open_writer(store, PIPELINE)
        except EoctlError:
            return
        for _ in range(self._rng.randrange(1, 6)):
            if not self._commit(store, attempt, owner):
                return

    def _commit(self, store: Store, attempt: Attempt, owner: TxId) -> bool:
        files = {name: FILES[name] + bytes([self._rng.randrange(4)]) for name in self._rng.sample([*FILES], 2)}
        try:
            session = Session(store, PIPELINE, attempt, owner)
        except EoctlError:
            return False
        try:
            session.commit(Plan(files))
        except CommitUnknownError:
            self.unknown.add(session.txid)
            return False
        except EoctlError:
            self.refused.add(session.txid)
            return False
        self.expected[session.txid] = files
        self.commits += 1
        return True

    def others(self) -> None:
        """Late requests arrive; old checkpoints go, and at once what the delete rule lets go."""
        self._between.deliver()
        head = self.store.head(PIPELINE).head
        old = head.live[: max(0, len(head.live) - KEPT)]
        for entry in old:
            self.expected.pop(TxId(entry.txid), None)
        if old:
            self.sweeper.expire(*(entry.label for entry in old))
            self.sweeper.advance()
            self.sweeper.advance()
            self.sweeper.sweep()

    def check(self) -> None:
        """I2: what was reported is there once; what was denied is not."""
        shown = [root.txid for root in roots(self.store.head(PIPELINE).head)]
        assert len(set(shown)) == len(shown)
        assert set(self.expected) <= set(shown)
        assert self.refused.isdisjoint(shown)
        assert set(shown) <= set(self.expected) | self.unknown

    def check_bytes(self) -> None:
        """I1, and that each checkpoint holds what its writer stored."""
        head = check_roots(self.store)
        for root in roots(head):
            if root.txid in self.expected:
                assert contents(self.store, root, head) == self.expected[TxId(root.txid)]


@pytest.mark.parametrize("fault", WireFault)
def test_faults_on_the_wire_lose_nothing_and_invent_nothing(server: Server, between: Proxy, fault: WireFault) -> None:
    rng = random.Random(fault)
    world = Troubled(server, between, rng)
    open_writer(world.store, PIPELINE)
    while between.injected[fault] < FAULTS or world.commits < COMMITS:
        between.decide = seeded(rng, rng.choice([0.1, 0.3, 0.5, 0.5]), fault)
        world.write()
        world.check()
        between.decide = lambda *_: None
        if rng.random() < CROWD:
            world.others()
            world.check()
    world.check_bytes()
    before = len(world.expected)
    world.write()  # I9: with faults gone it works
    assert len(world.expected) > before
    world.check_bytes()
