"""Which subtask a key belongs to: Java's hash code of the key, Flink's key group, our subtask."""

from __future__ import annotations

import struct
from collections.abc import Hashable

from eoctl.runtime.records import Batch
from formats.errors import InvalidInputError
from formats.keygroups import java_string_hash, key_group_of, subtask_of

MAX_CACHED_KEYS = 1 << 20

_MASK = (1 << 32) - 1
_bits = struct.Struct(">q")
_double = struct.Struct(">d")


def hash_code(key: object) -> int:
    """Java's `hashCode` of what Flink would have as this key: int is Long, tuple is Flink's Tuple.

    Raises: InvalidInputError.
    """
    match key:
        case str():
            return java_string_hash(key)
        case bool():
            return 1231 if key else 1237
        case int() if -(1 << 63) <= key < 1 << 63:
            return (key ^ key >> 32) & _MASK
        case float():
            bits: int = _bits.unpack(_double.pack(key))[0]
            return (bits ^ bits >> 32) & _MASK
        case bytes():
            code = 1
            for byte in key:
                code = (31 * code + (byte - 256 if byte > 127 else byte)) & _MASK
            return code
        case tuple():
            code = hash_code(key[0]) if key else 0
            for part in key[1:]:
                code = (31 * code + hash_code(part)) & _MASK
            return code
        case None:
            return 0
    message = f"not a key: {repr(key)[:100]}"
    raise InvalidInputError(message, hint="keys are str, int of 64 bits, float, bool, bytes, None, or tuples of these")


class KeyGroups:
    """Key groups of one operator's keys, each worked out once as long as there is room to remember it."""

    def __init__(self, max_parallelism: int) -> None:
        self.max_parallelism = max_parallelism
        self._known: dict[Hashable, int] = {}

    def of(self, key: Hashable) -> int:
        found = self._known.get(key)
        if found is not None and key.__class__ in _PLAIN:
            return found
        group = key_group_of(hash_code(key), self.max_parallelism)
        if key.__class__ in _PLAIN:
            if len(self._known) >= MAX_CACHED_KEYS:
                self._known.clear()
            self._known[key] = group
        return group


# Equal keys of other types (1, 1.0, True) have hash codes of their own, so only these two are remembered.
_PLAIN = frozenset({str, int})


class Split:
    """Deals the records of a batch out to the subtasks that own their keys."""

    def __init__(self, parallelism: int, max_parallelism: int) -> None:
        self.groups = KeyGroups(max_parallelism)
        self._owners = [subtask_of(group, parallelism, max_parallelism) for group in range(max_parallelism)]
        self._parallelism = parallelism

    def subtask_of(self, key: Hashable) -> int:
        return self._owners[self.groups.of(key)]

    def batches(self, batch: Batch) -> list[tuple[int, Batch]]:
        """What each subtask gets, in the records' order."""
        if self._parallelism == 1:
            return [(0, batch)]
        assert batch.keys is not None, "a keyed edge follows key_by"
        owners, group_of = self._owners, self.groups.of
        places: list[list[int]] = [[] for _ in range(self._parallelism)]
        for place, key in enumerate(batch.keys):
            places[owners[group_of(key)]].append(place)
        return [(subtask, batch.take(found)) for subtask, found in enumerate(places) if found]
