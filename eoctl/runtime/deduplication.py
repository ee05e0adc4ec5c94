"""A Bloom filter in rotating generations: which keys came before; a false yes at a stated rate, never a false no.

Keys are remembered for at least the time to live. That time is covered by `generations - 1` spans, and each generation
takes the keys of one span; a key is known if any of the newest `generations` knows it. The false-positive rate of the
whole is the sum of theirs, so each is built for its share. Every key group has a filter of its own, so that state moves
with the groups.

    bits of a filter   m = ceil(-n ln p / (ln 2)^2)      n keys, rate p
    probes             k = round(m / n ln 2)             Source: Bloom 1970; Broder, Mitzenmacher 2004
    probe i            (h1 + i h2) mod m                 h1, h2: halves of BLAKE2b-128 of the key's plain bytes
                                                         Source: Kirsch, Mitzenmacher 2006
"""

from __future__ import annotations

import math
from hashlib import blake2b

from msgspec import Struct

from formats.errors import UsageError
from formats.plain import encode_plain

BLOCK_BYTES = 4096  # of a filter, written together


class BloomPlan(Struct, frozen=True, kw_only=True):
    """`keys`: distinct ones expected within `ttl_ms`; `rate`: of keys that were never seen and are taken for known."""

    keys: int
    rate: float
    ttl_ms: int
    generations: int = 4
    max_parallelism: int = 128

    def __post_init__(self) -> None:
        if self.keys < 1 or not 0 < self.rate < 1 or self.ttl_ms < 1 or self.generations < 2:
            message = f"not a Bloom filter: {self.keys} keys, rate {self.rate}, {self.ttl_ms} ms, {self.generations}"
            raise UsageError(message, hint="keys and ttl_ms from 1, 0 < rate < 1, at least 2 generations")

    @property
    def span_ms(self) -> int:
        """How long a generation takes keys."""
        return -(-self.ttl_ms // (self.generations - 1))

    @property
    def keys_per_filter(self) -> int:
        """Of one generation and key group: its share, and four standard deviations more."""
        share = self.keys / (self.generations - 1) / self.max_parallelism
        return math.ceil(share + 4 * math.sqrt(share)) + 1

    @property
    def bits(self) -> int:
        """Of one filter, whole bytes."""
        bits = math.ceil(-self.keys_per_filter * math.log(self.rate / self.generations) / math.log(2) ** 2)
        return -(-bits // 8) * 8

    @property
    def probes(self) -> int:
        return max(1, round(self.bits / self.keys_per_filter * math.log(2)))

    @property
    def memory_bytes(self) -> int:
        """Of all generations and key groups, once they have keys."""
        return self.bits // 8 * self.generations * self.max_parallelism

    def generation(self, time: int) -> int:
        return time // self.span_ms


class Filter:
    """One generation of one key group. `changed`: blocks with bits that were set since somebody emptied it."""

    def __init__(self, plan: BloomPlan) -> None:
        self.bits = bytearray(plan.bits // 8)
        self.changed: set[int] = set()

    def block(self, number: int) -> bytes:
        return bytes(self.bits[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])

    def put_block(self, number: int, data: bytes) -> None:
        self.bits[number * BLOCK_BYTES : number * BLOCK_BYTES + len(data)] = data

    def knows(self, places: list[int]) -> bool:
        bits = self.bits
        return all(bits[place >> 3] & 1 << (place & 7) for place in places)

    def add(self, places: list[int]) -> None:
        for place in places:
            byte, bit = place >> 3, 1 << (place & 7)
            if not self.bits[byte] & bit:
                self.bits[byte] |= bit
                self.changed.add(byte // BLOCK_BYTES)


def places_of(key: object, plan_bits: int, probes: int) -> list[int]:
    """The bits of a key."""
    digest = blake2b(encode_plain(key), digest_size=16).digest()
    first = int.from_bytes(digest[:8], "little")
    step = int.from_bytes(digest[8:], "little") | 1
    return [(first + number * step) % plan_bits for number in range(probes)]


class RotatingFilter:
    """The filters of some key groups."""

    def __init__(self, plan: BloomPlan) -> None:
        self.plan = plan
        self.filters: dict[int, dict[int, Filter]] = {}  # generation -> key group -> filter
        self._bits, self._probes = plan.bits, plan.probes

    def is_new(self, key: object, group: int, time: int) -> bool:
        """The key was not seen within the time to live, and is known from now on."""
        places = places_of(key, self._bits, self._probes)
        now = self.plan.generation(time)
        oldest = now - self.plan.generations
        for generation, groups in self.filters.items():
            if generation > oldest and group in groups and groups[group].knows(places):
                return False
        groups = self.filters.setdefault(now, {})
        if group not in groups:
            groups[group] = Filter(self.plan)
        groups[group].add(places)
        return True

    def expire(self, time: int) -> list[int]:
        """Generations that nobody will ask for any more once no record is older than `time`; they are gone."""
        oldest = self.plan.generation(time) - self.plan.generations + 1
        gone = [generation for generation in self.filters if generation < oldest]
        for generation in gone:
            del self.filters[generation]
        return gone
