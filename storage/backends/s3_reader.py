"""A value on S3 as a file to read: nothing is fetched twice, and never more than a few ranges are held.

The first request is made when the value is opened, for 8 MiB. A reader that goes on gets the rest in one answer, piece
by piece as it reads; of more than 128 MiB it gets ranges of 8 MiB, fetched side by side. One that jumps gets 1 MiB
from each place. All of it is of one version of the value. After `close` no thread of the reader runs.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from formats.errors import CorruptError, UnavailableError, UnsafeBackendError
from storage.backend import Key, VersionMismatchError
from storage.backends.s3_client import BAD_WAY, PIECE_BYTES, Reply, S3Client
from storage.backends.s3_errors import RangeAbsentError, failure

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

RANGE_BYTES = 8 << 20
STREAM_BYTES = 128 << 20
JUMP_BYTES = 1 << 20
AHEAD = 3  # of one reader


def open_reader(s3: S3Client, key: Key, start: int, length: int | None) -> S3Reader:
    """A reader of the range, whose first part is here. Raises: KeyAbsentError."""
    if length is not None and length <= 0:
        return S3Reader(s3, key, s3.told(s3.ask("HeadObject", key, Key=s3.name(key.path)), "ETag"), start, start)
    first = RANGE_BYTES if length is None else min(RANGE_BYTES, length)
    try:
        reply = _range(s3, key, start, first, "")
    except RangeAbsentError:
        return S3Reader(s3, key, "", start, start)
    total = _total(s3, key, start, reply)
    reader = S3Reader(s3, key, s3.told(reply, "ETag"), start, total if length is None else min(total, start + length))
    reader.begin(reply)
    return reader


class S3Reader(io.BufferedIOBase):
    """Bytes `[start, end)` of one version of a value; positions count from `start`."""

    def __init__(self, s3: S3Client, key: Key, etag: str, start: int, end: int) -> None:
        self._s3 = s3
        self._key = key
        self._etag = etag
        self._start = start
        self._size = end - start
        self._at = 0
        self._part = _Part(0)
        self._streak = 0  # bytes read in a row
        self._ahead: deque[tuple[int, Future[_Part]]] = deque()
        self._next = 0  # where the next range to be asked for begins
        self._pool: ThreadPoolExecutor | None = None
        self._stream: Generator[bytes, None, None] | None = None  # goes on where the part ends
        self._stopped = False

    def begin(self, reply: Reply) -> None:
        """The first part is what was answered already."""
        self._part = self._whole(0, min(RANGE_BYTES, self._size), reply)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        left = left if size is None or size < 0 else min(size, left)
        parts = []
        while left:
            if not self._part.start <= self._at < self._part.end:
                self._fetch(left)
            piece = self._part.read(self._at, left)
            parts.append(piece)
            self._at += len(piece)
            left -= len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1) -> bytes:
        return self.read(PIECE_BYTES if size < 0 else size)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # Buffer is of Python 3.12
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Nothing is fetched any more, and no thread runs."""
        self._stopped = True
        self._end_stream()
        self._drop_ahead()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        super().close()

    def _fetch(self, wanted: int) -> None:
        """A part that begins where the reader is."""
        goes_on = self._at == self._part.end
        if self._stream is not None and goes_on:
            self._part = self._streamed()
            return
        self._end_stream()
        self._streak = self._streak + self._part.end - self._part.start if goes_on else 0
        self._part = _Part(self._at)
        if self._ahead and self._ahead[0][0] == self._at:
            _, coming = self._ahead.popleft()
            self._s3.ranges_ahead.release()
            self._look_ahead()
            self._part = coming.result()
            return
        self._drop_ahead()
        reads_on = self._streak >= RANGE_BYTES or wanted >= RANGE_BYTES
        if reads_on and self._size - self._at <= STREAM_BYTES:
            self._part = self._streamed()
            return
        length = min(RANGE_BYTES if reads_on else max(JUMP_BYTES, wanted), self._size - self._at)
        self._next = self._at + length
        if reads_on:
            self._look_ahead()
        self._part = self._whole(self._at, length)

    def _streamed(self) -> _Part:
        """The next piece of all that is left, which comes in one answer; where that breaks off, in another one."""
        part = _Part(self._at)
        for number in range(self._s3.limits.attempts):
            left = self._size - self._at
            try:
                if self._stream is None:
                    reply = _range(self._s3, self._key, self._start + self._at, left, self._etag)
                    self._stream = pieces(self._s3, self._key, reply, left, lambda: self._stopped)
                part.add(next(self._stream))
                break
            except UnavailableError:
                self._stream = None
                if self._stopped or number + 1 == self._s3.limits.attempts:
                    raise
                self._s3.limits.pause(number)
            except (VersionMismatchError, RangeAbsentError) as error:
                raise CorruptError(f"{self._key} changed while it was read") from error
        return part

    def _end_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _look_ahead(self) -> None:
        """The ranges after the one that is read now are on their way, as far as all readers together may have them."""
        if self._pool is None and self._next < self._size:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (start-up)

            self._pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="eoctl-s3-read")
        while self._pool is not None and len(self._ahead) < AHEAD and self._next < self._size:
            if not self._s3.ranges_ahead.acquire(blocking=False):
                return
            length = min(RANGE_BYTES, self._size - self._next)
            self._ahead.append((self._next, self._pool.submit(self._whole, self._next, length)))
            self._next += length

    def _drop_ahead(self) -> None:
        while self._ahead:
            self._ahead.popleft()[1].cancel()
            self._s3.ranges_ahead.release()

    def _whole(self, at: int, length: int, reply: Reply | None = None) -> _Part:
        """The range; where it breaks off it is asked for again from there. Runs in several threads."""
        part = _Part(at)
        for number in range(self._s3.limits.attempts):
            try:
                left = at + length - part.end
                if reply is None:
                    reply = _range(self._s3, self._key, self._start + part.end, left, self._etag)
                for piece in pieces(self._s3, self._key, reply, left, lambda: self._stopped):
                    part.add(piece)
                break
            except UnavailableError:
                if self._stopped or number + 1 == self._s3.limits.attempts:
                    raise
                self._s3.limits.pause(number)
                reply = None
            except (VersionMismatchError, RangeAbsentError) as error:
                raise CorruptError(f"{self._key} changed while it was read") from error
        return part


class _Part:
    """Bytes `[start, end)` of the reader, in the pieces in which they came: what is read so is not copied."""

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self._pieces: list[bytes] = []
        self._starts: list[int] = []

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._starts.append(self.end)
        self.end += len(piece)

    def read(self, at: int, size: int) -> bytes:
        """Bytes from there on, `size` at most and one at least."""
        number = bisect_right(self._starts, at) - 1
        piece, offset = self._pieces[number], at - self._starts[number]
        return piece if offset == 0 and size >= len(piece) else piece[offset : offset + size]


def _range(s3: S3Client, key: Key, start: int, length: int, etag: str) -> Reply:
    condition = {"IfMatch": etag} if etag else {}
    return s3.ask("GetObject", key, Key=s3.name(key.path), Range=f"bytes={start}-{start + length - 1}", **condition)


def _total(s3: S3Client, key: Key, start: int, reply: Reply) -> int:
    """The size of the whole value, from the answer to a request for a range of it."""
    told = str(reply.get("ContentRange", ""))
    first, _, total = told.removeprefix("bytes ").partition("/")
    if not total.isdecimal() or not first.startswith(f"{start}-"):
        reply["Body"].close()
        message = f"{s3.location.where} gave another range of {key} than was asked for: {told[:100]!r}"
        raise UnsafeBackendError(message, hint="check endpoint_url; is there a proxy or a web page in between?")
    return int(total)


def pieces(
    s3: S3Client, key: Key, reply: Reply, length: int, stopped: Callable[[], bool]
) -> Generator[bytes, None, None]:
    """The body of an answer, `length` bytes of it. Raises: UnavailableError where it breaks off."""
    body = reply["Body"]
    try:
        while length:
            if stopped():
                raise UnavailableError(f"reading {key} was stopped")
            piece = body.read(min(PIECE_BYTES, length))
            if not piece:
                raise UnavailableError(f"{key} broke off {length} bytes before its end")
            length -= len(piece)
            yield piece
    except BAD_WAY as error:
        raise failure(error, "GetObject", str(key), s3.location, sent_once=False) from error
    finally:
        body.close()
