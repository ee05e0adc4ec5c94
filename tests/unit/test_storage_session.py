"""A session: what it may count on when gc, other writers and the disk come in between."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from eoctl.services.checkpoint import Opened
from formats.errors import (
    CommitUnknownError,
    ConflictError,
    CorruptError,
    EoctlError,
    FencedError,
    InvalidInputError,
    OutcomeUnknownError,
    SessionExpiredError,
    SnapshotNotFoundError,
    UnavailableError,
)
from formats.head import roots
from formats.ids import BlobKey, Era, PipelineId
from formats.manifest import blobs, files_of
from storage import layout
from storage.backend import SyncFailedError
from storage.edits import hold, raise_era
from storage.head import MAX_TRIES
from storage.session import Session, open_writer
from storage.store import Store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.faulty import Call, CountingBackend, Crash, Fault, FaultyBackend, Meanwhile, script
from tests.support.places import (
    PIPELINE,
    Plan,
    behind,
    check_roots,
    checkpoint_tree,
    contents,
    entry_of,
    local_store,
    memory_store,
    opened,
    stored_keys,
    write_tree,
)
from tests.support.stores import noise
from tests.support.sweeper import Sweeper

OLD = {"a": b"content of a", "b": b"content of b"}
NEW = {"a": b"content of a", "b": b"changed b", "c": b"a new one"}


@pytest.fixture(params=["memory", "local"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return memory_store(tmp_path) if request.param == "memory" else local_store(tmp_path)


@pytest.fixture
def gc(store: Store) -> Sweeper:
    return Sweeper(store)


def session_of(store: Store) -> Session:
    return Session(store, PIPELINE, *open_writer(store, PIPELINE))


def committed(store: Store, files: dict[str, bytes]) -> str:
    return session_of(store).commit(Plan(files)).label


def once(action: Callable[[], object]) -> Callable[[Session], object]:
    """For `Plan.then`: only after the first plan."""
    actions = iter([action])
    return lambda _: next(actions, lambda: None)()


def test_a_commit_makes_a_snapshot_with_just_these_files(store: Store) -> None:
    entry = session_of(store).commit(Plan(OLD))
    assert contents(store, entry) == OLD
    assert check_roots(store).live == (entry,)
    assert (entry.id, entry.files, entry.added_files) == (1, 2, 2)


def test_what_the_base_has_is_not_uploaded_again(store: Store) -> None:
    committed(store, OLD)
    plan = Plan(NEW)
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"]]
    assert contents(store, entry) == NEW
    assert (entry.base, entry.added_files, entry.referenced_files) == (1, 2, 1)


def test_a_commit_that_adds_nothing_uploads_only_its_manifest(store: Store) -> None:
    committed(store, OLD)
    counting = CountingBackend(store.backend)
    session_of(behind(store, counting)).commit(Plan(OLD))
    assert [name.split("/")[2] for name in counting.created] == ["m"]
    check_roots(store)


# The floor rises


def test_a_floor_that_rises_before_the_commit_costs_a_copy_and_no_upload(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)
    plan = Plan(NEW, then=once(lambda: (gc.advance(), gc.advance())))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"], []]
    assert contents(store, entry) == NEW
    gc.sweep()
    assert contents(store, entry) == NEW
    check_roots(store)


def test_a_manifest_below_the_floor_is_written_anew_and_not_copied(store: Store, gc: Sweeper) -> None:
    entry = session_of(store).commit(Plan(OLD, then=once(lambda: (gc.advance(), gc.advance()))))
    head = store.head(PIPELINE).head
    assert BlobKey.parse(entry.manifest).era == head.era
    assert all(key.era >= head.floor for key in blobs(store.manifest(head, entry)))
    (left,) = [key for key in stored_keys(store)["m"] if str(key) != entry.manifest]
    assert left.digest != BlobKey.parse(entry.manifest).digest  # it named the old keys


def test_a_floor_that_rises_under_a_commit_without_uploads_costs_another_manifest(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)
    plan = Plan(OLD, then=once(lambda: (gc.advance(), gc.advance())))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [[], []]
    assert contents(store, entry) == OLD
    gc.sweep()
    check_roots(store)


def test_what_gc_swept_before_it_could_be_carried_is_uploaded_again(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)
    plan = Plan(NEW, then=once(lambda: (gc.advance(), gc.advance(), gc.sweep())))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"], ["b", "c"]]
    assert contents(store, entry) == NEW
    check_roots(store)


def test_a_floor_that_rises_within_the_grace_of_one_advance_changes_nothing(store: Store, gc: Sweeper) -> None:
    # The floor goes to the era before: sessions of the present era live on.
    plan = Plan(OLD, then=once(gc.advance))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["a", "b"]]
    assert BlobKey.parse(entry.manifest).era == store.head(PIPELINE).head.era - 1
    gc.sweep()
    check_roots(store)


def test_a_session_that_can_never_keep_up_says_so(store: Store, gc: Sweeper) -> None:
    plan = Plan(OLD, then=lambda _: (gc.advance(), gc.advance(), gc.sweep()))
    with pytest.raises(SessionExpiredError):
        session_of(store).commit(plan)
    assert len(plan.uploads) == MAX_TRIES
    assert check_roots(store).live == ()


def test_a_copy_whose_source_has_rotted_is_not_confirmed(store: Store, gc: Sweeper) -> None:
    def rot_and_advance() -> None:
        for key in stored_keys(store)["o"]:
            if key.digest == store.hash.digest(OLD["b"]):
                name = layout.blob(PIPELINE, key)
                store.backend.delete([name])
                store.backend.create(name, b"rotten")
        gc.advance()
        gc.advance()

    plan = Plan(OLD, then=once(rot_and_advance))
    entry = session_of(store).commit(plan)
    assert plan.uploads[0] == ["a", "b"]
    assert "b" in {name for names in plan.uploads[1:] for name in names}
    assert contents(store, entry) == OLD
    check_roots(store)


def test_gc_that_sweeps_while_a_session_uploads_costs_another_plan(store: Store, gc: Sweeper) -> None:
    # The blob "exists", and is gone when the session reads it back: its era was below the floor by then.
    committed(store, OLD)
    gc.expire("1")
    gc.advance()
    session = session_of(store)
    leftover = BlobKey(store.hash.digest(NEW["c"]), session.era)
    store.backend.create(layout.blob(PIPELINE, leftover), NEW["c"])

    def overtake() -> None:
        gc.advance()
        gc.advance()
        assert layout.blob(PIPELINE, leftover).path in gc.sweep()

    faulty = FaultyBackend(store.backend, script("create", [Meanwhile(after=overtake)], f"{leftover}"))
    session.store = behind(store, faulty)
    session.blobs = type(session.blobs)(faulty, PIPELINE, store.hash)
    entry = session.commit(Plan(NEW))
    assert contents(store, entry) == NEW
    check_roots(store)


# The base goes


def test_a_base_that_is_dropped_meanwhile_is_planned_again_and_uploaded(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)

    def drop() -> None:
        gc.expire("1")
        gc.advance()

    plan = Plan(NEW, then=once(drop))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"], ["a"]]  # what this session confirmed still counts
    assert contents(store, entry) == NEW
    gc.sweep()
    assert contents(store, entry) == NEW
    check_roots(store)


def test_a_base_that_is_dropped_and_swept_meanwhile_is_uploaded_anew(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)

    def drop() -> None:
        gc.expire("1")
        gc.advance()
        gc.advance()
        gc.sweep()

    plan = Plan(NEW, then=once(drop))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"], ["a", "b", "c"]]
    assert contents(store, entry) == NEW
    check_roots(store)


def test_a_base_that_is_dropped_does_not_matter_to_a_commit_that_borrows_nothing(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)
    plan = Plan({"x": b"unlike anything before"}, then=once(lambda: (gc.expire("1"), gc.advance())))
    session_of(store).commit(plan)
    assert plan.uploads == [["x"]]


@pytest.mark.parametrize("kept", ["trash", "hold"])
def test_a_base_that_is_expired_but_still_a_root_may_be_shared(store: Store, gc: Sweeper, kept) -> None:
    committed(store, OLD)

    def expire_it() -> None:
        if kept == "hold":
            gc.edit(partial(hold, label="1", hold_id="d" * 32, reason="", now=time_text(1), expires_at=time_text(99)))
        gc.expire("1")
        if kept == "hold":
            gc.advance()

    plan = Plan(NEW, then=once(expire_it))
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["b", "c"]]
    gc.advance()
    gc.sweep()
    assert contents(store, entry) == NEW


def first_time(verb: str, part: str, action: Callable[[], object]) -> Callable[[Call], Meanwhile | None]:
    """Somebody acts just before the first call of `verb` whose key has `part` in it."""
    actions = iter([Meanwhile(before=action)])
    return lambda call: next(actions, None) if call.verb == verb and part in call.key else None


@pytest.mark.parametrize(("verb", "part"), [("open", "/o/"), ("create", "/o/"), ("create", "/m/"), ("swap", "HEAD")])
def test_a_large_changing_file_outlives_the_base_whose_blocks_it_shares(
    store: Store, gc: Sweeper, tmp_path: Path, verb, part
) -> None:
    first = noise((1 << 20) + 70_000)
    assert first[100:101] != b"!"
    second = first[:100] + b"!" + first[101:]
    tree = write_tree(tmp_path / "tree", {"db": first})
    checkpoint_tree(opened(store), tree)
    writer = opened(store)
    write_tree(tree, {"db": second})

    def drop() -> None:
        gc.expire("1")
        gc.advance()
        gc.advance()
        assert gc.sweep() != set()

    faulty = FaultyBackend(store.backend, first_time(verb, part, drop))
    checkpoint_tree(Opened(behind(store, faulty), PIPELINE, writer.attempt, writer.owner), tree)
    head = check_roots(store)
    assert [entry.label for entry in head.live] == ["2"]
    assert contents(store, head.live[0]) == {"db": second}


@pytest.mark.parametrize("name", ["inline", "packed", "whole.sst", "blocks.db"])
@pytest.mark.parametrize("change", ["none", "last byte", "name"])
def test_a_base_of_an_older_era_that_is_swept_is_noticed_though_the_session_is_above_the_floor(
    store: Store, gc: Sweeper, tmp_path: Path, name, change
) -> None:
    size = {"inline": 100, "packed": 20_000}.get(name, (1 << 20) + 70_000)
    data = noise(size)
    tree = write_tree(tmp_path / "tree", {name: data})
    checkpoint_tree(opened(store), tree)
    gc.advance()
    files = {"none": {name: data}, "last byte": {name: data[:-1] + b"!"}, "name": {f"new {name}": data}}[change]
    write_tree(tree, files)
    writer = opened(store)

    def drop() -> None:
        gc.expire("1")
        head = gc.advance()
        assert head.floor == head.era - 1  # where the session is
        gc.sweep()

    faulty = FaultyBackend(store.backend, first_time("create", "/m/", drop))
    checkpoint_tree(Opened(behind(store, faulty), PIPELINE, writer.attempt, writer.owner), tree)
    head = check_roots(store)
    assert [entry.label for entry in head.live] == ["2"]
    assert contents(store, head.live[0]) == files


def test_a_base_that_is_swept_before_its_manifest_is_read_is_no_base(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)

    def drop() -> None:
        gc.expire("1")
        gc.advance()
        gc.advance()
        gc.sweep()

    attempt, owner = open_writer(store, PIPELINE)
    faulty = FaultyBackend(store.backend, first_time("open", "/m/", drop))
    entry = Session(behind(store, faulty), PIPELINE, attempt, owner).commit(Plan(NEW))
    assert contents(store, entry) == NEW
    check_roots(store)


# Poisoned names


def poison(store: Store, data: bytes, era: int) -> str:
    name = layout.blob(PIPELINE, BlobKey(store.hash.digest(data), Era(era)))
    assert store.backend.create(name, b"other bytes")
    return name.path


def test_other_bytes_under_a_blobs_name_are_left_alone_and_a_new_era_begins(store: Store) -> None:
    session = session_of(store)
    name = poison(store, OLD["b"], session.era)
    plan = Plan(OLD)
    entry = session.commit(plan)
    head = check_roots(store)
    assert head.era == 2
    assert head.floor == 0
    assert contents(store, entry) == OLD
    assert plan.uploads == [["a", "b"], ["b"]]
    with store.backend.open(layout.blob(PIPELINE, BlobKey.parse(name.rpartition("/")[2]))) as file:
        assert file.read() == b"other bytes"


def test_keys_of_an_earlier_era_of_the_same_session_fall_below_the_floor_first(store: Store, gc: Sweeper) -> None:
    session = session_of(store)
    poison(store, OLD["b"], session.era)  # so "a" is confirmed in era 1, and "b" and the manifest come in era 2

    def advance() -> None:
        assert gc.advance().floor == 2
        gc.sweep()

    entry = session.commit(Plan(OLD, then=once(advance)))
    assert contents(store, entry) == OLD
    assert check_roots(store).live == (entry,)


def test_an_era_full_of_poison_is_left_behind_as_well(store: Store) -> None:
    session = session_of(store)
    for era in (1, 2, 3):
        poison(store, OLD["b"], era)
    entry = session.commit(Plan(OLD))
    assert check_roots(store).era == 4
    assert contents(store, entry) == OLD


def test_the_right_bytes_under_a_blobs_name_are_shared(store: Store) -> None:
    session = session_of(store)
    key = BlobKey(store.hash.digest(OLD["a"]), session.era)
    store.backend.create(layout.blob(PIPELINE, key), OLD["a"])
    session.commit(Plan(OLD))
    assert check_roots(store).era == 1


def test_other_bytes_under_a_manifests_name_are_left_alone(store: Store) -> None:
    names: list[str] = []

    def decide(call: Call) -> Fault | Meanwhile | None:
        if call.verb == "create" and "/m/" in call.key and not names:
            names.append(call.key)
            key = layout.manifest(PIPELINE, BlobKey.parse(call.key.rpartition("/")[2]))
            return Meanwhile(before=lambda: store.backend.create(key, b"other bytes"))
        return None

    entry = session_of(behind(store, FaultyBackend(store.backend, decide))).commit(Plan(OLD))
    assert entry.manifest not in names[0]
    assert check_roots(store).era == 2
    assert contents(store, entry) == OLD


# The disk


@pytest.mark.parametrize("verb", ["blob", "manifest"])
def test_after_a_failed_sync_nothing_linked_before_counts_as_confirmed(tmp_path: Path, monkeypatch, verb) -> None:
    store = local_store(tmp_path)
    session = session_of(store)
    real = os.fsync
    part = "/o/" if verb == "blob" else "/m"
    failures = iter([OSError(errno.EIO, "the disk is ill")])

    def fsync(descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if part in f"{path}/"[len(str(tmp_path)) :] and (error := next(failures, None)) is not None:
            raise error
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(SyncFailedError):
        session.commit(Plan(OLD))
    head = check_roots(store)
    assert head.live == ()
    assert (head.era, head.floor) == (2, 2)
    plan = Plan(OLD)
    entry = session_of(store).commit(plan)
    assert plan.uploads == [["a", "b"]]
    assert all(key.era == 2 for key in blobs(store.manifest(store.head(PIPELINE).head, entry)))
    check_roots(store)


def test_a_head_whose_folder_could_not_be_synced_is_an_unknown_commit(tmp_path: Path, monkeypatch) -> None:
    store = local_store(tmp_path)
    session = session_of(store)
    real, rename = os.fsync, os.rename
    broken = [False]

    def renamed(source: str, target: str) -> None:
        rename(source, target)
        broken[0] = target.endswith("/HEAD")

    def fsync(descriptor: int) -> None:
        if broken[0]:
            broken[0] = False
            raise OSError(errno.EIO, "the disk is ill")
        real(descriptor)

    monkeypatch.setattr("os.rename", renamed)
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(CommitUnknownError):
        session.commit(Plan(OLD))
    assert len(check_roots(store).live) <= 1


# Other writers


def test_a_zombie_cannot_commit_however_long_it_slept(store: Store, gc: Sweeper) -> None:
    zombie = session_of(store)
    plan = Plan(OLD, then=once(lambda: committed(store, NEW)))
    with pytest.raises(FencedError):
        zombie.commit(plan)
    head = check_roots(store)
    assert [entry.label for entry in head.live] == ["1"]
    assert contents(store, head.live[0]) == NEW


def test_a_zombie_that_wakes_up_below_the_floor_cannot_commit_either(store: Store, gc: Sweeper) -> None:
    zombie = session_of(store)

    def a_week() -> None:
        committed(store, NEW)
        for _ in range(3):
            gc.advance()
        gc.sweep()

    with pytest.raises(FencedError):
        zombie.commit(Plan(OLD, then=once(a_week)))
    check_roots(store)


def test_an_attempt_stolen_by_number_is_fenced(store: Store) -> None:
    attempt, _ = open_writer(store, PIPELINE)
    stranger = Session(store, PIPELINE, attempt, store.ambient.new_id())  # type: ignore[arg-type]  # an id like any other
    with pytest.raises(FencedError):
        stranger.commit(Plan(OLD))
    assert check_roots(store).live == ()


def test_of_two_sessions_of_one_attempt_both_may_commit_in_turn(store: Store) -> None:
    attempt, owner = open_writer(store, PIPELINE)
    assert Session(store, PIPELINE, attempt, owner).commit(Plan(OLD)).label == "1"
    entry = Session(store, PIPELINE, attempt, owner).commit(Plan(NEW))
    assert entry.label == "2"
    assert contents(store, entry) == NEW
    assert contents(store, entry_of(store, 1)) == OLD


def test_of_two_sessions_that_want_one_id_one_gets_it(store: Store) -> None:
    attempt, owner = open_writer(store, PIPELINE)
    first, second = Session(store, PIPELINE, attempt, owner), Session(store, PIPELINE, attempt, owner)
    with pytest.raises(ConflictError):
        second.commit(Plan(NEW, then=once(lambda: first.commit(Plan(OLD)))))
    head = check_roots(store)
    assert [contents(store, entry) for entry in head.live] == [OLD]


def test_savepoints_and_checkpoints_do_not_fence_each_other(store: Store) -> None:
    session = session_of(store)

    def savepoint() -> None:
        other = Session(behind(store, store.backend, FakeAmbient(7).ambient()), PIPELINE)
        plan = Plan(OLD)
        other.commit(lambda own: msgspec.structs.replace(plan(own), kind="savepoint", name="s1", id=0))

    entry = session.commit(Plan(NEW, then=once(savepoint)))
    head = check_roots(store)
    assert [root.label for root in head.live] == ["s1", "1"]
    assert contents(store, entry) == NEW
    assert contents(store, head.live[0]) == OLD


# Outcomes


def test_a_savepoint_that_came_and_went_before_its_reply_is_not_made_again(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)

    def come_and_go() -> None:
        gc.expire("s1")
        gc.advance()

    lost = Meanwhile(after=come_and_go, fault=Fault.REPLY_LOST)
    session = Session(behind(store, FaultyBackend(store.backend, script("swap", [lost]))), PIPELINE)
    plan = Plan(NEW)
    with pytest.raises(CommitUnknownError):
        session.commit(lambda own: msgspec.structs.replace(plan(own), kind="savepoint", name="s1", id=0))
    assert [entry.label for entry in roots(check_roots(store))] == ["1"]


@pytest.mark.parametrize("fault", [Fault.LOST, Fault.REPLY_LOST, Fault.LATE, Fault.TWICE, Fault.REFUSED])
@pytest.mark.parametrize("verb", ["create", "swap"])
def test_one_fault_of_any_kind_is_a_success_once_or_a_failure_and_a_retry(store: Store, verb, fault) -> None:
    session = session_of(store)
    faulty = FaultyBackend(store.backend, script(verb, [fault]))
    session = Session(behind(store, faulty), PIPELINE, session.attempt, session.owner)
    try:
        entry = session.commit(Plan(OLD))
    except (OutcomeUnknownError, UnavailableError):
        assert verb == "create"
        assert store.head(PIPELINE).head.live == ()
        faulty.deliver()
        entry = Session(store, PIPELINE, session.attempt, session.owner).commit(Plan(OLD))
    faulty.deliver()
    head = check_roots(store)
    assert [root.txid for root in head.live] == [entry.txid]
    assert contents(store, entry) == OLD


def test_a_commit_that_was_expired_before_its_reply_came_is_reported_as_what_it_was(store: Store, gc: Sweeper) -> None:
    session = session_of(store)
    lost = Meanwhile(after=lambda: gc.expire("1"), fault=Fault.REPLY_LOST)
    session = Session(
        behind(store, FaultyBackend(store.backend, script("swap", [lost]))), PIPELINE, session.attempt, session.owner
    )
    entry = session.commit(Plan(OLD))
    assert entry.label == "1"
    head = check_roots(store)
    assert (head.live, [trashed.entry.txid for trashed in head.trash]) == ((), [entry.txid])


def test_a_commit_that_came_and_went_before_its_reply_is_reported_as_what_it_was(store: Store, gc: Sweeper) -> None:
    session = session_of(store)
    lost = Meanwhile(after=lambda: (gc.expire("1"), gc.advance()), fault=Fault.REPLY_LOST)
    session = Session(
        behind(store, FaultyBackend(store.backend, script("swap", [lost]))), PIPELINE, session.attempt, session.owner
    )
    assert session.commit(Plan(OLD)).label == "1"
    assert [*roots(check_roots(store))] == []


def test_a_plan_that_fails_commits_nothing_and_leaves_no_scratch(store: Store) -> None:
    session = session_of(store)
    session.scratch().parent.mkdir(exist_ok=True)
    session.scratch().write_bytes(b"half")

    def fail(_: Session) -> None:
        message = "the source is gone"
        raise UnavailableError(message)

    with pytest.raises(UnavailableError, match="source is gone"):
        session.commit(Plan(OLD, then=fail))
    assert check_roots(store).live == ()
    assert [*store.place.scratch.iterdir()] == []
    assert committed(store, OLD) == "1"


# Deletes


def deletes_of(run: Callable[[Store], object], store: Store) -> int:
    counting = CountingBackend(store.backend)
    with contextlib.suppress(EoctlError, Crash):
        run(behind(store, counting))
    return counting.calls["delete"]


def test_a_session_never_deletes_anything_whatever_comes_of_it(store: Store, gc: Sweeper) -> None:
    def fenced(seen: Store) -> None:
        session_of(seen).commit(Plan(OLD, then=once(lambda: open_writer(store, PIPELINE))))

    def lost(seen: Store) -> None:
        faulty = FaultyBackend(seen.backend, script("swap", [None, *[Fault.LOST] * 99]))
        session_of(behind(seen, faulty)).commit(Plan(NEW))

    def poisoned(seen: Store) -> None:
        session = session_of(seen)
        poison(store, b"x" * 100, session.era)
        session.commit(Plan({"x": b"x" * 100}))

    runs: list[Callable[[Store], object]] = [
        lambda seen: committed(seen, OLD),
        lambda seen: committed(seen, NEW),
        lambda seen: session_of(seen).commit(Plan(OLD, then=once(lambda: (gc.advance(), gc.advance())))),
        lambda seen: session_of(seen).commit(Plan(NEW, then=lambda _: (gc.advance(), gc.advance(), gc.sweep()))),
        fenced,
        lost,
        poisoned,
    ]
    assert [deletes_of(run, store) for run in runs] == [0] * len(runs)
    check_roots(store)


# Writers and pipelines


def test_a_first_writer_makes_the_pipeline_and_each_further_one_a_new_attempt(store: Store) -> None:
    with pytest.raises(SnapshotNotFoundError):
        Session(store, PIPELINE)
    assert [open_writer(store, PIPELINE)[0] for _ in range(3)] == [1, 2, 3]
    assert [*store.pipelines()] == [PIPELINE]


def test_a_pipeline_whose_head_was_lost_is_not_made_up(store: Store) -> None:
    committed(store, OLD)
    store.backend.delete([layout.head(PIPELINE)])
    with pytest.raises(CorruptError):
        open_writer(store, PIPELINE)
    with pytest.raises(CorruptError):
        Session(store, PIPELINE)
    assert store.backend.stat(layout.head(PIPELINE)) is None


def test_two_processes_that_make_one_pipeline_at_once_share_it(store: Store) -> None:
    other = behind(store, store.backend, FakeAmbient(2).ambient())

    def rush(pipeline: PipelineId) -> None:
        Session(other, pipeline, *open_writer(other, pipeline)).commit(Plan(OLD))

    for verb in ("open", "list", "create"):
        pipeline = PipelineId(f"made-{verb}")
        faulty = FaultyBackend(store.backend, script(verb, [Meanwhile(before=partial(rush, pipeline))]))
        assert open_writer(behind(store, faulty), pipeline)[0] == 2
        assert check_roots(store, pipeline).last_id == 1


def test_nothing_of_one_pipeline_is_touched_by_another(store: Store) -> None:
    committed(store, OLD)
    before = stored_keys(store), store.head(PIPELINE)
    other = PipelineId("other")
    Session(store, other, *open_writer(store, other)).commit(Plan(NEW))
    assert (stored_keys(store), store.head(PIPELINE)) == before
    assert contents(store, entry_of(store, 1, other), store.head(other).head) == NEW


# What is written can be read


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"tags": ("has space",)}, InvalidInputError),
        ({"tags": ("\udcff",)}, InvalidInputError),
        ({"created_at": "now"}, InvalidInputError),
        ({"properties": {"a": "x" * 5000}}, InvalidInputError),
        ({"id": 2**60}, InvalidInputError),
    ],
)
def test_a_manifest_or_entry_that_could_not_be_read_again_is_not_committed(store: Store, changes, kind) -> None:
    plan = Plan(OLD)
    with pytest.raises(kind):
        session_of(store).commit(lambda session: msgspec.structs.replace(plan(session), **changes))
    assert check_roots(store).live == ()
    assert committed(store, OLD) == "1"


def test_the_manifest_names_whose_it_is(store: Store) -> None:
    entry = session_of(store).commit(Plan(OLD))
    manifest = store.manifest(store.head(PIPELINE).head, entry)
    assert (manifest.store, manifest.pipeline, manifest.txid) == (store.record.id, "orders", entry.txid)
    assert [file.name for _, _, file in files_of(manifest)] == ["a", "b"]


def test_edits_of_others_between_plan_and_commit_are_kept(store: Store, gc: Sweeper) -> None:
    committed(store, OLD)
    entry = session_of(store).commit(Plan(NEW, then=once(lambda: gc.edit(partial(raise_era, floor=False)))))
    head = check_roots(store)
    assert [root.label for root in head.live] == ["1", entry.label]
    assert head.era == 2
