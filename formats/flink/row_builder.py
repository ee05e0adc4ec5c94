"""Rows put into batches one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from formats.state import BATCH_BYTES, BATCH_ROWS, row_schema

if TYPE_CHECKING:
    import pyarrow as pa

Row = tuple[bytes, bytes, bytes, bytes]  # key, namespace, map key, value


class RowBuilder:
    """Collects rows, key group by key group in order, until a batch is full."""

    def __init__(self) -> None:
        self._groups: list[int] = []
        self._rows: list[Row] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= BATCH_ROWS or self._bytes >= BATCH_BYTES

    def add(self, key_group: int, rows: list[Row]) -> None:
        """The rows of a key group, or more of them, in order."""
        self._groups += [key_group] * len(rows)
        self._rows += rows
        self._bytes += sum(len(part) for row in rows for part in row)

    def batch(self) -> pa.RecordBatch | None:
        """What was collected; None for nothing."""
        import pyarrow as pa  # noqa: PLC0415  (heavy)

        if not self._rows:
            return None
        columns = [pa.array(self._groups, pa.uint16())]
        columns += [pa.array(column, pa.binary()) for column in zip(*self._rows, strict=True)]
        self._groups, self._rows, self._bytes = [], [], 0
        return pa.record_batch(columns, schema=row_schema())
