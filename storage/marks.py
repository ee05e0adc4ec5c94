"""Millions of keys in a few bytes each: what gc has marked as needed, and what it found to be garbage.

`Marks` keeps 64 bits of each key. Two keys that agree in them are both taken for marked, so that the worst that a
coincidence can do is to keep garbage. `KeyList` keeps keys whole, for those are deleted.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from formats.ids import BlobKey, Digest, Era
from storage.references import Space, Stored

_BUCKETS = 256
_MIX = 0x9E3779B97F4A7C15
_LOW = (1 << 56) - 1
_COMPACT_AT = 1 << 12


class Marks:
    """A set of stored values. Asking for them in the order of a listing is fast."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(_BUCKETS)]
        self._compact_at = [_COMPACT_AT] * _BUCKETS
        self._open: tuple[int, frozenset[int]] = (-1, frozenset())

    def add(self, space: Space, digest: str, era: int) -> None:
        value = _bits(space, digest, era)
        number = value >> 56
        bucket = self._buckets[number]
        bucket.append(value)
        if len(bucket) >= self._compact_at[number]:
            self._compact(number)
        if self._open[0] == number:
            self._open = (-1, frozenset())

    def __contains__(self, stored: Stored) -> bool:
        value = _bits(stored.space, stored.key.digest, stored.key.era)
        number = value >> 56
        if self._open[0] != number:
            self._open = (number, frozenset(self._buckets[number]))
        return value in self._open[1]

    def __len__(self) -> int:
        for number in range(_BUCKETS):
            self._compact(number)
        return sum(map(len, self._buckets))

    def _compact(self, number: int) -> None:
        """Each key once: what a hundred snapshots share came a hundred times."""
        bucket = self._buckets[number] = array("Q", set(self._buckets[number]))
        self._compact_at[number] = max(_COMPACT_AT, 2 * len(bucket))


class KeyList:
    """Keys in the order in which they came, 40 bytes each, with their sizes in sum."""

    def __init__(self) -> None:
        self.bytes = 0
        self._rows = {space: bytearray() for space in Space}

    def add(self, stored: Stored, size: int) -> None:
        self.bytes += size
        self._rows[stored.space] += bytes.fromhex(stored.key.digest) + stored.key.era.to_bytes(8, "big")

    def __len__(self) -> int:
        return sum(map(len, self._rows.values())) // 40

    def __iter__(self) -> Iterator[Stored]:
        for space, rows in self._rows.items():
            for at in range(0, len(rows), 40):
                era = Era(int.from_bytes(rows[at + 32 : at + 40], "big"))
                yield Stored(space, BlobKey(Digest(rows[at : at + 32].hex()), era))


def _bits(space: Space, digest: str, era: int) -> int:
    """64 bits of a key; the first 8 are those of the digest, by which listings are sorted."""
    return int(digest[:16], 16) ^ ((era * _MIX + (space is Space.MANIFEST)) & _LOW)
