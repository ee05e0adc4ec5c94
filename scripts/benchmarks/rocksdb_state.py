"""A keyed state in RocksDB and a chain of its hard-link checkpoints.

Keys and values follow from the seed. The table files do not, byte for byte: RocksDB stamps them with ids and
times.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from pathlib import Path

from rocksdict import Checkpoint, DBCompressionType, Options, Rdict, WriteBatch, WriteOptions

from scripts.benchmarks.workloads import Chain

KEYS_IN_A_GB = 14_800_000  # about 67 bytes of table file each
LOAD_KEYS = 500_000
BATCH_KEYS = 5000
NOISE_BYTES = 50
MASK_64 = 0xFFFF_FFFF_FFFF_FFFF
HEADS = tuple(
    b'{"op":"%s","cnt":%03d,"ts":' % (name, count)
    for name in (b"join", b"agg", b"dedup", b"window")
    for count in range(64)
)
TEMPLATES = tuple(head.ljust(50, b".") for head in HEADS)


def make_rocksdb_state(root: Path, *, keys: int, steps: int, update: float, table_mb: int = 32, seed: int = 7) -> Chain:
    """`keys` entries, loaded and compacted; every later step rewrites the fraction `update` of them."""
    options = Options(raw_mode=True)
    options.create_if_missing(create_if_missing=True)
    options.set_target_file_size_base(table_mb << 20)
    options.set_write_buffer_size(table_mb << 20)
    options.set_max_bytes_for_level_base(4 * table_mb << 20)
    options.set_max_background_jobs(2)
    options.set_compression_type(DBCompressionType.snappy())
    root.mkdir(parents=True)
    chain = Chain(root, steps)
    rng = random.Random(seed)
    database = Rdict(str(root / "live"), options=options)
    for start in range(0, keys, LOAD_KEYS):
        _write(database, range(start, min(keys, start + LOAD_KEYS)), rng)
    database.flush(wait=True)
    database.compact_range(None, None)
    for step in range(1, steps + 1):
        if step > 1:
            _write(database, sorted(rng.sample(range(keys), round(keys * update))), rng)
        database.flush(wait=True)
        Checkpoint(database).create_checkpoint(str(chain.checkpoint(step)))
        chain.stamp(step)
    database.close()
    return chain


def _write(database: Rdict, numbers: Sequence[int], rng: random.Random) -> None:
    options = WriteOptions()
    options.disable_wal = True  # type: ignore[method-assign, assignment]  # a property; the stub is wrong
    for start in range(0, len(numbers), BATCH_KEYS):
        some = numbers[start : start + BATCH_KEYS]
        noise = rng.randbytes(NOISE_BYTES * len(some))
        batch = WriteBatch(raw_mode=True)
        for i, number in enumerate(some):
            batch.put(
                _key(number),
                TEMPLATES[number % len(TEMPLATES)] + noise[NOISE_BYTES * i : NOISE_BYTES * (i + 1)],
            )
        database.write(batch, options)


def _key(number: int) -> bytes:
    """A two-byte key group as a stream processor puts first, then a hashed id."""
    mixed = (number * 0x9E37_79B9_7F4A_7C15) & MASK_64
    return struct.pack(">HQ", mixed % 128, mixed) + b"userid"
