"""Ctrl-C while much is on its way to S3 or back: an end at once, and nothing half-done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eoctl.library import open_store
from scripts.benchmarks.s3_requests import run, user
from tests.support.seaweed import Server, running_server
from tests.support.stores import MIB, noise

pytestmark = pytest.mark.lane("s3")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """With a state of many tables, one of which goes in parts."""
    (tmp_path / "state").mkdir()
    (tmp_path / "tmp").mkdir()
    for number in range(16):
        (tmp_path / "state" / f"{number}.sst").write_bytes(noise(12 * MIB, number))
    (tmp_path / "state" / "large.sst").write_bytes(b"".join(noise(12 * MIB, number) for number in range(20, 28)))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    with user(tmp_path):
        yield tmp_path


def interrupted(home: Path, url: str, *words: str) -> tuple[int, str]:
    """The command, with a Ctrl-C as soon as something has moved: how it ended, and what it said last."""
    with subprocess.Popen(
        [sys.executable, "-m", "eoctl.cli.main", *words, "--store", url, "--jsonl"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        line = ""
        for line in process.stderr:
            event = json.loads(line)
            if event["schema"] == "eoctl.progress/1" and 0 < event["done_bytes"] < event["total_bytes"]:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        return process.wait(120), (rest.splitlines() or [line])[-1]


def test_an_upload_ends_at_once_and_leaves_nothing_half_done(server: Server, home: Path) -> None:
    bucket = server.bucket()
    url = server.url(bucket, "store")
    run(url, "store", "init")
    code, said = interrupted(home, url, "checkpoint", "create", "state", "-p", "orders")
    assert code == 130, said
    assert "nothing was committed" in said
    assert server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert open_store(url).pipeline("orders").checkpoints() == ()
    assert [path for path in (home / "tmp").rglob("*") if path.is_file()] == []
    assert sum(run(url, "checkpoint", "create", "state", "-p", "orders").values()) > 0
    run(url, "checkpoint", "verify", "-p", "orders", "--level", "full")


def test_a_download_ends_at_once_and_leaves_no_target(server: Server, home: Path) -> None:
    url = server.url(server.bucket(), "store")
    run(url, "store", "init")
    run(url, "checkpoint", "create", "state", "-p", "orders")
    code, said = interrupted(home, url, "restore", "orders@latest", "--to", "restored")
    assert code == 130, said
    assert "was not created" in said
    assert sorted(path.name for path in home.iterdir()) == [".cache", "state", "tmp"]
    assert [row.status for row in open_store(url).pipeline("orders").checkpoints()] == ["complete"]  # no hold is left
