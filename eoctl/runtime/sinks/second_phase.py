"""A sink's end in a subtask: what it pre-committed and does not yet know to be committed.

Rules kept here: nothing is committed without a permit; what is not known to be committed is in every checkpoint, also
where the checkpoint that it was first in was aborted or its completion was never told; a commit that fails is tried
again. So a sink need not be told of aborts, and loses nothing by a lost message.
"""

from __future__ import annotations

from collections.abc import Callable

from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import CommitPermit, Committer, Writer
from formats.errors import CorruptError, EoctlError, FencedError
from formats.manifest import Transaction

Note = Callable[[str, CommitPermit, Transaction], None]  # of which sink


class SecondPhase:
    """An operator that writes to a sink, and commits what the coordinator permits."""

    def __init__(self, uid: str, writer: Writer, committer: Committer | None, note: Note = lambda *_: None) -> None:
        self.pending: list[Transaction] = []
        self.failure: EoctlError | None = None  # of the last commit that was tried
        self._uid = uid
        self._writer = writer
        self._committer = committer
        self._note = note
        self._permit: CommitPermit | None = None

    def open(self, context: Context) -> None:
        pass

    def process(self, batch: Batch, gate: int) -> Batch | None:  # noqa: ARG002  (there is one input)
        self._writer.write(batch)
        return None

    def advance(self, time: int) -> Batch | None:  # noqa: ARG002  (nothing waits for it)
        return None

    def before_snapshot(self) -> None:
        pass

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        """Everything up to the barrier is durable; all transactions that are to be committed."""
        self.pending += self._writer.pre_commit(checkpoint)
        return tuple(self.pending)

    def permit(self, permit: CommitPermit) -> None:
        """What is of this checkpoint or an earlier one may be committed."""
        if self._permit is None or self._permit.checkpoint < permit.checkpoint:
            self._permit = permit

    @property
    def due(self) -> Transaction | None:
        """What is to be committed next."""
        permit = self._permit
        if permit is None:
            return None
        return next((one for one in self.pending if one.checkpoint <= permit.checkpoint), None)

    def commit_next(self) -> None:
        """One transaction more is visible; or `failure` says why not, and it can be tried again.

        Raises: FencedError, CorruptError.
        """
        due = self.due
        if due is None or self._permit is None:
            return
        assert self._committer is not None, "without a second phase nothing is handed over"
        try:
            self._committer.commit(self._permit, due)
        except (FencedError, CorruptError):
            raise
        except EoctlError as error:
            self.failure = error
            return
        self.failure = None
        self._note(self._uid, self._permit, due)
        self.pending.remove(due)

    def close(self) -> None:
        self._writer.close()
        if self._committer is not None:
            self._committer.close()
