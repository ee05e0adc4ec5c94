"""PostgreSQL: upserts by key, or rows in two phases by `PREPARE TRANSACTION`. Needs psycopg 3.

*Upserts* are visible at once; each batch is one transaction that first looks for a newer attempt (table
`eoctl_attempts`, the row locked), so a zombie puts no older row over a newer one.

*Two phases*: what a subtask writes between two barriers is one transaction, prepared at the barrier under the name
`STORE/PIPELINE/SINK-ATTEMPT-CHECKPOINT-SUBTASK`, which also puts its name into the table `eoctl_commits`. So a commit
that finds no prepared transaction can tell whether it was done before, and recovery sees which output is visible.
Prepared transactions of earlier attempts that the restored checkpoint does not hold are rolled back.

A connection's application name tells sink and attempt. A new attempt ends those of earlier ones that prepare, or that
hold the lock of the fence: a zombie that stands still would hold its locks for ever.

Both tables are made where they are missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import CommitPermit, Committer, Delivery, SinkContext
from eoctl.runtime.sinks.sql import check_attempt, check_key, quoted, row_of, upsert
from formats.errors import CorruptError, InvalidInputError, UnavailableError, UsageError
from formats.manifest import Transaction

if TYPE_CHECKING:
    import psycopg

MAX_NAME_BYTES = 199  # PostgreSQL: GIDSIZE
_TABLES = """
CREATE TABLE IF NOT EXISTS eoctl_attempts (sink TEXT PRIMARY KEY, attempt BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS eoctl_commits (
    sink TEXT, transaction TEXT, checkpoint BIGINT NOT NULL, PRIMARY KEY (sink, transaction)
);
"""
LOCK_SECONDS = 60
_LOCK = 0x656F63746C  # held while the tables are made: two that make one at a time trouble each other


class PostgresTable(Struct, frozen=True, kw_only=True):
    """Upserts into `table`, which has a unique index over `key`. Records are mappings or tuples of `columns`."""

    dsn: str
    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def __post_init__(self) -> None:
        check_key(self.table, self.columns, self.key)

    @property
    def delivery(self) -> Delivery:
        return Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> UpsertWriter:
        return UpsertWriter(self, context)

    def committer(self, context: SinkContext) -> Committer | None:  # noqa: ARG002  (there is no second phase)
        return None


class PostgresTransactions(Struct, frozen=True, kw_only=True):
    """Rows appended to `table` in two phases; the server needs `max_prepared_transactions` above 0.

    `key`: columns with a unique index. A row whose key is there already is left out, so that an older checkpoint than
    the newest can be restored though its output is visible.
    """

    dsn: str
    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.key:
            check_key(self.table, self.columns, self.key)

    @property
    def delivery(self) -> Delivery:
        return Delivery.TRANSACTIONAL

    def writer(self, context: SinkContext) -> PreparingWriter:
        return PreparingWriter(self, context)

    def committer(self, context: SinkContext) -> PreparedCommitter:
        return PreparedCommitter(self, context)


class UpsertWriter:
    """One connection; a transaction for each batch."""

    def __init__(self, sink: PostgresTable, context: SinkContext) -> None:
        import psycopg  # noqa: PLC0415  (an extra)

        self._sink = sink
        self._context = context
        self._upsert = upsert(sink.table, sink.columns, sink.key, "%s")
        self._connection = connected(sink.dsn, context)
        with told(sink.table):
            try:
                self._connection.execute("SET lock_timeout = '1s'")
                with self._connection.transaction():
                    self._fence()
            except psycopg.errors.LockNotAvailable:
                end_older(self._connection, context)
            self._connection.execute("SET lock_timeout = 0")
            with self._connection.transaction():
                self._fence()

    def write(self, batch: Batch) -> None:
        # Of one statement each key once: the last.
        places = [self._sink.columns.index(column) for column in self._sink.key]
        rows = {tuple(row[p] for p in places): row for row in (row_of(r, self._sink.columns) for r in batch.values)}
        with told(self._sink.table), self._connection.transaction(), self._connection.cursor() as cursor:
            self._fence()
            cursor.executemany(self._upsert, list(rows.values()))

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:  # noqa: ARG002  (every batch is committed already)
        return ()

    def close(self) -> None:
        self._connection.close()

    def _fence(self) -> None:
        """No newer attempt has been here, and none gets in before this transaction ends. Raises: FencedError."""
        name, attempt = self._context.sink, self._context.attempt
        execute = self._connection.execute
        execute("INSERT INTO eoctl_attempts VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, attempt))
        row = execute("SELECT attempt FROM eoctl_attempts WHERE sink = %s FOR UPDATE", (name,)).fetchone()
        newest = None if row is None else row[0]
        check_attempt(self._sink.table, self._context, newest)
        if newest != attempt:
            execute("UPDATE eoctl_attempts SET attempt = %s WHERE sink = %s", (attempt, name))


class PreparingWriter:
    """One connection; a transaction for each epoch, begun by the first record."""

    def __init__(self, sink: PostgresTransactions, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        names, marks = ", ".join(map(quoted, sink.columns)), ", ".join(["%s"] * len(sink.columns))
        self._insert = f"INSERT INTO {quoted(sink.table)} ({names}) VALUES ({marks})"  # noqa: S608  (quoted)
        if sink.key:
            self._insert += f" ON CONFLICT ({', '.join(map(quoted, sink.key))}) DO NOTHING"
        self._records = 0
        name = _gid(context, 2**53)
        if len(name.encode()) > MAX_NAME_BYTES:
            raise UsageError(f"too long for the name of a prepared transaction: {name}", hint="choose a shorter uid")
        self._connection = connected(sink.dsn, context)
        with told(sink.table):
            # A zombie that connected late may hold a key of ours: the next attempt ends it.
            self._connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
            row = self._connection.execute("SHOW max_prepared_transactions").fetchone()
            if row is None or int(row[0]) == 0:
                raise UsageError(
                    "the server prepares no transactions", hint="set max_prepared_transactions = 64 and restart it"
                )

    def write(self, batch: Batch) -> None:
        rows = [row_of(record, self._sink.columns) for record in batch.values]
        with told(self._sink.table), self._connection.cursor() as cursor:
            if not self._records:
                cursor.execute("BEGIN")
            cursor.executemany(self._insert, rows)
        self._records += len(rows)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        if not self._records:
            return ()
        name = self._context.transaction_id(checkpoint)
        gid = _gid(self._context, checkpoint)
        with told(self._sink.table):
            self._connection.execute(
                "INSERT INTO eoctl_commits VALUES (%s, %s, %s)", (self._context.sink, name, checkpoint)
            )
            self._connection.execute(f"PREPARE TRANSACTION {_literal(gid)}")
        properties = {"attempt": str(self._context.attempt), "records": str(self._records), "gid": gid}
        self._records = 0
        subtask = self._context.subtask
        return (
            Transaction(id=name, state="pre-committed", checkpoint=checkpoint, subtask=subtask, properties=properties),
        )

    def close(self) -> None:
        self._connection.close()


class PreparedCommitter:
    """Ends prepared transactions."""

    def __init__(self, sink: PostgresTransactions, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._connection = connected(sink.dsn)

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        import psycopg  # noqa: PLC0415  (an extra)

        assert transaction.checkpoint <= permit.checkpoint, "permitted"
        # By its own name: it may be of the store that this one was copied from, or of an earlier uid.
        gid = transaction.properties["gid"]
        try:
            with told(self._sink.table):
                try:
                    self._connection.execute(f"COMMIT PREPARED {_literal(gid)}")
                except psycopg.errors.UndefinedObject as error:
                    known = self._connection.execute(
                        "SELECT 1 FROM eoctl_commits WHERE sink = %s AND transaction = %s",
                        (gid.rsplit("-", 3)[0], transaction.id),
                    ).fetchone()
                    if known is None:
                        message = f"the prepared transaction {gid} is gone, and was not committed"
                        raise CorruptError(message, hint="was it rolled back by hand?") from error
        except UnavailableError:
            if self._connection.closed:
                self._connection = connected(self._sink.dsn)
            raise

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:
        gone = []
        prefix = f"{self._context.sink}-"
        with told(self._sink.table):
            end_older(self._connection, self._context)
            rows = self._connection.execute(
                "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
            ).fetchall()
            for (gid,) in rows:
                attempt = gid.removeprefix(prefix).partition("-")[0]
                ours = gid.startswith(prefix) and gid.count("-") == prefix.count("-") + 2 and attempt.isdecimal()
                name = f"{self._context.uid}-{gid.removeprefix(prefix)}"
                if ours and int(attempt) < self._context.attempt and name not in keep:
                    self._connection.execute(f"ROLLBACK PREPARED {_literal(gid)}")
                    gone.append(gid)
        return gone

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:
        if self._sink.key:
            return ()
        with told(self._sink.table):
            rows = self._connection.execute(
                "SELECT transaction FROM eoctl_commits WHERE sink = %s AND checkpoint > %s ORDER BY checkpoint",
                (self._context.sink, checkpoint),
            ).fetchall()
        return tuple(row[0] for row in rows)

    def close(self) -> None:
        self._connection.close()


def end_older(connection: psycopg.Connection, context: SinkContext) -> None:
    """No writer of an earlier attempt of this sink is connected any more."""
    prefix = _application(context, "")
    found = connection.execute(
        "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database()"
        " AND starts_with(application_name, %s)",
        (prefix,),
    ).fetchall()
    for pid, name in found:
        attempt = name.removeprefix(prefix)
        if attempt.isdecimal() and int(attempt) < context.attempt:
            connection.execute("SELECT pg_terminate_backend(%s, %s)", (pid, LOCK_SECONDS * 1000))


def _application(context: SinkContext, attempt: int | str) -> str:
    """The application name of a writer's connection; a name of PostgreSQL has 63 bytes."""
    return f"eoctl-{hashlib.sha256(context.sink.encode()).hexdigest()[:32]}-{attempt}"


def connected(dsn: str, context: SinkContext | None = None) -> psycopg.Connection:
    """A connection that commits each statement unless told otherwise; with a context, a writer's.

    Raises: UnsupportedError, UnavailableError.
    """
    import psycopg  # noqa: PLC0415  (an extra)

    with told("the connection"):
        connection = psycopg.connect(dsn, autocommit=True)
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        if context is not None:
            name = _application(context, context.attempt)
            connection.execute("SELECT set_config('application_name', %s, false)", (name,))
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            connection.execute(_TABLES)
        return connection


@contextmanager
def told(where: str) -> Iterator[None]:
    """What psycopg raises is raised as an error of ours."""
    import psycopg  # noqa: PLC0415  (an extra)

    try:
        yield
    except (psycopg.errors.DataError, psycopg.errors.IntegrityError, psycopg.errors.ProgrammingError) as error:
        message = f"PostgreSQL, {where}: {error}"
        raise InvalidInputError(message.strip(), hint="does the table exist, and do the records fit it?") from error
    except psycopg.Error as error:
        message = f"PostgreSQL, {where}: {error}"
        raise UnavailableError(
            message.strip(), hint="run the pipeline again; it goes on from its checkpoint"
        ) from error


def _gid(context: SinkContext, checkpoint: int) -> str:
    """`SINK-ATTEMPT-CHECKPOINT-SUBTASK`."""
    return context.sink + context.transaction_id(checkpoint).removeprefix(context.uid)


def _literal(text: str) -> str:
    """A text in SQL, for statements that take no parameters."""
    return "'" + text.replace("'", "''") + "'"
