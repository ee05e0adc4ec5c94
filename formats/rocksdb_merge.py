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
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from formats.errors import CorruptError, UnsupportedError
from formats.rocksdb_sst import DELETE, MERGE, PUT, SINGLE_DELETE, Chunk, RangeTombstone, Table

if TYPE_CHECKING:
    import pyarrow as pa


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
        self._keys: list[bytes] = []
        self._values: list[bytes] = []
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
        return self._keys[-1][:-8]

    @property
    def is_empty(self) -> bool:
        return self.done and self._at >= len(self._keys)

    def load(self) -> None:
        """There is more of the table than before, or the table is done."""
        before = len(self._keys) - self._at
        while not self.done and len(self._keys) - self._at == before:
            chunk = next(self._chunks, None)
            if chunk is None:
                self.done = True
            else:
                self._add(*chunk)

    def _add(self, keys: list[bytes], values: list[bytes]) -> None:
        low = 0 if self._start is None else bisect_left(keys, self._start, key=_user)
        high = len(keys) if self._stop is None else bisect_left(keys, self._stop, key=_user)
        self.done = high < len(keys)
        if self._sequence:
            keys = [key[:-8] + (self._sequence << 8 | key[-8]).to_bytes(8, "little") for key in keys]
        self._keys = self._keys[self._at :] + keys[low:high]
        self._values = self._values[self._at :] + values[low:high]
        self._at = 0

    def take(self, bound: bytes | None) -> Chunk | None:
        """What is loaded of user keys below `bound`, all if it is None; it is taken once."""
        start = self._at
        self._at = len(self._keys) if bound is None else bisect_left(self._keys, bound, start, key=_user)
        if start == self._at:
            return None
        if start == 0 and self._at == len(self._keys):
            return Chunk(self._keys, self._values)
        return Chunk(self._keys[start : self._at], self._values[start : self._at])


def _user(internal: bytes) -> bytes:
    return internal[:-8]


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

        keys, values = _sorted(window)
        internal = pa.array(keys, pa.binary())
        users = pc.binary_slice(internal, 0, -8)
        rest, before = users.slice(1), users.slice(0, len(users) - 1)
        if pc.any(pc.less(rest, before)).as_py() or keys[0][:-8] < self._last:
            raise CorruptError("the keys of a table are not in order")
        self._last = keys[-1][:-8]
        puts = pc.all(pc.equal(pc.binary_slice(internal, -8, -7), pa.scalar(b"\1", pa.binary()))).as_py()
        if not puts or self._deleted or pc.any(pc.equal(rest, before)).as_py():
            keys, values = self._resolved(keys, values)
            users = pa.array(keys, pa.binary())
        if keys:
            yield pa.record_batch([users, pa.array(values, pa.binary())], ["key", "value"])

    def _resolved(self, keys: list[bytes], values: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        found_keys, found_values = [], []
        place, end = 0, len(keys)
        users = [key[:-8] for key in keys]
        while place < end:
            user, first = users[place], place
            place += 1
            while place < end and users[place] == user:
                place += 1
            if place == first + 1 and keys[first][-8] == PUT and not self._deleted:
                value: bytes | None = values[first]
            else:
                value = self._newest(user, keys[first:place], values[first:place])
            if value is not None:
                found_keys.append(user)
                found_values.append(value)
        return found_keys, found_values

    def _newest(self, user: bytes, keys: list[bytes], values: list[bytes]) -> bytes | None:
        """The value that the versions of a key amount to; None: it is deleted."""
        versions = sorted(
            (-(int.from_bytes(key[-8:], "little")), value) for key, value in zip(keys, values, strict=True)
        )
        if self._unnumbered and len(versions) > 1 and -versions[-1][0] >> 8 == 0:
            raise _unnumbered()
        below = self._deleted.below(user) if self._deleted else 0
        operands: list[bytes] = []
        for number, value in versions:
            sequence, kind = -number >> 8, -number & 0xFF
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


def _sorted(window: list[Chunk]) -> Chunk:
    """The entries of all parts by user key; the parts are sorted, so that they are only merged."""
    if len(window) == 1:
        return window[0]
    keys = [key for part in window for key in part.keys]
    values = [value for part in window for value in part.values]
    users = [key[:-8] for key in keys]
    order = sorted(range(len(users)), key=users.__getitem__)
    return Chunk([keys[place] for place in order], [values[place] for place in order])
