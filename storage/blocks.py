"""Writing large mutable files as fixed 64 KiB blocks: changed blocks into packs, the rest by reference.

One table covers 4096 blocks. A table without a change is named as the base named it; a changed one is encoded
once the packs of its new blocks are closed. At most 64 changed tables wait for that, so memory does not grow
with the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from formats.blocktable import Block, encode_table
from formats.ids import Digest, Hasher
from formats.manifest import BLOCK_BYTES, TABLE_BLOCKS, Blocks, Slice, Table
from storage.packs import Packer, Pending
from storage.session import Session

MAX_WAITING_TABLES = 64
MAX_RECENT_BLOCKS = 4096


class _NewTable(NamedTuple):
    """An encoded table that waits in an open pack."""

    digest: Digest
    bytes: int
    pending: Pending


class BlockFile:
    """One file written as blocks; `place` is known once the writer has finished."""

    def __init__(self) -> None:
        self.digest = Digest("")
        self.added_bytes = 0
        self.packs: set[str] = set()
        self.tables: list[Table | _NewTable | None] = []

    def place(self) -> Blocks:
        tables = []
        for table in self.tables:
            assert table is not None, "the writer has not finished"
            if isinstance(table, _NewTable):
                self.packs.add(str(table.pending.key))
                tables.append(Table(table.digest, table.bytes, table.pending.place))
            else:
                if isinstance(table.place, Slice):
                    self.packs.add(table.place.pack)
                tables.append(table)
        return Blocks(tuple(tables), tuple(sorted(self.packs)))


class BlockWriter:
    """Blocks of one session; equal blocks that come close together (zeros, most often) are stored once."""

    def __init__(self, session: Session, packer: Packer) -> None:
        self._session = session
        self._packer = packer
        self._recent: dict[bytes, Pending] = {}
        self._waiting: list[tuple[BlockFile, int, list[Block | tuple[bytes, Pending]]]] = []

    def add(self, chunks: Iterable[memoryview], old: Blocks | None, whole: Hasher, *, compress: bool) -> BlockFile:
        """The content is in packs or in the base. `chunks` are multiples of 64 KiB but for the last.

        `whole` has taken in every chunk that it has given.
        """
        file = BlockFile()
        algorithm = self._session.store.hash
        rows: list[Block | tuple[bytes, Pending]] = []
        old_rows: list[Block] = []
        for chunk in chunks:
            for start in range(0, len(chunk), BLOCK_BYTES):
                block = chunk[start : start + BLOCK_BYTES]
                if not rows:
                    old_rows = self._old_rows(old, len(file.tables))
                digest = algorithm.hasher()
                digest.update(block)
                raw = digest.digest()
                if len(rows) < len(old_rows) and old_rows[len(rows)].digest == raw:
                    rows.append(old_rows[len(rows)])
                else:
                    rows.append((raw, self._packed(raw, block, compress=compress)))
                    file.added_bytes += len(block)
                if len(rows) == TABLE_BLOCKS:
                    self._end_table(file, rows, old, old_rows)
                    rows = []
        if rows:
            self._end_table(file, rows, old, old_rows)
        file.digest = Digest(whole.hexdigest())
        return file

    def finish(self) -> None:
        """Every block and table is uploaded, and every file's place is known."""
        self._encode_waiting()
        self._packer.close()

    def _packed(self, digest: bytes, block: memoryview, *, compress: bool) -> Pending:
        if digest not in self._recent:
            if len(self._recent) >= MAX_RECENT_BLOCKS:
                self._recent.clear()
            self._recent[digest] = self._packer.add(block, compress=compress)
        return self._recent[digest]

    def _old_rows(self, old: Blocks | None, number: int) -> list[Block]:
        if old is None or number >= len(old.tables):
            return []
        return self._session.blobs.table(old.tables[number])

    def _end_table(
        self, file: BlockFile, rows: list[Block | tuple[bytes, Pending]], old: Blocks | None, old_rows: list[Block]
    ) -> None:
        shared = [row for row in rows if isinstance(row, Block)]
        if shared:
            self._session.borrow()
            file.packs.update({str(row.pack) for row in shared})
        if old is not None and len(shared) == len(rows) == len(old_rows):
            file.tables.append(old.tables[len(file.tables)])
            return
        self._waiting.append((file, len(file.tables), rows))
        file.tables.append(None)
        if len(self._waiting) >= MAX_WAITING_TABLES:
            self._encode_waiting()

    def _encode_waiting(self) -> None:
        """Tables whose blocks are all in closed packs can be encoded; they go into a pack themselves."""
        self._packer.close()
        for file, number, rows in self._waiting:
            blocks = [row if isinstance(row, Block) else _block(*row) for row in rows]
            file.packs.update({str(block.pack) for block in blocks})
            data = encode_table(blocks)
            file.tables[number] = _NewTable(
                self._session.store.hash.digest(data), len(data), self._packer.add(data, compress=False)
            )
        self._waiting.clear()


def _block(digest: bytes, pending: Pending) -> Block:
    return Block(digest, pending.key, pending.offset, pending.length, pending.compressed)
