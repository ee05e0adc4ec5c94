"""Bytes of Kafka's protocol: those that a broker took and gave, damage, and numbers of every length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eoctl.runtime.sinks.kafka_codec import (
    Bytes,
    Row,
    batch,
    batches,
    compact_array,
    compact_text,
    int64,
    murmur2,
    partition_of,
    text,
    varint,
)
from formats.errors import CorruptError, UnsupportedError

ROWS = (Row(b"v", b"k"), Row(b"w"), Row(None, b""))
GOLDEN = bytes.fromhex(
    "000000000000000000000049ffffffff02432996580010000000020000018bcfe568000000018bcfe5680000000000000000"
    "0700030000000b0000000310000000026b0276000e000002010277000c000004000100"
)
CONTROL = bytes.fromhex(
    "000000000000000200000042000000000284839f3b003000000000000001a209d0e3b8000001a209d0e3b800000000000000"
    "000000ffffffff000000012000000008000000010c00000000000000"
)


def test_a_batch_has_the_bytes_that_a_broker_takes() -> None:
    made = batch(ROWS, producer=7, epoch=3, sequence=11, time_ms=1_700_000_000_000)
    assert made == GOLDEN
    [found] = batches(made)
    assert (found.offset, found.last_offset, found.producer, found.epoch, found.control) == (0, 2, 7, 3, False)
    assert found.rows == ((0, b"k", b"v"), (1, None, b"w"), (2, b"", None))


def test_a_control_batch_says_what_it_ends() -> None:
    [found] = batches(CONTROL)
    assert found.control
    assert found.commits
    assert (found.offset, found.producer) == (2, 0)


def test_what_is_cut_off_at_the_end_is_left_out() -> None:
    for cut in range(len(GOLDEN)):
        assert len(list(batches(GOLDEN + GOLDEN[:cut]))) == 1


def test_every_flipped_bit_behind_the_head_is_found() -> None:
    for place in range(17, len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[place] ^= 1
        with pytest.raises(CorruptError, match="checksum"):
            list(batches(bytes(damaged)))


def test_other_kinds_of_batch_are_refused() -> None:
    old = bytearray(GOLDEN)
    old[16] = 1
    with pytest.raises(UnsupportedError, match="magic 1"):
        list(batches(bytes(old)))


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_of_every_length_come_back(number: int) -> None:
    assert Bytes(varint(number)).varint() == number
    assert Bytes(int64(number)).int64() == number


@given(st.text(max_size=300))
def test_texts_come_back(value: str) -> None:
    assert Bytes(text(value)).text() == value
    assert Bytes(compact_text(value)).compact_text() == value


@given(st.lists(st.tuples(st.none() | st.binary(max_size=200), st.none() | st.binary(max_size=20)), min_size=1))
def test_records_come_back(rows: list[tuple[bytes | None, bytes | None]]) -> None:
    made = batch([Row(*row) for row in rows], producer=1, epoch=0, sequence=0, time_ms=0)
    [found] = batches(made)
    assert [(value, key) for _, key, value in found.rows] == rows


@pytest.mark.parametrize(
    ("read", "data"),
    [
        (Bytes.int32, b"\0\0\0"),
        (Bytes.text, b"\0\x02a"),
        (Bytes.blob, b"\0\0\0\x02a"),
        (Bytes.uvarint, b"\xff"),
        (Bytes.compact_text, b"\x03a"),
        (Bytes.tags, b"\x01\x00\x04abc"),
    ],
)
def test_a_reply_that_ends_too_soon_is_told(read: Callable[[Bytes], object], data: bytes) -> None:
    with pytest.raises(CorruptError, match="in the middle of a field"):
        read(Bytes(data))


def test_arrays_and_unknown_tags_are_passed_over() -> None:
    data = Bytes(compact_array([b"a", b"b"]) + b"\x01\x05\x02xy" + b"end")
    assert [data.take(1) for _ in data.compact_times()] == [b"a", b"b"]
    data.tags()
    assert data.take(3) == b"end"


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_are_hashed_as_in_java(key: bytes, hashed: int) -> None:
    assert murmur2(key) == hashed & 0xFFFFFFFF
    assert 0 <= partition_of(key, 7) < 7
