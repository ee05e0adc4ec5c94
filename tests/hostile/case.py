"""What a hostile case is, and the words in which cases are written."""

from __future__ import annotations

import copy
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from formats.errors import EoctlError

Action = Callable[[], object]
Steps = tuple[str | int, ...]  # to a place in a document

MISSING = object()  # the value of a field that is taken out


class Case(NamedTuple):
    """One bad input and what it gets.

    `prepare` is given an empty directory and returns the action; only the action is measured. `expected`: the error
    of ours that it raises; None: the input is passed over, which the action itself asserts.
    """

    name: str
    expected: type[EoctlError] | None
    prepare: Callable[[Path], Action]


class Raw(str):
    """JSON as it stands, where `json.dumps` would not write it."""

    __slots__ = ()


def reads(
    name: str, expected: type[EoctlError], decoder: Callable[[bytes], object], build: Callable[[], bytes]
) -> Case:
    """The decoder is given these bytes, which are made when the case runs."""

    def prepare(_box: Path) -> Action:
        data = build()
        return lambda: decoder(data)

    return Case(name, expected, prepare)


def to_json(plain: object) -> bytes:
    """Canonical JSON of any value, with what is `Raw` in it as it stands."""
    raws: list[str] = []

    def marked(value: Any) -> Any:
        match value:
            case Raw():
                raws.append(str(value))
                return f"\x01{len(raws) - 1}\x01"
            case dict():
                return {key: marked(inner) for key, inner in value.items()}
            case list():
                return [marked(inner) for inner in value]
        return value

    text = json.dumps(marked(plain), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    text = re.sub(r'"\\u0001(\d+)\\u0001"', lambda found: raws[int(found[1])], text)
    return text.encode("utf-8", "surrogatepass")


def changed(plain: object, *changes: tuple[Steps, object]) -> Any:
    """A copy with other values, or without some, at these places."""
    result = copy.deepcopy(plain)
    for path, value in changes:
        inner: Any = result
        for step in path[:-1]:
            inner = inner[step]
        if value is MISSING:
            del inner[path[-1]]
        elif isinstance(inner, list) and path[-1] == len(inner):
            inner.append(value)
        else:
            inner[path[-1]] = value
    return result


def just(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def edited(plain: object, *changes: tuple[Steps, object]) -> Callable[[], bytes]:
    """Makes the canonical JSON of a changed document."""
    return lambda: to_json(changed(plain, *changes))


def packed(data: bytes) -> bytes:
    """One zstd frame that declares its size."""
    return zstandard.ZstdCompressor(write_content_size=True).compress(data)


# What is no count: the JSON of each, under a name.
NOT_COUNTS: dict[str, object] = {
    "-1": -1,
    "2^53 + 1": 2**53 + 1,
    "2^64": 2**64,
    "10^400": 10**400,
    "1.0": 1.0,
    "1e3": Raw("1e3"),
    "-0": Raw("-0"),
    "01": Raw("01"),
    "+1": Raw("+1"),
    "0x1": Raw("0x1"),
    "true": True,
    "null": None,
    "text": "1",
    "a list": [1],
    "an object": {},
    "NaN": Raw("NaN"),
    "Infinity": Raw("Infinity"),
    "a million digits": Raw("1" * 1_000_000),
}

# Bytes that are no JSON document of ours whatever they should be.
NOT_JSON: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a NUL byte": lambda: b"\0",
    "zeros": lambda: bytes(4096),
    "null": lambda: b"null",
    "true": lambda: b"true",
    "a number": lambda: b"7",
    "text": lambda: b'"HEAD"',
    "an empty object": lambda: b"{}",
    "an empty list": lambda: b"[]",
    "an open brace": lambda: b"{",
    "a page of HTML": lambda: b"<!DOCTYPE html><html><body>503 Service Unavailable</body></html>",
    "entities of XML": lambda: b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]><x>&b;</x>',
    "a pickle": lambda: pickle.dumps({"format": "eoctl.head"}),
    "YAML": lambda: b"!!python/object/apply:os.system ['true']\n",
    "gzip": lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xab\xae\x05\0C\xbf\xa6\xa3\x02\0\0\0",
    "lists in lists": lambda: b"[" * 2_000_000,
    "objects in objects": lambda: b'{"a":' * 700_000,
    "a closed nest": lambda: b"[" * 100_000 + b"]" * 100_000,
    "a million unknown fields": lambda: b"{" + b",".join(b'"%d":0' % number for number in range(300_000)) + b"}",
}


def spoiled(data: bytes) -> dict[str, bytes]:
    """A good document in spellings that are not canonical, or with something before, after or missing."""
    text = data.decode()
    document = json.loads(text)
    first = min(document)
    return {
        "a byte-order mark": b"\xef\xbb\xbf" + data,
        "UTF-16": text.encode("utf-16"),
        "a line feed after it": data + b"\n",
        "a space before it": b" " + data,
        "a NUL after it": data + b"\0",
        "another document after it": data + b"{}",
        "itself after it": data + data,
        "cut by one byte": data[:-1],
        "cut in the middle": data[: len(data) // 2],
        "its first byte missing": data[1:],
        "spaces after colons": json.dumps(document, sort_keys=True, ensure_ascii=False).encode(),
        "lines and indents": json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode(),
        "keys in another order": json.dumps(
            dict(sorted(document.items(), reverse=True)), separators=(",", ":"), ensure_ascii=False
        ).encode(),
        "an escape where none is needed": data.replace(b"eoctl", rb"eoct\u006c", 1),
        "a byte that is not UTF-8": data.replace(b"eoctl", b"eoct\xff", 1),
        "a lone surrogate": data.replace(b"eoctl", rb"eoct\ud800", 1),
        "a key twice, the same": b"{" + to_json({first: document[first]})[1:-1] + b"," + data[1:],
        "a comment": data[:1] + b"/* */" + data[1:],
        "a trailing comma": data[:-1] + b",}",
        "single quotes": data.replace(b'"', b"'"),
    }
