"""Sets of millions of keys: a marked key is found, a listed one comes back whole."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from formats.ids import MAX_INTEGER, BlobKey, Digest, Era, HashAlgorithm
from storage.marks import KeyList, Marks
from storage.references import Space, Stored
from tests.support.strategies import blob_keys

stored_values = st.builds(Stored, st.sampled_from(Space), blob_keys)
near = st.builds(  # digests that agree in their first digits, and eras that follow each other
    Stored,
    st.sampled_from(Space),
    st.builds(
        BlobKey,
        st.integers(0, 300).map(lambda number: Digest(f"ab{number:06x}".ljust(64, "0"))),
        st.integers(0, 3).map(Era),
    ),
)


def key(number: int, era: int = 1) -> BlobKey:
    return BlobKey(HashAlgorithm.SHA256.digest(number.to_bytes(8, "big")), Era(era))


def add(marks: Marks, stored: Stored) -> None:
    marks.add(stored.space, stored.key.digest, stored.key.era)


@given(st.lists(near), st.lists(near))
def test_what_is_marked_is_found_and_what_is_not_is_not(marked: list[Stored], others: list[Stored]) -> None:
    marks = Marks()
    for stored in marked:
        add(marks, stored)
    assert all(stored in marks for stored in marked)
    assert [stored in marks for stored in others] == [stored in set(marked) for stored in others]
    assert len(marks) == len(set(marked))


@given(st.lists(stored_values))
def test_a_mark_may_come_after_a_look(values: list[Stored]) -> None:
    marks = Marks()
    for stored in values:
        known = stored in marks
        assert not known or stored in values
        add(marks, stored)
        assert stored in marks
    assert len(marks) == len(set(values))


def test_a_manifest_a_blob_and_another_era_of_the_same_digest_are_three_things() -> None:
    marks = Marks()
    add(marks, Stored(Space.BLOB, key(1)))
    assert Stored(Space.MANIFEST, key(1)) not in marks
    assert Stored(Space.BLOB, key(1, era=2)) not in marks
    assert Stored(Space.BLOB, key(1, era=MAX_INTEGER)) not in marks


def test_what_a_hundred_snapshots_share_is_kept_once() -> None:
    marks = Marks()
    tracemalloc.start()
    for _ in range(20):
        for number in range(5000):
            add(marks, Stored(Space.BLOB, key(number)))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(marks) == 5000
    assert used < 100 * 20_000


@given(st.lists(st.tuples(stored_values, st.integers(0, 2**50))))
def test_a_key_comes_back_whole_from_a_list(values: list[tuple[Stored, int]]) -> None:
    keys = KeyList()
    for stored, size in values:
        keys.add(stored, size)
    assert len(keys) == len(values)
    assert keys.bytes == sum(size for _, size in values)
    assert [*keys] == sorted((stored for stored, _ in values), key=lambda stored: [*Space].index(stored.space))
    assert [*keys] == [*keys]
