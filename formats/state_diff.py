"""The difference of two states: a merge of their rows, a piece of both at a time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import TYPE_CHECKING

from msgspec import Struct

from formats.sst import Run
from formats.state import COLUMNS, KEY_COLUMNS

if TYPE_CHECKING:
    import pyarrow as pa


class Changes(Struct, frozen=True, kw_only=True):
    """What differs in one piece: rows that only B has, that only A has, and rows of both as A and as B has them."""

    added: pa.RecordBatch
    removed: pa.RecordBatch
    old: pa.RecordBatch
    new: pa.RecordBatch
    same: int


def difference(a: Iterator[pa.RecordBatch], b: Iterator[pa.RecordBatch]) -> Iterator[Changes]:
    """What has to happen to the rows of `a` to be those of `b`; both are sorted. Memory: a batch of each."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    runs = [Run(a), Run(b)]
    while any(filled := [run.fill() for run in runs]):
        bound = min(run.last for run, there in zip(runs, filled, strict=True) if there)
        pieces = [run.take(bound) if there else None for run, there in zip(runs, filled, strict=True)]
        sides = [
            piece.append_column("side", pa.repeat(pa.scalar(side, pa.int8()), len(piece)))
            for side, piece in enumerate(pieces)
            if piece is not None
        ]
        yield _changes(pa.concat_batches(sides))


def _changes(rows: pa.RecordBatch) -> Changes:
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in KEY_COLUMNS]))
    count = len(rows)
    same = reduce(
        pc.and_,
        (pc.equal(rows[name].slice(0, count - 1), rows[name].slice(1)) for name in KEY_COLUMNS),
    )
    no = pa.array([False])
    first, second = pa.concat_arrays([same, no]), pa.concat_arrays([no, same])
    alone = pc.invert(pc.or_(first, second))
    from_b = pc.equal(rows["side"], 1)
    columns = rows.select(list(COLUMNS))
    old, new = columns.filter(first), columns.filter(second)
    differs = pc.not_equal(old["value"], new["value"])
    return Changes(
        added=columns.filter(pc.and_(alone, from_b)),
        removed=columns.filter(pc.and_(alone, pc.invert(from_b))),
        old=old.filter(differs),
        new=new.filter(differs),
        same=len(old) - (pc.sum(differs).as_py() or 0),
    )
