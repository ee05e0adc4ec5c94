"""A file in a bucket, read by ranges: 256 KiB where a reader jumps, up to 2 MiB where it goes on; never more is held.

A table of RocksDB is read from its end, where it says what it has: the first 128 KiB from there are kept for the next
time that it is opened. All bytes are of one version of the file.
"""

from __future__ import annotations

import io
from typing import Protocol

from msgspec import Struct

from formats.errors import CorruptError, UnavailableError, UnsafeBackendError
from storage.backend import KeyAbsentError, VersionMismatchError
from storage.backends.s3_client import Reply, S3Client
from storage.backends.s3_errors import RangeAbsentError
from storage.backends.s3_reader import pieces

JUMP_BYTES = 256 << 10
MOST_BYTES = 2 << 20
TAIL_BYTES = 128 << 10


class Tail(Struct, frozen=True, gc=False):
    """The last bytes of a version of a file of that size."""

    size: int
    etag: str
    data: bytes


class Tails(Protocol):
    """Where tails are kept."""

    def tail(self, name: str) -> Tail | None: ...

    def keep_tail(self, name: str, tail: Tail) -> None: ...


class RangeReader(io.RawIOBase):
    """Bytes of the file from `start` on, `length` at most; positions count from `start`. Nothing is asked yet.

    `etag`: of the version that was read from; "" before, and of an empty file.
    """

    def __init__(self, s3: S3Client, name: str, key: str, start: int, length: int | None, tails: Tails) -> None:
        self._s3 = s3
        self._name = name
        self._key = key
        self._start = start
        self._length = length
        self._tails = tails
        self._size: int | None = None  # of the whole file
        self.etag = ""
        self._at = start
        self._part_start = start
        self._part = b""
        self._tail_start = 0
        self._tail = b""
        self._window = JUMP_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at - self._start

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (self._start, self._at, self._end() if whence == io.SEEK_END else 0)[whence]
        self._at = max(self._start, base + offset)
        return self.tell()

    def read(self, size: int | None = -1) -> bytes:
        wanted = -1 if size is None else size
        parts: list[bytes] = []
        while wanted:
            piece = self._piece(wanted)
            if not piece:
                break
            parts.append(piece)
            self._at += len(piece)
            wanted = wanted - len(piece) if wanted > 0 else wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # Buffer is of Python 3.12
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _piece(self, wanted: int) -> bytes:
        """Some bytes from where the reader is; none at the end."""
        limit = None if self._length is None else self._start + self._length
        if (limit is not None and self._at >= limit) or (self._size is not None and self._at >= self._size):
            return b""
        for start, data in ((self._tail_start, self._tail), (self._part_start, self._part)):
            if start <= self._at < start + len(data):
                at = self._at - start
                stop = len(data) if limit is None else min(len(data), limit - start)
                stop = stop if wanted < 0 else min(stop, at + wanted)
                return data if at == 0 and stop == len(data) else data[at:stop]
        goes_on = self._at == self._part_start + len(self._part) and self._part
        self._window = min(MOST_BYTES, 2 * self._window) if goes_on else JUMP_BYTES
        stop = self._at + max(self._window, min(wanted, MOST_BYTES))
        stop = stop if limit is None else min(stop, limit)
        stop = stop if self._size is None else min(stop, self._size)
        self._part = b""  # not two at a time
        self._part, self._part_start = self._fetched(self._at, stop), self._at
        return self._piece(wanted) if self._part else b""

    def _end(self) -> int:
        """Where the bytes end."""
        if self._size is None:
            tail = self._tails.tail(self._name) if self._length is None else None
            if tail is None:
                data = self._fetched(None, TAIL_BYTES)
                assert self._size is not None
                tail = Tail(self._size, self.etag, data)
                if self._length is None:
                    self._tails.keep_tail(self._name, tail)
            self._size, self.etag, self._tail = tail.size, tail.etag, tail.data
            self._tail_start = self._size - len(tail.data)
        return self._size if self._length is None else min(self._size, self._start + self._length)

    def _fetched(self, start: int | None, stop: int) -> bytes:
        """The bytes; without `start` the last `stop` of the file. Where the answer breaks off it is asked for again."""
        told = f"bytes=-{stop}" if start is None else f"bytes={start}-{stop - 1}"
        condition = {"IfMatch": self.etag} if self.etag else {}
        for number in range(self._s3.limits.attempts):
            try:
                reply = self._s3.ask("GetObject", self._name, Key=self._key, Range=told, **condition)
                length = self._understood(reply, start)
                return b"".join(pieces(self._s3, self._name, reply, length, lambda: False))  # type: ignore[arg-type]
            except RangeAbsentError:
                self._size = self._size or 0 if start in {None, 0} else self._size
                return b""
            except KeyAbsentError as error:
                raise CorruptError(
                    f"{self._name} is missing", hint="eoctl checkpoint verify tells what else"
                ) from error
            except VersionMismatchError as error:
                raise CorruptError(f"{self._name} changed while it was read") from error
            except UnavailableError:
                if number + 1 == self._s3.limits.attempts:
                    raise
                self._s3.limits.pause(number)
        raise AssertionError("no attempts")

    def _understood(self, reply: Reply, start: int | None) -> int:
        """How many bytes the answer has; the file's size and version are known then."""
        told = str(reply.get("ContentRange", ""))
        first, _, total = told.removeprefix("bytes ").partition("/")
        begin, _, end = first.partition("-")
        if not (total.isdecimal() and begin.isdecimal() and end.isdecimal()) or (
            start is not None and int(begin) != start
        ):
            reply["Body"].close()
            message = f"{self._s3.location.where} gave another range of {self._name} than was asked for: {told[:100]!r}"
            raise UnsafeBackendError(message, hint="check endpoint_url; is there a proxy or a web page in between?")
        self._size, self.etag = int(total), str(self._s3.told(reply, "ETag"))
        return int(end) + 1 - int(begin)


def whole_body(s3: S3Client, name: str, key: str, limit: int) -> tuple[bytes, Reply]:
    """A file by one request, `limit` + 1 bytes of it at most. Raises: KeyAbsentError."""
    for number in range(s3.limits.attempts):
        try:
            reply = s3.ask("GetObject", name, Key=key)
            length = min(limit + 1, int(s3.told(reply, "ContentLength")))
            return b"".join(pieces(s3, name, reply, length, lambda: False)), reply  # type: ignore[arg-type]
        except UnavailableError:
            if number + 1 == s3.limits.attempts:
                raise
            s3.limits.pause(number)
    raise AssertionError("no attempts")
