"""What a place to keep bytes must do: six verbs, and nothing else.

Each verb is atomic and safe to retry. A failure says whether the effect did not happen (`UnavailableError`,
`NoSpaceError`, `AccessDeniedError`) or may have (`OutcomeUnknownError`). What `create` and `swap` report as
done survives a power loss. Retrying, counting, fault injection are wrappers with the same six verbs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NewType, Protocol, TypeAlias

from msgspec import Struct

from formats.errors import BadNameError, EoctlError, UnavailableError

Version = NewType("Version", str)  # of a swappable value: the digest of its bytes, which a nonce makes unique

_key = re.compile(r"(?!\.)[A-Za-z0-9._-]+(?:/(?!\.)[A-Za-z0-9._-]+)*\Z")


class Key(Struct, frozen=True, order=True):
    """A name inside a backend: relative, `/`-separated, parts of `[A-Za-z0-9._-]` that do not start with a dot."""

    path: str

    def __post_init__(self) -> None:
        if not is_key(self.path):
            message = f"bad key: {self.path[:200]!r}"
            raise BadNameError(message)

    def __str__(self) -> str:
        return self.path

    @property
    def swappable(self) -> bool:
        """The one name whose value `swap` changes."""
        return self.path.endswith("/HEAD")


class Found(Struct, frozen=True):
    """A stored value. `modified_at` is seconds since 1970 by the store's clock: policy only."""

    key: Key
    bytes: int
    modified_at: float


class Unfinished(Struct, frozen=True):
    """A write that never finished: a temporary file, a multipart upload. `token` is the backend's own."""

    key: Key
    token: str


class Folder(Struct, frozen=True):
    """What some keys have in common up to a `/`."""

    key: Key


def _nobody(_: int) -> None:
    """Whom it is told when nobody asks."""


class LocalFile(Struct, frozen=True):
    """A file handed over: the backend may link or move it, and it is gone after `create`.

    `sent` is told how many bytes more are on their way, where that takes its time; what it raises ends the sending.
    `crc32`: of its bytes, taken in the pass that took their digest; None: not known.
    """

    path: Path
    sent: Callable[[int], None] = _nobody
    crc32: int | None = None


class CopyOf(Struct, frozen=True):
    """The bytes of another key of the same backend, copied on the server where it can.

    `root`: that of another place of the same server (`Place.server`), whose key it is.
    """

    key: Key
    root: str = ""


class Reach(StrEnum):
    """What `list` shows."""

    ALL = "all"  # every value below: Found
    FOLDERS = "folders"  # one level of names: Folder
    UNFINISHED = "unfinished"  # writes that never finished, in the whole store: Unfinished


Body: TypeAlias = bytes | LocalFile | CopyOf


class StoppedError(BaseException):
    """Nobody wants this work any more, and nobody sees this error. Not an `Exception`: no library may try again."""


class KeyAbsentError(EoctlError):
    """`open` met no value under the key; the caller says what that means."""

    kind = "key-absent"


class VersionMismatchError(EoctlError):
    """`swap` was refused: the value is not the expected one (or the server says so: see storage/head.py)."""

    kind = "version-mismatch"


class BusyError(UnavailableError):
    """The server asks for less: it did nothing now, and says so."""

    kind = "busy"


class SyncFailedError(UnavailableError):
    """The disk failed to make bytes durable. What was linked since cannot be trusted, however it reads."""

    kind = "sync-failed"


def is_key(path: str) -> bool:
    """`path` can be a `Key`."""
    return _key.match(path) is not None


def version_of(data: bytes) -> Version:
    """What `swap` expects of the value that holds `data`."""
    return Version(hashlib.sha256(data).hexdigest())


class Backend(Protocol):
    """Named byte sequences."""

    def stat(self, key: Key) -> Found | None:
        """The value's size, or None."""

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        """A reader of the value or of a range of it, for the caller to close.

        On local disk a whole value is a real file, so that restore may link it.

        Raises: KeyAbsentError.
        """

    def create(self, key: Key, body: Body) -> bool:
        """The value is there and durable; True if by this call. Never overwrites: False means some value was there.

        Raises: KeyAbsentError if the source of a copy is gone.
        """

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        """`body` has replaced the expected value. For HEAD only.

        Raises: VersionMismatchError and KeyAbsentError (refused), OutcomeUnknownError (read back), and
        CommitUnknownError where reading back could not settle it.
        """

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        """What lies below `prefix` + `/`, sorted by key."""

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        """The keys are gone; absent ones are fine."""


class Place(Struct, frozen=True, kw_only=True):
    """Where a store lies, or may be made.

    `scratch` is a directory from which `create` takes a file cheaply; `make_folders` makes folders ahead, at
    one sync for each parent (nothing where names need no folders); `check` raises UnsafeBackendError where a
    store must not be made, and asks more of a network file system (True: it may be one). `remote`: each look at it
    costs a request. Between places of one `server` (if that is not "") its backend copies by `CopyOf` with a `root`.
    """

    url: str
    backend: Backend
    scratch: Path
    make_folders: Callable[[Iterable[Key]], None]
    check: Callable[[bool], None] = lambda _: None
    remote: bool = False
    server: str = ""
    root: str = ""
