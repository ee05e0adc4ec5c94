"""The log of commits: a topic in which each transaction writes its own name, so that the name is there if it is.

    key     PREFIX/STORE/PIPELINE/SINK
    value   {"transaction": "ledger-3-17-0-1", "checkpoint": 17}

It is read with what is open and aborted, and with the control batches that end transactions: the first one of a
producer after its name says what became of it, for as long as the topic keeps both.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from eoctl.runtime.sinks.kafka_cluster import PATIENCE_SECONDS, OutOfRangeError, Partition
from eoctl.runtime.sinks.kafka_codec import Found, Row
from eoctl.runtime.sinks.kafka_wire import Wire
from formats.errors import CorruptError, UnavailableError

KEPT_DAYS = 30
_WAIT_SECONDS = 0.02  # until the end of a transaction has reached its partitions
_SETTINGS = {
    "cleanup.policy": "delete",
    "compression.type": "uncompressed",
    "retention.ms": str(KEPT_DAYS * 24 * 60 * 60 * 1000),
}


class Name(Struct, frozen=True):
    """Of a transaction, as it is in the log."""

    transaction: str
    checkpoint: int


class CommitLog:
    """The log of commits of one sink, of all its subtasks and attempts."""

    def __init__(self, wire: Wire, topic: str, key: str) -> None:
        self.part: Partition = (topic, 0)
        self._wire = wire
        self._key = key.encode()

    def make(self) -> None:
        """The topic is there."""
        if not self._wire.has_topic(self.part[0]):
            self._wire.create_topic(self.part[0], _SETTINGS)

    def row(self, transaction: str, checkpoint: int) -> Row:
        return Row(msgspec.json.encode(Name(transaction, checkpoint)), self._key)

    def became_visible(self, transaction: str, mark: int) -> bool:
        """Whether the transaction whose name is at offset `mark` was committed.

        Raises: CorruptError where the log cannot tell, UnavailableError where it is not over.
        """
        until = time.monotonic() + PATIENCE_SECONDS
        while (found := self._end_of(transaction, mark)) is None:
            if time.monotonic() > until:
                message = f"Kafka is still ending the transaction {transaction}"
                raise UnavailableError(message, hint="run the pipeline again; it goes on from its checkpoint")
            time.sleep(_WAIT_SECONDS)
        return found

    def _end_of(self, transaction: str, mark: int) -> bool | None:
        producer: int | None = None
        try:
            for found in self._from(mark):
                if producer is None:
                    # It may be of a store that this one is a copy of.
                    if found.control or transaction not in {name.transaction for name in _names(found)}:
                        raise CorruptError(
                            f"{self.part[0]}, offset {mark}: {transaction} is not there",
                            hint="was the topic made anew?",
                        )
                    producer = found.producer
                elif found.control and found.producer == producer:
                    return found.commits
        except OutOfRangeError as error:
            message = f"whether {transaction} was committed cannot be told: {error.message}"
            raise CorruptError(message, hint="keep the log of commits as long as snapshots are restored") from error
        return None

    def committed(self) -> Iterator[Name]:
        """What of this sink was committed, in its order."""
        if not self._wire.has_topic(self.part[0]):
            return
        open_names: dict[int, list[Name]] = {}
        for found in self._from(self._wire.log_start(self.part)):
            if not found.control:
                open_names.setdefault(found.producer, []).extend(_names(found, self._key))
                continue
            names = open_names.pop(found.producer, [])
            if found.commits:
                yield from names

    def _from(self, offset: int) -> Iterator[Found]:
        while batches := self._wire.fetch(self.part, offset):
            yield from batches
            offset = batches[-1].last_offset + 1


def _names(found: Found, of: bytes | None = None) -> list[Name]:
    """In a batch; of one sink, or of all."""
    return [
        msgspec.json.decode(value, type=Name) for _, key, value in found.rows if value is not None and of in {None, key}
    ]
