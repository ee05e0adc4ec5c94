"""Forks and copies: byte for byte, in the target's own era, under a hold on the source, safe to repeat."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from eoctl.services.entries import delete
from eoctl.services.fork import COPY_OF, fork
from eoctl.services.gc import Options, collect
from eoctl.services.resolve import Resolved
from eoctl.services.writers import writing
from formats.blocktable import encode_table
from formats.errors import BlobGoneError, ConflictError, CorruptError, UnsupportedError, UsageError
from formats.ids import PipelineId
from formats.manifest import Blocks, SinkState, Table, Transaction, Whole, blobs, files_of
from storage import layout
from storage.backend import CopyOf, Key
from storage.blobs import Blobs
from storage.rewrite import replace_places
from storage.session import Session
from storage.store import Store
from tests.support.fakes import FakeAmbient
from tests.support.faulty import CountingBackend, Crash, Fault, FaultyBackend, Meanwhile, script
from tests.support.faulty import at as at_call
from tests.support.places import behind, check_roots
from tests.support.stores import (
    MIB,
    at,
    checkpoint,
    edit,
    flip,
    labels,
    manifest_at,
    new_era,
    new_store,
    noise,
    overwrite,
    three_checkpoints,
)

ORDERS, COPY = PipelineId("orders"), PipelineId("orders-test")


@pytest.fixture
def source(tmp_path: Path) -> Store:
    store = new_store(tmp_path / "source", world=FakeAmbient(process=1))
    three_checkpoints(store)
    return store


@pytest.fixture(params=["the same store", "another in memory", "another on disk"])
def target(request: pytest.FixtureRequest, source: Store, tmp_path: Path) -> Store:
    if request.param == "the same store":
        return source
    return new_store(tmp_path / "target", memory="memory" in request.param, world=FakeAmbient(process=2))


def every(store: Store) -> list[Resolved]:
    return [at(store, f"orders@{entry.label}") for entry in store.head(ORDERS).head.live]


def contents(store: Store, address: str) -> dict[tuple[str, int, str], bytes]:
    reader = Blobs(store.backend, at(store, address).pipeline, store.hash)
    return {
        (operator.uid, -1 if subtask is None else subtask.index, file.name): b"".join(reader.content(file))
        for operator, subtask, file in files_of(manifest_at(store, address))
    }


def plain(entry) -> dict[str, object]:
    """What list prints of an entry, but for what is the target's own."""
    own = {"manifest", "manifest_bytes", "txid", "seq", "attempt", "base"}
    return {name: value for name, value in msgspec.structs.asdict(entry).items() if name not in own}


def test_a_fork_holds_the_newest_checkpoint_byte_for_byte(source: Store, target: Store) -> None:
    forked = fork(source, [at(source, "orders@latest")], target, COPY)
    assert [copy.snapshot.address for copy in forked.copies] == ["orders-test@3"]
    assert contents(target, "orders-test@3") == contents(source, "orders@3")
    check_roots(target, COPY)
    checkpoint(target, "orders-test", {"a": b"goes on"})
    assert labels(target, "orders-test") == ["3", "4"]


def test_a_fork_of_all_keeps_ids_times_sizes_and_sharing(source: Store, target: Store) -> None:
    fork(source, every(source), target, COPY)
    before, now = source.head(ORDERS).head, target.head(COPY).head
    assert [plain(entry) for entry in now.live] == [plain(entry) for entry in before.live]
    for number in (1, 2, 3):
        assert contents(target, f"orders-test@{number}") == contents(source, f"orders@{number}")
    stored = {key for entry in now.live for key in blobs(target.manifest(now, entry))}
    original = {key for entry in before.live for key in blobs(source.manifest(before, entry))}
    assert len(stored) <= len(original) + len(now.live)  # block tables are written anew
    check_roots(target, COPY)


def test_the_keys_of_a_fork_are_of_its_own_era_and_its_own_pipeline(source: Store, target: Store) -> None:
    for _ in range(3):
        new_era(source, "orders")
    checkpoint(source, "orders", {"late.sst": noise(MIB + 5, 77)})
    fork(source, [at(source, "orders@4")], target, COPY)
    assert {key.era for key in blobs(manifest_at(target, "orders-test@4"))} == {1}
    manifest = manifest_at(target, "orders-test@4")
    assert (manifest.pipeline, manifest.store, manifest.host) == (
        "orders-test",
        target.record.id,
        manifest_at(source, "orders@4").host,
    )


def test_in_one_place_the_server_copies(source: Store, tmp_path: Path) -> None:
    bodies = []

    class Watching(CountingBackend):
        def create(self, key, body):
            bodies.append((key.path, body))
            return super().create(key, body)

    watched = behind(source, Watching(source.backend))
    fork(watched, [at(watched, "orders@3")], watched, COPY)
    needed = blobs(manifest_at(source, "orders@3"))
    copied = {body.key for path, body in bodies if isinstance(body, CopyOf)}
    assert copied <= {layout.blob(ORDERS, key) for key in needed}
    assert len(copied) >= len(needed) - 1  # but for a pack of nothing but block tables


def test_the_same_fork_again_copies_nothing(source: Store, target: Store) -> None:
    fork(source, every(source), target, COPY)
    before = target.head(COPY).head
    again = fork(source, every(source), target, COPY)
    assert [copy.existed for copy in again.copies] == [True, True, True]
    assert (again.copied_blobs, again.copied_bytes) == (0, 0)
    assert target.head(COPY).head.live == before.live


def test_a_fork_goes_on_with_what_came_since(source: Store, target: Store) -> None:
    fork(source, every(source), target, COPY)
    checkpoint(source, "orders", {"new": b"since"})
    delete(source, ORDERS, {"1"})
    again = fork(source, every(source), target, COPY)
    assert [(copy.snapshot.id, copy.existed) for copy in again.copies] == [(2, True), (3, True), (4, False)]
    assert labels(target, "orders-test") == ["1", "2", "3", "4"]


def test_a_pipeline_that_somebody_writes_to_is_no_target(source: Store, target: Store) -> None:
    checkpoint(target, "orders-test", {"a": b"mine"})
    before = target.head(COPY)
    with pytest.raises(ConflictError, match="orders-test@1 is no copy of orders"):
        fork(source, [at(source, "orders@3")], target, COPY)
    assert target.head(COPY) == before


def test_a_fork_beside_a_live_writer_of_the_target_is_refused(source: Store, target: Store) -> None:
    with writing(target, COPY), pytest.raises(ConflictError, match="live writer"):
        fork(source, [at(source, "orders@3")], target, COPY)


def test_a_pipeline_is_no_fork_of_itself(source: Store) -> None:
    with pytest.raises(UsageError, match="the pipeline itself"):
        fork(source, [at(source, "orders@3")], source, ORDERS)


def test_stores_of_two_hashes_are_told_apart_before_anything_is_made(source: Store, tmp_path: Path) -> None:
    other = new_store(tmp_path / "other", hash_name="sha256")
    with pytest.raises(UnsupportedError, match="blake3 and sha256"):
        fork(source, [at(source, "orders@3")], other, COPY)
    assert [*other.pipelines()] == []


def test_damage_of_the_source_is_an_error_and_commits_nothing(source: Store, target: Store) -> None:
    victim = next(key for key in sorted(blobs(manifest_at(source, "orders@3"))))
    flip(source.backend, layout.blob(ORDERS, victim), 20)
    with pytest.raises(CorruptError, match=str(victim)):
        fork(source, [at(source, "orders@3")], target, COPY)
    assert labels(target, "orders-test") == []
    overwrite(source.backend, layout.blob(ORDERS, victim), None)
    with pytest.raises(BlobGoneError, match=str(victim)):
        fork(source, [at(source, "orders@3")], target, COPY)
    assert labels(target, "orders-test") == []
    assert labels(source, "orders") == ["1", "2", "3"]  # no hold is left


def test_a_block_table_that_lies_is_an_error(source: Store, tmp_path: Path) -> None:
    """Its digest is right, and it names a pack that the manifest does not name."""
    head, manifest = source.head(ORDERS).head, manifest_at(source, "orders@3")
    work = Session(source, ORDERS, based=False)
    data = noise(9000, 99)
    stranger = work.upload(source.hash.digest(data), len(data), data)
    (big,) = (file for _, _, file in files_of(manifest) if isinstance(file.place, Blocks))
    assert isinstance(big.place, Blocks)
    rows = work.blobs.table(big.place.tables[0])
    lying = encode_table([row._replace(pack=stranger, offset=8) for row in rows])
    key = work.upload(source.hash.digest(lying), len(lying), lying)
    table = Table(key.digest, len(lying), Whole(key.era))
    place = msgspec.structs.replace(big.place, tables=(table,))

    def plan(_: Session):
        changed = replace_places(
            manifest, lambda file: msgspec.structs.replace(file, place=place) if file == big else file, {}
        )
        yield at(source, "orders@3").entry.manifest, changed

    work.rewrite(plan)
    assert source.head(ORDERS).head != head
    target = new_store(tmp_path / "target", world=FakeAmbient(process=2))
    with pytest.raises(CorruptError, match=r"a block table of big\.db names packs that the manifest does not name"):
        fork(source, [at(source, "orders@3")], target, COPY)


def test_gc_of_the_source_waits_for_the_copy(source: Store, tmp_path: Path) -> None:
    """The snapshot is expired and swept as far as may be, in the middle of its copying."""
    target = new_store(tmp_path / "target", world=FakeAmbient(process=2))
    done: list[bool] = []

    def sweep() -> None:
        if not done:
            done.append(True)
            delete(source, ORDERS, {"3"})
            for _ in range(3):
                collect(source, [ORDERS], Options(grace_seconds=0, keep_trash_seconds=0))

    wanted = contents(source, "orders@3")
    watched = behind(source, FaultyBackend(source.backend, script("open", [Meanwhile(before=sweep)], key_ends=".1")))
    fork(watched, [at(watched, "orders@3")], target, COPY)
    assert done
    assert contents(target, "orders-test@3") == wanted
    collect(source, [ORDERS], Options(grace_seconds=0, keep_trash_seconds=0))
    assert labels(source, "orders") == ["1", "2"]


def test_gc_of_the_target_costs_copies_and_no_more(source: Store, target: Store) -> None:
    """The floor rises over what the fork has copied, and it is swept before the commit."""
    done: list[bool] = []

    def sweep() -> None:
        if not done:
            done.append(True)
            edit(target, "orders-test", lambda head: msgspec.structs.replace(head, seq=head.seq + 1, era=4, floor=4))
            collect(target, [COPY], Options(grace_seconds=1 << 40))

    faulty = FaultyBackend(
        target.backend, lambda call: Meanwhile(before=sweep) if "/m/" in call.key and call.verb == "create" else None
    )
    seen = behind(target, faulty)
    fork(source if target is not source else seen, every(source), seen, COPY)
    assert done
    for number in (1, 2, 3):
        assert contents(target, f"orders-test@{number}") == contents(source, f"orders@{number}")
    check_roots(target, COPY)


@pytest.mark.parametrize("after", [False, True])
def test_a_fork_killed_at_any_call_is_finished_by_the_next(tmp_path: Path, after) -> None:
    source = new_store(tmp_path / "source", world=FakeAmbient(process=1))
    first = {"a.sst": noise(MIB, 1), "b.sst": noise(9000, 2), "c.db": noise(MIB, 3), "CURRENT": b"1"}
    checkpoint(source, "orders", first)
    checkpoint(source, "orders", first | {"c.db": noise(MIB // 2, 4) + noise(MIB, 3)[MIB // 2 :]})
    fault = Fault.CRASH_AFTER if after else Fault.CRASH_BEFORE
    wanted = {number: contents(source, f"orders@{number}") for number in (1, 2)}
    number = 0
    while True:
        target = new_store(tmp_path / f"target-{number}", world=FakeAmbient(process=2))
        faulty = FaultyBackend(target.backend, at_call(number, fault))
        try:
            fork(source, every(source), behind(target, faulty), COPY)
        except Crash:
            pass
        else:
            break
        if COPY in target.pipelines():
            for entry in check_roots(target, COPY).live:
                assert contents(target, f"orders-test@{entry.id}") == wanted[entry.id]
        for found in [*target.backend.list(Key("p/orders-test/pin"))]:
            target.backend.delete([found.key])  # of a process that is dead
        fork(source, every(source), target, COPY)
        assert {n: contents(target, f"orders-test@{n}") for n in (1, 2)} == wanted
        number += 1
    assert number > 20


def test_a_copy_with_pending_transactions_says_so(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    sinks = (SinkState(uid="ledger", transactions=(Transaction(id="t-1", state="pre-committed", checkpoint=1),)),)
    checkpoint(store, "orders", {"a": b"1"}, sinks=sinks)
    forked = fork(store, [at(store, "orders@1")], store, COPY)
    assert forked.notes == (
        "orders@1 names 1 pre-committed transactions: only one of the original and the copy may go on with them",
    )


def test_a_copy_says_what_it_is_a_copy_of(source: Store, target: Store) -> None:
    fork(source, [at(source, "orders@2")], target, COPY)
    txid = at(source, "orders@2").entry.txid
    assert manifest_at(target, "orders-test@2").properties == {COPY_OF: f"{source.record.id}/orders@2#{txid}"}


def test_progress_ends_at_all_bytes(source: Store, target: Store) -> None:
    seen: list[tuple[int, int]] = []
    fork(source, [at(source, "orders@1")], target, COPY, lambda done, total: seen.append((done.total_bytes, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_forked_pipeline_reuses_by_stamps_what_the_original_would(source: Store, target: Store) -> None:
    fork(source, [at(source, "orders@3")], target, COPY)
    stamps = [file.stamp for _, _, file in files_of(manifest_at(target, "orders-test@3"))]
    assert stamps == [file.stamp for _, _, file in files_of(manifest_at(source, "orders@3"))]


def test_without_leave_to_write_the_source_is_read_without_a_hold(source: Store, tmp_path: Path) -> None:
    target = new_store(tmp_path / "target", world=FakeAmbient(process=2))
    denied = behind(source, FaultyBackend(source.backend, lambda call: Fault.DENIED if call.verb == "swap" else None))
    forked = fork(denied, [at(denied, "orders@3")], target, COPY)
    assert "without a hold" in forked.notes[0]
    assert contents(target, "orders-test@3") == contents(source, "orders@3")
