"""formats/types_arrow.py: typed columns hold what formats/types.py decodes, and never end a table early."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import CorruptError
from formats.state import StateSchema
from formats.types import decode, encode, parse
from formats.types_arrow import TypedColumns, arrow_type, decode_column
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
