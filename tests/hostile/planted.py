"""A real local store with something hostile planted in it, and everything that a user would then do with it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from eoctl.services.diff import diff
from eoctl.services.explain import explain
from eoctl.services.gc import Options, collect
from eoctl.services.inspect import inspect, list_files
from eoctl.services.resolve import Resolved, resolve
from eoctl.services.restore import restore
from eoctl.services.stats import store_stats
from eoctl.services.verify import verify
from formats.canonical import encode
from formats.errors import EoctlError, UnsupportedError
from formats.head import Head, HeadEntry, encode_head
from formats.ids import BlobKey, Era, HashAlgorithm
from formats.manifest import Manifest
from storage import layout
from storage.backend import Key
from storage.backends.memory import MemoryBackend
from storage.store import Store, open_store
from tests.hostile.case import packed
from tests.hostile.specimen import CONTENTS, PIPELINE, specimen
from tests.support.fakes import FakeAmbient
from tests.support.places import local_place

Changes = Mapping[str, bytes | None]

HURT, GOOD = "4", "3"
HEAD = layout.head(PIPELINE).path
HASH = HashAlgorithm.BLAKE3


class Base(NamedTuple):
    """The specimen store as it is before anything is planted: every stored value, and its newest snapshot."""

    values: dict[str, bytes]
    head: Head
    manifest: Manifest

    @property
    def plain(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(encode(self.manifest))
        return found


@cache
def base() -> Base:
    scratch = Path(tempfile.mkdtemp())
    try:
        store = specimen(scratch)
        assert isinstance(store.backend, MemoryBackend)
        head = store.head(PIPELINE).head
        values = {name: data for name, (data, _) in store.backend._values.items()}
        return Base(values, head, store.manifest(head, entry(head)))
    finally:
        shutil.rmtree(scratch)


def entry(head: Head) -> HeadEntry:
    return next(found for found in head.live if found.label == HURT)


def key_of(stored: bytes, era: int = 4) -> BlobKey:
    return BlobKey(HASH.digest(stored), Era(era))


def blob_path(stored: bytes, era: int = 4) -> str:
    """Where these bytes lie as a blob."""
    return layout.blob(PIPELINE, key_of(stored, era)).path


def with_manifest(stored: bytes) -> dict[str, bytes]:
    """The values with which the newest snapshot has these bytes for its manifest, under their right digest."""
    head, key = base().head, key_of(stored)
    changed = msgspec.structs.replace(entry(head), manifest=str(key), manifest_bytes=len(stored))
    live = tuple(changed if found.label == HURT else found for found in head.live)
    return {
        layout.manifest(PIPELINE, key).path: stored,
        HEAD: encode_head(msgspec.structs.replace(head, live=live)),
    }


def with_record(manifest: Manifest) -> dict[str, bytes]:
    """As `with_manifest`, of a manifest that is right as a record and lies about blobs."""
    return with_manifest(packed(encode(manifest)))


def plant(box: Path, changes: Changes) -> Path:
    """The specimen is a store in `box/store`, with other values under these keys, or none."""
    root = box / "store"
    for name, data in (base().values | dict(changes)).items():
        if data is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    for folder in layout.folders(PIPELINE)[-1:]:
        (root / folder.path).mkdir(exist_ok=True)
    return root


def opened(root: Path) -> Store:
    return open_store(local_place(root), FakeAmbient(process=7).ambient())


def drive(root: Path, *, readable: bool = False, by_drill: bool = False) -> None:
    """Everything that reads the hurt snapshot; raises what its restore raises. The snapshot beside it is whole.

    `readable`: its manifest is a lawful record, so that what reads no blob answers. `by_drill`: of the levels of
    verify only the drill must see it.
    """
    store = opened(root)
    work = root.parent / "work"
    work.mkdir()
    hurt, good = (resolve(store, f"{PIPELINE}@{label}") for label in (HURT, GOOD))
    looks: list[Callable[[], object]] = [
        lambda: inspect(store, hurt),
        lambda: diff(store, good, hurt),
        lambda: diff(store, hurt, good),
        lambda: explain(store, hurt),
        lambda: explain(store, hurt, "CURRENT"),
        lambda: list_files(store, hurt),
    ]
    unread = sum(not _answers(look) for look in looks)
    assert readable or unread == len(looks), "an unlawful manifest was read"
    unsupported = _is_found(store, hurt, work, by_drill=by_drill)
    assert readable or unsupported or "orders" in store_stats(store).damaged
    _collected(store)
    _restore_good(store, resolve(store, good.address), work)
    hurt = resolve(store, hurt.address)
    before = _tree(work)
    try:
        restore(store, hurt, work / "target")
    except EoctlError:
        assert _tree(work) == before, "a failed restore left something"
        raise


def _answers(look: Callable[[], object]) -> bool:
    try:
        look()
    except EoctlError:
        return False
    return True


def _is_found(store: Store, hurt: Resolved, work: Path, *, by_drill: bool) -> bool:
    """Verify names the snapshot at every level that must see it. True: it is of a newer eoctl, which is no damage."""
    for what, level in ((None, "full"), (hurt, "full"), (hurt, "drill"))[2 * by_drill :]:
        try:
            done = verify(store, PIPELINE, what, level, scratch=work / "scratch")
        except UnsupportedError:
            return True
        named = {snapshot for found in done.damaged for snapshot in found.snapshots}
        assert hurt.address in named, f"verify --level {level} does not name {hurt.address}: {done.damaged}"
        assert f"{PIPELINE}@{GOOD}" not in named
    shutil.rmtree(work / "scratch", ignore_errors=True)
    return False


def _collected(store: Store) -> None:
    """gc, at its hastiest, stops or does its work; what it may not touch is seen by what restores after it."""
    collect(store, [PIPELINE], Options(grace_seconds=0, keep_trash_seconds=0))


def _restore_good(store: Store, good: Resolved, work: Path) -> None:
    restore(store, good, work / "good")
    found = {name: data for name, data in _tree(work / "good").items() if data is not None}
    assert found == CONTENTS[GOOD], "the snapshot beside it is not whole"


def _tree(root: Path) -> dict[str, bytes | None]:
    """Every file and directory below `root`."""
    found: dict[str, bytes | None] = {}
    for folder, folders, files in os.walk(root):
        found |= {str(Path(folder, name).relative_to(root)): None for name in folders}
        found |= {str(Path(folder, name).relative_to(root)): Path(folder, name).read_bytes() for name in files}
    return found


def path_in(root: Path, key: Key | str) -> Path:
    return root / str(key)
