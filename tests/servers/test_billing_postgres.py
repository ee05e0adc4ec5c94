"""The billing example on a real PostgreSQL: killed at random moments, a newest checkpoint that is damaged.

`EOCTL_TEST_LONG=1` kills it 200 times, otherwise 20.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eoctl.library import init_store
from eoctl.runtime.records import Batch
from eoctl.runtime.run import Request, Told, run
from eoctl.runtime.sinks.postgres import PostgresTable
from eoctl.runtime.sinks.protocol import SinkContext
from tests.support import billing
from tests.support.places import local_store
from tests.support.postgres import Postgres, running_postgres

KILLS = 200 if os.environ.get("EOCTL_TEST_LONG") == "1" else 20
pytestmark = pytest.mark.slow
psycopg = pytest.importorskip("psycopg")


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def dsn(server: Postgres, request: pytest.FixtureRequest) -> str:
    name = f"db{abs(hash(request.node.nodeid))}"
    query(server.uri(), f"CREATE DATABASE {name}")
    return server.uri(name)


def query(dsn: str, text: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(text.encode())
        return [] if cursor.description is None else list(cursor.fetchall())


def check(dsn: str, folder: Path) -> None:
    """Invoices, ledger and mails are exactly what is due, and nothing is left prepared."""
    due = billing.expected(billing.events_in(folder / "in"))
    assert sorted(query(dsn, "SELECT * FROM invoices")) == due
    assert sorted(query(dsn, "SELECT * FROM ledger")) == billing.bookings(due)
    assert billing.mails_in(folder / "mails") == billing.mails_of(due)
    assert query(dsn, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []


def test_invoices_ledger_and_mails_are_exact_after_kills_at_random_moments(dsn: str, tmp_path: Path) -> None:
    init_store(tmp_path / "store")
    folder = tmp_path / "billing"

    def more(life: int) -> None:
        billing.example.made_up_events(folder / "in", 700, first_hour=3 * life, hours=3)

    settings = {"BILLING_POSTGRES": dsn, "BILLING_INTERVAL": "0.03", "BILLING_BATCH": "40", "BILLING_PARALLELISM": "2"}
    billing.killed_often(tmp_path / "store", folder, KILLS, settings, more=more)
    check(dsn, folder)


def test_a_ledger_with_keys_is_exact_also_after_a_damaged_checkpoint(dsn: str, tmp_path: Path) -> None:
    store, folder = local_store(tmp_path), tmp_path / "billing"
    settings = {"postgres": dsn, "interval": 1e6, "batch": 32}
    for first_hour in (0, 6):  # a checkpoint each, with charges of its own
        billing.example.made_up_events(folder / "in", 150, first_hour=first_hour)
        run(store, billing.example.billing(folder, **settings), Request(directory=tmp_path))
    check(dsn, folder)
    newest = billing.damage_newest(store)
    told: list[Told] = []
    request = Request(directory=tmp_path, on_start=told.append)
    finished = run(store, billing.example.billing(folder, **settings), request)
    assert [passed.partition(":")[0] for passed in told[0].passed] == [f"billing@{newest}"]
    assert finished.written["ledger"] > 0, "it was charged a second time"
    check(dsn, folder)


def test_a_zombie_that_wakes_up_changes_nothing(dsn: str, tmp_path: Path) -> None:
    init_store(tmp_path / "store")
    folder = tmp_path / "billing"
    billing.example.made_up_events(folder / "in", 4000)
    settings = {"BILLING_POSTGRES": dsn, "BILLING_INTERVAL": "0.03", "BILLING_BATCH": "20"}
    told = billing.stopped_and_overtaken(tmp_path / "store", folder, settings)
    ended = ("fenced", "terminating connection due to administrator command", "server closed the connection")
    assert any(words in told for words in ended), told
    check(dsn, folder)


def test_a_zombie_that_stands_still_in_a_transaction_does_not_block_its_successor(dsn: str) -> None:
    query(dsn, "CREATE TABLE totals (k TEXT PRIMARY KEY, n INT)")
    sink = PostgresTable(dsn=dsn, table="totals", columns=("k", "n"), key=("k",))
    zombie = sink.writer(SinkContext(pipeline="p", uid="totals", attempt=1))
    zombie._connection.execute("BEGIN")
    zombie._fence()
    newer = sink.writer(SinkContext(pipeline="p", uid="totals", attempt=2))
    with pytest.raises(psycopg.errors.AdminShutdown):
        zombie._connection.execute("SELECT 1")
    newer.write(Batch([("a", 1)]))
    newer.close()
    zombie.close()
    assert query(dsn, "SELECT * FROM totals") == [("a", 1)]
