"""Manifests that are lawful records and lie about blobs, tables and blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import zstandard

from formats.blocktable import Block, decode_table, encode_table
from formats.ids import BlobKey, Digest, Era
from formats.manifest import Blocks, Codec, Manifest, PackRef, Slice, StateFile, Table, Whole, blob_key
from storage import layout
from storage.packing import PACK_MAGIC
from tests.hostile.case import packed
from tests.hostile.manifests import bomb
from tests.hostile.planted import HASH, Changes, base, blob_path, entry, key_of, with_record
from tests.hostile.specimen import PIPELINE
from tests.support.stores import noise, text

MANIFEST = base().manifest


def file_of(name: str) -> StateFile:
    return next(file for file in MANIFEST.operators[0].subtasks[0].files if file.name == name)


def with_file(name: str, **fields: object) -> Manifest:
    """The newest manifest with other fields in the file of that name."""
    return of_files(_instead(msgspec.structs.replace(file_of(name), **fields)))


def of_files(files: tuple[StateFile, ...], sizes: Mapping[str, int] | None = None) -> Manifest:
    """The newest manifest of these files; packs are those that they name, of their real sizes or of these."""
    operator = MANIFEST.operators[0]
    subtask = msgspec.structs.replace(operator.subtasks[0], files=files)
    known = {pack.key: pack.bytes for pack in MANIFEST.packs} | dict(sizes or {})
    used = sorted({key for file in files for key in packs_named(file)})
    return msgspec.structs.replace(
        MANIFEST,
        operators=(msgspec.structs.replace(operator, subtasks=(subtask,)),),
        packs=tuple(PackRef(key=key, bytes=known[key]) for key in used),
    )


def _instead(new: StateFile) -> tuple[StateFile, ...]:
    """The newest files, with this one in the place of its namesake."""
    return tuple(new if file.name == new.name else file for file in MANIFEST.operators[0].subtasks[0].files)


def packs_named(file: StateFile) -> tuple[str, ...]:
    match file.place:
        case Slice(pack=pack):
            return (pack,)
        case Blocks(packs=packs):
            return packs
    return ()


WHOLE, PACKED, LOG, DATABASE = "000003.sst", "000002.sst", "log/LOG", "main.db"


def path_of(name: str) -> str:
    """The blob that holds the file, or the first pack of it."""
    file = file_of(name)
    key = blob_key(file, file.place) if isinstance(file.place, Whole) else BlobKey.parse(packs_named(file)[0])
    return layout.blob(PIPELINE, key).path


def zstd_of(stored: bytes, content: bytes, size: int | None = None, digest: str = "") -> Changes:
    """The file that is stored whole and packed is these stored bytes, said to hold this content."""
    key = key_of(stored)
    place = Whole(era=key.era, codec="zstd", digest=key.digest, stored_bytes=len(stored))
    said = digest or HASH.digest(content)
    manifest = with_file(PACKED, place=place, bytes=len(content) if size is None else size, digest=said)
    return with_record(manifest) | {blob_path(stored): stored}


def slice_of(
    stored: bytes, content: bytes, size: int | None = None, *, codec: Codec = "zstd", digest: str = ""
) -> Changes:
    """The file in a pack is a slice of these stored bytes, said to hold this content."""
    pack = PACK_MAGIC + stored
    key = key_of(pack)
    said = digest or HASH.digest(content)
    place = Slice(pack=str(key), offset=8, length=len(stored), codec=codec)
    file = msgspec.structs.replace(file_of(LOG), place=place, bytes=len(content) if size is None else size, digest=said)
    return with_record(of_files(_instead(file), {str(key): len(pack)})) | {blob_path(pack): pack}


def without_size(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


MIB = 1 << 20
SMALL = text(5000, 50)
ZEROS_32 = bytes(32 * MIB)
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0skip"


def _manifest_for_a_blob() -> Changes:
    """A user's file that equals a manifest: an `m/` key never stands for an `o/` key."""
    own = BlobKey.parse(entry(base().head).manifest)
    size = entry(base().head).manifest_bytes
    return with_record(with_file(WHOLE, place=Whole(era=own.era), digest=own.digest, bytes=size))


LIES: dict[str, Callable[[], Changes]] = {
    "a whole file that is no zstd": lambda: zstd_of(SMALL, SMALL),
    "a whole file of another content": lambda: zstd_of(packed(text(5000, 51)), SMALL),
    "a whole file that is shorter than said": lambda: zstd_of(packed(SMALL), SMALL, 5001),
    "a whole file that is longer than said": lambda: zstd_of(packed(SMALL), SMALL, 4999),
    "a whole file said to have 2^53 bytes": lambda: zstd_of(packed(SMALL), SMALL, 2**53),
    "a whole file cut inside a frame": lambda: zstd_of(packed(SMALL)[:-3], SMALL),
    "a whole file of no bytes": lambda: zstd_of(b"", SMALL),
    "a whole file of a skipped frame": lambda: zstd_of(SKIPPED, SMALL),
    "a whole bomb of 10 GiB said to be 5,000 bytes": lambda: zstd_of(bomb(10 << 30, b"\0"), SMALL),
    "a whole bomb of 64 MiB of another digest": lambda: zstd_of(bomb(64 * MIB, b"\0"), SMALL, 64 * MIB),
    "a whole bomb of 100,000 frames": lambda: zstd_of(packed(bytes(1000)) * 100_000, SMALL, 10**8),
    "a slice that is no zstd": lambda: slice_of(SMALL, SMALL),
    "a slice of another content": lambda: slice_of(packed(text(5000, 51)), SMALL),
    "a slice that is shorter than said": lambda: slice_of(packed(SMALL), SMALL, 5001),
    "a slice that is longer than said": lambda: slice_of(packed(SMALL), SMALL, 4999),
    "a slice said to be empty": lambda: slice_of(packed(SMALL), b""),
    "a slice cut inside a frame": lambda: slice_of(packed(SMALL)[:-3], SMALL),
    "a slice without a size, longer than said": lambda: slice_of(without_size(SMALL), SMALL, 4999),
    "a slice of a skipped frame": lambda: slice_of(SKIPPED, SMALL),
    "a slice that declares 10 GiB, said to be 5,000 bytes": lambda: slice_of(bomb(10 << 30, b"\0"), SMALL),
    "a slice of 32 MiB of zeros of another digest": lambda: slice_of(bomb(32 * MIB, b"\0"), SMALL, 32 * MIB),
    "a slice of 32 MiB of noise of another digest": lambda: slice_of(
        noise(32 * MIB - 8), b"", 32 * MIB - 8, codec="raw", digest="0" * 64
    ),
    "a raw slice of another content": lambda: slice_of(SMALL, SMALL, codec="raw", digest="0" * 64),
    "inline data of another digest": lambda: with_record(with_file("CURRENT", digest="0" * 64)),
    "a raw file of another digest": lambda: with_record(with_file(WHOLE, digest="0" * 64)),
    "a raw file of an era without it": lambda: with_record(with_file(WHOLE, place=Whole(era=1))),
    "a raw file said to be longer": lambda: with_record(with_file(WHOLE, bytes=4001)),
    "a raw file said to be shorter": lambda: with_record(with_file(WHOLE, bytes=3999)),
    "a raw file said to have 2^53 bytes": lambda: with_record(with_file(WHOLE, bytes=2**53)),
    "a raw file said to be empty": lambda: with_record(with_file(WHOLE, bytes=0)),
    "a manifest that stands for a blob": _manifest_for_a_blob,
    "a block file said to be shorter": lambda: with_record(with_file(DATABASE, bytes=file_of(DATABASE).bytes - 1)),
    "a block file said to be longer": lambda: with_record(with_file(DATABASE, bytes=file_of(DATABASE).bytes + 1)),
    "a block file said to have 256 MiB": lambda: with_record(with_file(DATABASE, bytes=256 * MIB)),
}


# Block tables that are right by their digest and lie


def blocks_of(name: str) -> list[Block]:
    file = file_of(name)
    assert isinstance(file.place, Blocks)
    place = file.place.tables[0].place
    assert isinstance(place, Slice)
    stored = base().values[layout.blob(PIPELINE, BlobKey.parse(place.pack)).path]
    return decode_table(stored[place.offset : place.offset + place.length])


def table_of(data: bytes, **fields: object) -> Changes:
    """The block file has these bytes for its table, in a blob of its own."""
    key = key_of(data)
    table = Table(digest=key.digest, bytes=len(data), place=Whole(era=key.era))
    table = msgspec.structs.replace(table, **{name: fields[name] for name in fields if name in {"digest", "bytes"}})
    place = file_of(DATABASE).place
    assert isinstance(place, Blocks)
    packs = tuple(sorted({str(block.pack) for block in blocks_of(DATABASE)}))
    file = msgspec.structs.replace(file_of(DATABASE), place=Blocks(tables=(table,), packs=packs))
    return with_record(of_files(_instead(file))) | {blob_path(data): data}


def _blocks(change: Callable[[list[Block]], list[Block]]) -> Changes:
    return table_of(encode_table(change(blocks_of(DATABASE))))


def _other(block: Block, **fields: Any) -> Callable[[list[Block]], list[Block]]:
    return lambda blocks: [found._replace(**fields) if found == block else found for found in blocks]


def first_block(**fields: Any) -> Changes:
    return _blocks(_other(blocks_of(DATABASE)[0], **fields))


def _packed_bomb() -> Changes:
    """A block that is a frame of 10 GiB."""
    data = bomb(10 << 30, b"\0")
    pack = PACK_MAGIC + data
    key = key_of(pack)
    first, *rest = blocks_of(DATABASE)
    table = encode_table([first._replace(pack=key, offset=8, length=len(data), compressed=True), *rest])
    packs = sorted({str(key), *(str(block.pack) for block in rest)})
    own = Table(digest=HASH.digest(table), bytes=len(table), place=Whole(era=Era(4)))
    file = msgspec.structs.replace(file_of(DATABASE), place=Blocks(tables=(own,), packs=tuple(packs)))
    manifest = of_files(_instead(file), {str(key): len(pack)})
    return with_record(manifest) | {blob_path(table): table, blob_path(pack): pack}


FOREIGN = BlobKey(Digest("ab" * 32), Era(1))

TABLES: dict[str, Callable[[], Changes]] = {
    "that is text": lambda: table_of(text(500, 52)),
    "that is empty": lambda: table_of(b""),
    "that is a cut one": lambda: table_of(encode_table(blocks_of(DATABASE))[:-1]),
    "said to be longer": lambda: table_of(encode_table(blocks_of(DATABASE)), bytes=1000),
    "said to have 2^53 bytes": lambda: table_of(encode_table(blocks_of(DATABASE)), bytes=2**53),
    "of another digest": lambda: table_of(encode_table(blocks_of(DATABASE)), digest="0" * 64),
    "of no blocks": lambda: _blocks(lambda _: []),
    "of a block less": lambda: _blocks(lambda blocks: blocks[:-1]),
    "of a block more": lambda: _blocks(lambda blocks: [*blocks, blocks[0]]),
    "of 4,096 blocks": lambda: _blocks(lambda blocks: [blocks[0]] * 4096),
    "in another order": lambda: _blocks(lambda blocks: blocks[::-1]),
    "with a block of another digest": lambda: first_block(digest=bytes(32)),
    "with a block in a pack that the manifest does not name": lambda: first_block(pack=FOREIGN),
    "with a block beyond its pack": lambda: first_block(offset=2**32 - 1),
    "with a block of no bytes": lambda: first_block(length=0),
    "with a packed block that is said to be raw": lambda: first_block(compressed=False),
    "with a block inside another": lambda: first_block(offset=blocks_of(DATABASE)[0].offset + 1),
    "with a block that is a bomb of 10 GiB": _packed_bomb,
}
