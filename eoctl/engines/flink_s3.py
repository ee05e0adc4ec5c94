"""A bucket in which Flink keeps its snapshots, as a file system: read only, and no other bucket or host is ever asked.

    s3://BUCKET/PREFIX/JOB/chk-7?endpoint_url=...&region=...     options as of a store's URL

`s3a:` and `s3p:` are what Flink's two plugins may be called by: the same bucket. What lies below a root is listed once,
unless it is more than 100,000 files: then folder by folder, as far as it is asked for. A file that is looked at by
itself costs one request, the ninth of a folder lists the folder.
"""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from msgspec.structs import replace

from eoctl.engines.flink_files import Content, Found, Place
from eoctl.engines.flink_s3_reader import RangeReader, Tail, whole_body
from formats.errors import TooLargeError, UnsafeBackendError, UsageError
from storage.backend import KeyAbsentError
from storage.backends.s3_client import Limits, Reply, S3Client
from storage.backends.s3_url import Location, parse_location

KNOWN_FILES = 100_000  # below a root, that are kept in mind together
LOOKS = 8  # at single files of a folder, before it is listed
TAILS = 64  # of tables that are opened more than once

_URL = re.compile(r"(?:s3|s3a|s3p)://([^/?#]*)(/[^?#]*)?(\?[^#]*)?\Z", re.DOTALL)


def is_s3(text: str) -> bool:
    """It is an address in a bucket."""
    return text.startswith(("s3://", "s3a://", "s3p://"))


def s3_place(address: str) -> Place:
    """The place that the address names. Raises: UsageError."""
    match = _URL.match(address)
    if match is None:
        raise UsageError(f"not an address in a bucket: {address[:200]!r}", hint="s3://BUCKET/PREFIX?endpoint_url=...")
    location = parse_location(f"s3://{match[1]}{match[3] or ''}")
    path = (match[2] or "").strip("/")
    if path and not _is_plain(path):
        raise UsageError(f"not a path in a bucket: {path[:200]!r}", hint="parts that are not empty, '.' or '..'")
    return Place(S3Files(location), f"s3://{location.bucket}/{path}".rstrip("/"))


class S3Files:
    """One bucket. What was listed is kept; another process lists for itself."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._root = f"s3://{location.bucket}"
        self._folders: dict[str, dict[str, Found]] = {}  # as listed: all that lies in them
        self._known: set[str] = set()  # below which everything is listed
        self._large: set[str] = set()  # below which there is too much for that
        self._looks: dict[str, int] = {}
        self._tails: OrderedDict[str, Tail] = OrderedDict()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Files) and other.location == self.location

    def __hash__(self) -> int:
        return hash(self.location)

    def __reduce__(self) -> tuple[type[S3Files], tuple[Location]]:
        return S3Files, (self.location,)

    @property
    def is_local(self) -> bool:
        return False

    def own(self, name: str) -> str | None:
        match = _URL.match(name)
        if match is None or match[1] != self.location.bucket or match[3]:
            return None
        path = (match[2] or "").strip("/")
        return f"{self._root}/{path}" if _is_plain(path) else None if path else self._root

    def real(self, name: str) -> str:
        return name

    def is_link(self, name: str) -> bool:  # noqa: ARG002  (a bucket has none)
        return False

    def look(self, name: str) -> Found | None:
        folder, _, base = name.rpartition("/")
        return self._folders.get(folder, {}).get(base) if self._is_worth_listing(folder) else self._head(name, base)

    def is_folder(self, name: str) -> bool:
        if self._is_listed(name):
            return bool(self._folders.get(name))
        folder, _, base = name.rpartition("/")
        if name != self._root and self._is_worth_listing(folder):
            found = self._folders.get(folder, {}).get(base)
            return found is not None and found.kind == "folder"
        reply = self._s3.ask("ListObjectsV2", name, Prefix=self._prefix(name), MaxKeys=1)
        return bool(reply.get("Contents"))

    def entries(self, folder: str) -> Sequence[Found]:
        if not self._is_listed(folder):
            self._list(folder)
        return sorted(self._folders.get(folder, {}).values(), key=lambda entry: entry.name)

    def below(self, folder: str) -> Iterator[tuple[str, Found]]:
        self.know(folder)
        if self._is_known(folder):
            yield from self._below(folder)
            return
        for page in self._pages(folder):
            for name, found in map(self._file, page.get("Contents", ())):
                if found.name and "//" not in self._key(name):
                    yield name, found

    def know(self, folder: str) -> None:
        if self._is_known(folder) or folder in self._large:
            return
        files: list[tuple[str, Found]] = []
        for page in self._pages(folder):
            files += map(self._file, page.get("Contents", ()))
            if len(files) > KNOWN_FILES:
                self._large.add(folder)
                return
        for name, found in files:
            self._remember(folder, name, found)
        self._known.add(folder)

    def afresh(self) -> S3Files:
        return S3Files(self.location)

    def reached(self, place: Place) -> Place:
        files = place.files
        if not isinstance(files, S3Files) or files.location != Location(bucket=files.location.bucket, prefix=""):
            return place
        location = replace(self.location, bucket=files.location.bucket)
        return Place(self if location == self.location else S3Files(location), place.text)

    def content(self, name: str, limit: int) -> Content | None:
        try:
            data, reply = whole_body(self._s3, name, self._key(name), limit)
        except KeyAbsentError:
            return None
        if len(data) > limit:
            raise TooLargeError(f"{name} is larger than {limit} bytes")
        return Content(data, self._moment(reply))

    def open(self, name: str, start: int = 0, length: int | None = None) -> BinaryIO:
        return cast("BinaryIO", RangeReader(self._s3, name, self._key(name), start, length, self))

    def version_of(self, reader: BinaryIO) -> str:
        return _version(cast("RangeReader", reader).etag)

    def tail(self, name: str) -> Tail | None:
        """The last bytes of a file that was opened before."""
        return self._tails.get(name)

    def keep_tail(self, name: str, tail: Tail) -> None:
        """The last bytes of a file that may be opened again."""
        self._tails[name] = tail
        while len(self._tails) > TAILS:
            self._tails.popitem(last=False)

    @property
    def _s3(self) -> S3Client:
        return _client(self.location)

    def _key(self, name: str) -> str:
        return name[len(self._root) + 1 :]

    def _prefix(self, folder: str) -> str:
        key = self._key(folder)
        return f"{key}/" if key else ""

    def _is_known(self, folder: str) -> bool:
        return any(folder == known or folder.startswith(f"{known}/") for known in self._known)

    def _is_listed(self, folder: str) -> bool:
        return folder in self._folders or self._is_known(folder)

    def _is_worth_listing(self, folder: str) -> bool:
        """It is listed, as so many of its files and folders were asked for one by one."""
        if not self._is_listed(folder):
            self._looks[folder] = self._looks.get(folder, 0) + 1
            if self._looks[folder] <= LOOKS:
                return False
            self._list(folder)
        return True

    def _head(self, name: str, base: str) -> Found | None:
        try:
            reply = self._s3.ask("HeadObject", name, Key=self._key(name))
        except KeyAbsentError:
            return None
        return self._found(base, int(self._s3.told(reply, "ContentLength")), reply)

    def _list(self, folder: str) -> None:
        """What lies in that folder alone."""
        listed: dict[str, Found] = {}
        for page in self._pages(folder, Delimiter="/"):
            for item in page.get("Contents", ()):
                _, found = self._file(item)
                if found.name:
                    listed[found.name] = found
            for item in page.get("CommonPrefixes", ()):
                base = str(self._s3.told(item, "Prefix")).rstrip("/").rpartition("/")[2]
                listed[base] = Found(base, "folder", 0, 0.0)
        self._folders[folder] = listed

    def _below(self, folder: str) -> Iterator[tuple[str, Found]]:
        for entry in self.entries(folder):
            name = f"{folder}/{entry.name}"
            if entry.kind == "folder":
                yield from self._below(name)
            else:
                yield name, entry

    def _file(self, item: Reply) -> tuple[str, Found]:
        name = f"{self._root}/{self._s3.told(item, 'Key')}"
        size = int(self._s3.told(item, "Size"))
        return name, self._found(name.rpartition("/")[2], size, item)

    def _found(self, base: str, size: int, told: Reply) -> Found:
        return Found(base, "file", size, self._moment(told), _version(str(told.get("ETag", ""))))

    def _remember(self, root: str, name: str, found: Found) -> None:
        """A file, and the folders that it is the first of; a name that ends with a slash marks a folder."""
        if "//" in self._key(name):
            return
        if found.name:
            self._folders.setdefault(name.rpartition("/")[0], {})[found.name] = found
        folder = name.rpartition("/")[0]
        while folder != root:
            above, _, base = folder.rpartition("/")
            beside = self._folders.setdefault(above, {})
            if base in beside:
                return
            beside[base] = Found(base, "folder", 0, 0.0)
            folder = above

    def _pages(self, folder: str, **parameters: object) -> Iterator[Reply]:
        going_on: dict[str, object] = {}
        while True:
            reply = self._s3.ask("ListObjectsV2", folder, Prefix=self._prefix(folder), **parameters, **going_on)
            yield reply
            if not reply.get("IsTruncated"):
                return
            if not reply.get("NextContinuationToken"):
                message = f"{self.location.where} broke off a listing and does not say where it goes on"
                raise UnsafeBackendError(message, hint="check endpoint_url; is there a proxy in between?")
            going_on = {"ContinuationToken": reply["NextContinuationToken"]}

    def _moment(self, reply: Reply) -> float:
        """Whole seconds: a listing tells more of them than a look at one file."""
        return float(int(self._s3.told(reply, "LastModified").timestamp()))


@functools.lru_cache(maxsize=8)
def _client(location: Location) -> S3Client:
    return S3Client(location, Limits())


def _version(etag: str) -> str:
    return etag.strip('"')


def _is_plain(path: str) -> bool:
    """A server may take `..` for more than two dots."""
    return all(part not in {"", ".", ".."} and "\0" not in part for part in path.split("/"))
