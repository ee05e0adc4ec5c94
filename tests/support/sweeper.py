"""What others do to a pipeline while a test's own session is under way: gc at its strongest, retention, edits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from formats.head import Head, roots
from formats.ids import BlobKey, PipelineId, TxId
from formats.manifest import blobs
from storage import layout
from storage.edits import expire, touch
from storage.head import swap_head
from storage.store import Store
from tests.support.fakes import FakeAmbient, time_text
from tests.support.places import PIPELINE, behind, stored_keys


class Sweeper:
    """Another process, without faults. Its sweep deletes all that the delete rule lets go, at once."""

    def __init__(self, store: Store, pipeline: PipelineId = PIPELINE, process: int = 99) -> None:
        self.store = behind(store, store.backend, FakeAmbient(process).ambient())
        self.pipeline = pipeline

    def edit(self, change: Callable[[Head], Head]) -> Head:
        ambient = self.store.ambient
        head = self.store.head(self.pipeline)
        txid = TxId(ambient.new_id())
        return swap_head(self.store.backend, head, change, ambient, txid=txid, attempt=None).head

    def advance(self) -> Head:
        """As gc does: a new era, and the floor at the one before; the trash is dropped."""
        return self.edit(lambda head: msgspec.structs.replace(touch(head), era=head.era + 1, floor=head.era, trash=()))

    def expire(self, *labels: str) -> Head:
        return self.edit(partial(expire, labels=frozenset(labels), now=time_text(5)))

    def sweep(self) -> set[str]:
        """Every key below the floor that no root names is gone; returns their names."""
        head = self.store.head(self.pipeline).head
        live_blobs: set[BlobKey] = set()
        live_manifests: set[BlobKey] = set()
        for root in roots(head):
            live_manifests.add(BlobKey.parse(root.manifest))
            live_blobs |= blobs(self.store.manifest(head, root)).keys()
        found = stored_keys(self.store, self.pipeline)
        gone = {layout.blob(self.pipeline, k) for k in found["o"] if k.era < head.floor and k not in live_blobs}
        gone |= {
            layout.manifest(self.pipeline, k) for k in found["m"] if k.era < head.floor and k not in live_manifests
        }
        self.store.backend.delete(sorted(gone))
        return {key.path for key in gone}
