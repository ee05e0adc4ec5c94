"""A disk that forgets: what a log of system calls leaves after a power cut, under the least that a sync promises.

The rules, stricter than any file system we know:

- fsync of a file keeps the bytes written to it so far, not its name; fsync of a directory keeps the names put into
  it or taken out of it so far, not the bytes behind them, nor the directory's own name in its parent.
- Whatever was not synced may be lost, each effect for itself: a write, a name, the removal of a name.
- One name is put in place, or replaced, as a whole. A rename between directories is two effects, one in each.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.support.crash.tracing import Call

_IGNORED = frozenset({"flock"})  # locks are of the kernel, and gone after a power cut


@dataclass(frozen=True, slots=True)
class Wrote:
    """Bytes at an offset of a file. `data` may be short where nobody wants to see an image."""

    inode: int
    offset: int
    size: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Named:
    """A directory's name means an inode from now on, or nothing."""

    directory: int
    name: str
    inode: int | None


Effect = Wrote | Named


@dataclass(frozen=True, slots=True)
class Image:
    """What is found after the cut: each directory, and each file with its content; names relative to the disk."""

    directories: frozenset[str]
    files: frozenset[tuple[str, bytes]] = field(repr=False)


class Disk:
    """Plays a log, call by call. What was at `root` before is durable."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inodes = itertools.count(1)
        self._directories = {0}
        self._sizes: dict[int, int] = {}
        self._effects: list[Effect] = []
        self._synced: list[bool] = []
        self._names: dict[int, dict[str, int]] = {0: {}}  # as a running process sees them
        self._adopt(root, 0)
        self._synced = [True] * len(self._effects)

    def play(self, call: Call) -> None:
        """The effects of the call are in memory; those that it syncs are on the disk."""
        if call.returned is None or call.returned < 0 or call.name in _IGNORED:
            return
        paths = [self._relative(path) for path in call.paths]
        match call.name:
            case "openat" | "open":
                if self._find(paths[-1]) is None:
                    self._name(paths[-1], self._new_file())
            case "write":
                self._write(paths[0], call.data, call.returned)
            case "fsync" | "fdatasync":
                self._sync(paths[0])
            case "mkdir" | "mkdirat":
                self._name(paths[-1], self._new_directory())
            case "link" | "linkat":
                self._name(paths[1], self._at(paths[0]))
            case "rename" | "renameat" | "renameat2":
                self._name(paths[1], self._at(paths[0]))
                self._name(paths[0], None)
            case "unlink" | "unlinkat" | "rmdir":
                self._name(paths[-1], None)
            case _:
                raise NotImplementedError(call)

    def unsynced(self) -> list[int]:
        """Numbers of the effects that a power cut may take back, oldest first."""
        return [number for number, synced in enumerate(self._synced) if not synced]

    def path_of(self, effect: int) -> str:
        """The name that the effect is about, as a running process would say it; of bytes, any name they have."""
        match self._effects[effect]:
            case Named(directory=directory, name=name):
                return f"{self._path_of(directory)}{name}"
            case Wrote(inode=inode):
                return self._path_of(inode).rstrip("/")

    def bytes_synced(self, path: str) -> bool:
        """Everything written to the file by now would survive."""
        inode = self._at(path)
        return all(
            synced
            for effect, synced in zip(self._effects, self._synced, strict=True)
            if isinstance(effect, Wrote) and effect.inode == inode
        )

    def image(self, lost: Collection[int] = ()) -> Image:
        """What is there if just the `lost` effects are."""
        names: dict[int, dict[str, int]] = {inode: {} for inode in self._directories}
        parts: dict[int, list[Wrote]] = {}
        for number, effect in enumerate(self._effects):
            if number in lost:
                continue
            match effect:
                case Named(directory=directory, name=name, inode=None):
                    names[directory].pop(name, None)
                case Named(directory=directory, name=name, inode=int() as inode):
                    names[directory][name] = inode
                case Wrote(inode=inode):
                    parts.setdefault(inode, []).append(effect)
        directories, files = set(), set()
        for path, inode in _walk(names, 0, ""):
            if inode in self._directories:
                directories.add(path)
            else:
                files.add((path, _content(parts.get(inode, []))))
        return Image(frozenset(directories), frozenset(files))

    def _adopt(self, folder: Path, inode: int) -> None:
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                made = self._new_directory()
                self._adopt(Path(entry.path), made)
            else:
                made = self._new_file()
                data = Path(entry.path).read_bytes()
                self._effects.append(Wrote(made, 0, len(data), data))
                self._sizes[made] = len(data)
            self._effects.append(Named(inode, entry.name, made))
            self._names[inode][entry.name] = made

    def _new_file(self) -> int:
        inode = next(self._inodes)
        self._sizes[inode] = 0
        return inode

    def _new_directory(self) -> int:
        inode = next(self._inodes)
        self._directories.add(inode)
        self._names[inode] = {}
        return inode

    def _write(self, path: str, data: bytes, size: int) -> None:
        """Every file here is written once, from its start to its end."""
        inode = self._at(path)
        self._add(Wrote(inode, self._sizes[inode], size, data[:size]))
        self._sizes[inode] += size

    def _sync(self, path: str) -> None:
        inode = self._at(path)
        for number, effect in enumerate(self._effects):
            if (effect.directory if isinstance(effect, Named) else effect.inode) == inode:
                self._synced[number] = True

    def _name(self, path: str, inode: int | None) -> None:
        above, name = PurePosixPath(path).parent, PurePosixPath(path).name
        directory = self._at(str(above))
        if inode is None:
            del self._names[directory][name]
        else:
            self._names[directory][name] = inode
        self._add(Named(directory, name, inode))

    def _add(self, effect: Effect) -> None:
        self._effects.append(effect)
        self._synced.append(False)

    def _relative(self, path: str) -> str:
        return str(PurePosixPath(path).relative_to(self._root))

    def _find(self, path: str) -> int | None:
        inode: int | None = 0
        for part in PurePosixPath(path).parts:
            inode = None if inode is None else self._names.get(inode, {}).get(part)
        return inode

    def _at(self, path: str) -> int:
        inode = self._find(path)
        assert inode is not None, f"a call names what is not there: {path}"
        return inode

    def _path_of(self, inode: int) -> str:
        return next((f"{path}/" for path, found in _walk(self._names, 0, "") if found == inode), "")


def write_image(image: Image, to: Path, pool: Path) -> None:
    """The image is on a real disk. Files of one content are one file of the pool: a store never writes into one."""
    to.mkdir()
    for directory in sorted(image.directories):
        (to / directory).mkdir()
    for name, data in image.files:
        shared = pool / hashlib.blake2b(data, digest_size=20).hexdigest()
        if not shared.exists():
            shared.write_bytes(data)
        os.link(shared, to / name)


def _walk(names: dict[int, dict[str, int]], inode: int, prefix: str) -> Iterator[tuple[str, int]]:
    for name, found in names[inode].items():
        yield f"{prefix}{name}", found
        if found in names:
            yield from _walk(names, found, f"{prefix}{name}/")


def _content(parts: list[Wrote]) -> bytes:
    """Bytes that were lost between others read as zeros."""
    assert all(len(part.data) == part.size for part in parts), "the log was cut: ask for data, raise MAX_DATA_BYTES"
    if len(parts) == 1 and parts[0].offset == 0:
        return parts[0].data
    data = bytearray(max((part.offset + len(part.data) for part in parts), default=0))
    for part in parts:
        data[part.offset : part.offset + len(part.data)] = part.data
    return bytes(data)
