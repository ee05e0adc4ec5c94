"""The backend on S3 keeps what every backend promises, on a real server; and what only S3 can break."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.errors import AccessDeniedError, UnavailableError
from storage.backend import Backend, CopyOf, Key, LocalFile, Reach, Unfinished, VersionMismatchError, version_of
from storage.backends import s3, s3_reader, s3_upload
from storage.backends.s3_client import S3Client
from tests.conformance.backend_suite import HEAD, KEY, BackendSuite, content, names
from tests.support.seaweed import READER_KEY, Server, running_server

pytestmark = [pytest.mark.lane("s3"), pytest.mark.thorough]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture(scope="module")
def bucket(server: Server) -> str:
    return server.bucket()


@pytest.fixture
def backend(server: Server, bucket: str, request: pytest.FixtureRequest) -> s3.S3Backend:
    return server.backend(bucket, request.node.name.partition("[")[0])


class TestS3(BackendSuite):
    @pytest.fixture
    def backend(self, server: Server) -> Backend:
        return server.backend(server.bucket())


class TestS3BelowAPrefix(BackendSuite):
    """Tenants share a bucket."""

    @pytest.fixture
    def backend(self, server: Server, bucket: str, request: pytest.FixtureRequest) -> Backend:
        tenant = f"tenant-{abs(hash(request.node.name))}"
        server.backend(bucket, f"{tenant}-2").create(KEY, b"of another tenant")
        return server.backend(bucket, tenant)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> int:
    """What is large is as small as S3 lets parts be; this takes three."""
    monkeypatch.setattr(s3, "SINGLE_BYTES", 5 << 20)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(s3_upload, "COPY_PART_BYTES", 5 << 20)
    return (10 << 20) + 11


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every request from now on."""
    asked: list[str] = []
    original = S3Client._request

    def request(self, operation, what, parameters, *, attempts):
        asked.append(operation)
        return original(self, operation, what, parameters, attempts=attempts)

    monkeypatch.setattr(S3Client, "_request", request)
    return asked


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("eoctl-s3")]


def unfinished(backend: Backend) -> list[Key]:
    return [item.key for item in backend.list(Key("p"), reach=Reach.UNFINISHED)]


def test_a_large_file_goes_in_parts_and_never_over_another(backend, tmp_path: Path, small_parts, requests) -> None:
    data = bytes(range(251)) * (small_parts // 251 + 1)
    for number, expected in enumerate([True, False]):
        path = tmp_path / str(number)
        path.write_bytes(data[number : small_parts + number])
        assert backend.create(KEY, LocalFile(path)) is expected
        assert not path.exists()
    assert requests.count("UploadPart") == 3
    assert content(backend, KEY) == data[:small_parts]
    assert (unfinished(backend), threads()) == ([], [])


def test_of_large_files_at_once_none_is_lost_or_torn(backend, tmp_path: Path, small_parts) -> None:
    # The server joins parts without a look at the condition at that moment: several may be told that they have won.
    # What goes in parts is named by the digest of its bytes, so they all send the same.
    results: list[bool] = []
    data = bytes(range(251)) * (small_parts // 251)

    def create(number: int) -> None:
        path = tmp_path / str(number)
        path.write_bytes(data)
        results.append(backend.create(KEY, LocalFile(path)))

    work = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert len(results) == 4
    assert True in results
    assert content(backend, KEY) == data
    assert unfinished(backend) == []


class GoneError(Exception):
    """Whoever wanted the upload has gone."""


@pytest.mark.parametrize("error", [GoneError, KeyboardInterrupt])
def test_an_upload_that_is_stopped_leaves_nothing_behind(
    backend, tmp_path: Path, small_parts, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(small_parts))
    told: list[int] = []

    def sent(count: int) -> None:
        told.append(count)
        if len(told) == 3:
            raise error

    if error is KeyboardInterrupt:  # it hits the thread that waits, as Ctrl-C does

        def stopped(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(s3_upload, "_complete", stopped)
        sent = [].append  # type: ignore[assignment]  # nobody listens
    with pytest.raises(error):
        backend.create(KEY, LocalFile(path, sent))
    assert backend.stat(KEY) is None
    assert (unfinished(backend), threads()) == ([], [])
    assert path.exists()


def test_an_upload_that_was_killed_is_found_and_removed(server: Server, bucket: str, backend) -> None:
    prefix = backend._s3.location.prefix
    client = server.client()
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}/{KEY}")
    client.create_multipart_upload(Bucket=bucket, Key=f"{prefix}-of-another/{KEY}")
    (found,) = backend.list(Key("p"), reach=Reach.UNFINISHED)
    assert isinstance(found, Unfinished)
    assert found.key == KEY
    backend.delete([found])
    backend.delete([found])
    assert unfinished(backend) == []
    assert len(client.list_multipart_uploads(Bucket=bucket, Prefix=f"{prefix}-of-another").get("Uploads", [])) == 1


def test_an_upload_that_somebody_aborts_fails_and_leaves_nothing(backend, tmp_path: Path, small_parts) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(small_parts))

    def sent(_: int) -> None:
        backend.delete(list(backend.list(Key("p"), reach=Reach.UNFINISHED)))

    with pytest.raises(UnavailableError, match="aborted by somebody else"):
        backend.create(KEY, LocalFile(path, sent))
    assert backend.stat(KEY) is None
    assert (unfinished(backend), threads()) == ([], [])


def test_a_large_value_is_copied_in_parts_where_one_request_cannot(backend, small_parts, requests) -> None:
    backend.create(KEY, bytes(small_parts))
    assert s3_upload.copy_parts(backend._s3, HEAD, CopyOf(KEY), small_parts) is True
    assert s3_upload.copy_parts(backend._s3, HEAD, CopyOf(KEY), small_parts) is False
    assert requests.count("UploadPartCopy") == 3
    assert content(backend, HEAD) == bytes(small_parts)


def test_a_large_value_is_read_by_ranges_side_by_side(backend, monkeypatch: pytest.MonkeyPatch, requests) -> None:
    monkeypatch.setattr(s3_reader, "RANGE_BYTES", 1 << 18)
    monkeypatch.setattr(s3_reader, "STREAM_BYTES", 1 << 18)
    data = bytes(range(253)) * 12_000
    backend.create(KEY, data)
    requests.clear()
    with backend.open(KEY) as file:
        assert b"".join(iter(lambda: file.read(100_000), b"")) == data
        assert requests == ["GetObject"] * -(-len(data) // (1 << 18))
        for start in (2_000_000, 5, 1_500_000, len(data) - 3):
            file.seek(start)
            assert file.read(70_000) == data[start : start + 70_000]
        file.seek(100)
        assert file.read() == data[100:]
    assert threads() == []
    with backend.open(KEY, 700_001, 1_900_000) as file:
        file.read(10)
        assert file.read() == data[700_011:2_600_001]
    for _ in range(s3_reader.AHEAD * 5):  # what was fetched ahead and not read is given back
        with backend.open(KEY) as file:
            file.read(300_000)
    assert all(backend._s3.ranges_ahead.acquire(blocking=False) for _ in range(6))


def test_a_small_value_costs_one_request(backend, requests) -> None:
    backend.probe.ensure()
    for step, expected in (
        (lambda: backend.create(KEY, b"1"), ["PutObject"]),
        (lambda: content(backend, KEY), ["GetObject"]),
        (lambda: backend.create(HEAD, b"1"), ["PutObject"]),
        (lambda: content(backend, HEAD), ["GetObject"]),
        (lambda: backend.swap(HEAD, b"2", version_of(b"1")), ["PutObject"]),
        (lambda: backend.swap(HEAD, b"3", version_of(b"2")), ["PutObject"]),
        (lambda: backend.create(Key("p/copy"), CopyOf(KEY)), ["CopyObject"]),
        (lambda: backend.stat(KEY), ["HeadObject"]),
        (lambda: names(backend, "p"), ["ListObjectsV2"]),
        (lambda: backend.delete([KEY, HEAD, Key("p/copy")]), ["DeleteObjects"]),
    ):
        requests.clear()
        step()
        assert requests == expected


def test_a_swap_by_another_process_is_seen(server: Server, bucket: str, backend) -> None:
    other = server.backend(bucket, backend._s3.location.prefix)
    backend.create(HEAD, b"1")
    backend.swap(HEAD, b"2", version_of(b"1"))
    other.swap(HEAD, b"3", version_of(b"2"))
    other.swap(HEAD, b"2", version_of(b"3"))
    backend.swap(HEAD, b"4", version_of(b"2"))
    assert content(other, HEAD) == b"4"


def test_a_large_head_is_swapped_like_a_small_one(backend) -> None:
    large = bytes(3 << 20)
    backend.create(HEAD, b"1")
    backend.swap(HEAD, large, version_of(b"1"))
    assert content(backend, HEAD) == large
    with pytest.raises(VersionMismatchError):
        backend.swap(HEAD, large + b"2", version_of(b"1"))
    backend.swap(HEAD, b"3", version_of(large))
    assert content(backend, HEAD) == b"3"


def test_long_listings_and_deletes_come_in_pages(backend, requests) -> None:
    keys = [Key(f"p/o/{number:04}") for number in range(1203)]
    for key in keys:
        backend.create(key, b"")
    requests.clear()
    assert names(backend, "p") == [key.path for key in keys]
    backend.delete([*keys, Key("p/absent")])
    assert names(backend, "p") == []
    assert requests == ["ListObjectsV2", "ListObjectsV2", "DeleteObjects", "DeleteObjects", "ListObjectsV2"]


def test_who_may_only_read_is_told_so_and_changes_nothing(
    server: Server, bucket: str, backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.create(KEY, b"1")
    for name, value in server.environment(READER_KEY).items():
        monkeypatch.setenv(name, value)
    reader = server.backend(bucket, backend._s3.location.prefix)
    assert content(reader, KEY) == b"1"
    with pytest.raises(AccessDeniedError, match="not allowed: PutObject"):
        reader.create(HEAD, b"1")
    with pytest.raises(AccessDeniedError, match="1 keys could not be deleted"):
        reader.delete([KEY])
    assert names(backend, "p") == [KEY.path]
