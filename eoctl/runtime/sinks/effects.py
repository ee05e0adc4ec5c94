"""Deferred effects: mail, calls of other services; run after the checkpoint that contains them is complete.

An effect is a record and its key. It waits in the checkpoint, so it is not lost, and is not run for a checkpoint that
never was. It runs at least once, after a crash perhaps again, always with the same key: whoever receives it drops what
he has seen. So keys have to follow from the record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import CommitPermit, Delivery, SinkContext
from formats.errors import CorruptError
from formats.manifest import Transaction
from formats.plain import decode_plain, encode_plain

EFFECTS_TOGETHER = 500  # in one transaction


class DeferredEffects(Struct, frozen=True):
    """`run(key, record)` for each record, with `key(record)`. What it raises of ours is tried again."""

    run: Callable[[str, Any], None]
    key: Callable[[Any], str]

    @property
    def delivery(self) -> Delivery:
        return Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> EffectWriter:
        return EffectWriter(self, context)

    def committer(self, context: SinkContext) -> EffectCommitter:  # noqa: ARG002  (all it needs is in the transaction)
        return EffectCommitter(self)


class EffectWriter:
    """Effects of an epoch, each key once."""

    def __init__(self, sink: DeferredEffects, context: SinkContext) -> None:
        self._sink = sink
        self._context = context
        self._waiting: dict[str, Any] = {}

    def write(self, batch: Batch) -> None:
        self._waiting.update((self._sink.key(record), record) for record in batch.values)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        effects, self._waiting = list(self._waiting.items()), {}
        return tuple(
            Transaction(
                id=f"{self._context.transaction_id(checkpoint)}.{start // EFFECTS_TOGETHER}",
                state="pre-committed",
                checkpoint=checkpoint,
                subtask=self._context.subtask,
                properties={
                    "attempt": str(self._context.attempt),
                    "records": str(len(effects[start : start + EFFECTS_TOGETHER])),
                },
                payload=encode_plain(effects[start : start + EFFECTS_TOGETHER]),
            )
            for start in range(0, len(effects), EFFECTS_TOGETHER)
        )

    def close(self) -> None:
        pass


class EffectCommitter:
    """Runs effects. What this process has run of a transaction it does not run again."""

    def __init__(self, sink: DeferredEffects) -> None:
        self._sink = sink
        self._done: set[tuple[str, str]] = set()

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        assert transaction.checkpoint <= permit.checkpoint, "permitted"
        effects = decode_plain(transaction.payload)
        if not isinstance(effects, list):
            raise CorruptError(f"transaction {transaction.id} holds no effects")
        for key, record in effects:
            if (transaction.id, key) not in self._done:
                self._sink.run(key, record)
                self._done.add((transaction.id, key))
        self._done = {one for one in self._done if one[0] != transaction.id}

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:  # noqa: ARG002  (nothing is outside the checkpoint)
        return ()

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:  # noqa: ARG002  (what comes again has its key)
        return ()

    def close(self) -> None:
        pass
