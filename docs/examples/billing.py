"""Usage becomes money: events in 3 partitions, usage of a customer in an hour, an invoice, a ledger, a mail.

    eoctl run docs/examples/billing.py

Where it reads and writes, the environment says: BILLING_DIR (`billing`) for files and SQLite, BILLING_POSTGRES for
invoices and ledger in that database, BILLING_KAFKA for events from the topic `usage` and the ledger in the topic
`ledger` of that broker. BILLING_INTERVAL, BILLING_PARALLELISM, BILLING_BATCH are for trying things out.
"""

# ruff: noqa: INP001  (an example is no package)
import hashlib
import json
import os
import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from email.mime.text import MIMEText
from email.policy import compat32
from pathlib import Path
from typing import Any

from eoctl import (
    DeferredEffects,
    Files,
    KafkaTopic,
    KafkaTransactions,
    LineFiles,
    Options,
    Pipeline,
    PostgresTable,
    PostgresTransactions,
    SqliteTable,
    Tumbling,
    json_lines,
    summing,
)

HOUR = 3_600_000
PARTITIONS = 3
DELAY = 60_000  # milliseconds that an event may be late within its partition
CENTS_PER_UNIT = 3
UNFOLDED = compat32.clone(max_line_length=0)  # a header is one line

INVOICE = ("id", "customer", "window_start", "window_end", "units", "cents")
LEDGER = ("invoice", "customer", "cents")
TABLES = (
    """CREATE TABLE IF NOT EXISTS invoices (
        id TEXT PRIMARY KEY, customer TEXT NOT NULL, window_start BIGINT NOT NULL, window_end BIGINT NOT NULL,
        units BIGINT NOT NULL, cents BIGINT NOT NULL
    )""",
    "CREATE TABLE IF NOT EXISTS ledger (invoice TEXT PRIMARY KEY, customer TEXT NOT NULL, cents BIGINT NOT NULL)",
)


def invoice_of(usage: tuple[str, int, int, int]) -> tuple[str, str, int, int, int, int]:
    """The invoice for a window. The same window has the same id, however often it is computed."""
    customer, start, end, units = usage
    name = hashlib.sha256(json.dumps([customer, start, end]).encode()).hexdigest()
    return name, customer, start, end, units, units * CENTS_PER_UNIT


def outbox(folder: Path) -> DeferredEffects:
    """Mails as files; one that is there already is not sent again, as a mail server does by Message-ID."""

    def send(key: str, invoice: tuple[str, str, int, int, int, int]) -> None:
        _, customer, start, _, units, cents = invoice
        mail = MIMEText(f"{units} units, {cents / 100:.2f} EUR\n", "plain", "us-ascii", policy=UNFOLDED)
        mail["Message-ID"] = f"<{key}@billing.example>"
        mail["To"] = f"{customer}@example.com"
        mail["Subject"] = f"Your invoice for {datetime.fromtimestamp(start / 1000, UTC):%Y-%m-%d %H:00}"
        path, writing = folder / f"{key}.eml", folder / f".{key}.{os.getpid()}"
        if path.exists():
            return
        with writing.open("wb") as file:
            file.write(mail.as_bytes())
            os.fsync(file.fileno())
        writing.rename(path)

    folder.mkdir(parents=True, exist_ok=True)
    return DeferredEffects(send, key=lambda invoice: invoice[0])


def made_up_events(folder: Path, count: int, *, first_hour: int = 0, hours: int = 6, customers: int = 40) -> None:
    """`count` events more in each partition, spread over these hours, nearly in order of time."""
    folder.mkdir(parents=True, exist_ok=True)
    for partition in range(PARTITIONS):
        rng = random.Random(first_hour * PARTITIONS + partition)
        times = (first_hour * HOUR + number * hours * HOUR // count for number in range(count))
        events = [
            {
                "customer": f"customer-{rng.randrange(customers)}",
                "time": min((first_hour + hours) * HOUR - 1, time + rng.randrange(DELAY)),
                "units": rng.randrange(1, 10),
            }
            for time in times
        ]
        with (folder / f"usage-{partition}.jsonl").open("a") as file:
            file.writelines(json.dumps(event) + "\n" for event in events)


def billing(
    folder: Path,
    *,
    postgres: str = "",
    kafka: str = "",
    interval: float = 30.0,
    parallelism: int = 1,
    batch: int = 2048,
) -> Pipeline:
    """The pipeline, on files and SQLite, or on PostgreSQL and Kafka where their addresses are given."""
    folder.mkdir(parents=True, exist_ok=True)
    events: LineFiles | KafkaTopic = json_lines(str(folder / "in" / "*.jsonl"))
    ledger: Files | PostgresTransactions | KafkaTransactions = Files(folder / "ledger")
    invoices: SqliteTable | PostgresTable
    if postgres:
        import psycopg  # noqa: PLC0415  (only where it is installed)

        with psycopg.connect(postgres, autocommit=True) as connection:
            for table in TABLES:
                connection.execute(table.encode())
        invoices = PostgresTable(dsn=postgres, table="invoices", columns=INVOICE, key=("id",))
        ledger = PostgresTransactions(dsn=postgres, table="ledger", columns=LEDGER, key=("invoice",))
    else:
        with closing(sqlite3.connect(folder / "invoices.db")) as database:
            database.execute(TABLES[0])
        invoices = SqliteTable(path=folder / "invoices.db", table="invoices", columns=INVOICE, key=("id",))
    if kafka:
        events = KafkaTopic(bootstrap=kafka, topic="usage")
        ledger = KafkaTransactions(bootstrap=kafka, topic="ledger", key=lambda booking: str(booking[0]).encode())

    options = Options(
        state="rocksdb",
        interval=interval,
        timeout=300.0,
        max_concurrent=1,
        tolerable_failures=3,
        batch_size=batch,
    )
    pipeline = Pipeline("billing", guarantee="exactly-once", parallelism=parallelism, options=options)
    usage = pipeline.source("usage", events, time=time_of, max_delay_ms=DELAY)
    hours = usage.key_by(customer_of, type="string").window("hours", Tumbling(HOUR), summing(units_of, "long"))
    bills = hours.map("bills", invoice_of)
    bills.sink("invoices", invoices)
    bills.map("bookings", lambda bill: (bill[0], bill[1], bill[5])).sink("ledger", ledger)
    bills.sink("mails", outbox(folder / "mails"))
    return pipeline


def time_of(event: dict[str, Any]) -> int:
    """When it was used, in milliseconds."""
    return int(event["time"])


def customer_of(event: dict[str, Any]) -> str:
    """Who has to pay for it."""
    return str(event["customer"])


def units_of(event: dict[str, Any]) -> int:
    """How much it was."""
    return int(event["units"])


if __name__ == "__eoctl__":  # what `eoctl run` calls the file
    setting = os.environ.get  # noqa: TID251  (a program, no library)
    where = Path(setting("BILLING_DIR", "billing"))
    if not (where / "in").exists() and not setting("BILLING_KAFKA"):
        made_up_events(where / "in", 2000)
    pipeline = billing(
        where,
        postgres=setting("BILLING_POSTGRES", ""),
        kafka=setting("BILLING_KAFKA", ""),
        interval=float(setting("BILLING_INTERVAL", "30")),
        parallelism=int(setting("BILLING_PARALLELISM", "1")),
        batch=int(setting("BILLING_BATCH", "2048")),
    )
