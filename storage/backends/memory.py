"""A backend in memory: the reference for what the six verbs mean, and the fast one in tests."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from storage.backend import (
    Body,
    CopyOf,
    Folder,
    Found,
    Key,
    KeyAbsentError,
    LocalFile,
    Reach,
    Unfinished,
    Version,
    VersionMismatchError,
    version_of,
)


class MemoryBackend:
    """All verbs under one lock. `clock` gives the store's time in seconds since 1970."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._values: dict[str, tuple[bytes, float]] = {}

    def stat(self, key: Key) -> Found | None:
        with self._lock:
            return self._found(key.path) if key.path in self._values else None

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        with self._lock:
            data = self._value(key)
        return io.BytesIO(data[start:] if length is None else data[start : start + length])

    def create(self, key: Key, body: Body) -> bool:
        match body:
            case LocalFile(path=path):
                data = path.read_bytes()
                path.unlink()
            case CopyOf(key=source):
                with self._lock:
                    data = self._value(source)
            case _:
                data = bytes(body)
        with self._lock:
            if key.path in self._values:
                return False
            self._put(key, data)
            return True

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        with self._lock:
            if version_of(self._value(key)) != expected:
                message = f"{key} has changed"
                raise VersionMismatchError(message)
            self._put(key, body)

    def list(self, prefix: Key, *, reach: Reach = Reach.ALL) -> Iterator[Found | Folder | Unfinished]:
        start = f"{prefix}/"
        with self._lock:
            names = sorted(name for name in self._values if name.startswith(start))
            found = [self._found(name) for name in names]
        if reach is Reach.ALL:
            yield from found
        elif reach is Reach.FOLDERS:
            parts = [name[len(start) :].partition("/") for name in names]
            folders = sorted({f"{name}/" for name, slash, _ in parts if slash})
            yield from (Folder(Key(start + name[:-1])) for name in folders)

    def delete(self, keys: Iterable[Key | Unfinished]) -> None:
        for key in keys:
            with self._lock:
                if isinstance(key, Key):
                    self._values.pop(key.path, None)

    def _value(self, key: Key) -> bytes:
        if key.path not in self._values:
            message = f"there is no {key}"
            raise KeyAbsentError(message)
        return self._values[key.path][0]

    def _found(self, name: str) -> Found:
        data, modified_at = self._values[name]
        return Found(Key(name), len(data), modified_at)

    def _put(self, key: Key, data: bytes) -> None:
        self._values[key.path] = (data, self._clock())
