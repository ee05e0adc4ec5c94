"""What the sinks of SQLite and PostgreSQL share: rows, upserts, the fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eoctl.runtime.sinks.protocol import SinkContext
from formats.errors import FencedError, UsageError


def check_key(table: str, columns: Sequence[str], key: Sequence[str]) -> None:
    """Raises: UsageError where the key is not of the columns."""
    if not key or not set(key) <= set(columns):
        raise UsageError(f"no key for upserts into {table}: {tuple(key)}", hint="name columns that identify a row")


def upsert(table: str, columns: Sequence[str], key: Sequence[str], mark: str) -> str:
    """The statement; `mark` is where a value goes."""
    names = ", ".join(map(quoted, columns))
    others = [f"{quoted(column)} = excluded.{quoted(column)}" for column in columns if column not in key]
    action = f"UPDATE SET {', '.join(others)}" if others else "NOTHING"
    values = ", ".join([mark] * len(columns))
    target = ", ".join(map(quoted, key))
    return f"INSERT INTO {quoted(table)} ({names}) VALUES ({values}) ON CONFLICT ({target}) DO {action}"  # noqa: S608


def quoted(name: str) -> str:
    """A name in SQL, whatever it contains; `schema.table` is two."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def check_attempt(where: str, context: SinkContext, newest: int | None) -> None:
    """No newer attempt than ours has written to the sink. Raises: FencedError."""
    if newest is not None and newest > context.attempt:
        message = f"attempt {context.attempt} of {context.pipeline} is fenced: attempt {newest} writes to {where}"
        raise FencedError(message, hint="stop this process; another one has taken the pipeline over")


def row_of(record: Any, columns: Sequence[str]) -> tuple[Any, ...]:  # noqa: ANN401  (a record of any type)
    """The columns of a record. Raises: UsageError."""
    if isinstance(record, Mapping):
        return tuple(record.get(column) for column in columns)
    if isinstance(record, list | tuple) and len(record) == len(columns):
        return tuple(record)
    raise UsageError(
        f"a record that is no row of {', '.join(columns)}: {repr(record)[:100]}", hint="map records to tuples or dicts"
    )
