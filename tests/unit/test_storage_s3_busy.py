"""A busy S3: asked again after a while as long as patience lasts, and told when it does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from storage.backend import BusyError, Key, LocalFile
from storage.backends.retrying import BUDGET_SECONDS
from storage.backends.s3 import s3_place
from storage.backends.s3_client import Limits
from tests.support.stub_s3 import Answer, Reaction, Request, fault, stub

pytest.importorskip("botocore")
KEY = Key("p/orders/o/3f/some.1")
TRIES = 2  # of the library, before it is our turn


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what a test counts: the library's own pauses take no time."""
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr("botocore.retries.bucket.Clock.sleep", lambda *_: None)
    monkeypatch.setattr("botocore.retries.adaptive.ClientRateLimiter.on_sending_request", lambda *_, **__: None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEOCTLTESTS000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "only for loopback")


def place(url: str, waits: list[float], records: Path):
    """With a server that is known to keep conditions, so that nothing is tried first."""
    found = s3_place(url, "test", records, Limits(attempts=TRIES, wait=waits.append))
    found.backend._inner.probe._known = True  # type: ignore[attr-defined]  # the S3 backend behind the patient one
    return found


@pytest.mark.parametrize(
    "answer",
    [
        fault(503, "SlowDown", "Please reduce your request rate."),
        fault(429, "TooManyRequests", "Slow down."),
        fault(503, "ServiceUnavailable", "Unable to handle the request."),
    ],
)
def test_what_is_only_read_is_asked_for_again(tmp_path: Path, answer: Reaction) -> None:
    waits: list[float] = []
    there = Answer(200, b"", {"Content-Length": "5", "Last-Modified": "Fri, 20 Nov 2026 10:00:00 GMT"})
    answers = iter([answer] * 8 * TRIES)
    with stub(lambda _: next(answers, there)) as server:
        found = place(server.url, waits, tmp_path).backend.stat(KEY)
    assert found is not None
    assert (found.bytes, len(waits)) == (5, 8)


def test_an_upload_that_was_refused_for_now_is_sent_again_whole(tmp_path: Path) -> None:
    waits: list[float] = []
    answers = iter([fault(503, "SlowDown", "Please reduce your request rate.")] * 3)
    stored: list[bytes] = []

    def react(request: Request) -> Reaction:
        busy = next(answers, None)
        if busy is None:
            stored.append(request.body)
        return busy or Answer(200, b"", {"ETag": '"e"'})

    handed_over = tmp_path / "file"
    handed_over.write_bytes(b"the whole of it")
    with stub(react) as server:
        assert place(server.url, waits, tmp_path).backend.create(KEY, LocalFile(handed_over))
        conditions = {request.headers.get("if-none-match") for request in server.requests}
    assert conditions == {"*"}
    assert stored[-1].endswith(b"the whole of it")
    assert not handed_over.exists()


def test_patience_ends(tmp_path: Path) -> None:
    waits: list[float] = []
    with (
        stub(lambda _: fault(503, "SlowDown", "Please reduce your request rate.")) as server,
        pytest.raises(BusyError, match="is busy"),
    ):
        place(server.url, waits, tmp_path).backend.stat(KEY)
    assert BUDGET_SECONDS / 2 < sum(waits) <= BUDGET_SECONDS
