"""Manifests from a hostile or broken hand: as records here, and in a real store in `stores.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import zstandard

from formats.canonical import encode
from formats.errors import BadManifestError, EoctlError, InvalidInputError, TooLargeError, UnsupportedError
from formats.manifest import MAX_MANIFEST_BYTES, MAX_PACK_BYTES
from storage.store import decode_manifest
from tests.hostile.case import (
    MISSING,
    NOT_COUNTS,
    NOT_JSON,
    Raw,
    Steps,
    changed,
    edited,
    just,
    packed,
    reads,
    spoiled,
    to_json,
)
from tests.hostile.names import BAD_LISTS, BAD_NAMES
from tests.hostile.planted import base


class Bad(NamedTuple):
    """Stored bytes that are no manifest, what its decoder says of them, and whether to try them in a store too."""

    name: str
    expected: type[EoctlError]
    build: Callable[[], bytes]
    planted: bool = True


PLAIN = base().plain
SUBTASK: Steps = ("operators", 0, "subtasks", 0)
FILES: Steps = (*SUBTASK, "files")
ZSTD, RAW, INLINE, SLICE_ZSTD, SLICE_RAW, MORE, BLOCKS = range(7)
KEY = f"{'ab' * 32}.1"
DIGEST = "ab" * 32
PACK = PLAIN["operators"][0]["subtasks"][0]["files"][SLICE_RAW]["place"]["pack"]
PACKS = [pack["key"] for pack in PLAIN["packs"]]
OF_PACK = PACKS.index(PACK)
FILE = PLAIN["operators"][0]["subtasks"][0]["files"]

COUNTS: list[Steps] = [(*FILES, RAW, "bytes"), (*FILES, SLICE_RAW, "place", "offset"), ("packs", 0, "bytes")]

CHANGES: dict[str, list[tuple[Steps, object]]] = {
    "an unknown field": [(("extra",), 1)],
    "an unknown field of a file": [((*FILES, 0, "mode"), 0o4755)],
    "an unknown field of a place": [((*FILES, RAW, "place", "path"), "/etc/passwd")],
    "a link for a place": [((*FILES, RAW, "place"), {"in": "link", "to": "/etc/passwd"})],
    "a place without a kind": [((*FILES, RAW, "place"), {"era": 1})],
    "a place of text": [((*FILES, RAW, "place"), "inline")],
    "another format": [(("format",), "eoctl.head")],
    "another kind": [(("kind",), "backup")],
    "an unknown hash": [(("hash",), "md5")],
    "a pipeline that climbs": [(("pipeline",), "../other")],
    "a store id cut": [(("store",), "0" * 31)],
    "an engine that climbs": [(("engine", "kind"), "../x")],
    "a digest in capitals": [((*FILES, RAW, "digest"), DIGEST.upper())],
    "a digest of 63 digits": [((*FILES, RAW, "digest"), DIGEST[:-1])],
    "a digest of 65 digits": [((*FILES, RAW, "digest"), DIGEST + "0")],
    "a digest that climbs": [((*FILES, RAW, "digest"), "../" * 21 + "x")],
    "a digest of 64 umlauts": [((*FILES, RAW, "digest"), "\u00e4" * 64)],
    "a digest with a line feed": [((*FILES, RAW, "digest"), DIGEST[:-1] + "\n")],
    "a digest of no text": [((*FILES, RAW, "digest"), 7)],
    "a stored digest that climbs": [((*FILES, ZSTD, "place", "digest"), "../" * 21 + "x")],
    "a stored digest of a raw blob": [((*FILES, RAW, "place", "digest"), DIGEST)],
    "a stored size of a raw blob": [((*FILES, RAW, "place", "stored_bytes"), 1)],
    "no stored digest of a zstd blob": [((*FILES, ZSTD, "place", "digest"), MISSING)],
    "an unknown codec": [((*FILES, ZSTD, "place", "codec"), "lz4")],
    "a pack key that climbs": [((*FILES, SLICE_RAW, "place", "pack"), f"../../../{DIGEST}.1")],
    "a pack key without an era": [((*FILES, SLICE_RAW, "place", "pack"), DIGEST)],
    "a pack key of era 01": [((*FILES, SLICE_RAW, "place", "pack"), f"{DIGEST}.01")],
    "a pack key beyond 2^53": [(("packs", 0, "key"), f"{DIGEST}.9999999999999999")],
    "a pack that is not listed": [((*FILES, SLICE_RAW, "place", "pack"), KEY)],
    "a pack that nobody uses": [
        (("packs",), sorted([*PLAIN["packs"], {"bytes": 9, "key": KEY}], key=lambda p: p["key"]))
    ],
    "packs that are not sorted": [(("packs",), PLAIN["packs"][::-1])],
    "a pack twice": [(("packs",), [PLAIN["packs"][0], *PLAIN["packs"]])],
    "no packs": [(("packs",), [])],
    "a pack of more than 32 MiB": [(("packs", OF_PACK, "bytes"), MAX_PACK_BYTES + 1)],
    "a pack of 2^53 bytes": [(("packs", OF_PACK, "bytes"), 2**53)],
    "a slice beyond its pack": [((*FILES, SLICE_RAW, "place", "offset"), 10**6)],
    "a slice one byte beyond its pack": [((*FILES, MORE, "place", "offset"), 9)],
    "a slice at 2^53": [((*FILES, SLICE_RAW, "place", "offset"), 2**53)],
    "a raw slice of another size": [((*FILES, SLICE_RAW, "place", "length"), 100)],
    "a slice whose content is 33 MiB": [((*FILES, SLICE_ZSTD, "bytes"), 33 << 20)],
    "a slice whose content is 2^53 bytes": [((*FILES, SLICE_ZSTD, "bytes"), 2**53)],
    "slices that overlap": [
        ((*FILES, SLICE_ZSTD, "place"), FILE[SLICE_RAW]["place"] | {"codec": "zstd", "length": 10})
    ],
    "slices that are one, of two contents": [
        ((*FILES, SLICE_RAW, "digest"), DIGEST),
        ((*FILES, 7), FILE[SLICE_RAW] | {"name": "z"}),
    ],
    "inline data of another size": [((*FILES, INLINE, "bytes"), 17)],
    "inline data of 5,000 bytes": [((*FILES, INLINE, "place", "data"), "A" * 6668), ((*FILES, INLINE, "bytes"), 5001)],
    "inline data that is not base64": [((*FILES, INLINE, "place", "data"), "not base64!")],
    "inline data with stray bits": [((*FILES, INLINE, "place", "data"), "TUFOSUZFU1QtMDAwMDA0Cx=="[:24])],
    "more than 1 MiB inline": [
        (
            FILES,
            [
                {
                    "bytes": 4096,
                    "digest": DIGEST,
                    "first_stored_in": 1,
                    "name": f"{n:04}",
                    "place": {"data": "A" * 5462 + "==", "in": "inline"},
                }
                for n in range(257)
            ],
        ),
        (("packs",), []),
    ],
    "no block tables": [((*FILES, BLOCKS, "place", "tables"), [])],
    "two block tables for one": [((*FILES, BLOCKS, "place", "tables", 1), FILE[BLOCKS]["place"]["tables"][0])],
    "a file of 2^53 bytes in one table": [((*FILES, BLOCKS, "bytes"), 2**53)],
    "a table that lies inline": [((*FILES, BLOCKS, "place", "tables", 0, "place"), {"in": "inline", "data": ""})],
    "a table in tables": [((*FILES, BLOCKS, "place", "tables", 0, "place"), FILE[BLOCKS]["place"])],
    "a table's digest in capitals": [((*FILES, BLOCKS, "place", "tables", 0, "digest"), DIGEST.upper())],
    "blocks in a pack that is not listed": [((*FILES, BLOCKS, "place", "packs", 0), KEY)],
    "files that are not sorted": [(FILES, FILE[::-1])],
    "an operator twice": [(("operators", 1), PLAIN["operators"][0])],
    "a subtask twice": [(("operators", 0, "subtasks", 1), {"files": [], "index": 0})],
    "an operator's id that climbs": [(("operators", 0, "id"), "../" * 10 + "xx")],
    "an operator's name of 5,000 letters": [(("operators", 0, "name"), "x" * 5000)],
    "key groups of one": [((*SUBTASK, "key_groups"), [1])],
    "a role of its own": [((*FILES, 0, "role"), "root")],
    "a stamp of 5,000 letters": [((*FILES, 0, "stamp"), "x" * 5000)],
    "a tag of a number": [(("tags",), [1])],
    "properties of a list": [(("properties",), [["k", "v"]])],
    "a property of 5,000 letters": [(("properties",), {"k": "x" * 5000})],
    "an offset of half": [(("sources",), [{"offsets": {"p": 1.5}, "uid": "s"}])],
    "an offset beyond 2^53": [(("sources",), [{"offsets": {"p": 2**53 + 1}, "uid": "s"}])],
    "a transaction that may be": [
        (("sinks",), [{"transactions": [{"checkpoint": 1, "id": "t", "state": "maybe"}], "uid": "s"}])
    ],
    "a default that is spelled out": [(("base",), 0)],
    "a key twice, another value": [(("attempt",), Raw('1,"attempt":2'))],
    "a key of a file twice": [((*FILES, 0, "name"), Raw('"a","name":"../b"'))],
    "a property twice": [(("properties",), Raw('{"k":"a","k":"b"}'))],
    "a nest of 100,000 in properties": [(("properties",), Raw("[" * 100_000 + "]" * 100_000))],
    "a nest of objects in properties": [(("properties",), Raw('{"a":' * 100_000 + "1" + "}" * 100_000))],
    "a million operators of null": [(("operators",), Raw("[" + "null," * 1_000_000 + "null]"))],
    "a million empty lists of files": [(FILES, Raw("[" + "[]," * 1_000_000 + "[]]"))],
    "a surrogate in a name": [((*FILES, 0, "name"), "\udcff")],
    "a surrogate in a property": [(("properties",), {"k": "\ud800"})],
}


def _frame(data: bytes, **parameters: object) -> bytes:
    return zstandard.ZstdCompressor(**{"write_content_size": True, **parameters}).compress(data)  # type: ignore[arg-type]  # its own words


def _declaring(size: int) -> bytes:
    """A frame that declares this size and begins to deliver."""
    packer = zstandard.ZstdCompressor().compressobj(size=size)
    return packer.compress(b"{") + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)


def bomb(size: int, byte: bytes = b" ", begin: bytes = b"") -> bytes:
    """A lawful frame that declares and delivers that much of one byte; 10 GiB take 320 KiB. Source: RFC 8878, 3.1.1."""
    block = 128 << 10
    header = b"\x28\xb5\x2f\xfd" + b"\xc0" + bytes([7 << 3]) + size.to_bytes(8, "little")  # a window of 128 KiB
    blocks = [(len(begin) << 3).to_bytes(3, "little") + begin] if begin else []
    whole, rest = divmod(size - len(begin), block)
    blocks.append((((block << 3) | 2).to_bytes(3, "little") + byte) * whole)
    blocks.append(((rest << 3) | 3).to_bytes(3, "little") + byte)
    return header + b"".join(blocks)


def _lying(declared: int) -> bytes:
    """A frame that delivers 64 MiB and declares less."""
    honest = bomb(64 << 20)
    at = honest.index((64 << 20).to_bytes(8, "little"))
    return honest[:at] + declared.to_bytes(8, "little") + honest[at + 8 :]


def _long_window() -> bytes:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, write_content_size=False)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(to_json(PLAIN))


LAWFUL = to_json(PLAIN)
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0skip"

FRAMES: dict[str, Callable[[], bytes]] = {
    "no bytes": lambda: b"",
    "a magic alone": lambda: b"\x28\xb5\x2f\xfd",
    "plain JSON": lambda: LAWFUL,
    "gzip": lambda: b"\x1f\x8b\x08\0\0\0\0\0\0\xff\xab\xae\x05\0C\xbf\xa6\xa3\x02\0\0\0",
    "a frame without a size": lambda: _frame(LAWFUL, write_content_size=False),
    "a frame that needs a dictionary": lambda: _frame(LAWFUL, dict_data=zstandard.ZstdCompressionDict(LAWFUL * 3)),
    "a frame cut by one byte": lambda: packed(LAWFUL)[:-1],
    "a frame and one byte more": lambda: packed(LAWFUL) + b"\0",
    "two frames": lambda: packed(LAWFUL) * 2,
    "ten thousand empty frames": lambda: packed(b"") * 10_000,
    "ten thousand frames of 1 MiB": lambda: bomb(1 << 20) * 10_000,
    "a frame behind one to be skipped": lambda: SKIPPED + packed(LAWFUL),
    "a frame before one to be skipped": lambda: packed(LAWFUL) + SKIPPED,
    "a frame to be skipped alone": lambda: SKIPPED,
    "a frame to be skipped of 4 GiB": lambda: b"\x50\x2a\x4d\x18\xff\xff\xff\xffskip",
    "a frame with a window of 1 GiB": _long_window,
    "a frame that declares 10 GiB": lambda: _declaring(10 << 30),
    "a frame that declares 2^62 bytes": lambda: _declaring(2**62),
    "a frame that declares a byte too many": lambda: _declaring(MAX_MANIFEST_BYTES + 1),
    "a frame that declares 256 MiB and breaks off": lambda: _declaring(MAX_MANIFEST_BYTES),
    "a frame that declares nothing and holds nothing": lambda: packed(b""),
    "a frame that declares 1,000 bytes and holds 64 MiB": lambda: _lying(1000),
    "a frame of 10 GiB of spaces": lambda: bomb(10 << 30),
    "a frame of 64 MiB of zeros": lambda: bomb(64 << 20, b"\0"),
    "a frame of 64 MiB of spaces": lambda: bomb(64 << 20),
    "a frame of 64 MiB of open lists": lambda: bomb(64 << 20, b"["),
    "a frame of 64 MiB of digits": lambda: bomb(64 << 20, b"1", b'{"attempt":'),
    "a frame of 64 MiB of one string": lambda: bomb(64 << 20, b"x", b'{"attempt":1,"created_at":"'),
    "a frame of 64 MiB of escapes": lambda: bomb(64 << 20, b"\\", b'{"attempt":1,"created_at":"'),
}


def many_files(count: int) -> bytes:
    """A manifest of that many empty files, as short as it can be."""
    rest = '","place":{"data":"","in":"inline"}}'
    begin = f'{{"bytes":0,"digest":"{DIGEST}","first_stored_in":0,"name":"'
    files = ",".join(f"{begin}{number:x}{rest}" for number in range(count))
    return packed(to_json(changed(PLAIN, (FILES, Raw(f"[{files}]")), (("packs",), []))))


LARGE: dict[str, tuple[type[EoctlError], Callable[[], bytes]]] = {
    "100,000 files that are not sorted": (BadManifestError, lambda: many_files(100_000)),
}


def bad_manifests() -> Iterator[Bad]:
    for name, data in (NOT_JSON | {name: just(data) for name, data in spoiled(LAWFUL).items()}).items():
        yield Bad(f"JSON: {name}", BadManifestError, _framed(data))
    for field in sorted(PLAIN.keys() - {"base", "host", "name", "tags", "sources", "sinks", "properties"}):
        yield Bad(f"without {field}", BadManifestError, _of(((field,), MISSING)))
    for path in COUNTS:
        for name, value in NOT_COUNTS.items():
            label = f"{'.'.join(map(str, path[-3:]))} = {name}"
            yield Bad(label, BadManifestError, _of((path, value)), planted=False)
    for name, changes in CHANGES.items():
        yield Bad(name, BadManifestError, _of(*changes))
    for name, frame in FRAMES.items():
        # Everything that is done with a store reads the manifest fifteen times.
        yield Bad(f"frame: {name}", InvalidInputError, frame, planted="64 MiB of" not in name)
    for name, (text, error) in BAD_NAMES.items():
        yield Bad(f"a file named {name}", error, _named(partial(list, (text,))))
        yield Bad(
            f"an empty directory named {name}", error, _of(((*SUBTASK, "empty_directories"), [text])), planted=False
        )
    for name, (texts, error) in BAD_LISTS.items():
        yield Bad(f"files named {name}", error, _named(texts), planted="000" not in name)
    for name, (error, build) in LARGE.items():
        yield Bad(name, error, build, planted=False)
    yield Bad("a newer version", UnsupportedError, _of((("version",), 2)))
    yield Bad(
        "a newer version, of unknown fields",
        UnsupportedError,
        lambda: packed(b'{"format":"eoctl.manifest","version":2,"x":[{}]}'),
    )


def _of(*changes: tuple[Steps, object]) -> Callable[[], bytes]:
    return _framed(edited(PLAIN, *changes))


def _framed(json: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: packed(json())


def _named(names: Callable[[], list[str]]) -> Callable[[], bytes]:
    """A manifest of inline files of these names."""

    def build() -> bytes:
        files = [FILE[INLINE] | {"name": name} for name in sorted(names())]
        return packed(to_json(changed(PLAIN, (FILES, files), (("packs",), []))))

    return build


def _decode(data: bytes) -> object:
    return decode_manifest(data, "it")


CASES = [reads(f"manifest: {bad.name}", bad.expected, _decode, bad.build) for bad in bad_manifests()]
assert (
    decode_manifest(packed(LAWFUL), "it") == base().manifest == decode_manifest(packed(encode(base().manifest)), "it")
)
assert issubclass(TooLargeError, InvalidInputError)
