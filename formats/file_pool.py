"""Many files, of which only some are open at a time: a large state has more tables than a process may open files."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

MAX_OPEN = 64


class OpenFile(Protocol):
    """What a pool opens and closes; `seek` says the new place."""

    def seek(self, offset: int, whence: int = 0, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class FilePool:
    """Opens files when they are read, and closes the one that was not read for longest."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self._limit = limit
        self._open: OrderedDict[PooledFile, OpenFile] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """No file is open; one that is read again is opened again."""
        while self._open:
            self._open.popitem()[1].close()

    def add(self, open_file: Callable[[], OpenFile]) -> PooledFile:
        return PooledFile(self, open_file)

    def opened(self, file: PooledFile) -> OpenFile:
        found = self._open.get(file)
        if found is None:
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)[1].close()
            found = self._open[file] = file.open()
        self._open.move_to_end(file)
        return found


class PooledFile:
    """A file of a pool: what reading takes."""

    closed = False  # as those ask who take any file

    def __init__(self, pool: FilePool, open_file: Callable[[], OpenFile]) -> None:
        self.open = open_file
        self._pool = pool
        self._at = 0

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == io.SEEK_END:
            self._at = self._pool.opened(self).seek(offset, whence)
        else:
            self._at = offset + (self._at if whence == io.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        file = self._pool.opened(self)
        file.seek(self._at)
        data = file.read(size)
        self._at += len(data)
        return data
