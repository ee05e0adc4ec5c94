"""A server on loopback that answers as a test says: with the errors of S3, with nonsense, late, or not at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlencode, urlsplit

REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Request:
    """What arrived."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. `cut`: so many bytes of the body are sent, then the connection ends."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


class Silence:
    """No answer, until the test ends."""


class HangUp:
    """The connection is closed instead of an answer."""


Reaction = Answer | Silence | HangUp


def fault(status: int, code: str, message: str, headers: dict[str, str] | None = None, **more: str) -> Answer:
    """An error as S3 words it."""
    facts = "".join(f"<{name}>{value}</{name}>" for name, value in more.items())
    text = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{facts}'
        "<RequestId>4442587FB7D0A2F9</RequestId><HostId>x</HostId></Error>"
    )
    return Answer(status, text.encode(), {"Content-Type": "application/xml"} | (headers or {}))


class Stub:
    """`requests`: all that arrived so far."""

    def __init__(self, react: Callable[[Request], Reaction]) -> None:
        self.requests: list[Request] = []
        self._react = react
        self._over = threading.Event()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle_one_request()

            def any_method(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = urlsplit(self.path)
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, parts.path, parts.query, headers, body)
                stub.requests.append(request)
                stub._send(self, stub._react(request))

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

    @property
    def url(self) -> str:
        """Of a store there."""
        return f"s3://bucket/tenant?{urlencode({'endpoint_url': self.endpoint, 'region': REGION})}"

    def close(self) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _send(self, handler: BaseHTTPRequestHandler, reaction: Reaction) -> None:
        match reaction:
            case Silence():
                self._over.wait()
                handler.close_connection = True
            case HangUp():
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
            case Answer(status=status, body=body, headers=headers, cut=cut):
                handler.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    handler.send_header(name, value)
                handler.end_headers()
                if handler.command != "HEAD":
                    handler.wfile.write(body if cut is None else body[:cut])
                if cut is not None:
                    handler.close_connection = True


@contextlib.contextmanager
def stub(react: Callable[[Request], Reaction]) -> Iterator[Stub]:
    """Gone at the end of the context."""
    server = Stub(react)
    try:
        yield server
    finally:
        server.close()
