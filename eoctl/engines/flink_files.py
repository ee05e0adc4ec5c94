"""File systems that snapshots of Flink lie on, told apart only here: this machine's, and buckets (flink_s3.py).

A name is a text with `/`: `/checkpoints/JOB/chk-7`, or `s3://BUCKET/checkpoints/JOB/chk-7`. Nothing is written.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from msgspec import Struct

from formats.errors import TooLargeError, UsageError
from storage.os_errors import told

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)\Z", re.DOTALL)

Kind = Literal["file", "folder", "other"]


class Found(Struct, frozen=True, gc=False):
    """What lies under a name. `modified_at`: seconds since 1970; of a folder in a bucket 0.

    `version`: another one tells another content; "" where nothing tells.
    """

    name: str
    kind: Kind
    bytes: int
    modified_at: float
    version: str = ""


class Content(Struct, frozen=True):
    """A whole file."""

    data: bytes
    modified_at: float


class Files(Protocol):
    """What is asked of a file system. Each raises what its own way of failing is called: `EoctlError`s."""

    @property
    def is_local(self) -> bool: ...

    def own(self, name: str) -> str | None:
        """How what Flink calls `name` is called here; None: it is of another file system."""
        ...

    def real(self, name: str) -> str:
        """The name without links."""
        ...

    def is_link(self, name: str) -> bool: ...

    def look(self, name: str) -> Found | None:
        """What lies there, links followed; None: nothing."""
        ...

    def is_folder(self, name: str) -> bool: ...

    def entries(self, folder: str) -> Sequence[Found]:
        """What lies in a folder, in order of the names; a link is `other`."""
        ...

    def below(self, folder: str) -> Iterator[tuple[str, Found]]:
        """Every file below a folder, by its whole name; links are not followed."""
        ...

    def know(self, folder: str) -> None:
        """Much of what lies below will be asked for: where one request tells it all, it is made now."""
        ...

    def afresh(self) -> Files:
        """The same, with nothing known of it."""
        ...

    def reached(self, place: Place) -> Place:
        """The place, where nothing says how to get there: as to this one."""
        ...

    def content(self, name: str, limit: int) -> Content | None:
        """A file of at most that many bytes; None: there is none. Raises: TooLargeError."""
        ...

    def open(self, name: str, start: int = 0, length: int | None = None) -> BinaryIO:
        """A reader of the file from `start` on, `length` bytes at most, for the caller to close."""
        ...

    def version_of(self, reader: BinaryIO) -> str:
        """Of the file that the reader has read from: as `Found` has it."""
        ...


class LocalFiles(Struct, frozen=True):
    """This machine's."""

    @property
    def is_local(self) -> bool:
        return True

    def own(self, name: str) -> str | None:
        """`/x`, `file:/x`, `file:///x`."""
        match = _SCHEME.match(name)
        if match is None:
            return name if name.startswith("/") and "\0" not in name else None
        if match[1].lower() != "file":
            return None
        rest = match[2]
        if rest.startswith("//"):
            host, slash, path = rest[2:].partition("/")
            if host not in {"", "localhost"} or not slash:
                return None
            rest = f"/{path}"
        return rest if rest.startswith("/") and "\0" not in rest else None

    def real(self, name: str) -> str:
        return os.path.realpath(name)

    def is_link(self, name: str) -> bool:
        try:
            return stat.S_ISLNK(os.lstat(name).st_mode)
        except OSError:
            return False

    def look(self, name: str) -> Found | None:
        try:
            status = os.stat(name)  # noqa: PTH116  (of a hundred thousand files)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            with told(name):
                raise error from error
        return Found(name.rpartition("/")[2], _kind(status.st_mode), status.st_size, status.st_mtime)

    def is_folder(self, name: str) -> bool:
        return os.path.isdir(name)  # noqa: PTH112  (a text)

    def entries(self, folder: str) -> Sequence[Found]:
        with told(folder), os.scandir(folder) as listing:
            found = [_found(entry) for entry in listing]
        return sorted(found, key=lambda entry: entry.name)

    def below(self, folder: str) -> Iterator[tuple[str, Found]]:
        for entry in self.entries(folder):
            name = f"{folder}/{entry.name}"
            if entry.kind == "folder":
                yield from self.below(name)
            elif entry.kind == "file":
                yield name, entry

    def know(self, folder: str) -> None:
        """Nothing is saved by asking early."""

    def afresh(self) -> Files:
        return self

    def reached(self, place: Place) -> Place:
        return place

    def content(self, name: str, limit: int) -> Content | None:
        found = self.look(name)
        if found is None or found.kind != "file":
            return None
        with told(name), open(name, "rb") as reader:  # noqa: PTH123  (a text)
            status = os.fstat(reader.fileno())
            if status.st_size > limit:
                raise TooLargeError(f"{name} is larger than {limit} bytes: {status.st_size}")
            return Content(reader.read(), status.st_mtime)

    def open(self, name: str, start: int = 0, length: int | None = None) -> BinaryIO:
        with told(name):
            file = open(name, "rb")  # noqa: PTH123, SIM115  (for the caller to close)
        if length is None:
            file.seek(start)
            return file
        with told(name), file:
            file.seek(start)
            return io.BytesIO(file.read(length))

    def version_of(self, reader: BinaryIO) -> str:  # noqa: ARG002  (a directory tells none)
        return ""


LOCAL = LocalFiles()


class Place(Struct, frozen=True):
    """A name on one of them. As a text it is the name."""

    files: Files
    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Place:
        if self.files.is_local:
            return Place(self.files, str(Path(self.text) / name))
        return Place(self.files, f"{self.text}/{name}")

    @property
    def name(self) -> str:
        return self.text.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Place:
        if self.files.is_local:
            return Place(self.files, str(Path(self.text).parent))
        above = self.text.rstrip("/").rpartition("/")[0]
        return self if above.endswith("/") else Place(self.files, above)

    @property
    def parents(self) -> Iterator[Place]:
        """The nearest first."""
        place = self
        while (above := place.parent) != place:
            yield above
            place = above

    def real(self) -> Place:
        return Place(self.files, self.files.real(self.text))

    def afresh(self) -> Place:
        """To be looked at again, whatever is known of it."""
        return Place(self.files.afresh(), self.text)

    def is_file(self) -> bool:
        found = self.files.look(self.text)
        return found is not None and found.kind == "file"

    def is_folder(self) -> bool:
        return self.files.is_folder(self.text)

    def is_at(self, other: Place) -> bool:
        """It is the other one, or lies below it."""
        return self.files == other.files and is_below(self.text, other.text)

    def local(self, what: str) -> Path:
        """Raises: UsageError where it is in a bucket; `what` is what cannot be done there."""
        if not self.files.is_local:
            message = f"{what} is for local folders only: {self.text}"
            raise UsageError(message, hint="copy the folder to this machine first, or use the bucket's own tools")
        return Path(self.text)


def place_at(path: Path | Place) -> Place:
    """A path is a place on this machine."""
    return path if isinstance(path, Place) else Place(LOCAL, str(path))


def is_below(name: str, folder: str) -> bool:
    """One is the other, or lies below it: as texts."""
    return name == folder or name.startswith(folder.rstrip("/") + "/")


def _found(entry: os.DirEntry[str]) -> Found:
    status = entry.stat(follow_symlinks=False)
    return Found(entry.name, _kind(status.st_mode), status.st_size, status.st_mtime)


def _kind(mode: int) -> Kind:
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"
