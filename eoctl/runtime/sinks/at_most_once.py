"""At most once, for a sink that cannot take anything back: written after the checkpoint is complete, and never again.

What an epoch gave waits in memory until its checkpoint is complete. A crash before that loses it with the epoch, which
is replayed; a crash after it loses what was not written yet, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Iterable

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import CommitPermit, SinkContext, Writer
from formats.manifest import Transaction


class AtMostOnce:
    """Both phases around a writer that has none."""

    def __init__(self, writer: Writer, context: SinkContext) -> None:
        self._writer = writer
        self._context = context
        self._now: list[Batch] = []
        self._waiting: dict[str, list[Batch]] = {}

    def write(self, batch: Batch) -> None:
        self._now.append(batch)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        if not self._now:
            return ()
        name = self._context.transaction_id(checkpoint)
        self._waiting[name], self._now = self._now, []
        return (Transaction(id=name, state="pre-committed", checkpoint=checkpoint, subtask=self._context.subtask),)

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        assert transaction.checkpoint <= permit.checkpoint, "permitted"
        for batch in self._waiting.pop(transaction.id, ()):
            self._writer.write(batch)
        self._writer.pre_commit(transaction.checkpoint)

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:  # noqa: ARG002  (it was in memory)
        return ()

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:  # noqa: ARG002  (nobody can tell)
        return ()

    def close(self) -> None:
        self._writer.close()
