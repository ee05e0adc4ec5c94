"""The writer of the demonstration: takes orders in, keeps their state in RocksDB, and can commit its own checkpoints.

It does what it reads on stdin, a line at a time, and says one line on stdout when it is done:

    orders N          N more orders are taken in; where it stands is in offsets.json
    attempt           it is the pipeline's writer from now on, by the Python API
    checkpoint        a checkpoint of the open database is complete
    checkpoint die    the same, but with the first blob stored it says so and waits there to be killed
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace
from rocksdict import DBCompressionType, Options, Rdict, WriteBatch

from eoctl import RocksdbCheckpoint
from eoctl.ambient import system_ambient
from eoctl.library import PipelineHandle, Writer
from formats.ids import PipelineId
from scripts.demo_story.orders import (
    NEXT_OFFSET_KEY,
    cents_of,
    customer_of,
    key_of,
    numbers_of,
    offset_of,
    offset_value,
    value_of,
)
from storage.backend import Backend, Body, Folder, Found, Key, Reach, Unfinished, Version
from storage.backends.urls import open_place
from storage.store import open_store

BATCH_ORDERS = 5_000
TABLE_BYTES = 16 << 20


class Orders:
    """The state, open for writing, and where the source stands."""

    def __init__(self, state: Path, customers: int) -> None:
        options = Options(raw_mode=True)
        options.create_if_missing(create_if_missing=True)
        options.set_write_buffer_size(TABLE_BYTES)
        options.set_target_file_size_base(TABLE_BYTES)
        options.set_compression_type(DBCompressionType.none())
        self.database = Rdict(str(state), options=options)
        self._customers = customers
        known = self.database.get(NEXT_OFFSET_KEY)
        self.offset = 0 if known is None else offset_of(known)

    def take(self, count: int) -> None:
        """So many more orders are in the state; the offset is part of the same batch as their effects."""
        fresh = self.offset < self._customers
        stop = self.offset + count
        while self.offset < stop:
            self._take_batch(range(self.offset, min(stop, self.offset + BATCH_ORDERS)))
        if fresh:
            # From here on only what changes is written again: the state is in its resting place.
            self.database.flush(wait=True)
            self.database.compact_range(None, None)

    def _take_batch(self, offsets: range) -> None:
        changed: dict[bytes, tuple[int, int, int]] = {}
        for offset in offsets:
            key = key_of(customer_of(offset, self._customers))
            orders, cents, _ = changed.get(key) or self._known(key, offset)
            changed[key] = (orders + 1, cents + cents_of(offset), offset)
        batch = WriteBatch(raw_mode=True)
        for key, numbers in changed.items():
            batch.put(key, value_of(*numbers))
        batch.put(NEXT_OFFSET_KEY, offset_value(offsets.stop))
        self.database.write(batch)
        self.offset = offsets.stop

    def _known(self, key: bytes, offset: int) -> tuple[int, int, int]:
        value = None if offset < self._customers else self.database.get(key)
        return (0, 0, 0) if value is None else numbers_of(value)


def main() -> None:
    """Does what it is told until stdin ends."""
    parser = argparse.ArgumentParser(prog="writer", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("state", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--keys", type=int, required=True, help="how many customers there are")
    arguments = parser.parse_args()
    orders = Orders(arguments.state, arguments.keys)
    say(f"{arguments.state} is open, at offset {orders.offset:,}")
    with ExitStack() as stack:
        halting = Halting()
        writer: Writer | None = None
        for line in sys.stdin:
            match line.split():
                case ["orders", count]:
                    orders.take(int(count))
                    Path("offsets.json").write_text(json.dumps(offsets_of(orders)))
                    say(f"{int(count):,} orders taken in, now at offset {orders.offset:,}")
                case ["attempt"]:
                    pipeline = halting.pipeline(arguments.store)
                    writer = stack.enter_context(pipeline.writer())
                    say(f"attempt {writer.attempt} of orders is mine")
                case ["checkpoint", *die] if writer is not None:
                    halting.armed = die == ["die"]
                    created = writer.checkpoint(RocksdbCheckpoint(orders.database), offsets=offsets_of(orders))
                    row = created.snapshot
                    say(f"{row.address} committed: {row.added_files} files new, {row.referenced_files} referenced")


def offsets_of(orders: Orders) -> dict[str, dict[str, int]]:
    return {"orders-topic": {"partition-0": orders.offset}}


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Halting:
    """A store that, once armed, stops for ever after the first new blob: the middle of a checkpoint, for certain."""

    def __init__(self) -> None:
        self.armed = False
        self.first = threading.Lock()

    def pipeline(self, url: str) -> PipelineHandle:
        ambient = system_ambient()
        place = open_place(url, ambient.new_id()[:12])
        place = replace(place, backend=HaltingBackend(place.backend, self))
        return PipelineHandle(open_store(place, ambient), PipelineId("orders"))


class HaltingBackend:
    """The six verbs of a backend, as they are; but see `Halting`."""

    def __init__(self, inner: Backend, halting: Halting) -> None:
        self._inner = inner
        self._halting = halting

    def create(self, key: Key, body: Body) -> bool:
        created = self._inner.create(key, body)
        if self._halting.armed and "/o/" in key.path:
            if self._halting.first.acquire(blocking=False):
                say("a checkpoint is under way, its first blob is stored")
            while True:
                time.sleep(60)
        return created

    def stat(self, key: Key) -> Found | None:
        return self._inner.stat(key)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self._inner.open(key, start, length)

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self._inner.swap(key, body, expected)

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        return self._inner.list(prefix, reach=reach)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        self._inner.delete(keys)


if __name__ == "__main__":
    main()
