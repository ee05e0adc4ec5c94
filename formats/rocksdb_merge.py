"""Several tables of RocksDB as one: each user key once, with its newest value.

No MANIFEST is needed: of all versions of a key, in whatever tables, the one of the highest sequence number wins. A
delete, a single delete and a range tombstone end the versions below them; merge operands are joined by a byte, oldest
first, onto the put below them, as the string-append operator does.

Memory is that of a chunk of each table that reaches the place where reading is; tables that lie one behind the other
are opened one behind the other. A window holds all entries below the smallest key up to which these tables are loaded,
so that all versions of a key are in one window, which is resolved for itself.
"""

from __future__ import annotations

import heapq
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from formats.errors import CorruptError, UnsupportedError
from formats.rocksdb_sst import DELETE, MERGE, PUT, SINGLE_DELETE, Chunk, RangeTombstone, Table
from formats.state import first_of

if TYPE_CHECKING:
    import pyarrow as pa

_KIND_BITS = 0xFF


def merge_tables(
    tables: Sequence[Table], *, joined_by: bytes | None = None, start: bytes | None = None, stop: bytes | None = None
) -> Iterator[pa.RecordBatch]:
    """The user keys in [start, stop) with their values: batches of two columns, `key` and `value`, sorted.

    Raises: CorruptError; UnsupportedError, for merge operands where `joined_by` is None, and where a key is in an
    ingested table that does not hold its sequence number and elsewhere too.
    """
    deleted = _Deleted([tombstone for table in tables for tombstone in table.range_tombstones])
    unnumbered = any(table.is_ingested and not table.global_sequence for table in tables)
    if unnumbered and deleted:
        raise _unnumbered()
    resolver = _Resolver(joined_by, deleted, unnumbered=unnumbered and len(tables) > 1)
    for window in _windows([_Run(table, start, stop) for table in tables]):
        yield from resolver.resolve(window)


def _unnumbered() -> UnsupportedError:
    return UnsupportedError(
        "a table was ingested without its sequence number, and others hold the same keys",
        hint="let the database compact, or take a canonical savepoint",
    )


class _Run:
    """A table on the way: what is loaded of it and not yet taken."""

    def __init__(self, table: Table, start: bytes | None, stop: bytes | None) -> None:
        self._chunks = table.chunks(start, stop)
        self._sequence = table.global_sequence if table.is_ingested else 0
        self._start, self._stop = start, stop
        self._loaded: Chunk | None = None
        self._at = 0
        self.done = False
        self.first = table.first_key(start)
        if self.first is not None and start is not None and self.first < start:
            self.first = start
        if self.first is None or (stop is not None and self.first >= stop):
            self.done = True

    @property
    def last(self) -> bytes:
        """The highest user key that is loaded."""
        assert self._loaded is not None
        return _user(self._loaded.keys[-1])

    @property
    def is_empty(self) -> bool:
        return self.done and not self._left

    @property
    def _left(self) -> int:
        """How many entries are loaded and not taken."""
        return 0 if self._loaded is None else len(self._loaded.keys) - self._at

    def load(self) -> None:
        """There is more of the table than before, or the table is done."""
        before = self._left
        while not self.done and self._left == before:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.done = True
            else:
                self._add(*chunk)

    def _add(self, keys: pa.Array, values: pa.Array) -> None:
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        low = 0 if self._start is None else bisect_left(keys, self._start, key=_user)
        high = len(keys) if self._stop is None else bisect_left(keys, self._stop, key=_user)
        self.done = high < len(keys)
        if self._sequence:
            renumbered = [key[:-8] + (self._sequence << 8 | key[-8]).to_bytes(8, "little") for key in keys.to_pylist()]
            keys = pa.array(renumbered, pa.binary())
        added = Chunk(keys[low:high], values[low:high])
        if self._loaded is not None and self._left:
            old = self._loaded
            added = Chunk(
                pa.concat_arrays([old.keys[self._at :], added.keys]),
                pa.concat_arrays([old.values[self._at :], added.values]),
            )
        self._loaded, self._at = added, 0

    def take(self, bound: bytes | None) -> Chunk | None:
        """What is loaded of user keys below `bound`, all if it is None; it is taken once."""
        if self._loaded is None:
            return None
        keys, values = self._loaded
        start = self._at
        self._at = len(keys) if bound is None else bisect_left(keys, bound, start, key=_user)
        return Chunk(keys[start : self._at], values[start : self._at]) if start < self._at else None


def _user(internal: pa.Scalar) -> bytes:
    found: bytes = internal.as_py()[:-8]
    return found


def _windows(runs: list[_Run]) -> Iterator[list[Chunk]]:
    """All entries, cut between user keys; each window has the parts that the runs have in it."""
    waiting = [(run.first, place) for place, run in enumerate(runs) if run.first is not None and not run.done]
    heapq.heapify(waiting)
    active: list[_Run] = []
    while active or waiting:
        if not active:
            active = [_activated(runs[heapq.heappop(waiting)[1]])]
        bounds = [run.last for run in active if not run.done]
        bound = min([*bounds, waiting[0][0]] if waiting else bounds, default=None)
        window = [part for run in active if (part := run.take(bound)) is not None]
        if window:
            yield window
        elif bound is not None:
            for run in active:
                if not run.done and run.last == bound:
                    run.load()
            while waiting and waiting[0][0] <= bound:
                active.append(_activated(runs[heapq.heappop(waiting)[1]]))
        active = [run for run in active if not run.is_empty]


def _activated(run: _Run) -> _Run:
    run.load()
    return run


class _Deleted:
    """Which sequence numbers are deleted by range tombstones, for every key."""

    def __init__(self, tombstones: list[RangeTombstone]) -> None:
        self._starts: list[bytes] = []
        self._sequences: list[int] = []
        edges = sorted({edge for each in tombstones for edge in (each.start, each.stop)})
        tombstones = sorted(tombstones)
        open_ones: list[tuple[int, bytes]] = []
        place = 0
        for edge in edges:
            while place < len(tombstones) and tombstones[place].start <= edge:
                heapq.heappush(open_ones, (-tombstones[place].sequence, tombstones[place].stop))
                place += 1
            while open_ones and open_ones[0][1] <= edge:
                heapq.heappop(open_ones)
            self._starts.append(edge)
            self._sequences.append(-open_ones[0][0] if open_ones else 0)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def below(self, key: bytes) -> int:
        """Versions of `key` with a lower sequence number are deleted."""
        place = bisect_right(self._starts, key) - 1
        return self._sequences[place] if place >= 0 else 0


class _Resolver:
    """Makes one row of all versions of a key."""

    def __init__(self, joined_by: bytes | None, deleted: _Deleted, *, unnumbered: bool) -> None:
        self._joined_by = joined_by
        self._deleted = deleted
        self._unnumbered = unnumbered
        self._last = b""

    def resolve(self, window: list[Chunk]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa  # noqa: PLC0415  (heavy)
        import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

        keys = pa.concat_arrays([part.keys for part in window])
        columns = [pc.binary_slice(keys, 0, -8), _versions(keys), pa.concat_arrays([part.values for part in window])]
        rows = pa.record_batch(columns, ["key", "version", "value"])
        if len(window) > 1:
            rows = _in_order(rows)
        rest, before = rows["key"].slice(1), rows["key"].slice(0, len(rows) - 1)
        if pc.any(pc.less(rest, before)).as_py() or rows["key"][0].as_py() < self._last:
            raise CorruptError("the keys of a table are not in order")
        self._last = rows["key"][-1].as_py()
        again = pc.equal(rest, before)
        several = pc.any(again).as_py()
        kinds = pc.min_max(_kinds(rows)).as_py()
        if self._deleted or kinds["max"] > PUT or (several and self._unnumbered):
            rows = self._resolved(rows)
        elif several or kinds["min"] < PUT:
            rows = _in_order(rows) if len(window) == 1 else rows
            rows = rows.filter(pc.and_(first_of(again), pc.equal(_kinds(rows), _number(PUT))))
        if len(rows):
            yield rows.select(["key", "value"])

    def _resolved(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        users, versions, values = (rows[name].to_pylist() for name in ("key", "version", "value"))
        found_keys, found_values = [], []
        place, end = 0, len(users)
        while place < end:
            user, first = users[place], place
            place += 1
            while place < end and users[place] == user:
                place += 1
            if place == first + 1 and versions[first] & _KIND_BITS == PUT and not self._deleted:
                value: bytes | None = values[first]
            else:
                value = self._newest(user, versions[first:place], values[first:place])
            if value is not None:
                found_keys.append(user)
                found_values.append(value)
        return pa.record_batch(
            [pa.array(found_keys, pa.binary()), pa.array(found_values, pa.binary())], ["key", "value"]
        )

    def _newest(self, user: bytes, numbers: list[int], values: list[bytes]) -> bytes | None:
        """The value that the versions of a key amount to; None: it is deleted."""
        versions = sorted((-number, value) for number, value in zip(numbers, values, strict=True))
        if self._unnumbered and len(versions) > 1 and -versions[-1][0] >> 8 == 0:
            raise _unnumbered()
        below = self._deleted.below(user) if self._deleted else 0
        operands: list[bytes] = []
        for number, value in versions:
            sequence, kind = -number >> 8, -number & _KIND_BITS
            if sequence < below or kind in {DELETE, SINGLE_DELETE}:
                break
            if kind not in {PUT, MERGE}:
                raise UnsupportedError(f"an entry of type {kind} in a table of RocksDB")
            operands.append(value)
            if kind == PUT:
                break
            if self._joined_by is None:
                raise UnsupportedError("merge operands in a state that is not a list")
        if not operands:
            return None
        return operands[0] if len(operands) == 1 else (self._joined_by or b"").join(reversed(operands))


def _in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    """By user key, the newest version first."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    return rows.take(pc.sort_indices(rows, sort_keys=[("key", "ascending"), ("version", "descending")]))


def _versions(keys: pa.Array) -> pa.Array:
    """Of internal keys sequence number << 8 | type."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    numbers = array("Q")
    numbers.frombytes(memoryview(pc.binary_slice(keys, -8, None).buffers()[2])[: 8 * len(keys)])
    if sys.byteorder == "big":
        numbers.byteswap()
    return pa.Array.from_buffers(pa.uint64(), len(keys), [None, pa.py_buffer(numbers)])


def _kinds(rows: pa.RecordBatch) -> pa.Array:
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    return pc.bit_wise_and(rows["version"], _number(_KIND_BITS))


@cache
def _number(value: int) -> pa.Scalar:
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    return pa.Array.from_buffers(pa.uint64(), 1, [None, pa.py_buffer(array("Q", [value]))])[0]
