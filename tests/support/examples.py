"""One full example of every record of version 1: what the files in tests/golden/v1 mean, for ever."""

from __future__ import annotations

import msgspec

from formats.blocktable import Block
from formats.head import Head, HeadEntry, Hold, Trashed, Writer
from formats.ids import BlobKey, Digest, Era, HashAlgorithm
from formats.manifest import (
    Blocks,
    Engine,
    Inline,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    SinkState,
    Slice,
    SourceOffsets,
    StateFile,
    StateInfo,
    SubtaskState,
    Table,
    Transaction,
    Whole,
)
from storage.pins import PinRecord
from storage.store import StoreRecord

STORE_ID = "c63ebdcbe00c06b7d93143056be2bb37"
TX_1, TX_2, TX_S = "01" * 16, "02" * 16, "0f" * 16
OWNER = "7897a2d21d9787e908f88cbda8d72101"
PACK_A, PACK_B = f"{'a1' * 32}.1", f"{'b2' * 32}.3"
MIB = 1 << 20


def digest(number: int) -> str:
    return f"{number:064x}"


STORE_RECORD = StoreRecord(
    format="eoctl.store",
    version=1,
    id=STORE_ID,
    hash=HashAlgorithm.BLAKE3,
    created_at="2026-11-20T09:30:00.000Z",
    features=(),
)

MANIFEST = Manifest(
    format="eoctl.manifest",
    version=1,
    store=STORE_ID,
    pipeline="orders",
    kind="checkpoint",
    id=2,
    txid=TX_2,
    created_at="2026-11-20T09:31:00.000Z",
    attempt=4,
    hash=HashAlgorithm.BLAKE3,
    engine=Engine(kind="mixed"),
    operators=(
        OperatorState(
            id="8eeed16b661251f13cfc6a3c5e75c420",
            uid="totals",
            name="totals per customer",
            parallelism=2,
            max_parallelism=128,
            engine=Engine(kind="rocksdb", version="9.1.1", properties={"compression": "lz4"}),
            subtasks=(
                SubtaskState(
                    index=0,
                    files=(
                        StateFile(
                            name="000012.sst",
                            bytes=2 * MIB,
                            digest=digest(1),
                            place=Whole(era=1),
                            first_stored_in=1,
                            role="keyed",
                            stamp="fe00.98892b.1879ad0ced39bd15",
                        ),
                        StateFile(
                            name="000013.sst",
                            bytes=3 * MIB,
                            digest=digest(2),
                            place=Whole(era=3, codec="zstd", digest=digest(3), stored_bytes=2 * MIB + 1),
                            first_stored_in=2,
                            role="keyed",
                        ),
                        StateFile(
                            name="CURRENT",
                            bytes=16,
                            digest=digest(4),
                            place=Inline(data=b"MANIFEST-000004\n"),
                            first_stored_in=1,
                        ),
                        StateFile(
                            name="log/OPTIONS-7 größe",
                            bytes=5000,
                            digest=digest(5),
                            place=Slice(pack=PACK_A, offset=8, length=5000),
                            first_stored_in=1,
                        ),
                    ),
                    key_groups=(0, 64),
                ),
                SubtaskState(
                    index=1,
                    files=(
                        StateFile(
                            name="small",
                            bytes=9000,
                            digest=digest(6),
                            place=Slice(pack=PACK_B, offset=8, length=700, codec="zstd"),
                            first_stored_in=2,
                            role="timer",
                        ),
                    ),
                    key_groups=(64, 128),
                    finished=True,
                    empty_directories=("archive", "wal/old"),
                ),
            ),
            states=(
                StateInfo(name="total", kind="value", bytes=123, entries=4, properties={"ttl": "1 h"}),
                StateInfo(name="seen", kind="map"),
            ),
        ),
        OperatorState(
            id="f" * 32,
            parallelism=1,
            engine=Engine(kind="sqlite"),
            subtasks=(
                SubtaskState(
                    index=0,
                    files=(
                        StateFile(
                            name="main.db",
                            bytes=(256 * MIB) + 100,
                            digest=digest(7),
                            place=Blocks(
                                tables=(
                                    Table(digest=digest(8), bytes=180_000, place=Whole(era=1)),
                                    Table(
                                        digest=digest(9),
                                        bytes=104,
                                        place=Slice(pack=PACK_B, offset=708, length=104),
                                    ),
                                ),
                                packs=(PACK_A, PACK_B),
                            ),
                            first_stored_in=1,
                            role="opaque",
                        ),
                    ),
                ),
            ),
            coordinator=(
                StateFile(
                    name="positions",
                    bytes=0,
                    digest=digest(10),
                    place=Inline(data=b""),
                    first_stored_in=2,
                    role="coordinator",
                ),
            ),
        ),
    ),
    packs=(PackRef(key=PACK_A, bytes=10_000), PackRef(key=PACK_B, bytes=812)),
    metrics=Metrics(
        full_bytes=273_700_000,
        added_bytes=3_155_000,
        stored_bytes=2_100_000,
        in_flight_bytes=1,
        duration_micros=250_000,
        alignment_micros=2,
        snapshot_micros=3,
        upload_micros=4,
        timeout_micros=600_000_000,
    ),
    base=1,
    tags=("nightly", "v=1.2"),
    host="4740ae6347b0172c01254ff55bae5aff",
    sources=(SourceOffsets(uid="clicks", offsets={"topic-0": 1234, "topic-1": -1, "file.csv": "line 7"}),),
    sinks=(
        SinkState(
            uid="ledger",
            transactions=(
                Transaction(
                    id="ledger-0-2",
                    state="pre-committed",
                    checkpoint=2,
                    subtask=3,
                    properties={"path": "part-0"},
                    payload=b"\x00\xff",
                ),
                Transaction(id="ledger-0-1", state="committed", checkpoint=1),
            ),
        ),
    ),
    properties={"reason": "before the upgrade"},
)


def _entry(number: int, txid: str, seq: int, **more: object) -> HeadEntry:
    entry = HeadEntry(
        kind="checkpoint",
        id=number,
        seq=seq,
        txid=txid,
        created_at=f"2026-11-20T09:3{number}:00.000Z",
        attempt=4,
        engine="directory",
        manifest=f"{digest(100 + number)}.{number}",
        manifest_bytes=560,
        full_bytes=16,
        added_bytes=16,
        files=1,
        added_files=1,
        referenced_files=0,
    )
    return msgspec.structs.replace(entry, **more)


HEAD = Head(
    format="eoctl.head",
    version=1,
    store=STORE_ID,
    pipeline="orders",
    state="active",
    seq=12,
    nonce="686ea1673518a82a81063aacdf0e2e22",
    era=5,
    floor=3,
    advanced_at="2026-11-20T09:30:00.000Z",
    last_id=4,
    writer=Writer(attempt=4, owner=OWNER, last_tx="04" * 16),
    live=(
        _entry(2, TX_2, 7, base=1, duration_micros=250_000, tags=("nightly", "v=1.2"), referenced_files=3, files=4),
        _entry(2, TX_S, 8, kind="savepoint", name="before-upgrade", engine="rocksdb"),
        _entry(4, "04" * 16, 11),
    ),
    trash=(
        Trashed(entry=_entry(1, TX_1, 3), trashed_at="2026-11-20T10:00:00.000Z", seen_by_advance=True),
        Trashed(entry=_entry(3, "03" * 16, 9), trashed_at="2026-11-20T11:00:00.000Z"),
    ),
    holds=(
        Hold(
            id="aa" * 16,
            entry=_entry(2, TX_2, 7),
            reason="restore",
            created_at="2026-11-20T09:40:00.000Z",
            expires_at="2026-11-21T09:40:00.000Z",
        ),
        Hold(id="bb" * 16, entry=_entry(1, TX_1, 3), reason="audit 7", created_at="2026-11-20T09:41:00.000Z"),
    ),
)

BLOCK_PACKS = (BlobKey(Digest("a1" * 32), Era(1)), BlobKey(Digest("b2" * 32), Era(2**53)))
BLOCK_TABLE = [
    Block(bytes([1]) * 32, BLOCK_PACKS[0], 8, 65_536, compressed=False),
    Block(bytes([2]) * 32, BLOCK_PACKS[1], 8, 4_660, compressed=True),
    Block(bytes([1]) * 32, BLOCK_PACKS[0], 8, 65_536, compressed=False),
    Block(bytes([3]) * 32, BLOCK_PACKS[0], 65_544, 4, compressed=False),
]

PIN = PinRecord(
    format="eoctl.pin",
    version=1,
    era=5,
    attempt=4,
    host="4740ae6347b0172c01254ff55bae5aff",
    process="4242.98765",
    note="upload",
)
