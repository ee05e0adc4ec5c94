"""Source files on this machine: read once and unchanged, probed, or shared instead of copied."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from formats.errors import SourceChangedError
from formats.ids import Digest, HashAlgorithm
from storage.blobs import CHUNK_BYTES
from storage.os_errors import translated
from storage.packing import PROBE_BYTES, SourceFile, is_compressed, pays

if TYPE_CHECKING:
    import zstandard

_zeros = memoryview(bytes(CHUNK_BYTES))

FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file, copy on write


@contextlib.contextmanager
def opened(root: Path, file: SourceFile) -> Iterator[int]:
    """A descriptor of the file, which was the one that was listed, and unchanged at the end of the context.

    Raises: SourceChangedError, AccessDeniedError.
    """
    path = f"{root}/{file.name}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise changed(path) from error
    except OSError as error:
        raise changed(path) if error.errno == errno.ELOOP else translated(error, path) from error
    try:
        yield descriptor
        seen = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if seen.st_size != file.bytes or stamp_of(seen) != file.stamp:
        raise changed(path)


def changed(path: str) -> SourceChangedError:
    """The error that says so."""
    message = f"a file changed while it was read: {path}"
    hint = "nothing was committed; stop the writer, or name the engine (rocksdb:DIR, sqlite:FILE)"
    return SourceChangedError(message, hint=hint)


def digest_file(root: Path, file: SourceFile, algorithm: HashAlgorithm) -> Digest:
    """The digest of the file's content. Raises: SourceChangedError."""
    hasher = algorithm.hasher()
    with opened(root, file) as descriptor:
        for chunk in read_chunks(descriptor):
            hasher.update(chunk)
    return Digest(hasher.hexdigest())


def read_all(descriptor: int, file: SourceFile) -> bytes:
    data = os.read(descriptor, file.bytes + 1)
    while len(data) < file.bytes and (more := os.read(descriptor, file.bytes - len(data))):
        data += more
    return data


def read_chunks(descriptor: int, *, buffers: int = 1) -> Iterator[memoryview]:
    """The file in pieces of 1 MiB; each is valid until `buffers` more are asked for. Holes are not read."""
    ring = itertools.cycle([memoryview(bytearray(CHUNK_BYTES)) for _ in range(buffers)])
    size = os.fstat(descriptor).st_size
    data_at = 0
    for start in range(0, size, CHUNK_BYTES):
        if data_at <= start:
            data_at = _next_data(descriptor, start, size)
        length = min(CHUNK_BYTES, size - start)
        if data_at >= start + length:
            yield _zeros[:length]
            continue
        buffer = next(ring)
        filled = 0
        while filled < length and (count := os.preadv(descriptor, [buffer[filled:length]], start + filled)):
            filled += count
        yield buffer[:filled]


def _next_data(descriptor: int, start: int, size: int) -> int:
    """Where the next bytes that are not a hole begin; `start` where the file system cannot tell."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else start


def write_all(descriptor: int, data: bytes | memoryview) -> int:
    """All of `data` is written; its length."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(data)


def probe(descriptor: int, size: int) -> bool:
    """Compressing the file pays: judged by 64 KiB from its start, middle and end; never for a compressed format."""
    import zstandard  # noqa: PLC0415  (start-up)

    if is_compressed(os.pread(descriptor, 8, 0)):
        return False
    samples = [os.pread(descriptor, PROBE_BYTES, at) for at in (0, size // 2, max(0, size - PROBE_BYTES))]
    packer = zstandard.ZstdCompressor(level=1)
    return pays(sum(map(len, samples)), sum(len(packer.compress(sample)) for sample in samples))


def share(source: Path, target: Path) -> bool:
    """`target` shares the bytes of `source`: a copy-on-write clone where the file system can, else a hard link.

    False where neither works (another file system): the bytes have to be copied.
    """
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
    except OSError:
        target.unlink(missing_ok=True)
    else:
        return True
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}:
            return False
        raise translated(error, target) from error
    return True


def stamp_of(found: os.stat_result) -> str:
    """Device, inode and modification time: with name and size, what an unchanged file is known by."""
    return f"{found.st_dev:x}.{found.st_ino:x}.{found.st_mtime_ns:x}"


def compressor() -> zstandard.ZstdCompressor:
    import zstandard  # noqa: PLC0415  (start-up)

    return zstandard.ZstdCompressor(level=1, write_content_size=True)
