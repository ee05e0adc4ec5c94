"""formats/keygroup_columns.py: what formats/keygroups.py says of one key, of a column of them."""

from __future__ import annotations

import struct
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import CorruptError, UnsupportedError
from formats.java_hash import hasher
from formats.keygroup_columns import can_hash, key_group, key_groups, misplaced
from formats.keygroups import java_string_hash, key_group_of
from formats.state import StateSchema
from formats.types import encode, parse
from tests.support.states import batch_of

_limits = st.sampled_from([1, 2, 7, 128, 4096, 32768])


def groups(name: str, values: list[object], limit: int) -> list[int]:
    schema = StateSchema(name="s", kind="value", key=name)
    keys = pa.array([encode(parse(name), value) for value in values], pa.binary())
    found: list[int] = key_groups(schema, keys, limit).to_pylist()
    assert found == [key_group(schema, key, limit) for key in keys.to_pylist()]
    return found


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20), _limits)
def test_longs(values: list[object], limit: int) -> None:
    unsigned = [((v & (2**64 - 1)) ^ ((v & (2**64 - 1)) >> 32)) & 0xFFFFFFFF for v in values if isinstance(v, int)]
    assert groups("long", values, limit) == [key_group_of(code, limit) for code in unsigned]


@given(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20), _limits)
def test_ints(values: list[object], limit: int) -> None:
    assert groups("int", values, limit) == [key_group_of(value, limit) for value in values if isinstance(value, int)]


@given(st.lists(st.integers(-128, 127), max_size=20), _limits)
def test_bytes_and_shorts_hash_as_the_number_they_are(values: list[object], limit: int) -> None:
    assert groups("byte", values, limit) == groups("short", values, limit) == groups("int", values, limit)


@given(st.lists(st.text(max_size=6), max_size=20), _limits)
def test_strings(values: list[object], limit: int) -> None:
    assert groups("string", values, limit) == [
        key_group_of(java_string_hash(value), limit) for value in values if isinstance(value, str)
    ]


def test_vectors_of_java() -> None:
    # Long.hashCode, Double.hashCode, Boolean.hashCode as a JVM prints them.
    assert groups("boolean", [True, False], 128) == [key_group_of(1231, 128), key_group_of(1237, 128)]
    assert groups("double", [1.5, -0.0], 128) == [key_group_of(1073217536, 128), key_group_of(-2147483648, 128)]
    assert groups("float", [1.5], 128) == [key_group_of(1069547520, 128)]
    assert groups("long", [1 << 32, -1], 128) == [key_group_of(1, 128), key_group_of(0, 128)]


def test_a_key_in_the_wrong_group_is_found() -> None:
    schema = StateSchema(name="s", kind="value", key="long")
    rows = [(key_group_of(number, 128), struct.pack(">q", number), b"", b"", b"") for number in range(50)]
    assert misplaced(schema, batch_of(rows), 128) is None
    wrong = batch_of([((rows[0][0] + 1) % 128, *rows[0][1:])])
    assert misplaced(schema, wrong, 128) == 0
    assert misplaced(StateSchema(name="s", kind="value"), wrong, 128) is None


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [  # as a JVM prints them
        ("string", "h\u00e9llo\U0001d11e", 291563960),
        ("char", "x", 120),
        ("short", -3, -3),
        ("double", float("nan"), 2146959360),
        ("float", -0.0, -2147483648),
        ("big-int", 123456789012345678901234567890, 1915528825),
        ("big-int", -98765432109876543210, 550835337),
        ("big-int", 0, 0),
        ("big-int", 10, 10),
        ("big-int", -1, -1),
        ("big-decimal", Decimal("-12345678901.25"), 848704976),
        ("big-decimal", Decimal("123456789012345678901234567890.125"), -285907262),
        ("big-decimal", Decimal("0.10"), 312),
        ("big-decimal", Decimal(5), 155),
        ("big-decimal", Decimal(-9223372036854775808), -2147483648),
        ("instant", "2023-11-14T22:13:20.123456789Z", -593638353),
        ("instant", "1811-07-23T15:06:40.000000001Z", 705032753),
        ("local-date", "2024-02-29", 4145309),
        ("local-date", "-0044-03-15", 88271),
        ("local-time", "23:59:58.123456789", 561346433),
        ("local-date-time", "2024-02-29T23:59:58.123456789", 558511900),
        ("date", "2023-11-14T22:13:20.123Z", -807048720),
        ("timestamp", "2023-11-14T22:13:20.123456789Z", -807048720),
        ("tuple<string, long>", ("a", 7), 3014),
        ("tuple<string, boolean, double>", (None, True, -1.5), -1074227951),
        ("tuple<tuple<byte, short>, char>", ((-3, 300), "x"), 6537),
    ],
)
def test_hashes_are_those_of_a_jvm(text: str, value: object, expected: int) -> None:
    found = hasher(parse(text))(encode(parse(text), value))
    assert found - (found >> 31 << 32) == expected


def test_tuples_are_in_the_key_groups_of_flink() -> None:
    assert groups("tuple<string, long>", [("a", 7)], 128) == [117]
    assert groups("tuple<string, boolean, double>", [(None, True, -1.5)], 1000) == [307]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "nor is their type"),
        ("opaque<com.example.Key>", "the hashCode of opaque"),
        ("pojo<lab.Key; id: long>", "only the class lab.Key knows its hashCode"),
        ("tuple<long, pojo<lab.Key; id: long>>", "only the class lab.Key knows its hashCode"),
        ("enum<lab.Color; RED>", "another in every process"),
        ("row<f0: long>", "the hashCode of row"),
        ("list<long>", "the hashCode of list<long> is not known here"),
        ("bytes", "bytes has no hash"),
    ],
)
def test_keys_whose_hash_is_not_known_are_refused(text: str, reason: str) -> None:
    schema = StateSchema(name="s", kind="value", key=text)
    assert not can_hash(schema)
    with pytest.raises(UnsupportedError, match=f"how keys of s are hashed is not known.*{reason}"):
        key_groups(schema, pa.array([b"x"], pa.binary()), 128)


def test_a_tuple_with_bytes_left_over_is_damage() -> None:
    schema = StateSchema(name="s", kind="value", key="tuple<int, int>")
    for wrong in (bytes(7), bytes(9)):
        with pytest.raises(CorruptError):
            key_group(schema, wrong, 128)
