"""Copies between stores on disk and on S3: from where to where you like, byte for byte, by the server where it can."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eoctl.ambient import system_ambient
from eoctl.services.fork import fork
from eoctl.services.restore import restore
from formats.ids import HashAlgorithm, PipelineId
from formats.manifest import blobs
from scripts.benchmarks.s3_requests import Requests
from storage.backends.urls import open_place
from storage.store import Store, init_store
from tests.support.places import check_roots
from tests.support.seaweed import Server, running_server
from tests.support.stores import at, labels, manifest_at, three_checkpoints

pytestmark = pytest.mark.lane("s3")

COPY = PipelineId("copy")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def make(server: Server, tmp_path: Path) -> Callable[[str], Store]:
    bucket = server.bucket()

    def new(where: str) -> Store:
        url = {
            "disk": str(tmp_path / "store"),
            "another disk": str(tmp_path / "another"),
            "S3": server.url(bucket, "one"),
            "another prefix": server.url(bucket, "two/and/more"),
            "another bucket": server.url(server.bucket()),
        }[where]
        return init_store(open_place(url, "test"), HashAlgorithm.BLAKE3, system_ambient())

    return new


@pytest.mark.parametrize(
    ("origin", "aim"),
    [
        ("disk", "another disk"),
        ("disk", "S3"),
        ("S3", "disk"),
        ("S3", "S3"),
        ("S3", "another prefix"),
        ("S3", "another bucket"),
    ],
)
def test_a_copy_is_the_same_wherever_it_goes(make, tmp_path: Path, origin, aim) -> None:
    source = make(origin)
    target = source if origin == aim else make(aim)
    three_checkpoints(source)
    every = [at(source, f"orders@{number}") for number in (1, 2, 3)]
    with Requests() as requests:
        forked = fork(source, every, target, COPY)
    assert labels(target, "copy") == ["1", "2", "3"]
    check_roots(target, COPY)
    for number in (1, 3):
        restore(source, at(source, f"orders@{number}"), tmp_path / f"original {number}")
        restore(target, at(target, f"copy@{number}"), tmp_path / f"copied {number}")
        assert tree(tmp_path / f"copied {number}") == tree(tmp_path / f"original {number}")
    if origin.startswith("S3") and aim != "disk":
        needed = set().union(*(blobs(manifest_at(source, f"orders@{number}")) for number in (1, 2, 3)))
        assert len(needed) - 3 <= requests.counts["COPY"] <= len(needed)
    else:
        assert requests.counts["COPY"] == 0
    with Requests() as requests:
        again = fork(source, every, target, COPY)
    assert (again.copied_blobs, requests.counts["COPY"]) == (0, 0)
    assert [copy.existed for copy in again.copies] == [True] * 3
    assert forked.copied_blobs > 0
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("eoctl")] == []


def tree(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
