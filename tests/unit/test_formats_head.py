"""HEADs from a hostile or broken hand: every one stops, whatever is wrong with it, and none is written."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest

from formats.canonical import encode
from formats.errors import BadNameError, CorruptError, InvalidInputError, TooLargeError, UnsupportedError
from formats.head import MAX_HEAD_BYTES, MAX_ROOTS, Head, HeadEntry, check_tag, decode_head, encode_head, roots
from tests.support.examples import HEAD, digest

PLAIN: dict[str, Any] = json.loads(encode(HEAD))
LIVE = ("live", 0)
MISSING = object()


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The example with one value changed, added or removed, otherwise canonical."""
    plain = copy.deepcopy(PLAIN)
    inner: Any = plain
    for step in path[:-1]:
        inner = inner[step]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def test_the_example_is_lawful_and_its_change_is_seen() -> None:
    assert decode_head(changed(("era",), 5)) == HEAD
    assert decode_head(changed(("era",), 6)).era == 6


@pytest.mark.parametrize("value", [-1, 2**53 + 1, 10**400, 1.0, True, None, "1", [], float("nan")])
@pytest.mark.parametrize(
    "path",
    [
        ("seq",),
        ("era",),
        ("floor",),
        ("last_id",),
        ("version",),
        ("writer", "attempt"),
        (*LIVE, "id"),
        (*LIVE, "seq"),
        (*LIVE, "files"),
        (*LIVE, "manifest_bytes"),
        (*LIVE, "base"),
        ("trash", 0, "entry", "id"),
        ("holds", 0, "entry", "id"),
    ],
)
def test_what_is_no_count_stops_everything(path, value) -> None:
    with pytest.raises((CorruptError, UnsupportedError)):
        decode_head(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "eoctl.manifest"),
        (("format",), ""),
        (("store",), "0" * 31),
        (("store",), "G" * 32),
        (("pipeline",), "../orders"),
        (("pipeline",), "Orders"),
        (("pipeline",), ""),
        (("state",), "paused"),
        (("nonce",), ""),
        (("advanced_at",), "2026-11-20"),
        (("advanced_at",), "2026-11-20T09:30:00Z"),
        (("advanced_at",), "2026-11-20T09:30:00.000+01:00"),
        (("advanced_at",), "2026-11-20T09:30:00.000Z\n"),
        (("writer", "owner"), "x"),
        (("writer", "surprise"), 1),
        (("surprise",), 1),
        ((*LIVE, "surprise"), 1),
        (("trash", 0, "surprise"), 1),
        (("holds", 0, "surprise"), 1),
        ((*LIVE, "kind"), "backup"),
        ((*LIVE, "engine"), "Rocks DB"),
        ((*LIVE, "txid"), "0" * 33),
        ((*LIVE, "manifest"), digest(1)),
        ((*LIVE, "manifest"), f"{digest(1)}.01"),
        ((*LIVE, "manifest"), f"{digest(1)}.{2**53 + 1}"),
        ((*LIVE, "manifest"), f"{digest(1)}.9999999999999999"),
        ((*LIVE, "manifest"), f"../../x/m/{digest(1)}.1"),
        ((*LIVE, "manifest"), f"{digest(1)}.6"),  # of an era that has not begun
        ((*LIVE, "tags"), ["has space"]),
        ((*LIVE, "tags"), [""]),
        ((*LIVE, "tags"), ["x" * 129]),
        ((*LIVE, "tags"), ["-flag"]),
        ((*LIVE, "name"), "x" * 4097),
        (("holds", 0, "reason"), "x" * 4097),
        (("holds", 0, "expires_at"), "tomorrow"),
        (("floor",), 6),
        ((*LIVE, "seq"), 13),
        ((*LIVE, "id"), 5),
        ((*LIVE, "base"), 5),
        (("trash", 0, "entry", "seq"), 13),
        (("holds", 0, "entry", "id"), 5),
        (("live", 2, "id"), 2),  # twice
        (("live", 2, "id"), 3),  # is in the trash
        (("live", 1, "name"), ""),
        (("live", 1, "name"), "4711"),
        ((*LIVE, "name"), "a-checkpoint-with-a-name"),
        (("holds", 1, "id"), "aa" * 16),
        (("state",), "destroyed"),  # with roots
    ],
)
def test_a_head_that_breaks_a_rule_stops_everything(path, value) -> None:
    with pytest.raises(CorruptError):
        decode_head(changed(path, value))


@pytest.mark.parametrize("field", sorted(PLAIN))
def test_a_field_that_is_missing_is_missed(field) -> None:
    with pytest.raises(CorruptError):
        decode_head(changed((field,), MISSING))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"<html>",
        b"\0" * 4096,
        b"[" * 100_000,
        b'{"writer":' * 100_000,
        b"\xef\xbb\xbf" + encode(HEAD),
        encode(HEAD) + b"\n",
        encode(HEAD) * 2,
        encode(HEAD).replace(b'"era":5', b'"era":5,"era":5'),
        encode(HEAD).replace(b'"era":5', b'"era":5.0'),
        encode(HEAD).replace(b'"era":5', b'"era": 5'),
        encode(HEAD)[: len(encode(HEAD)) // 2],
        b" " * (MAX_HEAD_BYTES + 1),
        b"[" * (MAX_HEAD_BYTES + 1),
    ],
    ids=range(17),
)
def test_what_is_no_canonical_json_stops_everything(data) -> None:
    with pytest.raises(CorruptError):
        decode_head(data)


@pytest.mark.parametrize("version", [0, 2, 99])
def test_another_version_is_told_from_damage(version) -> None:
    with pytest.raises(UnsupportedError, match=rf"version {version}\b.*knows version 1"):
        decode_head(changed(("version",), version))
    plain = PLAIN | {"version": version, "surprise": 1}
    del plain["trash"]
    with pytest.raises(UnsupportedError):
        decode_head(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


# Destroyed


def destroyed(**changes: object) -> Head:
    head = msgspec.structs.replace(HEAD, state="destroyed", live=(), trash=(), holds=(), floor=HEAD.era + 1)
    return msgspec.structs.replace(head, **changes)


def test_a_destroyed_pipeline_has_a_floor_above_its_era_and_no_roots() -> None:
    assert decode_head(encode_head(destroyed())) == destroyed()
    for unlawful in (destroyed(floor=HEAD.era + 2), destroyed(live=HEAD.live), destroyed(holds=HEAD.holds)):
        with pytest.raises(CorruptError):
            decode_head(encode(unlawful))
        with pytest.raises(InvalidInputError):
            encode_head(unlawful)


def test_an_active_pipeline_has_its_floor_at_most_at_its_era() -> None:
    assert decode_head(encode(msgspec.structs.replace(HEAD, floor=5))).floor == 5
    with pytest.raises(CorruptError):
        decode_head(encode(msgspec.structs.replace(HEAD, floor=6)))


# Limits


def with_live(count: int, **more: object) -> Head:
    entries = [msgspec.structs.replace(HEAD.live[2], id=number, **more) for number in range(1, count + 1)]
    return msgspec.structs.replace(HEAD, live=tuple(entries), trash=(), holds=(), last_id=count)


def test_a_head_holds_so_many_roots_and_no_more() -> None:
    assert len([*roots(decode_head(encode_head(with_live(MAX_ROOTS))))]) == MAX_ROOTS
    with pytest.raises(TooLargeError):
        encode_head(with_live(MAX_ROOTS + 1))
    with pytest.raises(CorruptError):
        decode_head(encode(with_live(MAX_ROOTS + 1)))


def test_a_head_is_so_large_and_no_larger() -> None:
    tags = tuple(f"{number:0128}" for number in range(20))
    too_large = with_live(2000, tags=tags)
    assert len(encode(too_large)) > MAX_HEAD_BYTES
    with pytest.raises(TooLargeError):
        encode_head(too_large)
    with pytest.raises(CorruptError):
        decode_head(encode(too_large))


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": ("has space",)},
        {"tags": ("\udcff",)},
        {"created_at": "now"},
        {"manifest": "x"},
        {"manifest": f"{digest(1)}.99"},
        {"id": -1},
        {"id": 2**60},
        {"seq": 10**6},
        {"files": 1.5},
        {"name": "named"},
        {"kind": "savepoint"},
    ],
)
def test_no_head_is_written_that_could_not_be_read(changes) -> None:
    entry = msgspec.structs.replace(HEAD.live[0], **changes)
    assert isinstance(entry, HeadEntry)
    with pytest.raises(InvalidInputError):
        encode_head(msgspec.structs.replace(HEAD, live=(entry,)))


def test_roots_are_live_then_trash_then_holds() -> None:
    assert [root.label for root in roots(HEAD)] == ["2", "before-upgrade", "4", "1", "3", "2", "1"]


@pytest.mark.parametrize("tag", ["a", "v=1.2", "team/orders:nightly+x", "0", "x" * 128])
def test_a_tag_may_be_so(tag) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", " ", "a b", "-a", ".a", "a\n", "x" * 129, "ä", "a,b", "\udcff"])
def test_a_tag_may_not_be_so(tag) -> None:
    with pytest.raises(BadNameError):
        check_tag(tag)
