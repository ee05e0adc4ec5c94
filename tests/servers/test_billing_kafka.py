"""The billing example on a real Kafka: events from a topic, the ledger in transactions, killed at random moments.

`EOCTL_TEST_LONG=1` kills it 100 times, otherwise 5.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eoctl.library import init_store
from eoctl.runtime.sinks.kafka_wire import Wire
from tests.support import billing
from tests.support.kafka import Kafka, running_kafka

KILLS = 100 if os.environ.get("EOCTL_TEST_LONG") == "1" else 5
PARTITIONS = billing.example.PARTITIONS
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running() -> Iterator[Kafka]:
    with running_kafka() as found:
        yield found


@pytest.fixture
def broker(running: Kafka) -> Iterator[Kafka]:
    """With new, empty topics."""
    make_topics(running)
    yield running
    drop_topics(running)


def drop_topics(broker: Kafka) -> None:
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.delete_topics(["usage", "ledger", "eoctl-commits"]).values():
        future.result()


def make_topics(broker: Kafka) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # its public name

    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    topics = [NewTopic("usage", PARTITIONS, 1), NewTopic("ledger", 1, 1)]
    for future in admin.create_topics(topics).values():
        future.result()


def produce(broker: Kafka, lines: dict[int, list[str]]) -> None:
    """The lines are in these partitions of `usage`."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.bootstrap, "enable.idempotence": True})
    for partition, found in lines.items():
        for line in found:
            producer.produce("usage", line.encode(), partition=partition)
    assert producer.flush(30) == 0


def booked(broker: Kafka) -> list[tuple[str, str, int]]:
    """What a `read_committed` consumer sees of the ledger, from its beginning to its end."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "auditor",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition("ledger", 0, 0)])
    found: list[Any] = []
    until = time.monotonic() + 30
    while time.monotonic() < until:
        message = consumer.poll(1)
        if message is None:
            continue
        error = message.error()
        if error is not None and error.code() == KafkaError._PARTITION_EOF:
            consumer.close()
            return sorted(found)
        assert error is None, error
        found.append(tuple(json.loads(message.value() or b"")))
    pytest.fail("the end of the ledger was not reached")


def open_transactions(broker: Kafka) -> dict[str, str]:
    """Transactional ids whose transaction is not over, and its state."""
    wire = Wire(broker.bootstrap)
    try:
        found = wire.describe(wire.list_transactions("eoctl/"))
    finally:
        wire.close()
    assert found, "transactions there were"
    return {name: one.state for name, one in found.items() if not one.state.startswith(("Complete", "Empty"))}


def bring(broker: Kafka, folder: Path, count: int, **when: int) -> None:
    """As many events more in each partition, of the topic and of the files that are counted in the end."""
    before = {n: lines_of(folder / f"usage-{n}.jsonl") for n in range(PARTITIONS)}
    billing.example.made_up_events(folder, count, **when)
    produce(broker, {n: lines_of(folder / f"usage-{n}.jsonl")[len(old) :] for n, old in before.items()})


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def check(broker: Kafka, folder: Path) -> None:
    """Invoices, ledger and mails are exactly what is due, and no transaction is open."""
    due = billing.expected(billing.events_in(folder / "in"))
    assert sorted(booked(broker)) == billing.bookings(due)
    assert billing.invoices_in(folder / "invoices.db") == due
    assert billing.mails_in(folder / "mails") == billing.mails_of(due)
    assert open_transactions(broker) == {}


def test_invoices_ledger_and_mails_are_exact_after_kills_at_random_moments(broker: Kafka, tmp_path: Path) -> None:
    init_store(tmp_path / "store")
    folder = tmp_path / "billing"
    settings = {"BILLING_KAFKA": broker.bootstrap, "BILLING_INTERVAL": "0.05", "BILLING_BATCH": "40"}

    def more(life: int) -> None:
        bring(broker, folder / "in", 700, first_hour=3 * life, hours=3)

    billing.killed_often(tmp_path / "store", folder, KILLS, settings, more=more)
    check(broker, folder)


def test_a_zombie_that_wakes_up_changes_nothing(broker: Kafka, tmp_path: Path) -> None:
    init_store(tmp_path / "store")
    folder = tmp_path / "billing"
    settings = {"BILLING_KAFKA": broker.bootstrap, "BILLING_INTERVAL": "0.03", "BILLING_BATCH": "20"}
    bring(broker, folder / "in", 4000)
    assert "fenced" in billing.stopped_and_overtaken(tmp_path / "store", folder, settings)
    check(broker, folder)
