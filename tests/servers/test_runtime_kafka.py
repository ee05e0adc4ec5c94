"""Kafka as a sink in two phases and as a source, on a real broker: zombies, timeouts, crashes of either side."""

import contextlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eoctl.library import init_store
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks import kafka as sinks
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.kafka import KafkaCommitter, KafkaTransactions, KafkaWriter
from eoctl.runtime.sinks.kafka_wire import Wire
from eoctl.runtime.sinks.protocol import CommitPermit, SinkContext
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.sources.kafka import KafkaTopic, PartitionReader
from eoctl.services.resolve import resolve
from eoctl.services.transactions import list_transactions
from formats.errors import (
    AccessDeniedError,
    ConflictError,
    CorruptError,
    FencedError,
    IncompatibleError,
    InvalidInputError,
    UnavailableError,
    UsageError,
)
from formats.manifest import Transaction
from storage.store import Store
from tests.support.daemon import unused_port
from tests.support.kafka import Kafka, running_kafka
from tests.support.places import local_store
from tests.support.stopping import stand_still

confluent_kafka = pytest.importorskip("confluent_kafka")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 50 if os.environ.get("EOCTL_TEST_LONG") == "1" else 4
COUNT, KEYS = 800 * KILLS, 20


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka]:
    with running_kafka() as broker:
        yield broker


class Topics:
    """Topics of one test, and what a reader of committed records sees in them."""

    def __init__(self, kafka: Kafka, prefix: str) -> None:
        from confluent_kafka.admin import AdminClient

        self.kafka = kafka
        self.admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        self._prefix = prefix

    def new(self, name: str, partitions: int = 1) -> str:
        from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # it does export it

        topic = f"{self._prefix}-{name}"
        for made in self.admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            made.result()
        return topic

    def fill(self, topic: str, values: Iterable[bytes], partition: int = 0) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": self.kafka.bootstrap, "linger.ms": 5})
        for value in values:
            producer.produce(topic, value, partition=partition)
            producer.poll(0)
        assert producer.flush(30) == 0

    def committed(self, topic: str) -> list[Any]:
        settings = {
            "bootstrap.servers": self.kafka.bootstrap,
            "group.id": "test",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
        consumer = confluent_kafka.Consumer(settings)
        numbers = consumer.list_topics(topic, timeout=30).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in numbers])
        values, open_numbers = [], set(numbers)
        while open_numbers:
            for message in consumer.consume(1000, timeout=0.05):
                if message.error() is None:
                    values.append(json.loads(message.value()))
                else:
                    assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF
                    open_numbers.discard(message.partition())
        consumer.close()
        return values


@pytest.fixture
def topics(kafka: Kafka, request: pytest.FixtureRequest) -> Topics:
    return Topics(kafka, f"t{abs(hash(request.node.nodeid))}")


@pytest.fixture
def held_open() -> Iterator[Callable[[Any], Any]]:
    """What is given is closed at the end."""
    given: list[Any] = []

    def hold(one: Any) -> Any:
        given.append(one)
        return one

    yield hold
    for one in given:
        one.close()


def context(topic: str, attempt: int, subtask: int = 0) -> SinkContext:
    return SinkContext(pipeline=topic, uid="ledger", attempt=attempt, subtask=subtask)


def permit(checkpoint: int) -> CommitPermit:
    made = object.__new__(CommitPermit)
    made.checkpoint, made.attempt = checkpoint, 1
    return made


def ledger(kafka: Kafka, topic: str, transaction_timeout: float = 900.0) -> KafkaTransactions:
    return KafkaTransactions(bootstrap=kafka.bootstrap, topic=topic, transaction_timeout=transaction_timeout)


def numbers(count: int) -> Generator:
    return Generator(make=lambda _, first, stop: list(range(first, stop)), count=count)


def states(kafka: Kafka, topic: str) -> set[str]:
    """Of all transactional ids of the sink, in Kafka's words."""
    wire = Wire(kafka.bootstrap)
    found = {
        one.state
        for one in wire.describe([name for name in wire.list_transactions("eoctl/") if f"/{topic}/" in name]).values()
    }
    wire.close()
    return found


# The sink.


def test_records_are_committed_once_or_aborted(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic = topics.new("out", 2)
    sink = ledger(kafka, topic)
    writer: KafkaWriter = held_open(sink.writer(context(topic, 1)))
    writer.write(Batch([1, 2]))
    writer.write(Batch([3]))
    [first] = writer.pre_commit(4)
    writer.write(Batch([4]))
    [second] = writer.pre_commit(5)
    writer.write(Batch([5]))
    writer._flush()
    assert topics.committed(topic) == []
    committer: KafkaCommitter = held_open(sink.committer(context(topic, 2)))
    for _ in range(2):
        committer.commit(permit(4), first)
    assert sorted(topics.committed(topic)) == [1, 2, 3]
    assert committer.visible_after(3) == ("ledger-1-4-0-0",)
    assert committer.visible_after(4) == ()
    older = held_open(sink.committer(context(topic, 1)))
    assert list(older.abort_others(frozenset())) == [], "only of earlier attempts"
    assert list(committer.abort_others(frozenset({second.id}))) == [f"eoctl//{topic}/ledger/1-0-2"]
    assert list(committer.abort_others(frozenset())) == [f"eoctl//{topic}/ledger/1-0-1"]
    assert list(committer.abort_others(frozenset())) == []
    assert committer.visible_after(4) == (), "what was aborted is not visible"
    committer.commit(permit(4), first)
    with pytest.raises(CorruptError, match="a recovery that did not hold it has aborted it; 1 records"):
        committer.commit(permit(5), second)
    assert sorted(topics.committed(topic)) == [1, 2, 3]


def test_a_commit_is_told_from_a_later_transaction_of_the_same_name(
    kafka: Kafka, topics: Topics, held_open: Any
) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic)
    writer = held_open(sink.writer(context(topic, 1)))
    committer = held_open(sink.committer(context(topic, 1)))
    names = set()
    done: list[Transaction] = []
    for number in range(6):
        writer.write(Batch([number]))
        [one] = writer.pre_commit(number + 1)
        names.add(one.properties["transactional-id"])
        for _ in range(2):
            committer.commit(permit(number + 1), one)
        done.append(one)
    assert len(names) <= 3, "transactional ids are used again"
    writer.write(Batch([99]))
    [pending] = writer.pre_commit(7)
    for one in done:
        committer.commit(permit(6), one)
    assert sorted(topics.committed(topic)) == list(range(6)), "no old commit reached the new transaction"
    committer.commit(permit(7), pending)
    assert 99 in topics.committed(topic)


def started(writer: KafkaWriter, step: str) -> list[Transaction]:
    """What an attempt did until it stood still."""
    if step == "has begun":
        return []
    writer.write(Batch([1]))
    if step == "has rows in memory":
        return []
    if step == "has rows in the log":
        writer._flush()
        return []
    return list(writer.pre_commit(1))


def go_on(writer: KafkaWriter) -> None:
    for checkpoint in (2, 3):
        writer.write(Batch([3]))
        writer.pre_commit(checkpoint)


STEPS = ("has begun", "has rows in memory", "has rows in the log", "has pre-committed", "has committed", "is idle")


@pytest.mark.parametrize("restored", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_zombie_that_stood_still_anywhere_changes_nothing(
    kafka: Kafka, topics: Topics, held_open: Any, step: str, *, restored: bool
) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic)
    zombie = held_open(sink.writer(context(topic, 1)))
    hands = held_open(sink.committer(context(topic, 1)))
    handed = started(zombie, step)
    if step in {"has committed", "is idle"}:
        hands.commit(permit(1), handed[0])
        while step == "is idle" and zombie._slots[0].waits:
            assert zombie.pre_commit(2) == ()
    elif not restored:
        handed_over, handed = handed, []
    recovery = held_open(sink.committer(context(topic, 2)))
    for one in handed:
        recovery.commit(permit(1), one)
    recovery.abort_others(frozenset(one.id for one in handed))
    successor = held_open(sink.writer(context(topic, 2)))
    successor.write(Batch([2]))
    [newer] = successor.pre_commit(2)
    # The zombie wakes up.
    with pytest.raises(FencedError, match="attempt 1 of"):
        go_on(zombie)
    if step == "has pre-committed" and not restored:
        with pytest.raises(CorruptError):
            hands.commit(permit(1), handed_over[0])
    elif handed:
        hands.commit(permit(1), handed[0])
    assert list(hands.abort_others(frozenset())) == []
    zombie.close()
    recovery.commit(permit(2), newer)
    assert sorted(topics.committed(topic)) == [1] * len(handed) + [2]


def test_a_zombie_that_starts_late_takes_nothing_from_its_successor(
    kafka: Kafka, topics: Topics, held_open: Any
) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic)
    successor = held_open(sink.writer(context(topic, 2)))
    successor.write(Batch([2]))
    [held] = successor.pre_commit(1)
    late = held_open(sink.writer(context(topic, 1)))
    late.write(Batch([1]))
    late.pre_commit(1)
    assert list(held_open(sink.committer(context(topic, 1))).abort_others(frozenset())) == []
    recovery = held_open(sink.committer(context(topic, 3)))
    recovery.commit(permit(1), held)
    assert list(recovery.abort_others(frozenset({held.id}))) == [f"eoctl//{topic}/ledger/1-0-0"]
    assert topics.committed(topic) == [2]


def test_what_a_larger_parallelism_left_open_is_aborted(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic, other = topics.new("out"), topics.new("other")
    sink = ledger(kafka, topic)
    for subtask in range(4):
        writer = held_open(sink.writer(context(topic, 1, subtask)))
        writer.write(Batch([subtask]))
        writer.pre_commit(1)
    neighbour = held_open(ledger(kafka, other).writer(context(other, 1)))
    neighbour.write(Batch(["kept"]))
    [kept] = neighbour.pre_commit(1)
    gone = held_open(sink.committer(context(topic, 2))).abort_others(frozenset())
    assert list(gone) == [f"eoctl//{topic}/ledger/1-{subtask}-0" for subtask in range(4)]
    assert topics.committed(topic) == []
    held_open(ledger(kafka, other).committer(context(other, 2))).commit(permit(1), kept)
    assert topics.committed(other) == ["kept"], "of other sinks nothing"


def test_an_expired_transaction_is_told(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic, transaction_timeout=0.5)
    writer = held_open(sink.writer(context(topic, 1)))
    writer.write(Batch([1, 2, 3]))
    with pytest.raises(UnavailableError, match="Kafka would abort a transaction"):
        writer.pre_commit(1)
    wire = held_open(Wire(kafka.bootstrap))
    patient = held_open(ledger(kafka, topic, transaction_timeout=0.5).writer(context(topic, 1, 1)))
    patient._sink = ledger(kafka, topic)  # it does not look at the time
    patient.write(Batch([4]))
    [held] = patient.pre_commit(1)
    while wire.describe([held.properties["transactional-id"]])[held.properties["transactional-id"]].state == "Ongoing":
        pass
    with pytest.raises(CorruptError, match="Kafka, after its timeout, has aborted it; 1 records are not in") as raised:
        held_open(sink.committer(context(topic, 2))).commit(permit(1), held)
    assert "longer transaction_timeout" in str(raised.value.hint)
    with pytest.raises(UnavailableError, match="Kafka has aborted the transaction"):
        patient.pre_commit(2)
    assert topics.committed(topic) == []


def test_timeouts_that_cannot_last_are_refused(kafka: Kafka, topics: Topics) -> None:
    topic = topics.new("out")
    with pytest.raises(UsageError, match="the broker allows no transaction to last so long") as raised:
        ledger(kafka, topic, transaction_timeout=3601.0).writer(context(topic, 1))
    assert "transaction.max.timeout.ms" in str(raised.value.hint)
    pipeline = Pipeline("p", options=Options(timeout=900))
    pipeline.source("numbers", numbers(1)).sink("out", ledger(kafka, topic))
    with pytest.raises(UsageError, match="900 s of the Kafka sink is shorter than interval") as raised:
        pipeline.graph()
    assert str(raised.value.hint).startswith("transaction_timeout=970 ")


def test_what_the_broker_will_not_take_is_told(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic = topics.new("out")
    foreign = Transaction(id="ledger-1-1-0", state="pre-committed", checkpoint=1)
    with pytest.raises(IncompatibleError, match="none of Kafka's"):
        held_open(ledger(kafka, topic).committer(context(topic, 2))).commit(permit(1), foreign)
    with pytest.raises(InvalidInputError, match="there is no such topic"):
        ledger(kafka, topic + "x").writer(context(topic, 1))
    writer = held_open(ledger(kafka, topic).writer(context(topic, 1)))
    writer.write(Batch(["x" * 900_000, "y" * 900_000, *range(50_000)]))  # in batches that it does take
    [one] = writer.pre_commit(1)
    held_open(ledger(kafka, topic).committer(context(topic, 1))).commit(permit(1), one)
    assert len(topics.committed(topic)) == 50_002
    writer.write(Batch(["x" * 2_000_000]))
    with pytest.raises(InvalidInputError, match="too large"):
        writer.pre_commit(2)


def test_a_broker_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"127.0.0.1:{unused_port()}"
    monkeypatch.setattr(sinks, "Wire", lambda bootstrap, _: Wire(bootstrap, patience_seconds=0.2))
    with pytest.raises(UnavailableError, match=r"Kafka did not do it within 0\.2 s: 127"):
        KafkaTransactions(bootstrap=nobody, topic="t").writer(context("p", 1))
    with pytest.raises(UnavailableError, match="topic t"):
        KafkaTopic(bootstrap=nobody, topic="t", patience_seconds=0.2).splits()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_both_speak_tls_and_sasl(kafka: Kafka, topics: Topics, held_open: Any, mechanism: str) -> None:
    topic = topics.new("out")
    client = {"security.protocol": "SASL_SSL", "ssl.ca.location": kafka.certificate, "sasl.mechanism": mechanism}
    client |= {"sasl.username": "ada", "sasl.password": "secret"}
    sink = KafkaTransactions(bootstrap=kafka.secure, topic=topic, client=client)
    writer = held_open(sink.writer(context(topic, 1)))
    writer.write(Batch([1]))
    [one] = writer.pre_commit(1)
    held_open(sink.committer(context(topic, 1))).commit(permit(1), one)
    source = KafkaTopic(bootstrap=kafka.secure, topic=topic, client=client)
    assert read(held_open(source.reader(source.splits(), {}))) == [1]
    for wrong, why in (
        ({"sasl.password": "guessed"}, "[Aa]uthentication failed"),
        ({"ssl.ca.location": ssl.get_default_verify_paths().openssl_cafile}, "not to be trusted|cannot be used"),
        ({"sasl.mechanism": "SCRAM-SHA-256"}, "does not know SCRAM-SHA-256"),
    ):
        with pytest.raises((AccessDeniedError, UsageError), match=why):
            KafkaTransactions(bootstrap=kafka.secure, topic=topic, client=client | wrong).writer(context(topic, 1))


class CrashError(Exception):
    """The process ends here."""


def failing(monkeypatch: pytest.MonkeyPatch, number: int, *, sent: bool, error: Exception) -> list[str]:
    """From now on the request `number` fails once, before it is sent or after its reply has come; what was asked."""
    asked: list[str] = []
    exchange = Wire._exchange

    def fail(self: Wire, connection: Any, api: Any, body: bytes) -> Any:
        asked.append(api.name)
        if len(asked) != number:
            return exchange(self, connection, api, body)
        if sent:
            exchange(self, connection, api, body)
        raise error

    monkeypatch.setattr(Wire, "_exchange", fail)
    return asked


def written(sink: KafkaTransactions, where: SinkContext, first: int, complete: Callable[[Any], None]) -> None:
    """Checkpoints from `first` to 3, of one record each; `complete` is told when one is, before it is committed."""
    with contextlib.closing(sink.committer(where)) as committer, contextlib.ExitStack() as stack:
        writer = sink.writer(where)
        stack.callback(writer._wire.close)
        for checkpoint in range(first, 4):
            writer.write(Batch([[where.pipeline, checkpoint]]))
            handed = writer.pre_commit(checkpoint)
            complete(handed)
            for one in handed:
                committer.commit(permit(checkpoint), one)


def test_every_reply_may_be_lost(kafka: Kafka, topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = topics.new("out")
    lost: list[str] = []
    while "" not in lost:
        number = len(lost) + 1
        with monkeypatch.context() as patch:
            asked = failing(patch, number, sent=True, error=ConnectionResetError("lost"))
            written(ledger(kafka, topic), context(f"{topic}-{number}", 1), 1, lambda _: None)
        lost.append(asked[number - 1] if len(asked) >= number else "")
    assert {"InitProducerId", "AddPartitionsToTxn", "Produce", "EndTxn", "DescribeTransactions"} <= set(lost)
    assert sorted(topics.committed(topic)) == three_of_each(topic, len(lost))


@pytest.mark.parametrize("sent", [False, True])
def test_a_crash_at_any_request_loses_and_doubles_nothing(
    kafka: Kafka, topics: Topics, monkeypatch: pytest.MonkeyPatch, *, sent: bool
) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic)
    number, crashed = 0, True
    while crashed:
        number += 1
        name = f"{topic}-{number}"
        held: list[tuple[Transaction, ...]] = []
        with monkeypatch.context() as patch:
            failing(patch, number, sent=sent, error=CrashError())
            try:
                written(sink, context(name, 1), 1, held.append)
                crashed = False
            except CrashError:
                pass
        with contextlib.closing(sink.committer(context(name, 2))) as recovery:
            for one in held[-1] if held else ():
                recovery.commit(permit(len(held)), one)
            recovery.abort_others(frozenset())
        written(sink, context(name, 2), len(held) + 1, held.append)
    assert number > 15, "requests were made"
    assert sorted(topics.committed(topic)) == three_of_each(topic, number)


def three_of_each(topic: str, count: int) -> list[list[Any]]:
    return sorted([f"{topic}-{number}", one] for number in range(1, count + 1) for one in (1, 2, 3))


# Pipelines.


def counting(kafka: Kafka, inputs: str, output: str, parallelism: int = 2, name: str = "counting") -> Pipeline:
    pipeline = Pipeline(name, parallelism=parallelism, options=Options(interval=0.02, batch_size=25))
    records = pipeline.source("records", KafkaTopic(bootstrap=kafka.bootstrap, topic=inputs))
    records.key_by(lambda number: number % KEYS, type="long").count("count").sink("out", ledger(kafka, output))
    return pipeline


def counts(total: int) -> list[list[int]]:
    seen: Counter[int] = Counter()
    found = []
    for number in range(total):
        seen[number % KEYS] += 1
        found.append([number % KEYS, seen[number % KEYS]])
    return sorted(found)


def test_a_pipeline_reads_on_at_another_parallelism(kafka: Kafka, topics: Topics, tmp_path: Path) -> None:
    inputs, output = topics.new("in", 3), topics.new("out", 2)
    store = local_store(tmp_path)
    done = 0
    for parallelism in (2, 4, 1):
        for partition in range(3):
            topics.fill(inputs, [b"%d" % number for number in range(done + partition, done + 300, 3)], partition)
        done += 300
        finished = run(store, counting(kafka, inputs, output, parallelism), Request(directory=tmp_path / "w"))
        assert finished.records == 300
        assert sorted(topics.committed(output)) == counts(done)
    assert "Ongoing" not in states(kafka, "counting")


@pytest.mark.parametrize("parallelism", [1, 3])
def test_recovery_commits_what_the_checkpoint_holds_and_aborts_the_rest(
    kafka: Kafka, topics: Topics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parallelism: int
) -> None:
    inputs, output = topics.new("in", 2), topics.new("out", 2)
    store = local_store(tmp_path)
    for partition in range(2):
        topics.fill(inputs, [b"%d" % number for number in range(partition, 600, 2)], partition)

    def crash(*_: object) -> None:
        raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr(KafkaCommitter, "commit", crash)
        patch.setattr(KafkaWriter, "close", lambda writer: writer._wire.close())
        with pytest.raises(CrashError):
            run(store, counting(kafka, inputs, output, name=output), Request(directory=tmp_path / "w"))
    rows = list_transactions(store, resolve(store, f"{output}@latest"))
    assert {(row.sink, row.state) for row in rows} == {("out", "pending")}
    assert topics.committed(output) == []
    run(store, counting(kafka, inputs, output, parallelism, output), Request(directory=tmp_path / "w"))
    assert sorted(topics.committed(output)) == counts(600)
    assert "Ongoing" not in states(kafka, output)


def test_a_crash_of_the_broker_is_waited_out_by_a_sink_and_told_by_a_source(
    kafka: Kafka, topics: Topics, held_open: Any
) -> None:
    topic = topics.new("out")
    sink = ledger(kafka, topic)
    writer = held_open(sink.writer(context(topic, 1)))
    committer = held_open(sink.committer(context(topic, 1)))
    writer.write(Batch([1]))
    [first] = writer.pre_commit(1)
    writer.write(Batch([2]))
    writer._flush()
    source = KafkaTopic(bootstrap=kafka.bootstrap, topic=topic, follow=True, patience_seconds=0.5)
    reader = held_open(source.reader(source.splits(), {}))
    kafka.daemon.kill()
    with pytest.raises(UnavailableError, match=f"topic {topic}"):
        read(reader)
    kafka.restart()
    committer.commit(permit(1), first)
    writer.write(Batch([3]))
    [second] = writer.pre_commit(2)
    assert topics.committed(topic) == [1]
    committer.commit(permit(2), second)
    assert topics.committed(topic) == [1, 2, 3]


def test_visible_output_stops_an_older_restore(kafka: Kafka, topics: Topics, tmp_path: Path) -> None:
    output = topics.new("out")
    store = local_store(tmp_path)
    pipeline = Pipeline(output, options=Options(interval=0.0, batch_size=4))
    pipeline.source("numbers", numbers(60)).sink("ledger", ledger(kafka, output))
    run(store, pipeline, Request(directory=tmp_path))
    assert sorted(topics.committed(output)) == list(range(60))
    with pytest.raises(ConflictError, match="ledger-1-"):
        run(store, pipeline, Request(directory=tmp_path, choice=Choice(snapshot="1")))
    assert len(topics.committed(output)) == 60
    assert_listed(store, output)


def assert_listed(store: Store, pipeline: str) -> None:
    rows = list_transactions(store, resolve(store, f"{pipeline}@latest"))
    assert rows
    assert {(row.sink, row.state) for row in rows} == {("ledger", "zombie")}, "a newer attempt has been tried"
    assert sum(row.records or 0 for row in rows) <= 60


# The source.


def read(reader: PartitionReader, limit: int = 100) -> list[Any]:
    values: list[Any] = []
    while not (polled := reader.poll(limit)).ended:
        values += [] if polled.batch is None else polled.batch.values
    return values


def test_positions_come_from_the_checkpoint_and_partitions_from_the_topic(
    kafka: Kafka, topics: Topics, tmp_path: Path
) -> None:
    from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]  # it does export it

    inputs = topics.new("in")
    store = local_store(tmp_path)

    def go() -> int:
        pipeline = Pipeline("p", options=Options(interval=0.0, batch_size=7))
        source = KafkaTopic(bootstrap=kafka.bootstrap, topic=inputs, decode=lambda one: (one.partition, one.offset))
        pipeline.source("records", source).sink("out", Files(tmp_path / "out"))
        return run(store, pipeline, Request(directory=tmp_path / "w")).records

    topics.fill(inputs, [b"0"] * 50)
    assert go() == 50
    assert go() == 0
    for made in topics.admin.create_partitions([NewPartitions(inputs, 2)]).values():
        made.result()
    topics.fill(inputs, [b"0"] * 5)
    topics.fill(inputs, [b"0"] * 3, partition=1)
    assert go() == 8
    lines = [line for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted([f"[0,{offset}]" for offset in range(55)] + [f"[1,{offset}]" for offset in range(3)])


def test_only_committed_records_are_read(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic = topics.new("log")
    sink = ledger(kafka, topic)
    source = KafkaTopic(bootstrap=kafka.bootstrap, topic=topic)
    writer = held_open(sink.writer(context(topic, 1)))
    writer.write(Batch(["lost"]))
    writer.pre_commit(1)
    held_open(sink.committer(context(topic, 2))).abort_others(frozenset())
    writer = held_open(sink.writer(context(topic, 2)))
    writer.write(Batch(["seen"]))
    [one] = writer.pre_commit(2)
    held_open(sink.committer(context(topic, 2))).commit(permit(2), one)
    writer.write(Batch(["not yet"]))
    writer.pre_commit(3)
    reader = source.reader(source.splits(), {})
    assert read(held_open(reader)) == ["seen"]
    assert read(held_open(source.reader(source.splits(), reader.positions()))) == []


def test_a_position_that_is_gone_is_an_error(kafka: Kafka, topics: Topics) -> None:
    topic = topics.new("in")
    topics.fill(topic, [b"%d" % number for number in range(20)])
    for done in topics.admin.delete_records([confluent_kafka.TopicPartition(topic, 0, 10)]).values():
        done.result()
    source = KafkaTopic(bootstrap=kafka.bootstrap, topic=topic)
    for wanted in (4, 21):
        with pytest.raises(CorruptError, match=f"partition 0: offset {wanted} is wanted, and 10 to 20 are there"):
            source.reader((f"{topic}-0",), {f"{topic}-0": wanted})
    with contextlib.closing(source.reader((f"{topic}-0",), {})) as reader:
        reader._consumer.seek(confluent_kafka.TopicPartition(topic, 0, 4))  # as if retention had been faster
        with pytest.raises(CorruptError, match="offset 10 is wanted, and 10 to 20 are there"):
            read(reader)
    with pytest.raises(InvalidInputError, match="there is no topic"):
        KafkaTopic(bootstrap=kafka.bootstrap, topic=topic + "x").splits()


def test_a_record_that_cannot_be_read_is_named(kafka: Kafka, topics: Topics, held_open: Any) -> None:
    topic = topics.new("in")
    topics.fill(topic, [b"1", b"{"])
    source = KafkaTopic(bootstrap=kafka.bootstrap, topic=topic)
    with pytest.raises(InvalidInputError, match="partition 0, offset 1 cannot be read"):
        read(held_open(source.reader(source.splits(), {})))


# Processes.

PROGRAM = f"""
import os
from eoctl import COUNT, KafkaTopic, KafkaTransactions, Options, Pipeline, Tumbling

options = Options(interval=0.03, batch_size=40, tolerable_failures=100)
pipeline = Pipeline("killed", parallelism=int(os.environ["PARALLELISM"]), options=options)
records = pipeline.source("records", KafkaTopic(bootstrap="BROKER", topic="INPUT"), time=lambda number: number)
keyed = records.key_by(lambda number: number % {KEYS}, type="long")
keyed.count("count").sink("counts", KafkaTransactions(bootstrap="BROKER", topic="COUNTS"))
key = lambda row: b"%d" % row[0]
windows = keyed.window("windows", Tumbling(500), COUNT)
windows.sink("windows-out", KafkaTransactions(bootstrap="BROKER", topic="WINDOWS", key=key))
"""


def woken(zombies: list[subprocess.Popen[bytes]]) -> int:
    """They have gone on where they stood still, and are over; how many were told that they are fenced."""
    fenced = 0
    for zombie in zombies:
        zombie.send_signal(signal.SIGCONT)
        _, told = zombie.communicate()
        fenced += b"fenced" in told
    zombies.clear()
    return fenced


def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(kafka: Kafka, topics: Topics, tmp_path: Path) -> None:
    names = {"INPUT": topics.new("in", 2), "COUNTS": topics.new("counts", 2), "WINDOWS": topics.new("windows", 2)}
    for partition in range(2):
        topics.fill(names["INPUT"], [b"%d" % number for number in range(partition, COUNT, 2)], partition)
    init_store(tmp_path / "store")
    program = PROGRAM.replace("BROKER", kafka.bootstrap)
    for word, name in names.items():
        program = program.replace(word, name)
    file = tmp_path / "killed.py"
    file.write_text(program)
    words = [sys.executable, "-m", "eoctl.cli.main", "run", str(file), "--store", str(tmp_path / "store")]
    words += ["--take-over", "--json"]
    rng = random.Random(KILLS)
    killed = fenced = 0
    paused: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARALLELISM": str(rng.randint(1, 3))}
        return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    for _ in range(KILLS):
        process = begin()
        assert process.stderr is not None
        recovering = rng.random() < 0.2
        if not recovering:
            process.stderr.readline()  # it has restored, and begins
        try:
            process.wait(timeout=rng.random() * (1.2 if recovering else 0.8))
        except subprocess.TimeoutExpired:
            if rng.random() < 0.25:
                if stand_still(process):
                    paused.append(process)
                    continue
                process.communicate()
                continue
            killed += 1
            process.send_signal(signal.SIGKILL)
        process.communicate()
        fenced += woken(paused)
    done = begin()
    _, told = done.communicate()
    assert done.returncode == 0, told
    fenced += woken(paused)
    assert killed
    assert fenced or KILLS < 50, "there were zombies, and they were told"
    assert sorted(topics.committed(names["COUNTS"])) == counts(COUNT)
    windows = Counter((number % KEYS, number // 500 * 500) for number in range(COUNT))
    assert sorted(topics.committed(names["WINDOWS"])) == sorted(
        [key, start, start + 500, count] for (key, start), count in windows.items()
    )
    assert "Ongoing" not in states(kafka, "killed")
