"""Inspecting a snapshot: what it consists of, where its files came from, what they take."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest

from eoctl.services.inspect import inspect, list_files
from formats.errors import CorruptError, UsageError
from formats.ids import PipelineId, operator_id
from formats.manifest import Blocks, SinkState, Transaction, Whole, blob_key, blobs
from storage import edits, layout
from storage.blobs import Blobs
from storage.edits import Edit
from storage.store import Store
from tests.support.stores import (
    MIB,
    at,
    checkpoint,
    edit,
    file_at,
    flip,
    manifest_at,
    manifest_name,
    new_store,
    noise,
    text,
    three_checkpoints,
    value_of,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def drop(label: str) -> Edit:
    """gc has dropped the entry."""
    return lambda head: msgspec.structs.replace(
        head, seq=head.seq + 1, live=tuple(entry for entry in head.live if entry.label != label)
    )


def test_operators_are_told_with_their_sizes(store: Store) -> None:
    parts = {
        ("joins", 0): {"a": noise(100), "b": noise(50)},
        ("joins", 1): {"a": noise(70, 1)},
        ("window", 0): {"state": b""},
    }
    checkpoint(store, "orders", parts=parts)
    joins, window = inspect(store, at(store, "orders@1")).operators
    assert (joins.uid, joins.id, joins.parallelism, joins.subtasks) == ("joins", operator_id("joins"), 2, 2)
    assert (joins.full_bytes, joins.files, joins.in_flight_bytes) == (220, 3, 0)
    assert (window.uid, window.full_bytes, window.files, window.engine) == ("window", 0, 1, "directory")


def test_sources_and_sinks_are_told(store: Store) -> None:
    pending = Transaction(id="tx-7", state="pre-committed", checkpoint=1)
    checkpoint(
        store,
        "orders",
        {"a": b"1"},
        offsets={"clicks": {"topic-0": 12}},
        sinks=(SinkState(uid="out", transactions=(pending,)),),
    )
    found = inspect(store, at(store, "orders@1"))
    assert [(source.uid, source.offsets) for source in found.sources] == [("clicks", {"topic-0": 12})]
    assert [(sink.uid, sink.transactions[0].id, sink.transactions[0].state) for sink in found.sinks] == [
        ("out", "tx-7", "pre-committed")
    ]


def test_the_first_checkpoint_is_all_new_and_has_no_parent(store: Store) -> None:
    three_checkpoints(store)
    found = inspect(store, at(store, "orders@1"))
    assert found.parent is None
    assert len(found.files.new) == 7
    assert (found.files.referenced, found.files.obsolete, found.references, found.notes) == ((), (), {}, ())


def test_new_referenced_and_obsolete_files_are_told_apart(store: Store) -> None:
    three_checkpoints(store)
    found = inspect(store, at(store, "orders@3"))
    assert found.parent == 2
    assert found.files.new == ("main/0/CURRENT", "main/0/d.sst", "main/0/small/2.sst")
    assert found.files.referenced == ("main/0/big.db", "main/0/c.sst", "main/0/small/1.sst")
    assert found.files.obsolete == ("main/0/a.sst",)
    assert found.references == {"2": found.files.referenced}
    second = inspect(store, at(store, "orders@2"))
    assert second.references == {"1": ("main/0/a.sst", "main/0/small/2.sst")}
    row = second.snapshot
    assert (row.added_files, row.referenced_files) == (len(second.files.new), len(second.files.referenced))


def test_obsolete_files_are_not_known_once_the_parent_has_left_the_store(store: Store) -> None:
    three_checkpoints(store)
    edit(store, "orders", drop("2"))
    found = inspect(store, at(store, "orders@3"))
    assert (found.parent, found.files.obsolete) == (2, ())
    assert found.notes == ("which files became obsolete is not known: the parent 2 has left the store",)


@pytest.mark.parametrize("where", ["trash", "hold"])
def test_a_parent_in_the_trash_or_under_a_hold_still_tells(store: Store, where: str) -> None:
    three_checkpoints(store)
    if where == "trash":
        edit(store, "orders", partial(edits.expire, labels=frozenset({"2"}), now=store.ambient.now()))
    else:
        keep = partial(edits.hold, label="2", hold_id="a" * 32, reason="audit", expires_at=None)
        edit(store, "orders", partial(keep, now=store.ambient.now()))
        edit(store, "orders", drop("2"))
    assert inspect(store, at(store, "orders@3")).files.obsolete == ("main/0/a.sst",)


def test_a_damaged_parent_hides_nothing_but_the_obsolete_files(store: Store) -> None:
    three_checkpoints(store)
    flip(store.backend, manifest_name(store, "orders@2"), 20)
    found = inspect(store, at(store, "orders@3"))
    assert found.files.obsolete == ()
    assert "orders@2" in found.notes[0]
    with pytest.raises(CorruptError):
        inspect(store, at(store, "orders@2"))


def test_every_file_tells_where_it_lies_and_what_it_takes(store: Store) -> None:
    three_checkpoints(store)
    checkpoint(store, "tiny", {"a": b"12345", "b": b""})
    rows = {row.name: row for row in list_files(store, at(store, "orders@1"))}
    assert {name: row.place for name, row in rows.items()} == {
        "CURRENT": "inline",
        "a.sst": "blob",
        "b.sst": "blob",
        "big.db": "blocks",
        "small/1.sst": "pack",
        "small/2.sst": "pack",
        "small/3.sst": "pack",
    }
    assert (rows["a.sst"].bytes, rows["a.sst"].stored_bytes) == (MIB + 10, MIB + 10)
    assert 0 < rows["b.sst"].stored_bytes < rows["b.sst"].bytes
    assert rows["small/1.sst"].stored_bytes == 9000
    assert 0 < rows["small/2.sst"].stored_bytes < 30_000
    assert rows["big.db"].stored_bytes == rows["big.db"].bytes == 2 * MIB + MIB // 2
    assert [(row.place, row.stored_bytes, row.bytes) for row in list_files(store, at(store, "tiny@1"))] == [
        ("inline", 5, 5),
        ("inline", 0, 0),
    ]


def test_whole_files_take_what_their_blob_takes(store: Store) -> None:
    three_checkpoints(store)
    manifest = manifest_at(store, "orders@1")
    sizes = blobs(manifest)
    rows = [row for row in list_files(store, at(store, "orders@1")) if row.place == "blob"]
    for row in rows:
        file = file_at(store, "orders@1", row.name)
        assert isinstance(file.place, Whole)
        key = blob_key(file, file.place)
        assert row.stored_bytes == sizes[key] == len(value_of(store.backend, layout.blob(PipelineId("orders"), key)))


def test_equal_blocks_of_a_file_count_once(store: Store) -> None:
    checkpoint(store, "orders", {"big.db": bytes(2 * MIB) + noise(65536)})
    file = file_at(store, "orders@1", "big.db")
    assert isinstance(file.place, Blocks)
    reader = Blobs(store.backend, PipelineId("orders"), store.hash)
    slices = {(block.pack, block.offset, block.length) for block in reader.table(file.place.tables[0])}
    (row,) = list_files(store, at(store, "orders@1"))
    assert row.stored_bytes == sum(length for _, _, length in slices) < 70_000


def test_files_of_one_operator_are_found_by_uid_and_by_id(store: Store) -> None:
    checkpoint(store, "orders", parts={("joins", 0): {"a": b"1"}, ("window", 3): {"b": text(10)}})
    resolved = at(store, "orders@1")

    def by(name: str) -> list[tuple[str, int, str]]:
        return [(row.operator, row.subtask, row.name) for row in list_files(store, resolved, name)]

    assert by("window") == by(operator_id("window")) == [("window", 3, "b")]
    with pytest.raises(UsageError, match="no operator 'widow'") as error:
        list_files(store, resolved, "widow")
    assert error.value.hint == "its operators: joins, window"
