"""Every error that eoctl raises on purpose.

Kinds are cut by what the caller does next, and each kind has one exit code, promised to scripts.
A subclass narrows a kind where the failure has a name of its own; it never changes the exit code.
Facts travel as fields, so that `--json` prints them and nobody parses a message.
"""

from __future__ import annotations

from typing import ClassVar


class EoctlError(Exception):
    """A failure that eoctl foresaw: one sentence, facts, and where it helps the next command to type."""

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None, **facts: str | int | list[str]) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.facts = facts


class UsageError(EoctlError):
    """The command or a setting is wrong."""

    kind, exit_code = "usage", 2


class AnswerNoError(EoctlError):
    """The question was answered, and the answer is no: damage found, a limit passed, sets differ."""

    kind, exit_code = "answer-no", 3


class StoreNotFoundError(EoctlError):
    """There is no store at this URL."""

    kind, exit_code = "store-not-found", 10


class SnapshotNotFoundError(EoctlError):
    """The store has no such pipeline or snapshot."""

    kind, exit_code = "snapshot-not-found", 11


class ConflictError(EoctlError):
    """Somebody else won; read again."""

    kind, exit_code = "conflict", 12


class SessionExpiredError(ConflictError):
    """This session's uploads fell below the floor and could not be carried forward."""

    kind = "session-expired"


class FencedError(ConflictError):
    """A newer attempt of this pipeline exists; this one must stop."""

    kind = "fenced"


class CorruptError(EoctlError):
    """Stored bytes are not what they should be; they are never served."""

    kind, exit_code = "corrupt", 13


class BlobGoneError(CorruptError):
    """A blob that a snapshot names is not in the store."""

    kind = "blob-gone"


class WrongStoreError(CorruptError):
    """A record belongs to another store or pipeline."""

    kind = "wrong-store"


class UnsupportedError(EoctlError):
    """A version or feature that this eoctl does not know."""

    kind, exit_code = "unsupported", 14


class UnsafeBackendError(UnsupportedError):
    """The place cannot keep the promises that the protocol needs."""

    kind = "unsafe-backend"


class IncompatibleError(EoctlError):
    """The state does not fit what it shall be restored into."""

    kind, exit_code = "incompatible", 15


class UnavailableError(EoctlError):
    """It did not happen, and may work later."""

    kind, exit_code = "unavailable", 16


class SourceChangedError(UnavailableError):
    """A source file changed while it was read; nothing was committed."""

    kind = "source-changed"


class NoSpaceError(UnavailableError):
    """The disk or a quota is full."""

    kind = "no-space"


class OutcomeUnknownError(EoctlError):
    """It may have happened; read back before a retry."""

    kind, exit_code = "outcome-unknown", 16


class CommitUnknownError(OutcomeUnknownError):
    """A commit may have happened; list the pipeline before a retry."""

    kind = "commit-unknown"


class InvalidInputError(EoctlError):
    """Input that is not to be trusted; nothing of it was taken in."""

    kind, exit_code = "invalid-input", 17


class BadNameError(InvalidInputError):
    """A name that could escape, clash or confuse."""

    kind = "bad-name"


class NameClashError(InvalidInputError):
    """Two names that some file system takes for one."""

    kind = "name-clash"


class BadManifestError(InvalidInputError):
    """A record that is not what its format says."""

    kind = "bad-manifest"


class TooLargeError(InvalidInputError):
    """More than the format allows."""

    kind = "too-large"


class BombError(InvalidInputError):
    """Compressed input that grows beyond what it declared."""

    kind = "bomb"


class AccessDeniedError(EoctlError):
    """Credentials or permissions do not allow it."""

    kind, exit_code = "access-denied", 18
