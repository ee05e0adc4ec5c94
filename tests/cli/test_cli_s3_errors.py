"""What goes wrong on the way to S3: one clear sentence each, a hint, an exit code, and nothing half-done."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from storage.backends import s3
from storage.backends.s3_client import Limits
from tests.cli.conftest import CommandLine
from tests.support.stub_s3 import Answer, HangUp, Reaction, Request, Silence, fault, stub

PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"
HTML = {"Content-Type": "text/html"}
SKEWED: dict[str, Any] = {
    "RequestTime": "20261123T120000Z",
    "ServerTime": "2026-11-23T15:07:22Z",
    "MaxAllowedSkewMilliseconds": "900000",
}

CASES: dict[str, tuple[Reaction, int, str, str]] = {
    "wrong bucket": (
        fault(404, "NoSuchBucket", "The specified bucket does not exist", BucketName="bucket"),
        10,
        "there is no bucket bucket at http://",
        "endpoint_url",
    ),
    "wrong region": (
        fault(
            400,
            "AuthorizationHeaderMalformed",
            "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
            Region="eu-west-1",
        ),
        2,
        "bucket bucket is in region eu-west-1, not in us-east-1",
        "add region=eu-west-1",
    ),
    "moved for good": (
        fault(
            301,
            "PermanentRedirect",
            "The bucket you are attempting to access must be addressed using the specified endpoint.",
            {"x-amz-bucket-region": "ap-southeast-2"},
            Endpoint="bucket.s3-ap-southeast-2.amazonaws.com",
        ),
        2,
        "is in region ap-southeast-2",
        "add region=ap-southeast-2",
    ),
    "redirect to another host": (
        Answer(307, b"", {"Location": "http://127.0.0.1:1/elsewhere"}),
        14,
        "redirects to http://127.0.0.1:1/elsewhere, which is not followed",
        "endpoint_url",
    ),
    "expired credentials": (
        fault(400, "ExpiredToken", "The provided token has expired."),
        18,
        "the AWS credentials have expired",
        "aws sso login",
    ),
    "unknown access key": (
        fault(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        18,
        "does not accept the AWS credentials",
        "AWS_PROFILE",
    ),
    "wrong secret": (
        fault(403, "SignatureDoesNotMatch", "The request signature we calculated does not match."),
        18,
        "does not accept the AWS credentials",
        "AWS_SECRET_ACCESS_KEY",
    ),
    "denied action": (
        fault(403, "AccessDenied", "User: arn:aws:iam::1:user/x is not authorized to perform: s3:GetObject"),
        18,
        "not allowed: ",
        "s3:ListBucket",
    ),
    "denied key of KMS": (
        fault(400, "KMS.DisabledException", "arn:aws:kms:us-east-1:1:key/2 is disabled."),
        18,
        "the KMS key cannot be used",
        "sse_kms_key_id",
    ),
    "clock skew": (
        fault(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            **SKEWED,
        ),
        18,
        "20261123T120000Z here, 2026-11-23T15:07:22Z there",
        "clock",
    ),
    "archived object": (
        fault(403, "InvalidObjectState", "The operation is not valid for the object's storage class"),
        16,
        "was moved to an archive",
        "lifecycle",
    ),
    "slow down": (fault(503, "SlowDown", "Please reduce your request rate."), 16, "is busy", "later"),
    "bad gateway": (Answer(502, PAGE, HTML), 16, "502", ""),
    "a page that says 404": (Answer(404, PAGE, HTML), 14, "does not answer as S3 does", "endpoint_url"),
    "hung up": (HangUp(), 16, "did not answer in full", "network"),
    "slow endpoint": (Silence(), 16, "did not answer in full", "network"),
}


@pytest.fixture(autouse=True)
def credentials(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEOCTLTESTS000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "known to loopback only")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "none"))


def be_patient(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    limits = Limits(connect_seconds=60, read_seconds=seconds, attempts=2, wait=lambda _: None)
    monkeypatch.setattr(s3, "Limits", lambda: limits)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses are none, and no thread is left behind. A time-out is met by nobody who is not kept waiting for it."""
    be_patient(monkeypatch, 60)
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: True)
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("eoctl")] == []


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["list", "init"])
def test_what_is_wrong_on_the_way_to_s3_is_one_clear_error(
    eoctl: CommandLine, name: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reaction, code, told, hint = CASES[name]
    if isinstance(reaction, Silence):
        be_patient(monkeypatch, 0.2)
    with stub(lambda _: reaction) as server:
        words = ["store", "init", server.url] if command == "init" else ["checkpoint", "list", "--store", server.url]
        done = eoctl(*words, "--json")
        assert server.requests
    document = json.loads(done.err)
    assert (done.code, document["exit_code"], done.out) == (code, code, ""), document
    assert told in document["message"]
    assert hint in document["hint"]
    assert "\n" not in document["message"]
    assert "known to loopback only" not in done.err


def test_a_dead_endpoint_is_told_as_such(eoctl: CommandLine) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        done = eoctl("checkpoint", "list", "--store", f"s3://bucket/p?endpoint_url={endpoint}")
    assert done.code == 16
    assert f"no connection to {endpoint}" in done.err
    assert "check endpoint_url" in done.err


def test_no_credentials_are_told_as_such(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with stub(lambda _: Answer(200)) as server:
        done = eoctl("checkpoint", "list", "--store", server.url)
        assert server.requests == []
    assert done.code == 18
    assert "no AWS credentials can be had" in done.err
    assert "aws configure" in done.err


def test_a_profile_that_does_not_exist_is_told_as_such(eoctl: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    done = eoctl("checkpoint", "list", "--store", "s3://bucket/p?endpoint_url=http://127.0.0.1:9")
    assert done.code == 18
    assert "nobody" in done.err


def test_a_web_page_is_not_taken_for_a_store(eoctl: CommandLine) -> None:
    with stub(lambda _: Answer(200, PAGE, HTML)) as server:
        done = eoctl("checkpoint", "list", "--store", server.url)
        assert done.code in {13, 14}
        assert done.out == ""
        done = eoctl("store", "init", server.url)
        assert done.code == 14
        assert "does not answer as S3 does" in done.err


def test_a_store_that_is_not_there_is_told_with_the_command_that_makes_it(eoctl: CommandLine) -> None:
    with stub(lambda _: fault(404, "NoSuchKey", "The specified key does not exist.")) as server:
        done = eoctl("checkpoint", "list", "--store", server.url)
    assert done.code == 10
    assert f"hint: eoctl store init {server.url}" in done.err


def test_a_denied_write_is_asked_for_once_and_leaves_nothing(eoctl: CommandLine) -> None:
    def react(request: Request) -> Reaction:
        if request.method == "PUT":
            return fault(403, "AccessDenied", "Access Denied")
        return fault(404, "NoSuchKey", "The specified key does not exist.")

    with stub(react) as server:
        done = eoctl("store", "init", server.url)
        assert done.code == 18
        assert "s3:PutObject" in done.err
        assert [request.method for request in server.requests if request.method == "PUT"] == ["PUT"]
        assert {request.path.rpartition("/")[2] for request in server.requests} == {"HEAD"}  # of the probe's own
