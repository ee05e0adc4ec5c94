"""The types that hold others: how each is read, written and skipped. Their bytes are told in `formats/types.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence

from formats.errors import CorruptError, UnsupportedError
from formats.types_simple import SIMPLE, Codec, mistyped, read_count, short

_COMMA = 0x2C
_SIGN = 1 << 63
_u64 = struct.Struct(">Q")
_i32 = struct.Struct(">i")
_flag = SIMPLE["boolean"]


def opaque_codec(class_name: str) -> Codec:
    """All bytes up to the end, as they are."""

    def write(value: object, out: bytearray) -> None:
        if not isinstance(value, bytes):
            raise mistyped(value, f"opaque<{class_name}>")
        out += value

    return Codec(lambda data, at: (data[at:], len(data)), write, lambda data, _: len(data), 0, None, class_name)


def list_codec(element: Codec) -> Codec:
    element = closed(element)

    def read(data: bytes, at: int) -> tuple[object, int]:
        count, at = read_count(data, at, element.least)
        found = []
        for _ in range(count):
            value, at = element.read(data, at)
            found.append(value)
        return found, at

    def write(value: object, out: bytearray) -> None:
        values = _sequence(value, "list")
        out += _i32.pack(len(values))
        for each in values:
            element.write(each, out)

    def skip(data: bytes, at: int) -> int:
        count, at = read_count(data, at, element.least)
        if element.width is not None:
            return at + count * element.width
        for _ in range(count):
            at = element.skip(data, at)
        return at

    return Codec(read, write, skip, 4)


def joined_codec(element: Codec) -> Codec:
    """Elements with a comma between; the end of the bytes is the end of the list."""
    element = closed(element)

    def read(data: bytes, at: int) -> tuple[object, int]:
        found: list[object] = []
        while at < len(data):
            if found:
                if data[at] != _COMMA:
                    raise CorruptError(f"no comma between two elements, at byte {at}", offset=at)
                at += 1
            value, at = element.read(data, at)
            found.append(value)
        return found, at

    def write(value: object, out: bytearray) -> None:
        for place, each in enumerate(_sequence(value, "joined")):
            if place:
                out.append(_COMMA)
            element.write(each, out)

    return Codec(read, write, lambda data, _: len(data), 0, None, "a joined list")


def map_codec(key: Codec, value: Codec) -> Codec:
    key, item = closed(key), nullable_codec(closed(value), 0)
    least = key.least + 1

    def read(data: bytes, at: int) -> tuple[object, int]:
        start = at
        count, at = read_count(data, at, least)
        found: dict[object, object] = {}
        for _ in range(count):
            name, at = key.read(data, at)
            found[_frozen(name)], at = item.read(data, at)
        if len(found) != count:
            raise CorruptError(f"a map has a key twice, at byte {start}", offset=start)
        return found, at

    def write(value: object, out: bytearray) -> None:
        if not isinstance(value, dict):
            raise mistyped(value, "map")
        out += _i32.pack(len(value))
        for name, each in value.items():
            key.write(name, out)
            item.write(each, out)

    def skip(data: bytes, at: int) -> int:
        count, at = read_count(data, at, least)
        for _ in range(count):
            at = item.skip(data, key.skip(data, at))
        return at

    return Codec(read, write, skip, 4)


def tuple_codec(fields: Sequence[Codec]) -> Codec:
    fields = (*map(closed, fields[:-1]), fields[-1])
    widths = [field.width for field in fields]

    def read(data: bytes, at: int) -> tuple[object, int]:
        found = []
        for field in fields:
            value, at = field.read(data, at)
            found.append(value)
        return tuple(found), at

    def write(value: object, out: bytearray) -> None:
        values = _sequence(value, "tuple")
        if len(values) != len(fields):
            raise mistyped(value, f"tuple of {len(fields)}")
        for field, each in zip(fields, values, strict=True):
            field.write(each, out)

    known = [width for width in widths if width is not None]
    width = sum(known) if len(known) == len(widths) else None
    return Codec(read, write, _skip_all(fields), sum(field.least for field in fields), width, fields[-1].open)


def timer_codec(key: Codec, namespace: Codec) -> Codec:
    """As a tuple whose first field sorts as bytes as it does as a number."""
    time = Codec(_read_time, _write_time, SIMPLE["long"].skip, 8, 8)
    return tuple_codec((time, key, namespace))


def _read_time(data: bytes, at: int) -> tuple[object, int]:
    if at + 8 > len(data):
        raise short(data, at, 8)
    return _u64.unpack_from(data, at)[0] - _SIGN, at + 8


def _write_time(value: object, out: bytearray) -> None:
    if not isinstance(value, int) or not -_SIGN <= value < _SIGN:
        raise mistyped(value, "timer")
    out += _u64.pack(value + _SIGN)


def nullable_codec(element: Codec, padding: int) -> Codec:
    def read(data: bytes, at: int) -> tuple[object, int]:
        null, at = _flag.read(data, at)
        if not null:
            return element.read(data, at)
        if at + padding > len(data):
            raise short(data, at, padding)
        return None, at + padding

    def write(value: object, out: bytearray) -> None:
        if value is None:
            out += b"\1" + bytes(padding)
        else:
            out.append(0)
            element.write(value, out)

    def skip(data: bytes, at: int) -> int:
        null, after = _flag.read(data, at)
        return element.skip(data, after) if not null else read(data, at)[1]

    width = padding + 1 if element.width == padding and padding else None
    return Codec(read, write, skip, 1, width, element.open)


def either_codec(left: Codec, right: Codec) -> Codec:
    """As the value that it holds, in a tuple with which of the two it is: `("left", value)`."""
    sides = ((True, left), (False, right))

    def side(data: bytes, at: int) -> tuple[bool, Codec, int]:
        is_left, at = _flag.read(data, at)
        return bool(is_left), left if is_left else right, at

    def read(data: bytes, at: int) -> tuple[object, int]:
        is_left, chosen, at = side(data, at)
        value, at = chosen.read(data, at)
        return ("left" if is_left else "right", value), at

    def write(value: object, out: bytearray) -> None:
        name, each = _sequence(value, "either") if isinstance(value, tuple) and len(value) == 2 else (None, None)
        if name not in {"left", "right"}:
            raise mistyped(value, "either")
        is_left, chosen = sides[name == "right"]
        out.append(is_left)
        chosen.write(each, out)

    def skip(data: bytes, at: int) -> int:
        _, chosen, at = side(data, at)
        return chosen.skip(data, at)

    return Codec(read, write, skip, 1 + min(left.least, right.least), None, left.open or right.open)


def enum_codec(names: Sequence[str]) -> Codec:
    number = SIMPLE["int"]

    def read(data: bytes, at: int) -> tuple[object, int]:
        ordinal, after = number.read(data, at)
        assert isinstance(ordinal, int)
        if not 0 <= ordinal < len(names):
            raise CorruptError(f"an enum of {len(names)} names has no number {ordinal}, at byte {at}", offset=at)
        return names[ordinal], after

    def write(value: object, out: bytearray) -> None:
        if value not in names:
            raise mistyped(value, "enum")
        number.write(names.index(str(value)), out)

    return Codec(read, write, number.skip, 4, 4)


def closed(codec: Codec) -> Codec:
    """The codec, unless only the end of the bytes ends its values, and more has to come."""
    if not codec.open:
        return codec

    def refuse(_: bytes, at: int) -> tuple[object, int]:
        raise UnsupportedError(f"where a value of {codec.open} ends is not known, at byte {at}", offset=at)

    return Codec(refuse, codec.write, lambda data, at: refuse(data, at)[1], 1)


def _skip_all(fields: Iterable[Codec]) -> Callable[[bytes, int], int]:
    skips = [field.skip for field in fields]

    def skip(data: bytes, at: int) -> int:
        for each in skips:
            at = each(data, at)
        return at

    return skip


def _sequence(value: object, name: str) -> list[object] | tuple[object, ...]:
    if not isinstance(value, list | tuple):
        raise mistyped(value, name)
    return value


def _frozen(value: object) -> object:
    """A key that a dict can hold: lists and dicts inside become tuples."""
    if isinstance(value, dict):
        return tuple((name, _frozen(each)) for name, each in value.items())
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
