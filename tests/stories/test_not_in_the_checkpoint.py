"""Not in the checkpoint: documents by HTTP are outside of it, and a replay sends them again."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.http import HttpDocuments
from eoctl.runtime.sources.generator import Generator
from formats.errors import UnavailableError, UsageError
from tests.support.places import local_store

COUNT = 60


class Documents(BaseHTTPRequestHandler):
    """A document store: `PUT` replaces, `POST` adds. After `left` requests it is out of order."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[dict[str, Any]]
    left: ClassVar[list[int]]

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.left[0] -= 1
        if self.left[0] < 0:
            self.send_response(503)
        else:
            posted = f"{self.path}#{len(self.bodies)}"
            self.bodies[self.path if self.command == "PUT" else posted] = body
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    do_POST = do_PUT  # noqa: N815  (as the library calls it)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def documents(works_for: int) -> Iterator[tuple[str, type[Documents]]]:
    class Handler(Documents):
        bodies: ClassVar[dict[str, Any]] = {}
        left: ClassVar[list[int]] = [works_for]

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/totals", Handler
        finally:
            server.shutdown()
            thread.join()


def build(url: str, *, name: Callable[[Any], str] | None, guarantee: str = "exactly-once") -> Pipeline:
    pipeline = Pipeline("totals", guarantee=guarantee, options=Options(interval=1e6, batch_size=5))
    made = Generator(make=lambda _, first, stop: [{"order": n} for n in range(first, stop)], count=COUNT)
    pipeline.source("orders", made).sink("documents", HttpDocuments(url, id=name))
    return pipeline


def fails_and_goes_on(tmp_path: Path, server: type[Documents], make: Callable[[], Pipeline]) -> None:
    """The first 20 orders are in a checkpoint; at the 38th the server fails, and everything since comes again."""
    store = local_store(tmp_path)
    rounds = iter([False] * 4)
    run(store, make(), Request(directory=tmp_path, stop=lambda: next(rounds, True)))
    with pytest.raises(UnavailableError, match="503"):
        run(store, make(), Request(directory=tmp_path))
    server.left[0] = COUNT
    run(store, make(), Request(directory=tmp_path))


def test_without_ids_the_pipeline_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="documents is neither transactional nor idempotent") as error:
        build("http://127.0.0.1:9/totals", name=None).graph()
    assert "write under a key (a document id)" in (error.value.hint or "")


def test_forced_to_at_least_once_its_duplicates_are_counted(tmp_path: Path) -> None:
    with documents(works_for=37) as (url, server):
        fails_and_goes_on(tmp_path, server, partial(build, url, name=None, guarantee="at-least-once"))
    orders = Counter(body["order"] for body in server.bodies.values())
    assert orders.keys() == set(range(COUNT)), "nothing is lost"
    assert [order for order, times in orders.items() if times > 1] == list(range(20, 37)), "17 orders twice"


def test_with_ids_there_are_none(tmp_path: Path) -> None:
    with documents(works_for=37) as (url, server):
        fails_and_goes_on(tmp_path, server, partial(build, url, name=lambda order: str(order["order"])))
    assert server.bodies == {f"/totals/{n}": {"order": n} for n in range(COUNT)}
