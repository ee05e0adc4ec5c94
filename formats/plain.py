"""Plain values as bytes: what records and untyped state are made of, where a pipeline names no type of formats/types.

    value  = tag [content]
    tag    = N none | T true | F false | I integer | D double | S text | B bytes | L list | U tuple | M map
           | Z time with its zone | C decimal
    I      = a varint of any length, zigzag: 0, -1, 1, -2 are 0, 1, 2, 3
    D      = 8 bytes, big-endian
    S B    = length (varint), bytes; text is UTF-8
    L U M  = count (varint), then the values; of a map key and value in turn, in the map's own order
    Z C    = as S: ISO 8601, a decimal number

Varints hold seven bits to a byte, the low ones first. Equal values of equal types have equal bytes (maps: in equal
order), so bytes may stand for a key. Nothing here names a class or runs code; depth and lengths are bounded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation

from formats.errors import CorruptError, InvalidInputError

MAX_DEPTH = 64
MAX_INTEGER_BYTES = 4096

_double = struct.Struct(">d")


def encode_plain(value: object) -> bytes:
    """Raises: InvalidInputError where it is no plain value."""
    out = bytearray()
    append_plain(value, out)
    return bytes(out)


def append_plain(value: object, out: bytearray, depth: int = 0) -> None:
    """The value's bytes are at the end of `out`. Raises: InvalidInputError."""
    write = _WRITERS.get(type(value))
    if write is None or depth > MAX_DEPTH:
        what = f"a {type(value).__name__}" if write is None else f"nested more than {MAX_DEPTH} deep"
        message = f"not a plain value: {what}, {repr(value)[:100]}"
        hint = (
            "records and untyped state are None, bool, int, float, str, bytes, list, tuple, dict, datetime or Decimal"
        )
        raise InvalidInputError(message, hint=hint)
    write(value, out, depth)


def decode_plain(data: bytes) -> object:
    """Raises: CorruptError with the byte."""
    value, end = read_plain(data, 0)
    if end != len(data):
        raise _corrupt(f"{len(data) - end} bytes are left", end)
    return value


def read_plain(data: bytes, at: int, depth: int = 0) -> tuple[object, int]:
    """The value at `at`, and the place after it. Raises: CorruptError with the byte."""
    if at >= len(data):
        raise _corrupt("a value is missing", at)
    read = _READERS.get(data[at])
    if read is None or depth > MAX_DEPTH:
        raise _corrupt(f"no such tag: {data[at]}" if read is None else f"nested more than {MAX_DEPTH} deep", at)
    return read(data, at + 1, depth)


def append_varint(number: int, out: bytearray) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number, and the place after it. Raises: CorruptError."""
    number = shift = 0
    for place in range(at, min(len(data), at + MAX_INTEGER_BYTES)):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return number, place + 1
        shift += 7
    raise _corrupt("a number without an end", at)


def _corrupt(reason: str, at: int) -> CorruptError:
    return CorruptError(f"plain value: {reason}, at byte {at}", offset=at)


def _write_sized(tag: int, data: bytes, out: bytearray) -> None:
    out.append(tag)
    append_varint(len(data), out)
    out += data


def _read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_varint(data, at)
    if size > len(data) - at:
        raise _corrupt(f"{size} bytes announced, {len(data) - at} left", at)
    return data[at : at + size], at + size


def _write_constant(tag: int) -> Callable[[object, bytearray, int], None]:
    return lambda _value, out, _depth: out.append(tag)


def _write_boolean(value: object, out: bytearray, _depth: int) -> None:
    out.append(0x54 if value else 0x46)


def _write_integer(value: object, out: bytearray, _depth: int) -> None:
    assert isinstance(value, int)
    out.append(0x49)
    append_varint(value << 1 if value >= 0 else (-value << 1) - 1, out)


def _write_double(value: object, out: bytearray, _depth: int) -> None:
    out.append(0x44)
    out += _double.pack(value)


def _write_text(value: object, out: bytearray, _depth: int) -> None:
    assert isinstance(value, str)
    _write_sized(0x53, value.encode("utf-8", "surrogatepass"), out)


def _write_bytes(value: object, out: bytearray, _depth: int) -> None:
    assert isinstance(value, bytes)
    _write_sized(0x42, value, out)


def _write_time(value: object, out: bytearray, _depth: int) -> None:
    assert isinstance(value, datetime)
    _write_sized(0x5A, value.isoformat().encode(), out)


def _write_decimal(value: object, out: bytearray, _depth: int) -> None:
    _write_sized(0x43, str(value).encode(), out)


def _write_items(tag: int) -> Callable[[object, bytearray, int], None]:
    def write(value: object, out: bytearray, depth: int) -> None:
        assert isinstance(value, list | tuple)
        out.append(tag)
        append_varint(len(value), out)
        for item in value:
            append_plain(item, out, depth + 1)

    return write


def _write_map(value: object, out: bytearray, depth: int) -> None:
    assert isinstance(value, dict)
    out.append(0x4D)
    append_varint(len(value), out)
    for key, item in value.items():
        append_plain(key, out, depth + 1)
        append_plain(item, out, depth + 1)


def _constant(value: object) -> Callable[[bytes, int, int], tuple[object, int]]:
    return lambda _data, at, _depth: (value, at)


def _read_integer(data: bytes, at: int, _depth: int) -> tuple[object, int]:
    number, at = read_varint(data, at)
    return (-((number + 1) >> 1) if number & 1 else number >> 1), at


def _read_double(data: bytes, at: int, _depth: int) -> tuple[object, int]:
    if len(data) - at < _double.size:
        raise _corrupt("a double is cut off", at)
    return _double.unpack_from(data, at)[0], at + _double.size


def _read_bytes(data: bytes, at: int, _depth: int) -> tuple[object, int]:
    return _read_sized(data, at)


def _read_as(make: Callable[[str], object]) -> Callable[[bytes, int, int], tuple[object, int]]:
    def read(data: bytes, at: int, _depth: int) -> tuple[object, int]:
        text, end = _read_sized(data, at)
        try:
            return make(text.decode("utf-8", "surrogatepass")), end
        except (ValueError, InvalidOperation) as error:
            raise _corrupt(f"not what its tag says: {text[:50]!r}", at) from error

    return read


def _read_items(make: Callable[[list[object]], object]) -> Callable[[bytes, int, int], tuple[object, int]]:
    def read(data: bytes, at: int, depth: int) -> tuple[object, int]:
        count, at = read_varint(data, at)
        if count > len(data) - at:
            raise _corrupt(f"{count} values announced, {len(data) - at} bytes left", at)
        items = []
        for _ in range(count):
            item, at = read_plain(data, at, depth + 1)
            items.append(item)
        return make(items), at

    return read


def _read_map(data: bytes, at: int, depth: int) -> tuple[object, int]:
    count, at = read_varint(data, at)
    if 2 * count > len(data) - at:
        raise _corrupt(f"{count} entries announced, {len(data) - at} bytes left", at)
    found: dict[object, object] = {}
    for _ in range(count):
        start = at
        key, at = read_plain(data, at, depth + 1)
        value, at = read_plain(data, at, depth + 1)
        try:
            found[key] = value
        except TypeError as error:
            raise _corrupt("a map's key that cannot be one", start) from error
    return found, at


_WRITERS: dict[type, Callable[[object, bytearray, int], None]] = {
    type(None): _write_constant(0x4E),
    bool: _write_boolean,
    int: _write_integer,
    float: _write_double,
    str: _write_text,
    bytes: _write_bytes,
    list: _write_items(0x4C),
    tuple: _write_items(0x55),
    dict: _write_map,
    datetime: _write_time,
    Decimal: _write_decimal,
}

_READERS: dict[int, Callable[[bytes, int, int], tuple[object, int]]] = {
    0x4E: _constant(None),
    0x54: _constant(value=True),
    0x46: _constant(value=False),
    0x49: _read_integer,
    0x44: _read_double,
    0x53: _read_as(str),
    0x42: _read_bytes,
    0x4C: _read_items(lambda items: items),
    0x55: _read_items(tuple),
    0x4D: _read_map,
    0x5A: _read_as(datetime.fromisoformat),
    0x43: _read_as(Decimal),
}
