"""Pipelines from end to end: output, state and positions through runs, restores and rescales."""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eoctl.runtime.audit import AuditLog, audit
from eoctl.runtime.operators.keyed import KeyedContext, ListState, MapState, ValueState
from eoctl.runtime.pipeline import Options, Pipeline, Stream
from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Finished, Request, Told, run
from eoctl.runtime.sinks.files import Files
from eoctl.runtime.sinks.protocol import Sink
from eoctl.runtime.sinks.sqlite import SqliteTable
from eoctl.runtime.sources.files import LineFiles, json_lines
from eoctl.runtime.sources.generator import Generator
from eoctl.runtime.windows import Session, Sliding, Tumbling, collecting, summing
from formats.errors import ConflictError, CorruptError, IncompatibleError, UsageError
from formats.ids import BlobKey, PipelineId
from formats.manifest import Transaction, blobs
from storage import layout
from storage.store import Store
from tests.support.places import local_store

KEYS = 7


def numbers(split: int, first: int, stop: int) -> list[Any]:
    return [(f"k{number % KEYS}", number * 10 + split) for number in range(first, stop)]


def source(pipeline: Pipeline, count: int = 400, partitions: int = 2) -> Stream:
    return pipeline.source(
        "numbers", Generator(make=numbers, count=count, partitions=partitions), time=lambda record: record[1]
    )


def output(tmp_path: Path, name: str = "out") -> list[Any]:
    found = [json.loads(line) for path in (tmp_path / name).glob("*.jsonl") for line in path.read_text().splitlines()]
    return sorted(found, key=repr)


def execute(store: Store, pipeline: Pipeline, tmp_path: Path, **request: Any) -> Finished:
    return run(store, pipeline, Request(directory=tmp_path / "work", **request))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return local_store(tmp_path)


SMALL = Options(interval=0.0, batch_size=32)


def run_in_parts(
    store: Store, build: Callable[[int], Pipeline], tmp_path: Path, parallelisms: tuple[int, ...] = (2, 3, 1)
) -> None:
    """The pipeline runs to its end, stopped after some rounds and restored at another parallelism each time."""
    for parallelism in parallelisms[:-1]:
        rounds = iter([False] * 8)
        execute(store, build(parallelism), tmp_path, stop=partial(next, rounds, True))
    execute(store, build(parallelisms[-1]), tmp_path)


def test_a_count_of_windows_is_that_of_all_records(store: Store, tmp_path: Path) -> None:
    def build(parallelism: int) -> Pipeline:
        pipeline = Pipeline("p", parallelism=parallelism, options=SMALL)
        keyed = source(pipeline).key_by(lambda record: record[0], type="string")
        keyed.window("windows", Tumbling(1000)).sink("out", Files(tmp_path / "out"))
        return pipeline

    run_in_parts(store, build, tmp_path)
    expected = Counter((key, time // 1000 * 1000) for split in range(2) for key, time in numbers(split, 0, 400))
    assert output(tmp_path) == sorted(
        ([key, start, start + 1000, count] for (key, start), count in expected.items()), key=repr
    )


def test_running_counts_go_on_after_a_restore(store: Store, tmp_path: Path) -> None:
    def build(parallelism: int) -> Pipeline:
        pipeline = Pipeline("p", parallelism=parallelism, options=SMALL)
        source(pipeline).key_by(lambda record: record[0]).count("count").sink("out", Files(tmp_path / "out"))
        return pipeline

    run_in_parts(store, build, tmp_path)
    counts = Counter(key for split in range(2) for key, _ in numbers(split, 0, 400))
    expected = ([key, n] for key, count in counts.items() for n in range(1, count + 1))
    assert output(tmp_path) == sorted(expected, key=repr)


def test_sliding_windows_sessions_and_joins_are_the_same_in_parts_as_in_one_run(store: Store, tmp_path: Path) -> None:
    def build(name: str, parallelism: int) -> Pipeline:
        pipeline = Pipeline(name, parallelism=parallelism, options=SMALL)
        stream = source(pipeline, 150)
        keyed = stream.key_by(lambda record: record[0])
        out = tmp_path / name
        keyed.window("sliding", Sliding(600, 200), summing(lambda record: record[1])).sink("a", Files(out))
        keyed.window("sessions", Session(gap=50, max_length=500), collecting()).sink("b", Files(out))
        rare = stream.filter("rare", lambda record: record[1] % 40 < 2).key_by(lambda record: record[0])
        keyed.join("join", rare, lower_ms=-100, upper_ms=100).sink("c", Files(out))
        return pipeline

    run_in_parts(store, lambda parallelism: build("parts", parallelism), tmp_path)
    execute(store, build("whole", 1), tmp_path)
    whole = output(tmp_path, "whole")
    assert len(whole) > 200

    def unordered(rows: list[Any]) -> list[Any]:
        return sorted(
            ([*row[:3], sorted(row[3])] if isinstance(row[-1], list) and len(row) == 4 else row for row in rows),
            key=repr,
        )

    assert unordered(output(tmp_path, "parts")) == unordered(whole)


def function(context: KeyedContext, record: Any) -> list[Any]:
    total = context.state("total")
    total.set(total.get(0) + record[1])
    context.state("seen").append(record[1])
    context.state("by").put(record[1] % 3, record[1])
    context.set_timer((context.timestamp // 500 + 1) * 500)
    return []


def on_timer(context: KeyedContext, time: int) -> list[Any]:
    row = [context.key, time, context.state("total").get(), len(context.state("seen").get(()))]
    row.append(sorted(context.state("by").items()))
    context.state("seen").clear()
    context.state("by").clear()
    return [row]


def test_functions_have_state_of_every_kind_and_timers(store: Store, tmp_path: Path) -> None:
    def build(name: str, parallelism: int) -> Pipeline:
        pipeline = Pipeline(name, parallelism=parallelism, options=SMALL)
        source(pipeline, 200, 1).key_by(lambda record: record[0], type="string").process(
            "function",
            function,
            states=[ValueState("total", "long"), ListState("seen", "long"), MapState("by", "long", "long")],
            on_timer=on_timer,
        ).sink("out", Files(tmp_path / name))
        return pipeline

    execute(store, build("whole", 1), tmp_path)
    run_in_parts(store, lambda parallelism: build("parts", parallelism), tmp_path)
    assert output(tmp_path, "parts") == output(tmp_path, "whole")
    assert sum(row[3] for row in output(tmp_path, "whole")) == 200


@pytest.mark.rocksdb
def test_state_in_rocksdb_is_the_same_through_restores_and_rescales(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")

    def build(name: str, parallelism: int, state: str) -> Pipeline:
        options = Options(interval=0.0, batch_size=32, state=state)
        pipeline = Pipeline(name, parallelism=parallelism, options=options)
        keyed = source(pipeline, 300, 1).key_by(lambda record: record[0], type="string")
        keyed.process(
            "function",
            function,
            states=[ValueState("total", "long"), ListState("seen", "long"), MapState("by", "long", "long")],
            on_timer=on_timer,
        ).sink("a", Files(tmp_path / name))
        keyed.count("count").sink("b", Files(tmp_path / name))
        keyed.window("windows", Tumbling(500)).sink("c", Files(tmp_path / name))
        keyed.deduplicate("once", 300).sink("d", Files(tmp_path / name))
        return pipeline

    execute(store, build("whole", 1, "heap"), tmp_path)
    run_in_parts(store, lambda parallelism: build("parts", parallelism, "rocksdb"), tmp_path, (2, 2, 3, 1))
    assert output(tmp_path, "parts") == output(tmp_path, "whole")
    assert len(output(tmp_path, "whole")) > 400
    with pytest.raises(IncompatibleError, match="is of rocksdb, and is to be restored into eoctl"):
        execute(store, build("parts", 1, "heap"), tmp_path)


@pytest.mark.rocksdb
def test_a_checkpoint_of_rocksdb_shares_its_tables_with_the_one_before(store: Store, tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    pipeline = counting(tmp_path, upserts(tmp_path), state="rocksdb")
    execute(store, pipeline, tmp_path)
    live = store.head(PipelineId("p")).head.live
    assert any(entry.referenced_files for entry in live)


def test_state_with_a_time_to_live_is_gone_after_it(store: Store, tmp_path: Path) -> None:
    def seen(context: KeyedContext, record: Any) -> list[Any]:
        before = context.state("last").get()
        context.state("last").set(record[1])
        return [[context.key, record[1], before]]

    def build(parallelism: int) -> Pipeline:
        pipeline = Pipeline("p", parallelism=parallelism, options=SMALL)
        rows = pipeline.source(
            "rows",
            Generator(make=lambda _, a, b: [("x", n * 100 if n < 5 else 5000 + n) for n in range(a, b)], count=8),
            time=lambda record: record[1],
        )
        rows.key_by(lambda record: record[0]).process("last", seen, states=[ValueState("last", ttl_ms=1000)]).sink(
            "out", Files(tmp_path / "out")
        )
        return pipeline

    execute(store, build(1), tmp_path)
    assert [row[2] for row in sorted(output(tmp_path), key=lambda row: row[1])] == [
        None,
        0,
        100,
        200,
        300,
        400,
        5005,
        5006,
    ]


def test_files_are_read_on_where_they_ended(store: Store, tmp_path: Path) -> None:
    lines = tmp_path / "in.jsonl"
    lines.write_text('{"n": 1}\n{"n": 2}\n')

    def build() -> Pipeline:
        pipeline = Pipeline("p", options=SMALL)
        pipeline.source("lines", json_lines(str(tmp_path / "*.jsonl"))).sink("out", Files(tmp_path / "out"))
        return pipeline

    execute(store, build(), tmp_path)
    with lines.open("a") as file:
        file.write('{"n": 3}\n')
    finished = execute(store, build(), tmp_path)
    assert finished.records == 1
    assert finished.restored
    assert output(tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]
    lines.write_text("")
    with pytest.raises(CorruptError, match="shorter"):
        execute(store, build(), tmp_path)


@pytest.mark.parametrize("timeout", [None, 0.0, 0.0001])
def test_in_flight_records_come_back_also_at_another_parallelism(
    store: Store, tmp_path: Path, timeout: float | None
) -> None:
    options = Options(interval=0.0, batch_size=16, alignment_timeout=timeout, channel_capacity=2)

    def build(parallelism: int) -> Pipeline:
        pipeline = Pipeline("p", parallelism=parallelism, options=options)
        keyed = (
            source(pipeline, 600, 3).map("same", lambda record: record).key_by(lambda record: record[0], type="string")
        )
        keyed.count("count").sink("out", Files(tmp_path / "out"))
        return pipeline

    run_in_parts(store, build, tmp_path, (2, 4, 3, 1))
    counts = Counter(key for split in range(3) for key, _ in numbers(split, 0, 600))
    expected = ([key, n] for key, count in counts.items() for n in range(1, count + 1))
    assert output(tmp_path) == sorted(expected, key=repr)


def test_the_audit_log_has_every_commit_and_checkpoints_know_it(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"

    def build() -> Pipeline:
        pipeline = Pipeline("p", options=SMALL)
        source(pipeline).sink("out", Files(tmp_path / "out"))
        return pipeline

    for _ in range(2):
        execute(store, build(), tmp_path, audit=log)
    lines, findings = audit(log)
    assert (lines, findings) == (len(list((tmp_path / "out").glob("*.jsonl"))), ())
    head = store.head(PipelineId("p")).head
    properties = store.manifest(head, head.live[-1]).properties
    assert audit(log, int(properties["audit.lines"]), properties["audit.head"]) == (lines, ())


def test_the_audit_log_shows_every_change(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    for _ in range(2):
        with AuditLog.opened(log) as opened:
            for number in range(1, 5):
                transaction = Transaction(id=f"t-{number}", state="pre-committed", checkpoint=number)
                opened.committed("p", "out", number, 1, transaction)
            properties = opened.properties()
    known = int(properties["audit.lines"]), properties["audit.head"]
    assert audit(log, *known) == (4, ())
    data = log.read_bytes()
    rows = data.splitlines(keepends=True)
    for damaged in (
        b"",
        b"".join(rows[1:]),
        b"".join([rows[0], *rows[2:]]),
        b"".join([rows[1], rows[0], *rows[2:]]),
        b"".join(rows[:3]),
        data.replace(b'"records":0', b'"records":1', 1),
        data.replace(b'"n":2', b'"n": 2'),
        data + b"{}\n",
        data[:-5],
    ):
        log.write_bytes(damaged)
        assert audit(log, *known)[1], damaged
    with AuditLog.opened(log) as opened:
        assert opened.properties()["audit.lines"] == "3", "a torn line is taken off"


def test_an_operator_without_its_state_and_state_without_its_operator_are_refused(store: Store, tmp_path: Path) -> None:
    def build(uid: str, name: str = "total", kind: str = "long") -> Pipeline:
        pipeline = Pipeline("p", options=SMALL)
        keyed = source(pipeline, 20).key_by(lambda record: record[0])
        keyed.process(
            uid,
            lambda context, record: context.state(name).set(record[1] if kind == "long" else "x"),
            states=[ValueState(name, kind)],
        ).sink("out", Files(tmp_path / "out"))
        return pipeline

    execute(store, build("a"), tmp_path)
    with pytest.raises(IncompatibleError, match="no operator of the pipeline takes the state of a"):
        execute(store, build("b"), tmp_path)
    with pytest.raises(IncompatibleError, match="does not declare"):
        execute(store, build("a", "other"), tmp_path)
    with pytest.raises(IncompatibleError, match="was saved as"):
        execute(store, build("a", kind="string"), tmp_path)
    assert execute(store, build("b"), tmp_path, choice=Choice(allow_non_restored=True)).records == 0
    assert execute(store, build("c"), tmp_path, choice=Choice(snapshot="1", remap={"a": "c"})).restored == "1"


def test_a_pipeline_that_cannot_keep_its_promise_is_refused(tmp_path: Path) -> None:
    pipeline = Pipeline("p")
    pipeline.source("s", Generator(make=numbers, count=1, replayable=False)).sink("out", Files(tmp_path / "out"))
    with pytest.raises(UsageError, match="cannot be read again"):
        pipeline.graph()
    with pytest.raises(UsageError, match="several are under way"):
        Pipeline("p", options=Options(alignment_timeout=0, max_concurrent=2))
    twice = Pipeline("p")
    source(twice).map("a", str).map("a", str)
    with pytest.raises(UsageError, match="two operators have the uid 'a'"):
        twice.graph()
    with pytest.raises(UsageError, match="has no source"):
        Pipeline("p").graph()


def test_a_record_that_cannot_be_read_stops_the_pipeline_with_its_place(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("1\n2\nx\n")
    pipeline = Pipeline("p", options=SMALL)
    pipeline.source("lines", LineFiles(str(tmp_path / "in.txt"), int)).sink("out", Files(tmp_path / "out"))
    with pytest.raises(Exception, match=r"in.txt: a line between byte 0 and 6 cannot be read"):
        execute(store, pipeline, tmp_path)
    assert output(tmp_path) == []


def test_cancelled_checkpoints_are_kept_unless_told_otherwise(store: Store, tmp_path: Path) -> None:
    def build(*, retain: bool) -> Pipeline:
        pipeline = Pipeline("p", options=Options(interval=0.0, retain_on_cancellation=retain))
        source(pipeline).sink("out", Files(tmp_path / "out"))
        return pipeline

    execute(store, build(retain=True), tmp_path, stop=lambda: True)
    assert store.head(PipelineId("p")).head.live
    execute(store, build(retain=False), tmp_path, stop=lambda: True)
    assert not store.head(PipelineId("p")).head.live


def damage(store: Store, label: str) -> None:
    """A byte of a file that only this checkpoint has is wrong."""
    head = store.head(PipelineId("p")).head
    entry = next(entry for entry in head.live if entry.label == label)
    others = {key for other in head.live if other is not entry for key in blobs(store.manifest(head, other))}
    key = min(key for key in blobs(store.manifest(head, entry)) if key not in others)
    path = Path(store.place.url) / str(layout.blob(PipelineId("p"), key))
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def counting(tmp_path: Path, sink: Sink, state: str = "heap", *, count: int = 4000, interval: float = 0.0) -> Pipeline:
    pipeline = Pipeline("p", options=Options(interval=interval, batch_size=64, state=state))
    made = Generator(make=lambda _, a, b: [(f"k{n}" * 30, n) for n in range(a, b)], count=count)
    pipeline.source("numbers", made).key_by(lambda record: record[0]).count("count").sink("out", sink)
    return pipeline


def execute_in_two(store: Store, tmp_path: Path, sink: Sink) -> tuple[str, str]:
    """Two checkpoints, each with its own half of state and output; what they are called."""
    for count in (2000, 4000):
        execute(store, counting(tmp_path, sink, count=count, interval=1e6), tmp_path)
    before, newest = (entry.label for entry in store.head(PipelineId("p")).head.live)
    return before, newest


def upserts(tmp_path: Path) -> SqliteTable:
    with closing(sqlite3.connect(tmp_path / "sink.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, n INTEGER)")
    return SqliteTable(path=tmp_path / "sink.db", table="t", columns=("k", "n"), key=("k",))


def test_a_damaged_checkpoint_is_passed_over_loudly_and_upserts_stay_exact(store: Store, tmp_path: Path) -> None:
    before, newest = execute_in_two(store, tmp_path, upserts(tmp_path))
    damage(store, newest)
    told: list[Told] = []
    finished = execute(store, counting(tmp_path, upserts(tmp_path)), tmp_path, on_start=told.append)
    assert finished.restored == before
    assert [passed.partition(":")[0] for passed in told[0].passed] == [f"p@{newest}"]
    with closing(sqlite3.connect(tmp_path / "sink.db")) as database:
        assert dict(database.execute("SELECT n, count(*) FROM t GROUP BY n")) == {1: 4000}


def test_a_damaged_checkpoint_whose_output_is_visible_stops_a_sink_without_keys(store: Store, tmp_path: Path) -> None:
    _, newest = execute_in_two(store, tmp_path, Files(tmp_path / "out"))
    damage(store, newest)
    with pytest.raises(ConflictError, match="is visible and would come again"):
        execute(store, counting(tmp_path, Files(tmp_path / "out")), tmp_path)
    assert len(output(tmp_path)) == 4000


def test_where_no_checkpoint_is_whole_nothing_runs(store: Store, tmp_path: Path) -> None:
    rounds = iter([False, False])
    execute(store, counting(tmp_path, upserts(tmp_path)), tmp_path, stop=partial(next, rounds, True))
    head = store.head(PipelineId("p")).head
    for entry in head.live:
        path = Path(store.place.url) / str(layout.manifest(PipelineId("p"), BlobKey.parse(entry.manifest)))
        path.chmod(0o644)
        path.write_bytes(b"x")
    with pytest.raises(CorruptError, match="no checkpoint of p can be restored"):
        execute(store, counting(tmp_path, upserts(tmp_path)), tmp_path)
