"""Snapshots of Flink in a bucket are read as those on a disk are, by few requests; nothing leads out of the bucket."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eoctl.cli.main import main
from eoctl.engines import flink_s3
from eoctl.engines.flink import open_snapshot
from eoctl.engines.flink_s3 import s3_place
from eoctl.engines.flink_s3_reader import MOST_BYTES, TAIL_BYTES
from formats.errors import CorruptError
from formats.flink.handles import AbsoluteFile, RelativeFile, StreamHandle
from formats.flink.rewrite import change_streams
from formats.flink.writer import write_metadata
from scripts.benchmarks.s3_requests import Requests
from tests.support.flink import JOB, unpack
from tests.support.flink_oracle import Oracle
from tests.support.seaweed import ACCESS_KEY, SECRET_KEY, Server, running_server

pytestmark = pytest.mark.lane("s3")

TOTALS = ("--operator", "order-totals", "--state", "total")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


class Bucket:
    """The crashed job of the corpus in a bucket, and the same folder on disk."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.name = server.bucket()
        self.local = folder / "checkpoints"
        case = unpack("a-crash", folder / "old")
        assert main(["flink", "relocate", str(case / "checkpoints"), str(self.local)]) == 0
        uploaded = folder / "uploaded"
        assert main(["flink", "relocate", str(self.local), str(uploaded), "--as", f"s3://{self.name}/flink"]) == 0
        for path in self.local.rglob("*"):
            os.utime(path, (1, 1))
        for path in sorted(uploaded.rglob("*"), key=lambda path: path.name == "_metadata"):  # it comes last
            if path.is_file():
                self.put(f"flink/{path.relative_to(uploaded)}", path.read_bytes())

    def put(self, key: str, data: bytes) -> None:
        self.server.client().put_object(Bucket=self.name, Key=key, Body=data)

    def address(self, path: str = "", scheme: str = "s3") -> str:
        return f"flink:{scheme}://{self.name}/flink{path}?endpoint_url={self.server.endpoint}&region=us-east-1"


@pytest.fixture(scope="module")
def bucket(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    return Bucket(server, tmp_path_factory.mktemp("flink"))


@pytest.fixture(scope="module")
def spoilt(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    """One to which tests add snapshots that name other places."""
    return Bucket(server, tmp_path_factory.mktemp("flink"))


class Asked:
    """What commands answer, and what they ask the bucket for."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.requests: dict[str, int] = {}

    def __call__(self, *words: str | Path, code: int = 0) -> Any:
        self._capsys.readouterr()
        with Requests() as sent:
            assert main([str(word) for word in (*words, "--json")]) == code
        self.requests = dict(sent.counts)
        self.log = sent.log
        told = self._capsys.readouterr()
        return json.loads(told.out if code in {0, 3} else told.err)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Asked:
    return Asked(capsys)


def same(told: Any, here: str, local: Path) -> Any:
    """An answer about the bucket, as one about the disk; without times, and sizes that longer paths change."""
    text = json.dumps(told).replace(here, str(local))
    left_out = {"created_at", "modified_at", "seconds", "full_bytes", "added_bytes", "frees_bytes"}
    return json.loads(text, object_hook=lambda found: {name: found[name] for name in found.keys() - left_out})


COMMANDS: dict[str, tuple[tuple[str, ...], dict[str, int]]] = {
    "list": (("checkpoint", "list", "ROOT"), {"HEAD": 1, "LIST": 2, "GET": 3}),
    "inspect": (("checkpoint", "inspect", "CHK-3"), {"GET": 5, "LIST": 1, "HEAD": 2}),
    "files": (("checkpoint", "files", "CHK-3"), {"GET": 3, "LIST": 1, "HEAD": 2}),
    "diff": (("checkpoint", "diff", "CHK-2", "CHK-3"), {"GET": 5, "LIST": 2, "HEAD": 3}),
    "quick": (("checkpoint", "verify", "ROOT", "--level", "quick"), {"HEAD": 1, "LIST": 1, "GET": 3}),
    "full": (("checkpoint", "verify", "ROOT"), {"HEAD": 1, "LIST": 1, "GET": 55}),
    "states": (("state", "list", "CHK-3"), {"GET": 5}),
    "get": (("state", "get", "CHK-3", *TOTALS, "--key", "user-7"), {"GET": 10}),
    "scan": (("state", "scan", "CHK-3", *TOTALS), {"GET": 10}),
    "count": (("state", "count", "CHK-3"), {"GET": 30}),
    "state diff": (("state", "diff", "CHK-2", "CHK-3"), {"GET": 50}),
    "orphans": (("flink", "orphans", "ROOT"), {"LIST": 2, "GET": 3}),
    "can-delete": (("flink", "can-delete", "CHK-3"), {"HEAD": 1, "LIST": 2, "GET": 3}),
    "preflight": (("flink", "preflight", "CHK-3", "--uids", "UIDS"), {"GET": 1}),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_answers_as_on_disk_by_few_requests(bucket: Bucket, ask: Asked, tmp_path: Path, command: str) -> None:
    (tmp_path / "uids").write_text("order-totals-2\norder-window\n")
    words, most = COMMANDS[command]
    code = 3 if command == "preflight" else 0

    def answer(root: str, at: str) -> Any:
        places = {"ROOT": root, "CHK-2": at.format(2), "CHK-3": at.format(3), "UIDS": str(tmp_path / "uids")}
        return ask(*(places.get(word, word) for word in words), code=code)

    expected = same(answer(str(bucket.local), f"{bucket.local}/{JOB}/chk-{{}}"), "nothing", bucket.local)
    told = answer(bucket.address(), bucket.address(f"/{JOB}/chk-{{}}"))
    assert all(ask.requests[kind] <= most.get(kind, 0) for kind in ask.requests), ask.requests
    addresses = (
        json.dumps(told)
        .replace("flink:s3", "s3")
        .replace(bucket.address()[len(f"flink:s3://{bucket.name}/flink") :], "")
    )
    assert same(json.loads(addresses), f"s3://{bucket.name}/flink", bucket.local) == expected


@pytest.mark.parametrize("command", ["list", "full", "orphans", "can-delete"])
def test_of_a_large_root_no_more_is_listed_than_is_asked_for(
    bucket: Bucket, ask: Asked, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def answer() -> Any:
        places = {"ROOT": bucket.address(), "CHK-3": bucket.address(f"/{JOB}/chk-3")}
        return same(ask(*(places.get(word, word) for word in COMMANDS[command][0])), "nothing", bucket.local)

    expected = answer()
    monkeypatch.setattr(flink_s3, "KNOWN_FILES", 10)
    assert answer() == expected
    assert ask.requests["LIST"] > COMMANDS[command][1]["LIST"]


def test_flinks_other_names_of_a_bucket_are_the_same_bucket(spoilt: Bucket, ask: Asked) -> None:
    first = ask("checkpoint", "files", spoilt.address(f"/{JOB}/chk-3"))
    assert ask("checkpoint", "files", spoilt.address(f"/{JOB}/chk-3/_metadata", "s3p"))["files"] == first["files"]
    renamed(spoilt, "chk-13", lambda path: path.replace("s3://", "s3a://"))
    assert ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-13"))["damaged"] == []


def test_a_snapshot_in_a_bucket_is_exported_stored_and_made_portable(
    bucket: Bucket, ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))
    snapshot, local = bucket.address(f"/{JOB}/chk-3"), bucket.local / JOB / "chk-3"
    rows = ask("state", "scan", local, *TOTALS)["rows"]
    ask("store", "init")
    ask("flink", "export", snapshot, "--to", tmp_path / "exported")
    ask("flink", "export", snapshot, "--to", tmp_path / "canonical", "--canonical")
    ask("savepoint", "create", snapshot, "--to", tmp_path / "portable")
    ask("state", "export", snapshot, *TOTALS, "--to", tmp_path / "totals.parquet")
    ask("checkpoint", "create", bucket.address(), "-p", "orders", "--follow")
    ask("restore", "orders@latest", "--to", tmp_path / "restored")
    for name in ("exported", "canonical", "portable", "restored"):
        assert ask("state", "scan", f"{tmp_path}/{name}", *TOTALS)["rows"] == rows
    assert ask("checkpoint", "create", bucket.address(), "-p", "orders", "--follow")["created"] == []


def test_a_file_that_the_store_has_is_not_fetched_again(
    server: Server, ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = Bucket(server, tmp_path / "bucket")
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))

    def fetched() -> Counter[str]:
        """How often each file was; `_metadata` says which files there are."""
        names = Counter(line.split("?")[0].rpartition("/")[2] for line in ask.log if line.startswith("GET "))
        del names["_metadata"]
        return names

    def create(*words: str) -> Any:
        return ask("checkpoint", "create", bucket.address(f"/{JOB}/chk-3"), "-p", "orders", *words)

    ask("store", "init")
    assert len(ask("checkpoint", "create", bucket.address(), "-p", "orders", "--follow")["created"]) == 3
    files = set(fetched())
    assert {path.name for path in (bucket.local / JOB / "shared").iterdir()} & files
    assert set(fetched().values()) == {1}
    told = create()
    assert (fetched(), told["stored_bytes"]) == ({}, 0)
    # A job of cron's in a container is on a new host each time.
    monkeypatch.setattr("eoctl.ambient._host", lambda: "another")
    create()
    create("--as-id", str(told["id"] + 1))
    assert fetched() == {}
    create("--reread")
    newest = fetched()
    assert newest
    assert newest.keys() < files

    changed = next(path for path in sorted((bucket.local / JOB / "shared").iterdir()) if path.name in newest)
    data = changed.read_bytes()[::-1]
    bucket.put(f"flink/{JOB}/shared/{changed.name}", data)
    create()
    assert fetched() == {changed.name: 1}
    ask("restore", "orders@latest", "--to", tmp_path / "restored")
    assert (tmp_path / "restored" / changed.name).read_bytes() == data


def test_what_writes_is_for_local_folders(bucket: Bucket, ask: Asked, tmp_path: Path) -> None:
    for words in (
        ("flink", "orphans", bucket.address(), "--quarantine", tmp_path / "q"),
        ("flink", "orphans", bucket.address(), "--delete", "--expect", "10", "--older-than", "7d"),
        ("flink", "relocate", bucket.address(), tmp_path / "to"),
    ):
        assert "is for local folders only" in ask(*words, code=2)["message"]
        assert ask.requests == {}


@pytest.mark.parametrize("told", ["s3://other/flink", "s3a://other/flink", "http://127.0.0.1:1/flink", "file:/etc"])
def test_no_handle_leads_to_another_bucket_or_host(spoilt: Bucket, ask: Asked, told: str) -> None:
    renamed(spoilt, "chk-23", lambda path: f"{told}/{path.rpartition('/')[2]}")
    assert ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-23"), code=3)["damaged"]
    assert ask("state", "scan", spoilt.address(f"/{JOB}/chk-23"), *TOTALS, code=14)["message"].startswith("a handle")
    assert all(f"/{spoilt.name}" in line for line in ask.log)


def test_another_bucket_is_read_where_it_is_allowed(server: Server, spoilt: Bucket, ask: Asked) -> None:
    other = server.bucket()
    old = f"s3://{spoilt.name}/flink/{JOB}/shared"
    for path in (spoilt.local / JOB / "shared").iterdir():
        server.client().put_object(Bucket=other, Key=f"tables/{path.name}", Body=path.read_bytes())
    renamed(spoilt, "chk-33", lambda path: path.replace(old, f"s3://{other}/tables"))
    allowed = f"s3://{other}=s3://{other}"
    for options in ("", f"?endpoint_url={server.endpoint}&region=us-east-1"):
        told = ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-33"), "--map-path", f"{allowed}{options}")
        assert told["damaged"] == []
    assert ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-33"), code=3)["damaged"]


def test_a_snapshot_that_flink_drops_meanwhile_is_missing_files(spoilt: Bucket, ask: Asked) -> None:
    renamed(spoilt, "chk-43", lambda path: f"{path}-gone")
    found = ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-43"), "--level", "quick", code=3)
    assert {each["reason"] for each in found["damaged"]} == {"is missing"}
    assert "is missing" in ask("state", "scan", spoilt.address(f"/{JOB}/chk-43"), *TOTALS, code=13)["message"]


def renamed(bucket: Bucket, name: str, change: Any) -> None:
    """A copy of chk-3 that names its shared files otherwise."""
    place = s3_place(bucket.address(f"/{JOB}/chk-3").removeprefix("flink:"))
    snapshot = open_snapshot(place)

    def changed(handle: StreamHandle) -> StreamHandle:
        return AbsoluteFile(change(handle.path), handle.size) if isinstance(handle, AbsoluteFile) else handle

    data = write_metadata(change_streams(snapshot.metadata, changed, lambda folder: folder))
    for piece in snapshot.pieces():
        if isinstance(piece.stream.handle, RelativeFile):
            body = (bucket.local / JOB / "chk-3" / piece.stream.handle.path).read_bytes()
            bucket.put(f"flink/{JOB}/{name}/{piece.stream.handle.path}", body)
    bucket.put(f"flink/{JOB}/{name}/_metadata", data)


def test_ranges_are_the_bytes_of_the_file(server: Server) -> None:
    name, draw = server.bucket(), random.Random(7)
    place = s3_place(f"s3://{name}/deep?endpoint_url={server.endpoint}&region=us-east-1")
    for size in (0, 1, TAIL_BYTES, MOST_BYTES + 1, 7 << 20):
        data = draw.randbytes(size)
        server.client().put_object(Bucket=name, Key="deep/a b+c=ü", Body=data)
        files = place.files.afresh()
        with files.open(f"{place}/a b+c=ü") as file:
            assert file.read() == data
        with files.open(f"{place}/a b+c=ü") as file:
            assert file.seek(0, 2) == size
            for _ in range(20):
                at, length = draw.randrange(size + 2), draw.choice([0, 1, 100, 1 << 19, 3 << 20])
                file.seek(at)
                assert file.read(length) == data[at : at + length]
        start = size // 3
        with files.open(f"{place}/a b+c=ü", start, 1000) as file:
            assert file.read() == data[start : start + 1000]
            file.seek(10)
            assert file.read(5) == data[start : start + 1000][10:15]


def test_handles_to_many_jobs_that_are_not_there_are_few_requests(spoilt: Bucket, ask: Asked) -> None:
    jobs = iter(range(1 << 20))
    renamed(spoilt, "chk-53", lambda path: f"hdfs:/flink/{next(jobs):032x}/shared/{path.rpartition('/')[2]}")
    found = ask("checkpoint", "verify", spoilt.address(f"/{JOB}/chk-53"), "--level", "quick", code=3)
    assert len({each["name"] for each in found["damaged"]}) == 28
    assert sum(ask.requests.values()) < 20


def test_a_file_that_changes_while_it_is_read_is_told(server: Server) -> None:
    name = server.bucket()
    files = s3_place(f"s3://{name}?endpoint_url={server.endpoint}&region=us-east-1").files
    server.client().put_object(Bucket=name, Key="a", Body=bytes(1 << 20))
    with files.open(f"s3://{name}/a") as file:
        assert file.read(10) == bytes(10)
        server.client().put_object(Bucket=name, Key="a", Body=b"1" * (1 << 20))
        file.seek(900_000)
        with pytest.raises(CorruptError, match="changed while it was read"):
            file.read(10)


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp("lab"))


@pytest.mark.slow
def test_what_a_real_flink_writes_to_a_bucket_is_read_and_goes_back(
    server: Server, flink: Oracle, ask: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not flink.has_s3():
        pytest.skip("no plugin for S3 beside Flink: scripts/setup-flink gets it where mvn is")
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))
    name = server.bucket()
    plugin = {
        "s3.endpoint": server.endpoint,
        "s3.path.style.access": "true",
        "s3.access-key": ACCESS_KEY,
        "s3.secret-key": SECRET_KEY,
    }
    settings = plugin | {
        "execution.checkpointing.interval": "1 h",
        "execution.checkpointing.incremental": "true",
        "execution.checkpointing.data-inline-threshold": "1kb",
        "execution.checkpointing.externalized-checkpoint-retention": "RETAIN_ON_CANCELLATION",
        "execution.checkpointing.num-retained": "3",
        "execution.checkpointing.dir": f"s3://{name}/prod/checkpoints",
    }
    words = {"checkpoints": "2", "savepoints": "CANONICAL", "savepointdir": f"s3p://{name}/prod/savepoints"}
    written = flink.ask(None, settings=settings, words=words)
    assert written.code == 0, written.failure
    ((job,),) = written.told["job"]

    def address(path: str) -> str:
        return f"flink:s3://{name}/prod{path}?endpoint_url={server.endpoint}&region=us-east-1"

    listed = ask("checkpoint", "list", address(""))["snapshots"]
    assert sorted((row["pipeline"], row["kind"]) for row in listed) == [("", "savepoint"), *[(job, "checkpoint")] * 3]
    newest = max((row for row in listed if row["kind"] == "checkpoint"), key=lambda row: row["id"])
    assert newest["referenced_files"] > 0
    snapshot = address(newest["path"].removeprefix(f"s3://{name}/prod"))
    assert ask("checkpoint", "verify", address(""))["damaged"] == []
    assert ask("flink", "orphans", address(""))["missing"] == []
    found = ask("checkpoint", "inspect", snapshot)
    assert {operator["uid"] for operator in found["operators"]} >= {"order-totals", "order-window", "order-audit"}
    rows = {row["key"]: row["value"] for row in ask("state", "scan", snapshot, *TOTALS)["rows"]}

    restored = flink.ask(newest["path"], settings=plugin)
    assert restored.code == 0, restored.failure
    assert {user: int(total) for user, total, _, _ in restored.told["restored"]} == rows
    expected = sorted(restored.told["final"])

    ask("flink", "export", snapshot, "--to", tmp_path / "exported")
    ask("store", "init")
    ask("checkpoint", "create", address(""), "-p", "orders", "--follow")
    server.client().delete_object(Bucket=name, Key=newest["path"].removeprefix(f"s3://{name}/") + "/_metadata")
    ask("restore", "orders@latest", "--to", tmp_path / "restored")
    ask("state", "export", tmp_path / "restored", *TOTALS, "--to", tmp_path / "totals.parquet")
    for folder in ("exported", "restored"):
        answer = flink.ask(tmp_path / folder)
        assert answer.code == 0, answer.failure
        assert sorted(answer.told["restored"]) == sorted(restored.told["restored"])
        assert sorted(answer.told["final"]) == expected
    assert flink.ask(newest["path"], settings=plugin).code == 3
