"""Typed columns beside raw ones: what people query. Whole columns at a time where the type allows.

A column `typed_X` stands beside `X` where the type of X is known and nothing in it is opaque. It is made from the raw
bytes, never read back. Numbers, booleans, strings of ASCII and time windows are made without a loop over rows.

A value that cannot be shown, as one of a class that nobody told or text that is no Unicode, is null, and counted. A
POJO of which there are subclasses has the fields of all, and `$class`: the name of the subclass, null where it is none.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from formats.datatype import (
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
    is_known,
    parse,
)
from formats.errors import CorruptError, UnsupportedError
from formats.state import StateSchema, row_schema
from formats.types import decode

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX = "typed_"
CLASS = "$class"
_SHORT = 128
_NUMBERS = {"long": "q", "int": "i", "short": "h", "byte": "b", "double": "d", "float": "f"}
_TEXT = {
    "char",
    "big-int",
    "big-decimal",
    "instant",
    "date",
    "timestamp",
    "local-date",
    "local-time",
    "local-date-time",
}

Decoder = Callable[["pa.Array"], "pa.Array"]


def arrow_type(data_type: DataType) -> pa.DataType:
    """How a column of this type is kept: numbers and text as such, all else by its parts."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    simple = {"string": pa.string(), "boolean": pa.bool_(), "bytes": pa.binary(), "void": pa.null()}
    simple |= {"long": pa.int64(), "int": pa.int32(), "short": pa.int16(), "byte": pa.int8()}
    simple |= {"double": pa.float64(), "float": pa.float32()} | dict.fromkeys(_TEXT, pa.string())
    match data_type:
        case Simple("time-window"):
            return pa.struct([("start", pa.int64()), ("end", pa.int64())])
        case Simple(name):
            return simple[name]
        case ListOf(element) | JoinedOf(element):
            return pa.list_(arrow_type(element))
        case NullableOf(element):
            return arrow_type(element)
        case EnumOf() | Opaque() | EitherOf():
            return pa.string() if isinstance(data_type, EnumOf) else pa.binary()
        case MapOf(key, value):
            return pa.list_(pa.struct([("key", arrow_type(key)), ("value", arrow_type(value))]))
        case TupleOf(fields):
            return pa.struct([(f"f{place}", arrow_type(field)) for place, field in enumerate(fields)])
        case RecordOf() | RowOf():
            return pa.struct([(name, arrow_type(field)) for name, field in _fields(data_type)])
        case TimerOf(key, namespace):
            parts = [("time", pa.int64()), ("key", arrow_type(key)), ("namespace", arrow_type(namespace))]
            return pa.struct(parts)


def _fields(data_type: RecordOf | RowOf) -> list[tuple[str, DataType]]:
    """The fields of a row or a POJO and its subclasses, each once; a name stands twice where it has two types."""
    fields = list(data_type.fields)
    if isinstance(data_type, RecordOf) and (subclasses := (*data_type.registered, *data_type.others)):
        fields.append((CLASS, Simple("string")))
        fields += [field for one in subclasses if isinstance(one, RecordOf) for field in _fields(one)]
    return list(dict.fromkeys(fields))


class Unshown(Struct):
    """Values that have no typed one, and why the first has none."""

    count: int = 0
    reason: str = ""

    def add(self, reason: str) -> None:
        self.count += 1
        self.reason = self.reason or reason


class TypedColumns:
    """What stands beside the rows of a state."""

    def __init__(self, schema: StateSchema) -> None:
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        texts = {"key": schema.key, "namespace": schema.namespace, "map_key": schema.map_key, "value": schema.value}
        types = {name: parse(text) for name, text in texts.items() if text and text != "void"}
        self._types = {name: found for name, found in types.items() if is_known(found) and _is_plain(found)}
        typed = [pa.field(f"{PREFIX}{name}", arrow_type(found)) for name, found in self._types.items()]
        if schema.kind == "timer":
            typed.append(pa.field(f"{PREFIX}time", pa.int64()))
        self._timer = schema.kind == "timer"
        self._name = schema.name
        self._unshown = Unshown()
        self.schema = pa.schema([*row_schema(), *typed])

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with the typed columns. Raises: CorruptError where bytes are not of their type."""
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        typed = [decode_column(found, batch.column(name), self._unshown) for name, found in self._types.items()]
        if self._timer:
            times = _numbers(batch.column("map_key"), "q")
            import pyarrow.compute as pc  # noqa: PLC0415

            typed.append(pc.bit_wise_xor(times, pa.scalar(-(1 << 63), pa.int64())))
        return pa.record_batch([*batch.columns, *typed], schema=self.schema)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not shown so far."""
        found = self._unshown
        if not found.count:
            return ()
        many = "1 value is" if found.count == 1 else f"{found.count:,} values are"
        return (f"{self._name}: {many} bytes only, and null in the typed column: {found.reason}",)


def decode_column(data_type: DataType, column: pa.Array, unshown: Unshown | None = None) -> pa.Array:
    """The values of a column of raw bytes; null where the bytes are, or cannot be shown. Raises: CorruptError."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    if isinstance(data_type, Simple) and not column.null_count:
        if code := _NUMBERS.get(data_type.name):
            return _numbers(column, code)
        if data_type.name == "boolean":
            return pc.not_equal(_numbers(column, "b"), 0)
        if data_type.name == "time-window":
            ends = [_numbers(pc.binary_slice(column, at, at + 8), "q") for at in (0, 8)]
            _check_width(column, 16)
            return pa.StructArray.from_arrays(ends, fields=list(arrow_type(data_type)))
        if data_type.name == "string" and (plain := _ascii(column)) is not None:
            return plain
    unshown = Unshown() if unshown is None else unshown
    to_plain = _plainly(data_type)
    values: list[object] = []
    for raw in column.to_pylist():
        try:
            values.append(None if raw is None else to_plain(decode(data_type, raw)))
        except UnsupportedError as error:
            unshown.add(error.message)
            values.append(None)
    try:
        return _array(values, arrow_type(data_type), unshown)
    except pa.ArrowException as error:
        raise CorruptError(f"a value that its type cannot hold: {str(error)[:200]}") from error


def _array(values: list[object], arrow: pa.DataType, unshown: Unshown) -> pa.Array:
    """The values as a column; null where a text is half a pair of surrogates, which Java's strings can hold."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    try:
        return pa.array(values, arrow)
    except UnicodeEncodeError as error:
        if len(values) == 1:
            unshown.add(f"text that is no Unicode: {error.reason}")
            return pa.nulls(1, arrow)
    half = len(values) // 2
    return pa.concat_arrays([_array(values[:half], arrow, unshown), _array(values[half:], arrow, unshown)])


def _numbers(column: pa.Array, code: str) -> pa.Array:
    """Big-endian numbers of one width as a column; the bytes are turned, all at once."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    numbers = array(code)
    _check_width(column, numbers.itemsize)
    numbers.frombytes(_bytes_of(column))
    if sys.byteorder == "little":
        numbers.byteswap()
    types = {"q": pa.int64(), "i": pa.int32(), "h": pa.int16(), "b": pa.int8(), "d": pa.float64(), "f": pa.float32()}
    return pa.Array.from_buffers(types[code], len(column), [None, pa.py_buffer(numbers)])


def _check_width(column: pa.Array, width: int) -> None:
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    lengths = pc.min_max(pc.binary_length(column)).as_py()
    if len(column) and (column.null_count or set(lengths.values()) != {width}):
        found = next((value for value in column.to_pylist() if value is None or len(value) != width), None)
        raise CorruptError(f"a value of {len(found or b'')} bytes, not {width}", offset=0)


def _bytes_of(column: pa.Array) -> memoryview:
    """The bytes of all values, end to end."""
    offsets, data = column.buffers()[1:]
    if data is None:
        return memoryview(b"")
    view = memoryview(offsets).cast("i")
    start, stop = view[column.offset], view[column.offset + len(column)]
    return memoryview(data)[start:stop]


def _ascii(column: pa.Array) -> pa.Array | None:
    """The strings, where each is of ASCII and shorter than 127: a byte of length + 1, then as many characters."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    if not len(column) or not bytes(_bytes_of(column)).isascii():
        return None
    lengths = pc.binary_length(column)
    if pc.min(lengths).as_py() < 1:
        return None
    firsts = _bytes_of(pc.binary_slice(column, 0, 1))
    told = pa.Array.from_buffers(pa.uint8(), len(column), [None, pa.py_buffer(bytes(firsts))])
    if not pc.all(pc.equal(pc.cast(told, pa.int32()), lengths)).as_py():
        return None
    return pc.cast(pc.binary_slice(column, 1, _SHORT), pa.string())  # without a stop Arrow fails on empty strings


def _is_plain(data_type: DataType) -> bool:
    """Arrow can hold it: no two fields of one name, nothing of two kinds."""
    match data_type:
        case EitherOf():
            return False
        case RecordOf() | RowOf():
            fields = _fields(data_type)
            names = [name for name, _ in fields]
            return bool(names) and len(set(names)) == len(names) and all(_is_plain(field) for _, field in fields)
        case ListOf(element) | JoinedOf(element) | NullableOf(element):
            return _is_plain(element)
        case MapOf(one, other) | TimerOf(one, other):
            return _is_plain(one) and _is_plain(other)
        case TupleOf(fields):
            return all(map(_is_plain, fields))
    return True


def _plainly(data_type: DataType) -> Callable[[Any], Any]:
    """From what `decode` gives to what Arrow takes."""
    match data_type:
        case ListOf(element) | JoinedOf(element):
            inner = _plainly(element)
            return lambda value: None if value is None else [inner(one) for one in value]
        case NullableOf(element):
            inner = _plainly(element)
            return lambda value: None if value is None else inner(value)
        case MapOf(key, value):
            of_key, of_value = _plainly(key), _plainly(value)
            return lambda found: (
                None
                if found is None
                else [
                    {"key": of_key(one), "value": None if other is None else of_value(other)}
                    for one, other in found.items()
                ]
            )
        case TupleOf(fields):
            inners = [_plainly(field) for field in fields]
            return lambda value: (
                None
                if value is None
                else {f"f{at}": inner(one) for at, (inner, one) in enumerate(zip(inners, value, strict=True))}
            )
        case RecordOf() | RowOf():
            named = {name: _plainly(field) for name, field in _fields(data_type)}
            return lambda value: (
                None
                if value is None
                else {name: None if one is None else named[name](one) for name, one in value.items() if name in named}
            )
        case Simple("time-window"):
            return lambda value: {"start": value[0], "end": value[1]}
        case TimerOf(key, namespace):
            of_key, of_namespace = _plainly(key), _plainly(namespace)
            return lambda value: {"time": value[0], "key": of_key(value[1]), "namespace": of_namespace(value[2])}
        case Simple(name) if name in _TEXT:
            return lambda value: None if value is None else str(value)
    return lambda value: value
