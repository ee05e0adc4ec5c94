"""Texts that people and schedulers hand over: offsets, the config file, sources, addresses, names."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from eoctl.cli.settings import _read_config
from eoctl.cli.sources import MAX_OFFSETS_BYTES, parse_offsets, parse_source, read_offsets
from eoctl.services.drill import parse_hook
from eoctl.services.resolve import resolve
from formats.errors import EoctlError, InvalidInputError, UsageError
from formats.head import check_tag
from formats.ids import PipelineId
from storage.backends.urls import open_place
from tests.hostile.case import Action, Case, reads
from tests.hostile.planted import opened, plant

OFFSETS: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "a NUL": lambda: b"\0",
    "null": lambda: b"null",
    "a list": lambda: b"[]",
    "text": lambda: b'"clicks"',
    "a number": lambda: b"7",
    "HTML": lambda: b"<html></html>",
    "YAML": lambda: b"clicks:\n  topic-0: 1\n",
    "a pickle": lambda: b"\x80\x04}\x94.",
    "a byte-order mark": lambda: b'\xef\xbb\xbf{"a":{}}',
    "UTF-16": lambda: '{"a":{}}'.encode("utf-16"),
    "a byte that is not UTF-8": lambda: b'{"a\xff":{}}',
    "an encoded surrogate": lambda: b'{"a\xed\xa0\x80":{}}',
    "a surrogate for a uid": lambda: rb'{"\ud800":{}}',
    "a surrogate for a partition": lambda: rb'{"a":{"\udfff":1}}',
    "a surrogate for a position": lambda: rb'{"a":{"b":"\ud800"}}',
    "two documents": lambda: b"{} {}",
    "a comment": lambda: b"{/**/}",
    "a trailing comma": lambda: b'{"a":{},}',
    "a uid twice": lambda: b'{"a":{},"a":{}}',
    "a partition twice": lambda: b'{"a":{"b":1,"b":2}}',
    "200,000 uids, the last twice": lambda: _many(200_000, b'"x":{},"x":{}'),
    "an empty uid": lambda: b'{"":{}}',
    "a uid of 4,097 letters": lambda: b'{"' + b"x" * 4097 + b'":{}}',
    "a partition of 4,097 letters": lambda: b'{"a":{"' + b"x" * 4097 + b'":1}}',
    "a position of 4,097 letters": lambda: b'{"a":{"b":"' + b"x" * 4097 + b'"}}',
    "partitions of a list": lambda: b'{"a":[]}',
    "partitions of null": lambda: b'{"a":null}',
    "a position of null": lambda: b'{"a":{"b":null}}',
    "a position of true": lambda: b'{"a":{"b":true}}',
    "a position of half": lambda: b'{"a":{"b":0.5}}',
    "a position of 1e3": lambda: b'{"a":{"b":1e3}}',
    "a position of NaN": lambda: b'{"a":{"b":NaN}}',
    "a position of Infinity": lambda: b'{"a":{"b":-Infinity}}',
    "a position beyond 2^53": lambda: b'{"a":{"b":9007199254740993}}',
    "a position below -2^53": lambda: b'{"a":{"b":-9007199254740993}}',
    "a position of a million digits": lambda: b'{"a":{"b":' + b"1" * 1_000_000 + b"}}",
    "a position of 4,000 digits": lambda: b'{"a":{"b":' + b"1" * 4000 + b"}}",
    "a position of an object": lambda: b'{"a":{"b":{}}}',
    "lists in lists": lambda: b"[" * 1_000_000,
    "objects in objects": lambda: b'{"a":' * 500_000,
    "a million empty lists": lambda: b"[" + b"[]," * 1_000_000 + b"[]]",
    "a million empty objects": lambda: b"[" + b"{}," * 1_000_000 + b"{}]",
    "a nest in a position": lambda: b'{"a":{"b":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
}


def _many(count: int, last: bytes) -> bytes:
    return b"{" + b",".join(b'"%d":{}' % number for number in range(count)) + b"," + last + b"}"


CONFIGS: dict[str, Callable[[], bytes]] = {
    "a NUL": lambda: b"\0",
    "JSON": lambda: b'{"default_profile": "prod"}',
    "a byte that is not UTF-8": lambda: b'default_profile = "\xff"',
    "UTF-16": lambda: 'default_profile = "a"'.encode("utf-16"),
    "an unknown key": lambda: b"stores = 1",
    "an unknown key of a profile": lambda: b'[profiles.a]\nstore = "s"\npassword = "x"',
    "a profile of text": lambda: b'profiles.a = "s"',
    "profiles of a list": lambda: b"profiles = []",
    "a profile without a store": lambda: b"[profiles.a]",
    "a store of a number": lambda: b"[profiles.a]\nstore = 1",
    "an empty store": lambda: b'[profiles.a]\nstore = ""',
    "a default that is no profile": lambda: b'default_profile = "b"',
    "a default of a number": lambda: b"default_profile = 1",
    "a key twice": lambda: b'default_profile = "a"\ndefault_profile = "b"',
    "a table twice": lambda: b'[profiles.a]\nstore="s"\n[profiles.a]\nstore="t"',
    "an open string": lambda: b'default_profile = "a',
    "an open table": lambda: b"[profiles",
    "a number of 5,000 digits": lambda: b"a = " + b"1" * 5000,
    "a date that is none": lambda: b"a = 2026-13-45",
    "lists in lists": lambda: b"a = " + b"[" * 15_000,
    "tables in tables": lambda: b"a = " + b"{a=" * 5_000,
    "a key of 8,000 parts": lambda: b".".join([b"a"] * 8_000) + b" = 1",
    "tables of 8,000 parts": lambda: b"[" + b".".join([b"a"] * 4_000) + b"]\n" + b".".join([b"b"] * 4_000) + b" = 1",
    "a thousand tables": lambda: b"".join(b"[a.b.c.d%d]\n" % number for number in range(1000)),
    "more than 16 KiB": lambda: b"#" * 20_000,
    "300 MiB": lambda: b"#" * (300 << 20),
}

SOURCES = ("=dir", "a=", "rocksdb:", "main=sqlite:", "/abs=dir", "../up=dir", "~/x=dir", "./x=dir")
ADDRESSES = (
    "",
    "@",
    "@1",
    "orders@",
    "../x@1",
    "ORDERS@1",
    "orders@9",
    "orders@\0",
    "x" * 5000 + "@1",
    "orders@" + "9" * 5000,
)
PIPELINES = ("", ".", "..", "a/b", "A", "con", "latest", "a" * 64, "a\n", "\u00e4", "-a", "a\0")
TAGS = ("", "two words", "x" * 129, "-a", "a\n", "\u00e4", "a\0")
URLS = (
    "",
    "ftp://host/x",
    "s3://b",
    "s3://bucket/p?aws_secret=x",
    "file://host/x",
    "http://user:secret@host/x",
    "file:///x?y=1",
)


def _cases() -> Iterator[Case]:
    for name, build in OFFSETS.items():
        yield reads(f"offsets: {name}", InvalidInputError, lambda data: parse_offsets(data, "offsets.json"), build)
    yield Case(
        "offsets: a byte above the limit", InvalidInputError, _file(b" " * (MAX_OFFSETS_BYTES + 1), read_offsets)
    )
    yield Case("offsets: 300 MiB", InvalidInputError, _file(b" " * (300 << 20), read_offsets))
    yield Case("offsets: a directory", UsageError, lambda box: lambda: read_offsets(str(box)))
    full = b'{"a":{' + b",".join(b'"%x":1' % number for number in range(400_000)) + b"}}"
    assert len(full) < MAX_OFFSETS_BYTES
    yield Case("offsets: lawful, nearly as large as they may be", None, lambda _: lambda: parse_offsets(full, "it"))
    for name, build in CONFIGS.items():
        yield Case(f"config: {name}", UsageError, _config(build))
    yield Case("config: a directory", UsageError, lambda box: lambda: _read_config(box))
    for text in SOURCES:
        yield Case(f"source: {text!r}", UsageError, _called(parse_source, text))
    for text in ADDRESSES:
        yield Case(f"address: {text[:20]!r}", EoctlError, _address(text))
    for text in PIPELINES:
        yield Case(f"pipeline: {text[:20]!r}", InvalidInputError, _called(PipelineId, text))
    for text in TAGS:
        yield Case(f"tag: {text[:20]!r}", InvalidInputError, _called(check_tag, text))
    for text in URLS:
        yield Case(f"URL: {text!r}", UsageError, _called(lambda text: open_place(text, "test"), text))
    for text in ("", "'", "no-such-command-here", '"'):
        yield Case(f"hook: {text!r}", UsageError, _called(parse_hook, text))


def _called(function: Callable[[str], object], text: str) -> Callable[[Path], Action]:
    return lambda _box: lambda: function(text)


def _file(data: bytes, read: Callable[[str], object]) -> Callable[[Path], Action]:
    def prepare(box: Path) -> Action:
        (box / "file").write_bytes(data)
        return lambda: read(str(box / "file"))

    return prepare


def _config(build: Callable[[], bytes]) -> Callable[[Path], Action]:
    def prepare(box: Path) -> Action:
        (box / "config.toml").write_bytes(build())
        return lambda: _read_config(box / "config.toml")

    return prepare


def _address(text: str) -> Callable[[Path], Action]:
    def prepare(box: Path) -> Action:
        root = plant(box, {})
        return lambda: resolve(opened(root), text)

    return prepare


assert json.loads(b'{"a":{"b":1}}') == parse_offsets(b'{"a":{"b":1}}', "it")
CASES = list(_cases())
