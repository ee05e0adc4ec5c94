"""decode(encode(x)) == x, of every format; and encode(decode(bytes)) == bytes, because there is one spelling only."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formats.blocktable import Block, decode_table, encode_table
from formats.canonical import decode, encode
from formats.errors import BadNameError, EoctlError
from formats.head import Head, decode_head, encode_head
from formats.ids import BlobKey, HashAlgorithm, PipelineId, operator_id
from formats.manifest import MAX_MANIFEST_BYTES, Manifest, blobs, check_manifest
from formats.names import check_file_name, check_file_names
from storage.pins import PinRecord
from storage.store import StoreRecord, decode_manifest, encode_manifest
from tests.support.strategies import (
    blob_keys,
    block_tables,
    file_names,
    folded,
    heads,
    manifests,
    pin_records,
    pipeline_names,
    store_records,
)

LIMIT = MAX_MANIFEST_BYTES


@given(manifests())
def test_a_manifest_is_what_it_was(manifest: Manifest) -> None:
    check_manifest(manifest)
    data = encode(manifest)
    assert decode(data, Manifest, what="it", max_bytes=LIMIT) == manifest
    assert encode(decode(data, Manifest, what="it", max_bytes=LIMIT)) == data
    stored = encode_manifest(manifest)
    assert decode_manifest(stored, "it") == manifest
    assert decode_manifest(stored, "it", thorough=False) == manifest


@given(manifests())
def test_a_manifest_names_all_its_packs_and_blobs(manifest: Manifest) -> None:
    named = blobs(manifest)
    assert {BlobKey.parse(pack.key) for pack in manifest.packs} <= named.keys()
    assert all(size >= 0 for size in named.values())


@given(heads())
def test_a_head_is_what_it_was(head: Head) -> None:
    data = encode_head(head)
    assert decode_head(data) == head
    assert encode_head(decode_head(data)) == data


@given(block_tables)
def test_a_block_table_is_what_it_was(blocks: list[Block]) -> None:
    data = encode_table(blocks)
    assert decode_table(data) == blocks
    assert encode_table(decode_table(data)) == data


@given(store_records)
def test_a_store_record_is_what_it_was(record: StoreRecord) -> None:
    assert decode(encode(record), StoreRecord, what="it", max_bytes=LIMIT) == record


@given(pin_records)
def test_a_pin_is_what_it_was(record: PinRecord) -> None:
    assert decode(encode(record), PinRecord, what="it", max_bytes=LIMIT) == record


@given(blob_keys)
def test_a_blob_key_is_what_it_was(key: BlobKey) -> None:
    assert BlobKey.parse(str(key)) == key


@given(pipeline_names)
def test_a_pipeline_is_what_it_was(name: str) -> None:
    assert str(PipelineId(name)) == name


@given(st.text(max_size=70))
def test_a_pipeline_of_any_name_is_lawful_or_refused(name: str) -> None:
    with contextlib.suppress(BadNameError):
        assert PipelineId(name).name == name
        assert name.isascii()
        assert name == name.lower()
        assert not set(name) & set("/\\: \0\n")


@given(st.text(max_size=200))
def test_a_blob_key_of_any_text_is_lawful_or_refused(text: str) -> None:
    with contextlib.suppress(EoctlError):
        assert str(BlobKey.parse(text)) == text


@given(st.text(max_size=30))
def test_an_operator_id_is_32_hex_digits_of_any_uid(uid: str) -> None:
    identity = operator_id(uid)
    assert bytes.fromhex(identity).hex() == identity
    assert len(identity) == 32


@given(st.binary(max_size=100), st.sampled_from(HashAlgorithm))
def test_a_digest_does_not_depend_on_how_the_bytes_came(data: bytes, algorithm: HashAlgorithm) -> None:
    hasher = algorithm.hasher()
    for start in range(0, len(data), 7):
        hasher.update(memoryview(data)[start : start + 7])
    assert hasher.hexdigest() == algorithm.digest(data) == algorithm.digest(bytearray(data))
    assert len(algorithm.digest(data)) == 64


# Names


@given(file_names)
def test_a_lawful_name_passes(name: str) -> None:
    check_file_name(name)
    check_file_names([name])


@given(st.text(max_size=40))
def test_a_name_that_passes_stays_below_its_directory(name: str) -> None:
    try:
        check_file_name(name)
    except BadNameError:
        return
    parts = name.split("/")
    assert not name.startswith("/")
    assert not set(parts) & {"", ".", ".."}
    assert not set(name) & {"\\", "\0", "\n", "\r"}


@given(st.lists(st.one_of(file_names, st.text(max_size=20)), max_size=6))
def test_names_together_pass_as_they_do_one_by_one(names: list[str]) -> None:
    """The fast way for many names says what the slow way says, clashes apart."""
    kinds = set()
    for name in names:
        try:
            check_file_name(name)
        except BadNameError:
            kinds.add(BadNameError)
    if kinds:
        with pytest.raises(BadNameError):
            check_file_names(names)
        return
    folds = [folded(name) for name in names]
    parents = {"/".join(name.split("/")[:end]) for name in names for end in range(1, name.count("/") + 1)}
    clash = (
        len(set(folds)) < len(folds)
        or len({folded(parent) for parent in parents}) < len(parents)
        or bool({folded(parent) for parent in parents} & set(folds))
    )
    if clash:
        with pytest.raises(EoctlError):
            check_file_names(names)
    else:
        check_file_names(names)


# Anything at all


@given(st.binary(max_size=300))
def test_no_bytes_break_a_decoder(data: bytes) -> None:
    for decoder in DECODERS:
        with contextlib.suppress(EoctlError):
            decoder(data)


DECODERS = [
    decode_head,
    decode_table,
    lambda data: decode_manifest(data, "it"),
    lambda data: decode(data, Manifest, what="it", max_bytes=LIMIT),
    lambda data: decode(data, StoreRecord, what="it", max_bytes=LIMIT),
    lambda data: decode(data, PinRecord, what="it", max_bytes=LIMIT),
]

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["eoctl.head", "eoctl.manifest", "eoctl.store", 1, 2, "version", "format"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["format", "version", "live", "store", "in", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(_json)
def test_no_json_breaks_a_decoder(value: object) -> None:
    import json

    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    for decoder in DECODERS:
        with contextlib.suppress(EoctlError):
            decoder(data)
