"""A bucket on S3 or a server like it: atomic by conditional requests, settled by reading back.

The rules it keeps, which docs/protocol.md builds on:

- `create` is a PUT that is refused where a value is (`If-None-Match: *`), with a checksum that the server checks. It is
  sent again after a lost reply; a refusal is then held against what lies there.
- `swap` is one PUT that is refused unless HEAD is the expected one (`If-Match`), sent once. The ETag of a condition
  comes from the very response that gave the expected bytes, or from the swap that wrote them.
- Nothing is written before the endpoint has shown that it keeps these conditions.

It leaves to others: what keys mean, whether bytes are the right ones, what becomes of a swap of unknown outcome.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from formats.errors import (
    AccessDeniedError,
    EoctlError,
    NoSpaceError,
    OutcomeUnknownError,
    UnavailableError,
    UnsafeBackendError,
)
from storage.backend import (
    Body,
    CopyOf,
    Folder,
    Found,
    Key,
    KeyAbsentError,
    LocalFile,
    Place,
    Reach,
    Unfinished,
    Version,
    VersionMismatchError,
    is_key,
    version_of,
)
from storage.backends.retrying import Budget, RetryingBackend
from storage.backends.s3_client import Limits, Reply, S3Client, Span
from storage.backends.s3_errors import UploadAbsentError
from storage.backends.s3_probe import SafetyProbe
from storage.backends.s3_reader import open_reader, pieces
from storage.backends.s3_upload import PART_BYTES, copy_parts, source_of, upload_parts
from storage.backends.s3_url import Location, parse_location
from storage.backends.scratch import scratch_directory
from storage.os_errors import told

SINGLE_BYTES = 64 << 20  # more goes in parts
COPY_BYTES = 5 << 30  # more is copied in parts
BATCH = 1000
SWAPPABLE_BYTES = 16 << 20  # a HEAD has a quarter of that at most
COMPARED_BYTES = PART_BYTES  # what is read back at most where the server shows no checksum
_TOO_LARGE = ("EntityTooLarge", "InvalidRequest", "InvalidArgument")


def s3_place(url: str, token: str, records: Path | None = None, limits: Limits | None = None) -> Place:
    """The place at `url`; nothing is asked yet. `records`: where it is kept that an endpoint keeps conditions.

    Raises: UsageError.
    """
    limits = limits or Limits()
    location = parse_location(url)
    backend = S3Backend(location, token, records, limits)
    return Place(
        url=url,
        backend=RetryingBackend(backend, Budget(limits.wait, random.Random(token))),
        scratch=scratch_directory(),
        make_folders=lambda _: None,
        check=lambda _: backend.probe.again(),
        remote=True,
        server=f"{location.endpoint_url} {location.region}",
        root=f"{location.bucket}/{location.prefix}",
    )


class S3Backend:
    """The six verbs below the prefix of a bucket. `token` makes this process's temporary names its own."""

    def __init__(self, location: Location, token: str, records: Path | None, limits: Limits) -> None:
        self._s3 = S3Client(location, limits)
        self.probe = SafetyProbe(self._s3, token, records)
        self._etags: dict[str, tuple[Version, str]] = {}  # of swappable values, as last read or written

    def stat(self, key: Key) -> Found | None:
        try:
            reply = self._s3.ask("HeadObject", key, Key=self._s3.name(key.path))
        except KeyAbsentError:
            return None
        return Found(key, int(self._s3.told(reply, "ContentLength")), self._moment(reply))

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        if key.swappable and start == 0 and length is None:
            return io.BytesIO(self._read_swappable(key)[0])
        return cast("BinaryIO", open_reader(self._s3, key, start, length))

    def create(self, key: Key, body: Body) -> bool:
        self.probe.ensure()
        match body:
            case CopyOf():
                return self._copy(key, body)
            case LocalFile(path=path):
                with told(path), open(path, "rb", buffering=0) as file:
                    size = os.fstat(file.fileno()).st_size
                    created = self._create(key, file.fileno(), size, body.sent, body.crc32)
                path.unlink(missing_ok=True)
                return created
            case _:
                return self._create(key, body, len(body))

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        self.probe.ensure()
        known = self._etags.get(key.path)
        if known is None or known[0] != expected:
            data, etag = self._read_swappable(key)
            if version_of(data) != expected:
                raise VersionMismatchError(f"{key} has changed")
        else:
            etag = known[1]
        reply = self._put(key, Span(body, 0, len(body)), IfMatch=etag)
        self._etags[key.path] = version_of(body), self._s3.told(reply, "ETag")

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        match reach:
            case Reach.ALL:
                yield from _in_order(self._found(prefix), len(prefix.path) + 1)
            case Reach.FOLDERS:
                yield from sorted(self._folders(prefix), key=lambda folder: f"{folder.key}/")
            case Reach.UNFINISHED:
                yield from sorted(self._unfinished(), key=lambda unfinished: (unfinished.key, unfinished.token))

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        rest = iter(keys)
        while batch := list(islice(rest, BATCH)):
            self._delete([key for key in batch if isinstance(key, Key)])
            for key in batch:
                if isinstance(key, Unfinished):
                    with contextlib.suppress(UploadAbsentError):
                        name = self._s3.name(key.key.path)
                        self._s3.ask("AbortMultipartUpload", key.key, Key=name, UploadId=key.token)

    def _read_swappable(self, key: Key) -> tuple[bytes, str]:
        """Bytes and ETag of one response; of a value that is too large for one that is swapped, its beginning."""
        for number in range(self._s3.limits.attempts):
            reply = self._s3.ask("GetObject", key, Key=self._s3.name(key.path))
            size = int(self._s3.told(reply, "ContentLength"))
            try:
                wanted = min(size, SWAPPABLE_BYTES + 1)
                data = b"".join(pieces(self._s3, key, reply, wanted, lambda: False))
            except UnavailableError:
                if number + 1 == self._s3.limits.attempts:
                    raise
                self._s3.limits.pause(number)
                continue
            etag: str = self._s3.told(reply, "ETag")
            if len(data) == size:
                self._etags[key.path] = version_of(data), etag
            return data, etag
        raise AssertionError("no attempts")

    def _create(
        self,
        key: Key,
        source: bytes | int,
        size: int,
        sent: Callable[[int], None] = lambda _: None,
        crc32: int | None = None,
    ) -> bool:
        if size > SINGLE_BYTES:
            return upload_parts(self._s3, key, source, size, sent)
        return self._once(
            key,
            lambda: self._put(key, Span(source, 0, size, sent, crc32), IfNoneMatch="*"),
            lambda: self._is_there(key, source, size),
        )

    def _put(self, key: Key, span: Span, **condition: str) -> Reply:
        """One request. Raises: VersionMismatchError where the condition does not hold."""
        return self._s3.send_span("PutObject", key, span, Key=self._s3.name(key.path), **condition)

    def _copy(self, key: Key, source: CopyOf) -> bool:
        name, where = self._s3.name(key.path), source_of(self._s3, source)

        def copy() -> None:
            try:
                self._s3.send("CopyObject", source.key, Key=name, CopySource=where, IfNoneMatch="*")
            except UnavailableError as error:
                if not any(code in error.message for code in _TOO_LARGE):
                    raise
                raise _TooLargeForCopyError from error

        try:
            return self._once(key, copy, lambda: False)
        except _TooLargeForCopyError:
            found = self._s3.ask("HeadObject", source.key, **where)
            return copy_parts(self._s3, key, source, int(self._s3.told(found, "ContentLength")))

    def _once(self, key: Key, write: Callable[[], object], is_ours: Callable[[], bool]) -> bool:
        """True: `write` has made the value, False: some value was there.

        Sent again after an unknown outcome, under the same condition: then a refusal may be the answer to ourselves.
        """
        uncertain = False
        last: EoctlError | None = None
        for number in range(self._s3.limits.attempts):
            if number:
                self._s3.limits.pause(number - 1)
            try:
                write()
            except VersionMismatchError:
                return uncertain and is_ours()
            except (OutcomeUnknownError, UnavailableError) as error:
                uncertain = uncertain or isinstance(error, OutcomeUnknownError)
                last = error
                if isinstance(error, NoSpaceError):
                    break
            except AccessDeniedError as error:
                last = error
                break
            else:
                return True
        assert last is not None
        if uncertain and not isinstance(last, OutcomeUnknownError):
            raise OutcomeUnknownError(f"whether {key} was written is not known: {last.message}") from last
        raise last

    def _is_there(self, key: Key, source: bytes | int, size: int) -> bool:
        """The value under the key is this one: by its checksum, or byte by byte where the server shows none."""
        reply = self._s3.ask("HeadObject", key, Key=self._s3.name(key.path), ChecksumMode="ENABLED")
        if int(self._s3.told(reply, "ContentLength")) != size:
            return False
        if "ChecksumCRC32" in reply and reply.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
            return bool(reply["ChecksumCRC32"] == Span(source, 0, size).crc32())
        if size > COMPARED_BYTES:
            return False
        with self.open(key, 0, size) as file:
            return file.read() == Span(source, 0, size).all()

    def _pages(self, operation: str, prefix: str, after: tuple[str, ...], **parameters: object) -> Iterator[Reply]:
        """All pages. `after`: what the next request is told, under the name that the answer gives it with `Next`."""
        going_on: dict[str, object] = {}
        while True:
            reply = self._s3.ask(operation, prefix or "the bucket", Prefix=prefix, **parameters, **going_on)
            yield reply
            if not reply.get("IsTruncated"):
                return
            going_on = {name: reply[f"Next{name}"] for name in after if reply.get(f"Next{name}")}
            if not going_on:
                message = f"{self._s3.location.where} broke off a listing and does not say where it goes on"
                raise UnsafeBackendError(message, hint="check endpoint_url; is there a proxy in between?")

    def _found(self, prefix: Key) -> Iterator[Found]:
        for page in self._pages("ListObjectsV2", f"{self._s3.name(prefix.path)}/", ("ContinuationToken",)):
            for item in page.get("Contents", ()):
                path = self._s3.path(self._s3.told(item, "Key"))
                if is_key(path):  # others are nobody's business
                    yield Found(Key(path), int(self._s3.told(item, "Size")), self._moment(item))

    def _moment(self, reply: Reply) -> float:
        """Whole seconds: a listing tells more of them than a look at one value."""
        return float(int(self._s3.told(reply, "LastModified").timestamp()))

    def _folders(self, prefix: Key) -> Iterator[Folder]:
        start = f"{self._s3.name(prefix.path)}/"
        for page in self._pages("ListObjectsV2", start, ("ContinuationToken",), Delimiter="/"):
            for item in page.get("CommonPrefixes", ()):
                path = self._s3.path(self._s3.told(item, "Prefix")).removesuffix("/")
                if is_key(path):
                    yield Folder(Key(path))

    def _unfinished(self) -> Iterator[Unfinished]:
        start = self._s3.name("")
        for page in self._pages("ListMultipartUploads", start, ("KeyMarker", "UploadIdMarker")):
            for item in page.get("Uploads", ()):
                path = self._s3.path(self._s3.told(item, "Key"))
                if is_key(path):
                    yield Unfinished(Key(path), self._s3.told(item, "UploadId"))

    def _delete(self, keys: Sequence[Key]) -> None:
        """Gone, all of them; what the server failed to delete for a reason that passes is tried again."""
        said: dict[str, str] = {}
        for number in range(self._s3.limits.attempts):
            if not keys:
                return
            if number:
                self._s3.limits.pause(number - 1)
            wanted = {"Objects": [{"Key": self._s3.name(key.path)} for key in keys], "Quiet": True}
            reply = self._s3.ask("DeleteObjects", f"{len(keys)} keys", Delete=wanted)
            faults = [fault for fault in reply.get("Errors", ()) if fault.get("Code") != "NoSuchKey"]
            said = {fault.get("Key", ""): f"{fault.get('Code')}: {fault.get('Message')}" for fault in faults}
            keys = [key for key in keys if self._s3.name(key.path) in said]
            if any(fault.get("Code") in {"AccessDenied", "MethodNotAllowed"} for fault in faults):
                break
        if said:
            words = next(iter(said.values()))
            kind = AccessDeniedError if words.startswith("AccessDenied") else UnavailableError
            raise kind(
                f"{len(said)} keys could not be deleted, {self._s3.path(next(iter(said)))} for one: {words}",
                hint="the credentials need s3:DeleteObject" if kind is AccessDeniedError else "run the command again",
            )


class _TooLargeForCopyError(Exception):
    """One request cannot copy so much."""


def _in_order(found: Iterator[Found], start: int) -> Iterator[Found]:
    """Sorted by key, though some servers list folder by folder: `a/x` before `a-b/x`.

    `start`: where the names below the prefix begin. What belongs together is held back, one folder at most.
    """
    group: list[Found] = []
    root = ""
    for item in found:
        name = item.key.path[start:].partition("/")[0]
        if group and name != root and not name.startswith((f"{root}-", f"{root}.")):
            yield from sorted(group, key=lambda one: one.key)
            group = []
        if not group:
            root = name
        group.append(item)
    yield from sorted(group, key=lambda one: one.key)
