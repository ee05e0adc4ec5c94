"""The rows of a state in one file, for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct
from msgspec.structs import replace

from eoctl.services.savepoint_build import SourceOperator
from eoctl.services.state import Filter, scan
from formats.errors import UsageError
from formats.sst import write_table
from formats.state import StateTable
from formats.state_text import RowText
from formats.types_arrow import TypedColumns
from storage.os_errors import told


class Exported(Struct, frozen=True, kw_only=True):
    """A file of rows. `bytes`: of the file."""

    path: str
    operator: str
    state: str
    rows: int
    bytes: int
    notes: tuple[str, ...] = ()


def export_rows(
    operator: SourceOperator, table: StateTable, wanted: Filter, target: Path, *, raw: bool = False
) -> Exported:
    """`target`, which is new, holds the rows: as Parquet or as JSON, a row to a line, as its name ends.

    Raises: UsageError; what reading raises, and then there is no file.
    """
    if target.suffix not in {".parquet", ".jsonl"}:
        raise UsageError(f"a file that is neither .parquet nor .jsonl: {target.name}", hint="--to rows.parquet")
    schema = table.schema
    rows = 0
    notes: tuple[str, ...] = ()
    with _new_file(target) as file:
        if target.suffix == ".parquet":
            columns = TypedColumns(replace(schema, key="", namespace="", map_key="", value="") if raw else schema)
            batches = (columns(batch) for batch in scan(operator, table, wanted))
            rows = write_table(file, schema, batches, columns=columns.schema).rows
            notes = columns.notes
        else:
            text = RowText(schema, raw=raw)
            for batch in scan(operator, table, wanted):
                lines = [json.dumps(row, ensure_ascii=False) for row in text.rows(batch)]
                file.write(("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
                rows += len(lines)
    size = target.stat().st_size
    return Exported(
        path=str(target), operator=str(operator.name), state=schema.name, rows=rows, bytes=size, notes=notes
    )


@contextmanager
def _new_file(target: Path) -> Iterator[BinaryIO]:
    """A file beside `target` that becomes `target` in the end, or is gone after an error."""
    if target.exists():
        raise UsageError(f"there is a file already: {target}", hint="name a new one")
    part = target.with_name(f".{target.name}.part")
    with told(part):
        try:
            with part.open("wb") as file:
                yield file
            part.rename(target)
        finally:
            part.unlink(missing_ok=True)
