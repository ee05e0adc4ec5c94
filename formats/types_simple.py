"""The types without parameters: how each is read, written and skipped. Their bytes are told in `formats/types.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

from formats.errors import CorruptError, InvalidInputError, UnsupportedError

MAX_NUMBER_BYTES = 1700  # of a big-int: what Python turns into text by default

_HIGH = 0x80
_i32 = struct.Struct(">i")


class Codec(NamedTuple):
    """How values of a type are read at a place (with the place after it), appended, and passed over.

    `least`: the fewest bytes a value has; `width`: the bytes each has, None where they differ; `open`: what it is
    whose values only the end of the bytes ends.
    """

    read: Callable[[bytes, int], tuple[object, int]]
    write: Callable[[object, bytearray], None]
    skip: Callable[[bytes, int], int]
    least: int
    width: int | None = None
    open: str = ""


def short(data: bytes, at: int, size: int) -> CorruptError:
    left = max(len(data) - at, 0)
    return CorruptError(f"a value needs {size} bytes, {left} are left, at byte {at}", offset=at)


def mistyped(value: object, name: str) -> InvalidInputError:
    return InvalidInputError(f"not a value of type {name}: {repr(value)[:100]}")


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits to a byte, the low ones first; at most 35 bits."""
    value = 0
    for place in range(5):
        if at + place >= len(data):
            raise short(data, at, place + 1)
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < _HIGH:
            return value, at + place + 1
    raise CorruptError(f"a length of more than 35 bits, at byte {at}", offset=at)


def packed(name: str, layout: str, kind: type | tuple[type, ...]) -> Codec:
    """A number of fixed width."""
    parts = struct.Struct(layout)
    size = parts.size

    def read(data: bytes, at: int) -> tuple[object, int]:
        try:
            return parts.unpack_from(data, at)[0], at + size
        except struct.error:
            raise short(data, at, size) from None

    def write(value: object, out: bytearray) -> None:
        if not isinstance(value, kind) or isinstance(value, bool):
            raise mistyped(value, name)
        try:
            out += parts.pack(value)
        except (struct.error, OverflowError):
            raise mistyped(value, name) from None

    return fixed(read, write, size)


def fixed(
    read: Callable[[bytes, int], tuple[object, int]], write: Callable[[object, bytearray], None], size: int
) -> Codec:
    """A codec of values that all have `size` bytes."""

    def skip(data: bytes, at: int) -> int:
        if at + size > len(data):
            raise short(data, at, size)
        return at + size

    return Codec(read, write, skip, size, size)


def _read_string(data: bytes, at: int) -> tuple[object, int]:
    size, start = _string_size(data, at)
    if size < 0:
        return None, start
    end = start + size
    chunk = data[start:end]
    if chunk.isascii() and len(chunk) == size:
        return chunk.decode("ascii"), end
    units = bytearray()
    place = start
    for _ in range(size):
        unit, place = varint(data, place)
        if unit >> 16:
            raise CorruptError(f"a character of more than 16 bits, at byte {place}", offset=place)
        units += unit.to_bytes(2, "little")
    return units.decode("utf-16-le", "surrogatepass"), place


def _skip_string(data: bytes, at: int) -> int:
    size, start = _string_size(data, at)
    if size < 0:
        return start
    end = start + size
    chunk = data[start:end]
    if chunk.isascii() and len(chunk) == size:
        return end
    place = start
    for _ in range(size):
        _, place = varint(data, place)
    return place


def _string_size(data: bytes, at: int) -> tuple[int, int]:
    """How many units (-1: null), and where they start."""
    if at < len(data) and data[at] < _HIGH:
        size, start = data[at] - 1, at + 1
    else:
        size, start = varint(data, at)
        size -= 1
    if size > len(data) - start:
        raise short(data, start, size)
    return size, start


def write_varint(value: int, out: bytearray) -> None:
    while value >= _HIGH:
        out.append(value & 0x7F | _HIGH)
        value >>= 7
    out.append(value)


def _write_string(value: object, out: bytearray) -> None:
    if value is None:
        out.append(0)
        return
    if not isinstance(value, str):
        raise mistyped(value, "string")
    if value.isascii():
        write_varint(len(value) + 1, out)
        out += value.encode("ascii")
        return
    units = value.encode("utf-16-le", "surrogatepass")
    write_varint(len(units) // 2 + 1, out)
    for low, high in zip(units[::2], units[1::2], strict=True):
        write_varint(high << 8 | low, out)


def _read_boolean(data: bytes, at: int) -> tuple[object, int]:
    if at >= len(data):
        raise short(data, at, 1)
    if data[at] > 1:
        raise CorruptError(f"a boolean is {data[at]}, neither 0 nor 1, at byte {at}", offset=at)
    return data[at] == 1, at + 1


def _write_boolean(value: object, out: bytearray) -> None:
    if not isinstance(value, bool):
        raise mistyped(value, "boolean")
    out.append(value)


def _read_void(data: bytes, at: int) -> tuple[object, int]:
    if at >= len(data):
        raise short(data, at, 1)
    return None, at + 1


def _write_void(value: object, out: bytearray) -> None:
    if value is not None:
        raise mistyped(value, "void")
    out.append(0)


def _read_char(data: bytes, at: int) -> tuple[object, int]:
    if at + 2 > len(data):
        raise short(data, at, 2)
    return chr(data[at] << 8 | data[at + 1]), at + 2


def _write_char(value: object, out: bytearray) -> None:
    if not isinstance(value, str) or len(value) != 1 or ord(value) >> 16:
        raise mistyped(value, "char")
    out += ord(value).to_bytes(2, "big")


_window = struct.Struct(">qq")


def _read_window(data: bytes, at: int) -> tuple[object, int]:
    try:
        return _window.unpack_from(data, at), at + 16
    except struct.error:
        raise short(data, at, 16) from None


def _write_window(value: object, out: bytearray) -> None:
    try:
        out += _window.pack(*value) if isinstance(value, tuple | list) else _window.pack()
    except struct.error:
        raise mistyped(value, "time-window") from None


def read_count(data: bytes, at: int, least: int) -> tuple[int, int]:
    """An i32 that says how many follow, with room for that many of `least` bytes."""
    if at + 4 > len(data):
        raise short(data, at, 4)
    count: int = _i32.unpack_from(data, at)[0]
    if count < 0 or count * least > len(data) - at - 4:
        raise CorruptError(f"a count of {count}, {len(data) - at - 4} bytes are left, at byte {at}", offset=at)
    return count, at + 4


def _read_bytes(data: bytes, at: int) -> tuple[object, int]:
    size, start = read_count(data, at, 1)
    return data[start : start + size], start + size


def _write_bytes(value: object, out: bytearray) -> None:
    if not isinstance(value, bytes):
        raise mistyped(value, "bytes")
    out += _i32.pack(len(value)) + value


def _skip_bytes(data: bytes, at: int) -> int:
    size, start = read_count(data, at, 1)
    return start + size


_SMALL = (None, 0, 1, 10)


def _read_big_int(data: bytes, at: int) -> tuple[int | None, int]:
    size, start = _big_int_size(data, at)
    if size <= 0:
        return _SMALL[size + 4] if size < 0 else 0, start
    if size > MAX_NUMBER_BYTES:
        raise UnsupportedError(f"a number of {size} bytes (limit {MAX_NUMBER_BYTES}), at byte {at}", offset=at)
    return int.from_bytes(data[start : start + size], "big", signed=True), start + size


def _big_int_size(data: bytes, at: int) -> tuple[int, int]:
    """How many bytes (-4 to -1: one of the small ones), and where they start."""
    if at + 4 > len(data):
        raise short(data, at, 4)
    size: int = _i32.unpack_from(data, at)[0] - 4
    if size < -4 or size == 0 or size > len(data) - at - 4:
        raise CorruptError(f"a number's length does not fit: {size + 4}, at byte {at}", offset=at)
    return size, at + 4


def _skip_big_int(data: bytes, at: int) -> int:
    size, start = _big_int_size(data, at)
    return start + max(size, 0)


def _write_big_int(value: object, out: bytearray) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise mistyped(value, "big-int")
    if value in _SMALL:
        out += _i32.pack(_SMALL.index(value))
        return
    assert isinstance(value, int)
    raw = value.to_bytes((value + (value < 0)).bit_length() // 8 + 1, "big", signed=True)
    out += _i32.pack(len(raw) + 4) + raw


def _read_decimal(data: bytes, at: int) -> tuple[object, int]:
    unscaled, place = _read_big_int(data, at)
    if unscaled is None:
        return None, place
    if place + 4 > len(data):
        raise short(data, place, 4)
    return Decimal(f"{unscaled}E{-_i32.unpack_from(data, place)[0]}"), place + 4


def _skip_decimal(data: bytes, at: int) -> int:
    size, start = _big_int_size(data, at)
    if size == -4:
        return start
    end = start + max(size, 0) + 4
    if end > len(data):
        raise short(data, start, end - start)
    return end


def _write_decimal(value: object, out: bytearray) -> None:
    if value is None:
        _write_big_int(None, out)
        return
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)) or not Decimal(value).is_finite():
        raise mistyped(value, "big-decimal")
    sign, digits, exponent = Decimal(value).as_tuple()
    assert isinstance(exponent, int)
    unscaled = int("".join(map(str, digits)))
    _write_big_int(-unscaled if sign else unscaled, out)
    try:
        out += _i32.pack(-exponent)
    except struct.error:
        raise mistyped(value, "big-decimal") from None


SIMPLE: dict[str, Codec] = {
    "string": Codec(_read_string, _write_string, _skip_string, 1),
    "boolean": fixed(_read_boolean, _write_boolean, 1),
    "byte": packed("byte", ">b", int),
    "short": packed("short", ">h", int),
    "int": packed("int", ">i", int),
    "long": packed("long", ">q", int),
    "float": packed("float", ">f", (int, float)),
    "double": packed("double", ">d", (int, float)),
    "char": fixed(_read_char, _write_char, 2),
    "void": fixed(_read_void, _write_void, 1),
    "time-window": fixed(_read_window, _write_window, 16),
    "bytes": Codec(_read_bytes, _write_bytes, _skip_bytes, 4),
    "big-int": Codec(_read_big_int, _write_big_int, _skip_big_int, 4),
    "big-decimal": Codec(_read_decimal, _write_decimal, _skip_decimal, 4),
}
