"""What is fuzzed: each decoder with its seeds, and what must hold of a value that it accepts."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec
import zstandard

from eoctl.engines.rocksdb_manifest import read_version
from formats.blocktable import decode_table, encode_table
from formats.canonical import decode, encode
from formats.errors import EoctlError
from formats.head import decode_head, encode_head
from formats.ids import BlobKey, HashAlgorithm
from formats.manifest import MAX_MANIFEST_BYTES, Engine, Manifest, SourceOffsets, blobs, check_manifest, files_of
from formats.manifest_keys import ManifestKeys, keys_of
from formats.manifest_series import Series
from formats.names import check_file_name, check_file_names
from formats.report import decode_report, encode_report
from formats.savepoint import (
    Origin,
    SavepointFile,
    SavepointHead,
    SavepointOperator,
    SavepointSubtask,
    SavepointTable,
    parts_of,
)
from formats.savepoint import decode_head as decode_savepoint
from formats.savepoint import encode_head as encode_savepoint
from formats.state import StateSchema
from storage.pins import MAX_PIN_BYTES, PinRecord
from storage.store import MAX_STORE_BYTES, StoreRecord, decode_manifest
from tests.hostile.case import packed
from tests.hostile.names import BAD_NAMES
from tests.hostile.planted import HEAD, base
from tests.hostile.records import REPORT
from tests.hostile.sources import number, piece

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"
ACCEPTED = "accepted"


class Target(NamedTuple):
    """A decoder. `decode` returns an outcome or raises; `finish` makes a mutant pass the first gate, now and then."""

    name: str
    weight: int
    decode: Callable[[bytes], str]
    seeds: Callable[[], list[bytes]]
    finish: Callable[[bytes, random.Random], bytes] = lambda data, _: data
    is_json: bool = True


def _golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def _small(record: Any, **fields: object) -> bytes:
    """The record with less in it."""
    return encode(msgspec.structs.replace(record, **fields))


# Decoders


def _head(data: bytes) -> str:
    head = decode_head(data)
    assert data in {encode_head(head), encode(head)}  # with its digest, or without one
    return ACCEPTED


def _json_manifest(data: bytes) -> str:
    """A series reads what is lawful, and nothing else (formats/manifest_series.py)."""
    by_series = Series().read(data)
    try:
        manifest = decode(data, Manifest, what="it", max_bytes=MAX_MANIFEST_BYTES)
        check_manifest(manifest)
    except EoctlError:
        assert by_series is None
        raise
    assert by_series is not None
    assert by_series.manifest == manifest
    _check(manifest, data)
    return ACCEPTED


def _stored_manifest(data: bytes) -> str:
    manifest = decode_manifest(data, "it")
    _check(manifest, zstandard.ZstdDecompressor().decompress(data))
    return ACCEPTED


def _check(manifest: Manifest, data: bytes) -> None:
    """Spelled in one way, no name leads out, and whoever reads the keys alone reads these."""
    assert encode(manifest) == data
    for operator, subtask, file in files_of(manifest):
        assert stays(file.name)
        assert len(file.digest) == 64
        assert subtask is None or all(map(stays, subtask.empty_directories)), operator.id
    keys = decode(data, ManifestKeys, what="it", max_bytes=MAX_MANIFEST_BYTES, canonical=False)
    named = {BlobKey(*key) for key in keys_of(keys)}  # type: ignore[arg-type]  # a digest and an era
    assert named == blobs(manifest).keys()


def stays(name: str) -> bool:
    """By another way than formats/names.py: below `/box` the name means a place below `/box`."""
    depth = 0
    for part in name.split("/"):
        if part in {"", ".", ".."} or "\0" in part or len(part.encode()) > 255:
            return False
        depth += 1
    return depth > 0 and len(name.encode()) <= 4096


def _keys(data: bytes) -> str:
    """gc's own reader of manifests: whatever it makes of them, keys are keys."""
    keys = decode(data, ManifestKeys, what="it", max_bytes=MAX_MANIFEST_BYTES, canonical=False)
    for digest, era in keys_of(keys):
        BlobKey.parse(f"{digest}.{era}")
    return ACCEPTED


def _record(record: Any, limit: int) -> Callable[[bytes], str]:
    def read(data: bytes) -> str:
        assert encode(decode(data, record, what="it", max_bytes=limit)) == data
        return ACCEPTED

    return read


def _report(data: bytes) -> str:
    assert encode_report(decode_report(data, "it")) == data
    return ACCEPTED


def _table(data: bytes) -> str:
    found = decode_table(data)
    again = encode_table(found)
    # Packs may be numbered in another order, or not be used at all; blocks are what counts.
    assert decode_table(again) == found
    return ACCEPTED


def _names(data: bytes) -> str:
    names = data.decode("utf-8", "surrogateescape").split("|")
    for name in names:
        try:
            check_file_name(name)
        except EoctlError:
            continue
        assert stays(name)
        assert not set(name) & set("\\\n\r\x1b\x7f")
    check_file_names(names)
    assert all(map(stays, names))
    return ACCEPTED


class _Log:
    """A MANIFEST in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, _mode: str) -> BinaryIO:
        return io.BytesIO(self._data)

    def __str__(self) -> str:
        return "MANIFEST-000001"


def _rocksdb(data: bytes) -> str:
    version = read_version(_Log(data), len(data))  # type: ignore[arg-type]  # it is only opened
    assert all(0 <= value < 2**64 for item in version.tables.items() for value in item)
    return ACCEPTED


# Seeds, and how a mutant passes the first gate


def _sealed(data: bytes, rng: random.Random) -> bytes:
    """Half of the reports get a digest that fits them."""
    at = data.find(b'"digest":"', data.find(b'"damaged_total"'))
    if at < 0 or rng.random() < 0.5:
        return data
    start = at + 10
    unsealed = data[:start] + b"0" * 64 + data[start + 64 :]
    return data[:start] + HashAlgorithm.BLAKE3.digest(unsealed).encode() + data[start + 64 :]


_MAX_PLAIN_BYTES = 1 << 16


def _summed(data: bytes, rng: random.Random) -> bytes:
    """Most block tables get a checksum that fits them."""
    if len(data) < 4 or rng.random() < 0.2:
        return data
    return data[:-4] + struct.pack(">I", zlib.crc32(data[:-4]))


def _packed(data: bytes, rng: random.Random) -> bytes:
    """Every tenth: a mutant inside a sound frame."""
    if rng.random() > 0.1:
        return data
    try:
        # A frame that declares a size is given that much memory, whatever the limit says.
        if zstandard.frame_content_size(data) > _MAX_PLAIN_BYTES:
            return data
        plain = bytearray(zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_PLAIN_BYTES))
    except zstandard.ZstdError:
        return data
    for _ in range(1 + int(rng.random() * 3)):
        if plain:
            plain[int(rng.random() * len(plain))] = int(rng.random() * 256)
    return packed(bytes(plain))


def _savepoint(data: bytes) -> str:
    head = decode_savepoint(data)
    assert encode_savepoint(head) == data
    paths = [path for path, _, _ in parts_of(head)]
    for path in paths:
        check_file_name(path)
        assert path.partition("/")[0] in {operator.id for operator in head.operators}
    assert len({path.casefold() for path in paths}) == len(paths)
    return ACCEPTED


def _log_seeds() -> list[bytes]:
    table = number(100) + number(0) + number(9) + number(1000) + b"\4abcd\4efgh" + number(5) + number(7)
    custom = number(103) + number(0) + number(10) + number(2000) + b"\1a\1b\0\0\2\1x\1\1y"[:6] + b"\1"
    blob = number(400) + number(12) + number(3) + number(99) + b"\3abc\3def" + b"\0"
    family = number(201) + b"\6counts" + number(200) + number(1)
    records = [
        number(1)
        + b"\x1aleveldb.BytewiseComparator"
        + number(2)
        + number(4)
        + number(3)
        + number(11)
        + number(4)
        + number(0),
        family,
        table + number(200) + number(1),
        custom,
        blob + number(6) + number(0) + number(9),
        number(202) + number(200) + number(1),
        number(8198) + b"\5newer" + number(300) + number(2),
    ]
    return [b"".join(map(piece, records)), piece(table[:5], 2) + piece(table[5:], 4), b"".join(map(piece, records[:4]))]


def _manifest_seeds() -> list[bytes]:
    manifest = base().manifest
    return [_golden("manifest.json"), encode(manifest), _small(manifest, operators=(), packs=())]


_TABLE = SavepointTable(
    path=f"{'0' * 32}/total.parquet",
    bytes=10,
    digest="0" * 64,
    rows=3,
    schema=StateSchema(name="total", kind="map", key="string", map_key="long", value="list<int>"),
)
_FILE = SavepointFile(path=f"{'0' * 32}/1/log", bytes=5, digest="1" * 64, role="in-flight")
SAVEPOINT = SavepointHead(
    format="eoctl.savepoint",
    version=1,
    pipeline="orders",
    hash=HashAlgorithm.BLAKE3,
    origin=Origin(snapshot="orders@7", taken_at="2026-01-01T00:00:00.000Z", engine="eoctl"),
    operators=(
        SavepointOperator(
            id="0" * 32,
            uid="totals",
            parallelism=2,
            max_parallelism=128,
            engine=Engine(kind="eoctl"),
            tables=(_TABLE,),
            subtasks=(SavepointSubtask(index=1, files=(_FILE,), key_groups=(64, 128)),),
        ),
    ),
    sources=(SourceOffsets(uid="clicks", offsets={"p": 1}),),
)

TARGETS = (
    Target(
        "HEAD",
        6,
        _head,
        lambda: [
            _golden("HEAD"),
            base().values[HEAD],
            _small(decode_head(_golden("HEAD")), live=(), trash=(), holds=()),
        ],
    ),
    Target("manifest", 8, _json_manifest, _manifest_seeds),
    Target(
        "manifest.zst",
        4,
        _stored_manifest,
        lambda: [_golden("manifest.zst"), *(packed(data) for data in _manifest_seeds())],
        finish=_packed,
        is_json=False,
    ),
    Target("manifest keys", 3, _keys, _manifest_seeds),
    Target("store.json", 2, _record(StoreRecord, MAX_STORE_BYTES), lambda: [_golden("store.json")]),
    Target("pin", 2, _record(PinRecord, MAX_PIN_BYTES), lambda: [_golden("pin.json")]),
    Target("savepoint", 3, _savepoint, lambda: [encode_savepoint(SAVEPOINT)]),
    Target("report", 4, _report, lambda: [encode_report(REPORT)], finish=_sealed),
    Target("block table", 4, _table, lambda: [_golden("blocktable.bin")], finish=_summed, is_json=False),
    Target(
        "names",
        4,
        _names,
        lambda: (
            [text.encode("utf-8", "surrogateescape")[:300] for text, _ in BAD_NAMES.values()]
            + [b"CURRENT|log/LOG|log/LOG.old", "größe/x|größe/y|straße".encode(), b"a/b/c|a/b/d|a/e"]
        ),
        is_json=False,
    ),
    Target("RocksDB", 3, _rocksdb, _log_seeds, is_json=False),
)
