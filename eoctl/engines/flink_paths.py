"""From what a handle says to a file, and never to one that a snapshot has no business with.

A snapshot is somebody's file: whatever it says is a claim. A relative handle leads into the snapshot's own folder; an
absolute one below the checkpoint root, in the shape that Flink gives it (`JOB/shared`, `JOB/taskowned`, `JOB/chk-N`),
or below a place that the user has named. Links are followed only as long as they stay there. Nothing else is looked
at: not even whether it exists. Another bucket is another file system, and so is this machine for what lies in a bucket.

A snapshot that was moved still names its old place. Where that is not below the root, the same path from the job's
folder on is looked for below the root that the snapshot lies in.
"""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct, field

from eoctl.engines.flink_files import LOCAL, Files, Place, is_below, place_at
from formats.errors import AccessDeniedError, CorruptError, UnsupportedError
from formats.flink.handles import AbsoluteFile, EmptySegment, Inline, RelativeFile, Segment, StreamHandle, leaf_of

JOB = re.compile(r"[0-9a-f]{32}\Z")
CHECKPOINT = re.compile(r"chk-([0-9]{1,18})\Z")
_BUCKET = re.compile(r"s3[ap]?://")
OWN_FOLDERS = frozenset({"shared", "taskowned", "dstl"})
_HOME_DEPTH = 4
_ALLOW = "--map-path OLD=NEW says where it is now; OLD=OLD allows the place"


class Mapping(Struct, frozen=True):
    """What handles say begins with `old` lies below `new`."""

    old: str
    new: Path | Place

    @property
    def place(self) -> Place:
        return place_at(self.new)


class Located(Struct, frozen=True, gc=False):
    """A file, or a part of it. `moved`: Flink would look elsewhere. `size`: of the part."""

    path: str
    start: int
    size: int
    whole: bool
    moved: bool = False
    files: Files = LOCAL


class Root(Struct, frozen=True, kw_only=True):
    """What job folders lie below. `named`: the user has named it, so that everything below may be looked at.

    `homes`: the folders in which there are job folders.
    """

    path: Place
    homes: tuple[str, ...]
    named: bool = True


class Paths(Struct, frozen=True, kw_only=True):
    """Where the handles of one snapshot may lead. All folders are real paths, without links.

    `root`: None where the snapshot is no job's.
    """

    folder: Place
    root: Root | None
    mappings: tuple[Mapping, ...] = ()
    known_folders: dict[str, tuple[Place, bool]] = field(default_factory=dict)  # of a handle -> real one, moved

    def locate(self, handle: StreamHandle) -> Located | None:
        """Where the bytes of the handle lie; None: in `_metadata`, or nowhere as there are none. It may be missing.

        Raises: AccessDeniedError (it leads astray), UnsupportedError (it is of another file system).
        """
        match leaf_of(handle):
            case RelativeFile(path=name, size=size):
                files = self.folder.files
                return Located(_below(self.folder, name, name), 0, size, whole=True, files=files)
            case AbsoluteFile(path=name, size=size):
                path, files, moved = self._absolute(name)
                return Located(path, 0, size, whole=True, moved=moved, files=files)
            case Segment(path=name, start=start, size=size):
                path, files, moved = self._absolute(name)
                return Located(path, start, size, whole=False, moved=moved, files=files)
        return None

    def open(self, handle: StreamHandle) -> BinaryIO:
        """A reader of the bytes of the handle, for the caller to close.

        Raises: AccessDeniedError, UnsupportedError, CorruptError where it is missing or too short.
        """
        found = leaf_of(handle)
        match found:
            case Inline(data=data):
                return io.BytesIO(data)
            case None | EmptySegment():
                return io.BytesIO()
        located = self.locate(found)
        assert located is not None
        # What is in a bucket is looked at by reading it.
        if located.files.is_local and (fault := fault_of(located, exact=False)) is not None:
            raise CorruptError(f"{located.path} {fault}", hint="eoctl checkpoint verify says what else is missing")
        if located.whole:
            return located.files.open(located.path)
        return located.files.open(located.path, located.start, located.size)

    def _absolute(self, name: str) -> tuple[str, Files, bool]:
        folder, _, base = name.rpartition("/")
        if base in {"", ".", ".."} or "\0" in base:
            raise _astray(self.root, name)
        # A hundred thousand files lie in a few folders: what is asked of a folder is asked once.
        known = self.known_folders.get(folder)
        if known is None:
            known = self.known_folders[folder] = self._folder(folder, name)
        place, moved = known
        path = f"{place}/{base}"
        if place.files.is_link(path):
            path = place.files.real(path)
            if not self._allows(Place(place.files, path.rpartition("/")[0])):
                raise _astray(self.root, name)
        return path, place.files, moved

    def _allows(self, folder: Place) -> bool:
        """A file in that real folder may be looked at."""
        if any(folder.is_at(each.place) for each in self.mappings):
            return True
        if self.root is None or not folder.is_at(self.root.path):
            return False
        return self.root.named or _is_flinks(folder.text[len(self.root.path.text) :].strip("/").split("/"))

    def _folder(self, folder: str, name: str) -> tuple[Place, bool]:
        """The real folder of a handle, and whether Flink would look elsewhere."""
        mapped = self._mapped(folder, name)
        if mapped is not None:
            return mapped
        files = self.folder.files
        own = files.own(folder)
        if own is not None and self.root is not None:
            real = Place(files, files.real(own))
            if self._allows(real):
                return real, False
        tail = _from_job(folder)
        if tail is not None and self.root is not None:
            for home in self.root.homes:
                if files.is_folder(f"{home}/{tail[0]}") and files.is_folder(f"{home}/{tail[0]}/{tail[1]}"):
                    return Place(files, _below(Place(files, home), "/".join(tail), name)), True
        if own is None:
            message = f"a handle names another file system: {name[:300]!r}"
            raise UnsupportedError(message, hint=f"copy the files to this machine, and tell where: {_ALLOW}")
        raise _astray(self.root, name)

    def _mapped(self, folder: str, name: str) -> tuple[Place, bool] | None:
        spelled = _spelled(folder)
        found = [each for each in self.mappings if is_below(spelled, _spelled(each.old))]
        if not found:
            return None
        mapping = max(found, key=lambda each: len(_spelled(each.old)))
        old, new = _spelled(mapping.old), mapping.place
        rest = spelled[len(old) :].strip("/")
        return Place(new.files, _below(new, rest, name)) if rest else new, old != _spelled(new.text)


def _below(folder: Place, name: str, told_name: str) -> str:
    """The real path of `name` below `folder`, a real one. Raises: AccessDeniedError."""
    if name.startswith("/") or "\0" in name or any(part in {"", ".", ".."} for part in name.split("/")):
        raise AccessDeniedError(f"a handle leads out of {folder}: {told_name[:300]!r}", hint=_ALLOW)
    path = f"{folder}/{name}"
    if "/" in name or folder.files.is_link(path):
        path = folder.files.real(path)
    if not is_below(path, folder.text):
        raise AccessDeniedError(f"a handle leads out of {folder} by a link: {told_name[:300]!r}", hint=_ALLOW)
    return path


def _astray(root: Root | None, name: str) -> AccessDeniedError:
    where = "the snapshot's folder" if root is None else str(root.path)
    return AccessDeniedError(f"a handle leads out of {where}: {name[:300]!r}", hint=_ALLOW)


def paths_of(folder: Path | Place, mappings: tuple[Mapping, ...] = (), root: Root | None = None) -> Paths:
    """What a snapshot in `folder` may lead to. Where no root is named, it is the parent of the job's folder."""
    real = place_at(folder).real()
    if root is not None and root.path.files != real.files:
        root = None
    if root is None and CHECKPOINT.match(real.name):
        home = real.parent.parent if JOB.match(real.parent.name) else real.parent
        root = Root(path=home, homes=(str(home),), named=False)
    elif root is not None:  # several may have a folder of that job: the nearest is meant
        nearest = sorted(root.homes, key=lambda home: -len(os.path.commonpath([home, real.text])))
        root = Root(path=root.path, homes=tuple(nearest), named=True)
    real_mappings = tuple(Mapping(each.old, real.files.reached(each.place.real())) for each in mappings)
    return Paths(folder=real, root=root, mappings=real_mappings)


def named_root(path: Path | Place) -> Root:
    """The root that the user has named: a folder of jobs, of such folders, or a job's own."""
    real = place_at(path).real()
    real.files.know(real.text)
    homes = [str(real.parent)] if JOB.match(real.name) else []
    level = [str(real)]
    for _ in range(_HOME_DEPTH):
        below: list[str] = []
        for folder in level:
            names = [entry.name for entry in real.files.entries(folder) if entry.kind == "folder"]
            if any(JOB.match(name) for name in names):
                homes.append(folder)
            else:
                below += [f"{folder}/{name}" for name in names]
        level = below
    return Root(path=real, homes=tuple(homes))


def fault_of(located: Located, *, exact: bool = True) -> str | None:
    """What is wrong with the file as far as a look tells: missing, no file, of another size. None: nothing."""
    try:
        found = located.files.look(located.path)
    except (AccessDeniedError, UnsupportedError) as error:
        return f"cannot be looked at: {error.message}"
    if found is None:
        return "is missing"
    if found.kind != "file":
        return "is no file"
    if found.bytes < located.start + located.size or (exact and located.whole and found.bytes != located.size):
        return f"has {found.bytes} bytes, not {located.start + located.size}"
    return None


def _spelled(name: str) -> str:
    """A name as it is compared: a local one as its path, another with its scheme; without a slash at the end."""
    path = LOCAL.own(name)
    return (_BUCKET.sub("s3://", name) if path is None else path).rstrip("/") or "/"


def _from_job(folder: str) -> list[str] | None:
    """The parts from the job's folder on, where Flink's shape shows in the name of a file's folder."""
    parts = folder.split("/")
    for index in range(len(parts) - 2, -1, -1):
        if JOB.match(parts[index]) and _is_flinks(parts[index:]):
            return parts[index:]
    return None


def _is_flinks(parts: list[str]) -> bool:
    """The parts from the root on are those of a folder in which a job has files."""
    if len(parts) >= 2 and JOB.match(parts[0]):
        return parts[1] in OWN_FOLDERS or CHECKPOINT.match(parts[1]) is not None
    return False
