"""Verification: every kind of damage, at every level, with exactly the snapshots that it hurts."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import pytest

from eoctl.services.entries import delete
from eoctl.services.values import Verification
from eoctl.services.verify import verify
from formats.errors import SnapshotNotFoundError, UnavailableError, UsageError
from formats.head import Head, HeadEntry
from formats.ids import BlobKey, Era, PipelineId
from formats.manifest import Blocks, Slice, StateFile, Whole, blob_key, blobs
from formats.report import decode_report
from storage import edits, layout
from storage.backend import Backend, Key
from storage.blobs import Blobs
from storage.head import Ambient
from storage.store import Store, encode_manifest
from tests.support.faulty import Fault, FaultyBackend
from tests.support.places import behind
from tests.support.stores import (
    MIB,
    at,
    blob_name,
    checkpoint,
    copy_of,
    edit,
    file_at,
    flip,
    manifest_at,
    manifest_name,
    new_store,
    noise,
    overwrite,
    text,
    three_checkpoints,
    truncate,
    value_of,
)

ORDERS = PipelineId("orders")
OTHER_CONTENT = "content does not match its digest"
Check = Callable[..., Verification]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = new_store(tmp_path_factory.mktemp("template"))
    three_checkpoints(store)
    return store


@pytest.fixture
def store(template: Store, tmp_path: Path) -> Store:
    return copy_of(template, tmp_path)


@pytest.fixture(params=["memory", "disk"])
def anywhere(request: pytest.FixtureRequest, template: Store, tmp_path: Path) -> Store:
    return copy_of(template, tmp_path, memory=request.param == "memory")


@pytest.fixture
def check(store: Store, tmp_path: Path) -> Check:
    """Verifies `store`."""
    return checker(store, tmp_path)


def checker(store: Store, tmp_path: Path) -> Check:
    """Verifies the whole pipeline, or one snapshot of it."""

    def run(level: str = "full", label: str | None = None, **options: Any) -> Verification:
        resolved = None if label is None else at(store, f"orders@{label}")
        return verify(store, ORDERS, resolved, level, scratch=tmp_path / "scratch", **options)

    return run


def place_of(store: Store, label: str, name: str) -> tuple[Key, int]:
    """The stored value and the offset at which the file's content begins."""
    file = file_at(store, f"orders@{label}", name)
    match file.place:
        case Whole() as place:
            return layout.blob(ORDERS, blob_key(file, place)), 0
        case Slice(pack=pack, offset=offset):
            return blob_name("orders", pack), offset
        case _:
            raise AssertionError(file.place)


def block_of(store: Store, label: str, number: int) -> tuple[Key, int]:
    file = file_at(store, f"orders@{label}", "big.db")
    assert isinstance(file.place, Blocks)
    block = Blobs(store.backend, ORDERS, store.hash).table(file.place.tables[0])[number]
    return layout.blob(ORDERS, block.pack), block.offset


def table_of(store: Store, label: str) -> tuple[Key, int]:
    file = file_at(store, f"orders@{label}", "big.db")
    assert isinstance(file.place, Blocks)
    place = file.place.tables[0].place
    assert isinstance(place, Slice)
    return blob_name("orders", place.pack), place.offset


def told(done: Verification) -> list[tuple[str, tuple[str, ...], str]]:
    return [(found.name, found.snapshots, found.reason) for found in done.damaged]


def rewrite(store: Store, label: str, change: Callable[[StateFile], StateFile]) -> None:
    """The snapshot's manifest is another, well-formed one, as if a faulty writer had written it."""
    manifest = manifest_at(store, f"orders@{label}")
    operators = tuple(
        msgspec.structs.replace(
            operator,
            subtasks=tuple(
                msgspec.structs.replace(subtask, files=tuple(map(change, subtask.files)))
                for subtask in operator.subtasks
            ),
        )
        for operator in manifest.operators
    )
    stored = encode_manifest(msgspec.structs.replace(manifest, operators=operators))
    key = BlobKey(store.hash.digest(stored), Era(1))
    store.backend.create(layout.manifest(ORDERS, key), stored)

    def exchanged(entry: HeadEntry) -> HeadEntry:
        new = msgspec.structs.replace(entry, manifest=str(key), manifest_bytes=len(stored))
        return new if entry.label == label else entry

    edit(
        store,
        "orders",
        lambda head: msgspec.structs.replace(head, seq=head.seq + 1, live=tuple(map(exchanged, head.live))),
    )


class Reading:
    """A backend whose readers behave as the test says."""

    def __init__(self, inner: Backend, wrap: Callable[[Key, BinaryIO], BinaryIO]) -> None:
        self._inner = inner
        self._wrap = wrap

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        return self._wrap(key, self._inner.open(key, start, length))

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


def reading(store: Store, wrap: Callable[[Key, BinaryIO], BinaryIO]) -> Store:
    return behind(store, Reading(store.backend, wrap))  # type: ignore[arg-type]  # the other verbs are the inner one's


# Whole stores.


@pytest.mark.parametrize("level", ["quick", "sample", "full", "drill"])
def test_a_whole_store_has_no_damage(anywhere: Store, tmp_path: Path, level: str) -> None:
    done = checker(anywhere, tmp_path)(level)
    assert done.damaged == ()
    assert (done.pipeline, done.level) == ("orders", level)
    assert done.snapshots == ("orders@1", "orders@2", "orders@3")
    assert done.checked_files == 7 + 6 + 6


def test_full_reads_every_blob_once(store: Store, check: Check) -> None:
    done = check("full")
    needed: dict[BlobKey, int] = {}
    for label in "123":
        needed |= blobs(manifest_at(store, f"orders@{label}"))
    manifests = sum(entry.manifest_bytes for entry in store.head(ORDERS).head.live)
    assert (done.checked_blobs, done.checked_bytes) == (len(needed), sum(needed.values()) + manifests)


def test_quick_reads_no_blob(store: Store, check: Check) -> None:
    opened: list[str] = []

    def note(key: Key, reader: BinaryIO) -> BinaryIO:
        opened.append(key.path)
        return reader

    quick = verify(reading(store, note), ORDERS, None, "quick", scratch=Path("unused"))
    assert quick.damaged == ()
    assert not [path for path in opened if "/o/" in path]


def test_progress_ends_at_the_total(check: Check) -> None:
    seen: list[tuple[int, int]] = []
    done = check("full", progress=lambda far, total: seen.append((far, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (done.checked_bytes, done.checked_bytes)


def test_every_kind_of_content_is_checked_as_a_restore_reads_it(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    files = {
        "shrinks.sst": text(2 * MIB),
        "plain.sst": noise(MIB),
        "empty": b"",
        "blocks.db": bytes(3 * MIB) + noise(100),
        "text.db": text(2 * MIB + 1),
        **{f"small/{number:04}": noise(300, number) for number in range(300)},
    }
    checkpoint(store, "orders", files)
    for level in ("full", "drill"):
        done = verify(store, ORDERS, None, level, scratch=tmp_path / "scratch")
        assert told(done) == []


# Flipped bytes: seen by full and by drill, and by a sample in its turn; never by quick.


def flipped_places(store: Store) -> dict[str, tuple[Key, int]]:
    return {
        "whole": place_of(store, "1", "a.sst"),
        "zstd": place_of(store, "1", "b.sst"),
        "slice": place_of(store, "1", "small/2.sst"),
        "slice of one": place_of(store, "1", "small/3.sst"),
        "old block": block_of(store, "1", 5),
        "new block": block_of(store, "2", 5),
        "shared block": block_of(store, "1", 0),
        "table": table_of(store, "1"),
        "shared table": table_of(store, "2"),
    }


HURT: dict[str, list[tuple[str, tuple[str, ...], str]]] = {
    "whole": [("main/0/a.sst", ("orders@1", "orders@2"), OTHER_CONTENT)],
    "zstd": [("main/0/b.sst", ("orders@1",), OTHER_CONTENT)],
    "slice": [("main/0/small/2.sst", ("orders@1", "orders@2"), OTHER_CONTENT)],
    "slice of one": [("main/0/small/3.sst", ("orders@1",), OTHER_CONTENT)],
    "old block": [("main/0/big.db", ("orders@1",), f"1 of 40 blocks: {OTHER_CONTENT}")],
    "new block": [("main/0/big.db", ("orders@2", "orders@3"), f"1 of 40 blocks: {OTHER_CONTENT}")],
    "shared block": [
        ("main/0/big.db", ("orders@1",), f"1 of 40 blocks: {OTHER_CONTENT}"),
        ("main/0/big.db", ("orders@2", "orders@3"), f"1 of 40 blocks: {OTHER_CONTENT}"),
    ],
    "table": [("main/0/big.db", ("orders@1",), f"a block table: {OTHER_CONTENT}")],
    "shared table": [("main/0/big.db", ("orders@2", "orders@3"), f"a block table: {OTHER_CONTENT}")],
}


@pytest.mark.parametrize("where", list(HURT))
@pytest.mark.parametrize("level", ["full", "sample"])
def test_a_flipped_byte_hurts_exactly_these(anywhere: Store, tmp_path: Path, where: str, level: str) -> None:
    store, check = anywhere, checker(anywhere, tmp_path)
    key, offset = flipped_places(store)[where]
    flip(store.backend, key, offset + 20)
    done = check(level, sample_percent=100) if level == "sample" else check(level)
    assert sorted(told(done)) == sorted(HURT[where])
    assert {found.blob for found in done.damaged} == {key.path}
    assert told(check("quick")) == []


@pytest.mark.parametrize("where", list(HURT))
def test_a_drill_meets_the_same_damage(store: Store, check: Check, tmp_path: Path, where: str) -> None:
    key, offset = flipped_places(store)[where]
    flip(store.backend, key, offset + 20)
    assert sorted(set(told(check("drill")))) == sorted(HURT[where])
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("label", ["1", "2", "3"])
@pytest.mark.parametrize("where", list(HURT))
def test_one_snapshot_is_told_with_all_others_that_suffer(store: Store, check: Check, where: str, label: str) -> None:
    key, offset = flipped_places(store)[where]
    flip(store.backend, key, offset + 20)
    done = check("full", label)
    names_blob = key in {layout.blob(ORDERS, blob) for blob in blobs(manifest_at(store, f"orders@{label}"))}
    assert sorted(told(done)) == (sorted(HURT[where]) if names_blob else [])
    assert done.snapshots == (f"orders@{label}",)


def test_a_damaged_digest_is_that_of_the_content(store: Store, check: Check) -> None:
    key, offset = place_of(store, "1", "small/2.sst")
    flip(store.backend, key, offset + 20)
    (found,) = check("full").damaged
    assert found.digest == file_at(store, "orders@1", "small/2.sst").digest


def test_one_content_under_two_names_is_told_once_with_both(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    checkpoint(store, "orders", {"a.sst": noise(MIB), "b.sst": noise(MIB)})
    checkpoint(store, "orders", {"c.sst": noise(MIB)})
    flip(store.backend, place_of(store, "1", "a.sst")[0], 5)
    (found,) = verify(store, ORDERS, None, "full", scratch=tmp_path).damaged
    assert (found.name, found.other_names) == ("main/0/a.sst", ("main/0/b.sst", "main/0/c.sst"))
    assert found.snapshots == ("orders@1", "orders@2")


def test_damage_where_nobody_needs_the_bytes_hurts_no_snapshot(store: Store, check: Check) -> None:
    key, _ = place_of(store, "1", "small/2.sst")
    flip(store.backend, key, 0)
    (found,) = check("full").damaged
    assert (found.name, found.snapshots) == (key.path, ())
    assert found.reason == f"{OTHER_CONTENT}; no file of a snapshot is hurt"


def test_a_slice_that_is_nobody_s_any_more_hurts_nobody(store: Store, check: Check) -> None:
    key, offset = place_of(store, "1", "small/3.sst")
    edit(store, "orders", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, live=head.live[1:]))
    flip(store.backend, key, offset + 20)
    (found,) = check("full").damaged
    assert (found.name, found.snapshots) == (key.path, ())


# Missing and cut blobs: seen at every level.


@pytest.mark.parametrize("level", ["quick", "sample", "full", "drill"])
def test_a_missing_blob_hurts_everybody_who_needs_it(anywhere: Store, tmp_path: Path, level: str) -> None:
    store, check = anywhere, checker(anywhere, tmp_path)
    overwrite(store.backend, place_of(store, "1", "a.sst")[0], None)
    assert told(check(level)) == [("main/0/a.sst", ("orders@1", "orders@2"), "missing")]


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_missing_pack_hurts_each_of_its_slices(store: Store, check: Check, level: str) -> None:
    overwrite(store.backend, place_of(store, "1", "small/2.sst")[0], None)
    assert told(check(level)) == [
        ("main/0/small/1.sst", ("orders@1",), "missing"),
        ("main/0/small/2.sst", ("orders@1", "orders@2"), "missing"),
        ("main/0/small/3.sst", ("orders@1",), "missing"),
    ]


def test_a_missing_pack_of_blocks_hurts_by_block_or_by_table(store: Store, check: Check) -> None:
    overwrite(store.backend, block_of(store, "1", 0)[0], None)
    found = check("quick").damaged
    assert [one.snapshots for one in found] == [("orders@1",), ("orders@2", "orders@3")]
    assert {one.name for one in found} == {"main/0/big.db"}
    assert found[1].reason == "39 of 40 blocks: missing"


@pytest.mark.parametrize("level", ["quick", "full"])
@pytest.mark.parametrize("name", ["a.sst", "b.sst"])
def test_a_cut_blob_tells_both_sizes(store: Store, check: Check, level: str, name: str) -> None:
    key, _ = place_of(store, "1", name)
    size = len(value_of(store.backend, key))
    truncate(store.backend, key, size - 7)
    (found,) = check(level).damaged
    assert (found.name, found.reason) == (f"main/0/{name}", f"expected {size} bytes, found {size - 7}")


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_cut_pack_hurts_only_the_slices_beyond(store: Store, check: Check, level: str) -> None:
    files = {name: file_at(store, "orders@1", name) for name in ("small/1.sst", "small/2.sst", "small/3.sst")}
    last = max(files.values(), key=lambda file: file.place.offset)  # type: ignore[union-attr]  # slices
    key, offset = place_of(store, "1", last.name)
    truncate(store.backend, key, offset + 1)
    (found,) = check(level).damaged
    assert found.name == f"main/0/{last.name}"
    assert found.reason.startswith("expected ")


def test_more_bytes_than_there_should_be_are_damage_too(store: Store, check: Check) -> None:
    key, _ = place_of(store, "1", "a.sst")
    overwrite(store.backend, key, value_of(store.backend, key) + b"x")
    assert told(check("quick")) == [
        ("main/0/a.sst", ("orders@1", "orders@2"), f"expected {MIB + 10} bytes, found {MIB + 11}")
    ]


# Manifests and HEAD.


@pytest.mark.parametrize("level", ["quick", "sample", "full", "drill"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_manifest_hurts_its_snapshot(anywhere: Store, tmp_path: Path, level: str, how: str) -> None:
    store, check = anywhere, checker(anywhere, tmp_path)
    name = manifest_name(store, "orders@2")
    size = len(value_of(store.backend, name))
    if how == "flip":
        flip(store.backend, name, size - 20)
    else:
        overwrite(store.backend, name, None if how == "gone" else value_of(store.backend, name)[:-5])
    reason = {"flip": OTHER_CONTENT, "cut": f"expected {size} bytes, found {size - 5}", "gone": "missing"}[how]
    done = check(level)
    assert told(done) == [("manifest", ("orders@2",), reason)]
    assert done.damaged[0].blob == name.path


def test_a_held_snapshot_with_a_damaged_manifest_is_told_once(store: Store, check: Check) -> None:
    keep = partial(edits.hold, label="2", hold_id="a" * 32, reason="audit", expires_at=None)
    edit(store, "orders", partial(keep, now=store.ambient.now()))
    flip(store.backend, manifest_name(store, "orders@2"), 20)
    assert told(check("quick")) == [("manifest", ("orders@2",), OTHER_CONTENT)]


def test_a_manifest_of_another_snapshot_is_no_manifest_of_this_one(store: Store, check: Check) -> None:
    one, two = store.head(ORDERS).head.live[:2]

    def confused(head: Head) -> Head:
        wrong = msgspec.structs.replace(two, manifest=one.manifest, manifest_bytes=one.manifest_bytes)
        return msgspec.structs.replace(head, seq=head.seq + 1, live=(one, wrong, *head.live[2:]))

    edit(store, "orders", confused)
    (found,) = check("quick").damaged
    assert (found.name, found.snapshots) == ("manifest", ("orders@2",))
    assert found.reason == f"manifest of orders@2 belongs to orders@1 of store {store.record.id}"


def test_an_inline_content_that_is_not_its_digest_s_is_damage(store: Store, check: Check) -> None:
    def change(file: StateFile) -> StateFile:
        if file.name != "CURRENT":
            return file
        return msgspec.structs.replace(file, digest="0" * 64)

    rewrite(store, "2", change)
    for level in ("quick", "full"):
        assert told(check(level)) == [("main/0/CURRENT", ("orders@2",), OTHER_CONTENT)]


def test_a_slice_with_another_digest_in_a_good_pack_is_found_by_full(store: Store, check: Check) -> None:
    def change(file: StateFile) -> StateFile:
        return msgspec.structs.replace(file, digest="0" * 64) if file.name == "small/1.sst" else file

    rewrite(store, "2", change)
    assert told(check("sample", sample_percent=100)) == []
    assert told(check("full")) == [("main/0/small/1.sst", ("orders@2",), OTHER_CONTENT)]


def test_a_block_table_that_does_not_fit_its_file_is_found_by_full(store: Store, check: Check) -> None:
    def change(file: StateFile) -> StateFile:
        return msgspec.structs.replace(file, bytes=file.bytes - 65536) if file.name == "big.db" else file

    rewrite(store, "1", change)
    assert told(check("full")) == [("main/0/big.db", ("orders@1",), "a block table has 40 blocks where 39 belong")]


@pytest.mark.parametrize("level", ["quick", "full"])
def test_a_damaged_head_is_told_and_not_raised(store: Store, check: Check, level: str) -> None:
    flip(store.backend, layout.head(ORDERS), 100)
    (found,) = check(level).damaged
    assert (found.name, found.digest, found.snapshots) == ("HEAD", "", ())
    assert found.reason.startswith("HEAD is damaged")


def test_a_missing_head_beside_blobs_is_damage(store: Store, check: Check) -> None:
    overwrite(store.backend, layout.head(ORDERS), None)
    (found,) = check("quick").damaged
    assert found.name == "HEAD"
    assert (
        found.reason == "HEAD of orders is missing, but p/orders/o is not empty; no snapshot of orders can be reached"
    )


def test_a_pipeline_that_never_was_is_no_damage(store: Store, tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError):
        verify(store, PipelineId("nothing"), None, "quick", scratch=tmp_path)


# What changes meanwhile, and what a disk says.


def test_what_gc_has_swept_meanwhile_is_no_damage(store: Store, check: Check) -> None:
    stale = at(store, "orders@1")
    key, _ = place_of(store, "1", "b.sst")
    edit(store, "orders", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, live=head.live[1:]))
    overwrite(store.backend, key, None)
    overwrite(store.backend, layout.manifest(ORDERS, BlobKey.parse(stale.entry.manifest)), None)
    assert verify(store, ORDERS, stale, "full", scratch=Path("unused")).damaged == ()


class BrokenReader(io.RawIOBase):
    """Reads well up to an offset, then as a broken medium, or a broken connection, would."""

    def __init__(self, inner: BinaryIO, at_byte: int, code: int) -> None:
        self._inner = inner
        self._at = at_byte
        self._code = code

    def read(self, size: int = -1) -> bytes:
        position = self._inner.tell()
        wanted = size if size >= 0 else 1 << 30
        if position <= self._at < position + wanted:
            raise OSError(self._code, "Input/output error")
        return self._inner.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._inner.seek(offset, whence)

    def close(self) -> None:
        self._inner.close()
        super().close()


def test_a_sector_that_cannot_be_read_hurts_what_lies_on_it(store: Store) -> None:
    key, offset = place_of(store, "1", "small/3.sst")

    def wrap(found: Key, reader: BinaryIO) -> BinaryIO:
        return BrokenReader(reader, offset + 5, errno.EIO) if found == key else reader  # type: ignore[return-value]  # reads and seeks

    done = verify(reading(store, wrap), ORDERS, None, "full", scratch=Path("unused"))
    assert told(done) == [("main/0/small/3.sst", ("orders@1",), "cannot be read: Input/output error")]


def test_a_lost_connection_is_no_damage(store: Store) -> None:
    key, offset = place_of(store, "1", "small/3.sst")

    def wrap(found: Key, reader: BinaryIO) -> BinaryIO:
        return BrokenReader(reader, offset + 5, errno.ECONNRESET) if found == key else reader  # type: ignore[return-value]  # reads and seeks

    with pytest.raises(UnavailableError):
        verify(reading(store, wrap), ORDERS, None, "full", scratch=Path("unused"))


def test_a_blob_that_reads_otherwise_the_second_time_is_told_so(store: Store) -> None:
    key, _ = place_of(store, "1", "a.sst")
    times: list[Key] = []

    def wrap(found: Key, reader: BinaryIO) -> BinaryIO:
        if found != key:
            return reader
        times.append(found)
        if len(times) > 1:
            return reader
        with reader:
            return io.BytesIO(b"x" + reader.read()[1:])

    (found,) = verify(reading(store, wrap), ORDERS, None, "full", scratch=Path("unused")).damaged
    assert (found.snapshots, found.name) == ((), key.path)
    assert found.reason == f"{OTHER_CONTENT}; read again it was right: check the disk and the memory of this host"


# Samples.


def test_samples_read_every_blob_once_in_a_round(store: Store, tmp_path: Path) -> None:
    read: list[str] = []

    def note(key: Key, reader: BinaryIO) -> BinaryIO:
        if "/o/" in key.path:
            read.append(key.path)
        return reader

    watched = reading(store, note)
    turns = []
    for _ in range(4):
        done = verify(watched, ORDERS, None, "sample", sample_percent=25, scratch=tmp_path)
        turns.append((done.turn, done.turns))
        verify(watched, ORDERS, None, "quick", scratch=tmp_path)  # other reports are no turns
    needed = {str(layout.blob(ORDERS, key)) for label in "123" for key in blobs(manifest_at(store, f"orders@{label}"))}
    assert sorted(read) == sorted(needed)
    assert turns == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert verify(watched, ORDERS, None, "sample", sample_percent=25, scratch=tmp_path).turn == 0


@pytest.mark.parametrize("percent", [0, -1, 101])
def test_a_sample_of_nothing_is_refused(check: Check, percent: float) -> None:
    with pytest.raises(UsageError, match="a sample of"):
        check("sample", sample_percent=percent)


# Drills.


def test_a_drill_restores_everything_and_leaves_nothing_behind(store: Store, check: Check, tmp_path: Path) -> None:
    done = check("drill", "3")
    row = next(entry for entry in store.head(ORDERS).head.live if entry.id == 3)
    assert done.damaged == ()
    assert done.checked_bytes == row.full_bytes + row.manifest_bytes
    assert done.restore_seconds is not None
    assert list((tmp_path / "scratch").iterdir()) == []
    assert store.head(ORDERS).head.holds == ()


def test_a_hook_sees_the_restored_directory(store: Store, check: Check, tmp_path: Path) -> None:
    assert check("drill", "3", hook="test -f").damaged != ()  # it is a directory
    assert check("drill", "3", hook="sh -c 'test -s $0/big.db && test -s $0/small/1.sst'").damaged == ()


def test_the_hook_s_exit_code_decides(check: Check) -> None:
    (found,) = check("drill", "3", hook="sh -c 'echo first; echo 7 keys are missing >&2; exit 4'").damaged
    assert (found.name, found.snapshots) == ("hook", ("orders@3",))
    assert found.reason == "the hook exited with 4: 7 keys are missing"


def test_a_hook_that_is_killed_says_so(check: Check) -> None:
    (found,) = check("drill", "3", hook="sh -c 'kill -9 $$'").damaged
    assert found.reason == "the hook was killed by signal 9"


def test_a_hook_that_does_not_exist_is_refused_before_anything_is_done(check: Check, store: Store) -> None:
    for hook in ("no-such-command-anywhere", "", "sh 'unclosed"):
        with pytest.raises(UsageError, match="hook"):
            check("drill", "3", hook=hook)
    with pytest.raises(UsageError, match="run by a drill only"):
        check("full", hook="true")
    assert list(store.backend.list(layout.reports(ORDERS))) == []


def test_a_drill_of_several_operators_finds_every_file(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    parts = {("joins", 0): {"a": b"1"}, ("joins", 1): {"a": b"2"}, ("window", 0): {"x/y": b"3"}}
    checkpoint(store, "orders", parts=parts)
    done = verify(store, ORDERS, None, "drill", scratch=tmp_path / "scratch")
    assert done.damaged == ()


def test_a_drill_tries_what_is_left_of_a_damaged_pipeline(store: Store, check: Check) -> None:
    overwrite(store.backend, place_of(store, "3", "d.sst")[0], None)
    done = check("drill", hook="false")
    assert [(found.name, found.snapshots) for found in done.damaged] == [
        ("main/0/d.sst", ("orders@3",)),
        ("hook", ("orders@1",)),
        ("hook", ("orders@2",)),
    ]


# Reports.


def test_each_verification_is_kept_as_a_report(store: Store, check: Check) -> None:
    flip(store.backend, place_of(store, "1", "a.sst")[0], 5)
    done = check("full")
    assert done.report_skipped == ""
    report = decode_report(value_of(store.backend, Key(done.report)), "report")
    assert (report.level, report.pipeline, report.store) == ("full", "orders", store.record.id)
    assert (report.checked_files, report.checked_blobs, report.checked_bytes) == (
        done.checked_files,
        done.checked_blobs,
        done.checked_bytes,
    )
    assert not report.good
    (damage,) = report.damaged
    assert (damage.name, damage.snapshots) == ("main/0/a.sst", ("orders@1", "orders@2"))
    assert done.report.startswith("p/orders/report/2026")


def test_a_store_that_cannot_be_written_is_verified_all_the_same(store: Store, tmp_path: Path) -> None:
    denied = FaultyBackend(store.backend, lambda call: Fault.DENIED if call.verb in {"create", "swap"} else None)
    for level in ("quick", "sample", "full", "drill"):
        done = verify(behind(store, denied), ORDERS, None, level, scratch=tmp_path / "scratch")
        assert done.damaged == ()
        assert done.report == ""
        assert done.report_skipped != ""


def test_two_reports_of_one_moment_are_two(store: Store, tmp_path: Path) -> None:
    frozen = behind(store, store.backend, frozen_ambient(store))
    names = {verify(frozen, ORDERS, None, "quick", scratch=tmp_path).report for _ in range(3)}
    assert len(names) == 3


def frozen_ambient(store: Store) -> Ambient:
    """A clock that stands still."""
    inner = store.ambient
    return Ambient(
        now=lambda: "2026-01-01T00:00:00.000Z",
        elapsed=inner.elapsed,
        new_id=inner.new_id,
        wait=inner.wait,
        host=inner.host,
    )


def test_an_unknown_level_is_refused(check: Check) -> None:
    with pytest.raises(UsageError, match="no such level: 'deep'"):
        check("deep")


def test_a_snapshot_in_the_trash_is_still_verified(store: Store, check: Check) -> None:
    delete(store, ORDERS, {"1"})
    flip(store.backend, place_of(store, "1", "b.sst")[0], 5)
    assert told(check("full")) == [("main/0/b.sst", ("orders@1",), OTHER_CONTENT)]
