"""formats/types_arrow.py: typed columns hold what formats/types.py decodes, and never end a table early."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import CorruptError
from formats.state import StateSchema
from formats.types import decode, encode, parse
from formats.types_arrow import TypedColumns, Unshown, arrow_type, decode_column
from tests.support.states import batch_of

_VALUES: dict[str, st.SearchStrategy[object]] = {
    "long": st.integers(-(2**63), 2**63 - 1),
    "int": st.integers(-(2**31), 2**31 - 1),
    "short": st.integers(-(2**15), 2**15 - 1),
    "byte": st.integers(-128, 127),
    "double": st.floats(allow_nan=False),
    "float": st.floats(allow_nan=False, width=32),
    "boolean": st.booleans(),
    "bytes": st.binary(max_size=5),
    "string": st.none() | st.text(st.characters(codec="utf-8"), max_size=5) | st.text("ab", min_size=120, max_size=130),
    "list<string>": st.lists(st.text("ab", max_size=3), max_size=3),
    "tuple<int, string>": st.tuples(st.integers(0, 9), st.text("ab", max_size=3)),
    "map<string, long>": st.dictionaries(st.text("ab", max_size=3), st.integers(0, 9), max_size=3),
}


@pytest.mark.parametrize("text", sorted(_VALUES))
@given(data=st.data())
def test_a_column_holds_what_is_decoded(text: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(_VALUES[text], max_size=8))
    found = parse(text)
    column = pa.array([b"in front", *(encode(found, value) for value in values)], pa.binary()).slice(1)
    typed = decode_column(found, column)
    assert typed.type == arrow_type(found)
    shown = [decode(found, raw) for raw in column.to_pylist()]
    match text:
        case "tuple<int, string>":
            assert [tuple(one.values()) for one in typed.to_pylist()] == shown
        case "map<string, long>":
            assert [{one["key"]: one["value"] for one in entries} for entries in typed.to_pylist()] == shown
        case _:
            assert typed.to_pylist() == shown


@pytest.mark.parametrize("text", ["long", "string", "boolean", "time-window", "tuple<long, long>"])
def test_bytes_that_are_not_of_the_type_are_told_and_end_nothing_early(text: str) -> None:
    columns = TypedColumns(StateSchema(name="s", kind="value", value=text))
    batch = batch_of([(0, b"k", b"", b"", b"\x01\x02\x03")])
    with pytest.raises(CorruptError):
        list(columns(one) for one in [batch])  # noqa: C400  (an error must come out of a generator as it is)


def test_null_values_are_null_and_unknown_types_have_no_column() -> None:
    columns = TypedColumns(StateSchema(name="s", kind="value", key="opaque<com.example.Key>", value="long"))
    batch = columns(batch_of([(0, b"k", b"", b"", None), (0, b"l", b"", b"", (7).to_bytes(8, "big"))]))
    assert batch.schema.names == ["key_group", "key", "namespace", "map_key", "value", "typed_value"]
    assert batch["typed_value"].to_pylist() == [None, 7]


def test_a_timer_shows_its_time() -> None:
    columns = TypedColumns(StateSchema(name="t", kind="timer", key="string", namespace="time-window"))
    times = [-5, 0, 1_700_000_000_000]
    rows = [
        (0, b"\x02k", (n).to_bytes(16, "big"), (time + (1 << 63)).to_bytes(8, "big"), b"")
        for n, time in enumerate(times)
    ]
    batch = columns(batch_of(rows))
    assert batch["typed_time"].to_pylist() == times
    assert batch["typed_namespace"].to_pylist() == [{"start": 0, "end": n} for n in range(3)]


_ANIMAL = "pojo<lab.Animal; legs: int; pojo<lab.Bird; legs: int, wings: int>; pojo<lab.Fish; legs: int>>"


def test_a_subclass_has_its_fields_and_its_name() -> None:
    found = parse(_ANIMAL)
    values: list[dict[str, object] | None]
    values = [{"legs": 4}, {"$class": "lab.Bird", "legs": 2, "wings": 2}, {"$class": "lab.Fish", "legs": 0}, None]
    typed = decode_column(found, pa.array([encode(found, value) for value in values], pa.binary()))
    nothing: dict[str, object] = {"legs": None, "$class": None, "wings": None}
    assert typed.to_pylist() == [None if value is None else nothing | value for value in values]


def test_subclasses_that_name_one_field_for_two_types_have_no_column() -> None:
    text = "pojo<lab.Animal; legs: int; pojo<lab.Bird; legs: int, song: string>; pojo<lab.Fish; song: long>>"
    schema = TypedColumns(StateSchema(name="s", kind="value", value=text)).schema
    assert schema.names == ["key_group", "key", "namespace", "map_key", "value"]


def test_a_value_that_cannot_be_shown_is_null_and_told_and_its_bytes_are_there() -> None:
    schema = StateSchema(name="zoo", kind="value", value=_ANIMAL)
    columns = TypedColumns(schema)
    untold = b"\x08\x07\x02\x00"  # the eighth of the registered subclasses
    batch = columns(batch_of([(0, b"a", b"", b"", encode(parse(_ANIMAL), {"legs": 4})), (0, b"b", b"", b"", untold)]))
    assert batch["value"].to_pylist()[1] == untold
    assert [value and value["legs"] for value in batch["typed_value"].to_pylist()] == [4, None]
    (note,) = columns.notes
    assert note.startswith("zoo: 1 value is bytes only, and null in the typed column: a POJO of a subclass")


@pytest.mark.parametrize("text", ["string", "list<string>"])
def test_half_a_pair_of_surrogates_is_told_and_the_rest_is_shown(text: str) -> None:
    found, unshown = parse(text), Unshown()
    words: list[object] = ["a", "\ud800", "c", "d"]
    values = words if text == "string" else [[word] for word in words]
    typed = decode_column(found, pa.array([encode(found, value) for value in values], pa.binary()), unshown)
    assert typed.to_pylist() == [
        value if "\ud800" not in str(value) and value != ["\ud800"] else None for value in values
    ]
    assert unshown.count == 1
