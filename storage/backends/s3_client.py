"""Requests to one bucket: signed, bounded in time, each failure told as ours.

Two clients of boto3's core: one repeats what may be repeated (adaptive: it slows down when told to), the other sends
once, for writes whose repetition must be settled by whoever knows what they mean. Imported only where S3 is used.
"""

from __future__ import annotations

import base64
import os
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import botocore.session
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from msgspec import Struct

from formats.errors import EoctlError, UnavailableError
from storage.backend import Key
from storage.backends.s3_errors import fact, failure
from storage.backends.s3_url import Location

PIECE_BYTES = 1 << 20
CONNECTIONS = 32
RANGES_AHEAD = 6  # of all readers together: what is in memory before it is asked for is bounded
BAD_WAY = (BotoCoreError, ClientError, HTTPClientError, OSError)  # what a request can end in, or reading its answer
_ENCRYPTED = {"CopyObject", "CreateMultipartUpload", "PutObject"}

Reply: TypeAlias = dict[str, Any]


class StoppedSendingError(UnavailableError):
    """Another part of the same value has failed."""


class Limits(Struct, frozen=True, kw_only=True):
    """How long and how often. `wait`: returns after that many seconds."""

    connect_seconds: float = 5
    read_seconds: float = 30
    attempts: int = 5
    wait: Callable[[float], None] = time.sleep

    def pause(self, number: int) -> None:
        """Before try `number` + 2: doubling from 0.1 s, at most 5 s."""
        self.wait(min(5.0, 0.1 * float(2**number)))


class Client(Protocol):
    """A client of boto3's core: its operations are methods."""

    def __getattr__(self, operation: str) -> Callable[..., Reply]: ...


class S3Client:
    """Requests about `location`; thread-safe. Nothing is connected before the first one."""

    def __init__(self, location: Location, limits: Limits) -> None:
        self.location = location
        self.limits = limits
        self.ranges_ahead = threading.Semaphore(RANGES_AHEAD)
        self._lock = threading.Lock()
        self._session: botocore.session.Session | None = None  # what both know of S3 is read once
        self._clients: dict[int, Client] = {}
        self._common = {"Bucket": location.bucket}
        if location.request_payer:
            self._common["RequestPayer"] = location.request_payer
        self._encryption: dict[str, str] = {}
        if location.sse:
            self._encryption["ServerSideEncryption"] = location.sse
        if location.sse_kms_key_id:
            self._encryption["SSEKMSKeyId"] = location.sse_kms_key_id

    def ask(self, operation: str, what: object, **parameters: object) -> Reply:
        """The answer to a request that may be repeated.

        Raises: KeyAbsentError, UnavailableError and whatever else `failure` says.
        """
        return self._request(operation, what, parameters, attempts=self.limits.attempts)

    def send(self, operation: str, what: object, **parameters: object) -> Reply:
        """The answer to a write that was sent once.

        Raises: as `ask`, and OutcomeUnknownError.
        """
        return self._request(operation, what, parameters, attempts=1)

    def send_span(self, operation: str, key: Key, span: Span, **parameters: object) -> Reply:
        """As `send`, with the bytes of `span` and the checksum that the server holds them against.

        Raises: as `send`; what reading the span raised.
        """
        size = len(span)
        crc = {} if "ChecksumCRC32" in parameters else {"ChecksumCRC32": span.crc32()}
        span.seek(0)  # an earlier try may have ended in its middle
        try:
            # What is small is sent at once, without asking first if it is welcome.
            body = bytes(span.read()) if size <= PIECE_BYTES else span
            return self.send(operation, key, Body=body, ContentLength=size, **crc, **parameters)
        except EoctlError:
            if span.trouble is not None:
                raise span.trouble from None
            raise

    def whose(self) -> str:
        """How credentials were found, and the end of their name; "" where there are none.

        Raises: AccessDeniedError.
        """
        try:
            session = self._session_of_both()
            credentials = session.get_credentials()
            name = "" if credentials is None else str(credentials.get_frozen_credentials().access_key)
        except BAD_WAY as error:
            raise failure(error, "credentials", "", self.location, sent_once=False) from error
        return "" if credentials is None else f"found by {credentials.method}, key ...{name[-4:]}"

    def told(self, reply: Reply, name: str) -> Any:  # noqa: ANN401  (text, a number, a time)
        """What an answer has to tell. Raises: UnsafeBackendError."""
        return fact(reply, name, self.location)

    def name(self, path: str) -> str:
        """The name in the bucket of what is `path` in the store."""
        return f"{self.location.prefix}/{path}" if self.location.prefix else path

    def path(self, name: str) -> str:
        """The other way round."""
        return name[len(self.location.prefix) + 1 :] if self.location.prefix else name

    def _request(self, operation: str, what: object, parameters: Reply, *, attempts: int) -> Reply:
        encryption = self._encryption if operation in _ENCRYPTED else {}
        try:
            act = getattr(self._client(attempts), xform_name(operation))
            common = {"Bucket": self.location.bucket} if "Bucket" in operation else self._common
            reply: Reply = act(**(common | encryption | parameters))
        except BAD_WAY as error:
            raise failure(error, operation, str(what), self.location, sent_once=attempts == 1) from error
        return reply

    def _session_of_both(self) -> botocore.session.Session:
        if self._session is None:
            self._session = botocore.session.Session()
        return self._session

    def _client(self, attempts: int) -> Client:
        with self._lock:
            if attempts not in self._clients:
                self._clients[attempts] = make_client(self._session_of_both(), self.location, self.limits, attempts)
            return self._clients[attempts]


def make_client(session: botocore.session.Session, location: Location, limits: Limits, attempts: int) -> Client:
    """A client of boto3's core with our time-outs. A body has a CRC and is not signed: one pass over it, not two."""
    addressing = {"": "auto", "true": "path", "false": "virtual"}[location.path_style]
    config = Config(
        connect_timeout=limits.connect_seconds,
        read_timeout=limits.read_seconds,
        retries={"mode": "adaptive" if attempts > 1 else "standard", "total_max_attempts": attempts},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False, "addressing_style": addressing},
    )
    client: Client = session.create_client(
        "s3", region_name=location.region or None, endpoint_url=location.endpoint_url or None, config=config
    )
    client.meta.events.register("before-call.s3", _stay)  # type: ignore[attr-defined]  # no operation
    return client


def _stay(*, context: Reply, **_: object) -> None:
    """Nobody follows a redirect: whom it leads to is not who was asked for, and some lead in circles."""
    context.setdefault("s3_redirect", {})["redirected"] = True


class Span:
    """Bytes in memory, or a range of an open file, as they are sent: in pieces of 1 MiB, however few are asked for.

    `sent` is told of every piece on its way; what it raises ends the sending and is `trouble`. So does `stop`.
    """

    def __init__(
        self,
        source: bytes | int,
        start: int,
        length: int,
        sent: Callable[[int], None] = lambda _: None,
        crc32: int | None = None,
    ) -> None:
        self._crc = crc32
        self.trouble: Exception | None = None
        self._source = source if isinstance(source, int) else memoryview(source)[start : start + length]
        self._start = start
        self._length = length
        self._sent = sent
        self._at = 0
        self._stopped = False
        self._buffer = memoryview(bytearray(min(length, PIECE_BYTES))) if isinstance(source, int) else memoryview(b"")

    def __len__(self) -> int:
        return self._length

    def read(self, _: int = -1) -> memoryview:
        try:
            piece = self._piece()
            self._sent(len(piece))
        except Exception as error:
            self.trouble = error  # whoever asks for the bytes wraps it
            raise
        return piece

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._length)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def stop(self) -> None:
        self._stopped = True

    def all(self) -> bytes:
        """The bytes. The span is at its beginning afterwards."""
        self._at = 0
        data = b"".join(bytes(piece) for piece in iter(self._piece, b""))
        self._at = 0
        return data

    def crc32(self) -> str:
        """As the header of a request spells it. The span is at its beginning afterwards."""
        crc, self._at = self._crc, 0
        if crc is None:
            crc = 0
            for piece in iter(self._piece, b""):
                crc = zlib.crc32(piece, crc)
            self._at = 0
        return base64.b64encode(crc.to_bytes(4, "big")).decode()

    def _piece(self) -> memoryview:
        if self._stopped:
            raise StoppedSendingError("the sending was stopped")
        size = min(PIECE_BYTES, self._length - self._at)
        if isinstance(self._source, int):
            size = os.preadv(self._source, [self._buffer[:size]], self._start + self._at) if size else 0
            piece = self._buffer[:size]
        else:
            piece = self._source[self._at : self._at + size]
        self._at += size
        return piece
