"""State by rows: small tables of every kind, and checkpoints that hold them as the runtime's do."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from msgspec import Struct

from eoctl.engines.tables import TableSource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.savepoint_build import SnapshotSource
from eoctl.services.values import Created
from formats.ids import PipelineId
from formats.keygroups import range_of
from formats.sst import write_table
from formats.state import COLUMNS, StateSchema, row_schema
from storage.session import open_writer
from storage.store import Store

Row = tuple[int, bytes, bytes, bytes, bytes | None]
MAX_PARALLELISM = 128


class Operator(Struct, frozen=True, kw_only=True):
    """What an operator of a test has: states, each with rows (any order), over so many subtasks."""

    states: tuple[tuple[StateSchema, Sequence[Row]], ...]
    parallelism: int = 1
    max_parallelism: int = MAX_PARALLELISM


def batch_of(rows: Iterable[Row]) -> pa.RecordBatch:
    rows = sorted(rows)  # no two rows have one key, so that values are not compared
    columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, row_schema(), strict=True)]
    return pa.record_batch(arrays, schema=row_schema())


def rows_of(batches: Iterable[pa.RecordBatch]) -> list[Row]:
    return [tuple(row[name] for name in COLUMNS) for batch in batches for row in batch.to_pylist()]


def write_rows(path: Path, schema: StateSchema, rows: Iterable[Row], sequence: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_table(file, schema, [batch_of(rows)], sequence=sequence)


def table_checkpoint(
    store: Store, pipeline: str, operators: Mapping[str, Operator], folder: Path, **request: object
) -> Created:
    """A checkpoint whose operators hold these rows, each row in the subtask that owns its key group."""
    parts = []
    for uid, operator in operators.items():
        for subtask in range(operator.parallelism):
            own = range_of(subtask, operator.parallelism, operator.max_parallelism)
            root = folder / f"{uid}-{subtask}"
            root.mkdir(parents=True)
            for number, (schema, rows) in enumerate(operator.states):
                mine = [row for row in rows if _belongs(schema, row, subtask, own.start, own.stop)]
                write_rows(root / f"{number}.parquet", schema, mine)
            parts.append(
                Part(
                    source=TableSource(root),
                    operator=uid,
                    subtask=subtask,
                    max_parallelism=operator.max_parallelism,
                    key_groups=(own.start, own.stop),
                )
            )
    name = PipelineId(pipeline)
    opened = Opened(store, name, *open_writer(store, name))
    created = create_checkpoint(opened, Request(parts=tuple(parts), **request))  # type: ignore[arg-type]  # as given
    shutil.rmtree(folder)
    return created


def _belongs(schema: StateSchema, row: Row, subtask: int, start: int, stop: int) -> bool:
    if schema.kind == "broadcast":
        return True
    return start <= row[0] < stop if schema.keyed else row[0] == subtask


def content(source: SnapshotSource) -> dict[tuple[str, str, str], list[Row]]:
    """All rows of a snapshot: by operator id, state and kind."""
    return {
        (operator.state.id, table.schema.name, table.schema.kind): rows_of(table.scan())
        for operator in source.operators
        for table in operator.open()
    }
