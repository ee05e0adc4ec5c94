"""`eoctl doctor` of stores on a real S3 server: what it finds, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from eoctl.ambient import system_ambient
from eoctl.services.doctor import examine
from formats.ids import HashAlgorithm
from storage.backends.s3 import s3_place
from storage.store import init_store
from tests.support.fakes import FakeAmbient
from tests.support.seaweed import READER_KEY, Server, running_server

pytestmark = pytest.mark.lane("s3")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture
def bucket(server: Server) -> str:
    return server.bucket()


def doctor(url: str, environment: Mapping[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its exit code, and what it found by check."""
    done = subprocess.run(
        [sys.executable, "-m", "eoctl.cli.main", "doctor", "--json", "--store", url],
        cwd=ROOT,
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    assert (document["schema"], document["store"], done.stderr) == ("eoctl.doctor/1", url, "")
    return done.returncode, {one["check"]: one for one in document["checks"]}


def test_a_healthy_store_is_told_so_and_nothing_is_left_behind(server: Server, bucket: str) -> None:
    url = server.url(bucket, "tenant")
    init_store(s3_place(url, "test"), HashAlgorithm.BLAKE3, system_ambient())
    code, found = doctor(url)
    assert (code, {one["state"] for one in found.values()}) == (0, {"ok"}), found
    assert list(found) == [
        "versions",
        "credentials",
        "bucket",
        "clock",
        "store",
        "conditional writes",
        "checksums",
        "lifecycle",
        "versioning",
        "leftovers",
    ]
    assert "If-None-Match" in found["conditional writes"]["found"]
    keys = [item["Key"] for item in server.client().list_objects_v2(Bucket=bucket).get("Contents", [])]
    assert keys == ["tenant/store.json"]


def test_what_threatens_a_store_is_found_with_the_fix(server: Server, bucket: str) -> None:
    client = server.client()
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 30}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.create_multipart_upload(Bucket=bucket, Key="tenant/p/orders/o/00/blob")
    code, found = doctor(server.url(bucket, "tenant"))
    states = {check: one["state"] for check, one in found.items()}
    assert code == 3
    assert {check: state for check, state in states.items() if state != "ok"} == {
        "store": "warning",
        "lifecycle": "bad",
        "versioning": "warning",
        "leftovers": "warning",
    }
    assert "the rule tidy deletes objects after 30 days" in found["lifecycle"]["found"]
    assert all(one["fix"] for one in found.values() if one["state"] != "ok")


def test_who_may_only_read_learns_what_could_not_be_looked_at(server: Server, bucket: str) -> None:
    code, found = doctor(server.url(bucket, "tenant"), server.environment(READER_KEY))
    assert found["credentials"]["found"] == f"found by env, key ...{READER_KEY[-4:]}"
    assert found["conditional writes"]["state"] == "unknown"
    assert "PutObject" in found["conditional writes"]["found"]
    assert code == 0


def test_a_bucket_that_is_not_there_ends_the_examination(server: Server) -> None:
    code, found = doctor(server.url("no-such-bucket", "tenant"))
    assert (code, list(found)) == (3, ["versions", "credentials", "bucket"])
    assert "there is no bucket no-such-bucket" in found["bucket"]["found"]


def test_no_credentials_end_the_examination(server: Server, bucket: str) -> None:
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    code, found = doctor(server.url(bucket, "tenant"), nobody)
    assert (code, list(found)) == (3, ["versions", "credentials"])
    assert "AWS_PROFILE" in found["credentials"]["fix"]


def test_a_clock_that_is_off_is_told(server: Server, bucket: str) -> None:
    found = examine(s3_place(server.url(bucket), "test"), FakeAmbient().ambient())  # whose clock stands still
    (clock,) = (one for one in found.checks if one.check == "clock")
    assert (found.ok, clock.state.value) == (False, "bad")
    assert "timedatectl" in clock.fix
