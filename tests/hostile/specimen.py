"""A tiny store in which every kind of place occurs: what hostile cases change and what bit flips hit.

Four checkpoints of `orders`, written by the real session, packer and block writer: the first is gone for good and has
left a dead slice, the second is in the trash, the third is held. Sizes are small, so that a verification and a
restore take milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import msgspec

from formats.ids import BlobKey, Digest, PipelineId, TxId
from formats.manifest import BLOCK_BYTES, Blocks, Inline, Manifest, Place, StateFile, Whole
from storage import layout
from storage.blocks import BlockWriter
from storage.edits import Edit, expire, hold, raise_era, touch
from storage.files import compressor
from storage.head import swap_head
from storage.packs import Packer
from storage.session import Session, open_writer
from storage.store import Store
from tests.support.places import manifest_of
from tests.support.stores import new_store, noise, text

PIPELINE = PipelineId("orders")
PACK, BLOCKS, WHOLE, WHOLE_ZSTD, INLINE = "pack", "blocks", "whole", "whole-zstd", "inline"

Files = dict[str, tuple[str, bytes]]


def _block(seed: int) -> bytes:
    """A block that shrinks to about 2 KiB."""
    return (noise(1500, seed) + text(8000, seed)).ljust(BLOCK_BYTES, b"\0")


FIRST: Files = {
    "000001.sst": (WHOLE, noise(6000, 1)),
    "000002.sst": (WHOLE_ZSTD, text(30_000, 2)),
    "CURRENT": (INLINE, b"MANIFEST-000001\n"),
    "log/LOG": (PACK, text(9000, 3)),
    "log/LOG.old": (PACK, noise(2500, 4)),
    "log/gone": (PACK, noise(1000, 15)),
    "main.db": (BLOCKS, _block(5) + _block(6) + noise(3000, 7)),
}
SECOND: Files = {name: FIRST[name] for name in FIRST if name != "log/gone"} | {
    "CURRENT": (INLINE, b"MANIFEST-000002\n"),
    "log/LOG": (PACK, text(9500, 9)),
}
THIRD: Files = {name: SECOND[name] for name in SECOND if name != "000001.sst"} | {
    "000003.sst": (WHOLE, noise(4000, 8)),
    "CURRENT": (INLINE, b"MANIFEST-000003\n"),
    "main.db": (BLOCKS, _block(5) + _block(10) + noise(3000, 7)),
}
FOURTH: Files = THIRD | {
    "CURRENT": (INLINE, b"MANIFEST-000004\n"),
    "log/LOG": (PACK, text(9500, 11)),
    "log/MORE": (PACK, noise(1500, 12)),
    "main.db": (BLOCKS, _block(5) + _block(10) + _block(13) + noise(100, 14)),
}
CHECKPOINTS = (FIRST, SECOND, THIRD, FOURTH)
CONTENTS = {  # of every snapshot that is left, by label
    str(number): {name: data for name, (_, data) in files.items()}
    for number, files in enumerate(CHECKPOINTS, 1)
    if number > 1
}


class _Plan:
    """Stores each new content in the place that is asked for, and names again what the base has."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def __call__(self, session: Session) -> Manifest:
        number = session.head.head.last_id + 1
        base = {} if session.base is None else dict(_files_of(session.base))
        packer = Packer(session.store.hash, session.scratch, partial(_upload_pack, session))
        writer = BlockWriter(session, packer)
        places: dict[str, Place] = {}
        later = {}
        for name, (kind, data) in self._files.items():
            before = base.get(name)
            if before is not None and before.digest == session.store.hash.digest(data):
                session.borrow()
                places[name] = before.place
            elif kind == PACK:
                later[name] = packer.add(data)
            elif kind == BLOCKS:
                old = before.place if before is not None and isinstance(before.place, Blocks) else None
                whole = session.store.hash.hasher()
                whole.update(data)
                written = writer.add([memoryview(data)], old, whole, compress=True)
                writer.finish()
                places[name] = written.place()
            else:
                places[name] = _alone(session, kind, data)
        packer.close()
        places |= {name: pending.place for name, pending in later.items()}
        return manifest_of(session, {name: self._file(session, name, places[name], number) for name in places}, number)

    def _file(self, session: Session, name: str, place: Place, number: int) -> StateFile:
        data = self._files[name][1]
        digest = session.store.hash.digest(data)
        return StateFile(name=name, bytes=len(data), digest=digest, place=place, first_stored_in=number)


def _files_of(manifest: Manifest) -> Mapping[str, StateFile]:
    return {file.name: file for file in manifest.operators[0].subtasks[0].files}


def _upload_pack(session: Session, digest: Digest, size: int, body: object) -> BlobKey:
    key = session.upload(digest, size, body)  # type: ignore[arg-type]  # a LocalFile, from the packer
    session.pack_bytes[str(key)] = size
    return key


def _alone(session: Session, kind: str, data: bytes) -> Place:
    if kind == INLINE:
        return Inline(data=data)
    stored = compressor().compress(data) if kind == WHOLE_ZSTD else data
    key = session.upload(session.store.hash.digest(stored), len(stored), stored)
    if kind == WHOLE_ZSTD:
        return Whole(era=key.era, codec="zstd", digest=key.digest, stored_bytes=len(stored))
    return Whole(era=key.era)


def specimen(scratch: Path) -> Store:
    """The store, in memory."""
    store = new_store(scratch)
    for files in CHECKPOINTS:
        session = Session(store, PIPELINE, *open_writer(store, PIPELINE))
        session.commit(_Plan(files))
        edit(store, partial(raise_era, floor=False))
    now = store.ambient.now()
    edit(store, partial(hold, label="3", hold_id="ab" * 16, reason="audit", now=now, expires_at=None))
    edit(store, partial(expire, labels=frozenset({"1"}), now=now))
    gone = store.head(PIPELINE).head.trash[0].entry
    edit(store, lambda head: msgspec.structs.replace(touch(head), trash=()))
    store.backend.delete([layout.manifest(PIPELINE, BlobKey.parse(gone.manifest))])
    edit(store, partial(expire, labels=frozenset({"2"}), now=now))
    return store


def edit(store: Store, change: Edit) -> None:
    current = store.head(PIPELINE)
    swap_head(store.backend, current, change, store.ambient, txid=TxId(store.ambient.new_id()), attempt=None)
