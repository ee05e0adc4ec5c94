"""The bytes of every released version decode to what they meant then. See tests/golden/README.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from formats.blocktable import decode_table, encode_table
from formats.canonical import decode, encode
from formats.errors import EoctlError
from formats.head import decode_head, encode_head
from formats.manifest import MAX_MANIFEST_BYTES, Manifest, blobs
from storage.pins import PinRecord
from storage.store import StoreRecord, decode_manifest
from tests.support import examples

GOLDEN = Path(__file__).parents[1] / "golden" / "v1"


def json_manifest(data: bytes) -> Manifest:
    return decode(data, Manifest, what="it", max_bytes=MAX_MANIFEST_BYTES)


def store_record(data: bytes) -> StoreRecord:
    return decode(data, StoreRecord, what="it", max_bytes=1 << 16)


def pin(data: bytes) -> PinRecord:
    return decode(data, PinRecord, what="it", max_bytes=1 << 16)


def stored_manifest(data: bytes) -> Manifest:
    return decode_manifest(data, "it")


DECODERS: dict[str, tuple[Callable[[bytes], object], object, Callable[[Any], bytes] | None]] = {
    "store.json": (store_record, examples.STORE_RECORD, encode),
    "HEAD": (decode_head, examples.HEAD, encode),
    "HEAD-with-digest": (decode_head, examples.HEAD, encode_head),
    "manifest.json": (json_manifest, examples.MANIFEST, encode),
    "manifest.zst": (stored_manifest, examples.MANIFEST, None),
    "blocktable.bin": (decode_table, examples.BLOCK_TABLE, encode_table),
    "pin.json": (pin, examples.PIN, encode),
}


def test_every_golden_file_is_tested() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == DECODERS.keys()


@pytest.mark.parametrize("name", DECODERS)
def test_a_golden_file_means_what_it_meant(name) -> None:
    decoder, expected, _ = DECODERS[name]
    assert decoder((GOLDEN / name).read_bytes()) == expected


@pytest.mark.parametrize("name", [name for name in DECODERS if name != "manifest.zst"])
def test_a_golden_file_is_written_as_it_was(name) -> None:
    _, expected, encoder = DECODERS[name]
    assert encoder is not None
    assert encoder(expected) == (GOLDEN / name).read_bytes()


def test_the_golden_manifest_needs_just_these_blobs() -> None:
    needed = {str(key): size for key, size in blobs(examples.MANIFEST).items()}
    assert needed == {
        f"{'a1' * 32}.1": 10_000,
        f"{'b2' * 32}.3": 812,
        f"{examples.digest(1)}.1": 2 << 20,
        f"{examples.digest(3)}.3": (2 << 20) + 1,
        f"{examples.digest(8)}.1": 180_000,
    }


def damaged(data: bytes) -> Iterator[bytes]:
    """Every truncation, something appended, and every byte in turn changed in several ways."""
    for end in range(len(data)):
        yield data[:end]
    for more in (b"\0", b" ", b"\n", b"{}", data):
        yield data + more
    yield b"\xef\xbb\xbf" + data
    for place in range(len(data)):
        for flip in (0x01, 0x20, 0x80, 0xFF):
            yield data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        for other in b'"\\0{}[]:,':
            if other != data[place]:
                yield data[:place] + bytes([other]) + data[place + 1 :]
        yield data[:place] + data[place + 1 :]


@pytest.mark.thorough
@pytest.mark.parametrize("name", DECODERS)
def test_no_damage_to_a_golden_file_breaks_its_decoder_or_passes_for_the_original(name) -> None:
    decoder, expected, encoder = DECODERS[name]
    data = (GOLDEN / name).read_bytes()
    for bad in damaged(data):
        try:
            found = decoder(bad)
        except EoctlError:
            continue
        # A JSON byte that stays valid makes another record, in its one spelling; a digest lets none pass.
        assert name not in {"blocktable.bin", "HEAD-with-digest"}
        if encoder is not None:
            assert found != expected
            assert encoder(found) == bad
