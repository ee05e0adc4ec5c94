"""Reports: sealed by their own digest, bounded, and strict when read."""

from __future__ import annotations

import msgspec
import pytest

from formats.errors import EoctlError, TooLargeError
from formats.ids import HashAlgorithm
from formats.report import (
    MAX_DAMAGE_BYTES,
    MAX_REPORT_BYTES,
    Damage,
    Report,
    decode_report,
    encode_report,
    fitting,
    parse_report_name,
    report_name,
)

DAMAGE = Damage(digest="a" * 64, name="main/0/x", snapshots=("orders@1",), reason="missing")
REPORT = Report(
    format="eoctl.report",
    version=1,
    store="5" * 32,
    pipeline="orders",
    hash=HashAlgorithm.SHA256,
    created_at="2026-01-31T23:59:59.123Z",
    level="full",
    snapshots=("orders@1",),
    checked_files=1,
    checked_blobs=1,
    checked_bytes=10,
    duration_micros=5,
    damaged_total=1,
    damaged=(DAMAGE,),
)


@pytest.mark.parametrize("algorithm", list(HashAlgorithm))
def test_a_report_is_read_as_it_was_written(algorithm: HashAlgorithm) -> None:
    report = msgspec.structs.replace(REPORT, hash=algorithm)
    read = decode_report(encode_report(report), "report")
    assert msgspec.structs.replace(read, digest=report.digest) == report
    assert not read.good


def test_every_flipped_byte_and_every_cut_is_noticed() -> None:
    data = encode_report(REPORT)
    for position in range(len(data)):
        with pytest.raises(EoctlError):
            decode_report(data[:position], "report")
        with pytest.raises(EoctlError):
            decode_report(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :], "report")


def test_a_report_that_is_too_large_is_not_even_decoded() -> None:
    with pytest.raises(TooLargeError):
        decode_report(b"x" * (MAX_REPORT_BYTES + 1), "report")


def test_more_damage_than_fits_is_cut_and_counted() -> None:
    large = msgspec.structs.replace(DAMAGE, name="x" * 4000)
    kept = fitting([large] * 5000)
    assert 0 < len(kept) < 5000
    report = msgspec.structs.replace(REPORT, damaged=kept, damaged_total=5000)
    data = encode_report(report)
    assert MAX_DAMAGE_BYTES * 0.99 < len(data) < MAX_REPORT_BYTES
    assert decode_report(data, "report").damaged_total == 5000


def test_names_sort_by_time_and_can_be_taken_apart() -> None:
    first = report_name("2026-01-31T23:59:59.123Z", "drill")
    again = report_name("2026-01-31T23:59:59.123Z", "drill", 2)
    later = report_name("2026-02-01T00:00:00.000Z", "quick")
    assert (first, again) == ("20260131T235959.123Z.drill", "20260131T235959.123Z.drill.2")
    assert sorted([later, again, first]) == [first, again, later]
    parsed = parse_report_name(again)
    assert parsed is not None
    assert (parsed.level, parsed.number) == ("drill", 2)
    assert parse_report_name("20260131T235959.123Z.deep") is None
    assert parse_report_name("x") is None
