"""Whether an endpoint keeps the two conditions that the protocol rests on: tried, never assumed.

A server that ignores `If-None-Match` overwrites a blob, one that ignores `If-Match` loses a checkpoint, and neither
says so. Each is asked for what it has to refuse. What was found holds for the process, and across processes where a
directory for records is given: an endpoint that lies after it was tried is beyond what is promised.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from formats.errors import EoctlError, OutcomeUnknownError, UnavailableError, UnsafeBackendError
from storage.backend import Key, KeyAbsentError, VersionMismatchError
from storage.backends.s3_client import Reply, S3Client, Span
from storage.backends.s3_errors import UnsupportedRequestError
from storage.backends.s3_reader import open_reader

Answer = TypeVar("Answer")

_HINT = "a store here would lose checkpoints; use S3 or a server with conditional writes (eoctl doctor)"
_RECORD = b"keeps conditions\n"


class SafetyProbe:
    """`ensure` costs seven requests where nothing is known, and none afterwards. Thread-safe."""

    def __init__(self, s3: S3Client, token: str, records: Path | None) -> None:
        self._s3 = s3
        self._token = token
        self._key = Key(f"tmp/probe-{token}/HEAD")
        self._lock = threading.Lock()
        self._known = False
        location = s3.location
        about = f"{location.endpoint_url}\n{location.region}\n{location.bucket}\n{location.prefix}"
        self._record = None if records is None else records / hashlib.sha256(about.encode()).hexdigest()[:32]

    def ensure(self) -> None:
        """The endpoint keeps conditions. Raises: UnsafeBackendError, what a request raises."""
        with self._lock:
            if not self._known:
                self._known = self._recorded() or self._try()

    def again(self) -> None:
        """As `ensure`, whatever is known already."""
        with self._lock:
            self._known = self._try()

    def _recorded(self) -> bool:
        with contextlib.suppress(OSError):
            return self._record is not None and self._record.read_bytes() == _RECORD
        return False

    def _try(self) -> bool:
        try:
            check_conditions(self._s3, self._key)
        finally:
            with contextlib.suppress(EoctlError):
                self._s3.ask("DeleteObject", self._key, Key=self._s3.name(self._key.path))
        if self._record is not None:
            with contextlib.suppress(OSError):  # a record only saves requests
                self._record.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._record.with_suffix(f".{self._token}")
                temporary.write_bytes(_RECORD)
                os.replace(temporary, self._record)
        return True


def check_conditions(s3: S3Client, key: Key) -> None:
    """The server refuses what it has to refuse, and does what it has to do. Raises: UnsafeBackendError."""
    first, second, third = (f"{key} {number}".encode() for number in range(3))
    etag = _settled(s3, key, first, lambda: _put(s3, key, first, IfNoneMatch="*"))
    if etag is None:
        raise _unsafe(s3, "a value that does not exist cannot be created under a condition")
    _refused(s3, lambda: _put(s3, key, second, IfNoneMatch="*"), "creating a value that exists is not refused")
    stale = f'"{hashlib.md5(third, usedforsecurity=False).hexdigest()}"'
    _refused(s3, lambda: _put(s3, key, second, IfMatch=stale), "replacing a value that has changed is not refused")
    if _value(s3, key) != first:
        raise _unsafe(s3, "a refused write took effect")
    if _settled(s3, key, third, lambda: _put(s3, key, third, IfMatch=etag)) is None or _value(s3, key) != third:
        raise _unsafe(s3, "the expected value cannot be replaced under a condition")


def _put(s3: S3Client, key: Key, data: bytes, **condition: str) -> Reply:
    crc = Span(data, 0, len(data)).crc32()
    return s3.send("PutObject", key, Key=s3.name(key.path), Body=data, ChecksumCRC32=crc, **condition)


def _settled(s3: S3Client, key: Key, data: bytes, put: Callable[[], Reply]) -> str | None:
    """The ETag of `data`, which `put` has put, though a reply or two were lost; None: it was refused."""
    uncertain = False

    def tried() -> str | None:
        nonlocal uncertain
        try:
            return str(s3.told(put(), "ETag"))
        except OutcomeUnknownError:
            uncertain = True
            raise
        except VersionMismatchError:
            if uncertain and _value(s3, key) == data:
                return str(s3.told(s3.ask("HeadObject", key, Key=s3.name(key.path)), "ETag"))
            return None

    return _answer(s3, tried)


def _refused(s3: S3Client, put: Callable[[], Reply], otherwise: str) -> None:
    """`put` is refused, for the reason of its condition."""
    with contextlib.suppress(VersionMismatchError):
        _answer(s3, put)
        raise _unsafe(s3, otherwise)


def _answer(s3: S3Client, put: Callable[[], Answer]) -> Answer:
    """What `put` gives in the end. Whatever became of it, nothing of a store has changed."""
    for number in range(s3.limits.attempts):
        try:
            return put()
        except (UnsupportedRequestError, KeyAbsentError) as error:
            raise _unsafe(s3, error.message) from error
        except (OutcomeUnknownError, UnavailableError) as error:
            if number + 1 == s3.limits.attempts:
                if isinstance(error, UnavailableError):
                    raise
                hint = "check the network and the server, then run the command again; nothing was stored"
                raise UnavailableError(error.message, hint=hint) from error
            s3.limits.pause(number)
    raise AssertionError("no attempts")


def _value(s3: S3Client, key: Key) -> bytes | None:
    try:
        with open_reader(s3, key, 0, None) as reader:
            return reader.read()
    except KeyAbsentError:
        return None


def _unsafe(s3: S3Client, reason: str) -> UnsafeBackendError:
    return UnsafeBackendError(f"{s3.location.where} does not keep conditional writes: {reason}", hint=_HINT)
