"""Small stores for tests of the services: checkpoints of given files, at a fake clock that the test can move."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from eoctl.engines.directory import DirectorySource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.resolve import Resolved, resolve
from eoctl.services.values import Created
from formats.head import roots
from formats.ids import BlobKey, Era, HashAlgorithm, PipelineId
from formats.manifest import Manifest, StateFile, files_of
from storage import layout
from storage.backend import Backend, Key
from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.edits import Edit, raise_era
from storage.head import swap_head
from storage.session import open_writer
from storage.store import Store, init_store, open_store
from tests.support.fakes import FakeAmbient
from tests.support.places import local_place, memory_place

MIB = 1 << 20
_numbers = itertools.count()


def new_store(
    tmp_path: Path, *, memory: bool = True, hash_name: str = "blake3", world: FakeAmbient | None = None
) -> Store:
    """An empty store in memory or on disk below `tmp_path`; `world` is its clock."""
    place = memory_place(tmp_path / "memory" / "tmp") if memory else local_place(tmp_path / "store")
    return init_store(place, HashAlgorithm(hash_name), (world or FakeAmbient()).ambient())


def checkpoint(
    store: Store,
    pipeline: str,
    files: Mapping[str, bytes] | None = None,
    *,
    parts: Mapping[tuple[str, int], Mapping[str, bytes]] | None = None,
    **request: Any,
) -> Created:
    """A checkpoint of exactly these files, by an attempt of its own. `parts`: by operator and subtask."""
    name = PipelineId(pipeline)
    base = store.place.scratch.parent.parent / f"source-{next(_numbers)}"
    sources = []
    for (operator, subtask), contents in (parts or {("main", 0): files or {}}).items():
        root = base / operator / str(subtask)
        root.mkdir(parents=True)
        for path, data in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        sources.append(Part(source=DirectorySource(root), operator=operator, subtask=subtask))
    opened = Opened(store, name, *open_writer(store, name))
    created = create_checkpoint(opened, Request(parts=tuple(sources), **request))
    shutil.rmtree(base)
    return created


def copy_of(store: Store, tmp_path: Path, *, memory: bool = True, world: FakeAmbient | None = None) -> Store:
    """The same store in a place of its own, as another process opens it, some time later."""
    copied = memory_place(tmp_path / "memory" / "tmp") if memory else local_place(tmp_path / "store")
    for found in store.backend.list(Key("p")):
        overwrite(copied.backend, found.key, value_of(store.backend, found.key))
    overwrite(copied.backend, layout.STORE, value_of(store.backend, layout.STORE))
    if not memory:
        (tmp_path / "store" / "tmp").mkdir()
    world = world or FakeAmbient(process=2)
    world.seconds += 1000
    return open_store(copied, world.ambient())


def at(store: Store, address: str) -> Resolved:
    return resolve(store, address)


def manifest_at(store: Store, address: str) -> Manifest:
    resolved = at(store, address)
    return store.manifest(resolved.head, resolved.entry)


def file_at(store: Store, address: str, name: str) -> StateFile:
    """The state file of that name."""
    return next(file for _, _, file in files_of(manifest_at(store, address)) if file.name == name)


def edit(store: Store, pipeline: str, change: Edit) -> None:
    """HEAD of the pipeline has been changed."""
    ambient = store.ambient
    current = store.head(PipelineId(pipeline))
    swap_head(store.backend, current, change, ambient, txid=ambient.new_id(), attempt=None)  # type: ignore[arg-type]  # ids are text


def new_era(store: Store, pipeline: str, *, floor: bool = False) -> Era:
    """The pipeline is in a new era, as after an advance by gc."""
    edit(store, pipeline, lambda head: raise_era(head, floor=floor))
    return Era(store.head(PipelineId(pipeline)).head.era)


@cache
def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


@cache
def text(size: int, seed: int = 0) -> bytes:
    """Bytes that compress well."""
    chosen = random.Random(seed)
    words = [chosen.randbytes(8).hex().encode() for _ in range(64)]
    return b" ".join(chosen.choices(words, k=size // 17 + 1))[:size]


def mixed(size: int, seed: int = 0) -> bytes:
    """Bytes of which about half compress: large ones stay blobs of their own."""
    piece = 64 << 10
    parts = [(noise if number % 2 else text)(piece, seed + number) for number in range(size // piece + 1)]
    return b"".join(parts)[:size]


def value_of(backend: Backend, key: Key) -> bytes:
    with backend.open(key) as file:
        return file.read()


def overwrite(backend: Backend, key: Key, data: bytes | None) -> None:
    """What a bad disk or a careless hand does: the value is `data`, or gone."""
    match backend:
        case MemoryBackend():
            backend._values.pop(key.path, None)
            if data is not None:
                backend._put(key, data)
        case LocalBackend():
            path = Path(backend._root, key.path)
            path.unlink(missing_ok=True)
            if data is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        case _:
            raise AssertionError(backend)


def flip(backend: Backend, key: Key, offset: int) -> None:
    """One byte of the value is another."""
    data = bytearray(value_of(backend, key))
    data[offset] ^= 0x40
    overwrite(backend, key, bytes(data))


def truncate(backend: Backend, key: Key, size: int) -> None:
    overwrite(backend, key, value_of(backend, key)[:size])


def blob_name(pipeline: str, key: str | BlobKey) -> Key:
    return layout.blob(PipelineId(pipeline), BlobKey.parse(str(key)))


def manifest_name(store: Store, address: str) -> Key:
    resolved = at(store, address)
    return layout.manifest(resolved.pipeline, BlobKey.parse(resolved.entry.manifest))


def labels(store: Store, pipeline: str) -> list[str]:
    """Of every root."""
    return [root.label for root in roots(store.head(PipelineId(pipeline)).head)]


def three_checkpoints(store: Store, pipeline: str = "orders") -> None:
    """Checkpoints 1 to 3 whose files lie in every kind of place, some shared and some not."""
    big = noise(2 * MIB + MIB // 2, 1)
    first = {
        "CURRENT": b"MANIFEST-1\n",
        "a.sst": noise(MIB + 10, 2),
        "b.sst": mixed(3 * MIB, 3),
        "small/1.sst": noise(9000, 4),
        "small/2.sst": text(30_000, 5),
        "small/3.sst": noise(7000, 6),
        "big.db": big,
    }
    second = first | {
        "CURRENT": b"MANIFEST-2\n",
        "c.sst": noise(MIB + 20, 7),
        "small/1.sst": noise(9100, 8),
        "big.db": big[: 5 * 65536] + noise(65536, 9) + big[6 * 65536 :],
    }
    del second["b.sst"], second["small/3.sst"]
    third = second | {
        "CURRENT": b"MANIFEST-3\n",
        "d.sst": mixed(2 * MIB + MIB // 2, 10),
        "small/2.sst": noise(5000, 11),
    }
    del third["a.sst"]
    for files in (first, second, third):
        checkpoint(store, pipeline, files)
