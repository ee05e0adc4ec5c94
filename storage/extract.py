"""Writing state files into a fresh directory: every byte hashed, nothing visible before all are right.

Files are made through descriptors of their directories, never over a path that somebody else could have put a
link into, and never over an existing name. Slices of one pack are written together, in the order in which they
lie. `link` gives a restored file the store's own inode (or a clone of it): instant and unchecked, for files
that nobody will write into.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import io
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct, field

from formats.errors import UsageError
from formats.manifest import Slice, StateFile, Whole, blob_key
from formats.names import check_file_names
from storage import layout
from storage.backends.scratch import locked
from storage.blobs import CHUNK_BYTES, Blobs
from storage.files import FICLONE, write_all
from storage.os_errors import told
from storage.transfer import REMOTE_THREADS, THREADS, Moving, Portion, each

MANY_FILES = 64  # from here on one sync of the file system is cheaper than one of each file
HOLE_BYTES = 64 << 10
_ZEROS = bytes(CHUNK_BYTES)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Extracted(Struct):
    """What was written so far. `moving`: of files under way."""

    moving: Moving = field(default_factory=Moving)
    total_bytes: int = 0
    files: int = 0
    linked_files: int = 0

    @property
    def moving_bytes(self) -> int:
        return self.moving.bytes


class Extraction(Struct, frozen=True, kw_only=True):
    """Restores files of one pipeline, of a place that may be far away (`remote`).

    `progress` is called from the calling thread.
    """

    blobs: Blobs
    link: bool = False
    remote: bool = False
    progress: Callable[[Extracted], None] = lambda _: None
    done: Extracted = field(default_factory=Extracted)

    def tree(self, root: Path, files: Sequence[StateFile], empty_directories: Sequence[str]) -> None:
        """The files are below `root`, a directory of ours, with their right content. Not synced yet.

        Raises: BadNameError, NameClashError, BlobGoneError, CorruptError, NoSpaceError.
        """
        check_file_names([*(file.name for file in files), *empty_directories])
        with told(root):
            folders = _Folders(root)
        try:
            with told(root):
                for name in [*(file.name.rpartition("/")[0] for file in files), *empty_directories]:
                    folders.open(name)
            self._all_packs(folders, _packs(files))
            single = (file for file in files if not isinstance(file.place, Slice))
            threads = REMOTE_THREADS if self.remote else THREADS
            work = each(single, lambda file: self._single(folders, file), threads=threads, tick=self._tell)
            with closing(work) as singles:
                for file, linked in singles:
                    self.done.linked_files += linked
                    self.done.moving.add(-file.bytes)
                    self._count([file])
        finally:
            folders.close()

    def _count(self, files: Sequence[StateFile]) -> None:
        self.done.files += len(files)
        self.done.total_bytes += sum(file.bytes for file in files)
        self._tell()

    def _tell(self) -> None:
        self.progress(self.done)

    def _all_packs(self, folders: _Folders, packs: Mapping[str, Sequence[StateFile]]) -> None:
        """Small files: of a local pack in the calling thread, as taking turns costs more than it gains."""
        if not self.remote:
            for pack in sorted(packs):
                self._pack(folders, pack, packs[pack])
                self._count(packs[pack])
            return
        work = each(sorted(packs), lambda pack: self._pack(folders, pack, packs[pack]), tick=self._tell)
        with closing(work) as fetched:
            for pack, _ in zip(sorted(packs), fetched, strict=True):
                self._count(packs[pack])

    def _pack(self, folders: _Folders, pack: str, files: Sequence[StateFile]) -> None:
        """The small files of one pack are there. Holds it in memory."""
        with told(folders.root):
            for file, data in self.blobs.slices(pack, files):
                folder, _, name = file.name.rpartition("/")
                descriptor = os.open(name, _NEW, 0o666, dir_fd=folders.open(folder))
                try:
                    if len(data) < HOLE_BYTES:
                        write_all(descriptor, data)
                    else:
                        _write_sparse(descriptor, _pieces(data))
                finally:
                    os.close(descriptor)

    def _single(self, folders: _Folders, file: StateFile) -> tuple[StateFile, bool]:
        """A file that is not in a pack, and whether it shares the bytes of its blob. Runs in several threads."""
        folder, _, name = file.name.rpartition("/")
        portion = Portion(self.done.moving, file.bytes)
        was_written = portion.stage(file.bytes)
        with told(folders.root / file.name):
            directory = folders.open(folder)
            if self.link and self._share(file, directory, name):
                portion.end()
                return file, True
            descriptor = os.open(name, _NEW, 0o666, dir_fd=directory)
            try:
                _write_sparse(descriptor, self.blobs.content(file), was_written)
            finally:
                os.close(descriptor)
        return file, False

    def _share(self, file: StateFile, directory: int, name: str) -> bool:
        """The file shares the bytes of its blob, by clone or hard link. False where it has to be written."""
        if not isinstance(file.place, Whole) or file.place.codec != "raw":
            return False
        with self.blobs.backend.open(layout.blob(self.blobs.pipeline, blob_key(file, file.place))) as blob:
            if not isinstance(blob, io.FileIO) or os.fstat(blob.fileno()).st_size != file.bytes:
                return False
            descriptor = os.open(name, _NEW, 0o666, dir_fd=directory)
            try:
                fcntl.ioctl(descriptor, FICLONE, blob.fileno())
            except OSError:
                os.unlink(name, dir_fd=directory)
            else:
                return True
            finally:
                os.close(descriptor)
            try:
                os.link(f"/proc/self/fd/{blob.fileno()}", name, dst_dir_fd=directory, follow_symlinks=True)
            except OSError as error:
                if error.errno in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOENT, errno.EOPNOTSUPP}:
                    return False
                raise
            return True


class _Folders:
    """Descriptors of the directories below `root`, each made by us and opened without following a link."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._open = {"": os.open(root, _DIRECTORY)}

    def open(self, name: str) -> int:
        descriptor = self._open.get(name)
        if descriptor is None:
            with self._lock:
                descriptor = self._made(name)
        return descriptor

    def _made(self, name: str) -> int:
        if name not in self._open:
            parent, _, last = name.rpartition("/")
            above = self._made(parent)
            os.mkdir(last, dir_fd=above)
            self._open[name] = os.open(last, _DIRECTORY, dir_fd=above)
        return self._open[name]

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


def _pieces(data: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield view[start : start + CHUNK_BYTES]


def _packs(files: Sequence[StateFile]) -> dict[str, list[StateFile]]:
    """The files that lie in packs, by pack, in the order in which they lie there."""
    packs: dict[str, list[tuple[int, str, StateFile]]] = {}
    for file in files:
        if isinstance(file.place, Slice):
            packs.setdefault(file.place.pack, []).append((file.place.offset, file.name, file))
    return {pack: [file for _, _, file in sorted(members)] for pack, members in packs.items()}


def _write_sparse(
    descriptor: int, parts: Iterator[bytes | memoryview], was_written: Callable[[int], None] = lambda _: None
) -> None:
    """Every part is in the file; long runs of zeros are holes."""
    size = 0
    hole = False
    for part in parts:
        was_written(len(part))
        size += len(part)
        hole = len(part) >= HOLE_BYTES and part == _ZEROS[: len(part)]
        if hole:
            os.lseek(descriptor, len(part), os.SEEK_CUR)
        else:
            write_all(descriptor, part)
    if hole:
        os.ftruncate(descriptor, size)


def sync_tree(root: Path, files: int) -> None:
    """Everything below `root` survives a power loss. Raises: what the disk says."""
    with told(root):
        if files > MANY_FILES and _sync_file_system(root):
            return
        for folder, _, names in os.walk(root, topdown=False):
            for name in names:
                _sync(os.path.join(folder, name), os.O_RDONLY)
            _sync(folder, _DIRECTORY)


def _sync_file_system(root: Path) -> bool:
    """One `syncfs` of the file system that holds `root`; False where the system has none."""
    import ctypes  # noqa: PLC0415  (start-up)

    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:
        return False
    descriptor = os.open(root, _DIRECTORY)
    try:
        if syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(root))
    finally:
        os.close(descriptor)
    return True


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def fresh_directory(target: Path) -> Iterator[Path]:
    """A directory beside `target` that becomes `target` at the end of the context, or is gone after an error.

    `target` must not exist, or be an empty directory. What a killed run left beside it is cleared away.
    Raises: UsageError (something is there), AccessDeniedError, NoSpaceError, UnavailableError.
    """
    target = target.absolute()
    with told(target):
        _check_free(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(target)
        lock: int | None = None
        while lock is None:
            temporary = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
            lock = locked(temporary)
    try:
        with told(target):
            temporary.chmod(0o755)
        yield temporary
        with told(target):
            _check_free(target)
            os.rename(temporary, target)
            _sync(str(target.parent), _DIRECTORY)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _prefix(target: Path) -> str:
    return f".{target.name}.eoctl-"


def _check_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"the target is not a directory: {target}", hint="name a new or an empty directory")
    if target.is_dir() and any(target.iterdir()):
        raise UsageError(f"the target is not empty: {target}", hint="name a new or an empty directory")


def _clear_leftovers(target: Path) -> None:
    """Directories of runs that died: nobody holds their lock."""
    for leftover in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        if leftover.is_symlink() or not leftover.is_dir():
            continue
        descriptor = os.open(leftover, _DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
