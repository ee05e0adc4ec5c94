"""Kafka in two phases: what a subtask writes between two barriers is one transaction, ended by whoever has the permit.

A transactional id, `PREFIX/STORE/PIPELINE/SINK/ATTEMPT-SUBTASK-SLOT`, has one open transaction. So a subtask has as
many as it has transactions that wait for their commit, and one more. Each transaction begins with a new epoch of its
producer: the committable holds transactional id, producer id and epoch, which name this transaction for ever, so no
later one can be committed in its stead. The log of commits (kafka_commits.py) tells a transaction that was committed
before from one that was aborted.

Recovery commits what the restored checkpoint holds, and only then fences every transactional id of earlier attempts,
those of a larger parallelism too, by a new epoch, which aborts what is open. A zombie asks for an epoch only as the
successor of its own, so it cannot fence back; its names have its attempt, so it cannot reach a newer one's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct

from eoctl.ambient import system_ambient
from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.kafka_cluster import NotOursError, Partition
from eoctl.runtime.sinks.kafka_codec import Row, partition_of
from eoctl.runtime.sinks.kafka_codec import batch as encoded
from eoctl.runtime.sinks.kafka_commits import CommitLog
from eoctl.runtime.sinks.kafka_wire import NOBODY, Described, ProducerId, Wire
from eoctl.runtime.sinks.protocol import CommitPermit, Delivery, SinkContext
from formats.errors import CorruptError, EoctlError, FencedError, IncompatibleError, UnavailableError, UsageError
from formats.manifest import Transaction

RESTART_SECONDS = 60.0  # from a crash to the commits of the next attempt
FENCED_MS = 1  # the timeout of a transactional id that no writer has any more
BATCH_BYTES = 512 << 10
_BUFFER_BYTES = 4 << 20
_KEYS_KNOWN = 100_000
_CLOSING_SECONDS = 2.0


def json_bytes(record: Any) -> bytes:  # noqa: ANN401  (a record of any type)
    """A record as JSON."""
    import msgspec  # noqa: PLC0415  (used where this sink is)

    return msgspec.json.encode(record)


class KafkaTransactions(Struct, frozen=True, kw_only=True):
    """Records appended to `topic` in transactions. `key`: of a record; it chooses the partition, as in Java.

    `transaction_timeout`: seconds after which the broker aborts what nobody commits. `commits`: the topic for the log
    of commits, made where it is missing. `prefix`: of transactional ids, as access rights may want it.
    `client`: settings of TLS and SASL, as those of `KafkaTopic`.
    """

    bootstrap: str
    topic: str
    encode: Callable[[Any], bytes] = json_bytes
    key: Callable[[Any], bytes | None] | None = None
    transaction_timeout: float = 900.0
    commits: str = "eoctl-commits"
    prefix: str = "eoctl"
    client: dict[str, str] = {}

    @property
    def delivery(self) -> Delivery:
        return Delivery.TRANSACTIONAL

    def check_patience(self, seconds: float) -> None:
        """A transaction may last so long, and a restart more. Raises: UsageError."""
        needed = seconds + RESTART_SECONDS
        if self.transaction_timeout < needed:
            raise UsageError(
                f"transaction_timeout {self.transaction_timeout:g} s of the Kafka sink is shorter than "
                f"interval + min_pause + timeout of checkpoints, {seconds:g} s, and {RESTART_SECONDS:g} s for a "
                "restart: the broker could abort what a checkpoint holds",
                hint=f"transaction_timeout={needed:g} (the broker's transaction.max.timeout.ms must allow it), "
                "or a shorter timeout in Options",
            )

    def writer(self, context: SinkContext) -> KafkaWriter:
        return KafkaWriter(self, context)

    def committer(self, context: SinkContext) -> KafkaCommitter:
        return KafkaCommitter(self, context)


class _Names:
    """What a sink's transactions are called in Kafka."""

    def __init__(self, sink: KafkaTransactions, context: SinkContext) -> None:
        self.sink = f"{sink.prefix}/{context.store[:8]}/{context.pipeline}/{context.uid}"

    def of(self, attempt: int, subtask: int, slot: int) -> str:
        return f"{self.sink}/{attempt}-{subtask}-{slot}"

    def attempt_of(self, name: str) -> int | None:
        """The attempt that a transactional id is of; None of what is none of this sink."""
        numbers = name.removeprefix(f"{self.sink}/").split("-")
        ours = name.startswith(f"{self.sink}/") and len(numbers) == 3 and all(map(str.isdecimal, numbers))
        return int(numbers[0]) if ours else None

    def of_transaction(self, transaction: str) -> str:
        """`UID-ATTEMPT-CHECKPOINT-SUBTASK-SLOT`."""
        attempt, _, subtask, slot = transaction.rsplit("-", 4)[1:]
        return self.of(int(attempt), int(subtask), int(slot))


class _Slot:
    """A transactional id of a writer."""

    def __init__(self, number: int, name: str) -> None:
        self.number = number
        self.name = name
        self.producer = NOBODY
        self.fresh = False  # the epoch has had no transaction
        self.waits = False  # its transaction was handed over
        self.began = 0.0


class KafkaWriter:
    """Its open transaction, and those that wait for their commit."""

    def __init__(self, sink: KafkaTransactions, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._names = _Names(sink, context)
        self._wire = Wire(sink.bootstrap, sink.client)
        self._log = CommitLog(self._wire, sink.commits, self._names.sink)
        self._slots: list[_Slot] = []
        self._open: _Slot | None = None
        self._added: set[Partition] = set()
        self._sequences: dict[Partition, int] = {}
        self._rows: dict[Partition, list[Row]] = {}
        self._buffered = 0
        self._records = 0
        self._partition_of: dict[bytes, int] = {}
        self._turn = context.subtask
        self._now = system_ambient().now
        with contextlib.ExitStack() as stack:
            stack.callback(self._wire.close)
            self._log.make()
            self._partitions = self._wire.partitions(sink.topic)
            self._prepare(self._new_slot())  # what the broker refuses is told at the start
            stack.pop_all()

    def write(self, batch: Batch) -> None:
        if not len(batch):
            return
        if self._open is None:
            self._begin()
        encode, key_of = self._sink.encode, self._sink.key
        self._turn = (self._turn + 1) % len(self._partitions)
        for record in batch.values:
            value = encode(record)
            key = None if key_of is None else key_of(record)
            number = self._partitions[self._turn] if key is None else self._place(key)
            self._put((self._sink.topic, number), Row(value, key))
            if self._buffered > _BUFFER_BYTES:
                self._flush()
        self._records += len(batch)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        slot, committables = self._open, []
        if slot is not None:
            name = f"{self._context.transaction_id(checkpoint)}-{slot.number}"
            self._put(self._log.part, self._log.row(name, checkpoint))
            properties = {
                "attempt": str(self._context.attempt),
                "records": str(self._records),
                "transactional-id": slot.name,
                "producer-id": str(slot.producer.id),
                "epoch": str(slot.producer.epoch),
                "commits": self._sink.commits,
                "mark": str(self._flush()),
            }
            committables.append(
                Transaction(
                    id=name,
                    state="pre-committed",
                    checkpoint=checkpoint,
                    subtask=self._context.subtask,
                    properties=properties,
                )
            )
            slot.waits, self._open, self._records = True, None, 0
        self._look()
        return tuple(committables)

    def close(self) -> None:
        if self._open is not None:
            self._wire.hurry(_CLOSING_SECONDS)
            with contextlib.suppress(EoctlError):  # the next attempt aborts it, or its timeout
                self._wire.end(self._open.name, self._open.producer, commit=False)
        self._wire.close()

    def _put(self, part: Partition, row: Row) -> None:
        self._rows.setdefault(part, []).append(row)
        self._buffered += len(row.value or b"") + len(row.key or b"")

    def _place(self, key: bytes) -> int:
        found = self._partition_of.get(key)
        if found is None:
            if len(self._partition_of) >= _KEYS_KNOWN:
                self._partition_of.clear()
            found = self._partition_of[key] = self._partitions[partition_of(key, len(self._partitions))]
        return found

    # Transactions.

    def _new_slot(self) -> _Slot:
        number = len(self._slots)
        slot = _Slot(number, self._names.of(self._context.attempt, self._context.subtask, number))
        self._slots.append(slot)
        return slot

    def _prepare(self, slot: _Slot) -> None:
        """The slot has a new epoch, unless somebody has fenced it. Raises: FencedError."""
        if not slot.fresh:
            with self._told(slot):
                timeout_ms = int(self._sink.transaction_timeout * 1000)
                slot.producer = self._wire.init_producer(slot.name, timeout_ms, slot.producer)
            slot.fresh = True

    def _begin(self) -> None:
        self._look()
        slot = next((one for one in self._slots if not one.waits), None) or self._new_slot()
        self._prepare(slot)
        self._open, slot.fresh, slot.began = slot, False, time.monotonic()
        self._added.clear()
        self._sequences.clear()

    def _look(self) -> None:
        """Slots whose transactions were committed are free; those that wait will last until their commit.

        Raises: UnavailableError, before a checkpoint can hold what the broker has aborted or soon will.
        """
        waiting = [slot for slot in self._slots if slot.waits]
        found = self._wire.describe(slot.name for slot in waiting) if waiting else {}
        for slot in waiting:
            now = found[slot.name]
            if now.producer != slot.producer or now.state not in {"Ongoing", "PrepareCommit", "CompleteCommit"}:
                raise self._ended(slot, now)
            slot.waits = now.state != "CompleteCommit"
            left = slot.began + self._sink.transaction_timeout - time.monotonic()
            if now.state == "Ongoing" and left < self._context.checkpoint_seconds + RESTART_SECONDS:
                raise UnavailableError(
                    f"Kafka would abort a transaction of {self._context.uid} in {left:.0f} s, before its checkpoint "
                    "and a restart are surely over",
                    hint="run the pipeline again: it goes on from its checkpoint, and nothing is lost; "
                    "a longer transaction_timeout, or faster checkpoints, prevent it",
                )

    def _flush(self) -> int:
        """All rows are in the log; the offset of the last one for the log of commits, or -1."""
        slot, mark = self._open, -1
        assert slot is not None, "rows are in a transaction"
        with self._told(slot):
            new = self._rows.keys() - self._added
            if new:
                # With the first partition, so that it is one request.
                new |= {self._log.part} - self._added
                self._wire.add_partitions(slot.name, slot.producer, sorted(new))
                self._added |= new
            time_ms = int(datetime.fromisoformat(self._now()).timestamp() * 1000)
            while self._rows:
                parts = {}
                for part, rows in list(self._rows.items()):
                    count = _fitting(rows)
                    sequence = self._sequences.get(part, 0)
                    parts[part] = encoded(
                        rows[:count],
                        producer=slot.producer.id,
                        epoch=slot.producer.epoch,
                        sequence=sequence,
                        time_ms=time_ms,
                    )
                    self._sequences[part] = sequence + count
                    if count == len(rows):
                        del self._rows[part]
                    else:
                        self._rows[part] = rows[count:]
                mark = self._wire.produce(slot.name, parts).get(self._log.part, mark)
        self._buffered = 0
        return mark

    @contextlib.contextmanager
    def _told(self, slot: _Slot) -> Iterator[None]:
        """That a transaction is not ours any more is told with the reason."""
        try:
            yield
        except NotOursError as error:
            raise self._ended(slot, self._wire.describe([slot.name])[slot.name]) from error

    def _ended(self, slot: _Slot, now: Described) -> EoctlError:
        if now.timeout_ms == FENCED_MS:
            return FencedError(
                f"attempt {self._context.attempt} of {self._context.pipeline} is fenced in Kafka: {slot.name}",
                hint="a newer attempt has aborted its transactions; stop this process",
            )
        return UnavailableError(
            f"Kafka has aborted the transaction {slot.name}, begun {time.monotonic() - slot.began:.0f} s ago "
            f"with a timeout of {self._sink.transaction_timeout:g} s",
            hint="run the pipeline again: it goes on from its checkpoint; a longer transaction_timeout prevents it",
        )


class KafkaCommitter:
    """Ends transactions by the ids in their committables."""

    def __init__(self, sink: KafkaTransactions, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._names = _Names(sink, context)
        self._wire = Wire(sink.bootstrap, sink.client)
        self._log = CommitLog(self._wire, sink.commits, self._names.sink)

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        assert transaction.checkpoint <= permit.checkpoint, "permitted"
        properties = transaction.properties
        if not properties.keys() >= {"transactional-id", "producer-id", "epoch", "commits", "mark"}:
            message = f"the transaction {transaction.id} in the checkpoint is none of Kafka's"
            raise IncompatibleError(message, hint="give the sink another uid than the one before it had")
        name = properties["transactional-id"]
        producer = ProducerId(int(properties["producer-id"]), int(properties["epoch"]))
        try:
            self._wire.end(name, producer, commit=True)
        except NotOursError as error:
            log = CommitLog(self._wire, properties["commits"], self._names.sink)
            if not log.became_visible(transaction.id, int(properties["mark"])):
                raise self._lost(transaction, name) from error

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:
        kept = {self._names.of_transaction(one) for one in keep}
        attempts = {name: self._names.attempt_of(name) for name in self._wire.list_transactions(self._names.sink + "/")}
        older = [name for name, attempt in attempts.items() if attempt is not None and attempt < self._context.attempt]
        gone = []
        for name, now in self._wire.describe(older).items():
            if now.timeout_ms == FENCED_MS or (name in kept and now.state == "Ongoing"):
                continue
            self._wire.init_producer(name, FENCED_MS)
            if now.state == "Ongoing":
                gone.append(name)
        return gone

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:
        return tuple(name.transaction for name in self._log.committed() if name.checkpoint > checkpoint)

    def close(self) -> None:
        self._wire.close()

    def _lost(self, transaction: Transaction, name: str) -> CorruptError:
        fenced = self._wire.describe([name])[name].timeout_ms == FENCED_MS
        records = transaction.properties["records"]
        return CorruptError(
            f"the transaction {transaction.id} of checkpoint {transaction.checkpoint} is gone, and was not committed: "
            + ("a recovery that did not hold it" if fenced else "Kafka, after its timeout,")
            + f" has aborted it; {records} records are not in {self._sink.topic}",
            hint=f"restore a checkpoint before {transaction.checkpoint} to have them written again"
            + ("" if fenced else ", and give the sink a longer transaction_timeout"),
        )


def _fitting(rows: list[Row]) -> int:
    """How many rows go into one batch; at least one."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row.value or b"") + len(row.key or b"") + 16
        if size > BATCH_BYTES and number:
            return number
    return len(rows)
