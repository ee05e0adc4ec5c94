"""Every snapshot of the corpus (tests/golden/flink): all of its state decodes, and equals what its formulas say."""

from __future__ import annotations

import io
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from eoctl.engines.flink_states import flink_states, keyed_sources
from formats.errors import CorruptError
from formats.flink.channel import captured, edge, read_elements
from formats.flink.connectors import (
    Bucket,
    FileCommittable,
    NumberSplit,
    read_bucket,
    read_committables,
    read_split,
)
from formats.flink.handles import AbsoluteFile, Inline, RelativeFile, Segment, StreamHandle, leaf_of
from formats.flink.keyed_header import header_of
from formats.flink.metadata import Metadata, read_metadata
from formats.ids import operator_id
from formats.keygroups import KeyGroupRange, java_string_hash, key_group_of
from formats.state import OperatorStates, StateTable
from formats.types import decode, encode, parse
from tests.support.flink import CASES, SNAPSHOTS, WRITTEN_AT, Snapshot, expected, unpack

pytestmark = pytest.mark.thorough

UNALIGNED = ("a-unaligned", "a-flink120-unaligned")
EVENT_TIME, PROCESSING_TIME = 4_000_000_000_000, 4_102_444_800_000
KEYS, HALF = 211, 4000
Row = tuple[int, bytes, bytes, bytes, bytes]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = Path(tmp_path_factory.mktemp("corpus"))
    for case in CASES:
        unpack(case, folder)
    return folder


def opener(folder: Path, corpus: Path) -> Callable[[StreamHandle], BinaryIO]:
    """Opens what the handles of a snapshot in `folder` name."""

    def open_stream(handle: StreamHandle) -> BinaryIO:
        match leaf_of(handle):
            case Inline(data=data):
                return io.BytesIO(data)
            case RelativeFile(path=path):
                return (folder / path).open("rb")
            case AbsoluteFile(path=path):
                return moved(path, corpus).open("rb")
            case Segment(path=path, start=start, size=size):
                return io.BytesIO(moved(path, corpus).read_bytes()[start : start + size])
        raise AssertionError(handle)

    return open_stream


def moved(path: str, corpus: Path) -> Path:
    assert path.startswith(f"file:{WRITTEN_AT}/")
    return corpus / path.removeprefix(f"file:{WRITTEN_AT}/")


def states_of(snapshot: Snapshot, corpus: Path) -> dict[str, OperatorStates]:
    """By operator id."""
    folder = corpus / snapshot.name
    metadata = read_metadata((folder / "_metadata").read_bytes())
    return {operator.id: operator for operator in flink_states(metadata, opener(folder, corpus))}


def rows(table: StateTable, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[Row]:
    """All rows; they are sorted, and each is there once."""
    last: Row | None = None
    for batch in table.scan(key_groups, key):
        batch.validate(full=True)
        columns = (batch[name].to_pylist() for name in ("key_group", "key", "namespace", "map_key", "value"))
        for row in zip(*columns, strict=True):
            assert last is None or last[:4] < row[:4]
            last = row
            yield row


def table_of(states: dict[str, OperatorStates], uid: str, name: str) -> StateTable:
    [found] = [table for table in states[operator_id(uid)].tables if table.schema.name == name]
    return found


def values(table: StateTable) -> list[tuple[object, object]]:
    """Keys and values, decoded."""
    schema = table.schema
    key, value = (parse(text) if text else None for text in (schema.key, schema.value))
    return [(decode(key, row[1]) if key else row[1], decode(value, row[4]) if value else row[4]) for row in rows(table)]


def order_totals(states: dict[str, OperatorStates]) -> dict[str, object]:
    """All of order-totals, in the shape of expected-L*.json."""
    found: dict[str, dict[str, object]] = defaultdict(lambda: {"recent": [], "per-item": {}})
    for key, total in values(table_of(states, "order-totals", "total")):
        found[f"orders/{key}"]["total"] = total
    for key, recent in values(table_of(states, "order-totals", "recent")):
        found[f"orders/{key}"]["recent"] = sorted(recent)  # type: ignore[call-overload]  # a list
    items = table_of(states, "order-totals", "per-item")
    for _, key, _, map_key, value in rows(items):
        of_key = found[f"orders/{decode(parse(items.schema.key), key)}"]["per-item"]
        assert isinstance(of_key, dict)
        of_key[decode(parse(items.schema.map_key), map_key)] = decode(parse(items.schema.value), value)
    timers = dict(order_timers(states))
    return {**found, **timers}


def order_timers(states: dict[str, OperatorStates]) -> Iterator[tuple[str, object]]:
    for kind, name in (("event", "timer-event"), ("processing", "timer-proc")):
        table = table_of(states, "order-totals", f"_timer_state/{kind}_user-timers")
        assert table.schema.kind == "timer"
        for _, key, namespace, time, value in rows(table):
            assert (namespace, value) == (b"\0", b"")
            yield f"orders/{name}/{decode(parse('string'), key)}", int.from_bytes(time, "big") - (1 << 63)


def model(first: int, second: int) -> dict[str, object]:
    """What order-totals holds at these positions, by the corpus' formulas."""
    return model_of([*range(first), *range(HALF, HALF + second)])


def model_of(numbers: list[int]) -> dict[str, object]:
    found: dict[str, object] = {}
    for n in numbers:
        name = f"user-{n * 7 % KEYS}"
        entry = found.setdefault(f"orders/{name}", {"recent": [], "per-item": Counter(), "total": 0})
        assert isinstance(entry, dict)
        entry["total"] += n
        entry["per-item"][f"item-{n % 5}"] += 1
        if n % 50 == 0:
            entry["recent"] = sorted([*entry["recent"], f"order-{n}"])
        found[f"orders/timer-event/{name}"] = EVENT_TIME + len(name)
        found[f"orders/timer-proc/{name}"] = PROCESSING_TIME
    return found


def windows(states: dict[str, OperatorStates]) -> dict[tuple[str, int], object]:
    """What is in each open window, by key and the window's start."""
    table = table_of(states, "order-window", "window-contents")
    assert table.schema.namespace == "time-window"
    found: dict[tuple[str, int], object] = {}
    for _, key, namespace, _, value in rows(table):
        start, end = struct.unpack(">qq", namespace)
        assert end == start + 600_000
        found[str(decode(parse(table.schema.key), key)), start] = decode(parse(table.schema.value), value)
    return found


def window_model(first: int, second: int) -> dict[tuple[str, int], object]:
    """The same of all windows, open or not: what is alone in one is not reduced."""
    found: dict[tuple[str, int], object] = {}
    sums: Counter[tuple[str, int]] = Counter()
    for n in [*range(first), *range(HALF, HALF + second)]:
        place = (f"user-{n * 7 % KEYS}", n % HALF // 600 * 600_000)
        sums[place] += n
        found[place] = (place[0], "sum" if place in found else f"item-{n % 5}", sums[place])
    return found


@pytest.mark.parametrize("snapshot", [s for s in SNAPSHOTS if s.case not in UNALIGNED], ids=lambda s: s.name)
def test_keyed_state_equals_the_formulas_and_the_expected_file(snapshot, corpus) -> None:
    states = states_of(snapshot, corpus)
    found = order_totals(states)
    assert found == model(*snapshot.positions)
    first, second = snapshot.positions
    if first == second and (corpus / snapshot.case / f"expected-L{first}.json").exists():
        assert found == expected(corpus / snapshot.case, first)
    open_windows, all_windows = windows(states), window_model(first, second)
    assert open_windows == {place: all_windows[place] for place in open_windows}
    closed = all_windows.keys() - open_windows.keys()
    assert max((start for _, start in closed), default=-1) < min(start for _, start in open_windows)
    assert audit(states) == first + second
    assert values(table_of(states, "order-rules", "rules")) == rules(snapshot)


def audit(states: dict[str, OperatorStates]) -> int:
    """How many records the subtasks of order-audit have counted."""
    maxima = table_of(states, "order-audit", "audit-max")
    assert maxima.schema.kind == "operator-union"
    assert all(isinstance(value, int) for _, value in values(maxima))
    counts = [value for _, value in values(table_of(states, "order-audit", "audit-counts"))]
    return sum(value[1] for value in counts if isinstance(value, tuple))


def rules(snapshot: Snapshot) -> list[tuple[object, object]]:
    all_of_them = snapshot.case in {"a-finished-source", "a-transcoded"}
    return [(f"rule-{n}", 100 * n) for n in (range(6) if all_of_them else (0, 1, 3, 4))]


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda s: s.name)
def test_every_table_of_every_operator_is_read_and_its_types_are_known(snapshot, corpus) -> None:
    for operator in states_of(snapshot, corpus).values():
        for table in operator.tables:
            schema = table.schema
            assert schema.kind == "timer" or schema.value
            for row in rows(table):
                for text, data in zip(
                    (schema.key, schema.namespace, schema.map_key, schema.value), row[1:], strict=True
                ):
                    if text:
                        assert encode(parse(text), decode(parse(text), data)) == data
                if schema.keyed:
                    key = decode(parse(schema.key), row[1])
                    assert row[0] == key_group_of(java_string_hash(str(key)), operator.max_parallelism)


@pytest.mark.parametrize("snapshot", [s for s in SNAPSHOTS if s.case in UNALIGNED], ids=lambda s: s.name)
def test_keyed_state_and_the_records_in_flight_equal_the_formulas(snapshot, corpus) -> None:
    folder = corpus / snapshot.name
    metadata = read_metadata((folder / "_metadata").read_bytes())
    operators = {operator.id: operator for operator in metadata.operators}
    inputs, outputs = (
        list(captured(operators[operator_id(uid)], opener(folder, corpus))) for uid in ("order-totals", "orders-parse")
    )
    numbers, kinds = [], set()
    for data in edge(inputs, outputs, gate=0, partition=0):
        elements, rest = read_elements(data)
        assert rest == b""
        kinds |= {element.kind for element in elements}
        for element in elements:
            if element.kind == "record":
                value = decode(parse("tuple<string, string, long>"), element.value)
                assert isinstance(value, tuple)
                number = value[2]
                assert value == (f"user-{number * 7 % KEYS}", f"item-{number % 5}", number)
                assert element.timestamp == number % HALF * 1000
                numbers.append(number)
    assert kinds == {"record", "watermark"}
    first, second = snapshot.positions
    sent = {*range(first), *range(HALF, HALF + second)}
    assert len(numbers) == len(set(numbers))
    assert set(numbers) < sent
    assert order_totals(states_of(snapshot, corpus)) == model_of(sorted(sent - set(numbers)))


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda s: s.name)
def test_the_splits_of_the_source_start_at_its_positions_and_what_the_sink_holds_is_told(snapshot, corpus) -> None:
    states = states_of(snapshot, corpus)
    splits = [read_split(row[4]) for row in rows(table_of(states, "orders-source", "SourceReaderState"))]
    first, second = snapshot.positions
    assert sorted(splits, key=lambda split: split.split) == [  # type: ignore[union-attr]  # of a number sequence
        NumberSplit("1", first, HALF - 1),
        NumberSplit("2", HALF + second, 2 * HALF - 1),
    ]
    for uid, name in (
        ("order-sink", "writer_raw_states"),
        ("Sink Committer: order-sink", "streaming_committer_raw_states"),
    ):
        for table in (table for each in states.values() if each.id == operator_id(uid) for table in each.tables):
            assert table.schema.name == name
            for row in rows(table):
                out = f"{WRITTEN_AT}/{snapshot.case}/out"
                if uid == "order-sink":
                    assert read_bucket(row[4]) == Bucket("", out, None)
                    continue
                for found in read_committables(row[4]):
                    assert found.checkpoint_id == snapshot.id
                    assert isinstance(found.content, FileCommittable)
                    assert found.content.pending is not None
                    assert found.content.pending.path.startswith(f"{out}/part-")
                    assert found.content.pending.temporary.startswith(f"{out}/.part-")
                    assert found.content.pending.size > 0


@pytest.mark.parametrize("snapshot", SNAPSHOTS[::5], ids=lambda s: s.name)
def test_a_header_is_made_of_schemas_as_flink_wrote_it(snapshot, corpus) -> None:
    folder = corpus / snapshot.name
    for operator in read_metadata((folder / "_metadata").read_bytes()).operators:
        for source in keyed_sources(operator, opener(folder, corpus)):
            made = header_of(source.schemas())
            assert (made.key, made.states) == (source.header.key, source.header.states)


@pytest.mark.parametrize("case", ["a-rocksdb-incremental", "a-hashmap-full", "a-savepoint-canonical", "a-changelog"])
def test_a_scan_of_some_key_groups_or_of_one_key_gives_those_rows(case, corpus) -> None:
    states = states_of([s for s in SNAPSHOTS if s.case == case][-1], corpus)
    for table in states[operator_id("order-totals")].tables:
        everything = list(rows(table))
        for groups in (KeyGroupRange(0, 1), KeyGroupRange(60, 70), KeyGroupRange(127, 128), KeyGroupRange(0, 128)):
            assert list(rows(table, groups)) == [row for row in everything if row[0] in groups]
        for number in (0, 7, 210):
            key = encode(parse("string"), f"user-{number}")
            assert list(rows(table, None, key)) == [row for row in everything if row[1] == key]
            group = key_group_of(java_string_hash(f"user-{number}"), 128)
            there = KeyGroupRange(group, group + 1)
            assert list(rows(table, there, key)) == [row for row in everything if row[1] == key]
        assert list(rows(table, None, b"\7nobody")) == []


def test_key_groups_that_are_there_twice_are_refused(corpus) -> None:
    snapshot = next(s for s in SNAPSHOTS if s.case == "a-rocksdb-incremental")
    folder = corpus / snapshot.name
    metadata = read_metadata((folder / "_metadata").read_bytes())

    def doubled() -> Metadata:
        operators = []
        for operator in metadata.operators:
            first = operator.subtasks[0]
            again = type(first)(1, managed_keyed=first.managed_keyed)
            operators.append(type(operator)(operator.id, 2, 128, None, (first, again), operator.uid))
        return Metadata(6, 1, (), tuple(operators), b"", None)

    with pytest.raises(CorruptError, match="twice"):
        flink_states(doubled(), opener(folder, corpus))
