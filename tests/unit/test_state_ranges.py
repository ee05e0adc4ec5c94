"""State of a store elsewhere: a question fetches the ranges that it needs, and answers as from this machine."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eoctl.services.savepoint_sources import source_of_snapshot
from eoctl.services.state import Filter, find_state, list_states, scan
from formats.errors import BlobGoneError, CorruptError
from formats.ids import BlobKey, HashAlgorithm, PipelineId
from formats.keygroups import KeyGroupRange, key_group_of
from formats.manifest import Blocks, StateFile, Whole
from formats.state import StateSchema
from storage.backends.memory import MemoryBackend
from storage.blobs import Blobs
from storage.ranges import JUMP_BYTES, can_range, open_ranges
from storage.store import Store
from tests.support.faulty import CountingBackend
from tests.support.states import MAX_PARALLELISM, Operator, Row, rows_of, table_checkpoint
from tests.support.stores import MIB, at, blob_name, new_store, noise, overwrite, truncate

pytestmark = pytest.mark.slow

TOTAL = StateSchema(name="total", kind="value", key="int")
LIST = StateSchema(name="pending", kind="operator-list")
COUNT, VALUE_BYTES = 24_000, 1000


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, CountingBackend]:
    """A store that is reached by requests, with 24 MB of state in two subtasks, and its backend, which counts."""
    folder = tmp_path_factory.mktemp("elsewhere")
    store = new_store(folder)
    data = noise(COUNT * VALUE_BYTES)
    rows: list[Row] = [
        (
            key_group_of(n, MAX_PARALLELISM),
            struct.pack(">i", n),
            b"",
            b"",
            data[n * VALUE_BYTES : (n + 1) * VALUE_BYTES],
        )
        for n in range(COUNT)
    ]
    elements: list[Row] = [(subtask, bytes(4), b"", b"", b"element") for subtask in range(2)]
    operator = Operator(states=((TOTAL, rows), (LIST, elements)), parallelism=2)
    table_checkpoint(store, "orders", {"totals": operator}, folder / "tables")
    counting = CountingBackend(store.backend)
    return Store(
        place=replace(store.place, backend=counting, remote=True), record=store.record, ambient=store.ambient
    ), counting


def answered(store: Store, wanted: Filter, name: str = "total", *, ranged: bool) -> list[Row]:
    with source_of_snapshot(store, at(store, "orders@1"), verified=False, ranged=ranged) as source:
        return [row for batch in scan(*find_state(source, "totals", name), wanted) for row in rows_of([batch])]


@pytest.mark.parametrize(
    ("wanted", "requests", "most_bytes"),
    [
        (Filter(key=struct.pack(">i", 7)), 5, 9 * MIB),
        (Filter(key=struct.pack(">i", -1)), 5, 9 * MIB),
        (Filter(key_groups=KeyGroupRange(3, 4)), 5, 9 * MIB),
        (Filter(key_groups=KeyGroupRange(60, 70)), 8, 14 * MIB),  # of both subtasks
    ],
)
def test_a_question_costs_a_few_requests(
    elsewhere: tuple[Store, CountingBackend], wanted: Filter, requests: int, most_bytes: int
) -> None:
    store, counting = elsewhere
    expected = answered(store, wanted, ranged=False)
    counting.calls.clear()
    counting.bytes_read.clear()
    assert answered(store, wanted, ranged=True) == expected
    assert counting.calls["open"] <= requests
    assert counting.bytes_read["open"] <= most_bytes


def test_a_list_of_states_reads_no_table(elsewhere: tuple[Store, CountingBackend]) -> None:
    store, counting = elsewhere
    counting.bytes_read.clear()
    with source_of_snapshot(store, at(store, "orders@1"), verified=False, ranged=True) as source:
        assert [row.name for row in list_states(source)] == ["pending", "total"]
    assert counting.bytes_read["open"] < MIB


def test_all_rows_are_the_same_wherever_they_are_read(elsewhere: tuple[Store, CountingBackend]) -> None:
    store, _ = elsewhere
    for name in ("total", "pending"):
        rows = answered(store, Filter(), name, ranged=True)
        assert rows == answered(store, Filter(), name, ranged=False)
        assert len(rows) == {"total": COUNT, "pending": 2}[name]


SIZE = 5 * MIB
DATA = noise(SIZE)
FILE = StateFile(
    name="large", bytes=SIZE, digest=HashAlgorithm.BLAKE3.digest(DATA), place=Whole(era=1), first_stored_in=1
)
KEY = BlobKey.parse(f"{FILE.digest}.1")


def stored() -> Blobs:
    blobs = Blobs(MemoryBackend(clock=lambda: 0.0), PipelineId("orders"), HashAlgorithm.BLAKE3)
    blobs.put(KEY, DATA)
    return blobs


@given(steps=st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, 2 * JUMP_BYTES), st.sampled_from([0, 1, 2]))))
def test_ranges_are_the_bytes_of_the_file(steps: list[tuple[int, int, int]]) -> None:
    reader, at_byte = open_ranges(stored(), FILE), 0
    for place, size, whence in steps:
        offset = (place, (place - SIZE) // 8, place - SIZE)[whence]
        at_byte = max(0, (0, at_byte, SIZE)[whence] + offset)
        assert reader.seek(offset, whence) == at_byte
        assert reader.read(size) == DATA[at_byte : at_byte + size]
        at_byte = max(at_byte, min(SIZE, at_byte + size))
    reader.seek(-10, 2)
    assert reader.read() == DATA[-10:]


def test_a_blob_that_is_gone_or_too_short_is_told() -> None:
    blobs = stored()
    truncate(blobs.backend, blob_name("orders", KEY), MIB)
    reader = open_ranges(blobs, FILE)
    reader.seek(-8, 2)
    with pytest.raises(CorruptError):
        reader.read(8)
    overwrite(blobs.backend, blob_name("orders", KEY), None)
    with pytest.raises(BlobGoneError):
        reader.read(8)


def test_what_has_to_be_read_from_its_beginning_is_not_read_by_ranges() -> None:
    assert can_range(FILE)
    assert not can_range(replace(FILE, place=Whole(era=1, codec="zstd")))
    assert not can_range(replace(FILE, place=Blocks(tables=(), packs=())))
    assert can_range(replace(FILE, bytes=1000, place=Whole(era=1, codec="zstd")))
