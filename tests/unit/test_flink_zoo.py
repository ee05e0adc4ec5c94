"""State of many types, of a job of its own (tests/golden/flink-zoo): parallelism 3, max parallelism 128 and 300."""

from __future__ import annotations

import io
import struct
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from eoctl.engines.flink_states import flink_states, keyed_sources
from formats.errors import UnsupportedError
from formats.flink.handles import Inline, SavepointKeyGroups, leaf_of
from formats.flink.keyed import CanonicalSource, to_canonical
from formats.flink.metadata import read_metadata
from formats.ids import operator_id
from formats.keygroups import java_string_hash, key_group_of
from formats.state import OperatorStates, StateTable
from formats.types import decode, parse

pytestmark = pytest.mark.thorough

GOLDEN = Path(__file__).parents[1] / "golden" / "flink-zoo" / "zoo.tar.xz"
LIMIT = 120
COLOURS = ("RED", "GREEN", "BLUE")


@cache
def files() -> dict[str, bytes]:
    with tarfile.open(GOLDEN) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}  # type: ignore[union-attr]  # a file


SNAPSHOTS = sorted(files())


def opened(handle) -> io.BytesIO:
    leaf = leaf_of(handle)
    assert isinstance(leaf, Inline)
    return io.BytesIO(leaf.data)


@cache
def states(snapshot: str) -> dict[str, OperatorStates]:
    return {operator.uid: operator for operator in flink_states(read_metadata(files()[snapshot]), opened)}


def decoded(table: StateTable) -> Iterator[tuple[int, object, object, object, object]]:
    schema = table.schema
    types = [parse(text) if text else None for text in (schema.key, schema.namespace, schema.map_key, schema.value)]
    last = None
    for batch in table.scan():
        for row in batch.to_pylist():
            columns = [row[name] for name in ("key", "namespace", "map_key", "value")]
            assert last is None or last < (row["key_group"], *columns[:3])
            last = (row["key_group"], *columns[:3])
            key, namespace, map_key, value = (
                raw if data_type is None else decode(data_type, raw)
                for raw, data_type in zip(columns, types, strict=True)
            )
            yield row["key_group"], key, namespace, map_key, value


def numbers_by_key() -> dict[tuple[str, int], list[int]]:
    found: dict[tuple[str, int], list[int]] = defaultdict(list)
    for n in range(LIMIT):
        found[f"k{n % 5}", n % 2].append(n)
    return found


def since_cleared(numbers: list[int]) -> list[int]:
    cleared = max((place + 1 for place, n in enumerate(numbers) if n % 10 == 9), default=0)
    return numbers[cleared:]


def values(nulls: bool) -> dict[str, dict[object, object]]:
    """What keeper holds, by state: of maps by (key, map key)."""
    found: dict[str, dict[object, object]] = defaultdict(dict)
    for key, numbers in numbers_by_key().items():
        last, kept = numbers[-1], since_cleared(numbers)
        found["animal"][key] = {
            "colour": COLOURS[last % 3], "legs": last, "name": f"animal-{last}", "toys": ["ball", f"toy-{last}"],
            "weight": None if last % 2 else last / 4,
        }  # fmt: skip
        found["pairs"][key] = [(n, f"p,ä{n}") for n in numbers]
        found["rows"][key] = [{"f0": f"r{n}" if n % 2 else None, "f1": n} for n in numbers]
        found["reduced"][key] = sum(numbers)
        found["mean"][key] = (sum(numbers), len(numbers))
        found["day"][key] = str(date(2000, 1, 1) + timedelta(days=last))
        found["colour"][key] = COLOURS[last % 3]
        found["raw"][key] = bytes([last, 44, 0])
        found["ints"][key] = [last, -1]
        if kept:
            found["sum"][key] = Decimal(sum(kept)).scaleb(-2)
        for n in numbers:
            found["lists"][key, f"l{n % 2}"] = [f"x{n}", "y"]
            found["nulls"][key, n % 3] = None if nulls and n % 3 == 0 else n % 2 == 0
        for n in kept:
            nanos = f".{n:09d}" if n else ""
            found["times"][key, n % 4] = f"1970-01-01T00:0{n // 60}:{n % 60:02d}{nanos}Z"
    return found


def tuple_hash(key: object) -> int:
    assert isinstance(key, tuple)
    return 31 * java_string_hash(key[0]) + int(key[1])


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_keyed_state_of_every_type_is_what_the_job_put_there(snapshot) -> None:
    operator = states(snapshot)["keeper"]
    assert operator.max_parallelism == (128 if "z-hashmap" in snapshot else 300)
    expected = values(nulls="z-rocksdb" in snapshot)
    refused = set()
    for table in operator.tables:
        name = table.schema.name
        try:
            found = list(decoded(table))
        except UnsupportedError as error:
            refused.add((name, "Zoo$Strange" in error.message))
            continue
        for group, key, _, _, _ in found:
            assert group == key_group_of(tuple_hash(key), operator.max_parallelism)
        by_key = {(key, map_key) if table.schema.kind == "map" else key: value for _, key, _, map_key, value in found}
        if name == "mortal":
            last = {key: f"m{numbers[-1]}" for key, numbers in numbers_by_key().items()}
            assert {key: value[1] for key, value in by_key.items() if isinstance(value, tuple)} == last
        elif name == "strange":
            assert all(isinstance(value, bytes) and value for value in by_key.values())
            assert len(by_key) == 10
        elif table.schema.kind == "timer":
            assert sorted(
                struct.unpack(">Q", time)[0] - (1 << 63) for _, _, _, time, _ in found if isinstance(time, bytes)
            ) == [
                4_102_444_800_000 + n if "processing" in name else 10**12 + n
                for n in range(LIMIT)
                if "processing" in name or n % 10 != 9
            ]
        else:
            assert by_key == expected.pop(name)
    if "z-snappy" in snapshot and refused:
        assert refused == {("strange", True)}
    else:
        assert not refused
    assert not expected


@pytest.mark.parametrize("snapshot", SNAPSHOTS)
def test_session_windows_and_keys_that_are_pojos_are_read(snapshot) -> None:
    [count] = [table for table in states(snapshot)["counter"].tables if table.schema.name == "count"]
    assert {key["n"]: (key["s"], value) for _, key, _, _, value in decoded(count) if isinstance(key, dict)} == {
        n: (f"id{n}", len(range(n, LIMIT, 7))) for n in range(7)
    }
    tables = {table.schema.name: table for table in states(snapshot)["sessions"].tables}
    contents = {key: (window, value) for _, key, window, _, value in decoded(tables["window-contents"])}
    sets = {key: value for _, key, _, _, value in decoded(tables["merging-window-set"])}
    for key in range(6):
        window = (key * 1000, (114 + key) * 1000 + 30_000)
        state_window = (key * 1000, key * 1000 + 30_000)
        assert sets[key] == [(window, state_window)]
        assert contents[key] == (state_window, list(range(key, LIMIT, 6)))


@pytest.mark.parametrize("snapshot", [name for name in SNAPSHOTS if "z-snappy" not in name])
def test_all_of_it_becomes_canonical_and_the_same_rows(snapshot) -> None:
    [operator] = [each for each in read_metadata(files()[snapshot]).operators if each.id == operator_id("keeper")]
    tables = {table.schema.name: table for table in states(snapshot)["keeper"].tables}
    for source in keyed_sources(operator, opened):
        file = io.BytesIO()
        offsets = to_canonical(file, source)
        handle = SavepointKeyGroups(source.groups.start, offsets, Inline("x", file.getvalue()))
        again = CanonicalSource(handle, opened, operator.max_parallelism, "x")
        for name, table in tables.items():
            before = [row for batch in table.scan(source.groups) for row in batch.to_pylist()]
            assert [row for batch in again.rows(name, source.groups, None) for row in batch.to_pylist()] == before
