"""Keys hashed anew, for another number of key groups: rows get other groups and so another order.

An external sort: rows are sorted a million at a time into runs beside the target, then merged. Only keys whose Java
hash is known can be hashed (formats/keygroup_columns.py); everything else refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from formats.file_pool import FilePool
from formats.keygroup_columns import key_groups
from formats.sst import SortedTable, merge, write_table
from formats.state import KEY_COLUMNS, StateSchema

if TYPE_CHECKING:
    import pyarrow as pa

RUN_ROWS = 1 << 20
RUN_BYTES = 64 << 20


def rehashed(
    batches: Iterable[pa.RecordBatch], schema: StateSchema, max_parallelism: int, scratch: Path
) -> Iterator[pa.RecordBatch]:
    """The rows with the key groups of `max_parallelism`, sorted again. `scratch` is a directory of ours.

    Raises: UnsupportedError, CorruptError; NoSpaceError.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    scratch.mkdir(parents=True)
    runs: list[SortedTable] = []
    with FilePool() as pool:
        for number, run in enumerate(_runs(batches, schema, max_parallelism)):
            path = scratch / f"{number}.parquet"
            with path.open("xb") as file:
                write_table(file, schema, [run], codec="lz4")
            runs.append(SortedTable(pool.add(partial(pa.OSFile, str(path), "rb")), path.name))
        yield from merge(runs, keep_tombstones=False)


def _runs(batches: Iterable[pa.RecordBatch], schema: StateSchema, max_parallelism: int) -> Iterator[pa.RecordBatch]:
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        groups = key_groups(schema, batch["key"], max_parallelism)
        held.append(batch.set_column(0, batch.schema.field(0), groups))
        rows, size = rows + len(batch), size + batch.nbytes
        if rows >= RUN_ROWS or size >= RUN_BYTES:
            yield _sorted(held)
            held, rows, size = [], 0, 0
    if held:
        yield _sorted(held)


def _sorted(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    rows = pa.concat_batches(batches)
    return rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in KEY_COLUMNS]))
