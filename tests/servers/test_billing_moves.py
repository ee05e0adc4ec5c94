"""A savepoint of the billing example moves: files and SQLite, PostgreSQL and Kafka at another parallelism, and back.

What was read is in the savepoint; what was not is moved by hand, from the positions that it holds. Transactions of the
ledger are over when a run has stopped, so they are left out (`drop`): the next ledger is another one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eoctl.library import StoreHandle, init_store
from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Finished, Request, run
from tests.servers.test_billing_kafka import PARTITIONS, booked, make_topics, produce
from tests.servers.test_billing_postgres import query
from tests.support import billing
from tests.support.kafka import Kafka, running_kafka
from tests.support.postgres import Postgres, running_postgres

pytestmark = [pytest.mark.slow, pytest.mark.rocksdb]
BATCH = 16


@pytest.fixture
def servers() -> Iterator[tuple[Postgres, Kafka]]:
    with running_postgres() as postgres, running_kafka() as kafka:
        make_topics(kafka)
        yield postgres, kafka


def part(
    store: StoreHandle, folder: Path, snapshot: str, stop: Callable[[], bool] = lambda: False, **settings: Any
) -> Finished:
    """The pipeline ran to its end, or until it was stopped."""
    request = Request(directory=folder.parent / "work", choice=Choice(snapshot=snapshot), stop=stop)
    return run(store._store, billing.example.billing(folder, interval=0.0, batch=BATCH, **settings), request)


def saved(store: StoreHandle, name: str) -> dict[str, int]:
    """A savepoint of the newest checkpoint; the positions in it."""
    store.pipeline("billing").savepoint("latest", name, drop=["ledger"])
    [usage] = [source for source in manifest(store).sources if source.uid == "usage"]
    return {split: int(position) for split, position in usage.offsets.items()}


def manifest(store: StoreHandle) -> Any:
    from formats.ids import PipelineId

    head = store._store.head(PipelineId("billing")).head
    return store._store.manifest(head, [entry for entry in head.live if entry.kind == "checkpoint"][-1])


def rest_of(broker: Kafka, positions: dict[str, int]) -> dict[int, list[str]]:
    """What lies in the partitions of `usage` from these positions on."""
    from eoctl.runtime.sources.kafka import KafkaRecord, KafkaTopic

    def text(record: KafkaRecord) -> tuple[int, str]:
        return record.partition, (record.value or b"").decode()

    source = KafkaTopic(bootstrap=broker.bootstrap, topic="usage", decode=text)
    reader = source.reader(source.splits(), positions)
    found: dict[int, list[str]] = {n: [] for n in range(PARTITIONS)}
    while not (polled := reader.poll(1000)).ended:
        records: list[Any] = polled.batch.values if polled.batch else []
        for partition, line in records:
            found[partition].append(line)
    reader.close()
    return found


def test_a_savepoint_moves_to_postgresql_and_kafka_and_back(servers: tuple[Postgres, Kafka], tmp_path: Path) -> None:
    postgres, kafka = servers
    store = init_store(tmp_path / "store")
    folder = tmp_path / "billing"
    incoming = folder / "in"
    billing.example.made_up_events(incoming, 600)
    due = billing.expected(billing.events_in(incoming))

    first = part(store, folder, "latest", lambda: bool(billing.invoices_in(folder / "invoices.db")))
    positions = saved(store, "to-kafka")
    produce(
        kafka,
        {
            n: (incoming / f"usage-{n}.jsonl")
            .read_bytes()[positions[str(incoming / f"usage-{n}.jsonl")] :]
            .decode()
            .splitlines()
            for n in range(PARTITIONS)
        },
    )

    def charged() -> bool:
        return bool(query(postgres.uri(), "SELECT id FROM invoices LIMIT 1"))

    second = part(store, folder, "to-kafka", charged, postgres=postgres.uri(), kafka=kafka.bootstrap, parallelism=3)
    rest = rest_of(kafka, saved(store, "and-back"))
    for n, lines in rest.items():
        (incoming / f"usage-{n}.jsonl").unlink()
        (incoming / f"back-{n}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    third = part(store, folder, "and-back", parallelism=2)

    records = [first.records, second.records, third.records]
    assert sum(records) == 600 * PARTITIONS
    assert all(records), records
    invoices = [*billing.invoices_in(folder / "invoices.db"), *query(postgres.uri(), "SELECT * FROM invoices")]
    assert sorted(invoices) == due
    assert query(postgres.uri(), "SELECT * FROM ledger") == [], "it is in Kafka there"
    ledger = Counter([*billing.ledger_in(folder / "ledger"), *booked(kafka)])
    assert ledger == Counter(billing.bookings(due))
    assert billing.mails_in(folder / "mails") == billing.mails_of(due)
    assert all(one.written["ledger"] for one in (first, second, third)), "each of them has charged somebody"
