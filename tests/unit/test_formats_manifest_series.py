"""Manifests read as a series say what they say alone, and what is new is told once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import manifest_series
from formats.canonical import encode
from formats.manifest import Manifest, PackRef, Slice, StateFile, files_of
from formats.manifest_series import Series
from storage.store import _without_files
from tests.support.examples import MANIFEST, PACK_A, digest
from tests.support.strategies import manifests


def files(manifest: Manifest) -> list[StateFile]:
    return [file for _, _, file in files_of(manifest)]


def with_files(*found: StateFile, packs: tuple[PackRef, ...] = (PackRef(PACK_A, 1000),)) -> Manifest:
    (operator, *_) = _without_files(MANIFEST).operators
    subtask = msgspec.structs.replace(operator.subtasks[0], files=found)
    operator = msgspec.structs.replace(operator, coordinator=(), subtasks=(subtask,))
    return msgspec.structs.replace(MANIFEST, operators=(operator,), packs=packs)


def file(name: str, number: int, offset: int = 8) -> StateFile:
    return StateFile(
        name=name, bytes=100, digest=digest(number), place=Slice(PACK_A, offset, 100), first_stored_in=1, stamp="a.b.c"
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(manifests(), max_size=4), st.lists(st.integers(0, 3), max_size=8))
def test_in_any_order_and_again_each_is_what_it_is_and_every_file_was_told(
    given_ones: list[Manifest], order: list[int]
) -> None:
    series = Series()
    told: set[StateFile] = set()
    for number in order:
        if number < len(given_ones):
            found = series.read(encode(given_ones[number]))
            if found is None:  # its packs are not those of another, of another store
                assert Series().read(encode(given_ones[number])) is not None
                continue
            assert found.manifest == given_ones[number]
            assert told.isdisjoint(found.new)
            told |= set(found.new)
            assert told >= set(files(found.manifest))


def test_a_file_of_two_manifests_is_new_in_the_first_and_the_same_in_the_second() -> None:
    series = Series()
    a, b, c = file("a", 1), file("b", 2, 108), file("c", 3, 208)
    first, second = series.read(encode(with_files(a, b))), series.read(encode(with_files(b, c)))
    assert first is not None
    assert second is not None
    assert (first.new, second.new) == ([a, b], [c])
    assert files(first.manifest)[1] is files(second.manifest)[0]


@pytest.mark.parametrize(
    "second",
    [
        with_files(file("a", 2)),
        with_files(file("a", 2, 50)),
        with_files(file("a", 1), packs=(PackRef(PACK_A, 1001),)),
    ],
    ids=["another content in a slice", "a slice that overlaps", "a pack of another size"],
)
def test_what_contradicts_an_earlier_manifest_is_for_others_to_read(second: Manifest) -> None:
    series = Series()
    assert series.read(encode(with_files(file("a", 1)))) is not None
    assert series.read(encode(second)) is None
    assert series.read(encode(with_files(file("a", 1), file("b", 9, 300)))) is not None


def test_a_name_that_is_new_is_looked_at_beside_known_ones() -> None:
    series = Series()
    assert series.read(encode(with_files(file("a", 1)))) is not None
    assert series.read(encode(with_files(file("a", 1), file("a/b", 2, 108)))) is None
    assert series.read(encode(with_files(file("A", 3, 208), file("a", 1)))) is None


def test_what_does_not_fit_is_left_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_series, "MAX_KNOWN", 2)
    series = Series()
    a, b, c = file("a", 1), file("b", 2, 108), file("c", 3, 208)
    assert series.read(encode(with_files(a, b, c))) is None
    assert series.read(encode(with_files(a, b))) is not None
    assert series.read(encode(with_files(b, c))) is None
    assert series.read(encode(with_files(b))) is not None
    monkeypatch.setattr(manifest_series, "MAX_BYTES", 100)
    assert series.read(encode(with_files(b))) is None
