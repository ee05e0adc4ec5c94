"""Plain values and in-flight data: round trips, and every way of being damaged is an error of ours."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import CorruptError, EoctlError, InvalidInputError, UnsupportedError
from formats.inflight import InFlight, read_inflight, write_inflight
from formats.plain import decode_plain, encode_plain

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
)
KEYS = st.one_of(st.integers(), st.text(), st.binary(), st.tuples(st.text(), st.integers()))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


@given(VALUES)
def test_a_plain_value_comes_back_with_its_type(value: object) -> None:
    back = decode_plain(encode_plain(value))
    assert (type(back), back) == (type(value), value)


def test_bytes_of_plain_values_are_told_in_full() -> None:
    value = (1, -1, "a", b"\0", [True, None], {"k": 2.0}, Decimal("1.5"), datetime(2026, 1, 1, tzinfo=UTC))
    assert encode_plain(value).hex() == (
        "5508490249015301614201004c02544e4d0153016b4440000000000000004303312e35"
        "5a19323032362d30312d30315430303a30303a30302b30303a3030"
    )


@pytest.mark.parametrize("value", [object(), {1, 2}, [complex(1)], {"a": iter(())}])
def test_other_objects_are_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="not a plain value"):
        encode_plain(value)


def test_depth_is_bounded_both_ways() -> None:
    deep: object = None
    for _ in range(100):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="deep"):
        encode_plain(deep)
    with pytest.raises(CorruptError, match="deep"):
        decode_plain(b"L\x01" * 100 + b"N")


@pytest.mark.parametrize(
    "data", [b"", b"?", b"S\x05abc", b"L\xff\xff\xff\x7f", b"NN", b"I\x80", b"D\0", b"M\x01L\0N", b"Z\x01x"]
)
def test_bytes_that_are_no_value_are_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        decode_plain(data)


def example() -> tuple[bytes, list[InFlight]]:
    entries = [
        InFlight("in", "source", 0, "count", 0, 1, ["a", ("b", 2)], [5, 6], ["a", "b"]),
        InFlight("out", "count", 1, "sink", 0, 0, [{"k": 1}], None, None),
    ]
    file = io.BytesIO()
    assert write_inflight(file, entries) == len(file.getvalue())
    return file.getvalue(), entries


def test_in_flight_records_come_back_in_their_channels() -> None:
    data, entries = example()
    assert list(read_inflight(data)) == entries


def test_every_truncation_and_every_changed_byte_is_found() -> None:
    data, _ = example()
    for length in range(len(data)):
        with pytest.raises(EoctlError):
            list(read_inflight(data[:length]))
    for at in range(len(data)):
        with pytest.raises(EoctlError):
            list(read_inflight(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]))


def test_a_later_version_is_named() -> None:
    data, _ = example()
    with pytest.raises(UnsupportedError, match="version 2"):
        list(read_inflight(data[:4] + b"\x02" + data[5:]))
