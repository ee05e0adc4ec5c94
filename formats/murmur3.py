"""MurmurHash3, x64, 128 bits, seed 0: how Flink derives an operator id from an operator uid.

The input is taken in blocks of 16 bytes, read as two little-endian 64-bit words; a last, shorter block is
padded with zero bytes and mixed in without the step that follows a whole block. The result is the two words
h1, h2, each written little-endian, as Guava's `HashCode.asBytes` writes them: the hex of these 16 bytes is
what Flink prints, and the 16 bytes are what `_metadata` holds.

    order-totals  ->  64d13d9aa16aa0e7527f2a20c03a2a05

Source: MurmurHash3.cpp, `MurmurHash3_x64_128` (Austin Appleby, public domain), for the function; Flink,
`StreamGraphHasherV2.generateUserSpecifiedHash`, for its use: Guava's `murmur3_128(0)` over the UTF-8 bytes.
"""

from __future__ import annotations

_MASK = (1 << 64) - 1
_C1 = 0x87C37B91114253D5
_C2 = 0x4CF5AD432745937F
_BLOCK_BYTES = 16


def murmur3_128(data: bytes) -> bytes:
    """The 16 bytes of the hash, h1 before h2, each little-endian."""
    h1 = h2 = 0
    whole = len(data) - len(data) % _BLOCK_BYTES
    for start in range(0, whole, _BLOCK_BYTES):
        k1, k2 = _words(data[start : start + _BLOCK_BYTES])
        h1 = ((_rotate_left(h1 ^ _mix_k1(k1), 27) + h2) * 5 + 0x52DCE729) & _MASK
        h2 = ((_rotate_left(h2 ^ _mix_k2(k2), 31) + h1) * 5 + 0x38495AB5) & _MASK

    # An absent tail is a tail of zeros here: both mixes map 0 to 0.
    k1, k2 = _words(data[whole:])
    h1 ^= _mix_k1(k1) ^ len(data)
    h2 ^= _mix_k2(k2) ^ len(data)

    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    h1, h2 = _finish(h1), _finish(h2)
    h1 = (h1 + h2) & _MASK
    h2 = (h2 + h1) & _MASK
    return h1.to_bytes(8, "little") + h2.to_bytes(8, "little")


def _words(block: bytes) -> tuple[int, int]:
    return int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")


def _rotate_left(word: int, bits: int) -> int:
    return (word << bits | word >> (64 - bits)) & _MASK


def _mix_k1(word: int) -> int:
    return _rotate_left(word * _C1 & _MASK, 31) * _C2 & _MASK


def _mix_k2(word: int) -> int:
    return _rotate_left(word * _C2 & _MASK, 33) * _C1 & _MASK


def _finish(word: int) -> int:
    word = (word ^ word >> 33) * 0xFF51AFD7ED558CCD & _MASK
    word = (word ^ word >> 33) * 0xC4CEB9FE1A85EC53 & _MASK
    return word ^ word >> 33
