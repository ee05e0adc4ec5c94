"""How a file is stored: inline, in a pack, whole, or as blocks; and whether compressing it pays.

Pure decisions. Files under 1 MiB travel in packs of up to 32 MiB, so that ten thousand of them cost a
handful of writes; a few tiny ones go inline into the manifest. Large files that their owner rewrites in
place are cut into fixed 64 KiB blocks, of which only changed ones are stored; all other large files are
immutable and stored whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

from msgspec import Struct

from formats.manifest import MAX_INLINE_BYTES, MAX_PACK_BYTES

SMALL_BYTES = 1 << 20
PACK_BYTES = MAX_PACK_BYTES
PACK_MAGIC = b"EOPK\x01\0\0\0"  # a pack: this, then slices end to end; its name is its checksum
INLINE_TOGETHER_BYTES = 64 << 10
PROBE_BYTES = 64 << 10
PAYS_BELOW = 0.85  # of the plain size
ORIGIN = "from:"  # as stamps of files begin that were copied from elsewhere

_IMMUTABLE_SUFFIXES = (".sst", ".ldb", ".blob", ".parquet", ".orc", ".avro", ".arrow")
_COMPRESSED_MAGIC = (
    b"\x1f\x8b",  # gzip
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\xfd7zXZ\0",  # xz
    b"BZh",  # bzip2
    b"\x04\x22\x4d\x18",  # lz4 frame
    b"\xff\x06\0\0sNaPpY",  # snappy frame
    b"PK\x03\x04",  # zip
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",  # JPEG
    b"7z\xbc\xaf\x27\x1c",
)


class Layout(StrEnum):
    """How the bytes of a file of 1 MiB or more are kept."""

    WHOLE = "whole"
    BLOCKS = "blocks"


class SourceFile(Struct, frozen=True, gc=False):
    """A file to be stored, as a listing of its source showed it.

    `stamp` is `DEVICE.INODE.MTIME_NS` in hex; `settled` says that a later write must change it (the file is
    older than one tick of the clock that stamps files). Of a copy from elsewhere `origin` tells the version that was
    copied, wherever it is looked at from; it begins with `ORIGIN`, and before the file is fetched there is no stamp.
    """

    name: str
    bytes: int
    stamp: str
    settled: bool
    origin: str = ""

    @property
    def version(self) -> str:
        """By which it is found unchanged: with the same one and as many bytes it has the same content."""
        return self.origin or self.stamp


def layout_of(name: str) -> Layout:
    """Tables of log-structured stores and columnar files never change once named; anything else may."""
    return Layout.WHOLE if name.endswith(_IMMUTABLE_SUFFIXES) else Layout.BLOCKS


def goes_inline(small: Iterable[int]) -> Callable[[int], bool]:
    """Tells by size whether a new small file goes into the manifest: only where all of them together are tiny."""
    together = sum(small)
    return lambda size: size <= MAX_INLINE_BYTES and together <= INLINE_TOGETHER_BYTES


def is_compressed(start: bytes) -> bool:
    """The file begins as compressed formats do."""
    return start.startswith(_COMPRESSED_MAGIC)


def pays(plain_bytes: int, compressed_bytes: int) -> bool:
    return compressed_bytes < plain_bytes * PAYS_BELOW
