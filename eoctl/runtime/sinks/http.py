"""Documents by HTTP: `PUT` under an id, so that what comes again replaces itself.

Without an id there is only `POST`, of which every repetition counts; then the sink is neither transactional nor
idempotent, and an exactly-once pipeline refuses it.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from eoctl.runtime.records import Batch
from eoctl.runtime.sinks.protocol import Committer, Delivery, SinkContext
from formats.errors import AccessDeniedError, InvalidInputError, UnavailableError
from formats.manifest import Transaction

TRIES = 3


class HttpDocuments(Struct, frozen=True):
    """Each record as JSON: `PUT url/ID` where `id` tells it, else `POST url`."""

    url: str
    id: Callable[[Any], str] | None = None
    headers: dict[str, str] = {}
    timeout_seconds: float = 30.0

    @property
    def delivery(self) -> Delivery:
        return Delivery.NEITHER if self.id is None else Delivery.IDEMPOTENT

    def writer(self, context: SinkContext) -> HttpWriter:  # noqa: ARG002  (documents know no attempts)
        return HttpWriter(self)

    def committer(self, context: SinkContext) -> Committer | None:  # noqa: ARG002  (there is no second phase)
        return None


class HttpWriter:
    """One request for each record, in their order."""

    def __init__(self, sink: HttpDocuments) -> None:
        self._sink = sink

    def write(self, batch: Batch) -> None:
        sink = self._sink
        for record in batch.values:
            name = "" if sink.id is None else "/" + quote(sink.id(record), safe="")
            request = urllib.request.Request(  # noqa: S310  (the pipeline's own URL)
                sink.url.rstrip("/") + name,
                data=msgspec.json.encode(record),
                headers={"Content-Type": "application/json", **sink.headers},
                method="POST" if sink.id is None else "PUT",
            )
            # A POST whose reply was lost may have counted; it is not sent again here.
            _send(request, sink.timeout_seconds, TRIES if sink.id is not None else 1)

    def pre_commit(self, checkpoint: int) -> tuple[Transaction, ...]:  # noqa: ARG002  (every reply was waited for)
        return ()

    def close(self) -> None:
        pass


def _send(request: urllib.request.Request, timeout_seconds: float, tries: int) -> None:
    """The server has taken the document. Raises: InvalidInputError, AccessDeniedError, UnavailableError."""
    for left in reversed(range(tries)):
        try:
            with urllib.request.urlopen(request, timeout=timeout_seconds) as reply:  # noqa: S310  (as above)
                reply.read()
        except urllib.error.HTTPError as error:
            with error:
                message = f"{request.method} {request.full_url}: {error.code} {error.reason}"
            if error.code in {401, 403}:
                raise AccessDeniedError(message, hint="give the sink headers with credentials") from error
            if error.code < 500 and error.code not in {408, 429}:
                raise InvalidInputError(message, hint="the server will never take this document") from error
            if not left:
                raise UnavailableError(
                    message, hint="run the pipeline again; it goes on from its checkpoint"
                ) from error
        except OSError as error:
            if not left:
                message = f"{request.method} {request.full_url}: {error}"
                raise UnavailableError(
                    message, hint="run the pipeline again; it goes on from its checkpoint"
                ) from error
        else:
            return
