"""What bytes mean: values as Flink's standard serializers write them, and the plain Python values they stand for.

Big-endian throughout. Sizes in bytes:

    string         varint n + 1 (0: null), then n UTF-16 units, each a varint of 7 bits to a byte, low ones first
    boolean 1, byte 1, short 2, int 4, long 8, float 4, double 8, char 2, void 1 (zero), time-window 8 + 8 (start, end)
    bytes          i32 n, n bytes
    big-int        i32 0: null, 1, 2, 3: the values 0, 1, 10, else n + 4, then n bytes of two's complement
    big-decimal    big-int, then (unless null) i32 scale
    instant        i64 seconds, i32 nanoseconds            date        i64 milliseconds
    timestamp      i64 milliseconds, i32 nanoseconds of the second
    local-date     i32 year, i8 month, i8 day              local-time  i8 hour, i8 minute, i8 second, i32 nanoseconds
    local-date-time  both                                  (null: the smallest number in the first place)
    list           i32 n, n elements                       joined      elements with a comma between, to the end
    map            i32 n, n times key, flag (1: null), [value]
    tuple          the fields                              timer       i64 time, its sign bit flipped, key, namespace
    nullable       flag (1: null, then padding), [value]   either      flag (0: left), value          enum  i32 number
    pojo           flags (1: null, 2: as declared), fields each with a flag (1: null); or flags 4, utf class name, or
                   flags 8, u8 number of a subclass, then a value of it
    row            bits from the top: two for the kind of change, one per field (1: null); fields that are not null

In Python: str, int, float, bool, bytes, None, Decimal; a list; a dict for map, pojo and row; a tuple for tuple, time
window, timer `(time, key, namespace)` and either `("left", value)`. Times are ISO 8601 text with as many digits of the
second as needed, since Java's reach further than Python's. A row's kind of change, unless an insert, is its item
`$kind`; the subclass of a POJO its item `$class`.

Every length is checked against what is left before anything is made of it; an error says the byte.
Source: Flink 2.3.0, `org.apache.flink.api.common.typeutils.base`, `api.java.typeutils.runtime`; compared with its own
output.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

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
    children,
    describe,
    is_known,
    parse,
)
from formats.errors import CorruptError
from formats.types_nested import (
    either_codec,
    enum_codec,
    joined_codec,
    list_codec,
    map_codec,
    nullable_codec,
    opaque_codec,
    timer_codec,
    tuple_codec,
)
from formats.types_records import pojo_codec, row_codec
from formats.types_simple import SIMPLE, Codec
from formats.types_time import TIMES

__all__ = [
    "Codec",
    "DataType",
    "EitherOf",
    "EnumOf",
    "JoinedOf",
    "ListOf",
    "MapOf",
    "NullableOf",
    "Opaque",
    "RecordOf",
    "RowOf",
    "Simple",
    "TimerOf",
    "TupleOf",
    "children",
    "codec",
    "decode",
    "describe",
    "encode",
    "is_known",
    "parse",
    "skip",
    "width",
]


def decode(data_type: DataType, data: bytes) -> object:
    """The value that all of `data` is. An opaque type's is `data` itself.

    Raises: CorruptError with the byte; UnsupportedError, where something opaque hides what comes after it.
    """
    value, end = codec(data_type).read(data, 0)
    if end != len(data):
        raise CorruptError(f"{len(data) - end} bytes are left after a {describe(data_type)}, at byte {end}", offset=end)
    return value


def encode(data_type: DataType, value: object) -> bytes:
    """The bytes of a value.

    Raises: InvalidInputError, where it is not of this type.
    """
    out = bytearray()
    codec(data_type).write(value, out)
    return bytes(out)


def skip(data_type: DataType, data: bytes, at: int = 0) -> int:
    """The place after the value that starts at `at`.

    Raises: as `decode`.
    """
    return codec(data_type).skip(data, at)


def width(data_type: DataType) -> int | None:
    """How many bytes each value has; None where they differ."""
    return codec(data_type).width


_simple = SIMPLE | TIMES


@cache
def codec(data_type: DataType) -> Codec:
    """How values of this type are read, written and skipped; worth keeping where there are many."""
    match data_type:
        case Simple(name):
            return _simple[name]
        case ListOf(element):
            return list_codec(codec(element))
        case JoinedOf(element):
            return joined_codec(codec(element))
        case MapOf(key, value):
            return map_codec(codec(key), codec(value))
        case TupleOf() | TimerOf():
            parts = [codec(part) for part in children(data_type)]
            return timer_codec(*parts) if isinstance(data_type, TimerOf) else tuple_codec(parts)
        case NullableOf(element, padding):
            return nullable_codec(codec(element), padding)
        case EitherOf(left, right):
            return either_codec(codec(left), codec(right))
        case EnumOf(_, names):
            return enum_codec(names)
        case RowOf(fields, with_kind):
            return row_codec(_named(fields), 2 * with_kind)
        case RecordOf(_, fields, registered, others):
            subclasses = ([(each.class_name, each) for each in some] for some in (registered, others))
            return pojo_codec(_named(fields), *map(_named, subclasses))
        case Opaque(class_name):
            return opaque_codec(class_name)


def _named(types: Iterable[tuple[str, DataType]]) -> tuple[tuple[str, Codec], ...]:
    return tuple((name, codec(data_type)) for name, data_type in types)
