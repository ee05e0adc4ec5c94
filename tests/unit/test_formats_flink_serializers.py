"""Serializer snapshots and values, as Flink 2.3.0 writes them: tests/golden/flink-types."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest

from formats.binary import Buffer, Cursor
from formats.errors import EoctlError, InvalidInputError, UnsupportedError
from formats.flink.serializers import UnknownSerializerError, read_serializer, write_serializer
from formats.types import Opaque, decode, describe, encode, is_known, parse, skip

GOLDEN = Path(__file__).parents[1] / "golden" / "flink-types" / "types.jsonl"
LINES = {line["name"]: line for line in map(json.loads, GOLDEN.read_text("utf-8").splitlines())}
INNER = "m: nullable<map<nullable<string>, long>>, x: double"
ORDER = (
    "pojo<Types$Order; colour: enum<Types$Colour; RED, GREEN, BLUE>, count: int, id: long, "
    f"inner: pojo<Types$Inner; {INNER}>, name: string, "
    "tags: nullable<list<nullable<string>>>>"
)
SOME = {"a": 1, "b": None}

# What Types.java hands to Flink, in the words of formats/types.
EXPECTED: dict[str, tuple[str, list[object]]] = {
    "string": ("string", ["", "abc", "häß\0\U0001f600€", None, "x" * 200]),
    "long": ("long", [0, -1, (1 << 63) - 1]),
    "int": ("int", [0, -1, -(1 << 31)]),
    "short": ("short", [-2]),
    "byte": ("byte", [-2]),
    "char": ("char", ["x", "€"]),
    "boolean": ("boolean", [True, False]),
    "double": ("double", [1.5, -0.0, float("inf")]),
    "float": ("float", [1.5]),
    "bytes": ("bytes", [b"", b"\1\2\xff"]),
    "void-namespace": ("void", [None]),
    "void": ("void", [None]),
    "global-window": ("void", [None]),
    "time-window": ("time-window", [(-5, 600_000)]),
    "big-int": ("big-int", [None, 0, 1, 10, -129, 1 << 200, 1]),
    "big-decimal": ("big-decimal", [None, Decimal(0), Decimal("-1.50"), Decimal("1E+30"), Decimal(10),
                                    Decimal("12345678901234567890.0123456789")]),
    "instant": ("instant", [None, "1970-01-01T00:00:00Z", "2026-11-23T15:00:00.123456789Z",
                            "-1000000000-01-01T00:00:00Z", "+1000000000-12-31T23:59:59.999999999Z",
                            "1969-12-31T23:59:59.500Z"]),
    "local-date": ("local-date", [None, "2026-11-23", "-0044-03-15", "+999999999-12-31"]),
    "local-time": ("local-time", [None, "00:00:00", "23:59:59.999999999"]),
    "local-date-time": ("local-date-time", [None, "2026-11-23T15:00:01.000005"]),
    "date": ("date", [None, "1970-01-01T00:00:00Z", "1969-12-31T23:59:59.999Z"]),
    "sql-date": ("date", [None, "1970-01-02T00:00:00Z"]),
    "sql-time": ("date", [None, "1970-01-01T00:00:01Z"]),
    "timestamp": ("timestamp", [None, "1970-01-01T00:00:01.500Z", "1969-12-31T23:59:59.999999999Z"]),
    "list": ("list<long>", [[], [1, 2]]),
    "set": ("list<nullable<string>>", [["a"]]),
    "map": ("map<string, long>", [{}, SOME]),
    "tuple": ("tuple<string, int, boolean>", [("x", 1, True), (None, -1, False)]),
    "pojo": (ORDER, [
        {"colour": "BLUE", "count": None, "id": 7, "inner": {"m": SOME, "x": 2.5}, "name": "n", "tags": ["a", "b"]},
        {"colour": None, "count": None, "id": 0, "inner": None, "name": None, "tags": None},
        None]),
    "pojo-registered": (f"pojo<Types$Inner; {INNER}; pojo<Types$Special; extra: int, {INNER}>>", [
        {"m": None, "x": 0.0}, {"$class": "Types$Special", "extra": 0, "m": None, "x": 0.0}]),
    "row": ("row<f0: string, f1: long>", [
        {"f0": "a", "f1": 1}, {"f0": None, "f1": 2}, {"f0": "b", "f1": None, "$kind": "-U"},
        {"f0": "b", "f1": None, "$kind": "+U"}, {"f0": "b", "f1": None, "$kind": "-D"}]),
    "row-named": (f"row<{', '.join(f'f{n}: int' for n in range(9))}>",
                  [{f"f{n}": None if n % 2 else n for n in range(9)}]),
    "timer": ("timer<string, void>", [(1000, "k", None), (-1, "k", None)]),
    "either": ("either<int, string>", [("left", 5), ("right", "r")]),
    "enum": ("enum<Types$Colour; RED, GREEN, BLUE>", ["RED", "BLUE"]),
    "int-array": ("list<int>", [[1, -1]]),
    "long-array": ("list<long>", [[1]]),
    "short-array": ("list<short>", [[1]]),
    "double-array": ("list<double>", [[1.0]]),
    "float-array": ("list<float>", [[1.0]]),
    "boolean-array": ("list<boolean>", [[True]]),
    "char-array": ("list<char>", [["a"]]),
    "string-array": ("list<string>", [["a", None]]),
    "nullable": ("nullable<long, 8>", [5, None]),
    "nullable-short": ("nullable<string>", ["a", None]),
    "long-value": ("long", [5]),
    "int-value": ("int", [5]),
    "list-type": ("list<string>", [["a", None]]),
    "map-type": ("map<string, long>", [SOME]),
    "nullable-list": ("nullable<list<nullable<long>>>", [[1, None]]),
    "nullable-map": ("nullable<map<nullable<string>, long>>", [SOME]),
    "nullable-set": ("nullable<list<nullable<string>>>", [["a"]]),
    "ttl": ("tuple<long, string>", [(1000, "v")]),
}  # fmt: skip
OPAQUE = {
    "kryo": "opaque<Types$Strange>",
    "list-of-kryo": "list<opaque<Types$Strange>>",
    "object-array": "opaque<java.lang.Long[]>",
    "string-value": "opaque<org.apache.flink.types.StringValue>",
    "tuple0": "opaque<org.apache.flink.api.java.tuple.Tuple0>",
}
SUBCLASSES = {"pojo-subclass": ORDER}
ALIASES = {
    *(
        "void-namespace",
        "global-window",
        "sql-date",
        "sql-time",
        "set",
        "nullable-set",
        "long-value",
        "int-value",
        "ttl",
    ),
    *(name for name in EXPECTED if name.endswith("-array")),
}


def read(name: str):
    cursor = Cursor(bytes.fromhex(LINES[name]["snapshot"]))
    found = read_serializer(cursor)
    cursor.expect_end()
    return found


def test_every_line_of_the_golden_file_is_expected() -> None:
    assert LINES.keys() == EXPECTED.keys() | OPAQUE.keys() | SUBCLASSES.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_a_snapshot_of_flink_is_this_type_and_its_values_are_these(name) -> None:
    text, values = EXPECTED[name]
    data_type = read(name)
    assert describe(data_type) == text
    raws = [bytes.fromhex(value) for value in LINES[name]["values"]]
    assert [decode(data_type, raw) for raw in raws] == values
    assert [skip(data_type, raw + b"?") for raw in raws] == list(map(len, raws))
    if name == "big-int":
        del raws[-1], values[-1]  # Java has two ones, and writes them differently
    assert [encode(data_type, value) for value in values] == raws


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - ALIASES - {"pojo", "pojo-registered"}))
def test_a_type_is_written_as_flink_writes_it(name) -> None:
    buffer = Buffer()
    write_serializer(buffer, read(name))
    assert bytes(buffer.data).hex() == LINES[name]["snapshot"]


@pytest.mark.parametrize("name", OPAQUE)
def test_a_serializer_that_is_only_known_by_name_is_passed_over(name) -> None:
    found = read(name)
    assert describe(found) == OPAQUE[name]
    assert not is_known(found)
    with pytest.raises(InvalidInputError, match="no serializer"):
        write_serializer(Buffer(), Opaque("x"))


@pytest.mark.parametrize("name", SUBCLASSES)
def test_a_value_of_a_subclass_that_was_not_yet_met_is_told(name) -> None:
    assert describe(read(name)) == SUBCLASSES[name]
    with pytest.raises(UnsupportedError, match="subclass"):
        decode(read(name), bytes.fromhex(LINES[name]["values"][-1]))


def test_an_unknown_serializer_is_named() -> None:
    buffer = Buffer()
    buffer.utf("com.example.MoneySnapshot")
    buffer.i32(1)
    with pytest.raises(UnknownSerializerError, match=r"com\.example\.MoneySnapshot") as raised:
        read_serializer(Cursor(bytes(buffer.data)))
    assert raised.value.facts["serializer"] == "com.example.MoneySnapshot"


def test_an_unknown_serializer_of_a_field_leaves_the_rest_readable() -> None:
    known = "org.apache.flink.api.common.typeutils.base.EnumSerializer$EnumSerializerSnapshot"
    data = bytes.fromhex(LINES["pojo"]["snapshot"]).replace(known.encode(), known.replace("flink", "other").encode(), 1)
    found = read_serializer(Cursor(data))
    assert describe(found).startswith(
        f"pojo<Types$Order; colour: opaque<{known.replace('flink', 'other')}>, count: int"
    )
    assert parse(describe(found)) == found


def test_lists_in_lists_in_lists_end() -> None:
    buffer = Buffer()
    for _ in range(100):
        buffer.utf("org.apache.flink.api.common.typeutils.base.ListSerializerSnapshot")
        for number in (3, 911108, 1, 1333245, 1, 1):
            buffer.i32(number)
    with pytest.raises(EoctlError, match="deep"):
        read_serializer(Cursor(bytes(buffer.data)))


@pytest.mark.parametrize("name", sorted(LINES))
def test_a_damaged_snapshot_is_another_type_or_an_error(name) -> None:
    data, rng = bytes.fromhex(LINES[name]["snapshot"]), random.Random(name)
    for size in range(len(data)):
        with pytest.raises(EoctlError):
            read_serializer(Cursor(data[:size]))
    for _ in range(200):
        place = rng.randrange(len(data))
        damaged = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
        try:
            found = read_serializer(Cursor(damaged))
        except EoctlError:
            continue
        assert parse(describe(found)) == found
