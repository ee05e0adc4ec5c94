"""Dates and times, between their bytes and ISO 8601 text. Their bytes are told in `formats/types.py`.

The calendar is Java's: the Gregorian one, reaching back before 1582 and beyond the year 9999, where a year has a sign.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from formats.errors import CorruptError
from formats.types_simple import Codec, fixed, mistyped, short

_NANOS = 1_000_000_000
_DAY_SECONDS = 86_400
_ERA_DAYS = 146_097  # 400 years
_EPOCH_DAY = 719_468  # from 0000-03-01 to 1970-01-01
_MAX_YEAR = 1_000_000_000
_MIN_LONG = -(1 << 63)
_MIN_INT = -(1 << 31)
_date = re.compile(r"([+-]?\d{4,10})-(\d\d)-(\d\d)")
_time = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?")


def _codec(
    name: str, layout: str, null: bytes, show: Callable[..., str], take: Callable[[str], tuple[int, ...]]
) -> Codec:
    """Values of one layout; `show` and `take` raise ValueError where there is no such time."""
    parts = struct.Struct(layout)
    size = parts.size

    def read(data: bytes, at: int) -> tuple[object, int]:
        if at + size > len(data):
            raise short(data, at, size)
        if data.startswith(null, at):
            return None, at + size
        try:
            return show(*parts.unpack_from(data, at)), at + size
        except ValueError:
            raise CorruptError(f"there is no such {name}, at byte {at}", offset=at) from None

    def write(value: object, out: bytearray) -> None:
        if value is None:
            out += null.ljust(size, b"\0")
            return
        try:
            if not isinstance(value, str):
                raise mistyped(value, name)
            out += parts.pack(*take(value))
        except (ValueError, struct.error):
            raise mistyped(value, name) from None

    return fixed(read, write, size)


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01. Raises: ValueError."""
    if not (1 <= month <= 12 and 1 <= day <= _month_days(year, month) and -_MAX_YEAR <= year <= _MAX_YEAR):
        raise ValueError
    shifted = year - (month <= 2)  # the year begins in March, so that the leap day is its last
    era, year_of_era = divmod(shifted, 400)
    day_of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * _ERA_DAYS + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - _EPOCH_DAY


def _civil(days: int) -> tuple[int, int, int]:
    """The reverse of `_days`."""
    era, day_of_era = divmod(days + _EPOCH_DAY, _ERA_DAYS)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    return era * 400 + year_of_era + (month <= 2), month, day


def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def _show_date(year: int, month: int, day: int) -> str:
    _days(year, month, day)
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+05d}"
    return f"{shown}-{month:02d}-{day:02d}"


def _show_time(hour: int, minute: int, second: int, nanos: int) -> str:
    if not (0 <= hour < 24 and 0 <= minute < 60 and 0 <= second < 60 and 0 <= nanos < _NANOS):
        raise ValueError
    shown = f"{hour:02d}:{minute:02d}:{second:02d}"
    if nanos == 0:
        return shown
    digits = f"{nanos:09d}"
    return f"{shown}.{digits[:3] if digits.endswith('000000') else digits[:6] if digits.endswith('000') else digits}"


def _show_instant(seconds: int, nanos: int) -> str:
    days, of_day = divmod(seconds, _DAY_SECONDS)
    minutes, second = divmod(of_day, 60)
    return f"{_show_date(*_civil(days))}T{_show_time(*divmod(minutes, 60), second, nanos)}Z"


def _show_millis(millis: int) -> str:
    seconds, rest = divmod(millis, 1000)
    return _show_instant(seconds, rest * 1_000_000)


def _show_timestamp(millis: int, nanos: int) -> str:
    return _show_instant(millis // 1000, nanos)


def _show_date_time(*parts: int) -> str:
    return f"{_show_date(*parts[:3])}T{_show_time(*parts[3:])}"


def _take_date(text: str) -> tuple[int, ...]:
    match = _date.fullmatch(text)
    if match is None:
        raise ValueError
    year, month, day = (int(part) for part in match.groups())
    _days(year, month, day)
    return year, month, day


def _take_time(text: str) -> tuple[int, ...]:
    match = _time.fullmatch(text)
    if match is None:
        raise ValueError
    hour, minute, second = (int(part) for part in match.groups()[:3])
    nanos = int((match[4] or "").ljust(9, "0"))
    _show_time(hour, minute, second, nanos)
    return hour, minute, second, nanos


def _take_date_time(text: str) -> tuple[int, ...]:
    date, _, time = text.partition("T")
    return _take_date(date) + _take_time(time)


def _take_instant(text: str) -> tuple[int, ...]:
    if not text.endswith("Z"):
        raise ValueError
    year, month, day, hour, minute, second, nanos = _take_date_time(text[:-1])
    return _days(year, month, day) * _DAY_SECONDS + hour * 3600 + minute * 60 + second, nanos


def _take_millis(text: str) -> tuple[int, ...]:
    seconds, nanos = _take_instant(text)
    if nanos % 1_000_000:
        raise ValueError
    return (seconds * 1000 + nanos // 1_000_000,)


def _take_timestamp(text: str) -> tuple[int, ...]:
    seconds, nanos = _take_instant(text)
    return seconds * 1000 + nanos // 1_000_000, nanos


_null_long = struct.pack(">q", _MIN_LONG)
_null_int = struct.pack(">i", _MIN_INT)
_null_date = _null_int + b"\x80\0"
_null_time = b"\x80\x80\0" + _null_int

TIMES: dict[str, Codec] = {
    "instant": _codec("instant", ">qi", _null_long + _null_int, _show_instant, _take_instant),
    "date": _codec("date", ">q", _null_long, _show_millis, _take_millis),
    "timestamp": _codec("timestamp", ">qi", _null_long, _show_timestamp, _take_timestamp),
    "local-date": _codec("local-date", ">ibb", _null_date, _show_date, _take_date),
    "local-time": _codec("local-time", ">bbbi", _null_time, _show_time, _take_time),
    "local-date-time": _codec("local-date-time", ">ibbbbbi", _null_date + _null_time, _show_date_time, _take_date_time),
}
