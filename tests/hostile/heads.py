"""HEADs from a hostile or broken hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from formats.canonical import encode
from formats.errors import CorruptError, EoctlError, UnsupportedError
from formats.head import MAX_HEAD_BYTES, MAX_ROOTS, decode_head
from tests.hostile.case import (
    MISSING,
    NOT_COUNTS,
    NOT_JSON,
    Case,
    Raw,
    Steps,
    changed,
    edited,
    just,
    reads,
    spoiled,
    to_json,
)
from tests.support.examples import HEAD

PLAIN: dict[str, Any] = json.loads(encode(HEAD))  # without its digest, which would refuse them all
KEY = "ab" * 32
LIVE = ("live", 0)
ENTRY = PLAIN["live"][2]


def _many_entries(count: int) -> list[dict[str, Any]]:
    return [ENTRY | {"id": number, "seq": 1} for number in range(1, count + 1)]


def _holds(count: int, reason: str) -> list[dict[str, Any]]:
    return [PLAIN["holds"][0] | {"id": f"{number:032x}", "reason": reason} for number in range(count)]


CHANGES: dict[str, list[tuple[Steps, object]]] = {
    "an unknown field": [(("extra",), 1)],
    "an unknown field of an entry": [((*LIVE, "extra"), 1)],
    "an unknown field of the writer": [(("writer", "extra"), 1)],
    "another format": [(("format",), "eoctl.manifest")],
    "a version of text": [(("version",), "1")],
    "a version of 0": [(("version",), 0.5)],
    "a state of its own": [(("state",), "paused")],
    "a floor above the era": [(("floor",), 6)],
    "destroyed, with roots": [(("state",), "destroyed")],
    "destroyed, with a floor two above the era": [
        (("state",), "destroyed"),
        (("live",), []),
        (("trash",), []),
        (("holds",), []),
        (("floor",), 7),
    ],
    "the digest of another": [(("digest",), KEY)],
    "a digest cut": [(("digest",), KEY[:-1])],
    "a store id in capitals": [(("store",), PLAIN["store"].upper())],
    "a store id cut": [(("store",), PLAIN["store"][:-1])],
    "a pipeline above": [(("pipeline",), "..")],
    "a pipeline with a slash": [(("pipeline",), "a/b")],
    "a pipeline in capitals": [(("pipeline",), "Orders")],
    "a pipeline of 64 letters": [(("pipeline",), "a" * 64)],
    "a pipeline with a line feed": [(("pipeline",), "orders\n")],
    "a nonce that is not hex": [(("nonce",), "z" * 32)],
    "a nonce with a line feed": [(("nonce",), "0" * 31 + "\n")],
    "a month 13": [(("advanced_at",), "2026-13-01T00:00:00.000Z")],
    "a 30th of February": [((*LIVE, "created_at"), "2026-02-30T00:00:00.000Z")],
    "an hour 24": [(("trash", 0, "trashed_at"), "2026-11-20T24:00:00.000Z")],
    "a second 60": [(("holds", 0, "created_at"), "2026-11-20T10:00:60.000Z")],
    "a year 0": [(("holds", 0, "expires_at"), "0000-11-20T10:00:00.000Z")],
    "a year 9999": [(("trash", 0, "trashed_at"), "9999-12-31T23:59:59.999Z")],
    "Arabic digits": [(("advanced_at",), "\u0662\u0660\u0662\u0666-11-20T09:30:00.000Z")],
    "a time of another zone": [(("advanced_at",), "2026-11-20T09:30:00.000+01:00")],
    "a time without milliseconds": [(("advanced_at",), "2026-11-20T09:30:00Z")],
    "a writer of a list": [(("writer",), [])],
    "no writer": [(("writer",), None)],
    "entries in an object": [(("live",), {})],
    "an entry of null": [((*LIVE,), None)],
    "an entry of text": [((*LIVE,), "orders@2")],
    "an entry in a list": [((*LIVE,), [[]])],
    "a manifest key in capitals": [((*LIVE, "manifest"), KEY.upper() + ".1")],
    "a manifest key without an era": [((*LIVE, "manifest"), KEY)],
    "a manifest key of era 01": [((*LIVE, "manifest"), f"{KEY}.01")],
    "a manifest key of era -1": [((*LIVE, "manifest"), f"{KEY}.-1")],
    "a manifest key beyond 2^53": [((*LIVE, "manifest"), f"{KEY}.{2**53 + 1}")],
    "a manifest key above HEAD's era": [((*LIVE, "manifest"), f"{KEY}.6")],
    "a manifest key that climbs": [((*LIVE, "manifest"), "../" * 21 + "x.1")],
    "a manifest key that is absolute": [((*LIVE, "manifest"), "/etc/passwd")],
    "a manifest key with a line feed": [((*LIVE, "manifest"), f"{KEY}.1\n")],
    "an entry from the future": [((*LIVE, "seq"), 13)],
    "an id above the last": [((*LIVE, "id"), 5)],
    "a base above the last id": [((*LIVE, "base"), 5)],
    "an unknown kind": [((*LIVE, "kind"), "backup")],
    "a savepoint without a name": [((*LIVE, "kind"), "savepoint")],
    "a checkpoint with a name": [((*LIVE, "name"), "mine")],
    "a savepoint with a number for a name": [(("live", 1, "name"), "7")],
    "a savepoint with an Arabic number for a name": [(("live", 1, "name"), "\u0667")],
    "a savepoint's name of 5,000 letters": [(("live", 1, "name"), "x" * 5000)],
    "a tag of two words": [((*LIVE, "tags", 0), "two words")],
    "a tag of 129 letters": [((*LIVE, "tags", 0), "x" * 129)],
    "a tag with a line feed": [((*LIVE, "tags", 0), "nightly\n")],
    "a tag of no letters": [((*LIVE, "tags", 0), "")],
    "tags of text": [((*LIVE, "tags"), "nightly")],
    "an engine that climbs": [((*LIVE, "engine"), "../x")],
    "a short transaction id": [((*LIVE, "txid"), "01")],
    "two entries of one id": [(("live", 3), ENTRY)],
    "an entry both live and in the trash": [(("trash", 0, "entry"), ENTRY)],
    "two holds of one id": [(("holds", 1, "id"), "aa" * 16)],
    "a hold's id that is not hex": [(("holds", 0, "id"), "../" * 10 + "xx")],
    "a reason of 5,000 letters": [(("holds", 0, "reason"), "x" * 5000)],
    "a default that is spelled out": [((*LIVE, "name"), "")],
    "defaults that are spelled out": [(("trash", 1, "seen_by_advance"), False)],
    "4,097 roots": [
        (("live",), _many_entries(MAX_ROOTS + 1 - 4)),
        (("last_id",), MAX_ROOTS + 10),
        (("trash", 0, "entry", "id"), MAX_ROOTS + 1),
        (("trash", 1, "entry", "id"), MAX_ROOTS + 2),
    ],
    "a hundred thousand entries of null": [(("live",), [None] * 100_000)],
    "half a million empty lists": [(("live",), Raw("[" + "[]," * 500_000 + "[]]"))],
    "a nest in an entry": [((*LIVE,), Raw("[" * 100_000 + "]" * 100_000))],
    "a key twice, another value": [(("era",), Raw('5,"era":6'))],
    "a key of an entry twice": [((*LIVE, "id"), Raw('2,"id":2'))],
    "a key of the writer twice": [(("writer", "attempt"), Raw('4,"attempt":5'))],
    "a reason of escapes": [(("holds", 0, "reason"), Raw('"' + r"\u0000" * 600_000 + '"'))],
    "3 MiB of reason": [(("holds", 0, "reason"), "x" * (3 << 20))],
    "a reason with a lone surrogate": [(("holds", 0, "reason"), "\udcff")],
}

TOO_LARGE = {
    "a byte above 4 MiB": lambda: b" " * (MAX_HEAD_BYTES + 1),
    "300 MiB of spaces": lambda: b" " * (300 << 20),
    "4 MiB of reasons": lambda: to_json(changed(PLAIN, (("holds",), _holds(1100, "x" * 4096)))),
}

NEWER = {
    "a newer version": edited(PLAIN, (("version",), 2)),
    "a newer version with unknown fields": lambda: to_json({"format": "eoctl.head", "version": 2, "roots": {"a": [1]}}),
    "a version of 2^60": edited(PLAIN, (("version",), 2**60)),
}

COUNTS: list[Steps] = [("era",), (*LIVE, "id"), ("writer", "attempt")]


def _head(name: str, build: Callable[[], bytes], expected: type[EoctlError] = CorruptError) -> Case:
    return reads(f"HEAD: {name}", expected, decode_head, build)


def _cases() -> Iterator[Case]:
    for name, build in NOT_JSON.items():
        yield _head(name, build)
    for name, data in spoiled(to_json(PLAIN)).items():
        yield _head(name, just(data))
    for field in PLAIN:
        yield _head(f"without {field}", edited(PLAIN, ((field,), MISSING)))
    for path in COUNTS:
        for name, value in NOT_COUNTS.items():
            yield _head(f"{path[-1]} = {name}", edited(PLAIN, (path, value)))
    for name, changes in CHANGES.items():
        yield _head(name, edited(PLAIN, *changes))
    for name, build in TOO_LARGE.items():
        yield _head(name, build)
    for name, build in NEWER.items():
        yield _head(name, build, UnsupportedError)


CASES = list(_cases())
