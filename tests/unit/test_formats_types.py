"""Types: their text, and values between bytes and Python."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.datatype import MAX_DEPTH, SIMPLE_NAMES, children
from formats.errors import CorruptError, EoctlError, InvalidInputError, UnsupportedError
from formats.types import (
    DataType,
    EitherOf,
    EnumOf,
    JoinedOf,
    ListOf,
    MapOf,
    NullableOf,
    Opaque,
    RecordOf,
    RowOf,
    Simple,
    TimerOf,
    TupleOf,
    codec,
    decode,
    describe,
    encode,
    is_known,
    parse,
    skip,
    width,
)

_names = st.text(max_size=8)
_simple = st.sampled_from(sorted(SIMPLE_NAMES)).map(Simple)
_leaves = (
    _simple
    | st.builds(Opaque, _names)
    | st.builds(EnumOf, _names, st.lists(_names, unique=True, max_size=3).map(tuple))
)


def _types(inner: st.SearchStrategy[DataType]) -> st.SearchStrategy[DataType]:
    fields = st.lists(st.tuples(_names, inner), max_size=3, unique_by=lambda field: field[0]).map(tuple)
    subclass = st.builds(Opaque, _names) | st.builds(RecordOf, _names, fields)
    subclasses = st.lists(subclass, max_size=2).map(tuple)
    return (
        st.builds(ListOf, inner)
        | st.builds(JoinedOf, inner)
        | st.builds(MapOf, inner, inner)
        | st.builds(TupleOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(RecordOf, _names, fields, subclasses, subclasses)
        | st.builds(RowOf, fields, st.booleans())
        | st.builds(TimerOf, inner, inner)
        | st.builds(NullableOf, inner, st.integers(0, 16))
        | st.builds(EitherOf, inner, inner)
    )


types = st.recursive(_leaves, _types, max_leaves=6)

_long = st.integers(-(1 << 63), (1 << 63) - 1)
_simple_values: dict[str, st.SearchStrategy[object]] = {
    "string": st.none() | st.text(st.characters()),
    "boolean": st.booleans(),
    "byte": st.integers(-128, 127),
    "short": st.integers(-(1 << 15), (1 << 15) - 1),
    "int": st.integers(-(1 << 31), (1 << 31) - 1),
    "long": _long,
    "char": st.characters(max_codepoint=0xFFFF),
    "float": st.floats(width=32, allow_nan=False),
    "double": st.floats(allow_nan=False),
    "bytes": st.binary(max_size=50),
    "void": st.none(),
    "time-window": st.tuples(_long, _long),
    "big-int": st.none() | st.integers(-(1 << 200), 1 << 200),
    "big-decimal": st.none() | st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: d + 0),
    "instant": st.none() | st.datetimes().map(lambda moment: moment.isoformat() + "Z"),
    "local-date": st.none() | st.dates().map(str),
    "local-time": st.none() | st.times().map(str),
    "local-date-time": st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
}
_simple_values["date"] = st.none() | _long.filter(lambda ms: abs(ms) < 1 << 50).map(
    lambda ms: decode(Simple("date"), ms.to_bytes(8, "big", signed=True))
)
_simple_values["timestamp"] = _simple_values["instant"]


@given(types)
def test_the_text_of_a_type_is_the_type(data_type) -> None:
    assert parse(describe(data_type)) == data_type


@pytest.mark.parametrize(
    ("text", "data_type"),
    [
        ("long", Simple("long")),
        (" map < string ,long > ", MapOf(Simple("string"), Simple("long"))),
        ("pojo<lab.Order; id: long>", RecordOf("lab.Order", (("id", Simple("long")),))),
        ('opaque<"a<b, c>">', Opaque("a<b, c>")),
        ("nullable<long, 8>", NullableOf(Simple("long"), 8)),
        ("old-row<>", RowOf((), with_kind=False)),
        ("enum<lab.Colour; RED, GREEN>", EnumOf("lab.Colour", ("RED", "GREEN"))),
    ],
)
def test_types_are_written_as_people_write_them(text, data_type) -> None:
    assert parse(text) == data_type


@pytest.mark.parametrize(
    "text",
    ["", "lon", "list", "list<>", "list<long", "list<long>>", "map<long>", "tuple<>", "long long", "nullable<long, x>",
     'opaque<"a>', "pojo<A; x>", "list<" * 40 + "long" + ">" * 40, "x" * 70_000, "row<a: long,>", '"\\q"'],
)  # fmt: skip
def test_what_is_no_type_is_refused(text) -> None:
    with pytest.raises(InvalidInputError):
        parse(text)


def test_types_may_be_nested_this_deep_and_no_deeper() -> None:
    text = "list<" * MAX_DEPTH + "long" + ">" * MAX_DEPTH
    assert describe(parse(text)) == text
    with pytest.raises(InvalidInputError, match="deep"):
        parse("list<" * (MAX_DEPTH + 1) + "long" + ">" * (MAX_DEPTH + 1))


@pytest.mark.parametrize("name", sorted(SIMPLE_NAMES))
def test_simple_values_survive(name) -> None:
    @given(_simple_values[name])
    def survives(value) -> None:
        data = encode(Simple(name), value)
        found = decode(Simple(name), data)
        if name in {"instant", "local-time", "local-date-time", "timestamp"}:
            assert encode(Simple(name), found) == data
            assert found is None or str(found).startswith(str(value).partition(".")[0].removesuffix("Z"))
        else:
            assert found == value
        assert skip(Simple(name), b"?" + data + b"?", 1) == len(data) + 1
        assert width(Simple(name)) in {None, len(data)}

    survives()


@pytest.mark.parametrize(
    ("text", "value", "data"),
    [
        ("string", None, "00"),
        ("string", "", "01"),
        ("string", "abc", "04616263"),
        ("string", "ä", "02e401"),
        ("list<int>", [1, -1], "00000002 00000001 ffffffff"),
        ("joined<byte>", [44, 44], "2c 2c 2c"),
        ("joined<long>", [], ""),
        ("map<byte, boolean>", {1: True, 2: None}, "00000002 010001 0201"),
        ("tuple<byte, tuple<boolean>>", (1, (False,)), "0100"),
        ("nullable<short, 2>", None, "010000"),
        ("nullable<short>", 5, "000005"),
        ("either<byte, boolean>", ("right", True), "0001"),
        ("enum<C; A, B>", "B", "00000001"),
        ("pojo<C; a: byte, b: string>", {"a": None, "b": "x"}, "02 01 00 0278"),
        ("pojo<C; a: byte>", None, "01"),
        ("pojo<A; ; pojo<B; b: byte>>", {"$class": "B", "b": 5}, "08 00 02 00 05"),
        ("pojo<A; a: byte; ; pojo<B; b: byte>>", {"$class": "B", "b": 5}, "04 000142 02 00 05"),
        ("pojo<A; ; pojo<B; b: byte>>", {}, "02"),
        ("row<a: byte, b: byte>", {"a": None, "b": 7}, "20 07"),
        ("row<a: byte>", {"a": 7, "$kind": "-U"}, "80 07"),
        ("row<a: byte>", {"a": 7, "$kind": "+U"}, "40 07"),
        ("old-row<a: byte>", {"a": None}, "80"),
        ("timer<byte, void>", (-1, 3, None), "7fffffffffffffff 03 00"),
        ("map<list<byte>, byte>", {(1, 2): 3}, "00000001 00000002 01 02 00 03"),
        ("big-decimal", Decimal("-1.50"), "00000006 ff6a 00000002"),
        ("big-int", 10, "00000003"),
        ("opaque<C>", b"xyz", "78797a"),
        ("tuple<byte, opaque<C>>", (1, b"yz"), "01 797a"),
        ("instant", "1969-12-31T23:59:59.000000001Z", "ffffffffffffffff 00000001"),
        ("local-date", "+10000-01-01", "00002710 01 01"),
        ("local-date", "-0001-02-28", "ffffffff 02 1c"),
    ],
)
def test_values_have_these_bytes(text, value, data) -> None:
    data_type, raw = parse(text), bytes.fromhex(data)
    assert encode(data_type, value) == raw
    assert decode(data_type, raw) == value
    assert skip(data_type, raw) == len(raw)
    assert codec(data_type).least <= len(raw)
    assert width(data_type) in {None, len(raw)}


def test_a_void_of_any_byte_and_a_number_of_many_bytes_are_read() -> None:
    assert decode(Simple("big-int"), bytes.fromhex("00000005 00")) == 0


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("boolean", "02"),
        ("list<byte>", "7fffffff 00"),
        ("list<long>", "00000002 0000000000000000"),
        ("list<byte>", "ffffffff"),
        ("map<string, void>", "00000002 0201"),
        ("map<byte, byte>", "00000002 010002 010003"),
        ("joined<byte>", "2c 2d 2c"),
        ("joined<byte>", "2c 2c"),
        ("string", "ffffffffff7f"),
        ("string", "02 ffff7f"),
        ("enum<C; A>", "00000001"),
        ("local-date", "000007ea 02 1e"),
        ("local-time", "18 00 00 00000000"),
        ("instant", "0000000000000000 3b9aca00"),
        ("instant", "7fffffffffffffff 00000000"),
        ("big-int", "00000004"),
        ("big-int", "80000000"),
        ("long", "00"),
        ("byte", "0000"),
    ],
)
def test_bytes_that_are_no_value_are_corrupt_at_a_byte(text, data) -> None:
    with pytest.raises(CorruptError, match="at byte") as raised:
        decode(parse(text), bytes.fromhex(data))
    assert isinstance(raised.value.facts["offset"], int)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("long", "1"), ("long", 1 << 63), ("long", True), ("string", 1), ("boolean", 1), ("bytes", "x"), ("char", "xy"),
        ("void", 0), ("time-window", 5), ("time-window", (1, "x")), ("list<long>", 5), ("map<long, long>", [1]),
        ("tuple<long>", (1, 2)), ("pojo<C; a: long>", {"b": 1}), ("row<a: long>", {}), ("old-row<>", {"$kind": "-D"}),
        ("enum<C; A>", "B"), ("either<long, long>", 5), ("instant", "today"), ("local-date", "2026-02-30"),
        ("date", "2026-02-03T00:00:00.0001Z"), ("big-decimal", Decimal("NaN")),
        ("timer<void, void>", ("x", None, None)),
        ("opaque<C>", "x"), ("float", "x"), ("float", 1e300), ("local-time", "25:00:00"), ("instant", 5),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(text, value) -> None:
    with pytest.raises(InvalidInputError):
        encode(parse(text), value)


def test_opaque_bytes_hide_only_what_comes_after_them() -> None:
    assert not is_known(parse("list<opaque<C>>"))
    assert is_known(parse("list<long>"))
    assert decode(parse("list<opaque<C>>"), bytes(4)) == []
    for text in ("list<opaque<C>>", "tuple<opaque<C>, byte>", "map<opaque<C>, byte>", "pojo<P; a: opaque<C>>"):
        with pytest.raises(UnsupportedError, match="of C ends"):
            decode(parse(text), b"\0\0\0\1" + bytes(20) if "pojo" not in text else b"\2\0xyz")


def test_a_pojo_of_a_subclass_that_is_not_told_of_is_refused() -> None:
    for data in (b"\4\0\1C\2", b"\x08\0\2"):
        with pytest.raises(UnsupportedError, match="subclass"):
            decode(parse("pojo<A; a: byte>"), data)
    with pytest.raises(CorruptError, match="flags 3"):
        decode(parse("pojo<A; a: byte>"), b"\3\0\1")
    with pytest.raises(InvalidInputError):
        encode(parse("pojo<A; a: byte>"), {"$class": "B", "b": 1})


@given(types, st.binary(max_size=60))
def test_any_bytes_are_a_value_or_an_error(data_type, data) -> None:
    try:
        value = decode(data_type, data)
    except EoctlError:
        return
    assert skip(data_type, data) == len(data)
    if "opaque" not in describe(data_type) and children(data_type) == ():
        assert decode(data_type, encode(data_type, value)) == value or value != value  # noqa: PLR0124  (NaN)
