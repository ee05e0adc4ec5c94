"""Manifests on this host's disk, by their keys: so that gc of a store elsewhere reads only those that are new.

A file here is stored manifest bytes, taken only where they hash to the digest that HEAD names, which is all that is
asked of those in the store too. A wrong or missing file costs a read; nothing is deleted or believed to exist because
of one. The directory may be removed at any time.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Self

from formats.head import Head, HeadEntry, manifests_of
from formats.ids import BlobKey
from formats.manifest import MAX_MANIFEST_BYTES
from storage.store import Store


class CachedStore(Store, frozen=True, kw_only=True):
    """The store, of which the manifests of roots are taken from `folder` where it has them."""

    folder: Path

    @classmethod
    def of(cls, store: Store, folder: Path) -> Self:
        """`folder` may be that of other stores, too."""
        return cls(place=store.place, record=store.record, ambient=store.ambient, folder=folder / store.record.id)

    def manifest_bytes(self, head: Head, entry: HeadEntry) -> bytes:
        path = self.folder / head.pipeline / entry.manifest
        stored = _read(path)
        if stored is None or self.hash.digest(stored) != BlobKey.parse(entry.manifest).digest:
            stored = super().manifest_bytes(head, entry)
            _keep(path, stored)
        return stored

    def prune(self, head: Head) -> None:
        """Only manifests of roots of `head` are left of its pipeline."""
        wanted = manifests_of(head)
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder / head.pipeline):
                if name not in wanted:
                    os.unlink(self.folder / head.pipeline / name)


def _read(path: Path) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError:
        return None


def _keep(path: Path, stored: bytes) -> None:
    """Whoever looks sees all of it or none. A host that has no room for it goes without."""
    temporary = ""
    try:
        os.makedirs(path.parent, mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(stored)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
