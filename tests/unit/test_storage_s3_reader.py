"""Readers of values on S3: however a caller reads, and however often an answer breaks off."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable, Iterator

import pytest

from formats.errors import CorruptError, UnavailableError
from storage.backend import Key
from storage.backends import s3_reader
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import Limits
from storage.backends.s3_reader import JUMP_BYTES, RANGE_BYTES
from storage.backends.s3_url import parse_location
from tests.support.stores import MIB, noise
from tests.support.stub_s3 import Answer, HangUp, Reaction, Request, Stub, fault, stub

pytest.importorskip("botocore")
KEY = Key("p/orders/o/3f/some.1")
DATA = noise(3 * RANGE_BYTES + 12_345)
Trouble = Callable[[int], Reaction | int | None]  # of the number of a request: instead of it, or where it is cut


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEOCTLTESTS000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "only for loopback")
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("eoctl")] == []


def serving(trouble: Trouble = lambda _: None) -> Callable[[Request], Reaction]:
    """DATA by ranges, as S3 gives them."""
    numbers = itertools.count()

    def react(request: Request) -> Reaction:
        chosen = trouble(next(numbers))
        if chosen is not None and not isinstance(chosen, int):
            return chosen
        first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, len(DATA))
        headers = {"ETag": '"e"', "Content-Range": f"bytes {start}-{end - 1}/{len(DATA)}"}
        return Answer(206, DATA[start:end], headers, cut=chosen)

    return react


def backend(server: Stub, attempts: int = 3) -> S3Backend:
    return S3Backend(parse_location(server.url), "test", None, Limits(attempts=attempts, wait=lambda _: None))


@pytest.fixture(params=["in one answer", "side by side"])
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to read on."""
    if request.param == "side by side":
        monkeypatch.setattr(s3_reader, "STREAM_BYTES", 0)


@pytest.mark.parametrize("size", [MIB, 100_000, 7 * MIB + 1, -1])
def test_a_value_is_read_from_end_to_end(ways, size) -> None:
    with stub(serving()) as server, backend(server).open(KEY) as reader:
        assert b"".join(iter(lambda: reader.read(size), b"")) == DATA


def test_the_rest_of_a_value_comes_in_one_answer() -> None:
    with stub(serving()) as server, backend(server).open(KEY) as reader:
        while reader.read(MIB):
            pass
        assert [request.headers["range"] for request in server.requests] == [
            f"bytes=0-{RANGE_BYTES - 1}",
            f"bytes={RANGE_BYTES}-{len(DATA) - 1}",
        ]


def test_answers_that_break_off_go_on_where_they_broke(ways) -> None:
    cuts = {0: 1_000_000, 1: 3 * MIB + 5, 3: 0, 4: 10, 6: 77}
    attempts = len(cuts) + 1  # side by side, all of them may meet one range
    with stub(serving(cuts.get)) as server, backend(server, attempts).open(KEY) as reader:
        assert b"".join(iter(lambda: reader.read(MIB), b"")) == DATA


def test_a_value_that_cannot_be_read_on_is_an_error(ways) -> None:
    with (
        stub(serving(lambda number: None if number == 0 else HangUp())) as server,
        backend(server).open(KEY) as reader,
        pytest.raises(UnavailableError),
    ):
        reader.read()


def test_a_value_that_changed_meanwhile_is_never_mixed(ways) -> None:
    changed = fault(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
    with (
        stub(serving(lambda number: None if number == 0 else changed)) as server,
        backend(server).open(KEY) as reader,
        pytest.raises(CorruptError, match="changed while it was read"),
    ):
        reader.read()


@pytest.mark.parametrize("seed", range(5))
def test_any_way_to_move_gives_the_bytes_there(ways, seed) -> None:
    chosen = random.Random(seed)
    with stub(serving()) as server, backend(server).open(KEY) as reader:
        for _ in range(60):
            if chosen.random() < 0.4:
                reader.seek(chosen.randrange(len(DATA) + 1000))
            start = reader.tell()
            size = chosen.choice([1, 65536, MIB, 5 * MIB, RANGE_BYTES + 1])
            assert reader.read(size) == DATA[start : start + size]


def test_a_reader_that_jumps_asks_for_little() -> None:
    with stub(serving()) as server, backend(server).open(KEY) as reader:
        for start in (2 * RANGE_BYTES, RANGE_BYTES + 5, 3 * RANGE_BYTES):
            reader.seek(start)
            assert reader.read(65536) == DATA[start : start + 65536]
        sizes = [_length(request) for request in server.requests[1:]]
    assert max(sizes) <= JUMP_BYTES


def test_a_reader_that_is_closed_early_leaves_nothing_behind(ways) -> None:
    with stub(serving()) as server:
        reader = backend(server).open(KEY)
        assert reader.read(RANGE_BYTES + MIB) == DATA[: RANGE_BYTES + MIB]
        reader.close()
        again = backend(server)
        with again.open(KEY) as other:
            assert other.read(5) == DATA[:5]


def _length(request: Request) -> int:
    first, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    return int(last) - int(first) + 1
