"""What arrives on S3 is held against a checksum that was taken with the digest, not when it was sent."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.errors import UnavailableError
from storage.backend import Key, LocalFile
from tests.support.seaweed import Server, running_server
from tests.support.stores import MIB, noise

pytestmark = pytest.mark.lane("s3")
KEY = Key("p/orders/o/3f/some.1")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_file_that_changed_since_its_digest_was_taken_is_not_stored(
    server: Server, tmp_path: Path, size: int
) -> None:
    backend = server.backend(server.bucket())
    handed_over = tmp_path / "file"
    handed_over.write_bytes(noise(size, 2))
    with pytest.raises(UnavailableError, match="damaged on their way"):
        backend.create(KEY, LocalFile(handed_over, crc32=zlib.crc32(noise(size, 1))))
    assert backend.stat(KEY) is None
