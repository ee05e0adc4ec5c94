"""Upserts into a table of SQLite: idempotent by the key's columns, and fenced.

Each batch is one transaction, which first looks whether a newer attempt has been here (table `eoctl_attempts`); so a
zombie cannot put an older row over a newer one. What is written is visible at once; what a restored run writes again
replaces itself. Keys have to be the same however often a record is replayed: an event id, or a key with the window's
bounds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import Committer, Delivery, SinkContext
from eoctl.runtime.sinks.sql import check_attempt, check_key, row_of, upsert
from formats.errors import InvalidInputError, UnavailableError
from formats.manifest import Transaction

BUSY_SECONDS = 30.0


class SqliteTable(Struct, frozen=True, kw_only=True):
    """Rows of `table`, which has a unique index over `key`. Records are mappings or tuples of `columns`."""

    path: str | Path
    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def __post_init__(self) -> None:
        check_key(self.table, self.columns, self.key)

    @property
    def delivery(self) -> Delivery:
        return Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> SqliteWriter:
        return SqliteWriter(self, context)

    def committer(self, context: SinkContext) -> Committer | None:  # noqa: ARG002  (there is no second phase)
        return None


class SqliteWriter:
    """One connection."""

    def __init__(self, sink: SqliteTable, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._upsert = upsert(sink.table, sink.columns, sink.key, "?")
        with _told(sink):
            self._database = sqlite3.connect(sink.path, timeout=BUSY_SECONDS, isolation_level=None)
            with self._transaction():
                pass

    def write(self, batch: Batch) -> None:
        rows = [row_of(record, self._sink.columns) for record in batch.values]
        with _told(self._sink), self._transaction():
            self._database.executemany(self._upsert, rows)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:  # noqa: ARG002  (every batch is committed already)
        return ()

    def close(self) -> None:
        self._database.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """No newer attempt has been here, and none gets in before this is committed. Raises: FencedError."""
        execute, context = self._database.execute, self._context
        execute("BEGIN IMMEDIATE")
        try:
            execute("CREATE TABLE IF NOT EXISTS eoctl_attempts (sink TEXT PRIMARY KEY, attempt INTEGER NOT NULL)")
            name = context.sink
            found = execute("SELECT attempt FROM eoctl_attempts WHERE sink = ?", (name,)).fetchone()
            check_attempt(str(self._sink.path), context, None if found is None else found[0])
            if found is None or found[0] < context.attempt:
                execute("INSERT OR REPLACE INTO eoctl_attempts VALUES (?, ?)", (name, context.attempt))
            yield
        except BaseException:
            execute("ROLLBACK")
            raise
        execute("COMMIT")


@contextmanager
def _told(sink: SqliteTable) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        message = f"{sink.path}, table {sink.table}: {error}"
        raise UnavailableError(
            message, hint="does the table exist, with a unique key over the key's columns?"
        ) from error
    except sqlite3.Error as error:
        message = f"{sink.path}, table {sink.table}: {error}"
        raise InvalidInputError(message, hint="the record does not fit; nothing of its batch was written") from error
