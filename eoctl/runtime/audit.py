"""The audit log: a line for every transaction that was committed, each chained to the one before.

    {"n":1,"prev":"000...","pipeline":"p","sink":"s","checkpoint":7,"attempt":2,"transaction":"s-2-7-0",
     "records":12,"digest":"...","hash":"..."}

One JSON document in a line. `hash` is the SHA-256 of the line with an empty one, and `prev` the hash of the line
before, of the first 64 zeros; `n` counts from 1. So a line that is changed, missing or moved breaks the chain. Lines
cut off at the end show against a checkpoint, which holds how many lines there were and the last hash (`audit.lines`,
`audit.head`). Only an unfinished last line, which a crash leaves, is taken off when the log is opened.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec
from msgspec import Struct

from formats.manifest import Transaction
from storage.os_errors import told

FIRST = "0" * 64


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One commit. `records` and `digest` as the sink told them."""

    n: int
    prev: str
    pipeline: str
    sink: str
    checkpoint: int
    attempt: int
    transaction: str
    records: int
    digest: str
    hash: str = ""

    def sealed(self) -> Line:
        """The same with its hash."""
        plain = msgspec.json.encode(msgspec.structs.replace(self, hash=""))
        return msgspec.structs.replace(self, hash=hashlib.sha256(plain).hexdigest())


class Finding(Struct, frozen=True):
    """Where the log is not what it was. `line` counts from 1."""

    line: int
    reason: str


class AuditLog:
    """An open log. What was committed twice, before and after a crash, has one line."""

    def __init__(self, file: BinaryIO, lines: list[Line]) -> None:
        self._file = file
        self._last = lines[-1].hash if lines else FIRST
        self._count = len(lines)
        self._known = {(line.pipeline, line.sink, line.transaction) for line in lines}

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[AuditLog]:
        """The log, made if there is none. Raises: AccessDeniedError, NoSpaceError."""
        with told(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            data = path.read_bytes() if path.exists() else b""
            whole = data[: data.rfind(b"\n") + 1]
            with path.open("ab") as file:
                file.truncate(len(whole))
                yield cls(file, [line for line in map(_parsed, whole.splitlines()) if line is not None])

    def committed(self, pipeline: str, sink: str, checkpoint: int, attempt: int, transaction: Transaction) -> None:
        """The log has a line for it, durable."""
        if (pipeline, sink, transaction.id) in self._known:
            return
        records = transaction.properties.get("records", "0")
        line = Line(
            n=self._count + 1,
            prev=self._last,
            pipeline=pipeline,
            sink=sink,
            checkpoint=checkpoint,
            attempt=attempt,
            transaction=transaction.id,
            records=int(records) if records.isdecimal() else 0,
            digest=transaction.properties.get("sha256", ""),
        ).sealed()
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last, self._count = line.hash, self._count + 1
        self._known.add((pipeline, sink, transaction.id))

    def properties(self) -> dict[str, str]:
        """What a checkpoint keeps of the log."""
        return {"audit.lines": str(self._count), "audit.head": self._last}


def audit(path: Path, lines: int = 0, head: str = FIRST) -> tuple[int, tuple[Finding, ...]]:
    """How many lines the log has, and where it is not whole; it had at least `lines`, the last of them with `head`.

    Raises: UsageError, AccessDeniedError where it cannot be read.
    """
    with told(path):
        data = path.read_bytes()
    found: list[Finding] = []
    previous, hashes = FIRST, [FIRST]
    texts = data.split(b"\n")
    if texts[-1]:
        found.append(Finding(len(texts), "the line is not finished"))
    for number, text in enumerate(texts[:-1], 1):
        line = _parsed(text)
        if line is None:
            found.append(Finding(number, "the line is no record of a commit"))
            hashes.append("")
            continue
        if line.sealed().hash != line.hash or msgspec.json.encode(line) != text:
            found.append(Finding(number, "the line was changed"))
        if line.n != len(hashes) or (line.prev != previous and previous):
            found.append(Finding(number, "a line before it is missing, moved or changed"))
        previous = line.hash
        hashes.append(line.hash)
    if lines >= len(hashes):
        found.append(Finding(len(hashes), f"the log ends here, and had {lines} lines when the checkpoint was taken"))
    elif hashes[lines] != head:
        found.append(Finding(lines, "the line is not the one that the checkpoint knows"))
    return len(texts) - 1, tuple(found)


def _parsed(text: bytes) -> Line | None:
    try:
        return msgspec.json.decode(text, type=Line)
    except msgspec.DecodeError:
        return None
