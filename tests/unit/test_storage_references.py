"""Who references what: against sets made by hand."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from formats.ids import BlobKey, Digest, Era, HashAlgorithm, operator_id
from formats.manifest import (
    Engine,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    Slice,
    StateFile,
    SubtaskState,
    Whole,
)
from storage.references import References, Root, Space, Stored, full_name, obsolete_files
from tests.support.stores import manifest_at, new_store, three_checkpoints


def digest(number: int) -> Digest:
    return Digest(f"{number:064x}")


def blob(number: int, era: int = 1) -> BlobKey:
    return BlobKey(digest(number), Era(era))


def stored(number: int, era: int = 1) -> Stored:
    return Stored(Space.BLOB, blob(number, era))


def manifest_of(files: list[StateFile], packs: dict[str, int] | None = None) -> Manifest:
    subtask = SubtaskState(index=0, files=tuple(files))
    operator = OperatorState(
        id=operator_id("main"), uid="main", parallelism=1, engine=Engine(kind="directory"), subtasks=(subtask,)
    )
    return Manifest(
        format="eoctl.manifest",
        version=1,
        store="5" * 32,
        pipeline="orders",
        kind="checkpoint",
        id=1,
        txid="6" * 32,
        created_at="2026-01-01T00:00:00.000Z",
        attempt=1,
        hash=HashAlgorithm.BLAKE3,
        engine=Engine(kind="directory"),
        operators=(operator,),
        packs=tuple(PackRef(key, size) for key, size in sorted((packs or {}).items())),
        metrics=Metrics(full_bytes=0, added_bytes=0),
    )


def whole(number: int, size: int) -> StateFile:
    return StateFile(name=f"{number:06}.sst", bytes=size, digest=digest(number), place=Whole(1), first_stored_in=1)


def root(label: str, numbers: list[int], manifest_number: int) -> Root:
    files = [whole(number, 100 + number) for number in sorted(numbers)]
    return Root(label, manifest_of(files), blob(manifest_number), 7)


def test_a_snapshot_needs_its_blobs_and_its_manifest() -> None:
    references = References([root("1", [10, 11], 90)])
    assert references.needs("1") == {stored(10): 110, stored(11): 111, Stored(Space.MANIFEST, blob(90)): 7}


def test_a_blob_tells_the_snapshots_that_need_it() -> None:
    references = References([root("1", [10, 11], 90), root("2", [11, 12], 91), root("3", [11], 92)])
    assert references.users(stored(10)) == ("1",)
    assert references.users(stored(11)) == ("1", "2", "3")
    assert references.users(stored(99)) == ()
    assert references.labels == ("1", "2", "3")


def test_dropping_snapshots_frees_what_only_they_name() -> None:
    references = References([root("1", [10, 11], 90), root("2", [11, 12], 91), root("3", [12], 92)])
    assert references.freed_by({"1"}) == {stored(10): 110, Stored(Space.MANIFEST, blob(90)): 7}
    both = references.freed_by({"1", "2"})
    assert both.keys() == {stored(10), stored(11), *(Stored(Space.MANIFEST, blob(n)) for n in (90, 91))}
    assert references.freed_by(set()) == {}
    assert references.freed_by({"not there"}) == {}


def test_what_two_snapshots_share_is_counted_once() -> None:
    references = References([root("1", [10, 11], 90), root("2", [11, 12], 91)])
    assert references.shared("1", "2") == {stored(11): 111}
    assert sum(references.everything().values()) == 110 + 111 + 112 + 7 + 7


def test_a_manifest_is_no_blob_of_the_same_key() -> None:
    references = References([root("1", [10], 11), root("2", [11], 10)])
    assert references.users(stored(10)) == ("1",)
    assert references.users(Stored(Space.MANIFEST, blob(10))) == ("2",)
    assert references.freed_by({"1"}) == {stored(10): 110, Stored(Space.MANIFEST, blob(11)): 7}


def test_a_pack_is_needed_as_long_as_one_slice_of_it_is() -> None:
    pack = str(blob(50))

    def sliced(number: int) -> StateFile:
        place = Slice(pack=pack, offset=8 + number, length=1)
        return StateFile(name=f"{number}", bytes=1, digest=digest(number), place=place, first_stored_in=1)

    one = Root("1", manifest_of([sliced(1), sliced(2)], {pack: 100}), blob(90), 7)
    two = Root("2", manifest_of([sliced(2)], {pack: 100}), blob(91), 7)
    references = References([one, two])
    assert references.freed_by({"1"}) == {Stored(Space.MANIFEST, blob(90)): 7}
    assert references.freed_by({"1", "2"})[stored(50)] == 100


def test_the_same_content_of_two_eras_is_two_blobs() -> None:
    first = Root("1", manifest_of([whole(10, 5)]), blob(90), 7)
    again = StateFile(name="x", bytes=5, digest=digest(10), place=Whole(2), first_stored_in=2)
    references = References([first, Root("2", manifest_of([again]), blob(91), 7)])
    assert references.users(stored(10, 1)) == ("1",)
    assert references.users(stored(10, 2)) == ("2",)


def test_a_hold_of_a_live_snapshot_is_a_root_of_its_own() -> None:
    live = root("1", [10], 90)
    references = References([live, live._replace(label="hold x")])
    assert references.freed_by({"1"}) == {}
    assert references.freed_by({"1", "hold x"}).keys() == {stored(10), Stored(Space.MANIFEST, blob(90))}


@given(st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=6), st.sets(st.integers(0, 5)))
def test_any_sets_agree_with_counting_by_hand(contents: list[set[int]], dropped: set[int]) -> None:
    roots = [root(str(number), sorted(names), 100 + number) for number, names in enumerate(contents)]
    references = References(roots)
    kept = set().union(*(names for number, names in enumerate(contents) if number not in dropped))
    gone = set().union(*(names for number, names in enumerate(contents) if number in dropped)) - kept
    freed = references.freed_by({str(number) for number in dropped})
    assert {key.key.digest for key in freed if key.space is Space.BLOB} == {digest(number) for number in gone}
    assert sum(freed.values()) == sum(100 + number for number in gone) + 7 * len(dropped & set(range(len(contents))))


def test_obsolete_files_are_those_of_the_parent_that_are_here_no_more(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    three_checkpoints(store)
    one, two, three = (manifest_at(store, f"orders@{number}") for number in (1, 2, 3))
    assert obsolete_files(one, two) == ("main/0/b.sst", "main/0/small/3.sst")
    assert obsolete_files(two, three) == ("main/0/a.sst",)
    assert obsolete_files(three, three) == ()


def test_a_coordinator_s_file_has_no_subtask() -> None:
    manifest = manifest_of([whole(1, 1)])
    operator = manifest.operators[0]
    file = whole(2, 1)
    assert full_name(operator, None, file) == "main/coordinator/000002.sst"
    assert full_name(operator, operator.subtasks[0], file) == "main/0/000002.sst"
