"""State that a job of Flink has saved, as a pipeline of ours has it: the same rows, with another word for their values.

Flink's lists say how elements are joined, as ours are; values of its maps begin with a byte that says whether they are
null, which ours never are. Timers by the clock, which ours do not have, are left behind where that is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from formats.datatype import JoinedOf, NullableOf, describe, parse
from formats.errors import IncompatibleError
from formats.state import StateSchema

if TYPE_CHECKING:
    import pyarrow as pa


_TIMERS = "_timer_state/processing_"


def is_clock_timers(state: str) -> bool:
    """By the name of the state."""
    return state.startswith(_TIMERS)


def in_our_words(schema: StateSchema) -> StateSchema:
    """How a state of ours with these rows is declared."""
    if schema.kind not in {"list", "map"} or not schema.value:
        return schema
    value = parse(schema.value)
    if schema.kind == "list" and isinstance(value, JoinedOf):
        return replace(schema, value=describe(value.element))
    if has_flags(schema) and isinstance(value, NullableOf):
        return replace(schema, value=describe(value.element))
    return schema


def has_flags(schema: StateSchema) -> bool:
    """It is a map of Flink's."""
    if schema.kind != "map" or not schema.value:
        return False
    value = parse(schema.value)
    return isinstance(value, NullableOf) and not value.padding


def without_flags(schema: StateSchema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows of a map of Flink's as ours has them. Raises: IncompatibleError where a value is null."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    for batch in batches:
        if not pc.all(pc.starts_with(batch["value"], b"\0"), min_count=0).as_py():
            raise IncompatibleError(
                f"map {schema.name!r} of Flink's holds a null, which maps of ours do not",
                hint="declare it with a type whose values may be null, or let the job remove these entries",
            )
        place = batch.schema.get_field_index("value")
        yield batch.set_column(place, batch.schema.field(place), pc.binary_replace_slice(batch["value"], 0, 1, b""))
