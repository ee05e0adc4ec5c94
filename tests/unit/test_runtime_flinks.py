"""State of Flink's in the words of our runtime."""

from __future__ import annotations

import pyarrow as pa
import pytest

from eoctl.runtime.state.flinks import has_flags, in_our_words, is_clock_timers, without_flags
from formats.errors import IncompatibleError
from formats.state import Kind, StateSchema, row_schema


def schema(kind: Kind, value: str, map_key: str = "") -> StateSchema:
    return StateSchema(name="s", kind=kind, key="string", namespace="void", map_key=map_key, value=value)


def batch(*values: bytes) -> pa.RecordBatch:
    count = len(values)
    names = [pa.array([name] * count, pa.binary()) for name in (b"k", b"", b"m")]
    return pa.record_batch([pa.array([0] * count, pa.uint16()), *names, pa.array(values)], schema=row_schema())


def test_a_state_of_flinks_is_declared_as_ours_would_be() -> None:
    assert in_our_words(schema("list", "joined<string>")) == schema("list", "string")
    assert in_our_words(schema("map", "nullable<long>", "string")) == schema("map", "long", "string")
    for same in (schema("value", "nullable<long>"), schema("list", "string"), schema("map", "long", "string")):
        assert in_our_words(same) == same
    assert has_flags(schema("map", "nullable<long>", "string"))
    assert not has_flags(schema("map", "long", "string"))
    assert is_clock_timers("_timer_state/processing_user-timers")
    assert not is_clock_timers("_timer_state/event_user-timers")


def test_flags_of_values_go_and_a_null_is_refused() -> None:
    flagged = schema("map", "nullable<string>", "string")
    rows = batch(*(b"\0" + value for value in (b"", b"ab", b"\0\1", b"c")))
    for start, stop in ((0, 4), (1, 3), (2, 2)):  # also of a part of a batch
        (found,) = without_flags(flagged, [rows.slice(start, stop - start)])
        assert found["value"].to_pylist() == [b"", b"ab", b"\0\1", b"c"][start:stop]
        assert found.drop_columns(["value"]) == rows.slice(start, stop - start).drop_columns(["value"])
    with pytest.raises(IncompatibleError, match="holds a null"):
        list(without_flags(flagged, [batch(b"\0x", b"\1")]))
