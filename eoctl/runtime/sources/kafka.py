"""A Kafka topic: each partition is a split, its position the offset of the next record. Needs confluent-kafka.

Positions come from the checkpoint alone: partitions are assigned and sought, no group is joined, no offset committed.
Only committed records are read. A position that the broker does not have is an error, never another position.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sources.generator import number_at
from eoctl.runtime.sources.protocol import ENDED, NOTHING_YET, Polled, Position
from formats.errors import (
    AccessDeniedError,
    CorruptError,
    EoctlError,
    InvalidInputError,
    UnavailableError,
    UnsupportedError,
)

if TYPE_CHECKING:
    import confluent_kafka

_PROBE_SECONDS = 5.0
_OURS = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": True,
    "allow.auto.create.topics": False,
    "fetch.wait.max.ms": 20,
    "log.connection.close": False,
}


class KafkaRecord(Struct, frozen=True, gc=False):
    """A record as it is in the topic. `timestamp`: milliseconds; -1: it has none."""

    value: bytes | None
    key: bytes | None
    timestamp: int
    partition: int
    offset: int


def json_value(record: KafkaRecord) -> Any:  # noqa: ANN401  (whatever is in it)
    """The record's value as JSON; of a tombstone `None`."""
    return None if record.value is None else msgspec.json.decode(record.value)


class KafkaTopic(Struct, frozen=True, kw_only=True):
    """The records of `topic`, as `decode` makes them of a `KafkaRecord`.

    `follow`: wait for more; else it ends where each partition ends. `client`: more settings of confluent-kafka, such as
    those of TLS and SASL. `patience_seconds`: for how long no broker may answer.
    """

    bootstrap: str
    topic: str
    decode: Callable[[KafkaRecord], Any] = json_value
    follow: bool = False
    client: dict[str, str] = {}
    patience_seconds: float = 30.0
    replayable: bool = True

    def splits(self) -> tuple[str, ...]:
        consumer = connected(self, lambda _: None)
        try:
            with told(self.topic):
                found = consumer.list_topics(self.topic, timeout=self.patience_seconds).topics[self.topic]
                numbers = sorted(found.partitions)
        finally:
            consumer.close()
        if found.error is not None or not numbers:
            message = f"Kafka, {self.bootstrap}: there is no topic {self.topic} to be read: {found.error}"
            raise InvalidInputError(message, hint="make it, or mend the name")
        return tuple(f"{self.topic}-{number}" for number in numbers)

    def reader(self, splits: tuple[str, ...], positions: Mapping[str, Position]) -> PartitionReader:
        return PartitionReader(self, splits, positions)


class PartitionReader:
    """One consumer; what it fetched waits here, by partition."""

    def __init__(self, source: KafkaTopic, splits: tuple[str, ...], positions: Mapping[str, Position]) -> None:
        import confluent_kafka  # noqa: PLC0415  (an extra)

        self._source = source
        self._numbers = {split: int(split.rpartition("-")[2]) for split in splits}
        self._splits = {number: split for split, number in self._numbers.items()}
        self._next: dict[str, Position] = {}
        self._fetched: dict[int, list[confluent_kafka.Message]] = {}
        self._turn: collections.deque[int] = collections.deque()
        self._at_end: set[int] = set()
        self._closed: set[int] = set()
        self._silent_since: float | None = None
        self._end_code = confluent_kafka.KafkaError._PARTITION_EOF  # noqa: SLF001  (its public name)
        self._consumer = connected(source, self._on_error)
        if not splits:
            return
        try:
            with told(source.topic):
                self._consumer.assign([self._start(split, positions) for split in splits])
        except EoctlError:
            self._consumer.close()
            raise

    def poll(self, limit: int) -> Polled:
        if len(self._closed) == len(self._splits):
            return ENDED
        if not self._turn:
            self._fetch(limit)
        if self._turn:
            return self._take(self._turn.popleft(), limit)
        if not self._source.follow:
            for number in self._at_end - self._closed:
                self._closed.add(number)
                return Polled(split=self._splits[number], closed=True)
        return NOTHING_YET

    def positions(self) -> Mapping[str, Position]:
        return self._next

    def close(self) -> None:
        self._consumer.close()

    def _start(self, split: str, positions: Mapping[str, Position]) -> confluent_kafka.TopicPartition:
        """Where to begin. Raises: CorruptError."""
        from confluent_kafka import TopicPartition  # noqa: PLC0415  (an extra)

        part = TopicPartition(self._source.topic, self._numbers[split])
        low, high = self._consumer.get_watermark_offsets(part, timeout=self._source.patience_seconds)
        part.offset = low
        if split in positions:
            part.offset = number_at(split, positions[split])
            if not low <= part.offset <= high:
                raise self._gone(self._numbers[split], part.offset, low, high)
        self._next[split] = part.offset
        return part

    def _fetch(self, limit: int) -> None:
        with told(self._source.topic):
            messages = self._consumer.consume(limit, timeout=0)
        for message in messages:
            number, error = message.partition(), message.error()
            assert number is not None, "of a partition that was assigned"
            if number in self._closed:
                continue  # it is read on from its position, next time
            if error is None:
                waiting = self._fetched.setdefault(number, [])
                if not waiting:
                    self._turn.append(number)
                waiting.append(message)
                self._at_end.discard(number)
            elif error.code() == self._end_code:
                self._at_end.add(number)
            else:
                self._fail(error, number)
        if messages:
            self._silent_since = None
        elif self._silent_since is not None and time.monotonic() - self._silent_since > self._source.patience_seconds:
            self._probe()

    def _take(self, number: int, limit: int) -> Polled:
        messages = self._fetched[number]
        if len(messages) > limit:
            self._fetched[number] = messages[limit:]
            messages = messages[:limit]
            self._turn.append(number)
        else:
            self._fetched[number] = []
        split, decode = self._splits[number], self._source.decode
        values, offset = [], -1
        try:
            for message in messages:
                offset = message.offset() or 0
                kind, stamp = message.timestamp()
                values.append(
                    decode(KafkaRecord(message.value(), message.key(), stamp if kind else -1, number, offset))
                )
        except ValueError as error:
            message_text = f"{self._source.topic}, partition {number}, offset {offset} cannot be read: {error}"
            raise InvalidInputError(message_text, hint="give a decode function that can") from error
        self._next[split] = offset + 1
        return Polled(Batch(values), split)

    def _on_error(self, error: confluent_kafka.KafkaError) -> None:
        if error.code() == error._ALL_BROKERS_DOWN and self._silent_since is None:  # noqa: SLF001  (its public name)
            self._silent_since = time.monotonic()

    def _probe(self) -> None:
        """A broker answers. Raises: UnavailableError."""
        with told(self._source.topic):
            self._consumer.list_topics(self._source.topic, timeout=_PROBE_SECONDS)
        self._silent_since = None

    def _fail(self, error: confluent_kafka.KafkaError, number: int) -> None:
        """Raises: CorruptError where the position is gone, else what the error says."""
        from confluent_kafka import KafkaException, TopicPartition  # noqa: PLC0415  (an extra)

        with told(self._source.topic):
            if error.code() in {error._AUTO_OFFSET_RESET, error.OFFSET_OUT_OF_RANGE}:  # noqa: SLF001  (as above)
                part = TopicPartition(self._source.topic, number)
                low, high = self._consumer.get_watermark_offsets(part, timeout=self._source.patience_seconds)
                raise self._gone(number, int(self._next[self._splits[number]]), low, high)
            raise KafkaException(error)

    def _gone(self, number: int, wanted: int, low: int, high: int) -> CorruptError:
        return CorruptError(
            f"topic {self._source.topic}, partition {number}: offset {wanted} is wanted, and {low} to {high} are there",
            hint="retention took it, or the topic was made anew: restore a newer checkpoint, or begin without one",
        )


def connected(source: KafkaTopic, on_error: Callable[[confluent_kafka.KafkaError], None]) -> confluent_kafka.Consumer:
    """A consumer that belongs to no group. Raises: UnsupportedError, InvalidInputError."""
    try:
        import confluent_kafka  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise UnsupportedError("confluent-kafka is not installed", hint="pip install 'eoctl[kafka]'") from error

    with told(source.topic):
        timeout_ms = int(min(60.0, max(1.0, source.patience_seconds)) * 1000)
        settings = {
            "group.id": "eoctl",
            "socket.timeout.ms": timeout_ms,
            **source.client,
            "bootstrap.servers": source.bootstrap,
            **_OURS,
        }
        return confluent_kafka.Consumer({**settings, "error_cb": on_error, "log_level": 0})


@contextmanager
def told(topic: str) -> Iterator[None]:
    """What the client raises is raised as an error of ours."""
    import confluent_kafka  # noqa: PLC0415  (an extra)

    try:
        yield
    except confluent_kafka.KafkaException as raised:
        error = raised.args[0]
        message = f"Kafka, topic {topic}: {error.str()}"
        if error.code() in {error.TOPIC_AUTHORIZATION_FAILED, error._AUTHENTICATION}:  # noqa: SLF001  (its public name)
            raise AccessDeniedError(
                message, hint="which rights, or which of client's settings, are missing?"
            ) from raised
        if error.code() in {error.UNKNOWN_TOPIC_OR_PART, error._UNKNOWN_PARTITION, error._INVALID_ARG}:  # noqa: SLF001
            raise InvalidInputError(message, hint="mend the name, or the client's settings") from raised
        raise UnavailableError(message, hint="run the pipeline again; it goes on from its checkpoint") from raised
