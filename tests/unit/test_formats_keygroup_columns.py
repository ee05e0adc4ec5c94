"""formats/keygroup_columns.py: what formats/keygroups.py says of one key, of a column of them."""

from __future__ import annotations

import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.datatype import Simple
from formats.errors import UnsupportedError
from formats.keygroup_columns import can_hash, key_group, key_groups, misplaced
from formats.keygroups import java_string_hash, key_group_of
from formats.state import StateSchema
from formats.types import encode
from tests.support.states import batch_of

_limits = st.sampled_from([1, 2, 7, 128, 4096, 32768])


def groups(name: str, values: list[object], limit: int) -> list[int]:
    schema = StateSchema(name="s", kind="value", key=name)
    keys = pa.array([encode(Simple(name), value) for value in values], pa.binary())
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


def test_keys_whose_hash_is_not_known_are_refused() -> None:
    for text in ("", "tuple<long, long>", "opaque<com.example.Key>"):
        schema = StateSchema(name="s", kind="value", key=text)
        assert not can_hash(schema)
        with pytest.raises(UnsupportedError, match="how keys of s are hashed is not known"):
            key_groups(schema, pa.array([b"x"], pa.binary()), 128)
