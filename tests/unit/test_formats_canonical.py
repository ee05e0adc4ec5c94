"""Canonical JSON: one spelling, one reader."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from msgspec import Struct

from formats.canonical import decode, encode
from formats.errors import BadManifestError, TooLargeError, UnsupportedError


class Record(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A record like any other."""

    FORMAT: ClassVar[str] = "eoctl.example"
    VERSION: ClassVar[int] = 3

    format: Literal["eoctl.example"]
    version: Literal[3]
    z: int
    a: str = ""
    data: bytes = b""
    names: dict[str, str] = {}


RECORD = Record(format="eoctl.example", version=3, z=1, a="ä", data=b"\0", names={"b": "2", "a": "1"})
BYTES = '{"a":"ä","data":"AA==","format":"eoctl.example","names":{"a":"1","b":"2"},"version":3,"z":1}'.encode()


def read(data: bytes, *, max_bytes: int = 1000, canonical: bool = True) -> Record:
    return decode(data, Record, what="it", max_bytes=max_bytes, canonical=canonical)


def test_keys_are_sorted_defaults_left_out_and_nothing_is_escaped_without_need() -> None:
    assert encode(RECORD) == BYTES
    assert read(BYTES) == RECORD
    assert encode(Record(format="eoctl.example", version=3, z=0)) == b'{"format":"eoctl.example","version":3,"z":0}'


@pytest.mark.parametrize(
    "data",
    [
        BYTES.replace(b'"z":1', b'"z":1.0'),
        BYTES.replace(b'"z":1', b'"z":true'),
        BYTES.replace(b'"z":1', b'"z":"1"'),
        BYTES.replace(b'"z":1', b'"z":1,"z":1'),
        BYTES.replace(b'"z":1', b'"y":1,"z":1'),
        BYTES.replace(b'"z":1', b'"z":1 '),
        BYTES.replace(b'"names":{"a":"1","b":"2"}', b'"names":{"b":"2","a":"1"}'),
        BYTES.replace(b'"names":{"a":"1","b":"2"}', b'"names":{"a":"1","a":"1","b":"2"}'),
        BYTES.replace(b'"names":{"a":"1","b":"2"}', b'"names":{}'),
        BYTES.replace("ä".encode(), b"\\u00e4"),
        BYTES.replace("ä".encode(), b"\xe4"),
        BYTES.replace(b"AA==", b"AA"),
        BYTES.replace(b"AA==", b"AB=="),
        BYTES.replace(b"AA==", b"AA==\\n"),
        BYTES[:-1],
        BYTES + b"\n",
        b"\xef\xbb\xbf" + BYTES,
        b"\n" + BYTES,
        b"",
    ],
)
def test_any_other_spelling_is_refused(data) -> None:
    with pytest.raises(BadManifestError, match=r"^it "):
        read(data)


def test_bytes_that_a_digest_vouches_for_are_still_typed() -> None:
    assert read(BYTES.replace(b'"z":1', b'"z":1 '), canonical=False) == RECORD
    with pytest.raises(BadManifestError):
        read(BYTES.replace(b'"z":1', b'"z":1.0'), canonical=False)
    with pytest.raises(BadManifestError):
        read(BYTES.replace(b'"z":1', b'"y":1,"z":1'), canonical=False)


def test_a_record_may_be_as_large_as_its_limit() -> None:
    assert read(BYTES, max_bytes=len(BYTES)) == RECORD
    with pytest.raises(TooLargeError):
        read(BYTES, max_bytes=len(BYTES) - 1)


@pytest.mark.parametrize("version", [1, 2, 4, 10**30])
def test_another_version_names_both_sides(version) -> None:
    data = BYTES.replace(b'"version":3', b'"version":%d' % version)
    expected = UnsupportedError if version < 2**64 else (UnsupportedError, BadManifestError)
    with pytest.raises(expected):
        read(data)


def test_another_format_is_told_as_what_it_is() -> None:
    with pytest.raises(BadManifestError, match=r"'eoctl\.other', not a 'eoctl\.example'"):
        read(BYTES.replace(b"eoctl.example", b"eoctl.other"))


def test_a_format_of_any_length_makes_a_short_message() -> None:
    with pytest.raises(BadManifestError) as caught:
        read(BYTES.replace(b"eoctl.example", b"x" * 500))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["\udcff", "a\ud800"])
def test_text_that_utf8_cannot_say_is_refused_when_it_is_written(text) -> None:
    for record in (
        Record(format="eoctl.example", version=3, z=1, a=text),
        Record(format="eoctl.example", version=3, z=1, names={text: ""}),
    ):
        with pytest.raises(BadManifestError):
            encode(record)
