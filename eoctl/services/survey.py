"""What is broken in one pipeline, down to the blob and the stretch of it, and what it would take to mend it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eoctl.services.copies import Copies
from eoctl.services.damage import read_manifest
from eoctl.services.roots import distinct
from eoctl.services.values import DamagedFile
from formats.errors import CorruptError, EoctlError
from formats.head import Head, HeadEntry, roots
from formats.ids import BlobKey, PipelineId
from formats.manifest import Blocks, Inline, Manifest, StateFile, Whole, blob_key, blobs, files_of, packs_of
from storage import layout
from storage.audit import Content, Contents, block_contents, content_of, coverings, read_blocks
from storage.backend import Key
from storage.blob_check import Checked, check_blob
from storage.blobs import Blobs
from storage.store import Store, decode_manifest
from storage.transfer import each


class Survey:
    """The roots of a HEAD, held against what a verification has found; `copies` give unreadable manifests back."""

    def __init__(
        self, store: Store, pipeline: PipelineId, head: Head, damaged: Sequence[DamagedFile], copies: Copies
    ) -> None:
        self.store = store
        self.head = head
        self.entries = list(distinct(roots(head)).values())
        self.unreadable: dict[str, HeadEntry] = {}  # by manifest key, also of those that were found elsewhere
        self.bad: dict[BlobKey, Checked] = {}
        self.sizes: dict[BlobKey, int] = {}
        self.reader = Blobs(store.backend, pipeline, store.hash)
        self._copies = copies
        self._digests = {found.digest for found in damaged}
        suspects = self._suspects(damaged)
        self.contents = Contents(self.reader, suspects)
        for _, manifest in self.manifests():
            self.contents.add(manifest)
            self.sizes |= {key: size for key, size in blobs(manifest).items() if key in suspects}
        found = each(
            sorted(self.sizes), lambda key: check_blob(self.reader, key, self.sizes[key], self.contents.of(key))
        )
        self.bad = {checked.key: checked for checked in found if checked.fault or checked.wrong}

    def manifests(self) -> Iterator[tuple[HeadEntry, Manifest]]:
        """Every snapshot whose manifest can be read here or in a copy."""
        for entry in self.entries:
            manifest = read_manifest(self.store, self.head, entry)
            if isinstance(manifest, str):
                self.unreadable[entry.manifest] = entry
                manifest = self._recovered(entry) or manifest
            if isinstance(manifest, Manifest):
                yield entry, manifest

    def _recovered(self, entry: HeadEntry) -> Manifest | None:
        data = self._copies.read(BlobKey.parse(entry.manifest).digest, entry.manifest_bytes)
        if data is None:
            return None
        try:
            manifest = decode_manifest(data, f"manifest of {self.head.pipeline}@{entry.label}")
        except EoctlError:
            return None
        whose = (manifest.store, manifest.pipeline, manifest.txid)
        return manifest if whose == (self.head.store, self.head.pipeline, entry.txid) else None

    def _suspects(self, damaged: Sequence[DamagedFile]) -> set[BlobKey]:
        """Every blob in which something may be wrong."""
        found = {
            key
            for damage in damaged
            if damage.blob and (key := layout.parse_blob(self.reader.pipeline, Key(damage.blob))) is not None
        }
        for _, manifest in self.manifests():
            for _, _, file in files_of(manifest):
                if file.digest in self._digests:
                    found |= _blobs_of(file)
        return found

    def wanted(self) -> dict[str, int]:
        """Whatever would help, by digest, with its size."""
        found: dict[str, int] = {}
        for name, entry in self.unreadable.items():
            found[BlobKey.parse(name).digest] = entry.manifest_bytes
        for key, checked in self.bad.items():
            found[key.digest] = self.sizes[key]
            found |= {content.digest.hex(): content.plain_bytes for content in checked.wrong}
        for _, manifest in self.manifests():
            found |= {file.digest: file.bytes for _, _, file in files_of(manifest) if file.digest in self._digests}
        return found

    def touches(self, file: StateFile) -> bool:
        """The file lies, in part at least, in a damaged blob."""
        return not _blobs_of(file).isdisjoint(self.bad)

    def harm(self, file: StateFile) -> list[str]:
        """The digests of what is wrong with the file: its own, a slice's, those of its block tables and blocks."""
        match file.place:
            case Inline(data=data):
                return [] if self.store.hash.digest(data) == file.digest else [file.digest]
            case Blocks() as place:
                return list(self._harm_of_blocks(file, place))
        found = content_of(file)
        assert found is not None, "it lies in a blob"
        return self._harm_at(*found)

    def _harm_of_blocks(self, file: StateFile, place: Blocks) -> Iterator[str]:
        packs = {BlobKey.parse(pack) for pack in place.packs}
        for covering in coverings(file, place):
            found = content_of(covering.table)
            assert found is not None, "a table lies in a blob"
            yield from self._harm_at(*found)
            try:
                rows = read_blocks(self.reader, covering, packs)
            except CorruptError:
                if not self._harm_at(*found) and found[0] not in self.bad:
                    yield file.digest  # it is what it was, and does not fit
                continue
            for block in block_contents(covering, rows):
                yield from self._harm_at(*block)

    def _harm_at(self, key: BlobKey, content: Content) -> list[str]:
        checked = self.bad.get(key)
        if checked is None or key.digest in self._copies or not checked.hurts(content):
            return []
        return [content.digest.hex()]

    def lacks(self, file: StateFile) -> list[str]:
        """The digests without which the file cannot be mended; empty where nothing stands in the way."""
        if file.digest in self._copies:
            return []
        return [digest for digest in self.harm(file) if digest not in self._copies]


def _blobs_of(file: StateFile) -> set[BlobKey]:
    found = {BlobKey.parse(pack) for pack in packs_of(file)}
    if isinstance(file.place, Whole):
        found.add(blob_key(file, file.place))
    if isinstance(file.place, Blocks):
        found |= {blob_key(table, table.place) for table in file.place.tables if isinstance(table.place, Whole)}
    return found
