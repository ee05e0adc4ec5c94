"""formats/state_diff.py: the difference of two dictionaries, a piece at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from formats.state_diff import difference
from tests.support.states import Row, batch_of, rows_of

_keys = st.tuples(st.integers(0, 3), st.binary(max_size=2), st.binary(max_size=1), st.binary(max_size=1))
_contents = st.dictionaries(_keys, st.binary(max_size=2), max_size=30)


def pieces(content: dict[tuple[int, bytes, bytes, bytes], bytes], size: int) -> list[list[Row]]:
    rows: list[Row] = [(*key, value) for key, value in sorted(content.items())]
    return [rows[at : at + size] for at in range(0, len(rows), size)]


@given(_contents, _contents, st.integers(1, 9), st.integers(1, 9))
def test_a_difference_is_that_of_two_dictionaries(a, b, size_a, size_b) -> None:
    b |= {key: value for number, (key, value) in enumerate(sorted(a.items())) if number % 3 == 0}
    found: dict[str, list[Row]] = {"added": [], "removed": [], "old": [], "new": []}
    same = 0
    for changes in difference(map(batch_of, pieces(a, size_a)), map(batch_of, pieces(b, size_b))):
        for name, rows in found.items():
            rows.extend(rows_of([getattr(changes, name)]))
        same += changes.same
    both = sorted(a.keys() & b.keys())
    assert found["added"] == [(*key, b[key]) for key in sorted(b.keys() - a.keys())]
    assert found["removed"] == [(*key, a[key]) for key in sorted(a.keys() - b.keys())]
    assert found["old"] == [(*key, a[key]) for key in both if a[key] != b[key]]
    assert found["new"] == [(*key, b[key]) for key in both if a[key] != b[key]]
    assert same == sum(a[key] == b[key] for key in both)
