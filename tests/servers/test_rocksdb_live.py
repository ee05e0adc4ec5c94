"""RocksDB captured from outside, again and again, while another process writes as fast as it can.

Every batch of the writer sets the same counter in two column families, and rewrites a few of many slots whose
content follows from slot and batch. So a state says of itself whether it is a prefix of all batches: the counters
agree, and each slot holds what the last batch up to the counter put there. Buffers and tables are small, so that
logs are switched, tables flushed, compacted and deleted all the time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rocksdict")
from rocksdict import AccessType, Checkpoint, Options, Rdict, WriteBatch, WriteOptions

from eoctl.engines.rocksdb import RocksdbSource
from eoctl.engines.source import Captured

ROOT = Path(__file__).parents[2]
THIS_MODULE = "tests.servers.test_rocksdb_live"
RUNS = 200 if os.environ.get("EOCTL_TEST_ALL") == "1" else 20
NAIVE_RUNS = 50
FAMILIES = ("default", "counts")
SLOTS, SLOTS_OF_A_BATCH = 2000, 20
CYCLE = SLOTS // SLOTS_OF_A_BATCH  # after so many batches a slot is written again
VALUE_BYTES = {"default": 400, "counts": 20}  # unequal, so that one family is flushed before the other
SYNC_EVERY = 4
NUMBER = struct.Struct(">Q")


def options(*, blobs: bool) -> Options:
    made = Options(raw_mode=True)
    made.create_if_missing(True)
    made.create_missing_column_families(True)
    made.set_write_buffer_size(128 << 10)
    made.set_target_file_size_base(128 << 10)
    made.set_max_bytes_for_level_base(512 << 10)
    made.set_level_zero_file_num_compaction_trigger(2)
    made.set_max_background_jobs(4)
    if blobs:
        made.set_enable_blob_files(True)
        made.set_min_blob_size(100)
        made.set_blob_file_size(128 << 10)
        made.set_enable_blob_gc(True)
        made.set_blob_gc_age_cutoff(0.5)
    return made


def content(family: str, slot: int, batch: int) -> bytes:
    return hashlib.shake_128(f"{family} {slot} {batch}".encode()).digest(VALUE_BYTES[family])


def write_for_ever(path: str, progress: str, *, blobs: bool) -> None:
    """Says in the file `progress` up to which batch everything is synced."""
    families = {"counts": options(blobs=blobs)}
    database = Rdict(path, options(blobs=blobs), column_families=families)
    handles = {name: database.get_column_family_handle(name) for name in FAMILIES}
    synced = WriteOptions()
    synced.sync = True
    descriptor = os.open(progress, os.O_WRONLY)
    number = 0
    while True:
        number += 1
        batch = WriteBatch(raw_mode=True)
        for name, handle in handles.items():
            batch.put(b"counter", NUMBER.pack(number), handle)
            first = number % CYCLE * SLOTS_OF_A_BATCH
            for slot in range(first, first + SLOTS_OF_A_BATCH):
                batch.put(b"slot %d" % slot, content(name, slot, number), handle)
        if number % SYNC_EVERY:
            database.write(batch)
        else:
            database.write(batch, synced)
            os.pwrite(descriptor, NUMBER.pack(number), 0)


class Writer:
    """A process that writes until it is killed."""

    def __init__(self, directory: Path, *, blobs: bool = False) -> None:
        self.path, self._progress = directory / "db", directory / "progress"
        self._progress.write_bytes(NUMBER.pack(0))
        arguments = [str(self.path), str(self._progress), "blobs" if blobs else "tables"]
        self._process = subprocess.Popen([sys.executable, "-m", THIS_MODULE, *arguments], cwd=ROOT)

    def acknowledged(self) -> int:
        """The batch up to which all are synced."""
        with self._progress.open("rb") as file:
            return int(NUMBER.unpack(file.read(NUMBER.size))[0])

    def wait_for(self, batch: int) -> int:
        while self.acknowledged() < batch:
            assert self._process.poll() is None, "the writer ended"
            os.sched_yield()
        return self.acknowledged()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def writing(directory: Path, *, blobs: bool = False) -> Iterator[Writer]:
    writer = Writer(directory, blobs=blobs)
    try:
        writer.wait_for(2 * CYCLE)
        yield writer
    finally:
        writer.end()


def copy_of(captured: Captured, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for file in captured.files:
        shutil.copyfile(captured.root / file.name, to / file.name)
        assert (to / file.name).stat().st_size == file.bytes
    return to


def faults(path: Path, synced: int) -> list[str]:
    """Why the database at `path` is no prefix of all batches that holds the first `synced` of them."""
    found = []
    with Rdict(str(path)) as database:
        states = {}
        for name in FAMILIES:
            family = database.get_column_family(name)
            states[name] = dict(family.items())
            family.close()
    counts = [NUMBER.unpack(state[b"counter"])[0] for state in states.values()]
    if len(set(counts)) > 1:
        found.append(f"counters {counts}")
    if min(counts) < synced:
        found.append(f"counters {counts} after batch {synced} was synced")
    for name, state in states.items():
        count = NUMBER.unpack(state.pop(b"counter"))[0]
        expected = {}
        for number in range(max(1, count - CYCLE + 1), count + 1):
            first = number % CYCLE * SLOTS_OF_A_BATCH
            for slot in range(first, first + SLOTS_OF_A_BATCH):
                expected[b"slot %d" % slot] = content(name, slot, number)
        if state != expected:
            wrong = sum(state.get(key) != value for key, value in expected.items())
            found.append(f"{wrong} slots of {name} are not as of {count}")
    return found


@pytest.mark.parametrize("blobs", [False, True], ids=["tables", "blobs"])
def test_every_capture_beside_a_writer_is_a_prefix_that_holds_what_was_synced(tmp_path: Path, blobs: bool) -> None:
    tries: Counter[str] = Counter()
    manifests: set[int] = set()
    with writing(tmp_path, blobs=blobs) as writer:
        for _ in range(RUNS):
            synced = writer.wait_for(writer.acknowledged() + SYNC_EVERY)
            with RocksdbSource(writer.path).capture() as captured:
                copy = copy_of(captured, tmp_path / "copy")
            tries[captured.engine.properties["tries"]] += 1
            manifests.update(file.bytes for file in captured.files if file.name.startswith("MANIFEST"))
            assert any(file.name.endswith(".blob") for file in captured.files) == blobs
            assert faults(copy, synced) == []
            assert not list(tmp_path.glob(".eoctl-capture-*"))
    print(f"tries of {RUNS} captures:", sorted(tries.items(), key=lambda item: int(item[0])))  # noqa: T201
    assert len(manifests) > RUNS // 2, "the writer hardly flushed anything"


def test_verification_beside_a_writer_finds_nothing_wrong(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        for _ in range(RUNS // 10):
            with RocksdbSource(writer.path, verify=True).capture() as captured:
                assert [state.name for state in captured.states] == list(FAMILIES)


def test_a_checkpoint_made_through_a_read_only_handle_is_torn(tmp_path: Path) -> None:
    # The control: what looks like the easy way gives what the checks above must be able to see.
    with writing(tmp_path) as writer:
        for _ in range(NAIVE_RUNS):
            synced = writer.wait_for(writer.acknowledged() + SYNC_EVERY)
            copy = tmp_path / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            try:
                copy_naively(writer.path, copy)
            except Exception:  # noqa: BLE001  (a table was deleted meanwhile; rocksdict has no kinds of errors)
                continue
            if faults(copy, synced):
                return
    pytest.fail(f"{NAIVE_RUNS} naive copies were all good: the checks see nothing")


def copy_naively(path: Path, to: Path) -> None:
    families = {"counts": options(blobs=False)}
    access = AccessType.read_only(False)
    with Rdict(str(path), options(blobs=False), column_families=families, access_type=access) as reader:
        Checkpoint(reader).create_checkpoint(str(to))


if __name__ == "__main__":
    write_for_ever(sys.argv[1], sys.argv[2], blobs=sys.argv[3] == "blobs")
