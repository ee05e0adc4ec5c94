"""A small client of Kafka's protocol: what it takes to own transactions. docs/adr/0010-kafka.md says why.

Every request may be repeated: a batch has a sequence number, and a producer that has its id asks for the next epoch of
just that id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from eoctl.runtime.sinks import kafka_cluster as cluster
from eoctl.runtime.sinks.kafka_cluster import AgainError, Cluster, OutOfRangeError, Partition
from eoctl.runtime.sinks.kafka_codec import (
    NO_TAGS,
    Found,
    array,
    batches,
    blob,
    compact_array,
    compact_text,
    int8,
    int16,
    int32,
    int64,
    text,
)

_FETCH_BYTES = 1 << 20


class ProducerId(Struct, frozen=True):
    """Who writes: of one transaction, for a new one begins with a new epoch."""

    id: int = -1
    epoch: int = -1


NOBODY = ProducerId()


class Described(Struct, frozen=True):
    """A transactional id, as its coordinator has it. `state`: in Kafka's words; "": it is not known."""

    state: str = ""
    timeout_ms: int = 0
    producer: ProducerId = NOBODY


class Wire(Cluster):
    """What is asked of a cluster."""

    # Transactions.

    def init_producer(self, name: str, timeout_ms: int, known: ProducerId = NOBODY) -> ProducerId:
        """A new epoch: what was open under the name is aborted, and older epochs are fenced.

        `known`: only where this is still the newest. Raises: NotOursError.
        """
        body = compact_text(name) + int32(timeout_ms) + int64(known.id) + int16(known.epoch) + NO_TAGS

        def step() -> ProducerId:
            reply = self.to_coordinator(name, cluster.INIT_PRODUCER_ID, body)
            reply.int32()
            self.check(reply.int16(), f"the transactional id {name}")
            return ProducerId(reply.int64(), reply.int16())

        return self.patiently(step)

    def add_partitions(self, name: str, producer: ProducerId, partitions: Iterable[Partition]) -> None:
        """The transaction is open, and has these partitions too. Raises: NotOursError."""
        topics = _by_topic(partitions)
        body = (
            text(name)
            + int64(producer.id)
            + int16(producer.epoch)
            + array(text(topic) + array(map(int32, numbers)) for topic, numbers in topics.items())
        )

        def step() -> None:
            reply = self.to_coordinator(name, cluster.ADD_PARTITIONS, body)
            reply.int32()
            for _ in reply.times():
                topic = reply.text()
                for _ in reply.times():
                    reply.int32()
                    self.check(reply.int16(), f"{name}, topic {topic}")

        self.patiently(step)

    def produce(self, name: str, parts: Mapping[Partition, bytes]) -> dict[Partition, int]:
        """The batches are in the log; their offsets. Raises: NotOursError, InvalidInputError."""
        done: dict[Partition, int] = {}

        def step() -> dict[Partition, int]:
            by_leader: dict[int, list[Partition]] = {}
            for part in parts:
                if part not in done:
                    by_leader.setdefault(self.leader(part), []).append(part)
            for leader, mine in by_leader.items():
                topics = array(
                    text(topic) + array(int32(number) + blob(parts[topic, number]) for number in numbers)
                    for topic, numbers in _by_topic(mine).items()
                )
                body = text(name) + int16(-1) + int32(int(self.patience_seconds * 1000)) + topics
                reply = self.to_leader(leader, cluster.PRODUCE, body)
                refused: list[tuple[int, Partition]] = []
                for _ in reply.times():
                    topic = reply.text()
                    for _ in reply.times():
                        number, code, offset = reply.int32(), reply.int16(), reply.int64()
                        reply.take(16)
                        if code:
                            refused.append((code, (topic, number)))
                        else:
                            done[topic, number] = offset
                for code, (topic, number) in refused:
                    self.check(code, f"{name}, topic {topic}, partition {number}")
            return done

        return self.patiently(step)

    def end(self, name: str, producer: ProducerId, *, commit: bool) -> None:
        """The transaction is committed, or aborted; now or since before. Raises: NotOursError."""
        body = text(name) + int64(producer.id) + int16(producer.epoch) + int8(commit)

        def step() -> None:
            reply = self.to_coordinator(name, cluster.END_TXN, body)
            reply.int32()
            self.check(reply.int16(), f"the transactional id {name}")

        self.patiently(step)

    def list_transactions(self, prefix: str) -> list[str]:
        """All transactional ids that begin so, whatever became of them."""

        def step() -> list[str]:
            self.refresh(())
            names = set()
            for node in self.brokers:
                reply = self.call(self.brokers[node], cluster.LIST_TRANSACTIONS, compact_array(()) * 2 + NO_TAGS)
                reply.int32()
                self.check(reply.int16(), "the list of transactions")
                for _ in reply.compact_times():
                    reply.compact_text()
                for _ in reply.compact_times():
                    names.add(reply.compact_text())
                    reply.int64()
                    reply.compact_text()
                    reply.tags()
            return sorted(name for name in names if name.startswith(prefix))

        return self.patiently(step)

    def describe(self, names: Iterable[str]) -> dict[str, Described]:
        """What became of transactional ids."""
        wanted = list(names)

        def step() -> dict[str, Described]:
            found: dict[str, Described] = {}
            by_node: dict[int, list[str]] = {}
            for name in wanted:
                by_node.setdefault(self.coordinator(name), []).append(name)
            for node, mine in by_node.items():
                body = compact_array(map(compact_text, mine)) + NO_TAGS
                reply = self.call(self.brokers[node], cluster.DESCRIBE_TRANSACTIONS, body)
                reply.int32()
                for _ in reply.compact_times():
                    code, name, state = reply.int16(), reply.compact_text(), reply.compact_text()
                    timeout_ms, _, producer, epoch = reply.int32(), reply.int64(), reply.int64(), reply.int16()
                    for _ in reply.compact_times():
                        reply.compact_text()
                        for _ in reply.compact_times():
                            reply.int32()
                        reply.tags()
                    reply.tags()
                    if code == cluster.UNKNOWN_TRANSACTION:
                        found[name] = Described()
                    else:
                        self.check(code, f"the transactional id {name}")
                        found[name] = Described(state, timeout_ms, ProducerId(producer, epoch))
            return found

        return self.patiently(step)

    # Topics.

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Of a topic. Raises: InvalidInputError where there is none."""

        def step() -> tuple[int, ...]:
            self.check(self.refresh((topic,))[topic], f"the topic {topic}")
            return tuple(sorted(number for name, number in self.leaders if name == topic))

        return self.patiently(step)

    def has_topic(self, topic: str) -> bool:
        """The brokers know it."""
        return self.patiently(lambda: self.refresh((topic,))[topic] != cluster.UNKNOWN_TOPIC)

    def create_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        """A topic of one partition is there, made now or before."""
        configs = array(text(name) + text(value) for name, value in settings.items())
        body = array([text(topic) + int32(1) + int16(-1) + array(()) + configs]) + int32(10_000) + int8(0)

        def step() -> None:
            self.refresh(())
            reply = self.call(self.controller, cluster.CREATE_TOPICS, body)
            reply.int32()
            for _ in reply.times():
                reply.text()
                code = reply.int16()
                reply.text()
                if code != cluster.TOPIC_EXISTS:
                    self.check(code, f"the topic {topic}")

        self.patiently(step)

    def log_start(self, part: Partition) -> int:
        """The first offset that is still there."""
        topic, number = part
        body = int32(-1) + int8(0) + array([text(topic) + array([int32(number) + int64(-2)])])

        def step() -> int:
            reply = self.to_leader(self.leader(part), cluster.LIST_OFFSETS, body)
            reply.int32()
            reply.times()
            reply.text()
            reply.times()
            reply.int32()
            self.check(reply.int16(), f"topic {topic}, partition {number}")
            reply.int64()
            return reply.int64()

        return self.patiently(step)

    def fetch(self, part: Partition, offset: int) -> list[Found]:
        """Batches from this offset, of transactions that are open and aborted too; none: the log ends here.

        Raises: OutOfRangeError.
        """
        topic, number = part
        body = int32(-1) + int32(0) + int32(0) + int32(_FETCH_BYTES) + int8(0)
        body += array([text(topic) + array([int32(number) + int64(offset) + int32(_FETCH_BYTES)])])

        def step() -> list[Found]:
            reply = self.to_leader(self.leader(part), cluster.FETCH, body)
            reply.int32()
            reply.times()
            reply.text()
            reply.times()
            reply.int32()
            code = reply.int16()
            if code == cluster.OUT_OF_RANGE:
                raise OutOfRangeError(f"topic {topic}, partition {number} has no offset {offset}")
            self.check(code, f"topic {topic}, partition {number}")
            end = reply.int64()
            reply.int64()
            for _ in reply.times():
                reply.take(16)
            found = [one for one in batches(reply.blob()) if one.last_offset >= offset]
            if not found and offset < end:
                raise AgainError(f"topic {topic}, partition {number}: nothing came from offset {offset}")
            return found

        return self.patiently(step)


def _by_topic(partitions: Iterable[Partition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for topic, number in partitions:
        topics.setdefault(topic, []).append(number)
    return topics
