"""How many requests a command sends to S3, counted where the HTTP library sends them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eoctl.cli.main import main
from scripts.benchmarks.s3_requests import Requests, measured, run, user
from tests.support.seaweed import Server, running_server

pytestmark = pytest.mark.lane("s3")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def url(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store with one checkpoint of `state`, and a home without caches."""
    (tmp_path / "home").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "a").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    with user(tmp_path / "home"):
        url = server.url(server.bucket(), "store")
        run(url, "store", "init")
        run(url, "checkpoint", "create", "state", "-p", "orders")
        yield url


def test_a_list_is_one_get_of_head(url: str) -> None:
    assert dict(run(url, "checkpoint", "list", "-p", "orders")) == {"GET": 1}


def test_the_first_list_on_a_host_reads_which_store_it_is(url: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "home" / ".cache")
    assert dict(run(url, "checkpoint", "list", "-p", "orders")) == {"GET": 2}
    assert dict(run(url, "checkpoint", "list", "-p", "orders")) == {"GET": 1}


def test_a_store_that_was_made_anew_is_not_taken_for_the_old_one(
    url: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client, bucket = server.client(), url.partition("//")[2].partition("/")[0]
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for item in page["Contents"]:
            client.delete_object(Bucket=bucket, Key=item["Key"])
    assert main(["checkpoint", "list", "-p", "orders", "--store", url]) == 10
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path / "home" / ".cache", kept)
    run(url, "store", "init")
    run(url, "checkpoint", "create", "state", "-p", "orders")
    shutil.rmtree(tmp_path / "home" / ".cache")
    shutil.copytree(kept, tmp_path / "home" / ".cache")  # a host that has not seen the new one
    capsys.readouterr()
    assert main(["checkpoint", "list", "-p", "orders", "--store", url, "-q"]) == 0
    assert capsys.readouterr().out == "orders@1\n"
    assert dict(run(url, "checkpoint", "list", "-p", "orders")) == {"GET": 1}


def test_no_other_command_believes_what_is_remembered(url: str) -> None:
    with Requests() as requests:
        assert main(["checkpoint", "hold", "orders@1", "--reason", "audit", "--store", url]) == 0
    assert any("store.json" in line for line in requests.log)


def test_ten_thousand_small_files_take_few_requests(server: Server, tmp_path: Path) -> None:
    with user(tmp_path):
        (tmp_path / "home").mkdir()
        rows = {row.what: row.counts for row in measured(10_000, server.url(server.bucket()), tmp_path / "home")}
    assert sum(rows["first checkpoint"].values()) <= 40
    assert sum(rows["checkpoint, 1 % changed"].values()) <= 20
    assert dict(rows["checkpoint list -p"]) == {"GET": 1}
    assert sum(rows["restore"].values()) <= 30
    assert all(sum(counts.values()) <= 80 for counts in rows.values()), rows


def test_a_local_store_needs_no_s3(tmp_path: Path) -> None:
    program = (
        "import sys; from eoctl.cli.main import main; main(['store', 'init', 'store']);"
        "main(['pipeline', 'list', '--store', 'store']);"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore', 's3transfer', 'urllib3')))"
    )
    root = str(Path(__file__).parents[2])
    environment = {"PATH": "/usr/bin", "HOME": str(tmp_path), "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
