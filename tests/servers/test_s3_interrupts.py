"""Ctrl-C while a checkpoint is on its way to S3: exit 130, nothing committed, no parts left; the next run does it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from storage.backend import Key, Reach
from tests.support.s3_proxy import Proxy, proxy
from tests.support.seaweed import Server, running_server

pytestmark = pytest.mark.lane("s3")

ROOT = Path(__file__).parents[2]
BYTES = 80 << 20  # more than goes in one piece


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


class Held:
    """The first request that carries a part of a blob waits at the door."""

    def __init__(self, between: Proxy) -> None:
        self.arrived = threading.Event()
        self.let_in = threading.Event()
        between.decide = self._decide

    def _decide(self, method: str, path: str, _: dict[str, str]) -> None:
        if method == "PUT" and "partNumber" in parse_qs(urlsplit(path).query):
            self.arrived.set()
            self.let_in.wait()


def run(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eoctl.cli.main", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_interrupted_upload_leaves_no_checkpoint_and_the_next_run_makes_it(server: Server, tmp_path: Path) -> None:
    bucket = server.bucket()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a.sst").write_bytes(random.Random(1).randbytes(BYTES))
    with proxy(server.endpoint) as between:
        url = Server(between.endpoint, server.directory, server.pid).url(bucket, "tenant")
        create = ["checkpoint", "create", str(tmp_path / "state"), "-p", "orders", "--store", url]
        with run("store", "init", url) as process:
            process.communicate()
        assert process.returncode == 0
        held = Held(between)
        with run(*create) as process:
            held.arrived.wait()
            process.send_signal(signal.SIGINT)
            held.let_in.set()
            _, told = process.communicate()
        assert process.returncode == 130, told
        assert "interrupted: nothing was committed" in told
        between.decide = lambda *_: None
        clean = server.backend(bucket, "tenant")
        assert [item.key for item in clean.list(Key("p/orders/m"))] == []
        assert [*clean.list(Key("p"), reach=Reach.UNFINISHED)] == []
        with run(*create) as process:
            out, told = process.communicate()
        assert (process.returncode, out.splitlines()[0]) == (0, "orders@1: 80.0 MiB in 1 file"), told
