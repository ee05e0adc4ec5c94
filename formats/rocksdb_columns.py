"""Entries of many blocks of RocksDB at once, as columns, by numpy if it is there.

A block restarts its keys every few entries (16, unless somebody chose otherwise), and says where. So the first entries
of all stretches are read together, then the second ones, and so on: a step for each entry of the longest stretch.
What is unusual is left to `rocksdb_block.read_entries`, which also says what is wrong with it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

MAX_STEPS = 64  # entries between two restarts
MAX_KEY_BYTES = 128
_FEW = 64  # stretches: fewer gain nothing
_HIGH = 0x80
_VARINT_BYTES = 4


def read_columns(contents: list[bytes]) -> tuple[pa.Array, pa.Array] | None:
    """The keys and the values of the blocks, in order; None where they have to be read one by one."""
    np = _numpy()
    if np is None:
        return None
    data = np.frombuffer(b"".join([*contents, bytes(MAX_KEY_BYTES)]), np.uint8)
    stretches = _stretches(np, data, np.fromiter(map(len, contents), np.int64, len(contents)))
    return None if stretches is None else _Columns(np, data, *stretches).read()


@cache
def _numpy() -> Any:  # noqa: ANN401  (an extra, or nothing)
    try:
        import numpy as np  # noqa: PLC0415  (an extra, and heavy)
    except ImportError:
        return None
    return np


def _stretches(np: Any, data: Any, sizes: Any) -> tuple[Any, Any] | None:  # noqa: ANN401
    """Where each begins and ends in blocks of these sizes; None where a block does not say it plainly."""

    def numbers(at: Any) -> Any:  # noqa: ANN401
        return data[at[:, None] + np.arange(4)].view("<u4").ravel().astype(np.int64)

    bases = np.cumsum(sizes) - sizes
    if not len(sizes) or (sizes < 8).any():
        return None
    counts = numbers(bases + sizes - 4)
    limits = sizes - 4 - 4 * counts
    if (counts <= 0).any() or (limits <= 0).any() or counts.sum() < _FEW:
        return None
    first = np.cumsum(counts) - counts
    within = np.arange(counts.sum()) - np.repeat(first, counts)
    starts = numbers(np.repeat(bases + limits, counts) + 4 * within) + np.repeat(bases, counts)
    ends = np.append(starts[1:], 0)
    ends[first + counts - 1] = bases + limits
    return None if (starts[first] != bases).any() or (starts >= ends).any() else (starts, ends)


class _Columns:
    """`data`: the blocks, and some bytes that nothing reads past; `starts`, `ends`: of the stretches in it."""

    def __init__(self, np: Any, data: Any, starts: Any, ends: Any) -> None:  # noqa: ANN401
        self._np = np
        self._data = data
        self._at = starts.astype(np.int32)
        self._ends = ends.astype(np.int32)
        self._keys = np.zeros((len(starts), MAX_KEY_BYTES), np.uint8)  # of each stretch the last one
        self._sizes = np.zeros(len(starts), np.int32)
        # From each place on as many bytes as a key may have: views, of which rows are copied.
        self._rows = np.lib.stride_tricks.sliding_window_view(data, MAX_KEY_BYTES)

    def read(self) -> tuple[pa.Array, pa.Array] | None:
        np = self._np
        active: Any = slice(None)  # all, as they mostly are until the last steps
        steps: list[tuple[Any, ...]] = []
        while (left := self._at < self._ends).any():
            active = active if left.all() else np.flatnonzero(left)
            step = self._step(active) if len(steps) < MAX_STEPS else None
            if step is None:
                return None
            steps.append(step)
        counts = np.zeros(len(self._at), np.int32)
        for which, *_ in steps:
            counts[which] += 1
        first = np.cumsum(counts) - counts
        total = int(counts.sum())
        keys = np.empty((total, max(step[1].shape[1] for step in steps)), np.uint8)
        sizes, begins, ends = (np.empty(total, np.int32) for _ in range(3))
        for number, (which, step_keys, *rest) in enumerate(steps):
            places = first[which] + number
            keys[places, : step_keys.shape[1]] = step_keys
            sizes[places], begins[places], ends[places] = rest
        return self._binary(keys, sizes), self._between(begins, ends)

    def _step(self, active: Any) -> tuple[Any, ...] | None:  # noqa: ANN401
        """One entry of each of the stretches: which, keys, their sizes, where values begin and end."""
        np = self._np
        at = self._at[active]
        lengths = []
        for _ in range(3):
            found = self._varint(at)
            if found is None:
                return None
            length, at = found
            lengths.append(length)
        shared, unshared, value = lengths
        sizes, begins = shared + unshared, at + unshared
        ends = begins + value
        wrong = (shared > self._sizes[active]) | (sizes > MAX_KEY_BYTES) | (sizes < 8) | (ends > self._ends[active])
        if wrong.any():
            return None
        width = int(sizes.max())
        keys = self._rows[at - shared, :width]
        if shared.any():
            keys = np.where(np.arange(width, dtype=np.uint8) < shared[:, None], self._keys[active, :width], keys)
        self._keys[active, :width] = keys
        self._sizes[active], self._at[active] = sizes, ends
        return active, keys, sizes, begins, ends

    def _varint(self, at: Any) -> tuple[Any, Any] | None:  # noqa: ANN401
        """The numbers there, and where they end; None where one is larger than a block."""
        np, data = self._np, self._data
        byte = data[at].astype(np.int32)
        number, at = byte & _HIGH - 1, at + 1
        more = byte >= _HIGH
        for shift in range(7, 7 * _VARINT_BYTES, 7):
            if not more.any():
                break
            byte = np.where(more, data[np.minimum(at, len(data) - 1)], 0).astype(np.int32)
            number, at = number | (byte & _HIGH - 1) << shift, at + more
            more &= byte >= _HIGH
        return None if more.any() else (number, at)

    def _binary(self, rows: Any, sizes: Any) -> pa.Array:  # noqa: ANN401
        """Each row's first bytes."""
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        np = self._np
        offsets = np.zeros(len(sizes) + 1, np.int32)
        np.cumsum(sizes, out=offsets[1:])
        width = rows.shape[1]
        flat = rows.ravel() if sizes.min() == width else rows[np.arange(width) < sizes[:, None]]
        return pa.Array.from_buffers(pa.binary(), len(sizes), [None, pa.py_buffer(offsets), pa.py_buffer(flat)])

    def _between(self, begins: Any, ends: Any) -> pa.Array:  # noqa: ANN401
        """The bytes from each begin to its end, which ascend: every second element of an array that covers all."""
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        np = self._np
        offsets = np.empty(2 * len(begins), np.int32)
        offsets[0::2], offsets[1::2] = begins, ends
        parts = [None, pa.py_buffer(offsets), pa.py_buffer(self._data)]
        covered = pa.Array.from_buffers(pa.binary(), len(offsets) - 1, parts)
        places = np.arange(0, len(offsets) - 1, 2, dtype=np.int64)
        return covered.take(pa.Array.from_buffers(pa.int64(), len(places), [None, pa.py_buffer(places)]))
