"""The cursor over bytes, and the buffer that reverses it."""

from __future__ import annotations

import pytest

from formats.binary import MAX_UTF_BYTES, Buffer, Cursor
from formats.errors import CorruptError, InvalidInputError

_READS = {
    "i8": (1, -1),
    "u8": (1, 255),
    "i16": (2, -1),
    "u16": (2, 65535),
    "i32": (4, -1),
    "u32": (4, 2**32 - 1),
    "i64": (8, -1),
    "u16_le": (2, 65535),
    "u32_le": (4, 2**32 - 1),
    "u64_le": (8, 2**64 - 1),
}


@pytest.mark.parametrize(("read", "size", "value"), [(name, *expected) for name, expected in _READS.items()])
def test_a_number_takes_its_bytes_and_no_fewer(read, size, value):
    cursor = Cursor(b"\xff" * (size + 1))
    assert getattr(cursor, read)() == value
    assert cursor.at == size
    with pytest.raises(CorruptError, match=f"file: it needs {size} bytes, {size - 1} are left, at byte 0") as error:
        getattr(Cursor(b"\xff" * (size - 1), what="file"), read)("it")
    assert error.value.facts == {"offset": 0}


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("", b""),
        ("orders", b"orders"),
        ("a\0b", b"a\xc0\x80b"),
        ("käse €", b"k\xc3\xa4se \xe2\x82\xac"),
        ("\N{GRINNING FACE}", b"\xed\xa0\xbd\xed\xb8\x80"),
    ],
)
def test_utf_is_javas(text, raw):
    written = Buffer()
    written.utf(text)
    assert bytes(written.data) == len(raw).to_bytes(2, "big") + raw
    cursor = Cursor(bytes(written.data))
    assert cursor.utf() == text
    cursor.expect_end()


@pytest.mark.parametrize(
    "raw", [b"\xff", b"a\0", b"\xf0\x9f\x98\x80", b"\xed\xa0\xbd", b"\xc3", b"\xed\xb8\x80\xed\xa0\xbd"]
)
def test_text_that_java_would_not_have_written_is_refused(raw):
    with pytest.raises(CorruptError, match="at byte 2"):
        Cursor(len(raw).to_bytes(2, "big") + raw).utf("a name")


def test_a_text_beyond_what_java_can_write_is_refused():
    Buffer().utf("x" * MAX_UTF_BYTES)
    with pytest.raises(InvalidInputError, match="limit 65535"):
        Buffer().utf("\0" * (MAX_UTF_BYTES // 2 + 1))
    with pytest.raises(InvalidInputError, match="half a character"):
        Buffer().utf("\ud800")


def test_a_length_or_a_count_beyond_what_is_left_is_refused_before_it_is_read():
    for size in (-1, 5, 2**31 - 1):
        data = (size % 2**32).to_bytes(4, "big") + bytes(4)
        with pytest.raises(CorruptError, match="at byte 0"):
            Cursor(data).sized("it")
    with pytest.raises(CorruptError, match="at byte 0"):
        Cursor((2).to_bytes(4, "big") + bytes(15)).count("entries", 8)
    assert Cursor((2).to_bytes(4, "big") + bytes(16)).count("entries", 8) == 2


def test_a_negative_size_a_strange_flag_and_what_is_left_are_told_with_their_byte():
    with pytest.raises(CorruptError, match="is negative: -1, at byte 0"):
        Cursor(b"\xff" * 8).size("the size")
    with pytest.raises(CorruptError, match="is 2, neither 0 nor 1, at byte 0"):
        Cursor(b"\x02").flag()
    with pytest.raises(CorruptError, match="1 bytes are left after it, at byte 0"):
        Cursor(b"\x02").expect_end("it")


def test_a_part_ends_where_it_was_told_and_tells_offsets_of_the_whole():
    whole = Cursor(b"abcdefgh", what="whole")
    whole.raw(2)
    part = whole.part(3)
    assert (part.raw(2), whole.raw(1)) == (b"cd", b"f")
    with pytest.raises(CorruptError, match="whole: a number needs 4 bytes, 1 are left, at byte 4"):
        part.i32()
    with pytest.raises(CorruptError, match="at byte 6"):
        whole.part(3)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_a_varint_comes_back(value):
    written = Buffer()
    written.varint(value)
    cursor = Cursor(bytes(written.data))
    assert cursor.varint() == value
    cursor.expect_end()


@pytest.mark.parametrize("raw", [b"\x80" * 9 + b"\x02", b"\x80" * 10, b"\xff" * 200])
def test_a_varint_of_more_than_64_bits_is_refused(raw):
    with pytest.raises(CorruptError, match="more than 64 bits, at byte 0"):
        Cursor(raw).varint()


def test_everything_written_is_read_back():
    written = Buffer()
    written.i8(-2)
    written.i16(-3)
    written.u16(65535)
    written.i32(-4)
    written.u32(2**32 - 1)
    written.i64(-5)
    written.f32(0.5)
    written.f64(-0.25)
    written.flag(True)
    written.sized(b"xyz")
    written.raw(b"!")
    cursor = Cursor(bytes(written.data))
    assert (cursor.i8(), cursor.i16(), cursor.u16(), cursor.i32(), cursor.u32()) == (-2, -3, 65535, -4, 2**32 - 1)
    assert (cursor.i64(), cursor.f32(), cursor.f64(), cursor.flag()) == (-5, 0.5, -0.25, True)
    assert (cursor.sized(), cursor.raw(1), cursor.left) == (b"xyz", b"!", 0)
