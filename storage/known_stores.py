"""Which store lies at a URL, remembered on this host: so that a look at a store elsewhere costs one request, not two.

What is remembered is the `store.json` that was read there, which never changes. Whoever uses it believes nothing that
a HEAD does not confirm: HEAD names its store, and is refused where that is another one. So a wrong or missing record
costs a request. Nothing is written to a store by what is remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from formats.canonical import decode, encode
from formats.errors import InvalidInputError, UnsupportedError
from storage.backend import Place
from storage.head import Ambient
from storage.store import MAX_STORE_BYTES, Store, StoreRecord


def recalled(folder: Path, place: Place, ambient: Ambient) -> Store | None:
    """The store at a place far away, as it was when it was last opened; None where that is not known here."""
    record = _read(_path(folder, place)) if place.remote else None
    return None if record is None or record.features else Store(place=place, record=record, ambient=ambient)


def remember(folder: Path, store: Store) -> None:
    """The store is known by its place. A host that has no room for that goes without."""
    path = _path(folder, store.place)
    if not store.place.remote or _read(path) == store.record:
        return
    temporary = ""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", dir=folder)
        with open(descriptor, "wb") as file:
            file.write(encode(store.record))
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def _path(folder: Path, place: Place) -> Path:
    return folder / hashlib.sha256(place.url.encode()).hexdigest()[:32]


def _read(path: Path) -> StoreRecord | None:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_STORE_BYTES + 1)
        return decode(data, StoreRecord, what="store.json", max_bytes=MAX_STORE_BYTES)
    except (OSError, InvalidInputError, UnsupportedError):
        return None
