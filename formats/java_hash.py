"""Java's `hashCode` of values from their bytes: what decides on the key group of a key.

Known are the classes whose hash is specified, or has never changed: String, Long, Integer, Short, Byte, Character,
Boolean, Double, Float, BigInteger, BigDecimal, Date, Timestamp, Instant, LocalDate, LocalTime, LocalDateTime, and
Flink's tuples of these. A POJO's is written by its author, an enum's is another in every process, those of rows and
collections depend on a class that their bytes do not tell.

Source: Java, `hashCode` of these classes; Flink, `TupleN.hashCode`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal

from formats.datatype import DataType, EnumOf, RecordOf, Simple, TupleOf, describe
from formats.errors import CorruptError
from formats.keygroups import java_string_hash
from formats.types import codec, decode

Hasher = Callable[[bytes], int]  # of the bytes of one value; the result has 32 bits, in whatever sign

_MASK = (1 << 32) - 1
_NAN = {">d": 0x7FF8000000000000, ">f": 0x7FC00000}


def unhashable(data_type: DataType) -> str | None:
    """Why the hash of such values is not known; None: it is."""
    match data_type:
        case Simple(name):
            return None if name in _HASHERS else f"{name} has no hash that is known here"
        case TupleOf(fields):
            return next((reason for field in fields if (reason := unhashable(field)) is not None), None)
        case RecordOf(class_name):
            return f"only the class {class_name} knows its hashCode"
        case EnumOf(class_name):
            return f"the hashCode of the enum {class_name} is another in every process"
    return f"the hashCode of {describe(data_type)[:60]} is not known here"


def hasher(data_type: DataType) -> Hasher:
    """The hash of values that are not `unhashable`. It raises: CorruptError."""
    if isinstance(data_type, TupleOf):
        return _of_tuple(data_type)
    assert isinstance(data_type, Simple)
    hashed = _HASHERS[data_type.name]

    def checked(data: bytes) -> int:
        return 0 if decode(data_type, data) is None else hashed(data)

    return checked


def _of_tuple(data_type: TupleOf) -> Hasher:
    """31 times the hash of the fields before, plus that of the field."""
    fields = [(codec(field).skip, hasher(field)) for field in data_type.fields]

    def hashed(data: bytes) -> int:
        found = at = 0
        for skip, of_field in fields:
            end = skip(data, at)
            found = 31 * found + of_field(data[at:end]) & _MASK
            at = end
        if at != len(data):
            raise CorruptError(
                f"{len(data) - at} bytes are left after a {describe(data_type)}, at byte {at}", offset=at
            )
        return found

    return hashed


def _string(data: bytes) -> int:
    return java_string_hash(str(decode(Simple("string"), data)))


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _integer(data: bytes) -> int:
    return _signed(data) & _MASK


def _folded(data: bytes) -> int:
    """Both halves of a long as one."""
    bits = int.from_bytes(data[:8], "big")
    return (bits ^ bits >> 32) & _MASK


def _bits(form: str) -> Hasher:
    """The bits of a number as Java's `doubleToLongBits` gives them, folded: every NaN alike."""

    def hashed(data: bytes) -> int:
        (value,) = struct.unpack(form, data)
        bits = _NAN[form] if value != value else int.from_bytes(data, "big")  # noqa: PLR0124  (NaN, and nothing else)
        return (bits ^ bits >> 32) & _MASK

    return hashed


def _big(number: int) -> int:
    """Of the words of its magnitude, from the highest on."""
    found, magnitude = 0, abs(number)
    for shift in reversed(range(0, magnitude.bit_length(), 32)):
        found = 31 * found + (magnitude >> shift & _MASK) & _MASK
    return -found & _MASK if number < 0 else found


def _big_integer(data: bytes) -> int:
    number = decode(Simple("big-int"), data)
    assert isinstance(number, int)
    return _big(number)


def _big_decimal(data: bytes) -> int:
    number = decode(Simple("big-decimal"), data)
    assert isinstance(number, Decimal)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits)))
    return 31 * _big(-unscaled if sign else unscaled) - exponent & _MASK


def _instant(data: bytes) -> int:
    return _folded(data) + 51 * _integer(data[8:]) & _MASK


def _local_date(data: bytes) -> int:
    year = _signed(data[:4])
    return (year & 0xFFFFF800 ^ (year << 11) + (data[4] << 6) + data[5]) & _MASK


def _local_time(data: bytes) -> int:
    bits = ((data[0] * 60 + data[1]) * 60 + data[2]) * 10**9 + _signed(data[3:])
    return (bits ^ bits >> 32) & _MASK


def _local_date_time(data: bytes) -> int:
    return _local_date(data[:6]) ^ _local_time(data[6:])


_HASHERS: dict[str, Hasher] = {
    "string": _string,
    "long": _folded,
    "int": _integer,
    "short": _integer,
    "byte": _integer,
    "char": lambda data: int.from_bytes(data, "big"),
    "boolean": lambda data: 1231 if data != b"\0" else 1237,
    "double": _bits(">d"),
    "float": _bits(">f"),
    "big-int": _big_integer,
    "big-decimal": _big_decimal,
    "date": _folded,
    "timestamp": _folded,
    "instant": _instant,
    "local-date": _local_date,
    "local-time": _local_time,
    "local-date-time": _local_date_time,
}
