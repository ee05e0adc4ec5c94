"""Key groups of whole columns of keys: to check where keys lie, and to hash them anew for another max parallelism.

The hash of a key is that of its Java class. Known here: string, long, int, short, byte, char, boolean, double, float.
Integers are hashed a column at a time, the rest one by one.
Source: Java, `hashCode` of String, Long, Integer, Boolean, Double, Float; Flink, `MathUtils.murmurHash`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from formats.datatype import Simple, parse
from formats.errors import UnsupportedError
from formats.keygroups import java_string_hash, key_group_of
from formats.state import StateSchema
from formats.types import decode
from formats.types_arrow import decode_column

if TYPE_CHECKING:
    import pyarrow as pa

_HASHES: dict[str, Callable[[Any], int]] = {
    "string": java_string_hash,
    "char": ord,
    "boolean": lambda value: 1231 if value else 1237,
    "double": lambda value: _folded(_bits(">d", value)),
    "float": lambda value: _bits(">f", value),
}
_INTEGERS = frozenset({"long", "int", "short", "byte"})
_NAN = {">d": 0x7FF8000000000000, ">f": 0x7FC00000}


def can_hash(schema: StateSchema) -> bool:
    """The key group of this state's keys can be worked out from their bytes."""
    key = parse(schema.key) if schema.key else None
    return isinstance(key, Simple) and (key.name in _HASHES or key.name in _INTEGERS)


def key_group(schema: StateSchema, key: bytes, max_parallelism: int) -> int:
    """The group of one key. Raises: UnsupportedError, CorruptError."""
    found = _key_type(schema)
    value = decode(found, key)
    if found.name in _INTEGERS:
        assert isinstance(value, int)
        return key_group_of(_folded(value & (1 << 64) - 1) if found.name == "long" else value, max_parallelism)
    return key_group_of(_HASHES[found.name](value), max_parallelism)


def key_groups(schema: StateSchema, keys: pa.Array, max_parallelism: int) -> pa.Array:
    """The group of each key. Raises: UnsupportedError where the hash of its class is not known here."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    found = _key_type(schema)
    if found.name in _INTEGERS:
        return _of_integers(decode_column(found, keys), max_parallelism)
    hashed = _HASHES[found.name]
    known: dict[bytes, int] = {}
    groups = []
    for raw in keys.to_pylist():
        group = known.get(raw)
        if group is None:
            group = known[raw] = key_group_of(hashed(decode(found, raw)), max_parallelism)
        groups.append(group)
    return pa.array(groups, pa.uint16())


def _key_type(schema: StateSchema) -> Simple:
    found = parse(schema.key) if schema.key else None
    if isinstance(found, Simple) and found.name in _INTEGERS | _HASHES.keys():
        return found
    message = f"how keys of {schema.name} are hashed is not known: {schema.key or 'their type is not known'}"
    raise UnsupportedError(message, hint="keep its max parallelism")


def misplaced(schema: StateSchema, batch: pa.RecordBatch, max_parallelism: int) -> int | None:
    """The first row whose key does not belong to its group; None: there is none, or it cannot be told."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    if not can_hash(schema):
        return None
    wrong = pc.not_equal(key_groups(schema, batch["key"], max_parallelism), batch["key_group"])
    at: int = pc.index(wrong, value=True).as_py()
    return at if at >= 0 else None


def _of_integers(keys: pa.Array, max_parallelism: int) -> pa.Array:
    """`keygroups.key_group_of` of a column; arithmetic of 32 bits wraps."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    def number(value: int) -> pa.Scalar:
        return pa.scalar(value, pa.uint32())

    def rotated(word: pa.Array, bits: int) -> pa.Array:
        return pc.bit_wise_or(pc.shift_left(word, number(bits)), pc.shift_right(word, number(32 - bits)))

    if keys.type == pa.int64():
        bits = keys.view(pa.uint64())
        folded = pc.bit_wise_xor(bits, pc.shift_right(bits, pa.scalar(32, pa.uint64())))
        word = pc.cast(pc.bit_wise_and(folded, pa.scalar(0xFFFFFFFF, pa.uint64())), pa.uint32())
    else:
        word = pc.cast(keys, pa.int32()).view(pa.uint32())
    word = pc.multiply(rotated(pc.multiply(word, number(0xCC9E2D51)), 15), number(0x1B873593))
    word = pc.add(pc.multiply(rotated(word, 13), number(5)), number(0xE6546B64))
    word = pc.bit_wise_xor(word, number(4))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = pc.multiply(pc.bit_wise_xor(word, pc.shift_right(word, number(shift))), number(factor))
    word = pc.bit_wise_xor(word, pc.shift_right(word, number(16)))
    negated = pc.add(pc.bit_wise_not(word), number(1))
    word = pc.if_else(
        pc.less(word, number(1 << 31)), word, pc.if_else(pc.equal(word, number(1 << 31)), number(0), negated)
    )
    whole = pc.multiply(pc.divide(word, number(max_parallelism)), number(max_parallelism))
    return pc.cast(pc.subtract(word, whole), pa.uint16())


def _bits(form: str, value: float) -> int:
    """The bits of a number as Java's `doubleToLongBits` gives them: every NaN alike."""
    if value != value:  # noqa: PLR0124  (NaN, and nothing else)
        return _NAN[form]
    return int.from_bytes(struct.pack(form, value), "big")


def _folded(bits: int) -> int:
    return (bits ^ bits >> 32) & 0xFFFFFFFF
