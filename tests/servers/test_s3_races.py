"""Sixty-four processes race for one HEAD on a real S3 server: one wins each round, and no win is lost.

Swaps of the back end first; then whole writers, which open attempts and commit checkpoints: whoever was told of a
success finds it in HEAD. `EOCTL_TEST_LONG=1` runs more rounds.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from formats.head import roots
from formats.ids import HashAlgorithm, PipelineId
from storage.backend import Key
from storage.backends.s3 import s3_place
from storage.store import init_store
from tests.support.fakes import FakeAmbient
from tests.support.places import check_roots
from tests.support.s3_racers import mine, racing, swapper, writer
from tests.support.seaweed import Server, running_server

pytestmark = [pytest.mark.lane("s3"), pytest.mark.slow]

RACERS = 64
LONG = os.environ.get("EOCTL_TEST_LONG") == "1"
HEAD = Key("p/race/HEAD")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


def test_of_sixty_four_swaps_one_wins_each_round(server: Server) -> None:
    url = server.url(server.bucket(), "tenant")
    backend = s3_place(url, "referee").backend
    value = b"start"
    backend.create(HEAD, value)
    with racing(RACERS, swapper, url, HEAD.path) as field:
        for _ in range(20 if LONG else 5):
            field.say(value)
            results = field.heard()
            assert Counter(results) == {"won": 1, "lost": RACERS - 1}
            value = mine(value, f"w{results.index('won')}")
            with backend.open(HEAD) as file:
                assert file.read() == value


def test_of_sixty_four_writers_no_reported_commit_is_lost(server: Server) -> None:
    url = server.url(server.bucket(), "tenant")
    name = PipelineId("race")
    store = init_store(s3_place(url, "referee"), HashAlgorithm.BLAKE3, FakeAmbient().ambient())
    store.make_pipeline(name)
    with racing(RACERS, writer, url, name.name, 4 if LONG else 1) as field:
        field.say("go")
        told = field.heard()
    head = check_roots(store, name)
    shown = [root.txid for root in roots(head)]
    won = [txid for one in told for txid in one["won"]]
    refused = {txid for one in told for txid in one["refused"]}
    unknown = {txid for one in told for txid in one["unknown"]}
    assert won, "somebody comes through"
    assert len(set(shown)) == len(shown)
    assert set(won) <= set(shown) <= set(won) | unknown
    assert refused.isdisjoint(shown)
    assert head.writer.attempt >= len(won)
