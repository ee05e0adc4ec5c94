"""States of the HashMap backend that lie behind one whose type is not known."""

from __future__ import annotations

import io
import random
import struct

import pytest

from formats.datatype import DataType, Opaque, Simple
from formats.errors import UnsupportedError
from formats.flink.handles import KeyGroups
from formats.flink.heap import read_heap
from formats.flink.keyed_header import KEYED_VALUES, Header, StateMeta
from formats.keygroups import KeyGroupRange
from formats.types import encode

LONG, STRING, KRYO = Simple("long"), Simple("string"), Opaque("org.example.Order")
NAMES = ("first", "strange", "second", "third")


def value_state(name: str, value: DataType) -> StateMeta:
    serializers = {"NAMESPACE_SERIALIZER": Simple("void"), "VALUE_SERIALIZER": value}
    return StateMeta(name, KEYED_VALUES, {"KEYED_STATE_TYPE": "VALUE"}, serializers)


def header(*types: DataType) -> Header:
    states = tuple(value_state(name, value) for name, value in zip(NAMES, types, strict=False))
    return Header(compressed=False, key=STRING, states=states)


def section(place: int, *values: bytes) -> bytes:
    entries = [b"\0" + encode(STRING, f"k{number}") + value for number, value in enumerate(values)]
    return struct.pack(">Hi", place, len(values)) + b"".join(entries)


def read(head: Header, name: str, *sections: bytes) -> list[bytes]:
    data = bytes(8) + struct.pack(">i", 3) + b"".join(sections)
    handle = KeyGroups(3, (8,), None, "")
    batches = read_heap(io.BytesIO(data), handle, head, name, KeyGroupRange(3, 4), "a job")
    return [value for batch in batches for value in batch["value"].to_pylist()]


def longs(*numbers: int) -> list[bytes]:
    return [struct.pack(">q", number) for number in numbers]


def test_states_behind_an_unknown_one_are_read_whatever_its_bytes_are() -> None:
    draw = random.Random(11)
    head = header(LONG, KRYO, STRING, LONG)
    for _ in range(25):
        unknown = [draw.randbytes(draw.randrange(200)) for _ in range(draw.randrange(4))]
        if unknown and draw.random() < 0.5:  # it may look like what comes behind it
            unknown[0] += section(3, *longs(1, 2))[: draw.randrange(20)] + section(2)
        texts = [encode(STRING, "ä" * draw.randrange(5)) for _ in range(draw.randrange(3))]
        parts = [section(0, *longs(5)), section(1, *unknown), section(3, *longs(7, 8)), section(2, *texts)]
        assert read(head, "first", *parts) == longs(5)
        assert read(head, "third", *parts) == longs(7, 8)
        assert read(head, "second", *parts) == texts
        if unknown:
            with pytest.raises(UnsupportedError, match="'strange' holds opaque<"):
                read(head, "strange", *parts)
        else:
            assert read(head, "strange", *parts) == []


def test_what_could_be_in_two_places_is_refused() -> None:
    head = header(LONG, KRYO, STRING)
    decoy = section(2, encode(STRING, section(2).decode("latin1")))  # a state whose text is that state without entries
    assert read(header(LONG, STRING), "first", section(0, *longs(5)), section(1)) == longs(5)
    with pytest.raises(UnsupportedError, match="behind state 'strange' is not reached"):
        read(head, "second", section(0), section(1, b"x"), decoy)


def test_behind_two_unknown_states_nothing_is_guessed() -> None:
    parts = section(0), section(1, b"one"), section(2, b"two"), section(3, *longs(1))
    with pytest.raises(UnsupportedError, match="is not reached"):
        read(header(LONG, KRYO, KRYO, LONG), "third", *parts)
    empty = section(0), section(1, b"one"), section(2), section(3, *longs(1))
    assert read(header(LONG, KRYO, KRYO, LONG), "third", *empty) == longs(1)
