"""Parallel work: in order, bounded, told how far it is, and over at once when nobody wants it any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from eoctl.cli.progress import Pace
from formats.errors import UnavailableError
from formats.ids import BlobKey
from formats.manifest import blobs
from storage import layout
from storage.backend import Body, Key, Place, StoppedError
from storage.extract import Extraction
from storage.session import RESUME_BYTES
from storage.store import Store
from storage.transfer import Later, Moving, Portion, each
from tests.support.faulty import Call, CountingBackend, Crash, Fault, FaultyBackend
from tests.support.places import (
    PIPELINE,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    memory_store,
    opened,
    stored_keys,
    write_tree,
)
from tests.support.stores import MIB, noise


def ours() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("eoctl")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert ours() == []


def far_away(store: Store, backend=None) -> Store:
    """The same store at a place where each request takes its time."""
    old = store.place
    place = Place(
        url=old.url, backend=backend or old.backend, scratch=old.scratch, make_folders=old.make_folders, remote=True
    )
    return Store(place=place, record=store.record, ambient=store.ambient)


# each


def test_results_come_in_the_order_of_the_items() -> None:
    gates = [threading.Event() for _ in range(4)]

    def work(number: int) -> int:
        if number < 3:
            assert gates[number + 1].wait(30)  # ends after the next one
        gates[number].set()
        return number

    assert list(each(range(4), work, threads=4)) == [0, 1, 2, 3]


def test_no_more_is_begun_than_threads_and_as_many_wait() -> None:
    begun: list[int] = []
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with closing(each(items(), begun.append, threads=3)) as results:
        next(results)
        assert len(taken) == 6


def test_an_error_is_raised_and_stops_the_rest() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 5:
            raise UnavailableError("five")
        done.append(number)

    with pytest.raises(UnavailableError, match="five"):
        list(each(range(10_000), work, threads=2))
    assert len(done) < 20


def test_work_that_nobody_waits_for_ends_at_its_next_step() -> None:
    """A file without an end is being read when Ctrl-C comes."""
    moving = Moving()
    begun, ended = threading.Event(), threading.Event()

    def work(_: int) -> None:
        told = Portion(moving, 1 << 60).stage(1 << 60)
        try:
            while True:
                told(1)
                begun.set()
        except StoppedError:
            ended.set()
            raise

    def interrupted() -> None:
        if begun.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(each([1], work, tick=interrupted))
    assert ended.is_set()


def test_the_caller_is_called_while_it_waits() -> None:
    ticked = threading.Event()
    assert list(each([1], lambda _: ticked.wait(30), tick=ticked.set)) == [True]


def test_an_error_of_time_in_the_work_is_its_error() -> None:
    def work(_: int) -> None:
        raise TimeoutError("the work's own")

    with pytest.raises(TimeoutError, match="the work's own"):
        list(each([1], work))


# Later


def test_later_is_done_when_waited_for() -> None:
    done: list[int] = []
    later = Later(threads=2)
    for number in range(50):
        later.add(partial(done.append, number))
    later.wait()
    assert sorted(done) == list(range(50))
    later.end()


def test_what_failed_later_is_raised_when_waited_for_or_before() -> None:
    def fail() -> None:
        raise UnavailableError("late")

    later = Later(threads=2)
    later.add(fail)
    with pytest.raises(UnavailableError, match="late"):
        later.wait()
    for _ in range(2):
        later.add(fail)
    with pytest.raises(UnavailableError, match="late"):
        later.add(fail)
    later.end()


# Portions


def test_a_portion_counts_each_stage_for_its_share_and_never_more() -> None:
    moving = Moving()
    portion = Portion(moving, 1000, stages=2)
    read = portion.stage(1000)
    read(500)
    assert moving.bytes == 250
    read(500)
    sent = portion.stage(10)
    assert moving.bytes == 500
    sent(5)
    assert moving.bytes == 750
    sent(100)  # a part was sent again
    assert moving.bytes == 1000
    portion.end()
    assert moving.bytes == 1000


def test_a_portion_of_nothing_is_nothing() -> None:
    moving = Moving()
    portion = Portion(moving, 0)
    portion.stage(0)(0)
    portion.end()
    assert moving.bytes == 0


# Checkpoints to a place far away


class Meeting(CountingBackend):
    """Creates of blobs wait until so many are under way at once."""

    def __init__(self, inner, count: int) -> None:
        super().__init__(inner)
        self.barrier = threading.Barrier(count, timeout=60)

    def create(self, key: Key, body: Body) -> bool:
        if "/o/" in key.path:
            self.barrier.wait()
        return super().create(key, body)


def test_large_files_are_sent_at_the_same_time(tmp_path: Path) -> None:
    store = far_away(memory_store(tmp_path))
    meeting = far_away(store, Meeting(store.backend, 4))
    files = {f"{number}.sst": noise(MIB + 10, number) for number in range(4)}
    writer = opened(meeting)
    checkpoint_tree(writer, write_tree(tmp_path / "state", files))
    assert contents(store, entry_of(store, 1)) == files


def test_packs_are_sent_while_the_next_is_filled(tmp_path: Path) -> None:
    store = far_away(memory_store(tmp_path))
    meeting = far_away(store, Meeting(store.backend, 3))
    files = {f"{number:03}": noise(MIB - 1, number) for number in range(70)}  # in three packs
    checkpoint_tree(opened(meeting), write_tree(tmp_path / "state", files))
    assert contents(store, entry_of(store, 1)) == files


def test_what_could_not_be_sent_is_not_committed(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    refusing = FaultyBackend(store.backend, lambda call: Fault.REFUSED if "/o/" in call.key else None)
    writer = opened(far_away(store, refusing))
    with pytest.raises(UnavailableError, match="refused by the test"):
        checkpoint_tree(writer, write_tree(tmp_path / "state", {"small": noise(9000)}))
    assert store.head(PIPELINE).head.live == ()
    assert [*store.place.scratch.iterdir()] == []


@pytest.mark.parametrize("size", [RESUME_BYTES, RESUME_BYTES + 77])
def test_what_a_dead_session_has_sent_is_not_sent_again(tmp_path: Path, size: int) -> None:
    """The first try of a command dies when it would commit; the second sends the manifest and nothing else."""
    store = memory_store(tmp_path)
    files = {f"{number}.sst": noise(size, number) for number in range(3)}
    files |= {f"small/{number}": noise(300_000, 100 + number) for number in range(40)}
    root = write_tree(tmp_path / "state", files)

    def dies_at_the_commit(call: Call) -> Fault | None:
        return Fault.CRASH_BEFORE if call.verb == "swap" and commits else None

    commits: list[bool] = []
    dying = FaultyBackend(store.backend, dies_at_the_commit)
    writer = opened(far_away(store, dying))
    commits.append(True)
    with pytest.raises(Crash):
        checkpoint_tree(writer, root, as_id=7)
    counting = CountingBackend(store.backend)
    created = checkpoint_tree(opened(far_away(store, counting)), root, as_id=7)
    assert created.snapshot.id == 7
    assert [key for key in counting.created if "/o/" in key] == []
    assert contents(store, entry_of(store, 7)) == files


def test_bytes_of_another_content_under_a_name_are_not_taken_for_sent(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    data = noise(RESUME_BYTES, 1)
    key = BlobKey(store.hash.digest(data), store.make_pipeline(PIPELINE).head.era)  # type: ignore[arg-type]
    store.backend.create(layout.blob(PIPELINE, key), noise(RESUME_BYTES, 2))
    checkpoint_tree(opened(far_away(store)), write_tree(tmp_path / "state", {"a.sst": data}))
    assert contents(store, entry_of(store, 1)) == {"a.sst": data}
    assert key not in blobs(store.manifest(store.head(PIPELINE).head, entry_of(store, 1)))


def test_a_small_file_costs_no_question_whether_it_is_there(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    counting = CountingBackend(store.backend)
    writer = opened(far_away(store, counting))
    counting.calls.clear()
    checkpoint_tree(writer, write_tree(tmp_path / "state", {f"{n}": noise(9000, n) for n in range(100)}))
    assert counting.calls["stat"] == 0
    assert counting.calls["create"] == 2  # a pack, the manifest


# Progress


def test_progress_moves_within_one_file(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    seen: list[int] = []
    session_tally: list[object] = []

    def told(tally, _) -> None:
        seen.append(tally.total_bytes + tally.moving_bytes)
        session_tally.append(tally)

    from eoctl.engines.directory import DirectorySource
    from eoctl.services.checkpoint import Part, Request, create_checkpoint

    root = write_tree(tmp_path / "state", {"one.db": noise(5 * MIB)})
    create_checkpoint(opened(store), Request(parts=(Part(source=DirectorySource(root)),)), told)
    assert seen == sorted(seen)
    assert len({*seen}) >= 5
    assert seen[-1] == 5 * MIB


def test_a_restore_counts_what_is_written(tmp_path: Path) -> None:
    store = memory_store(tmp_path)
    files = {"one.sst": noise(3 * MIB, 1), "two.db": noise(2 * MIB, 2), "three": noise(9000, 3)}
    checkpoint_tree(opened(store), write_tree(tmp_path / "state", files))
    for remote in (False, True):
        from storage.blobs import Blobs

        extraction = Extraction(blobs=Blobs(store.backend, PIPELINE, store.hash), remote=remote)
        manifest = store.manifest(store.head(PIPELINE).head, entry_of(store, 1))
        target = tmp_path / f"restored {remote}"
        target.mkdir()
        extraction.tree(target, manifest.operators[0].subtasks[0].files, ())
        assert {path.name: path.read_bytes() for path in target.iterdir()} == files
        assert (extraction.done.total_bytes, extraction.done.moving_bytes) == (sum(map(len, files.values())), 0)


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace(0.0)
    assert (pace.bytes_per_second, pace.left_seconds(10)) == (0, None)
    for second in range(1, 31):
        pace.at(float(second), second * 100 if second <= 15 else 1500 + (second - 15) * 1000)
    assert pace.bytes_per_second == 1000
    assert pace.left_seconds(5000) == 5.0
    pace.at(31.0, 0)  # the next of several things
    pace.at(32.0, 50)
    assert pace.bytes_per_second == 50


def test_a_pack_whose_name_is_taken_by_other_bytes_is_not_named(tmp_path: Path) -> None:
    """It is found out after the plan has gone on, and counts as stored by nobody."""
    files = {f"{number:03}": noise(300_000, number) for number in range(40)}
    root = write_tree(tmp_path / "state", files)
    probe = memory_store(tmp_path / "probe")
    checkpoint_tree(opened(probe), root)
    (pack,) = (key for key in stored_keys(probe)["o"])
    store = memory_store(tmp_path / "store")
    store.make_pipeline(PIPELINE)
    store.backend.create(layout.blob(PIPELINE, pack), b"of somebody else")
    checkpoint_tree(opened(far_away(store)), root)
    check_roots(store)
    assert contents(store, entry_of(store, 1)) == files
