"""formats/rocksdb_columns.py: what is read as columns is what is read one by one, and what is unusual is left alone."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formats import rocksdb_columns
from formats.errors import EoctlError
from formats.rocksdb_block import read_entries
from formats.rocksdb_columns import read_columns
from tests.support.tables import varint

pytest.importorskip("numpy")

_KEYS = st.builds(
    lambda head, number: head + struct.pack(">q", number),
    st.sampled_from([b"", b"a", b"ab" * 30, b"abcd" * 28]),
    st.integers(0, 500) | st.integers(0, 2**62),
)
_ENTRIES = st.dictionaries(_KEYS, st.binary(max_size=4) | st.just(bytes(300)) | st.just(b"x" * 3000), max_size=60)


def block(entries: dict[bytes, bytes], every: int) -> bytes:
    """As RocksDB writes it."""
    body, restarts, before = bytearray(), [], b""
    for number, key in enumerate(sorted(entries)):
        if number % every == 0:
            restarts.append(len(body))
            before = b""
        shared = next((at for at, pair in enumerate(zip(before, key, strict=False)) if pair[0] != pair[1]), len(before))
        body += varint(shared) + varint(len(key) - shared) + varint(len(entries[key])) + key[shared:] + entries[key]
        before = key
    restarts = restarts or [0]
    return bytes(body) + b"".join(struct.pack("<I", place) for place in restarts) + struct.pack("<I", len(restarts))


def one_by_one(contents: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    keys: list[bytes] = []
    values: list[bytes] = []
    for content in contents:
        read_entries(content, keys, values, "a block")
    return keys, values


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(_ENTRIES.filter(bool), min_size=1, max_size=4), st.integers(1, 20))
def test_columns_hold_what_is_read_one_by_one(blocks: list[dict[bytes, bytes]], every: int) -> None:
    contents = [block(entries, every) for entries in blocks] * 70
    found = read_columns(contents)
    assert found is not None
    assert tuple(column.to_pylist() for column in found) == one_by_one(contents)


@settings(max_examples=25)
@given(_ENTRIES.filter(bool), st.integers(1, 20), st.data())
def test_damage_is_left_to_who_tells_it(entries: dict[bytes, bytes], every: int, data: st.DataObject) -> None:
    good = block(entries, every)
    damaged = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    contents = [good] * 70 + [bytes(damaged)]
    found = read_columns(contents)
    try:
        expected = one_by_one(contents)
    except EoctlError:
        assert found is None
    else:
        assert found is None or tuple(column.to_pylist() for column in found) == expected


def test_what_is_unusual_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [block({struct.pack(">q", n): b"v" for n in range(40)}, 16)] * 40
    assert read_columns(usual) is not None
    for unusual in (
        usual[:3],  # few
        [*usual, block({b"short": b""}, 16)],
        [*usual, block({b"k" * 200: b""}, 16)],
        [*usual, block({struct.pack(">q", n): b"v" for n in range(200)}, 100)],
        [*usual, b""],
    ):
        assert read_columns(unusual) is None
    monkeypatch.setattr(rocksdb_columns, "_numpy", lambda: None)
    assert read_columns(usual) is None
