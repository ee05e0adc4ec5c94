"""Key groups: the unit in which keyed state is dealt out to subtasks, and dealt out anew on a rescale.

    key  --hash-->  key group in [0, max parallelism)  --range-->  subtask in [0, parallelism)

A key's group never changes while max parallelism stays; a subtask owns one contiguous range of groups. The
arithmetic is Flink's, so that state moves between Flink and us without re-keying.

Rules kept here: ranges are half-open and never empty (Flink's are inclusive; `formats/flink/` converts), and
1 <= parallelism <= max parallelism <= 32768. How a key is hashed is its type's business: Java's hash of a
string is here, because a person names keys as text; other types take the group from the stored prefix.

Source: Flink, `KeyGroupRangeAssignment` and `MathUtils.murmurHash`; Java, `String.hashCode`.
"""

from __future__ import annotations

from msgspec import Struct

from formats.errors import InvalidInputError

MAX_MAX_PARALLELISM = 1 << 15  # Flink: KeyGroupRangeAssignment.UPPER_BOUND_MAX_PARALLELISM

_MASK = (1 << 32) - 1
_SIGN = 1 << 31


class KeyGroupRange(Struct, frozen=True, order=True):
    """The key groups `start <= group < stop`; at least one."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= MAX_MAX_PARALLELISM:
            message = f"not a range of key groups: [{self.start}, {self.stop})"
            raise InvalidInputError(message, start=self.start, stop=self.stop)

    def __str__(self) -> str:
        return f"[{self.start}, {self.stop})"

    def __len__(self) -> int:
        return self.stop - self.start

    def __contains__(self, key_group: int) -> bool:
        return self.start <= key_group < self.stop

    def intersection(self, other: KeyGroupRange) -> KeyGroupRange | None:
        """What both hold; None where they have nothing in common."""
        start, stop = max(self.start, other.start), min(self.stop, other.stop)
        return KeyGroupRange(start, stop) if start < stop else None


def key_group_of(key_hash: int, max_parallelism: int) -> int:
    """The group of a key whose Java hash code is `key_hash`, a 32-bit integer, signed or not.

    Raises: InvalidInputError.
    Source: Flink, `KeyGroupRangeAssignment.computeKeyGroupForKeyHash`.
    """
    _check_max_parallelism(max_parallelism)
    return _murmur_hash(key_hash) % max_parallelism


def range_of(subtask: int, parallelism: int, max_parallelism: int) -> KeyGroupRange:
    """The groups that `subtask` owns; all subtasks together own each group once, in order.

    Raises: InvalidInputError.
    Source: Flink, `KeyGroupRangeAssignment.computeKeyGroupRangeForOperatorIndex`.
    """
    _check_parallelism(parallelism, max_parallelism)
    if not 0 <= subtask < parallelism:
        message = f"no such subtask: {subtask} of {parallelism}"
        raise InvalidInputError(message, subtask=subtask, parallelism=parallelism)
    start = (subtask * max_parallelism + parallelism - 1) // parallelism
    last = ((subtask + 1) * max_parallelism - 1) // parallelism
    return KeyGroupRange(start, last + 1)


def subtask_of(key_group: int, parallelism: int, max_parallelism: int) -> int:
    """The subtask whose `range_of` holds `key_group`.

    Raises: InvalidInputError.
    Source: Flink, `KeyGroupRangeAssignment.computeOperatorIndexForKeyGroup`.
    """
    _check_parallelism(parallelism, max_parallelism)
    if not 0 <= key_group < max_parallelism:
        message = f"no such key group: {key_group} of {max_parallelism}"
        raise InvalidInputError(message, key_group=key_group, max_parallelism=max_parallelism)
    return key_group * parallelism // max_parallelism


def java_string_hash(text: str) -> int:
    """Java's `text.hashCode()`, a signed 32-bit integer: polynomial in 31 over the UTF-16 code units.

    A lone surrogate counts as the unit it is, as in Java.
    Source: Java, `String.hashCode`.
    """
    result = 0
    units = text.encode("utf-16-be", "surrogatepass")
    for high, low in zip(units[::2], units[1::2], strict=True):
        result = (31 * result + (high << 8 | low)) & _MASK
    return result - (1 << 32) if result & _SIGN else result


def _murmur_hash(code: int) -> int:
    """MurmurHash3 x86 of one 4-byte block, seed 0; of that the absolute value, and 0 where an int has none.

    Source: Flink, `MathUtils.murmurHash`.
    """
    word = (code & _MASK) * 0xCC9E2D51 & _MASK
    word = _rotate_left(word, 15) * 0x1B873593 & _MASK
    word = (_rotate_left(word, 13) * 5 + 0xE6546B64) & _MASK
    word ^= 4  # the length of the block
    word = (word ^ word >> 16) * 0x85EBCA6B & _MASK
    word = (word ^ word >> 13) * 0xC2B2AE35 & _MASK
    word ^= word >> 16
    if word < _SIGN:
        return word
    return 0 if word == _SIGN else (1 << 32) - word


def _rotate_left(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _MASK


def _check_parallelism(parallelism: int, max_parallelism: int) -> None:
    _check_max_parallelism(max_parallelism)
    if not 1 <= parallelism <= max_parallelism:
        message = f"parallelism is not between 1 and max parallelism {max_parallelism}: {parallelism}"
        raise InvalidInputError(message, parallelism=parallelism, max_parallelism=max_parallelism)


def _check_max_parallelism(max_parallelism: int) -> None:
    if not 1 <= max_parallelism <= MAX_MAX_PARALLELISM:
        message = f"max parallelism is not between 1 and {MAX_MAX_PARALLELISM}: {max_parallelism}"
        raise InvalidInputError(message, max_parallelism=max_parallelism)
