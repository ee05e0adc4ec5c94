"""The report of one verification: what was looked at, when, how hard, and what was found damaged.

Canonical JSON. `digest` is that of the record itself, by the store's hash, encoded without this field; so a report
that was cut short or changed shows it. At most 16 MiB: of more damage than fits, the rest is only counted
(`damaged_total`). Reports are derived: no answer but "when was it last checked" depends on them.

A report is stored under `TIME.LEVEL`, or `TIME.LEVEL.N` where that is taken: TIME as `20260131T235959.123Z`, so that
names sort by time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta, Struct

from formats.canonical import MAX_STRING_BYTES, decode, encode
from formats.errors import BadManifestError
from formats.ids import DIGEST_PATTERN, HEX32_PATTERN, MAX_INTEGER, NAME_PATTERN, TIME_PATTERN, HashAlgorithm, is_time

MAX_REPORT_BYTES = 16 << 20
MAX_DAMAGE_BYTES = 12 << 20  # what of it the damage may fill
UNSEALED = "0" * 64

_Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
_Text = Annotated[str, Meta(max_length=MAX_STRING_BYTES)]
_Digest = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
_DigestOrNone = Annotated[str, Meta(pattern=r"^(?:[0-9a-f]{64})?\Z")]  # HEAD has none
_name = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)\.(quick|sample|full|drill)(?:\.(\d{1,6}))?\Z")

LevelName: TypeAlias = Literal["quick", "sample", "full", "drill"]


class Damage(Struct, frozen=True, forbid_unknown_fields=True):
    """One damaged content: its digest, the first of its names, the snapshots that it hurts, and what is wrong."""

    digest: _DigestOrNone
    name: _Text
    snapshots: tuple[_Text, ...]
    reason: _Text


class Report(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One verification. `turn` of `turns`: which part of the blobs a sample read; turns go round."""

    FORMAT: ClassVar[str] = "eoctl.report"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.report"]
    version: Literal[1]
    store: Annotated[str, Meta(pattern=HEX32_PATTERN)]
    pipeline: Annotated[str, Meta(pattern=NAME_PATTERN)]
    hash: HashAlgorithm
    created_at: Annotated[str, Meta(pattern=TIME_PATTERN)]
    level: LevelName
    snapshots: tuple[_Text, ...]
    checked_files: _Count
    checked_blobs: _Count
    checked_bytes: _Count
    duration_micros: _Count
    damaged_total: _Count
    damaged: tuple[Damage, ...]
    digest: _Digest = UNSEALED
    turn: _Count = 0
    turns: _Count = 0

    @property
    def good(self) -> bool:
        return self.damaged_total == 0


class ReportName(NamedTuple):
    """The name of a report, taken apart; sorts by time."""

    time: str
    number: int
    level: str


def encode_report(report: Report) -> bytes:
    """The bytes to store: the report, sealed with its digest."""
    unsealed = msgspec.structs.replace(report, digest=UNSEALED)
    return encode(msgspec.structs.replace(report, digest=report.hash.digest(encode(unsealed))))


def decode_report(data: bytes, what: str) -> Report:
    """Raises: BadManifestError, TooLargeError, UnsupportedError."""
    report = decode(data, Report, what=what, max_bytes=MAX_REPORT_BYTES)
    unsealed = msgspec.structs.replace(report, digest=UNSEALED)
    if report.hash.digest(encode(unsealed)) != report.digest:
        message = f"{what} does not match its digest"
        raise BadManifestError(message)
    if not is_time(report.created_at):
        message = f"{what} is of no time: {report.created_at}"
        raise BadManifestError(message)
    return report


def fitting(damaged: Iterable[Damage]) -> tuple[Damage, ...]:
    """As many of them, from the first, as a report can hold."""
    kept: list[Damage] = []
    left = MAX_DAMAGE_BYTES
    for damage in damaged:
        left -= len(encode(damage)) + 1
        if left < 0:
            break
        kept.append(damage)
    return tuple(kept)


def report_name(created_at: str, level: str, number: int = 0) -> str:
    """What a report of that RFC 3339 time is called; the `number`th of its millisecond and level."""
    time = created_at.replace("-", "").replace(":", "")
    return f"{time}.{level}" + (f".{number}" if number else "")


def parse_report_name(name: str) -> ReportName | None:
    """None where it is not the name of a report."""
    match = _name.match(name)
    return None if match is None else ReportName(match[1], int(match[3] or 0), match[2])
