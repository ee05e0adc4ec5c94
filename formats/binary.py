"""Binary formats, read from front to back: a cursor over bytes, and a buffer that is written the same way.

Integers are big-endian two's complement, as Java writes them; names that end in `_le` are little-endian. Every read is
checked against what is left before anything is allocated, so a length that lies costs nothing. What does not fit is a
CorruptError that says the byte: its `offset` is that of the outermost bytes, in a part that `part` gave too.

`utf` is Java's `DataOutputStream.writeUTF`: u16 length, then modified UTF-8 (NUL as C0 80; above U+FFFF two
surrogates of three bytes each). Source: Java, `java.io.DataInput`.
"""

from __future__ import annotations

import struct

from formats.errors import CorruptError, InvalidInputError

MAX_UTF_BYTES = 65535

_i16 = struct.Struct(">h")
_i32 = struct.Struct(">i")
_i64 = struct.Struct(">q")
_u16 = struct.Struct(">H")
_u32 = struct.Struct(">I")
_f32 = struct.Struct(">f")
_f64 = struct.Struct(">d")
_u16_le = struct.Struct("<H")
_u32_le = struct.Struct("<I")
_u64_le = struct.Struct("<Q")

_FIRST_OF_FOUR = 0xF0  # modified UTF-8 has no sequence of four bytes
_I8 = 128


class Cursor:
    """A place in `data`, `at`, that moves with every read up to `end`. `what` names the bytes in errors."""

    __slots__ = ("at", "data", "end", "what")

    def __init__(self, data: bytes, *, what: str = "data", start: int = 0, end: int | None = None) -> None:
        self.data = data
        self.what = what
        self.at = start
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        return self.end - self.at

    def error(self, reason: str, *, at: int | None = None, hint: str | None = None) -> CorruptError:
        """To be raised: `reason`, with the byte at which it was found."""
        offset = self.at if at is None else at
        return CorruptError(f"{self.what}: {reason}, at byte {offset}", hint=hint, offset=offset)

    def _take(self, size: int, name: str) -> int:
        start = self.at
        if size > self.end - start:
            raise self.error(f"{name} needs {size} bytes, {self.end - start} are left")
        self.at = start + size
        return start

    def i8(self, name: str = "a byte") -> int:
        byte = self.data[self._take(1, name)]
        return byte - 2 * _I8 if byte >= _I8 else byte

    def u8(self, name: str = "a byte") -> int:
        return self.data[self._take(1, name)]

    def i16(self, name: str = "a number") -> int:
        value: int = _i16.unpack_from(self.data, self._take(2, name))[0]
        return value

    def u16(self, name: str = "a number") -> int:
        value: int = _u16.unpack_from(self.data, self._take(2, name))[0]
        return value

    def i32(self, name: str = "a number") -> int:
        value: int = _i32.unpack_from(self.data, self._take(4, name))[0]
        return value

    def u32(self, name: str = "a number") -> int:
        value: int = _u32.unpack_from(self.data, self._take(4, name))[0]
        return value

    def i64(self, name: str = "a number") -> int:
        value: int = _i64.unpack_from(self.data, self._take(8, name))[0]
        return value

    def f32(self, name: str = "a number") -> float:
        value: float = _f32.unpack_from(self.data, self._take(4, name))[0]
        return value

    def f64(self, name: str = "a number") -> float:
        value: float = _f64.unpack_from(self.data, self._take(8, name))[0]
        return value

    def u16_le(self, name: str = "a number") -> int:
        value: int = _u16_le.unpack_from(self.data, self._take(2, name))[0]
        return value

    def u32_le(self, name: str = "a number") -> int:
        value: int = _u32_le.unpack_from(self.data, self._take(4, name))[0]
        return value

    def u64_le(self, name: str = "a number") -> int:
        value: int = _u64_le.unpack_from(self.data, self._take(8, name))[0]
        return value

    def varint(self, name: str = "a number") -> int:
        """Unsigned: seven bits to a byte, the low ones first; at most 64 bits in all."""
        start, value, shift = self.at, 0, 0
        while True:
            byte = self.data[self._take(1, name)]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < _I8 or shift > 63:
                break
        if byte >= _I8 or value >> 64:
            raise self.error(f"{name} has more than 64 bits", at=start)
        return value

    def flag(self, name: str = "a flag") -> bool:
        """One byte, 0 or 1."""
        byte = self.data[self._take(1, name)]
        if byte > 1:
            raise self.error(f"{name} is {byte}, neither 0 nor 1", at=self.at - 1)
        return byte == 1

    def size(self, name: str) -> int:
        """An i64 that is not negative."""
        value = self.i64(name)
        if value < 0:
            raise self.error(f"{name} is negative: {value}", at=self.at - 8)
        return value

    def count(self, name: str, smallest_bytes: int = 1) -> int:
        """An i32 that says how many follow, each of at least `smallest_bytes`: not more than there is room for."""
        value = self.i32(name)
        if value < 0 or value * smallest_bytes > self.end - self.at:
            raise self.error(f"{name} is {value}, with {self.end - self.at} bytes left", at=self.at - 4)
        return value

    def raw(self, size: int, name: str = "data") -> bytes:
        """The next `size` bytes."""
        if size < 0:
            raise self.error(f"{name} has a negative length: {size}")
        start = self._take(size, name)
        return self.data[start : self.at]

    def sized(self, name: str = "data") -> bytes:
        """An i32 length and that many bytes."""
        return self.raw(self.count(f"the length of {name}"), name)

    def utf(self, name: str = "a text") -> str:
        """Raises: CorruptError, for a lone surrogate too."""
        size = self.u16(f"the length of {name}")
        start = self._take(size, name)
        raw = self.data[start : self.at]
        if raw.isascii() and 0 not in raw:
            return raw.decode("ascii")
        try:
            return decode_modified_utf8(raw)
        except ValueError:
            raise self.error(f"{name} is not in modified UTF-8", at=start) from None

    def part(self, size: int, name: str = "data") -> Cursor:
        """A cursor over the next `size` bytes, which this one passes; it tells the same offsets."""
        if size < 0:
            raise self.error(f"{name} has a negative length: {size}")
        start = self._take(size, name)
        return Cursor(self.data, what=self.what, start=start, end=self.at)

    def expect_end(self, name: str = "the data") -> None:
        if self.at != self.end:
            raise self.error(f"{self.end - self.at} bytes are left after {name}")


class Buffer:
    """Bytes as they are written, the reverse of `Cursor`."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def __len__(self) -> int:
        return len(self.data)

    def i8(self, value: int) -> None:
        self.data.append(value & 0xFF)

    def i16(self, value: int) -> None:
        self.data += _i16.pack(value)

    def u16(self, value: int) -> None:
        self.data += _u16.pack(value)

    def i32(self, value: int) -> None:
        self.data += _i32.pack(value)

    def u32(self, value: int) -> None:
        self.data += _u32.pack(value)

    def i64(self, value: int) -> None:
        self.data += _i64.pack(value)

    def f32(self, value: float) -> None:
        self.data += _f32.pack(value)

    def f64(self, value: float) -> None:
        self.data += _f64.pack(value)

    def varint(self, value: int) -> None:
        while value >= _I8:
            self.data.append(value & 0x7F | _I8)
            value >>= 7
        self.data.append(value)

    def flag(self, value: object) -> None:
        self.data.append(1 if value else 0)

    def raw(self, value: bytes) -> None:
        self.data += value

    def sized(self, value: bytes) -> None:
        self.data += _i32.pack(len(value))
        self.data += value

    def utf(self, text: str) -> None:
        """Raises: InvalidInputError, above 65535 bytes."""
        raw = text.encode("ascii") if text.isascii() and "\0" not in text else encode_modified_utf8(text)
        if len(raw) > MAX_UTF_BYTES:
            raise InvalidInputError(f"a text of {len(raw)} bytes (limit {MAX_UTF_BYTES}): {text[:100]!r}")
        self.data += _u16.pack(len(raw))
        self.data += raw


def decode_modified_utf8(raw: bytes) -> str:
    """Only what Java writes, so that it encodes to the same bytes again. Raises: ValueError."""
    if 0 in raw or max(raw, default=0) >= _FIRST_OF_FOUR:
        raise ValueError(raw)
    text = raw.replace(b"\xc0\x80", b"\0").decode("utf-8", "surrogatepass")
    return text.encode("utf-16-be", "surrogatepass").decode("utf-16-be")


def encode_modified_utf8(text: str) -> bytes:
    """Raises: InvalidInputError, for a lone surrogate."""
    try:
        units = text.encode("utf-16-be")
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"a text with half a character: {text[:100]!r}") from error
    if len(units) > 2 * len(text):  # what does not fit one unit is written as the two that it is
        halves = (units[at : at + 2].decode("utf-16-be", "surrogatepass") for at in range(0, len(units), 2))
        text = "".join(halves)
    return text.encode("utf-8", "surrogatepass").replace(b"\0", b"\xc0\x80")
