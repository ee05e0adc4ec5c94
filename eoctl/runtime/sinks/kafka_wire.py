"""A small client of Kafka's protocol: what it takes to own transactions. docs/adr/0010-kafka.md says why.

One request at a time, each of a pinned version, sent again until it is answered or patience ends: all of them may be
repeated (a batch has a sequence number, a producer that has its id asks for the next epoch of just that id).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

from msgspec import Struct

from eoctl.runtime.sinks.kafka_codec import (
    NO_TAGS,
    Bytes,
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
from formats.errors import (
    AccessDeniedError,
    CorruptError,
    FencedError,
    InvalidInputError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)

PATIENCE_SECONDS = 30.0
_UNKNOWN_TOPIC_SECONDS = 3.0  # a topic that was just made is not known everywhere at once
_LONGEST_WAIT_SECONDS = 0.25
_MAX_REPLY_BYTES = 64 << 20
_FETCH_BYTES = 1 << 20

Address: TypeAlias = tuple[str, int]
Partition: TypeAlias = tuple[str, int]
_T = TypeVar("_T")


class Api(Struct, frozen=True):
    """A request in the one version that is spoken here. `flexible`: with compact and tagged fields."""

    name: str
    key: int
    version: int
    flexible: bool = False


VERSIONS = Api("ApiVersions", 18, 0)
METADATA = Api("Metadata", 3, 4)
FIND_COORDINATOR = Api("FindCoordinator", 10, 2)
INIT_PRODUCER_ID = Api("InitProducerId", 22, 4, flexible=True)
ADD_PARTITIONS = Api("AddPartitionsToTxn", 24, 2)
PRODUCE = Api("Produce", 0, 7)
END_TXN = Api("EndTxn", 26, 2)
LIST_TRANSACTIONS = Api("ListTransactions", 66, 0, flexible=True)
DESCRIBE_TRANSACTIONS = Api("DescribeTransactions", 65, 0, flexible=True)
FETCH = Api("Fetch", 1, 4)
LIST_OFFSETS = Api("ListOffsets", 2, 2)
CREATE_TOPICS = Api("CreateTopics", 19, 4)
_SPOKEN = (
    METADATA,
    FIND_COORDINATOR,
    INIT_PRODUCER_ID,
    ADD_PARTITIONS,
    PRODUCE,
    END_TXN,
    LIST_TRANSACTIONS,
    DESCRIBE_TRANSACTIONS,
    FETCH,
    LIST_OFFSETS,
    CREATE_TOPICS,
)

_OUT_OF_RANGE, _UNKNOWN_TOPIC, _TOPIC_EXISTS, _BAD_TIMEOUT, _UNKNOWN_TRANSACTION = 1, 3, 36, 50, 105
_AGAIN = {
    5: "no leader",
    6: "not the leader",
    7: "timed out",
    8: "broker not available",
    9: "replica not available",
    13: "network",
    14: "the coordinator is loading",
    15: "no coordinator",
    16: "not the coordinator",
    19: "not enough replicas",
    20: "not enough replicas after the append",
    51: "the transaction before is still being ended",
    56: "storage error",
    72: "no listener",
    74: "fenced leader epoch",
    75: "unknown leader epoch",
    89: "throttled",
}
_NOT_OURS = {
    47: "a newer epoch",
    48: "no such transaction is open",
    49: "the producer id is not known",
    59: "the producer is not known",
    90: "fenced",
}
_DENIED = {29: "topic", 31: "cluster", 53: "transactional id", 58: "authentication"}
_REFUSED = {2: "damaged", 10: "too large", 17: "no topic name", 18: "too large", 44: "policy", 87: "invalid record"}


class NotOursError(FencedError):
    """The transaction is not open under this producer id and epoch: it was ended, or a newer epoch is there."""


class OutOfRangeError(CorruptError):
    """The log does not have this offset, or no more."""


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


class _AgainError(Exception):
    """It may be different after a while."""


class Wire:
    """Connections to the brokers of a cluster, made when they are needed."""

    def __init__(self, bootstrap: str, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        self._bootstrap = [_address(one) for one in bootstrap.split(",")]
        self._patience = patience_seconds
        self._sockets: dict[Address, socket.socket] = {}
        self._brokers: dict[int, Address] = {}
        self._leaders: dict[Partition, int] = {}
        self._coordinators: dict[str, int] = {}
        self._controller = self._bootstrap[0]
        self._number = 0
        self._until = 0.0

    def hurry(self, patience_seconds: float) -> None:
        """From now on it gives up sooner."""
        self._patience = patience_seconds

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    # Transactions.

    def init_producer(self, name: str, timeout_ms: int, known: ProducerId = NOBODY) -> ProducerId:
        """A new epoch: what was open under the name is aborted, and older epochs are fenced.

        `known`: only where this is still the newest. Raises: NotOursError.
        """
        body = compact_text(name) + int32(timeout_ms) + int64(known.id) + int16(known.epoch) + NO_TAGS

        def step() -> ProducerId:
            reply = self._to_coordinator(name, INIT_PRODUCER_ID, body)
            reply.int32()
            self._check(reply.int16(), f"the transactional id {name}")
            return ProducerId(reply.int64(), reply.int16())

        return self._patiently(step)

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
            reply = self._to_coordinator(name, ADD_PARTITIONS, body)
            reply.int32()
            for _ in reply.times():
                topic = reply.text()
                for _ in reply.times():
                    reply.int32()
                    self._check(reply.int16(), f"{name}, topic {topic}")

        self._patiently(step)

    def produce(self, name: str, parts: Mapping[Partition, bytes]) -> dict[Partition, int]:
        """The batches are in the log; their offsets. Raises: NotOursError, InvalidInputError."""
        done: dict[Partition, int] = {}

        def step() -> dict[Partition, int]:
            by_leader: dict[int, list[Partition]] = {}
            for part in parts:
                if part not in done:
                    by_leader.setdefault(self._leader(part), []).append(part)
            for leader, mine in by_leader.items():
                topics = array(
                    text(topic) + array(int32(number) + blob(parts[topic, number]) for number in numbers)
                    for topic, numbers in _by_topic(mine).items()
                )
                body = text(name) + int16(-1) + int32(int(self._patience * 1000)) + topics
                reply = self._to_leader(leader, PRODUCE, body)
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
                    self._check(code, f"{name}, topic {topic}, partition {number}")
            return done

        return self._patiently(step)

    def end(self, name: str, producer: ProducerId, *, commit: bool) -> None:
        """The transaction is committed, or aborted; now or since before. Raises: NotOursError."""
        body = text(name) + int64(producer.id) + int16(producer.epoch) + int8(commit)

        def step() -> None:
            reply = self._to_coordinator(name, END_TXN, body)
            reply.int32()
            self._check(reply.int16(), f"the transactional id {name}")

        self._patiently(step)

    def list_transactions(self, prefix: str) -> list[str]:
        """All transactional ids that begin so, whatever became of them."""

        def step() -> list[str]:
            self._refresh(())
            names = set()
            for node in self._brokers:
                reply = self._call(self._brokers[node], LIST_TRANSACTIONS, compact_array(()) * 2 + NO_TAGS)
                reply.int32()
                self._check(reply.int16(), "the list of transactions")
                for _ in reply.compact_times():
                    reply.compact_text()
                for _ in reply.compact_times():
                    names.add(reply.compact_text())
                    reply.int64()
                    reply.compact_text()
                    reply.tags()
            return sorted(name for name in names if name.startswith(prefix))

        return self._patiently(step)

    def describe(self, names: Iterable[str]) -> dict[str, Described]:
        """What became of transactional ids."""
        wanted = list(names)

        def step() -> dict[str, Described]:
            found: dict[str, Described] = {}
            by_node: dict[int, list[str]] = {}
            for name in wanted:
                by_node.setdefault(self._coordinator(name), []).append(name)
            for node, mine in by_node.items():
                body = compact_array(map(compact_text, mine)) + NO_TAGS
                reply = self._call(self._brokers[node], DESCRIBE_TRANSACTIONS, body)
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
                    if code == _UNKNOWN_TRANSACTION:
                        found[name] = Described()
                    else:
                        self._check(code, f"the transactional id {name}")
                        found[name] = Described(state, timeout_ms, ProducerId(producer, epoch))
            return found

        return self._patiently(step)

    # Topics.

    def partitions(self, topic: str) -> tuple[int, ...]:
        """Of a topic. Raises: InvalidInputError where there is none."""

        def step() -> tuple[int, ...]:
            self._check(self._refresh((topic,))[topic], f"the topic {topic}")
            return tuple(sorted(number for name, number in self._leaders if name == topic))

        return self._patiently(step)

    def has_topic(self, topic: str) -> bool:
        """The brokers know it."""
        return self._patiently(lambda: self._refresh((topic,))[topic] != _UNKNOWN_TOPIC)

    def create_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        """A topic of one partition is there, made now or before."""
        configs = array(text(name) + text(value) for name, value in settings.items())
        body = array([text(topic) + int32(1) + int16(-1) + array(()) + configs]) + int32(10_000) + int8(0)

        def step() -> None:
            self._refresh(())
            reply = self._call(self._controller, CREATE_TOPICS, body)
            reply.int32()
            for _ in reply.times():
                reply.text()
                code = reply.int16()
                reply.text()
                if code != _TOPIC_EXISTS:
                    self._check(code, f"the topic {topic}")

        self._patiently(step)

    def log_start(self, part: Partition) -> int:
        """The first offset that is still there."""
        topic, number = part
        body = int32(-1) + int8(0) + array([text(topic) + array([int32(number) + int64(-2)])])

        def step() -> int:
            reply = self._to_leader(self._leader(part), LIST_OFFSETS, body)
            reply.int32()
            reply.times()
            reply.text()
            reply.times()
            reply.int32()
            self._check(reply.int16(), f"topic {topic}, partition {number}")
            reply.int64()
            return reply.int64()

        return self._patiently(step)

    def fetch(self, part: Partition, offset: int) -> list[Found]:
        """Batches from this offset, of transactions that are open and aborted too; none: the log ends here.

        Raises: OutOfRangeError.
        """
        topic, number = part
        body = int32(-1) + int32(0) + int32(0) + int32(_FETCH_BYTES) + int8(0)
        body += array([text(topic) + array([int32(number) + int64(offset) + int32(_FETCH_BYTES)])])

        def step() -> list[Found]:
            reply = self._to_leader(self._leader(part), FETCH, body)
            reply.int32()
            reply.times()
            reply.text()
            reply.times()
            reply.int32()
            code = reply.int16()
            if code == _OUT_OF_RANGE:
                raise OutOfRangeError(f"topic {topic}, partition {number} has no offset {offset}")
            self._check(code, f"topic {topic}, partition {number}")
            end = reply.int64()
            reply.int64()
            for _ in reply.times():
                reply.take(16)
            found = [one for one in batches(reply.blob()) if one.last_offset >= offset]
            if not found and offset < end:
                raise _AgainError(f"topic {topic}, partition {number}: nothing came from offset {offset}")
            return found

        return self._patiently(step)

    # Requests.

    def _patiently(self, step: Callable[[], _T]) -> _T:
        """What the step gives, once it does. Raises: UnavailableError."""
        self._until = time.monotonic() + self._patience
        wait = 0.002
        while True:
            try:
                return step()
            except (_AgainError, OSError) as error:
                self._leaders.clear()
                self._coordinators.clear()
                if time.monotonic() + wait > self._until:
                    message = f"Kafka did not do it within {self._patience:g} s: {error}"
                    raise UnavailableError(
                        message, hint="run the pipeline again; it goes on from its checkpoint"
                    ) from error
            time.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT_SECONDS)

    def _check(self, code: int, what: str) -> None:
        """Raises: what the code says, unless that is nothing."""
        if not code:
            return
        if code in _AGAIN or (code == _UNKNOWN_TOPIC and self._still(_UNKNOWN_TOPIC_SECONDS)):
            raise _AgainError(f"{what}: {_AGAIN.get(code, 'not known')}")
        if code in _NOT_OURS:
            raise NotOursError(f"Kafka, {what}: {_NOT_OURS[code]}", hint="stop this process if a newer one runs")
        if code in _DENIED:
            raise AccessDeniedError(f"Kafka, {what}: not allowed ({_DENIED[code]})", hint="which rights are missing?")
        if code == _BAD_TIMEOUT:
            message = f"Kafka, {what}: the broker allows no transaction to last so long"
            raise UsageError(
                message, hint="raise the broker's transaction.max.timeout.ms, or lower transaction_timeout"
            )
        if code == _UNKNOWN_TOPIC:
            raise InvalidInputError(f"Kafka, {what}: there is no such topic", hint="make it, or mend the name")
        if code in _REFUSED:
            raise InvalidInputError(f"Kafka, {what}: refused ({_REFUSED[code]})", hint="the broker will never take it")
        raise UnavailableError(
            f"Kafka, {what}: error {code}", hint="run the pipeline again; it goes on from its checkpoint"
        )

    def _still(self, seconds: float) -> bool:
        return time.monotonic() < self._until - self._patience + min(seconds, self._patience)

    def _to_coordinator(self, name: str, api: Api, body: bytes) -> Bytes:
        return self._call(self._brokers[self._coordinator(name)], api, body)

    def _coordinator(self, name: str) -> int:
        if name not in self._coordinators:
            reply = self._anywhere(FIND_COORDINATOR, text(name) + int8(1))
            reply.int32()
            code = reply.int16()
            reply.text()
            self._check(code, f"the coordinator of {name}")
            node = reply.int32()
            self._brokers[node] = reply.text(), reply.int32()
            self._coordinators[name] = node
        return self._coordinators[name]

    def _to_leader(self, leader: int, api: Api, body: bytes) -> Bytes:
        return self._call(self._brokers[leader], api, body)

    def _leader(self, part: Partition) -> int:
        if part not in self._leaders:
            self._check(self._refresh((part[0],))[part[0]], f"the topic {part[0]}")
            if part not in self._leaders:
                raise _AgainError(f"topic {part[0]}, partition {part[1]}: no leader")
        return self._leaders[part]

    def _refresh(self, topics: tuple[str, ...]) -> dict[str, int]:
        """Brokers, and the leaders of these topics; the error of each."""
        reply = self._anywhere(METADATA, array(map(text, topics)) + int8(0))
        reply.int32()
        brokers = {}
        for _ in reply.times():
            node = reply.int32()
            brokers[node] = reply.text(), reply.int32()
            reply.text()
        reply.text()
        controller = reply.int32()
        self._brokers = brokers
        self._controller = brokers.get(controller) or next(iter(brokers.values()))
        codes = {}
        for _ in reply.times():
            code, topic = reply.int16(), reply.text()
            codes[topic] = code
            reply.int8()
            for _ in reply.times():
                part_code, number, leader = reply.int16(), reply.int32(), reply.int32()
                for _ in range(2):
                    reply.take(4 * len(reply.times()))
                if not part_code and leader in brokers:
                    self._leaders[topic, number] = leader
        return codes

    def _anywhere(self, api: Api, body: bytes) -> Bytes:
        """Any broker may answer it. Raises: OSError where none does."""
        failure: OSError | None = None
        for address in dict.fromkeys([*self._sockets, *self._brokers.values(), *self._bootstrap]):
            try:
                return self._call(address, api, body)
            except OSError as error:
                failure = error
        assert failure is not None, "there is an address"
        raise failure

    def _call(self, address: Address, api: Api, body: bytes) -> Bytes:
        """Raises: OSError, and then the connection is gone."""
        try:
            if address not in self._sockets:
                self._sockets[address] = self._connected(address)
                self._check_versions(address)
            return self._exchange(self._sockets[address], api, body)
        except OSError as error:
            found = self._sockets.pop(address, None)
            if found is not None:
                found.close()
            message = f"{address[0]}:{address[1]}: {error}"
            raise ConnectionError(message) from error

    def _connected(self, address: Address) -> socket.socket:
        found = socket.create_connection(address, timeout=self._left())
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return found

    def _check_versions(self, address: Address) -> None:
        reply = self._exchange(self._sockets[address], VERSIONS, b"")
        reply.int16()
        offered = {}
        for _ in reply.times():
            key = reply.int16()
            offered[key] = reply.int16(), reply.int16()
        for api in _SPOKEN:
            low, high = offered.get(api.key, (0, -1))
            if not low <= api.version <= high:
                message = f"the broker at {address[0]}:{address[1]} does not speak {api.name} version {api.version}"
                raise UnsupportedError(message, hint="Kafka 3.0 or later")

    def _exchange(self, connection: socket.socket, api: Api, body: bytes) -> Bytes:
        self._number = (self._number + 1) & 0x7FFFFFFF
        head = int16(api.key) + int16(api.version) + int32(self._number) + text("eoctl")
        connection.settimeout(self._left())
        connection.sendall(blob(head + (NO_TAGS if api.flexible else b"") + body))
        length = int.from_bytes(_exactly(connection, 4), "big")
        if length > _MAX_REPLY_BYTES:
            raise ConnectionError("no reply of a Kafka broker")
        reply = Bytes(_exactly(connection, length))
        if reply.int32() != self._number:
            raise ConnectionError("a reply to something else")
        if api.flexible:
            reply.tags()
        return reply

    def _left(self) -> float:
        return max(0.05, self._until - time.monotonic())


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            raise ConnectionError("the broker closed the connection")
        parts += part
    return bytes(parts)


def _address(name: str) -> Address:
    host, _, port = name.strip().rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"not the address of a broker: {name!r}", hint="HOST:PORT, or several with commas")
    return host.strip("[]"), int(port)


def _by_topic(partitions: Iterable[Partition]) -> dict[str, list[int]]:
    topics: dict[str, list[int]] = {}
    for topic, number in partitions:
        topics.setdefault(topic, []).append(number)
    return topics
