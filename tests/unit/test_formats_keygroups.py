"""Key groups as Flink computes them: real keys, and the laws that every rescale relies on."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.errors import InvalidInputError
from formats.keygroups import (
    MAX_MAX_PARALLELISM,
    KeyGroupRange,
    java_string_hash,
    key_group_of,
    range_of,
    subtask_of,
)

# Key-group prefixes of keys in a canonical savepoint that Flink 2.3.0 wrote with max parallelism 128.
FLINK_KEY_GROUPS = {
    "user-0": 8,
    "user-1": 121,
    "user-7": 37,
    "user-42": 20,
    "user-99": 94,
    "user-100": 29,
    "user-128": 124,
    "user-150": 26,
    "user-199": 66,
    "user-210": 38,
}


@st.composite
def _parallelisms(draw: st.DrawFn) -> tuple[int, int]:
    """(parallelism, max parallelism), often small, sometimes at the limit."""
    max_parallelism = draw(st.integers(1, 300) | st.sampled_from([128, 4096, MAX_MAX_PARALLELISM]))
    return draw(st.integers(1, max_parallelism)), max_parallelism


@st.composite
def _ranges(draw: st.DrawFn) -> KeyGroupRange:
    start = draw(st.integers(0, 40))
    return KeyGroupRange(start, draw(st.integers(start + 1, 41)))


@pytest.mark.parametrize(("key", "key_group"), FLINK_KEY_GROUPS.items())
def test_a_key_lies_in_the_key_group_that_flink_wrote(key: str, key_group: int) -> None:
    assert key_group_of(java_string_hash(key), 128) == key_group


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a", 97),
        ("hello", 99162322),
        ("user-42", -147182656),
        ("polygenelubricants", -(2**31)),
        ("größe", 98762257),
        ("\U0001f600", 1772899),
        ("\ud83d", 0xD83D),
        ("\ude00x", 1761912),
    ],
)
def test_a_string_hashes_as_in_java(text: str, expected: int) -> None:
    assert java_string_hash(text) == expected


def test_a_hash_counts_the_same_signed_and_unsigned() -> None:
    assert key_group_of(-1, 128) == key_group_of(2**32 - 1, 128)


@given(key_hash=st.integers(-(2**31), 2**31 - 1), parallelisms=_parallelisms())
def test_every_key_has_a_group_and_its_group_a_subtask(key_hash: int, parallelisms: tuple[int, int]) -> None:
    parallelism, max_parallelism = parallelisms
    key_group = key_group_of(key_hash, max_parallelism)
    assert 0 <= key_group < max_parallelism
    assert 0 <= subtask_of(key_group, parallelism, max_parallelism) < parallelism


@given(_parallelisms())
def test_every_key_group_belongs_to_exactly_one_subtask(parallelisms: tuple[int, int]) -> None:
    parallelism, max_parallelism = parallelisms
    ranges = [range_of(subtask, parallelism, max_parallelism) for subtask in range(parallelism)]
    assert ranges[0].start == 0
    assert ranges[-1].stop == max_parallelism
    assert all(left.stop == right.start for left, right in pairwise(ranges))


@given(_parallelisms(), st.data())
def test_subtask_of_is_the_inverse_of_range_of(parallelisms: tuple[int, int], data: st.DataObject) -> None:
    parallelism, max_parallelism = parallelisms
    key_group = data.draw(st.integers(0, max_parallelism - 1))
    subtask = subtask_of(key_group, parallelism, max_parallelism)
    assert key_group in range_of(subtask, parallelism, max_parallelism)


@given(_parallelisms())
def test_ranges_differ_in_length_by_one_at_most(parallelisms: tuple[int, int]) -> None:
    parallelism, max_parallelism = parallelisms
    lengths = {len(range_of(subtask, parallelism, max_parallelism)) for subtask in range(parallelism)}
    assert max(lengths) - min(lengths) <= 1


@given(_ranges(), _ranges())
def test_an_intersection_holds_what_both_hold(left: KeyGroupRange, right: KeyGroupRange) -> None:
    both = left.intersection(right)
    assert both == right.intersection(left)
    members = set(range(both.start, both.stop)) if both else set()
    assert members == {group for group in range(41) if group in left and group in right}


def test_a_range_prints_half_open() -> None:
    assert str(range_of(1, 2, 128)) == "[64, 128)"


@pytest.mark.parametrize(("start", "stop"), [(-1, 1), (0, 0), (3, 2), (0, MAX_MAX_PARALLELISM + 1)])
def test_a_range_cannot_be_built_wrong(start: int, stop: int) -> None:
    with pytest.raises(InvalidInputError):
        KeyGroupRange(start, stop)


@pytest.mark.parametrize(
    ("subtask", "parallelism", "max_parallelism"),
    [(0, 0, 128), (0, 129, 128), (2, 2, 128), (-1, 2, 128), (0, 1, 0), (0, 1, MAX_MAX_PARALLELISM + 1)],
)
def test_impossible_parallelisms_are_refused(subtask: int, parallelism: int, max_parallelism: int) -> None:
    with pytest.raises(InvalidInputError):
        range_of(subtask, parallelism, max_parallelism)


@pytest.mark.parametrize("key_group", [-1, 128])
def test_a_key_group_outside_max_parallelism_is_refused(key_group: int) -> None:
    with pytest.raises(InvalidInputError):
        subtask_of(key_group, 2, 128)


def test_a_max_parallelism_of_zero_has_no_key_groups() -> None:
    with pytest.raises(InvalidInputError):
        key_group_of(1, 0)
