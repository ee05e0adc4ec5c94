"""Between a client and a real S3 server: every request passes here, and some meet a fault on their way.

What can happen to a request on the wire: it gets lost, its reply gets lost, it arrives twice or long after everybody
has given up, the server refuses it for now or breaks off its answer.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

READS = frozenset({"GET", "HEAD"})


class WireFault(StrEnum):
    """What happens to one request."""

    LOST = "lost"  # it never arrives, and the connection ends
    REPLY_LOST = "reply lost"  # it is done, and the connection ends
    TWICE = "twice"  # it is done twice; the second answer counts
    LATE = "late"  # the connection ends; it arrives when `deliver` is called
    BUSY = "503 before"  # refused for now, with nothing done
    BROKEN = "500 before"
    BROKEN_AFTER = "500 after"  # it is done, and the answer denies it
    CONFLICT = "409 before"
    REFUSED_AFTER = "412 after"  # a condition is checked again after the effect
    GATEWAY = "502 page"  # it is done, and somebody in between answers with a page
    CUT = "cut"  # the answer ends in its middle


_CODES = {
    WireFault.BUSY: (503, "SlowDown", "Please reduce your request rate."),
    WireFault.BROKEN: (500, "InternalError", "We encountered an internal error. Please try again."),
    WireFault.BROKEN_AFTER: (500, "InternalError", "We encountered an internal error. Please try again."),
    WireFault.CONFLICT: (409, "ConditionalRequestConflict", "A conflicting operation occurred during this request."),
    WireFault.REFUSED_AFTER: (412, "PreconditionFailed", "At least one of the pre-conditions did not hold."),
}
_DONE_FIRST = {WireFault.REPLY_LOST, WireFault.BROKEN_AFTER, WireFault.REFUSED_AFTER, WireFault.GATEWAY}
Whole = tuple[str, str, bytes, dict[str, str]]
Decide = Callable[[str, str, dict[str, str]], WireFault | None]  # method, path, headers


class Proxy:
    """`injected`: how often each fault happened. Without `decide` everything passes."""

    def __init__(self, endpoint: str) -> None:
        self.decide: Decide = lambda *_: None
        self.injected: Counter[WireFault] = Counter()
        self._target = urlsplit(endpoint).netloc
        self._late: list[Whole] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            connection_to: http.client.HTTPConnection | None = None

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    super().handle_one_request()

            def any_method(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
                proxy._handle(self, (self.command, self.path, body, headers))

            def finish(self) -> None:
                if self.connection_to is not None:
                    self.connection_to.close()
                with contextlib.suppress(OSError):
                    super().finish()

            def log_message(self, *_: object) -> None:
                """Nothing is told: the test says what it expects."""

        for method in ("DELETE", "GET", "HEAD", "POST", "PUT"):
            setattr(Handler, f"do_{method}", Handler.any_method)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def deliver(self) -> int:
        """Every late request arrives now, whatever becomes of it. Returns how many."""
        with self._lock:
            late, self._late = self._late, []
        for request in late:
            connection = http.client.HTTPConnection(self._target)
            self._forward(connection, request)
            connection.close()
        return len(late)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler, request: Whole) -> None:
        method, path, _, headers = request
        fault = self.decide(method, path, headers)
        if fault is not None:
            with self._lock:
                self.injected[fault] += 1
        connection = handler.connection_to  # type: ignore[attr-defined]  # ours
        if connection is None:
            connection = handler.connection_to = http.client.HTTPConnection(self._target)  # type: ignore[attr-defined]
        if fault is WireFault.LATE:
            with self._lock:
                self._late.append(request)
        if fault in _DONE_FIRST or fault is WireFault.TWICE:
            self._forward(connection, request)
        match fault:
            case None | WireFault.TWICE:
                self._answer(handler, *self._forward(connection, request))
            case WireFault.CUT:
                status, got, body = self._forward(connection, request)
                self._answer(handler, status, got, body, cut=len(body) // 2)
            case WireFault.LOST | WireFault.REPLY_LOST | WireFault.LATE:
                _hang_up(handler)
            case WireFault.GATEWAY:
                self._answer(handler, 502, {"Content-Type": "text/html"}, b"<html>Bad gateway</html>")
            case _:
                status, code, message = _CODES[fault]
                body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
                self._answer(handler, status, {"Content-Type": "application/xml"}, body)

    def _forward(self, connection: http.client.HTTPConnection, request: Whole) -> tuple[int, dict[str, str], bytes]:
        method, path, body, headers = request
        connection.request(method, path, body, headers)
        with connection.getresponse() as response:
            data = response.read()
            return response.status, dict(response.getheaders()), data

    def _answer(
        self, handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, cut: int | None = None
    ) -> None:
        handler.send_response(status)
        length = headers.get("Content-Length", str(len(body))) if handler.command == "HEAD" else str(len(body))
        for name, value in headers.items():
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                handler.send_header(name, value)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            _hang_up(handler)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    with contextlib.suppress(OSError):
        handler.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(endpoint: str) -> Iterator[Proxy]:
    """Gone at the end of the context."""
    server = Proxy(endpoint)
    try:
        yield server
    finally:
        server.close()


def seeded(rng: random.Random, rate: float, fault: WireFault) -> Decide:
    """Each request that can meets the fault with this probability."""

    def decide(method: str, _: str, headers: dict[str, str]) -> WireFault | None:
        conditional = any(name.lower().startswith("if-") for name in headers)
        if fault in {WireFault.CONFLICT, WireFault.REFUSED_AFTER} and (method in READS or not conditional):
            return None
        if fault in {WireFault.LATE, WireFault.TWICE} and method in READS:
            return None
        if fault is WireFault.CUT and method != "GET":
            return None
        return fault if rng.random() < rate else None

    return decide
