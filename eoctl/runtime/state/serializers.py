"""Values of state as bytes: by a type of formats/types, as Flink writes them, or as plain values (formats/plain.py)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

from msgspec import Struct

from formats.plain import decode_plain, encode_plain, read_plain
from formats.types import codec, parse

PLAIN = ""  # the type's text where a pipeline names none

_IMMUTABLE = frozenset(
    {"string", "long", "int", "short", "byte", "double", "float", "boolean", "bytes", "time-window", "void"}
)
_long = struct.Struct(">q")


class Serializer(Struct, frozen=True):
    """How values of one type are written and read. `immutable`: a value may be kept as it is."""

    type: str
    encode: Callable[[object], bytes]
    decode: Callable[[bytes], object]
    read: Callable[[bytes, int], tuple[object, int]]
    immutable: bool

    def join(self, values: list[object]) -> bytes:
        """A list as one value: elements one after the other, a comma between, as RocksDB holds list state."""
        return b",".join(map(self.encode, values))

    def split(self, data: bytes) -> list[object]:
        """Raises: CorruptError."""
        values, at = [], 0
        while at < len(data):
            value, at = self.read(data, at)
            values.append(value)
            at += 1
        return values


@cache
def serializer(text: str) -> Serializer:
    """Of the type of that text. Raises: InvalidInputError."""
    if text == PLAIN:
        return Serializer(PLAIN, encode_plain, decode_plain, read_plain, immutable=False)
    found = codec(parse(text))

    def encode(value: object) -> bytes:
        out = bytearray()
        found.write(value, out)
        return bytes(out)

    def encode_string(value: object) -> bytes:
        # ASCII of one length byte is by far the most: the length plus 1, then the characters.
        if isinstance(value, str) and len(value) < 127 and value.isascii():
            return bytes((len(value) + 1,)) + value.encode()
        return encode(value)

    def decode(data: bytes) -> object:
        return found.read(data, 0)[0]

    writers: dict[str, Callable[[object], bytes]] = {"string": encode_string, "long": _long.pack}
    return Serializer(text, writers.get(text, encode), decode, found.read, immutable=text in _IMMUTABLE)
