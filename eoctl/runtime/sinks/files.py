"""Files in two phases: hidden while they are written, renamed when the checkpoint is complete.

    DIRECTORY/.eoctl-UID/TRANSACTION     being written, or pre-committed
    DIRECTORY/UID-ATTEMPT-CHECKPOINT-SUBTASK.SUFFIX

A transaction is one file: what one subtask wrote between two barriers. Pre-commit syncs the file and the directory that
names it; commit renames it and syncs both directories. A commit that finds the hidden file gone and the visible one
there was done before. Where files are taken away by those who read them (`taken_away`), both may be gone.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import CommitPermit, Delivery, SinkContext
from formats.errors import CorruptError, FencedError, UsageError
from formats.manifest import Transaction
from formats.names import check_file_name
from storage.os_errors import told


def json_line(record: Any) -> bytes:  # noqa: ANN401  (a record of any type)
    """A record as a line of JSON."""
    import msgspec  # noqa: PLC0415  (used where this sink is)

    return msgspec.json.encode(record) + b"\n"


class Files(Struct, frozen=True):
    """Files in `directory`, made of what `encode` makes of each record."""

    directory: str | Path
    encode: Callable[[Any], bytes] = json_line
    suffix: str = ".jsonl"
    taken_away: bool = False

    @property
    def delivery(self) -> Delivery:
        return Delivery.TRANSACTIONAL

    def writer(self, context: SinkContext) -> FileWriter:
        return FileWriter(self, _Names(self, context), context)

    def committer(self, context: SinkContext) -> FileCommitter:
        return FileCommitter(self, _Names(self, context))


class _Names:
    """Where transactions have their files."""

    def __init__(self, sink: Files, context: SinkContext) -> None:
        self.directory = Path(sink.directory)
        check_file_name(context.uid)
        self.uid = context.uid
        self.attempt = context.attempt
        self.hidden = self.directory / f".eoctl-{context.uid}"
        self.suffix = sink.suffix
        if "/" in context.uid:
            raise UsageError(f"the uid of a file sink is part of file names: {context.uid!r}", hint="leave out the /")

    def pending(self, transaction: str) -> Path:
        return self.hidden / transaction

    def visible(self, transaction: str) -> Path:
        return self.directory / (transaction + self.suffix)

    def attempt_of(self, path: Path) -> int | None:
        """The attempt that made a hidden file; None of what is none of ours."""
        name = path.name
        parts = name.removeprefix(".writing-").split("-") if name.startswith(".") else name.split("-")[-3:]
        return int(parts[0]) if parts[0].isdecimal() else None

    def checkpoint_of(self, path: Path) -> int | None:
        """The checkpoint of a visible file of this sink; None of any other."""
        name = path.name.removesuffix(self.suffix)
        parts = name.removeprefix(f"{self.uid}-").split("-")
        ours = name.startswith(f"{self.uid}-") and len(parts) == 3 and all(part.isdecimal() for part in parts)
        return int(parts[1]) if ours and path.name.endswith(self.suffix) else None


class FileWriter:
    """One file at a time."""

    def __init__(self, sink: Files, names: _Names, context: SinkContext) -> None:
        self._encode = sink.encode
        self._names = names
        self._context = context
        self._file: BinaryIO | None = None
        self._begun = 0
        self._records = 0
        self._digest = hashlib.sha256()
        with told(names.hidden):
            names.hidden.mkdir(parents=True, exist_ok=True)

    def write(self, batch: Batch) -> None:
        data = b"".join(map(self._encode, batch.values))
        with told(self._names.hidden):
            if self._file is None:
                self._begun += 1
                path = self._names.pending(f".writing-{self._context.attempt}-{self._context.subtask}")
                self._file = path.open("wb")
                self._digest = hashlib.sha256()
            self._file.write(data)
        self._digest.update(data)
        self._records += len(batch)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:
        if self._file is None:
            return ()
        transaction = self._context.transaction_id(checkpoint)
        with told(self._names.hidden):
            self._file.flush()
            os.fsync(self._file.fileno())
            written = Path(self._file.name)
            self._file.close()
            try:
                os.rename(written, self._names.pending(transaction))  # noqa: PTH104  (as the protocol names it)
            except FileNotFoundError as error:
                message = f"attempt {self._context.attempt} of {self._context.pipeline} is fenced: {written} is gone"
                raise FencedError(message, hint="a newer attempt has aborted it; stop this process") from error
            sync_directory(self._names.hidden)
        self._file = None
        properties = {
            "attempt": str(self._context.attempt),
            "records": str(self._records),
            "sha256": self._digest.hexdigest(),
        }
        self._records = 0
        return (
            Transaction(
                id=transaction,
                state="pre-committed",
                checkpoint=checkpoint,
                subtask=self._context.subtask,
                properties=properties,
            ),
        )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class FileCommitter:
    """Renames."""

    def __init__(self, sink: Files, names: _Names) -> None:
        self._sink = sink
        self._names = names

    def commit(self, permit: CommitPermit, transaction: Transaction) -> None:
        assert transaction.checkpoint <= permit.checkpoint, "permitted"
        hidden, visible = self._names.pending(transaction.id), self._names.visible(transaction.id)
        with told(visible):
            try:
                os.rename(hidden, visible)  # noqa: PTH104  (as the protocol names it)
            except FileNotFoundError as error:
                if not visible.exists() and not self._sink.taken_away:
                    message = f"a file that was to be committed is gone: {hidden}, and so is {visible}"
                    hint = "where readers take files away, say taken_away=True"
                    raise CorruptError(message, hint=hint) from error
            sync_directory(self._names.directory)
            sync_directory(self._names.hidden)

    def abort_others(self, keep: frozenset[str]) -> Iterable[str]:
        gone = []
        with told(self._names.hidden):
            for path in sorted(self._names.hidden.glob("*")) if self._names.hidden.is_dir() else ():
                attempt = self._names.attempt_of(path)
                if path.name not in keep and attempt is not None and attempt < self._names.attempt:
                    path.unlink(missing_ok=True)
                    if not path.name.startswith("."):
                        gone.append(path.name)
        return gone

    def visible_after(self, checkpoint: int) -> tuple[str, ...]:
        found = sorted(self._names.directory.glob(f"{glob_escaped(self._names.uid)}-*"))
        numbers = [(path.name, self._names.checkpoint_of(path)) for path in found]
        return tuple(name for name, number in numbers if number is not None and number > checkpoint)

    def close(self) -> None:
        pass


def glob_escaped(text: str) -> str:
    """The text as a pattern that matches just it."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)


def sync_directory(path: Path) -> None:
    """Names in the directory survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without directories to sync
            raise
    finally:
        os.close(descriptor)
