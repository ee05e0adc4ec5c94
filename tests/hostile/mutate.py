"""Seeded mutations of bytes and of JSON, a few microseconds each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.hostile.case import NOT_COUNTS, to_json

TOKENS = [
    *(to_json(value) for name, value in NOT_COUNTS.items() if name != "a million digits"),
    *(
        b'"%s"' % text
        for text in (b"..", b"../x", b"/x", b"a/b", b"", b"a\\u0000", b"\\ud800", b"C:", b"a\\\\b", b"x" * 300)
    ),
    *(
        b'"%s"' % text
        for text in (b"0" * 64, b"ab" * 32, b"AB" * 32, b"0" * 32, b"ab" * 32 + b".1", b"ab" * 32 + b".01")
    ),
    *(
        b'"%s"' % text
        for text in (b"zstd", b"raw", b"checkpoint", b"savepoint", b"destroyed", b"2026-02-30T00:00:00.000Z")
    ),
    *(
        b"0",
        b"1",
        b"2",
        b"5",
        b"9007199254740992",
        b"false",
        b"[[]]",
        b"[{}]",
        b'{"":0}',
        b'{"in":"inline","data":""}',
        b'{"era":1,"in":"blob"}',
    ),
]
BYTES = [
    b"\0",
    b"\xff",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"-",
    b"e9",
    b".",
    b"/",
    b"..",
    b"\n",
    b" ",
    b"\x7f",
    b"\xc3\xa4",
]

Span = tuple[int, int]


class Seed(NamedTuple):
    """Bytes to start from; of JSON also where its values lie, and its members and elements."""

    data: bytes
    values: tuple[Span, ...] = ()
    parts: tuple[Span, ...] = ()


def json_seed(data: bytes) -> Seed:
    """A JSON document, with what is in it."""
    values: list[Span] = []
    parts: list[Span] = []
    _value(data, 0, values, parts)
    return Seed(data, tuple(values), tuple(parts))


def _value(data: bytes, at: int, values: list[Span], parts: list[Span]) -> int:
    """Where the value that begins at `at` ends."""
    start = at
    if data[at : at + 1] in b"{[":
        at += 1
        while data[at : at + 1] not in b"}]":
            at += data[at : at + 1] == b","
            first = at
            if data[start : start + 1] == b"{":
                at = _scalar(data, at) + 1
            at = _value(data, at, values, parts)
            parts.append((first, at))
        at += 1
    else:
        at = _scalar(data, at)
    values.append((start, at))
    return at


def _scalar(data: bytes, at: int) -> int:
    if data[at : at + 1] == b'"':
        at += 1
        while data[at : at + 1] != b'"':
            at += 1 + (data[at : at + 1] == b"\\")
        return at + 1
    while data[at : at + 1] not in (b",", b"]", b"}", b""):
        at += 1
    return at


class Mutator:
    """Mutants of some seeds, a sequence that depends on the generator alone."""

    def __init__(self, seeds: list[Seed], rng: random.Random) -> None:
        self._good = seeds
        self.found: list[Seed] = []  # mutants from which to go on, now and then: most are broken beyond repair
        self._rng = rng
        self._of_json: list[Callable[[Seed], bytes]] = [
            self._replace,
            self._replace,
            self._move,
            self._drop,
            self._double,
            self._transplant,
        ]
        self._of_bytes: list[Callable[[bytes], bytes]] = [
            self._flip,
            self._flip,
            self._set,
            self._insert,
            self._delete,
            self._repeat,
            self._cut,
            self._splice,
        ]

    def mutant(self) -> bytes:
        """One to three mutations of a seed."""
        rng = self._rng
        seeds = self.found if self.found and rng.random() < 0.25 else self._good
        seed = seeds[int(rng.random() * len(seeds))]
        roll = rng.random()
        data = seed.data
        if seed.values and roll < 0.7:
            data = self._of_json[int(rng.random() * len(self._of_json))](seed)
            if roll < 0.5:
                return data
        data = self._of_bytes[int(rng.random() * len(self._of_bytes))](data)
        if roll > 0.9:
            data = self._of_bytes[int(rng.random() * len(self._of_bytes))](data)
        return data

    def _at(self, data: bytes) -> int:
        return int(self._rng.random() * (len(data) + 1))

    def _span(self, spans: tuple[Span, ...]) -> Span:
        return spans[int(self._rng.random() * len(spans))]

    def _other(self) -> Seed:
        return self._good[int(self._rng.random() * len(self._good))]

    # Of JSON: the result is mostly JSON again.

    def _replace(self, seed: Seed) -> bytes:
        """Another value in the place of one."""
        start, end = self._span(seed.values)
        new = TOKENS[int(self._rng.random() * len(TOKENS))]
        return seed.data[:start] + new + seed.data[end:]

    def _move(self, seed: Seed) -> bytes:
        """A value of the document in the place of another."""
        start, end = self._span(seed.values)
        a, b = self._span(seed.values)
        return seed.data[:start] + seed.data[a:b] + seed.data[end:]

    def _drop(self, seed: Seed) -> bytes:
        """A member or element is gone, with a comma."""
        if not seed.parts:
            return b"{}"
        start, end = self._span(seed.parts)
        if seed.data[end : end + 1] == b",":
            end += 1
        elif seed.data[start - 1 : start] == b",":
            start -= 1
        return seed.data[:start] + seed.data[end:]

    def _double(self, seed: Seed) -> bytes:
        if not seed.parts:
            return seed.data * 2
        start, end = self._span(seed.parts)
        return seed.data[:end] + b"," + seed.data[start:end] + seed.data[end:]

    def _transplant(self, seed: Seed) -> bytes:
        """A value of another seed."""
        other = self._other()
        if not other.values:
            return self._splice(seed.data)
        start, end = self._span(seed.values)
        a, b = self._span(other.values)
        return seed.data[:start] + other.data[a:b] + seed.data[end:]

    # Of bytes.

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return b"\0"
        at = int(self._rng.random() * len(data))
        return data[:at] + bytes((data[at] ^ 1 << int(self._rng.random() * 8),)) + data[at + 1 :]

    def _set(self, data: bytes) -> bytes:
        at = self._at(data)
        new = BYTES[int(self._rng.random() * len(BYTES))]
        return data[:at] + new + data[at + len(new) :]

    def _insert(self, data: bytes) -> bytes:
        at = self._at(data)
        rng = self._rng
        new = BYTES[int(rng.random() * len(BYTES))] if rng.random() < 0.5 else rng.randbytes(1 + int(rng.random() * 8))
        return data[:at] + new + data[at:]

    def _delete(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + data[at + 1 + int(self._rng.random() * 8) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._at(data)
        end = at + 1 + int(self._rng.random() * 64)
        return data[:end] + data[at:end] * (1 + int(self._rng.random() * 4)) + data[end:]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._at(data)]

    def _splice(self, data: bytes) -> bytes:
        other = self._other().data
        return data[: self._at(data)] + other[self._at(other) :]
