"""Reading a blob against what is promised of it: overlaps, cuts, bombs, and promises made a hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from formats.ids import BlobKey, Digest, Era, HashAlgorithm, PipelineId
from formats.manifest import BLOCK_BYTES
from storage import layout
from storage.audit import MISSING, OTHER_CONTENT, Content, Contents, Packing, find_faults
from storage.backends.memory import MemoryBackend
from storage.blob_check import MAX_FRAME_BYTES, check_blob
from storage.blobs import Blobs
from tests.support.stores import manifest_at, new_store, noise, text, three_checkpoints

ORDERS = PipelineId("orders")
BLAKE3 = HashAlgorithm.BLAKE3


@pytest.fixture
def blobs() -> Blobs:
    return Blobs(MemoryBackend(clock=lambda: 0.0), ORDERS, BLAKE3)


def stored(blobs: Blobs, data: bytes) -> BlobKey:
    key = BlobKey(BLAKE3.digest(data), Era(1))
    blobs.backend.create(layout.blob(ORDERS, key), data)
    return key


def content(plain: bytes, offset: int, length: int | None = None, packing: Packing = Packing.PLAIN) -> Content:
    digest = bytes.fromhex(BLAKE3.digest(plain))
    return Content(offset, len(plain) if length is None else length, len(plain), packing, digest)


def test_contents_that_overlap_are_each_checked(blobs: Blobs) -> None:
    data = noise(100)
    key = stored(blobs, data)
    first, second, inside = content(data[:50], 0), content(data[20:80], 20), content(data[30:40], 30)
    wrong = content(b"x" * 10, 35)
    checked = check_blob(blobs, key, 100, sorted([first, second, inside, wrong]))
    assert (checked.fault, checked.wrong, checked.read_bytes) == ("", frozenset({wrong}), 100)


def test_gaps_and_empty_contents_are_fine(blobs: Blobs) -> None:
    data = noise(100)
    key = stored(blobs, data)
    contents = [content(b"", 0), content(data[10:20], 10), content(b"", 100)]
    assert check_blob(blobs, key, 100, contents).wrong == frozenset()


def test_a_content_beyond_the_end_is_wrong(blobs: Blobs) -> None:
    data = noise(100)
    key = stored(blobs, data)
    beyond = content(noise(20), 90)
    checked = check_blob(blobs, key, 110, [beyond])
    assert (checked.fault, checked.wrong) == ("expected 110 bytes, found 100", frozenset({beyond}))


def test_a_frame_must_declare_its_size_and_a_stream_need_not(blobs: Blobs) -> None:
    plain = text(5000)
    declared = zstandard.ZstdCompressor(write_content_size=True).compress(plain)
    undeclared = zstandard.ZstdCompressor(write_content_size=False).compress(plain)
    for data, packing, right in [
        (declared, Packing.FRAME, True),
        (undeclared, Packing.FRAME, False),
        (declared, Packing.STREAM, True),
        (undeclared, Packing.STREAM, True),
    ]:
        key = stored(blobs, data)
        promised = content(plain, 0, len(data), packing)
        assert (check_blob(blobs, key, len(data), [promised]).wrong == frozenset()) is right


def test_what_unpacks_to_more_than_it_should_is_stopped(blobs: Blobs) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    key = stored(blobs, bomb)
    for packing in (Packing.FRAME, Packing.STREAM):
        promised = content(b"", 0, len(bomb), packing)
        assert check_blob(blobs, key, len(bomb), [promised]).wrong == {promised}


def test_a_large_frame_is_unpacked_piece_by_piece(blobs: Blobs) -> None:
    plain = text(MAX_FRAME_BYTES + 1)
    data = zstandard.ZstdCompressor().compress(plain)
    key = stored(blobs, data + b"rest")
    promised = content(plain, 0, len(data), Packing.FRAME)
    checked = check_blob(blobs, key, len(data) + 4, [promised])
    assert (checked.fault, checked.wrong, checked.read_bytes) == ("", frozenset(), len(data) + 4)


def test_what_is_no_frame_at_all_is_wrong(blobs: Blobs) -> None:
    data = noise(3 << 20)
    key = stored(blobs, data)
    for packing in (Packing.FRAME, Packing.STREAM):
        for length in (100, len(data)):
            promised = content(b"plain", 0, length, packing)
            checked = check_blob(blobs, key, len(data), [promised])
            assert (checked.fault, checked.wrong, checked.read_bytes) == ("", frozenset({promised}), len(data))


def test_the_name_vouches_for_a_content_that_is_the_whole_blob(blobs: Blobs) -> None:
    data = noise(100)
    key = stored(blobs, data)
    whole = content(data, 0)
    assert whole.is_all_of(key)
    assert not check_blob(blobs, key, 100, []).hurts(whole)
    other = BlobKey(Digest("0" * 64), Era(1))
    blobs.backend.create(layout.blob(ORDERS, other), data)
    checked = check_blob(blobs, other, 100, [])
    assert checked.fault == OTHER_CONTENT
    assert checked.hurts(Content(0, 100, 100, Packing.PLAIN, bytes(32)))


@pytest.mark.parametrize("by_listing", [True, False])
def test_missing_and_cut_blobs_are_found(blobs: Blobs, by_listing: bool) -> None:
    there, cut = stored(blobs, b"there"), stored(blobs, b"cut")
    gone = BlobKey(Digest("0" * 64), Era(1))
    faults = find_faults(blobs, {there: 5, cut: 4, gone: 1}, by_listing=by_listing)
    assert faults == {cut: "expected 4 bytes, found 3", gone: MISSING}


def test_promises_made_again_and_again_are_kept_once(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    three_checkpoints(store)
    manifest = manifest_at(store, "orders@1")
    reader = Blobs(store.backend, ORDERS, store.hash)
    once, often = Contents(reader), Contents(reader)
    once.add(manifest)
    for _ in range(2000):
        often.add(manifest)
    keys = {BlobKey.parse(pack.key) for pack in manifest.packs}
    for key in keys:
        assert often.of(key) == once.of(key) != []
    assert max(len(rows) for rows in often._rows.values()) < 100_000
    blocks = [promised for key in keys for promised in once.of(key) if promised.plain_bytes == BLOCK_BYTES]
    assert len(blocks) == 40
