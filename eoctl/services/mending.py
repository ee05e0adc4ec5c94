"""Mending what a survey found broken: uploads, and the manifests that then say where everything lies.

A damaged blob whose stored bytes were found elsewhere is put into the session's era as it is. Of any other one,
each content is moved for itself: those that are still right from the blob, the wrong ones from a copy, so that in the
end nothing refers to the damaged blob. Nothing is overwritten in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from eoctl.services.copies import Copies
from eoctl.services.survey import Survey
from formats.blocktable import Block
from formats.errors import CorruptError, UnavailableError
from formats.ids import BlobKey, Digest, Era
from formats.manifest import (
    BLOCK_BYTES,
    TABLE_BLOCKS,
    Blocks,
    Codec,
    Inline,
    Manifest,
    Place,
    Slice,
    StateFile,
    Table,
    Whole,
    files_of,
)
from storage import layout
from storage.audit import (
    Content,
    Covering,
    Packing,
    block_contents,
    content_of,
    coverings,
    read_blocks,
)
from storage.backend import KeyAbsentError, LocalFile
from storage.blob_check import MAX_FRAME_BYTES
from storage.files import compressor, write_all
from storage.os_errors import told
from storage.packing import SMALL_BYTES
from storage.packs import Packer, Pending
from storage.rewrite import MovedTables, moved_key, replace_places
from storage.session import Session


class Mender:
    """One plan of a session: uploads what is to be had, and says which manifests that gives."""

    def __init__(self, session: Session, survey: Survey, copies: Copies) -> None:
        self.uploaded: dict[BlobKey, int] = {}
        self._session = session
        self._survey = survey
        self._copies = copies
        self._renamed: dict[BlobKey, BlobKey] = {}
        self._placed: dict[tuple[BlobKey, Content], Pending | Whole] = {}
        self._inline: dict[str, Pending] = {}
        self._cut: dict[Table, list[tuple[bytes, Pending]]] = {}
        self._packer = Packer(session.store.hash, session.scratch, self._upload)
        self._tables = MovedTables(session.store.hash, self._packer)

    def manifests(self) -> Iterator[tuple[str, Manifest]]:
        """New manifests with the keys of the old ones, where something could be mended."""
        self._session.store.place.scratch.mkdir(parents=True, exist_ok=True)
        try:
            for key in sorted(self._survey.bad):
                self._mend(key)
            for _, manifest in self._survey.manifests():
                for _, _, file in files_of(manifest):
                    self._mend_file(file)
            self._packer.close()
            for _, manifest in self._survey.manifests():
                for _, _, file in files_of(manifest):
                    if isinstance(file.place, Blocks) and self._survey.touches(file):
                        self._mend_tables(file, file.place)
            self._packer.close()
        finally:
            self._packer.discard()
        for entry, manifest in self._survey.manifests():
            mended = replace_places(manifest, self._file, self._session.pack_bytes)
            if mended != manifest or entry.manifest in self._survey.unreadable:
                yield entry.manifest, mended

    def _upload(self, digest: Digest, size: int, body: LocalFile) -> BlobKey:
        key = self._session.upload(digest, size, body)
        self._session.pack_bytes[str(key)] = self.uploaded[key] = size
        return key

    # Blobs and what lies in them.

    def _mend(self, key: BlobKey) -> None:
        """The blob is there under a new key, or each of its contents lies elsewhere, as far as that can be had."""
        stored = self._spooled_copy(key.digest, self._survey.sizes[key], shrink=False)
        if stored is not None:
            self._renamed[key] = BlobKey(key.digest, Era(stored.era))
            return
        wrong = self._survey.bad[key].wrong
        for content in self._survey.contents.of(key):
            moved = None if content in wrong else self._kept(key, content)
            moved = moved or self._from_copy(content)
            if moved is not None:
                self._placed[key, content] = moved

    def _kept(self, key: BlobKey, content: Content) -> Pending | Whole | None:
        """A content that is still right, out of a blob that is not."""
        digest = content.digest.hex()
        if content.packing is Packing.STREAM or max(content.length, content.plain_bytes) > MAX_FRAME_BYTES:
            parts = _readable(self._session.blobs.content(_as_file(key, content)))
            return self._spooled(parts, digest, content.plain_bytes, shrink=content.packing is not Packing.PLAIN)
        name = layout.blob(self._session.pipeline, key)
        frame = content.packing is Packing.FRAME
        try:
            with self._session.store.backend.open(name, content.offset, content.length) as file:
                stored = file.read(content.length)
            plain = self._session.blobs.unpack(stored, content.plain_bytes, name) if frame else stored
        except (KeyAbsentError, CorruptError, UnavailableError):
            return None
        if self._session.store.hash.digest(plain) != digest:
            return None
        return self._packer.add_stored(stored, compressed=frame)

    def _from_copy(self, content: Content) -> Pending | Whole | None:
        digest = content.digest.hex()
        if content.plain_bytes >= SMALL_BYTES:
            return self._spooled_copy(digest, content.plain_bytes, shrink=content.packing is not Packing.PLAIN)
        data = self._copies.read(digest, content.plain_bytes)
        return None if data is None else self._packer.add(data)

    def _spooled_copy(self, digest: str, size: int, *, shrink: bool) -> Whole | None:
        for parts in self._copies.tries(digest):
            stored = self._spooled(parts(), digest, size, shrink=shrink)
            if stored is not None:
                return stored
        return None

    def _spooled(self, parts: Iterable[bytes], digest: str, size: int, *, shrink: bool) -> Whole | None:
        """The content is stored in a blob of its own, if it is what it should be."""
        algorithm = self._session.store.hash
        plain, stored = algorithm.hasher(), algorithm.hasher()
        packer = compressor().compressobj(size=size) if shrink else None
        scratch = self._session.scratch()
        read = written = 0
        with told(scratch), scratch.open("xb", buffering=0) as target:
            for part in parts:
                read += len(part)
                if read > size:
                    break
                plain.update(part)
                data = part if packer is None else packer.compress(part)
                stored.update(data)
                written += write_all(target.fileno(), data)
            right = read == size and plain.hexdigest() == digest
            if right and packer is not None:
                data = packer.flush()
                stored.update(data)
                written += write_all(target.fileno(), data)
        if not right:
            scratch.unlink()
            return None
        key = self._upload(Digest(stored.hexdigest()), written, LocalFile(scratch))
        return Whole(key.era) if packer is None else Whole(key.era, "zstd", key.digest, written)

    # Files.

    def _mend_file(self, file: StateFile) -> None:
        """What lies in the manifest itself, and what no single blob can give back."""
        match file.place:
            case Inline(data=data):
                wrong = self._session.store.hash.digest(data) != file.digest
                if wrong and file.digest not in self._inline:
                    found = self._copies.read(file.digest, file.bytes)
                    if found is not None:
                        self._inline[file.digest] = self._packer.add(found)
            case Blocks() as place if file.digest in self._copies and self._survey.touches(file):
                broken = {
                    number: covering.table
                    for number, covering in enumerate(coverings(file, place))
                    if covering.table not in self._cut and self._is_broken(place, covering)
                }
                if broken:
                    self._cut_anew(file, broken)

    def _is_broken(self, place: Blocks, covering: Covering) -> bool:
        """The table, or a block of it, was neither right nor found."""
        found = content_of(covering.table)
        assert found is not None, "a table lies in a blob"
        if self._is_lost(found):
            return True
        try:
            rows = self._rows(place, covering)
        except CorruptError:
            return found[0] not in self._renamed and found not in self._placed
        return any(self._is_lost(block) for block in block_contents(covering, rows))

    def _is_lost(self, found: tuple[BlobKey, Content]) -> bool:
        key, content = found
        checked = self._survey.bad.get(key)
        hurt = checked is not None and checked.hurts(content)
        return hurt and key not in self._renamed and found not in self._placed

    def _cut_anew(self, file: StateFile, broken: Mapping[int, Table]) -> None:
        """The blocks of these tables are stored anew, from a copy of the whole file."""
        for parts in self._copies.tries(file.digest):
            hasher = self._session.store.hash.hasher()
            rows: dict[int, list[tuple[bytes, Pending]]] = {number: [] for number in broken}
            size = 0
            for number, block in enumerate(_even_blocks(parts())):
                hasher.update(block)
                size += len(block)
                if size > file.bytes:
                    break
                if number // TABLE_BLOCKS in rows:
                    digest = bytes.fromhex(self._session.store.hash.digest(block))
                    rows[number // TABLE_BLOCKS].append((digest, self._packer.add(block)))
            if size == file.bytes and hasher.hexdigest() == file.digest:
                self._cut |= {table: rows[number] for number, table in broken.items()}
                return

    def _mend_tables(self, file: StateFile, place: Blocks) -> None:
        """Every table of the file says where its blocks lie now; some may be missing, and then the file stays."""
        for covering in coverings(file, place):
            table = covering.table
            if table in self._tables:
                continue
            if table in self._cut:
                rows = [Block(digest, at.key, at.offset, at.length, at.compressed) for digest, at in self._cut[table]]
                self._tables.add(table, rows, None)
                continue
            try:
                old = self._rows(place, covering)
            except CorruptError:
                return
            found = list(block_contents(covering, old))
            if any(self._is_lost(block) for block in found):
                return
            new = [self._block(row, block) for row, block in zip(old, found, strict=True)]
            now = self._place(table)
            self._tables.add(table, new, now if new == old else None)

    def _rows(self, place: Blocks, covering: Covering) -> list[Block]:
        """Raises: CorruptError."""
        now = msgspec.structs.replace(covering.table, place=self._place(covering.table))
        packs = {BlobKey.parse(pack) for pack in place.packs}
        return read_blocks(self._session.blobs, covering._replace(table=now), packs)

    def _block(self, row: Block, found: tuple[BlobKey, Content]) -> Block:
        if found[0] in self._renamed:
            return row._replace(pack=self._renamed[found[0]])
        at = self._placed.get(found)
        if at is None:
            return row
        assert isinstance(at, Pending), "a block is small"
        return Block(row.digest, at.key, at.offset, at.length, at.compressed)

    def _place(self, file: StateFile | Table) -> Whole | Slice:
        """Where the bytes of a blob of its own or of a slice lie now."""
        place = file.place
        found = content_of(file)
        assert found is not None, "it lies in a blob"
        assert isinstance(place, Whole | Slice), "likewise"
        if found[0] in self._renamed:
            return moved_key(place, self._renamed[found[0]])
        at = self._placed.get(found)
        if isinstance(at, Pending):
            return place if at.pack is None else at.place
        return at or place

    def _file(self, file: StateFile) -> StateFile:
        match file.place:
            case Inline(data=data) as place:
                pending = self._inline.get(file.digest)
                wrong = pending is not None and self._session.store.hash.digest(data) != file.digest
                return msgspec.structs.replace(file, place=pending.place if pending is not None and wrong else place)
            case Blocks(tables=tables) as place:
                moved = bool(tables) and all(table in self._tables for table in tables)
                return msgspec.structs.replace(file, place=self._tables.place(place)) if moved else file
        return msgspec.structs.replace(file, place=self._place(file))


def _as_file(key: BlobKey, content: Content) -> StateFile:
    """A file whose content is this stretch of the blob."""
    place: Place
    if content.packing is Packing.STREAM:
        place = Whole(key.era, "zstd", key.digest, content.length)
    else:
        codec: Codec = "zstd" if content.packing is Packing.FRAME else "raw"
        place = Slice(str(key), content.offset, content.length, codec)
    return StateFile(
        name=str(key), bytes=content.plain_bytes, digest=content.digest.hex(), place=place, first_stored_in=0
    )


def _readable(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The parts, as far as they can be read."""
    try:
        yield from parts
    except (CorruptError, UnavailableError, OSError):
        return


def _even_blocks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of 64 KiB, all but the last."""
    left = b""
    for part in parts:
        left += part
        whole = len(left) - len(left) % BLOCK_BYTES
        for start in range(0, whole, BLOCK_BYTES):
            yield left[start : start + BLOCK_BYTES]
        left = left[whole:]
    if left:
        yield left
