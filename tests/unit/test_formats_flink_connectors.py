"""Splits and committables; those of the corpus are compared with its positions in test_engines_flink_states.py."""

from __future__ import annotations

import random
import struct

import pytest

from formats.binary import Buffer
from formats.errors import EoctlError
from formats.flink.connectors import (
    BUCKET,
    COMMITTABLES,
    FILE_COMMITTABLE,
    FILE_IN_PROGRESS,
    LOCAL_RECOVERABLE,
    PENDING_FILE,
    Bucket,
    Committable,
    FileCommittable,
    KafkaSplit,
    KafkaTransaction,
    NumberSplit,
    SinkFile,
    Versioned,
    read_bucket,
    read_committables,
    read_split,
)
from formats.types import Simple, encode


def versioned(version: int, *parts: bytes) -> bytes:
    return struct.pack(">ii", version, sum(map(len, parts))) + b"".join(parts)


def element(version: int, *parts: bytes) -> bytes:
    return encode(Simple("bytes"), versioned(version, *parts))


def utf(text: str) -> bytes:
    buffer = Buffer()
    buffer.utf(text)
    return bytes(buffer.data)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def several(version: int, *parts: bytes) -> bytes:
    return struct.pack(">ii", version, len(parts)) + b"".join(struct.pack(">i", len(part)) + part for part in parts)


def recoverable(target: bytes, temporary: bytes, size: int) -> bytes:
    head = struct.pack("<IQII", LOCAL_RECOVERABLE, size, len(target), len(temporary))
    return versioned(1, head, target, temporary)


PENDING = versioned(
    2, u32(PENDING_FILE), b"\1", utf("/out/ä"), struct.pack(">q", 7), recoverable(b"/out/x", b"/out/.x", 9)
)
UNNAMED = versioned(2, u32(FILE_IN_PROGRESS), b"\0", recoverable(b"/out/y", b"/out/.y", 5))
S3_LIKE = versioned(2, u32(FILE_IN_PROGRESS), b"\1", utf("/out/z"), versioned(1, b"of another file system"))


def committable(*contents: bytes, version: int = 2) -> bytes:
    requests = several(0, *(content + bytes(3) + b"\2" + bytes(4) for content in contents))
    subtask = several(version, struct.pack(">i", 4) + requests + bytes(12 if version == 1 else 8))
    return element(2, u32(COMMITTABLES), several(1, struct.pack(">qi", 11, 2) + subtask))


def test_a_split_of_a_number_sequence_is_told_and_another_is_bytes() -> None:
    data = element(1, utf("2"), struct.pack(">qq", 4300, 7999))
    assert read_split(data) == NumberSplit("2", 4300, 7999)
    assert read_split(element(1, b"kafka-like")) == Versioned(1, b"kafka-like")
    assert read_split(element(2, utf("2"), bytes(16))) == Versioned(2, utf("2") + bytes(16))


@pytest.mark.parametrize("version", [1, 2])
def test_the_committables_of_a_file_sink_are_told(version) -> None:
    both = versioned(2, u32(FILE_COMMITTABLE), utf("day=1"), b"\1", PENDING, b"\1", UNNAMED, b"\1", utf("/out/old"))
    cleanup = versioned(2, u32(FILE_COMMITTABLE), utf(""), b"\0", b"\1", S3_LIKE, b"\0")
    foreign = versioned(7, b"transaction")
    assert read_committables(committable(both, cleanup, foreign, version=version)) == [
        Committable(11, 4, FileCommittable("day=1", SinkFile("/out/ä", "/out/.x", 7), ("/out/y", "/out/old")), 2, 0),
        Committable(11, 4, FileCommittable("", None, ("/out/z",)), 2, 0),
        Committable(11, 4, Versioned(7, b"transaction"), 2, 0),
    ]


def test_committables_of_another_collector_are_bytes() -> None:
    assert read_committables(element(9, b"x")) == [Committable(-1, -1, Versioned(9, b"x"))]


def test_a_bucket_of_a_file_sink_is_told() -> None:
    head = u32(BUCKET) + versioned(1, struct.pack("<I", 2), b"b1") + utf("/out/b1") + bytes(8)
    assert read_bucket(element(3, head, b"\0")) == Bucket("b1", "/out/b1", None)
    assert read_bucket(element(3, head, b"\1", UNNAMED)) == Bucket("b1", "/out/b1", SinkFile("/out/y", "/out/.y", 5))
    assert read_bucket(element(3, head, b"\1", S3_LIKE)) == Bucket("b1", "/out/b1", SinkFile("/out/z", "", -1))
    assert read_bucket(element(2, b"old")) == Versioned(2, b"old")


@pytest.mark.parametrize("read", [read_split, read_committables, read_bucket])
def test_damaged_elements_are_something_else_or_an_error(read) -> None:
    rng = random.Random(5)
    file = versioned(2, u32(FILE_COMMITTABLE), utf("b"), b"\1", PENDING, b"\0\0")
    bucket = element(3, u32(BUCKET), versioned(1, struct.pack("<I", 2), b"b1"), utf("/out"), bytes(8), b"\1", UNNAMED)
    for good in (committable(file), bucket, element(1, utf("2"), bytes(16))):
        for size in range(len(good)):
            with pytest.raises(EoctlError):
                read(good[:size])
        for _ in range(500):
            place = rng.randrange(len(good))
            try:
                read(good[:place] + bytes([rng.randrange(256)]) + good[place + 1 :])
            except EoctlError:
                continue


def test_a_partition_of_kafka_is_where_its_reader_goes_on() -> None:
    def split(*numbers: int) -> bytes:
        return element(0, utf("orders"), struct.pack(">iqq", *numbers))

    assert read_split(split(3, 1234, -(1 << 63))) == KafkaSplit("orders", 3, 1234, None)
    assert read_split(split(0, -2, 99)) == KafkaSplit("orders", 0, -2, 99)
    longer = element(0, utf("orders"), struct.pack(">iqq", 3, 1234, 0), b"x")
    assert isinstance(read_split(longer), Versioned)


def test_a_transaction_of_kafka_is_told_by_its_name() -> None:
    content = versioned(1, struct.pack(">hq", 5, 77), utf("shop-0-12"))
    (found,) = read_committables(committable(content))
    assert found.content == KafkaTransaction("shop-0-12", 77, 5)
