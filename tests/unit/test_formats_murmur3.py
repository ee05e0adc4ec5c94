"""Operator ids as real Flink jobs have them, and the hash against its reference implementation."""

import pytest

from formats.murmur3 import murmur3_128

# Uid and operator id of each operator in `_metadata` files written by Flink 1.20.5 and 2.3.0.
FLINK_OPERATOR_IDS = {
    "orders-source": "45b0254a46cabbc3efeea5d2e170ea5b",
    "rules-source": "5182b45b6472b1a8299f474baebf57c3",
    "orders-parse": "2dbcd508439c33c63b2ba0507920b30e",
    "order-totals": "64d13d9aa16aa0e7527f2a20c03a2a05",
    "order-window": "446b6a31466c9febb78d747f268f23c3",
    "order-audit": "71496c454f635039bb87b016e78257d2",
    "order-rules": "df26e061b4bff8d01934e8452df6f5ec",
    "order-sink": "e8f15f75d0b0f622bec327639960b016",
    "Sink Committer: order-sink": "96b7a69bfe8190d92dd03ea8de868725",
}


@pytest.mark.parametrize(("uid", "operator_id"), FLINK_OPERATOR_IDS.items())
def test_a_uid_hashes_to_the_operator_id_that_flink_wrote(uid: str, operator_id: str) -> None:
    assert murmur3_128(uid.encode()).hex() == operator_id


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "00000000000000000000000000000000"),
        ("a", "897859f6655555855a890e51483ab5e6"),
        ("größe", "11c2acd7020ed996ad88e8897efb8e3d"),
        ("😀", "5c54e08755b16d15ba04e1cf3f082e29"),
        ("The quick brown fox jumps over the lazy dog", "6c1b07bc7bbc4be347939ac4a93c437a"),
    ],
)
def test_known_texts_hash_to_known_values(text: str, expected: str) -> None:
    assert murmur3_128(text.encode()).hex() == expected


def test_every_length_up_to_four_blocks_agrees_with_the_reference_implementation() -> None:
    # The hash of the hashes of 0, 1, ... 64 bytes counting up; expected by mmh3 5.3.1 (the C++ code).
    hashes = b"".join(murmur3_128(bytes(range(length))) for length in range(65))
    assert murmur3_128(hashes).hex() == "05cc0c81347477a304080a6266451d98"
