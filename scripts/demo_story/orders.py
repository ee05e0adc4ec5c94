"""The stream of the demonstration, and the state that it makes.

An order is told by its offset alone: whose it is, and of how many cents. The first order of each customer comes
first, in order of their numbers; after that only the newest customers order. So the state at any offset can be
computed again, by somebody who has never seen the database.

State: customer -> how many orders, how many cents, the offset of the last one, and 384 bytes that follow from it;
and in a record of its own the offset of the next order, written in the same batch. An order that was taken in twice
or not at all shows in every one of them.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

NEXT_OFFSET_KEY = b"~next"  # behind every customer
NOTE_BYTES = 384
NEWEST = 20  # one in so many customers keeps ordering
_KEY = struct.Struct(">Q")
_NUMBERS = struct.Struct(">QQQ")
_MASK_64 = 0xFFFF_FFFF_FFFF_FFFF


def customer_of(offset: int, customers: int) -> int:
    if offset < customers:
        return offset
    return customers - 1 - _mixed(offset) % max(1, customers // NEWEST)


def cents_of(offset: int) -> int:
    return 100 + _mixed(offset + 1) % 9_900


def key_of(customer: int) -> bytes:
    return _KEY.pack(customer)


def value_of(orders: int, cents: int, last: int) -> bytes:
    note = hashlib.shake_128(b"order %d" % last).digest(NOTE_BYTES)
    return _NUMBERS.pack(orders, cents, last) + note


def numbers_of(value: bytes) -> tuple[int, int, int]:
    """Orders, cents, offset of the last order."""
    orders, cents, last = _NUMBERS.unpack_from(value)
    return orders, cents, last


def offset_value(offset: int) -> bytes:
    return _KEY.pack(offset)


def offset_of(value: bytes) -> int:
    (offset,) = _KEY.unpack(value)
    return int(offset)


def expected_state(offset: int, customers: int) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value there must be once all orders before `offset` were taken in, once each; sorted."""
    state = [(1, cents_of(first), first) for first in range(min(offset, customers))]
    for order in range(customers, offset):
        customer = customer_of(order, customers)
        orders, cents, _ = state[customer]
        state[customer] = (orders + 1, cents + cents_of(order), order)
    for customer, numbers in enumerate(state):
        yield key_of(customer), value_of(*numbers)
    yield NEXT_OFFSET_KEY, offset_value(offset)


def _mixed(number: int) -> int:
    """A number that looks random (splitmix64)."""
    number = (number * 0x9E37_79B9_7F4A_7C15) & _MASK_64
    number = ((number ^ (number >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK_64
    return (number ^ (number >> 27)) & _MASK_64
