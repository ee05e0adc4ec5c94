"""What the backend makes of answers that no sound server gives: an error of ours, in bounded time and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from formats.errors import AccessDeniedError, CorruptError, EoctlError, UnavailableError, UnsafeBackendError
from storage.backend import CopyOf, Key, KeyAbsentError, Reach, VersionMismatchError, version_of
from storage.backends import s3
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import Limits
from storage.backends.s3_url import parse_location
from tests.support.stub_s3 import Answer, Reaction, Request, fault, stub

XML = {"Content-Type": "application/xml"}
HEAD = Key("p/orders/HEAD")
STAMP = {"ETag": '"e"', "Last-Modified": "Mon, 23 Nov 2026 15:07:22 GMT"}
LIMITS = Limits(connect_seconds=60, read_seconds=60, attempts=3, wait=lambda _: None)

Make = Callable[[Callable[[Request], Reaction]], S3Backend]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A back end of a server that reacts so, taken for one that keeps conditions."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEOCTLTESTS000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "known to loopback only")
    monkeypatch.setattr("botocore.endpoint.time.sleep", lambda _: None)
    monkeypatch.setattr("botocore.retries.bucket.TokenBucket.acquire", lambda *_, **__: True)
    contexts = []

    def new(react: Callable[[Request], Reaction]) -> S3Backend:
        context = stub(react)
        contexts.append(context)
        backend = S3Backend(parse_location(context.__enter__().url), "test", None, LIMITS)
        backend.probe._known = True
        return backend

    yield new
    for context in contexts:
        context.__exit__(None, None, None)


def listing(body: str, *, truncated: bool = False, more: str = "") -> Answer:
    text = f"<ListBucketResult><IsTruncated>{str(truncated).lower()}</IsTruncated>{more}{body}</ListBucketResult>"
    return Answer(200, text.encode(), XML)


ITEM = "<Contents><Key>tenant/p/{}</Key><Size>1</Size><LastModified>2026-11-23T15:07:22.123Z</LastModified></Contents>"


def test_a_listing_that_breaks_off_without_a_word_is_no_listing(make: Make) -> None:
    backend = make(lambda _: listing(ITEM.format("a"), truncated=True))
    with pytest.raises(UnsafeBackendError, match="does not say where it goes on"):
        list(backend.list(Key("p")))


@pytest.mark.parametrize("missing", ["Key", "Size", "LastModified"])
def test_a_listing_without_names_sizes_or_times_is_refused(make: Make, missing: str) -> None:
    item = ITEM.format("a").replace(f"<{missing}>", "<Other>").replace(f"</{missing}>", "</Other>")
    with pytest.raises(UnsafeBackendError, match=f"without {missing}"):
        list(make(lambda _: listing(item)).list(Key("p")))


def test_names_that_are_no_keys_of_ours_are_passed_over(make: Make) -> None:
    items = [ITEM.format(name) for name in ("a", "with space", ".hidden", "two//slashes", "z")]
    found = make(lambda _: listing("".join(items))).list(Key("p"))
    assert [one.key.path for one in found] == ["p/a", "p/z"]


def test_a_listing_folder_by_folder_comes_out_sorted(make: Make) -> None:
    names = ["A/x", "a/x", "a/y/z", "a-b/x", "a-b-c/x", "a.b/x", "a0", "a_/x", "b", "b-c"]
    found = make(lambda _: listing("".join(map(ITEM.format, names)))).list(Key("p"))
    assert [one.key.path for one in found] == sorted(f"p/{name}" for name in names)


def test_a_page_that_is_no_listing_is_refused(make: Make) -> None:
    page = Answer(200, b"<html>It works!", {"Content-Type": "text/html"})
    for reach in Reach:
        with pytest.raises((UnsafeBackendError, UnavailableError)):
            list(make(lambda _: page).list(Key("p"), reach=reach))


def test_a_head_of_any_size_takes_bounded_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "SWAPPABLE_BYTES", 1000)
    backend = make(lambda _: Answer(200, bytes(2_000_000), STAMP))
    with backend.open(HEAD) as file:
        assert len(file.read()) == 1001
    with pytest.raises(VersionMismatchError):
        backend.swap(HEAD, b"new", version_of(bytes(1001)[:1000]))


def test_a_head_that_breaks_off_is_read_again_and_never_taken_for_whole(make: Make) -> None:
    answers = iter([Answer(200, b"whole", STAMP, cut=2), Answer(200, b"whole", STAMP)])
    with make(lambda _: next(answers)).open(HEAD) as file:
        assert file.read() == b"whole"
    with pytest.raises(UnavailableError):
        make(lambda _: Answer(200, b"whole", STAMP, cut=2)).open(HEAD)


def test_another_range_than_was_asked_for_is_refused(make: Make) -> None:
    key = Key("p/orders/o/1")
    for answer in (
        Answer(206, b"0123", STAMP | {"Content-Range": "bytes 4-7/8"}),
        Answer(206, b"0123", STAMP | {"Content-Range": "nonsense"}),
    ):
        with pytest.raises(EoctlError) as caught:
            make(lambda _, answer=answer: answer).open(key, 0, 4)  # type: ignore[misc]  # of this turn
        assert isinstance(caught.value, UnsafeBackendError | CorruptError)


def test_what_was_not_deleted_is_told_by_its_key(make: Make) -> None:
    def react(request: Request) -> Reaction:
        assert b"tenant/p/2" in request.body
        text = (
            "<DeleteResult><Error><Key>tenant/p/2</Key><Code>AccessDenied</Code><Message>No</Message></Error>"
            "<Error><Key>tenant/p/1</Key><Code>NoSuchKey</Code></Error></DeleteResult>"
        )
        return Answer(200, text.encode(), XML)

    with pytest.raises(AccessDeniedError, match="1 keys could not be deleted, p/2 for one: AccessDenied"):
        make(react).delete([Key("p/1"), Key("p/2"), Key("p/3")])


def test_what_cannot_be_deleted_now_is_tried_again_alone(make: Make) -> None:
    bodies: list[bytes] = []

    def react(request: Request) -> Reaction:
        bodies.append(request.body)
        error = "<Error><Key>tenant/p/2</Key><Code>InternalError</Code></Error>" if len(bodies) == 1 else ""
        return Answer(200, f"<DeleteResult>{error}</DeleteResult>".encode(), XML)

    make(react).delete([Key("p/1"), Key("p/2"), Key("p/3")])
    assert [body.count(b"<Key>") for body in bodies] == [3, 1]


def test_a_success_that_is_an_error_inside_is_no_success(make: Make) -> None:
    body = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>Try again.</Message></Error>"
    copied = [0]

    def react(request: Request) -> Reaction:
        copied[0] += 1
        return Answer(200, body, XML)

    with pytest.raises(EoctlError):
        make(react).create(Key("p/copy"), CopyOf(Key("p/source")))
    assert copied[0] == LIMITS.attempts


def test_a_source_that_is_gone_is_told_as_such(make: Make) -> None:
    backend = make(lambda _: fault(404, "NoSuchKey", "The specified key does not exist.", None, Key="tenant/p/source"))
    with pytest.raises(KeyAbsentError):
        backend.create(Key("p/copy"), CopyOf(Key("p/source")))


def test_options_of_the_url_go_with_the_requests_that_they_are_of(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, dict[str, str]] = {}

    def react(request: Request) -> Reaction:
        seen[request.method] = request.headers
        return Answer(200, b"", STAMP)

    plain = make(react)
    url = plain._s3.location.endpoint_url
    location = parse_location(
        f"s3://bucket/tenant?endpoint_url={url}&region=us-east-1&sse=aws:kms&sse_kms_key_id=key-1&request_payer=requester"
    )
    backend = S3Backend(location, "test", None, LIMITS)
    backend.probe._known = True
    backend.create(Key("p/1"), b"1")
    backend.stat(Key("p/1"))
    assert seen["PUT"]["x-amz-server-side-encryption"] == "aws:kms"
    assert seen["PUT"]["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
    assert seen["PUT"]["if-none-match"] == "*"
    assert seen["PUT"]["x-amz-checksum-crc32"]
    assert {headers["x-amz-request-payer"] for headers in seen.values()} == {"requester"}
    assert "x-amz-server-side-encryption" not in seen["HEAD"]
