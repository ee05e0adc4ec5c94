"""store.json, pins, reports and block tables from a hostile or broken hand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eoctl.services.reports import read_reports
from eoctl.services.stats import show_pipeline, store_stats
from eoctl.services.writers import live_writer
from formats.blocktable import MAX_TABLE_BYTES, decode_table, encode_table
from formats.canonical import encode
from formats.errors import BadManifestError, CorruptError, EoctlError, UnsupportedError
from formats.ids import HashAlgorithm
from formats.manifest import TABLE_BLOCKS
from formats.report import Damage, Report, decode_report, encode_report
from storage.pins import SYNC_FAILED
from tests.hostile.case import (
    MISSING,
    NOT_COUNTS,
    NOT_JSON,
    Action,
    Case,
    Raw,
    changed,
    edited,
    just,
    reads,
    spoiled,
    to_json,
)
from tests.hostile.planted import base, opened, plant
from tests.hostile.specimen import PIPELINE
from tests.support.examples import BLOCK_TABLE, PIN, STORE_RECORD

STORE: dict[str, Any] = json.loads(encode(STORE_RECORD))
PIN_PLAIN: dict[str, Any] = json.loads(encode(PIN))
REPORT = Report(
    format="eoctl.report",
    version=1,
    store=base().head.store,
    pipeline=PIPELINE.name,
    hash=HashAlgorithm.BLAKE3,
    created_at="2026-01-01T00:00:00.000Z",
    level="drill",
    snapshots=("orders@3",),
    checked_files=1,
    checked_blobs=1,
    checked_bytes=1,
    duration_micros=1,
    damaged_total=1,
    damaged=(Damage(digest="", name="HEAD", snapshots=(), reason="cut"),),
)
REPORT_PLAIN: dict[str, Any] = json.loads(encode_report(REPORT))

# store.json: the whole store cannot be opened.


def _opens(name: str, data: Callable[[], bytes], expected: type[EoctlError] = CorruptError) -> Case:
    def prepare(box: Path) -> Action:
        root = plant(box, {"store.json": data()})
        return lambda: opened(root)

    return Case(f"store.json: {name}", expected, prepare)


def _stores() -> Iterator[Case]:
    for name, build in NOT_JSON.items():
        yield _opens(name, build)
    for name, data in spoiled(to_json(STORE)).items():
        yield _opens(name, just(data))
    for field in STORE:
        yield _opens(f"without {field}", edited(STORE, ((field,), MISSING)))
    for field, value in {
        "id": "../" * 10 + "xx",
        "hash": "md5",
        "created_at": 7,
        "features": "none",
        "extra": 1,
        "format": "eoctl.head",
    }.items():
        yield _opens(f"{field} = {value}", edited(STORE, ((field,), value)))
    yield _opens("a newer version", edited(STORE, (("version",), 2)), UnsupportedError)
    yield _opens("a feature of later", edited(STORE, (("features",), ["moons"])), UnsupportedError)
    yield _opens("larger than 64 KiB", edited(STORE, (("created_at",), "x" * 70_000)))
    yield _opens("300 MiB of spaces", lambda: b" " * (300 << 20))


# Pins and reports inform: what is wrong with them is passed over.


def _passes_over(name: str, key: str, build: Callable[[], bytes]) -> Case:
    """With this value in it the pipeline is shown, and nobody is said to write or to have verified."""

    def prepare(box: Path) -> Action:
        root = plant(box, {key: build()})

        def look() -> None:
            store = opened(root)
            assert live_writer(store, PIPELINE) is None
            assert show_pipeline(store, PIPELINE).writers == ()
            assert list(read_reports(store, PIPELINE, "drill")) == []
            assert store_stats(store).last_good_drill_age_seconds is None

        return look

    return Case(name, None, prepare)


def _pins() -> Iterator[Case]:
    key = f"p/{PIPELINE}/pin/{'ab' * 16}.1"
    bad = {name: build() for name, build in NOT_JSON.items()} | spoiled(to_json(PIN_PLAIN))
    bad |= {f"era = {name}": to_json(changed(PIN_PLAIN, (("era",), value))) for name, value in NOT_COUNTS.items()}
    bad |= {
        "a host of 65 letters": to_json(changed(PIN_PLAIN, (("host",), "x" * 65))),
        "a note of 257 letters": to_json(changed(PIN_PLAIN, (("note",), "x" * 257))),
        "a newer version": to_json(changed(PIN_PLAIN, (("version",), 2))),
        "more than 64 KiB": b" " * 70_000,
        "a pin of a lost disk": to_json(changed(PIN_PLAIN, (("note",), SYNC_FAILED))),
    }
    for name, data in bad.items():
        yield _passes_over(f"pin: {name}", key, just(data))
    for number in ("9" * 60, "\u0663", "-1", "0", "1.2.3", "../../etc", ""):
        record = to_json(changed(PIN_PLAIN, (("process",), number), (("host",), "c" * 32)))
        yield Case(f"pin: of process {number[:20]!r} of this host", None, _shows(key, record))


def _shows(key: str, data: bytes) -> Callable[[Path], Action]:
    def prepare(box: Path) -> Action:
        root = plant(box, {key: data})
        return lambda: (live_writer(opened(root), PIPELINE), show_pipeline(opened(root), PIPELINE))

    return prepare


def _sealed(*changes: tuple[tuple[str | int, ...], object]) -> bytes:
    """The report with other fields, under a digest that fits them."""
    unsealed = to_json(changed(REPORT_PLAIN, *changes, (("digest",), "0" * 64)))
    return unsealed.replace(b'"digest":"' + b"0" * 64, b'"digest":"' + HashAlgorithm.BLAKE3.digest(unsealed).encode())


REPORTS: dict[str, Callable[[], bytes]] = {
    "a digest that does not fit": edited(REPORT_PLAIN, (("checked_files",), 2)),
    "a month 13": lambda: _sealed((("created_at",), "2026-13-01T00:00:00.000Z")),
    "a year 0": lambda: _sealed((("created_at",), "0000-01-01T00:00:00.000Z")),
    "Arabic digits": lambda: _sealed((("created_at",), "\u0662\u0660\u0662\u0666-01-01T00:00:00.000Z")),
    "a level of its own": lambda: _sealed((("level",), "deep")),
    "a hash of its own": lambda: _sealed((("hash",), "md5")),
    "a pipeline that climbs": lambda: _sealed((("pipeline",), "../x")),
    "a negative count": lambda: _sealed((("checked_bytes",), -1)),
    "an unknown field": lambda: _sealed((("good",), True)),
    "damage of text": lambda: _sealed((("damaged",), "none")),
    "damage without a reason": lambda: _sealed((("damaged", 0, "reason"), MISSING)),
    "a snapshot of 5,000 letters": lambda: _sealed((("snapshots", 0), "x" * 5000)),
    "a nest": lambda: _sealed((("damaged", 0), Raw("[" * 50_000 + "]" * 50_000))),
    "more than 16 MiB": lambda: b" " * ((16 << 20) + 1),
}


def _reports() -> Iterator[Case]:
    key = f"p/{PIPELINE}/report/20260101T000000.000Z.drill"
    bad = NOT_JSON | {name: just(data) for name, data in spoiled(to_json(REPORT_PLAIN)).items()} | REPORTS
    for name, build in bad.items():
        yield reads(f"report: {name}", EoctlError, lambda data: decode_report(data, "it"), build)
    for name in ("a month 13", "a nest", "a digest that does not fit", "more than 16 MiB"):
        yield _passes_over(f"report in a store: {name}", key, bad[name])
    names = ("20260101T000000.000Z.drill.1234567", "x", "20261301T000000.000Z.drill", "20260101T000000.000Z.deep")
    for name in names:
        yield _passes_over(f"report called {name}", f"p/{PIPELINE}/report/{name}", lambda: b"{}")


# Block tables.

TABLE = encode_table(BLOCK_TABLE)
PACKS_AT, BLOCKS_AT = 16, 16 + 2 * 40


def _crc(data: bytes) -> bytes:
    """Made to fit by its checksum."""
    return data[:-4] + struct.pack(">I", zlib.crc32(data[:-4]))


def _with(at: int, new: bytes) -> Callable[[], bytes]:
    return lambda: _crc(TABLE[:at] + new + TABLE[at + len(new) :])


def _table(packs: int, blocks: int) -> bytes:
    body = struct.pack(">4sB3sII", b"EOBT", 1, b"\0\0\0", packs, blocks)
    return _crc(body + bytes(packs * 40 + blocks * 44) + bytes(4))


TABLES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "a magic alone": lambda: b"EOBT",
    "19 bytes": lambda: TABLE[:19],
    "another magic": _with(0, b"EOPK"),
    "padding that is not zero": _with(5, b"\1"),
    "a pack too many": _with(8, struct.pack(">I", 3)),
    "a block too many": _with(12, struct.pack(">I", 5)),
    "2^32 - 1 packs": _with(8, struct.pack(">I", 2**32 - 1)),
    "2^32 - 1 blocks": _with(12, struct.pack(">I", 2**32 - 1)),
    "4,097 blocks": lambda: _table(1, TABLE_BLOCKS + 1),
    "more packs than blocks": lambda: _table(2, 1),
    "an era beyond 2^53": _with(PACKS_AT + 32, struct.pack(">Q", 2**53 + 1)),
    "an era of 2^64 - 1": _with(PACKS_AT + 32, b"\xff" * 8),
    "a block in no pack": _with(BLOCKS_AT + 32, struct.pack(">I", 2)),
    "a block in pack 2^32 - 1": _with(BLOCKS_AT + 32, b"\xff" * 4),
    "a raw block of 64 KiB and a byte": _with(BLOCKS_AT + 40, struct.pack(">I", 65_537)),
    "a packed block of 128 KiB and a byte": _with(BLOCKS_AT + 40, struct.pack(">I", 1 << 31 | 131_073)),
    "a packed block of 2^31 - 1": _with(BLOCKS_AT + 40, b"\xff" * 4),
    "a checksum that does not fit": lambda: TABLE[:-1] + bytes([TABLE[-1] ^ 1]),
    "cut": lambda: TABLE[:-1],
    "a byte more": lambda: TABLE + b"\0",
    "itself twice": lambda: TABLE * 2,
    "a byte above the limit": lambda: TABLE + bytes(MAX_TABLE_BYTES),
    "JSON": lambda: b'{"blocks":[]}        ',
    "300 MiB": lambda: b"EOBT" + bytes(300 << 20),
}


def _tables() -> Iterator[Case]:
    for name, build in TABLES.items():
        yield reads(f"block table: {name}", BadManifestError, decode_table, build)
    yield reads("block table: a newer version", UnsupportedError, decode_table, _with(4, b"\2"))


CASES = [*_stores(), *_pins(), *_reports(), *_tables()]
