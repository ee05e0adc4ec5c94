"""Key groups of whole columns of keys: to check where keys lie, and to hash them anew for another max parallelism.

The hash of a key is that of its Java class (formats/java_hash.py). Integers are hashed a column at a time, the rest one
by one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from formats.datatype import Simple, parse
from formats.errors import UnsupportedError
from formats.java_hash import hasher, unhashable
from formats.keygroups import key_group_of
from formats.state import StateSchema
from formats.types_arrow import decode_column

if TYPE_CHECKING:
    import pyarrow as pa

_INTEGERS = frozenset({"long", "int", "short", "byte"})


def can_hash(schema: StateSchema) -> bool:
    """The key group of this state's keys can be worked out from their bytes."""
    return bool(schema.key) and unhashable(parse(schema.key)) is None


def key_group(schema: StateSchema, key: bytes, max_parallelism: int) -> int:
    """The group of one key. Raises: UnsupportedError, CorruptError."""
    return key_group_of(_hash_of(schema)(key), max_parallelism)


def key_groups(schema: StateSchema, keys: pa.Array, max_parallelism: int) -> pa.Array:
    """The group of each key. Raises: UnsupportedError where the hash of its class is not known here; CorruptError."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    hashed = _hash_of(schema)
    found = parse(schema.key)
    if isinstance(found, Simple) and found.name in _INTEGERS:
        return _of_integers(decode_column(found, keys), max_parallelism)
    known: dict[bytes, int] = {}
    groups = []
    for raw in keys.to_pylist():
        group = known.get(raw)
        if group is None:
            group = known[raw] = key_group_of(hashed(raw), max_parallelism)
        groups.append(group)
    return pa.array(groups, pa.uint16())


def _hash_of(schema: StateSchema) -> Callable[[bytes], int]:
    hint = "leave --max-parallelism out: keys keep their groups, at any parallelism up to it"
    if not schema.key:
        raise UnsupportedError(f"how keys of {schema.name} are hashed is not known, nor is their type", hint=hint)
    if (reason := unhashable(parse(schema.key))) is not None:
        message = f"how keys of {schema.name} are hashed is not known: {schema.key}: {reason}"
        raise UnsupportedError(message, hint=hint)
    return _hasher(schema.key)


@cache
def _hasher(text: str) -> Callable[[bytes], int]:
    return hasher(parse(text))


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
