"""The PostgreSQL sinks and source on a real server: two phases, upserts, zombies, processes killed at random."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eoctl.library import init_store
from eoctl.runtime.pipeline import Options, Pipeline
from eoctl.runtime.records import Batch
from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Request, run
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.postgres import PostgresTable, PostgresTransactions
from eoctl.runtime.sinks.protocol import CommitPermit, SinkContext
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.sources.postgres import PostgresRows
from formats.errors import ConflictError, CorruptError, FencedError, InvalidInputError
from tests.support.places import local_store
from tests.support.postgres import Postgres, running_postgres

psycopg = pytest.importorskip("psycopg")

ROOT = Path(__file__).parents[2]
KILLS = 50 if os.environ.get("EOCTL_TEST_LONG") == "1" else 6
COUNT, KEYS = 3000, 20


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def dsn(server: Postgres, request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"db{abs(hash(request.node.nodeid))}"
    with psycopg.connect(server.uri(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    uri = server.uri(name)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE ledger (k TEXT NOT NULL, n INT)")
        connection.execute("CREATE TABLE totals (k TEXT PRIMARY KEY, n INT)")
    yield uri
    with psycopg.connect(uri, autocommit=True) as connection:
        for (gid,) in connection.execute(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ).fetchall():
            connection.execute(f"ROLLBACK PREPARED '{gid}'")


def query(dsn: str, text: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return list(connection.execute(text).fetchall())


def context(attempt: int) -> SinkContext:
    return SinkContext(pipeline="p", uid="ledger", attempt=attempt, subtask=0)


def permit(checkpoint: int) -> CommitPermit:
    made = object.__new__(CommitPermit)
    made.checkpoint, made.attempt = checkpoint, 1
    return made


def ledger(dsn: str) -> PostgresTransactions:
    return PostgresTransactions(dsn=dsn, table="ledger", columns=("k", "n"))


def test_rows_are_prepared_then_committed_once_or_rolled_back(dsn: str) -> None:
    sink = ledger(dsn)
    writer = sink.writer(context(1))
    writer.write(Batch([("a", 1), ("b", 2)]))
    writer.write(Batch([("c", 3)]))
    [first] = writer.pre_commit(4)
    writer.write(Batch([("d", 4)]))
    [second] = writer.pre_commit(5)
    writer.write(Batch([("e", 5)]))
    assert query(dsn, "SELECT * FROM ledger") == []
    committer = sink.committer(context(2))
    for _ in range(2):
        committer.commit(permit(4), first)
    assert query(dsn, "SELECT k FROM ledger ORDER BY k") == [("a",), ("b",), ("c",)]
    assert committer.visible_after(3) == ("ledger-1-4-0",)
    assert committer.visible_after(4) == ()
    older = sink.committer(context(1))
    assert older.abort_others(frozenset()) == [], "only of earlier attempts"
    older.close()
    assert committer.abort_others(frozenset({second.id})) == []
    assert list(committer.abort_others(frozenset())) == ["p/ledger-1-5-0"]
    with pytest.raises(CorruptError, match="is gone, and was not committed"):
        committer.commit(permit(5), second)
    writer.close()
    committer.close()


def test_stores_with_pipelines_of_one_name_do_not_end_each_others_transactions(dsn: str) -> None:
    sink = ledger(dsn)
    here, copy = (replace(context(attempt), store=store * 32) for attempt, store in ((1, "a"), (5, "b")))
    writer = sink.writer(here)
    writer.write(Batch([("x", 1)]))
    [prepared] = writer.pre_commit(7)
    other = sink.committer(copy)
    assert other.abort_others(frozenset()) == []
    for _ in range(2):
        other.commit(permit(7), prepared)  # which a copied snapshot holds
    assert query(dsn, "SELECT k FROM ledger WHERE k = 'x'") == [("x",)]
    writer.close()
    other.close()


def test_a_zombie_upserts_nothing_after_its_successor_began(dsn: str) -> None:
    sink = PostgresTable(dsn=dsn, table="totals", columns=("k", "n"), key=("k",))
    zombie = sink.writer(context(1))
    zombie.write(Batch([("a", 1), ("a", 2)]))
    newer = sink.writer(context(2))
    newer.write(Batch([("a", 5)]))
    with pytest.raises(FencedError):
        zombie.write(Batch([("a", 3)]))
    with pytest.raises(InvalidInputError):
        newer.write(Batch([("b", "no number")]))
    assert query(dsn, "SELECT * FROM totals") == [("a", 5)]
    zombie.close()
    newer.close()


def test_rows_are_read_by_key_and_read_on(dsn: str, tmp_path: Path) -> None:
    store = local_store(tmp_path)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE events (id BIGINT PRIMARY KEY, v TEXT)")

    def build() -> Pipeline:
        pipeline = Pipeline("p", options=Options(interval=0.0, batch_size=7))
        pipeline.source("rows", PostgresRows(dsn=dsn, table="events", columns=("v",), key="id")).sink(
            "out", Files(tmp_path / "out")
        )
        return pipeline

    def add(first: int, stop: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.executemany("INSERT INTO events VALUES (%s, %s)", [(n, f"v{n}") for n in range(first, stop)])

    add(0, 50)
    assert run(store, build(), Request(directory=tmp_path / "w")).records == 50
    add(50, 60)
    assert run(store, build(), Request(directory=tmp_path / "w")).records == 10
    lines = [line for path in (tmp_path / "out").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(lines) == sorted(f'["v{n}"]' for n in range(60))


def test_visible_output_stops_an_older_restore(dsn: str, tmp_path: Path) -> None:
    store = local_store(tmp_path)
    pipeline = Pipeline("p", options=Options(interval=0.0, batch_size=4))
    made = Generator(make=lambda _, a, b: [("k", n) for n in range(a, b)], count=60)
    pipeline.source("numbers", made).sink("ledger", ledger(dsn))
    run(store, pipeline, Request(directory=tmp_path))
    assert len(query(dsn, "SELECT n FROM ledger")) == 60
    with pytest.raises(ConflictError, match="ledger-1-"):
        run(store, pipeline, Request(directory=tmp_path, choice=Choice(snapshot="1")))
    assert len(query(dsn, "SELECT n FROM ledger")) == 60


PROGRAM = f"""
from eoctl import Generator, Options, Pipeline, PostgresTable, PostgresTransactions

DSN = "THE_DSN"
pipeline = Pipeline("killed", parallelism=2, options=Options(interval=0.03, batch_size=40, tolerable_failures=100))
source = Generator(
    make=lambda split, first, stop: [(f"k{{number % {KEYS}}}", number) for number in range(first, stop)],
    count={COUNT}, partitions=2,
)
counts = pipeline.source("numbers", source).key_by(lambda record: record[0], type="string").count("count")
counts.sink("ledger", PostgresTransactions(dsn=DSN, table="ledger", columns=("k", "n")))
counts.sink("totals", PostgresTable(dsn=DSN, table="totals", columns=("k", "n"), key=("k",)))
"""


def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(dsn: str, tmp_path: Path) -> None:
    init_store(tmp_path / "store")
    file = tmp_path / "killed.py"
    file.write_text(PROGRAM.replace("THE_DSN", dsn))
    words = [sys.executable, "-m", "eoctl.cli.main", "run", str(file), "--store", str(tmp_path / "store")]
    words += ["--take-over", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    rng = random.Random(KILLS)
    killed = 0
    for _ in range(KILLS):
        with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()
            try:
                process.wait(timeout=rng.random() * 0.8)
            except subprocess.TimeoutExpired:
                killed += 1
                process.send_signal(signal.SIGKILL)
            process.communicate()
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert killed
    totals = Counter(f"k{number % KEYS}" for _ in range(2) for number in range(COUNT))
    assert sorted(query(dsn, "SELECT k, n FROM ledger")) == sorted(
        (key, n) for key, total in totals.items() for n in range(1, total + 1)
    )
    assert dict(query(dsn, "SELECT k, n FROM totals")) == totals
    assert query(dsn, "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()") == []
