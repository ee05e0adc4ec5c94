"""What a sink promises, and the permit without which nothing becomes visible.

A *transactional* sink writes in two phases. Its writer begins a transaction by writing; `pre_commit` at the barrier
makes what was written durable and invisible, and hands over a `Transaction` that goes into the checkpoint; `commit`
makes it visible once a permit says that the checkpoint is complete. Commits are idempotent: after a crash they are
done again, and a zombie may do them again. An *idempotent* sink writes at once, under keys that are the same however
often a record is replayed. A sink that is *neither* shows what it was given, as often as it was given it.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol, runtime_checkable

from msgspec import Struct

from eoctl.runtime.records import Batch
from formats.errors import UnavailableError
from formats.head import HeadEntry
from formats.manifest import Transaction


class Delivery(StrEnum):
    """What a sink can do about a record that comes again."""

    TRANSACTIONAL = "transactional"
    IDEMPOTENT = "idempotent"
    NEITHER = "neither"


class NotNowError(UnavailableError):
    """The sink cannot pre-commit at this barrier: the checkpoint is declined, and the pipeline goes on."""

    kind = "not-now"


class CommitPermit:
    """The checkpoint is complete: what it and those before it pre-committed may become visible.

    Made from the entry that HEAD shows, by whoever swapped it in or restored it, and by nobody else.
    """

    def __init__(self, entry: HeadEntry, attempt: int) -> None:
        self.checkpoint = entry.id
        self.attempt = attempt


class SinkContext(Struct, frozen=True, kw_only=True):
    """Whose sink it is: the names of its transactions are made of this. `subtask` -1: of all of them.

    `held`: the sink's transactions in the snapshot that was restored. `checkpoint_seconds`: the timeout of checkpoints.
    `store`: the id of the store that the checkpoints are in.
    """

    pipeline: str
    uid: str
    attempt: int
    subtask: int = -1
    parallelism: int = 1
    held: tuple[Transaction, ...] = ()
    checkpoint_seconds: float = 0.0
    store: str = ""

    @property
    def sink(self) -> str:
        """Its name among all that write to one server."""
        return "/".join(filter(None, (self.store[:8], self.pipeline, self.uid)))

    def transaction_id(self, checkpoint: int) -> str:
        """Unique for ever: sink, attempt, checkpoint, subtask."""
        return f"{self.uid}-{self.attempt}-{checkpoint}-{self.subtask}"


class Writer(Protocol):
    """One subtask's end of a sink."""

    def write(self, batch: Batch) -> None: ...

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        """All that was written is durable: visible (idempotent sinks), or in the transactions handed over.

        Raises: NotNowError where nothing happened, and the next barrier may be better; anything else ends the attempt.
        """
        ...

    def close(self) -> None:
        """Nothing is held open; what was not pre-committed may be lost."""
        ...


class Committer(Protocol):
    """The second phase of a sink, for all its subtasks and attempts."""

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        """It is visible, now or since before. Raises: what can be tried again; CorruptError where it is gone."""
        ...

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:
        """Transactions of earlier attempts but for those of these ids are gone; their ids."""
        ...

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:
        """Ids of transactions of later checkpoints that were committed, as far as the sink can tell."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class TimesOut(Protocol):
    """A sink whose transactions somebody else ends after a while."""

    def check_patience(self, seconds: float) -> None:
        """Between a transaction's first record and the end of its checkpoint so much may pass. Raises: UsageError."""
        ...


class Sink(Protocol):
    """A place for records, as a pipeline names it."""

    @property
    def delivery(self) -> Delivery: ...

    def writer(self, context: SinkContext) -> Writer: ...

    def committer(self, context: SinkContext) -> Committer | None:
        """None: there is no second phase."""
        ...
