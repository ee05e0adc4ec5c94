"""Manifests from a hostile or broken hand: each is refused, as what it is, and never by another exception."""

from __future__ import annotations

import copy
import json
from typing import Any

import msgspec
import pytest
import zstandard

from formats.canonical import decode, encode
from formats.errors import (
    BadManifestError,
    BadNameError,
    EoctlError,
    InvalidInputError,
    NameClashError,
    TooLargeError,
    UnsupportedError,
)
from formats.manifest import (
    MAX_FILES,
    MAX_INLINE_TOTAL_BYTES,
    MAX_MANIFEST_BYTES,
    Inline,
    Manifest,
    StateFile,
    check_manifest,
)
from formats.manifest_series import Series
from storage.store import decode_manifest, encode_manifest
from tests.support.examples import MANIFEST, PACK_A, PACK_B, digest

PLAIN: dict[str, Any] = json.loads(encode(MANIFEST))
FILES = ("operators", 0, "subtasks", 0, "files")
MISSING = object()


def changed(path: tuple[str | int, ...], value: object) -> bytes:
    """The example with one value changed, added or removed, otherwise canonical."""
    plain = copy.deepcopy(PLAIN)
    inner: Any = plain
    for step in path[:-1]:
        inner = inner[step]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")


def stored(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=True).compress(data)


def read(data: bytes) -> Manifest:
    """By both readers: a series, whatever it has read before, takes what is lawful and nothing else."""
    first, later = Series(), Series()
    assert later.read(encode(MANIFEST)) is not None
    found = [series.read(data) for series in (first, later)]
    try:
        manifest = decode_manifest(stored(data), "it")
    except EoctlError:
        assert found == [None, None]
        raise
    assert [None if each is None else each.manifest for each in found] == [manifest, manifest]
    return manifest


def test_the_example_is_lawful_and_its_change_is_seen() -> None:
    assert read(changed(("pipeline",), "orders")) == MANIFEST
    assert read(changed(("pipeline",), "others")).pipeline == "others"


NUMBERS: list[object] = [
    -1,
    2**53 + 1,
    2**64,
    10**400,
    1.0,
    1.5,
    True,
    False,
    None,
    "1",
    "",
    [],
    {},
    float("nan"),
    float("inf"),
]


@pytest.mark.parametrize("value", NUMBERS)
@pytest.mark.parametrize(
    "path",
    [
        ("id",),
        ("attempt",),
        ("base",),
        ("metrics", "full_bytes"),
        ("operators", 0, "parallelism"),
        ("operators", 0, "max_parallelism"),
        ("operators", 0, "subtasks", 0, "index"),
        ("operators", 0, "subtasks", 0, "key_groups", 0),
        (*FILES, 0, "bytes"),
        (*FILES, 0, "first_stored_in"),
        (*FILES, 0, "place", "era"),
        (*FILES, 1, "place", "stored_bytes"),
        (*FILES, 3, "place", "offset"),
        (*FILES, 3, "place", "length"),
        ("packs", 0, "bytes"),
        ("sinks", 0, "transactions", 0, "checkpoint"),
        ("version",),
    ],
)
def test_what_is_no_count_is_refused_wherever_it_stands(path, value) -> None:
    with pytest.raises((BadManifestError, UnsupportedError)):
        read(changed(path, value))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "0" * 63,
        "0" * 65,
        "A" * 64,
        "g" * 64,
        "0" * 63 + "\n",
        "0" * 63 + "ä",
        "../" + "0" * 61,
        0,
        None,
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        (*FILES, 0, "digest"),
        (*FILES, 1, "place", "digest"),
        ("operators", 1, "subtasks", 0, "files", 0, "place", "tables", 0, "digest"),
    ],
)
def test_what_is_no_digest_is_refused_wherever_it_stands(path, value) -> None:
    with pytest.raises(BadManifestError):
        read(changed(path, value))


@pytest.mark.parametrize(
    "value",
    [
        "",
        digest(1),
        f"{digest(1)}.",
        f"{digest(1)}.-1",
        f"{digest(1)}.01",
        f"{digest(1)}.1.1",
        f"{digest(1)}.{2**53 + 1}",
        f"{digest(1)}.9999999999999999",
        f"{'A' * 64}.1",
        f"../../other/o/{digest(1)}.1",
        1,
    ],
)
@pytest.mark.parametrize(
    "path",
    [
        ("packs", 0, "key"),
        (*FILES, 3, "place", "pack"),
        ("operators", 1, "subtasks", 0, "files", 0, "place", "packs", 0),
    ],
)
def test_what_is_no_key_is_refused_wherever_it_stands(path, value) -> None:
    with pytest.raises(BadManifestError):
        read(changed(path, value))


@pytest.mark.parametrize(
    "path",
    [
        ("surprise",),
        ("engine", "surprise"),
        ("metrics", "surprise"),
        ("operators", 0, "surprise"),
        ("operators", 0, "subtasks", 0, "surprise"),
        (*FILES, 0, "surprise"),
        (*FILES, 0, "place", "surprise"),
        ("packs", 0, "surprise"),
        ("sources", 0, "surprise"),
        ("sinks", 0, "transactions", 0, "surprise"),
    ],
)
def test_an_unknown_field_is_refused_wherever_it_stands(path) -> None:
    with pytest.raises(BadManifestError):
        read(changed(path, 1))


@pytest.mark.parametrize("field", sorted(PLAIN.keys() - {"base", "tags", "host", "sources", "sinks", "properties"}))
def test_a_field_that_is_missing_is_missed(field) -> None:
    with pytest.raises(BadManifestError):
        read(changed((field,), MISSING))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("base",), 0),
        (("tags",), []),
        (("host",), ""),
        (("properties",), {}),
        ((*FILES, 0, "place", "codec"), "raw"),
        ((*FILES, 2, "role"), "opaque"),
        (("operators", 0, "subtasks", 0, "finished"), False),
        (("operators", 1, "max_parallelism"), 0),
    ],
)
def test_a_default_that_is_spelled_out_is_another_spelling(path, value) -> None:
    with pytest.raises(BadManifestError, match="canonical"):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("kind",), "backup"),
        (("hash",), "md5"),
        (("pipeline",), "../other"),
        (("pipeline",), "Orders"),
        (("store",), "0" * 31),
        (("txid",), "0" * 33),
        (("format",), "eoctl.head"),
        (("engine", "kind"), "Mixed"),
        (("engine", "version"), "x" * 4097),
        (("name",), "x" * 4097),
        (("properties",), {"k": "x" * 4097}),
        (("properties",), {"x" * 4097: "v"}),
        (("properties",), {"k": 1}),
        (("tags",), [1]),
        (("sources", 0, "offsets"), {"p": 2**53 + 1}),
        (("sources", 0, "offsets"), {"p": -(2**53) - 1}),
        (("sources", 0, "offsets"), {"p": 1.5}),
        (("sources", 0, "offsets"), {"p": True}),
        (("sinks", 0, "transactions", 0, "state"), "maybe"),
        (("sinks", 0, "transactions", 0, "payload"), "not base64!"),
        (("sinks", 0, "transactions", 0, "payload"), "AP9="),
        (("operators", 0, "subtasks", 0, "key_groups"), [1]),
        (("operators", 0, "subtasks", 0, "key_groups"), [1, 2, 3]),
        ((*FILES, 0, "role"), "keyd"),
        ((*FILES, 0, "place"), {"in": "elsewhere"}),
        ((*FILES, 0, "place"), {"era": 1}),
        ((*FILES, 0, "place"), "inline"),
        ((*FILES, 0, "place", "codec"), "lz4"),
        ((*FILES, 2, "place", "data"), "TUFOSUZFU1Q="),  # of another size
        ((*FILES, 2, "place", "data"), "A" * 8192),  # more than 4 KiB
        ((*FILES, 0, "place"), {"in": "blob", "era": 1, "digest": digest(1)}),  # a digest without a codec
        ((*FILES, 0, "place"), {"in": "blob", "era": 1, "stored_bytes": 1}),
        ((*FILES, 1, "place"), {"in": "blob", "era": 1, "codec": "zstd"}),  # a codec without a digest
        ((*FILES, 3, "place", "offset"), 5001),  # 5000 more than the pack has
        ((*FILES, 3, "place", "offset"), 2**53),
        ((*FILES, 3, "place", "length"), 4999),  # raw, but not of the file's size
        ((*FILES, 3, "place", "pack"), PACK_B),  # overlaps with a slice there, and is too long
        ((*FILES, 3, "place", "pack"), f"{digest(1)}.1"),  # named nowhere
        (("packs",), []),
        (("packs", 0, "bytes"), 5007),
        (("packs",), [{"bytes": 812, "key": PACK_B}, {"bytes": 10_000, "key": PACK_A}]),
        (("packs",), [*PLAIN["packs"], PLAIN["packs"][1]]),
        (("packs",), [*PLAIN["packs"], {"bytes": 9, "key": f"{'c3' * 32}.3"}]),  # used by nobody
        (("operators",), [PLAIN["operators"][0], PLAIN["operators"][0]]),
        (("operators", 0, "subtasks", 1, "index"), 0),
        (("operators", 1, "subtasks", 0, "files", 0, "bytes"), 256 << 20),  # one table would do
        (("operators", 1, "subtasks", 0, "files", 0, "bytes"), (512 << 20) + 1),  # three are needed
        (("operators", 1, "subtasks", 0, "files", 0, "place", "tables"), []),
        (FILES, PLAIN["operators"][0]["subtasks"][0]["files"][::-1]),  # not sorted
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(path, value) -> None:
    with pytest.raises(BadManifestError):
        read(changed(path, value))


@pytest.mark.parametrize("offset", [8, 4000, 5007])
def test_slices_that_overlap_are_refused(offset) -> None:
    files = copy.deepcopy(PLAIN["operators"][0]["subtasks"][0]["files"])
    other = copy.deepcopy(files[3]) | {"name": "other", "digest": digest(99), "bytes": 100}
    other["place"] |= {"offset": offset, "length": 100}
    with pytest.raises(BadManifestError, match="overlap"):
        read(changed(FILES, [*files, other]))
    other["place"] |= {"offset": 5008}
    read(changed(FILES, [*files, other]))


def test_equal_contents_may_share_a_slice() -> None:
    files = copy.deepcopy(PLAIN["operators"][0]["subtasks"][0]["files"])
    read(changed(FILES, [*files, files[3] | {"name": "twin"}]))


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a//b", ".", "a\\b", "C:/a", "a\0", "a\n", "u\u0308", "x" * 256]
)
@pytest.mark.parametrize("where", ["file", "coordinator", "empty directory"])
def test_a_name_that_could_escape_is_refused_wherever_it_stands(name, where) -> None:
    path: dict[str, tuple[str | int, ...]] = {
        "file": ("operators", 0, "subtasks", 1, "files", 0, "name"),
        "coordinator": ("operators", 1, "coordinator", 0, "name"),
        "empty directory": ("operators", 0, "subtasks", 1, "empty_directories", 0),
    }
    with pytest.raises(BadNameError):
        read(changed(path[where], name))


@pytest.mark.parametrize(
    "directories", [["small"], ["SMALL/x"], ["archive", "Archive"], ["archive", "archive"], ["a/b", "A/c"]]
)
def test_names_that_clash_are_refused(directories) -> None:
    with pytest.raises(NameClashError):
        read(changed(("operators", 0, "subtasks", 1, "empty_directories"), directories))


@pytest.mark.parametrize("version", [0, 2, 99, -1, 2**60])
def test_another_version_is_told_from_damage(version) -> None:
    with pytest.raises(UnsupportedError, match=rf"version {version}\b.*knows version 1"):
        read(changed(("version",), version))


def test_a_newer_version_with_unknown_fields_is_told_as_newer() -> None:
    plain = PLAIN | {"version": 2, "surprise": {"deep": [1]}, "id": "another type"}
    del plain["metrics"]
    with pytest.raises(UnsupportedError):
        read(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b'"eoctl.manifest"',
        b"<html></html>",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"properties":' + b"[" * 50_000,
        b'{"format":"eoctl.manifest","version":2' + b"," * 9,
        b"\xef\xbb\xbf" + encode(MANIFEST),
        encode(MANIFEST) + b"\n",
        encode(MANIFEST) + b"{}",
        b" " + encode(MANIFEST),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":4,"attempt":4,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":4,"attempt":5,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt": 4,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":4e0,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":04,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":-0,'),
        encode(MANIFEST).replace(b'"attempt":4,', b'"attempt":NaN,'),
        encode(MANIFEST).replace("größe".encode(), b"gr\\u00f6\\u00dfe"),
        encode(MANIFEST).replace("größe".encode(), b"gr\xf6\xdfe"),
        encode(MANIFEST).replace("größe".encode(), b"gr\\ud800e"),
        encode(MANIFEST).replace("größe".encode(), b"gr\xed\xa0\x80e"),
        encode(MANIFEST).replace(b'"orders"', b'"orders\\u0000"'),
        encode(MANIFEST).decode().encode("utf-16"),
    ],
)
def test_what_is_no_canonical_json_is_refused(data) -> None:
    with pytest.raises(BadManifestError):
        read(data)
    with pytest.raises(BadManifestError):
        decode(data, Manifest, what="it", max_bytes=MAX_MANIFEST_BYTES)


# The frame around it


def frame_that_declares(size: int) -> bytes:
    """The beginning of a frame: what it declares is believed or not before anything is unpacked."""
    packer = zstandard.ZstdCompressor().compressobj(size=size)
    return packer.compress(b"x") + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


GOOD = stored(encode(MANIFEST))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x28\xb5\x2f\xfd",
        encode(MANIFEST),
        GOOD[:-1],
        GOOD + b"\0",
        GOOD + GOOD,
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + GOOD,  # a frame to be skipped before
        GOOD + b"\x50\x2a\x4d\x18\x04\0\0\0skip",
        zstandard.ZstdCompressor(write_content_size=False).compress(encode(MANIFEST)),
        frame_that_declares(MAX_MANIFEST_BYTES + 1),
        frame_that_declares(2**62),
        frame_that_declares(MAX_MANIFEST_BYTES),  # declared, and never delivered
        stored(b""),
    ],
    ids=range(13),
)
def test_what_is_no_frame_of_one_manifest_is_refused(data) -> None:
    with pytest.raises(InvalidInputError):
        decode_manifest(data, "it")


def test_a_frame_that_holds_more_than_it_declares_is_stopped() -> None:
    bomb = zstandard.ZstdCompressor(write_content_size=True).compress(bytes(64 << 20))
    header = zstandard.get_frame_parameters(bomb)
    assert header.content_size == 64 << 20
    lying = bytearray(bomb)
    at = bytes(bomb).index((64 << 20).to_bytes(4, "little"))
    lying[at : at + 4] = (1000).to_bytes(4, "little")
    with pytest.raises(InvalidInputError):
        decode_manifest(bytes(lying), "it")


def test_too_much_json_is_refused_before_any_of_it_is_decoded() -> None:
    with pytest.raises(TooLargeError):
        decode(b"{" * 101, Manifest, what="it", max_bytes=100)


# Limits


def with_files(files: tuple[StateFile, ...]) -> Manifest:
    operator = msgspec.structs.replace(
        MANIFEST.operators[0], subtasks=(msgspec.structs.replace(MANIFEST.operators[0].subtasks[0], files=files),)
    )
    return msgspec.structs.replace(MANIFEST, operators=(operator,), packs=())


def inline(number: int, size: int) -> StateFile:
    return StateFile(
        name=f"{number:07}", bytes=size, digest=digest(number), place=Inline(data=bytes(size)), first_stored_in=1
    )


def test_more_files_than_a_manifest_may_name_are_refused() -> None:
    manifest = with_files((inline(1, 1),) * (MAX_FILES + 1))
    with pytest.raises(TooLargeError):
        check_manifest(manifest)
    with pytest.raises(TooLargeError):
        encode_manifest(manifest)


def test_as_much_may_lie_inline_as_this_and_no_more() -> None:
    files = tuple(inline(number, 4096) for number in range(MAX_INLINE_TOTAL_BYTES // 4096))
    check_manifest(with_files(files))
    with pytest.raises(BadManifestError):
        check_manifest(with_files((*files, inline(999, 1))))


def test_a_manifest_without_anything_is_lawful() -> None:
    empty = msgspec.structs.replace(MANIFEST, operators=(), packs=(), sources=(), sinks=(), properties={}, tags=())
    assert decode_manifest(encode_manifest(empty), "it") == empty


@pytest.mark.parametrize(
    "changes",
    [
        {"tags": ("x" * 4097,)},
        {"tags": ("\udcff",)},
        {"id": -1},
        {"id": 2**53 + 1},
        {"pipeline": "Bad Name"},
        {"txid": "short"},
        {"properties": {"k": "x" * 4097}},
        {"packs": ()},
    ],
)
def test_a_manifest_is_not_written_that_could_not_be_read(changes) -> None:
    manifest = msgspec.structs.replace(MANIFEST, **changes)
    try:
        data = encode_manifest(manifest)
    except EoctlError:
        return
    # Places and packs are right by how they were made; what is wrong with them is at least found when it is read.
    assert changes == {"packs": ()}
    with pytest.raises(BadManifestError):
        decode_manifest(data, "it")
