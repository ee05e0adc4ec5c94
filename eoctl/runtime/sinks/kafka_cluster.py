"""Requests to the brokers of a Kafka cluster: to any of them, to a partition's leader, to a coordinator.

One request at a time, each of a pinned version, sent again until it is answered or patience ends: whatever is sent here
may be repeated. What a broker refuses is raised as an error of ours.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

from msgspec import Struct

from eoctl.runtime.sinks.kafka_codec import NO_TAGS, Bytes, array, blob, int8, int16, int32, text
from eoctl.runtime.sinks.kafka_security import Security
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
_UNKNOWN_TOPIC_SECONDS = 2.0  # a topic that was just made is not known everywhere at once
_LONGEST_WAIT_SECONDS = 0.25
_CONNECT_SECONDS = 5.0  # others may be there
_MAX_REPLY_BYTES = 64 << 20

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
SASL_HANDSHAKE = Api("SaslHandshake", 17, 1)
SASL_AUTHENTICATE = Api("SaslAuthenticate", 36, 0)
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

OUT_OF_RANGE, UNKNOWN_TOPIC, TOPIC_EXISTS, _BAD_TIMEOUT, UNKNOWN_TRANSACTION = 1, 3, 36, 50, 105
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


class AgainError(Exception):
    """It may be different after a while."""


class Cluster:
    """Connections to the brokers of a cluster, made when they are needed."""

    def __init__(
        self, bootstrap: str, settings: Mapping[str, str] | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        """`settings`: of kafka_security.py."""
        self._security = Security(settings or {})
        self._bootstrap = [_address(one) for one in bootstrap.split(",")]
        self.patience_seconds = patience_seconds
        self._sockets: dict[Address, socket.socket] = {}
        self.brokers: dict[int, Address] = {}
        self.leaders: dict[Partition, int] = {}
        self._coordinators: dict[str, int] = {}
        self.controller = self._bootstrap[0]
        self._number = 0
        self._until = 0.0

    def hurry(self, patience_seconds: float) -> None:
        """From now on it gives up sooner."""
        self.patience_seconds = patience_seconds

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def patiently(self, step: Callable[[], _T]) -> _T:
        """What the step gives, once it does. Raises: UnavailableError."""
        self._until = time.monotonic() + self.patience_seconds
        wait = 0.002
        while True:
            try:
                return step()
            except (AgainError, OSError) as error:
                self.leaders.clear()
                self._coordinators.clear()
                if time.monotonic() + wait > self._until:
                    message = f"Kafka did not do it within {self.patience_seconds:g} s: {error}"
                    raise UnavailableError(
                        message, hint="run the pipeline again; it goes on from its checkpoint"
                    ) from error
            time.sleep(wait)
            wait = min(wait * 1.5, _LONGEST_WAIT_SECONDS)

    def check(self, code: int, what: str) -> None:
        """Raises: what the code says, unless that is nothing."""
        if not code:
            return
        if code in _AGAIN or (code == UNKNOWN_TOPIC and self._still(_UNKNOWN_TOPIC_SECONDS)):
            raise AgainError(f"{what}: {_AGAIN.get(code, 'not known')}")
        if code in _NOT_OURS:
            raise NotOursError(f"Kafka, {what}: {_NOT_OURS[code]}", hint="stop this process if a newer one runs")
        if code in _DENIED:
            raise AccessDeniedError(f"Kafka, {what}: not allowed ({_DENIED[code]})", hint="which rights are missing?")
        if code == _BAD_TIMEOUT:
            message = f"Kafka, {what}: the broker allows no transaction to last so long"
            raise UsageError(
                message, hint="raise the broker's transaction.max.timeout.ms, or lower transaction_timeout"
            )
        if code == UNKNOWN_TOPIC:
            raise InvalidInputError(f"Kafka, {what}: there is no such topic", hint="make it, or mend the name")
        if code in _REFUSED:
            raise InvalidInputError(f"Kafka, {what}: refused ({_REFUSED[code]})", hint="the broker will never take it")
        raise UnavailableError(
            f"Kafka, {what}: error {code}", hint="run the pipeline again; it goes on from its checkpoint"
        )

    def _still(self, seconds: float) -> bool:
        return time.monotonic() < self._until - self.patience_seconds + min(seconds, self.patience_seconds)

    def to_coordinator(self, name: str, api: Api, body: bytes) -> Bytes:
        return self.call(self.brokers[self.coordinator(name)], api, body)

    def coordinator(self, name: str) -> int:
        if name not in self._coordinators:
            reply = self._anywhere(FIND_COORDINATOR, text(name) + int8(1))
            reply.int32()
            code = reply.int16()
            reply.text()
            self.check(code, f"the coordinator of {name}")
            node = reply.int32()
            self.brokers[node] = reply.text(), reply.int32()
            self._coordinators[name] = node
        return self._coordinators[name]

    def to_leader(self, leader: int, api: Api, body: bytes) -> Bytes:
        return self.call(self.brokers[leader], api, body)

    def leader(self, part: Partition) -> int:
        if part not in self.leaders:
            self.check(self.refresh((part[0],))[part[0]], f"the topic {part[0]}")
            if part not in self.leaders:
                raise AgainError(f"topic {part[0]}, partition {part[1]}: no leader")
        return self.leaders[part]

    def refresh(self, topics: tuple[str, ...]) -> dict[str, int]:
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
        self.brokers = brokers
        self.controller = brokers.get(controller) or next(iter(brokers.values()))
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
                    self.leaders[topic, number] = leader
        return codes

    def _anywhere(self, api: Api, body: bytes) -> Bytes:
        """Any broker may answer it. Raises: OSError where none does."""
        failure: OSError | None = None
        for address in dict.fromkeys([*self._sockets, *self.brokers.values(), *self._bootstrap]):
            try:
                return self.call(address, api, body)
            except OSError as error:
                failure = error
        assert failure is not None, "there is an address"
        raise failure

    def call(self, address: Address, api: Api, body: bytes) -> Bytes:
        """Raises: OSError, and then the connection is gone."""
        try:
            if address not in self._sockets:
                self._sockets[address] = self._connected(address)
                self._check_versions(address)
                self._authenticate(address)
            return self._exchange(self._sockets[address], api, body)
        except OSError as error:
            found = self._sockets.pop(address, None)
            if found is not None:
                found.close()
            message = f"{address[0]}:{address[1]}: {error}"
            raise ConnectionError(message) from error

    def _connected(self, address: Address) -> socket.socket:
        found = socket.create_connection(address, timeout=min(self._left(), _CONNECT_SECONDS))
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._security.wrap(found, address[0])

    def _authenticate(self, address: Address) -> None:
        """Raises: AccessDeniedError."""
        connection, mechanism = self._sockets[address], self._security.mechanism
        if not mechanism:
            return
        reply = self._exchange(connection, SASL_HANDSHAKE, text(mechanism))
        if reply.int16():
            offered = ", ".join(reply.text() for _ in reply.times())
            raise AccessDeniedError(f"the broker does not know {mechanism}", hint=f"it knows {offered}")

        def ask(step: bytes) -> bytes:
            answer = self._exchange(connection, SASL_AUTHENTICATE, blob(step))
            code, message = answer.int16(), answer.text()
            if code:
                raise AccessDeniedError(f"Kafka: {message or 'not allowed'}", hint="sasl.username, sasl.password?")
            return answer.blob()

        self._security.authenticate(ask)

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
