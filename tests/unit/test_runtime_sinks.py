"""Sinks one by one: two phases, upserts, effects, logs, documents; what zombies meet there."""

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.effects import EFFECTS_TOGETHER, DeferredEffects
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.http import HttpDocuments
from eoctl.runtime.sinks.output_log import OutputLog, read_log
from eoctl.runtime.sinks.protocol import CommitPermit, SinkContext
from eoctl.runtime.sinks.sqlite import SqliteTable
from eoctl.runtime.sources.generator import Generator
from formats.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    InvalidInputError,
    UnavailableError,
    UsageError,
)
from formats.head import HeadEntry
from formats.manifest import Transaction
from storage.store import Store
from tests.support.places import local_store


def context(attempt: int = 1, subtask: int = 0, **more: Any) -> SinkContext:
    return SinkContext(pipeline="p", uid="out", attempt=attempt, subtask=subtask, **more)


def permit(checkpoint: int, attempt: int = 1) -> CommitPermit:
    entry = HeadEntry(
        kind="checkpoint",
        id=checkpoint,
        seq=1,
        txid="0" * 32,
        created_at="2026-01-01T00:00:00.000Z",
        attempt=attempt,
        engine="eoctl",
        manifest="0" * 64 + ".1",
        manifest_bytes=1,
        full_bytes=0,
        added_bytes=0,
        files=0,
        added_files=0,
        referenced_files=0,
    )
    return CommitPermit(entry, attempt)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return local_store(tmp_path)


def pipeline_of(sink: Any, count: int = 10, guarantee: str = "exactly-once") -> Pipeline:
    pipeline = Pipeline("p", guarantee=guarantee, options=Options(interval=0.0, batch_size=4))
    pipeline.source("numbers", Generator(make=lambda _, a, b: list(range(a, b)), count=count)).sink("out", sink)
    return pipeline


# Files.


def test_a_file_is_hidden_until_its_commit_and_a_commit_is_idempotent(tmp_path: Path) -> None:
    sink = Files(tmp_path)
    writer, committer = sink.writer(context()), sink.committer(context())
    writer.write(Batch([1, 2]))
    [transaction] = writer.pre_commit(7)
    assert names(tmp_path) == [".eoctl-out/out-1-7-0"]
    assert transaction.properties["records"] == "2"
    for _ in range(2):
        committer.commit(permit(7), transaction)
    assert names(tmp_path) == ["out-1-7-0.jsonl"]
    assert writer.pre_commit(8) == ()


def test_recovery_aborts_only_what_earlier_attempts_left(tmp_path: Path) -> None:
    sink = Files(tmp_path)
    old, new = sink.writer(context(1)), sink.writer(context(3))
    for writer in (old, new):
        writer.write(Batch(["x"]))
        writer.pre_commit(5)
        writer.write(Batch(["y"]))
    gone = sink.committer(context(2)).abort_others(frozenset())
    assert list(gone) == ["out-1-5-0"]
    assert names(tmp_path) == [".eoctl-out/.writing-3-0", ".eoctl-out/out-3-5-0"]
    with pytest.raises(FencedError):
        old.pre_commit(6)
    assert new.pre_commit(6)


def test_a_file_that_vanished_before_its_commit_is_told_unless_readers_take_files_away(tmp_path: Path) -> None:
    sink = Files(tmp_path)
    writer = sink.writer(context())
    writer.write(Batch([1]))
    [transaction] = writer.pre_commit(1)
    (tmp_path / ".eoctl-out" / transaction.id).unlink()
    with pytest.raises(CorruptError, match="is gone"):
        sink.committer(context()).commit(permit(1), transaction)
    Files(tmp_path, taken_away=True).committer(context()).commit(permit(1), transaction)


def test_output_of_later_checkpoints_stops_a_restore_of_an_older_one(store: Store, tmp_path: Path) -> None:
    request = Request(directory=tmp_path / "work")
    run(store, pipeline_of(Files(tmp_path / "out"), 40), request)
    with pytest.raises(ConflictError, match="is visible and would come again") as caught:
        run(store, pipeline_of(Files(tmp_path / "out"), 40), Request(choice=Choice(snapshot="1")))
    assert caught.value.facts["visible"]
    before = sum(path.read_text().count("\n") for path in (tmp_path / "out").glob("*.jsonl"))
    choice = Choice(snapshot="1", allow_repeated_output=True)
    run(store, pipeline_of(Files(tmp_path / "out"), 40), Request(choice=choice))
    after = sum(path.read_text().count("\n") for path in (tmp_path / "out").glob("*.jsonl"))
    assert (before, after > before) == (40, True), "the flag doubles output, as it says"


# SQLite.


def table(tmp_path: Path, key: tuple[str, ...] = ("k",)) -> SqliteTable:
    path = tmp_path / "sink.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, n INTEGER NOT NULL)")
    return SqliteTable(path=path, table="t", columns=("k", "n"), key=key)


def rows(tmp_path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(tmp_path / "sink.db")) as database:
        return dict(database.execute("SELECT k, n FROM t"))


def test_upserts_replace_what_has_the_same_key(tmp_path: Path) -> None:
    writer = table(tmp_path).writer(context())
    writer.write(Batch([("a", 1), {"k": "b", "n": 2}]))
    writer.write(Batch([("a", 3)]))
    assert rows(tmp_path) == {"a": 3, "b": 2}
    writer.close()


def test_a_zombie_puts_nothing_over_newer_rows(tmp_path: Path) -> None:
    zombie = table(tmp_path).writer(context(1))
    zombie.write(Batch([("a", 1)]))
    newer = table(tmp_path).writer(context(2))
    with pytest.raises(FencedError, match="attempt 2 writes"):
        zombie.write(Batch([("a", 9)]))
    newer.write(Batch([("a", 2)]))
    assert rows(tmp_path) == {"a": 2}
    for writer in (zombie, newer):
        writer.close()


def test_a_batch_that_the_table_refuses_is_not_written_in_part(tmp_path: Path) -> None:
    writer = table(tmp_path).writer(context())
    with pytest.raises(InvalidInputError, match="NOT NULL"):
        writer.write(Batch([("a", 1), ("b", None)]))
    with pytest.raises(UsageError, match="no row of k, n"):
        writer.write(Batch([("a",)]))
    assert rows(tmp_path) == {}
    writer.close()
    with pytest.raises(UsageError, match="no key"):
        table(tmp_path, key=())
    with pytest.raises(UnavailableError, match="no such table"):
        SqliteTable(path=tmp_path / "other.db", table="t", columns=("k",), key=("k",)).writer(context()).write(
            Batch([("a",)])
        )


# Effects.


def test_effects_run_after_their_checkpoint_with_their_keys(store: Store, tmp_path: Path) -> None:
    ran: list[tuple[str, int]] = []
    sink = DeferredEffects(lambda key, record: ran.append((key, record)), lambda record: f"mail-{record % 10}")
    run(store, pipeline_of(sink, 30), Request(directory=tmp_path))
    assert {key for key, _ in ran} == {f"mail-{number}" for number in range(10)}
    writer = sink.writer(context())
    writer.write(Batch(list(range(EFFECTS_TOGETHER))))
    assert writer.pre_commit(1)[0].properties["records"] == "10", "of one epoch each key once"


def test_an_effect_that_fails_is_tried_again_and_those_before_it_are_not(tmp_path: Path) -> None:
    tries: Counter[str] = Counter()

    def send(key: str, _: int) -> None:
        tries[key] += 1
        if key == "1" and tries[key] < 3:
            raise UnavailableError("the server is down")

    sink = DeferredEffects(send, str)
    writer, committer = sink.writer(context()), sink.committer(context())
    writer.write(Batch([0, 1, 2]))
    [transaction] = writer.pre_commit(1)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            committer.commit(permit(1), transaction)
    committer.commit(permit(1), transaction)
    assert tries == {"0": 1, "1": 3, "2": 1}


# The output log.


def logged(tmp_path: Path) -> list[Any]:
    return [record for _, record in read_log(tmp_path / "out-0.log")]


def test_a_replay_is_checked_off_and_only_new_records_are_appended(tmp_path: Path) -> None:
    sink = OutputLog(tmp_path)
    writer = sink.writer(context(1))
    writer.write(Batch([1, 2]))
    [held] = writer.pre_commit(1)
    writer.write(Batch([3, 4]))
    assert logged(tmp_path) == [1, 2, 3, 4], "visible at once"
    again = sink.writer(context(2, held=(held,)))
    again.write(Batch([3, 4, 5]))
    writer.write(Batch(["a zombie"]))
    assert logged(tmp_path) == [1, 2, 3, 4, 5]
    other = sink.writer(context(3, held=(held,)))
    with pytest.raises(ConflictError, match="another record than the run before"):
        other.write(Batch([3, 99]))
    for one in (writer, again, other):
        one.close()


def test_a_frame_that_a_crash_cut_off_is_left_out_and_a_lost_log_is_told(tmp_path: Path) -> None:
    sink = OutputLog(tmp_path)
    writer = sink.writer(context(1))
    writer.write(Batch(["one", "two"]))
    [held] = writer.pre_commit(1)
    writer.close()
    path = tmp_path / "out-0.log"
    path.write_bytes(path.read_bytes()[:-2])
    again = sink.writer(context(2))
    again.write(Batch(["one", "two"]))
    again.close()
    assert logged(tmp_path) == ["one", "two"]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CorruptError, match="shorter than"):
        sink.writer(context(3, held=(held,)))
    path.unlink()
    with pytest.raises(CorruptError, match="shorter than"):
        sink.writer(context(3, held=(held,)))


def test_a_pipeline_with_an_output_log_writes_each_record_once(store: Store, tmp_path: Path) -> None:
    for stop_after in (2, 3, 100):
        rounds = iter([False] * stop_after)
        request = Request(directory=tmp_path / "work", stop=lambda rounds=rounds: next(rounds, True))  # type: ignore[misc]
        run(store, pipeline_of(OutputLog(tmp_path), 60), request)
    assert logged(tmp_path) == list(range(60))


# Documents.


class Server(BaseHTTPRequestHandler):
    documents: dict[str, Any]
    posts: list[Any]
    failures: list[int]

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.failures.pop() if self.failures else 200
        if status in {200, 500}:  # the failure comes after the effect
            if self.command == "PUT":
                self.documents[self.path] = body
            else:
                self.posts.append(body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT  # noqa: N815  (likewise)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    handler = type("Handler", (Server,), {"documents": {}, "posts": [], "failures": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/documents", handler
        http.shutdown()
        thread.join()


def test_documents_are_put_under_their_ids_however_often(server: Any, store: Store, tmp_path: Path) -> None:
    url, handler = server
    handler.failures += [503, 500]
    run(store, pipeline_of(HttpDocuments(url, id=str), 6), Request(directory=tmp_path))
    assert handler.documents == {f"/documents/{number}": number for number in range(6)}
    handler.failures += [404]
    with pytest.raises(InvalidInputError, match="404"):
        HttpDocuments(url, id=str).writer(context()).write(Batch([1]))
    handler.failures += [500] * 3
    with pytest.raises(UnavailableError, match="500"):
        HttpDocuments(url, id=str).writer(context()).write(Batch([1]))


def test_documents_without_ids_are_refused_exactly_once_doubled_at_least_once_and_lost_at_most_once(
    server: Any, store: Store, tmp_path: Path
) -> None:
    url, handler = server
    sink = HttpDocuments(url)
    with pytest.raises(UsageError, match="neither transactional nor idempotent"):
        pipeline_of(sink).graph()
    handler.failures += [200, 500]
    with pytest.raises(UnavailableError):
        run(store, pipeline_of(sink, 6, "at-least-once"), Request(directory=tmp_path))
    run(store, pipeline_of(sink, 6, "at-least-once"), Request(directory=tmp_path))
    assert Counter(handler.posts) == {0: 2, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1}

    handler.posts.clear()
    pipeline = pipeline_of(sink, 6, "at-most-once")
    pipeline.name = "most"
    run(store, pipeline, Request(directory=tmp_path))
    assert handler.posts == list(range(6))
    run(store, pipeline, Request(directory=tmp_path))
    assert handler.posts == list(range(6)), "nothing comes again"


def test_a_transaction_of_effects_that_is_none_is_told() -> None:
    sink = DeferredEffects(lambda *_: None, str)
    with pytest.raises(CorruptError):
        sink.committer(context()).commit(
            permit(1), Transaction(id="x", state="pre-committed", checkpoint=1, payload=b"N")
        )
