"""Numbers as people read and type them: bytes, ages, durations, times."""

from __future__ import annotations

import re
from datetime import datetime

from formats.errors import UsageError

_KIB = 1024
_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 365 * 86400
_DURATIONS = {"s": 1, "m": _MINUTE, "h": _HOUR, "d": _DAY, "w": 7 * _DAY}
_AGES = (("s", 1, _MINUTE), ("min", _MINUTE, _HOUR), ("h", _HOUR, 2 * _DAY), ("d", _DAY, 2 * _YEAR))
_duration = re.compile(r"([0-9]{1,9})([smhdw])\Z")


def human_bytes(count: int) -> str:
    """`512 B`, `1.5 MiB`; never `1024.0 KiB`."""
    if count < _KIB:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS:
        value /= _KIB
        if value < 1023.95 or unit == _UNITS[-1]:
            return f"{value:.1f} {unit}"
    raise AssertionError


def human_seconds(seconds: float) -> str:
    """`0.04 s`, `12 s`, `3 min`, `2 h`, `5 d`, `3 y`: one unit, rounded down where it is not the smallest."""
    if seconds < 0:
        return f"-{human_seconds(-seconds)}"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return age(seconds)


def age(seconds: float) -> str:
    """As `human_seconds`, in whole units."""
    if seconds < 0:
        return f"-{age(-seconds)}"
    for unit, size, end in _AGES:
        if seconds < end:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // _YEAR)} y"


def timestamp(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time."""
    return datetime.fromisoformat(text).timestamp()


def minute(text: str) -> str:
    """An RFC 3339 UTC time without its seconds: `2026-11-23 08:10`."""
    return f"{text[:10]} {text[11:16]}"


def second(text: str) -> str:
    """An RFC 3339 UTC time to the second: `2026-11-23 08:10:22`."""
    return f"{text[:10]} {text[11:19]}"


def percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "0.0"


def plural(count: int, noun: str) -> str:
    """`1 file`, `2 files`, `1,234 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def parse_duration(text: str, option: str) -> int:
    """Seconds: `45s`, `30m`, `6h`, `7d`, `2w`. Raises: UsageError."""
    match = _duration.match(text)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"bad duration for {option}: {text!r}", hint=f"a number and s, m, h, d or w: {option} 7d")
    return int(match[1]) * _DURATIONS[match[2]]
