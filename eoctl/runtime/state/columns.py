"""Changes of a state as sorted columns: all rows at once, by Arrow where it can, and by numpy if it is there.

Strings that are ASCII and longs, which most keys and values are, are never looked at one by one; all else is written by
its type's serializer.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.state.backend import StateSpec
from eoctl.runtime.state.serializers import Serializer, serializer
from formats.state import row_schema

np: Any
try:
    import numpy as np
except ImportError:  # then key groups take some microseconds each
    np = None

ABSENT: Any = object()
MAX_FAST_BYTES = 126  # of a string with one length byte
_SIGN = 1 << 63
_FEW = 64

Change = tuple[Hashable, list[Any], list[Any]]  # namespace, keys, values or ABSENT; of a map pairs of keys


def batch_of(spec: StateSpec, changes: list[Change], groups: KeyGroups) -> pa.RecordBatch:
    """The changes as rows in the order of a table."""
    pairs = spec.kind in {"map", "timer"}
    places = list(chain.from_iterable(keys for _, keys, _ in changes))
    values = list(chain.from_iterable(found for _, _, found in changes))
    keys = [place[0] for place in places] if pairs else places
    namespace = serializer(spec.namespace).encode
    spaces = [namespace(space) for space, _, _ in changes]
    counts = [len(found) for _, found, _ in changes]
    columns = [
        _groups(spec, keys, groups),
        encoded(serializer(spec.key), keys),
        _repeated(spaces, counts),
        _map_keys(spec, places),
        _values(spec, values),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=row_schema())
    names = ["key_group", "key", *(["namespace"] if len(changes) > 1 else []), *(["map_key"] if pairs else [])]
    return batch.take(pc.sort_indices(batch, sort_keys=[(name, "ascending") for name in names]))


def encoded(kind: Serializer, values: list[Any]) -> pa.Array:
    """The values as bytes."""
    if kind.type == "long" and len(values) > _FEW:
        return _longs(values)
    if kind.type == "string" and len(values) > _FEW:
        fast = _strings(values)
        if fast is not None:
            return fast
    return pa.array(list(map(kind.encode, values)), pa.binary())


def time_bytes(time: int) -> bytes:
    """A timer's time: big-endian with the sign bit flipped, so that bytes sort as times."""
    return (time + _SIGN).to_bytes(8, "big")


def time_of(data: bytes) -> int:
    return int.from_bytes(data, "big") - _SIGN


def _repeated(spaces: list[bytes], counts: list[int]) -> pa.Array:
    indices = pa.array(list(chain.from_iterable([place] * count for place, count in enumerate(counts))), pa.int32())
    return pa.array(spaces, pa.binary()).take(indices)


def _map_keys(spec: StateSpec, places: list[Any]) -> pa.Array:
    if spec.kind == "timer":
        return pa.array([time_bytes(place[1]) for place in places], pa.binary())
    if spec.kind == "map":
        return encoded(serializer(spec.map_key), [place[1] for place in places])
    return pa.repeat(pa.scalar(b"", pa.binary()), len(places))


def _values(spec: StateSpec, values: list[Any]) -> pa.Array:
    """Values that are not bytes yet are written now; absent ones are null."""
    kind = serializer(spec.value)
    if spec.kind == "timer":
        return pa.array([None if value is ABSENT else b"" for value in values], pa.binary())
    if spec.kind == "list" or not kind.immutable:
        return pa.array([None if value is ABSENT else value for value in values], pa.binary())
    if any(value is ABSENT for value in values):
        return pa.array([None if value is ABSENT else kind.encode(value) for value in values], pa.binary())
    return encoded(kind, values)


def _longs(values: list[int]) -> pa.Array:
    data = struct.pack(f">{len(values)}q", *values)
    fixed = pa.Array.from_buffers(pa.binary(8), len(values), [None, pa.py_buffer(data)])
    return fixed.cast(pa.binary())


def _strings(values: list[str]) -> pa.Array | None:
    """Length plus 1, then the characters; None where a string is long or not ASCII."""
    texts = pa.array(values, pa.string())
    lengths = pc.binary_length(texts)
    if pc.max(lengths).as_py() > MAX_FAST_BYTES or not pc.all(pc.string_is_ascii(texts)).as_py():
        return None
    heads = pa.array([bytes((length + 1,)) for length in range(MAX_FAST_BYTES + 1)], pa.binary())
    return pc.binary_join_element_wise(heads.take(lengths), texts.cast(pa.binary()), pa.scalar(b"", pa.binary()))


def _groups(spec: StateSpec, keys: list[Any], groups: KeyGroups) -> pa.Array:
    if spec.by_group:
        return pa.array(keys, pa.uint16())
    if np is not None and spec.key == "string" and len(keys) > _FEW:
        fast = _string_groups(keys, groups.max_parallelism)
        if fast is not None:
            return fast
    return pa.array(list(map(groups.of, keys)), pa.uint16())


def _string_groups(keys: list[str], max_parallelism: int) -> pa.Array | None:
    """As `KeyGroups.of` of each: Java's hash, a character of all strings at a time, then MurmurHash3."""
    joined = "".join(keys)
    if not joined.isascii():
        return None
    data = np.frombuffer(joined.encode(), np.uint8)
    lengths = np.fromiter(map(len, keys), np.int64, len(keys))
    starts = np.cumsum(lengths) - lengths
    word = np.zeros(len(keys), np.uint32)
    for place in range(int(lengths.max())):
        open_ = np.flatnonzero(lengths > place)
        word[open_] = word[open_] * np.uint32(31) + data[starts[open_] + place]
    word = word * np.uint32(0xCC9E2D51)
    word = (word << np.uint32(15) | word >> np.uint32(17)) * np.uint32(0x1B873593)
    word = (word << np.uint32(13) | word >> np.uint32(19)) * np.uint32(5) + np.uint32(0xE6546B64)
    word ^= np.uint32(4)
    word = (word ^ word >> np.uint32(16)) * np.uint32(0x85EBCA6B)
    word = (word ^ word >> np.uint32(13)) * np.uint32(0xC2B2AE35)
    word ^= word >> np.uint32(16)
    signed = word.astype(np.int64)
    signed = np.where(signed < 1 << 31, signed, np.where(signed == 1 << 31, 0, (1 << 32) - signed))
    return pa.array((signed % max_parallelism).astype(np.uint16))
