"""What the place of a store can do, found by trying it in its scratch directory; nothing is assumed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from formats.errors import EoctlError
from storage.backend import Backend, Key, KeyAbsentError, VersionMismatchError, version_of
from storage.backends.probe import file_system_of, is_network
from storage.files import FICLONE
from storage.store import Store

YES = "yes"
UNKNOWN = "not known: not writable"


def find_capabilities(store: Store) -> dict[str, str]:
    """Each with `yes`, or `no` and why. What needs a write and got none is `not known`."""
    name = f"probe-{store.ambient.new_id()}"
    scratch = store.place.scratch
    found = _of_backend(store.backend, Key(f"tmp/{name}/HEAD"))
    if Path(store.place.url) in scratch.parents:  # the store is a directory, and its scratch lies in it
        directory = scratch / name
        found |= _of_directory(directory, writable=found["writable"] == YES)
        kind = file_system_of(scratch)
        found["file_system"] = kind
        found["network_file_system"] = YES if is_network(kind) else "no"
        with contextlib.suppress(OSError):
            found["free_bytes"] = str(shutil.disk_usage(store.place.url).free)
        shutil.rmtree(directory, ignore_errors=True)
    return found


def _of_backend(backend: Backend, key: Key) -> dict[str, str]:
    """Whether values can be written, and whether the two conditions that the protocol rests on are kept."""
    found = {"writable": YES, "atomic_create": UNKNOWN, "compare_and_swap": UNKNOWN}
    try:
        backend.create(key, b"1")
        created = backend.create(key, b"2")
        kept = _value(backend, key) == b"1" and not created
        found["atomic_create"] = YES if kept else "no: creating a value that exists was not refused"
        backend.swap(key, b"3", version_of(_value(backend, key)))
        found["compare_and_swap"] = YES
        try:
            backend.swap(key, b"4", version_of(b"1"))
            found["compare_and_swap"] = "no: a swap of a value that had changed was not refused"
        except VersionMismatchError:
            if _value(backend, key) != b"3":
                found["compare_and_swap"] = "no: a refused swap took effect"
    except (EoctlError, KeyAbsentError) as error:
        found["writable"] = f"not writable: {error.message}"
    with contextlib.suppress(EoctlError):
        backend.delete([key])
    return found


def _value(backend: Backend, key: Key) -> bytes:
    with backend.open(key) as file:
        return file.read()


def _of_directory(directory: Path, *, writable: bool) -> dict[str, str]:
    tries: dict[str, Callable[[Path, Path], None]] = {"fsync": _sync, "hard_links": _link, "reflinks": _clone}
    if not writable:
        return dict.fromkeys(tries, UNKNOWN)
    found = {}
    source = directory / "source"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        source.write_bytes(b"x" * 4096)
    except OSError as error:
        return dict.fromkeys(tries, f"not known: {error.strerror}")
    for name, attempt in tries.items():
        try:
            attempt(source, directory / name)
            found[name] = YES
        except OSError as error:
            found[name] = f"no: {_said(error)}"
    return found


def _said(error: OSError) -> str:
    return "the file system has none" if error.errno in {errno.EOPNOTSUPP, errno.ENOTTY} else error.strerror or "failed"


def _sync(source: Path, _: Path) -> None:
    """The file and its directory are synced, as the disk says."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    descriptor = os.open(source.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    target.hardlink_to(source)


def _clone(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("xb") as writer:
        fcntl.ioctl(writer.fileno(), FICLONE, reader.fileno())
