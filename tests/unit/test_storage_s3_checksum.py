"""What goes to S3 is held there against a checksum that was taken with the digest, not when it was sent."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest

from formats.errors import UnavailableError
from storage.backend import Key, LocalFile
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import Limits
from storage.backends.s3_url import parse_location
from tests.support.stores import MIB, noise
from tests.support.stub_s3 import Answer, Reaction, Request, fault, stub

pytest.importorskip("botocore")
KEY = Key("p/orders/o/3f/some.1")


def checking(request: Request) -> Reaction:
    """As S3 does."""
    crc = base64.b64encode(zlib.crc32(request.body).to_bytes(4, "big")).decode()
    if request.headers["x-amz-checksum-crc32"] == crc:
        return Answer(200, b"", {"ETag": '"e"'})
    return fault(400, "BadDigest", "The CRC32 you specified did not match what we received.")


@pytest.mark.parametrize("size", [100, 3 * MIB])
@pytest.mark.parametrize("changed", [False, True])
def test_a_file_that_changed_since_its_digest_was_taken_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, changed
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEOCTLTESTS000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "only for loopback")
    handed_over = tmp_path / "file"
    handed_over.write_bytes(noise(size, 2 if changed else 1))
    body = LocalFile(handed_over, crc32=zlib.crc32(noise(size, 1)))
    with stub(checking) as server:
        backend = S3Backend(parse_location(server.url), "test", None, Limits(attempts=2, wait=lambda _: None))
        backend.probe._known = True
        if changed:
            with pytest.raises(UnavailableError, match="damaged on their way"):
                backend.create(KEY, body)
        else:
            assert backend.create(KEY, body)
