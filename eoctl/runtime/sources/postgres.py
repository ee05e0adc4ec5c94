"""Rows of a PostgreSQL table by increasing key: an append-only log in a table. Needs psycopg 3.

The position is the last key that was read. Rows have to become visible in the order of their keys: a row whose
transaction commits after a larger key was read would be passed over. Where several write, `settled` is a condition that
holds for rows that no earlier one can still join, such as `created < now() - interval '1 minute'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.postgres import told
from eoctl.runtime.sinks.sql import quoted
from eoctl.runtime.sources.protocol import ENDED, NOTHING_YET, Polled, Position

if TYPE_CHECKING:
    import psycopg


class PostgresRows(Struct, frozen=True, kw_only=True):
    """Rows of `table` as tuples of `columns`, by `key`, a column of integers or texts. `follow`: wait for more."""

    dsn: str
    table: str
    columns: tuple[str, ...]
    key: str
    settled: str = "true"
    follow: bool = False
    replayable: bool = True

    def splits(self) -> tuple[str, ...]:
        return (self.table,)

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> RowReader:
        return RowReader(self, splits, positions)


class RowReader:
    """One connection, or none where there is nothing to read."""

    def __init__(self, source: PostgresRows, splits: tuple[str, ...], positions: Mapping[str, Position]) -> None:
        self._source = source
        self._splits = splits
        self._at: Position | None = positions.get(source.table)
        names = ", ".join(map(quoted, (source.key, *source.columns)))
        key = quoted(source.key)
        self._first = f"SELECT {names} FROM {quoted(source.table)} WHERE {source.settled} ORDER BY {key} LIMIT %s"  # noqa: S608
        self._next = self._first.replace(f"WHERE {source.settled}", f"WHERE {key} > %s AND {source.settled}")
        self._connection: psycopg.Connection | None = None

    def poll(self, limit: int) -> Polled:
        if not self._splits:
            return ENDED
        rows = self._rows(limit)
        if not rows:
            return NOTHING_YET if self._source.follow else ENDED
        self._at = rows[-1][0]
        return Polled(Batch([tuple(row[1:]) for row in rows]), self._source.table)

    def positions(self) -> Mapping[str, Position]:
        return {} if self._at is None or not self._splits else {self._source.table: self._at}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _rows(self, limit: int) -> list[tuple[Any, ...]]:
        import psycopg  # noqa: PLC0415  (an extra)

        with told(self._source.table):
            if self._connection is None:
                self._connection = psycopg.connect(self._source.dsn, autocommit=True)
            if self._at is None:
                return self._connection.execute(self._first.encode(), (limit,)).fetchall()
            return self._connection.execute(self._next.encode(), (self._at, limit)).fetchall()
