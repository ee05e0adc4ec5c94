"""What a call makes of a fault at any of its requests to a real S3 server: it is done once, or known to be open."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from formats.errors import EoctlError, OutcomeUnknownError, UnavailableError
from storage.backend import CopyOf, Key, KeyAbsentError, LocalFile, Reach, VersionMismatchError, version_of
from storage.backends import s3, s3_reader, s3_upload
from storage.backends.s3_client import Limits
from tests.support.s3_proxy import Proxy, WireFault, proxy
from tests.support.seaweed import Server, running_server

pytestmark = pytest.mark.lane("s3")

KEY = Key("p/orders/o/3f/some.1")
HEAD = Key("p/orders/HEAD")
LIMITS = Limits(connect_seconds=5, read_seconds=20, attempts=4, wait=lambda _: None)
ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
LARGE = bytes(range(251)) * (11 << 12)  # three parts of 5 MiB


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture(scope="module")
def bucket(server: Server) -> str:
    return server.bucket()


@pytest.fixture
def between(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: True)
    with proxy(server.endpoint) as ready:
        yield ready


Make = Callable[[str], tuple[s3.S3Backend, s3.S3Backend]]


@pytest.fixture
def make(server: Server, bucket: str, between: Proxy, request: pytest.FixtureRequest) -> Make:
    """A back end beyond the proxy, and one that sees the same directly."""
    through = Server(between.endpoint, server.directory, server.pid)

    def new(name: str) -> tuple[s3.S3Backend, s3.S3Backend]:
        prefix = f"{request.node.name.translate(str.maketrans('[] ', '---'))}.{name}".replace("..", ".")
        clean = server.backend(bucket, prefix, limits=LIMITS)
        troubled = through.backend(bucket, prefix, limits=LIMITS)
        troubled.probe._known = clean.probe._known = True
        return troubled, clean

    return new


def at(number: int, fault: WireFault) -> Callable[..., WireFault | None]:
    """At request `number` from now on, counted from 0."""
    lock = threading.Lock()
    seen = -1

    def decide(*_: object) -> WireFault | None:
        nonlocal seen
        with lock:
            seen += 1
            return fault if seen == number else None

    return decide


def value(backend: s3.S3Backend, key: Key) -> bytes:
    with backend.open(key) as file:
        return file.read()


@pytest.mark.parametrize("fault", WireFault)
def test_a_create_that_meets_a_fault_is_done_once(make: Make, between: Proxy, fault: WireFault) -> None:
    backend, clean = make("0")
    between.decide = at(0, fault)
    # Where somebody in between repeats a request, all that is told is that some value is there.
    assert backend.create(KEY, b"ours") is (fault not in {WireFault.TWICE, WireFault.REFUSED_AFTER})
    assert value(clean, KEY) == b"ours"
    between.decide = at(0, fault)
    assert backend.create(KEY, b"theirs") is False
    between.deliver()
    assert value(clean, KEY) == b"ours"


@pytest.mark.parametrize("fault", WireFault)
def test_a_swap_that_meets_a_fault_is_done_or_known_to_be_open(make: Make, between: Proxy, fault: WireFault) -> None:
    backend, clean = make("0")
    backend.create(HEAD, b"1")
    assert value(backend, HEAD) == b"1"
    between.decide = at(0, fault)
    done_after_all = {WireFault.REPLY_LOST, WireFault.BROKEN_AFTER, WireFault.GATEWAY, WireFault.REFUSED_AFTER}
    match fault:
        case WireFault.CUT:
            backend.swap(HEAD, b"2", version_of(b"1"))
        case WireFault.TWICE | WireFault.REFUSED_AFTER:  # head.py reads back, and finds itself
            with pytest.raises(VersionMismatchError):
                backend.swap(HEAD, b"2", version_of(b"1"))
        case WireFault.BUSY:
            with pytest.raises(UnavailableError):
                backend.swap(HEAD, b"2", version_of(b"1"))
        case _:
            with pytest.raises(OutcomeUnknownError):
                backend.swap(HEAD, b"2", version_of(b"1"))
    expected = b"2" if fault in done_after_all | {WireFault.TWICE, WireFault.CUT} else b"1"
    assert value(clean, HEAD) == expected
    if expected == b"1":
        backend.swap(HEAD, b"2", version_of(b"1"))
    between.deliver()
    backend.swap(HEAD, b"3", version_of(b"2"))
    assert value(clean, HEAD) == b"3"


@pytest.mark.parametrize("fault", WireFault)
def test_a_read_that_meets_a_fault_gives_every_byte(make: Make, between: Proxy, fault: WireFault, monkeypatch) -> None:
    monkeypatch.setattr(s3_reader, "RANGE_BYTES", 1 << 18)
    backend, clean = make("0")
    data = LARGE[: 1 << 20]
    clean.create(KEY, data)
    clean.create(HEAD, data)
    for number in range(3):
        for key in (KEY, HEAD):
            if fault is WireFault.REFUSED_AFTER or (fault is WireFault.CONFLICT and number == 0):
                continue  # no server answers a read so
            between.decide = at(number, fault)
            try:
                assert value(backend, key) == data
            except OutcomeUnknownError:
                assert fault is WireFault.CONFLICT
    with pytest.raises(KeyAbsentError):
        value(backend, Key("p/absent"))


@pytest.mark.parametrize("fault", [fault for fault in WireFault if fault is not WireFault.CONFLICT])
def test_an_upload_in_parts_that_meets_a_fault_is_done_or_open(
    make: Make, between: Proxy, fault: WireFault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "SINGLE_BYTES", 5 << 20)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    for number in range(6) if ALL else (0, 1, 3, 5):  # HEAD, begin, three parts, end
        backend, clean = make(str(number))
        path = tmp_path / str(number)
        path.write_bytes(LARGE)
        between.decide = at(number, fault)
        try:
            created = backend.create(KEY, LocalFile(path))
        except EoctlError:  # a refusal that is none: 412 to what has no condition
            assert fault is WireFault.REFUSED_AFTER
            continue
        between.decide = lambda *_: None
        between.deliver()
        assert value(clean, KEY) == LARGE
        open_uploads = [*clean.list(Key("p"), reach=Reach.UNFINISHED)]
        assert created or number == 5
        # Of an upload that was begun twice, or completed twice, one stays for gc.
        assert len(open_uploads) <= (number in {1, 5})


@pytest.mark.parametrize("fault", WireFault)
def test_a_copy_that_meets_a_fault_is_there(make: Make, between: Proxy, fault: WireFault) -> None:
    backend, clean = make("0")
    clean.create(KEY, LARGE[:1000])
    between.decide = at(0, fault)
    backend.create(Key("p/copy"), CopyOf(KEY))  # False where the reply was lost: whoever asked reads it then
    between.deliver()
    assert value(clean, Key("p/copy")) == LARGE[:1000]


@pytest.mark.parametrize(
    "fault", [WireFault.LOST, WireFault.REPLY_LOST, WireFault.TWICE, WireFault.BUSY, WireFault.CUT]
)
def test_a_delete_that_meets_a_fault_is_done(make: Make, between: Proxy, fault: WireFault) -> None:
    backend, clean = make("0")
    keys = [Key(f"p/o/{number}") for number in range(5)]
    for key in keys:
        clean.create(key, b"1")
    between.decide = at(0, fault)
    backend.delete(keys[:3])
    assert [item.key for item in clean.list(Key("p"))] == keys[3:]
