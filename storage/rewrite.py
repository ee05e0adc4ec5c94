"""New manifests that say the same as old ones, with some bytes in other places.

After a re-packing, a repair, a rebuilt HEAD: names, contents, sizes and digests stay; only `place` changes, and with
it the packs that the manifest names. `Session.rewrite` swaps such manifests in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from formats.blocktable import Block, encode_table
from formats.ids import BlobKey, Digest, HashAlgorithm
from formats.manifest import (
    Blocks,
    Manifest,
    PackRef,
    Slice,
    StateFile,
    SubtaskState,
    Table,
    Whole,
    files_of,
    packs_of,
)
from storage.packs import Packer, Pending


def replace_places(manifest: Manifest, change: Callable[[StateFile], StateFile], packs: Mapping[str, int]) -> Manifest:
    """The manifest with every state file changed; its `packs` are those that are used now.

    `packs`: sizes of packs that the old manifest does not name.
    """

    def changed(files: tuple[StateFile, ...]) -> tuple[StateFile, ...]:
        return tuple(change(file) for file in files)

    def subtask(state: SubtaskState) -> SubtaskState:
        return msgspec.structs.replace(state, files=changed(state.files))

    operators = tuple(
        msgspec.structs.replace(
            operator,
            coordinator=changed(operator.coordinator),
            subtasks=tuple(subtask(state) for state in operator.subtasks),
        )
        for operator in manifest.operators
    )
    moved = msgspec.structs.replace(manifest, operators=operators)
    sizes = {pack.key: pack.bytes for pack in manifest.packs} | dict(packs)
    used: set[str] = set()
    for _, _, file in files_of(moved):
        if type(file.place) is Slice:  # ten thousand of them, and no other kind
            used.add(file.place.pack)
        else:
            used.update(packs_of(file))
    return msgspec.structs.replace(moved, packs=tuple(PackRef(pack, sizes[pack]) for pack in sorted(used)))


class _Moved(NamedTuple):
    """A table as it is named now, or as it waits in an open pack; and the packs of its blocks."""

    table: Table | tuple[Digest, int, Pending]
    packs: frozenset[str]


class MovedTables:
    """Block tables of which blocks have moved, encoded anew into packs: first `add` for all, then `place` of each."""

    def __init__(self, algorithm: HashAlgorithm, packer: Packer) -> None:
        self._hash = algorithm
        self._packer = packer
        self._moved: dict[Table, _Moved] = {}

    def __contains__(self, table: Table) -> bool:
        return table in self._moved

    def add(self, table: Table, blocks: Sequence[Block], place: Whole | Slice | None) -> None:
        """The table's blocks lie where `blocks` say. `place`: of a table that says so already; None: it is encoded."""
        packs = frozenset(str(block.pack) for block in blocks)
        if place is not None:
            self._moved[table] = _Moved(msgspec.structs.replace(table, place=place), packs)
            return
        data = encode_table(list(blocks))
        pending = self._packer.add(data, compress=False)
        self._moved[table] = _Moved((self._hash.digest(data), len(data), pending), packs)

    def place(self, blocks: Blocks) -> Blocks:
        """Where the file lies now. Every table of it was added, and the packer is closed."""
        tables = []
        packs: set[str] = set()
        for table in blocks.tables:
            moved = self._moved[table]
            if isinstance(moved.table, Table):
                now = moved.table
            else:
                digest, size, pending = moved.table
                now = Table(digest, size, pending.place)
            tables.append(now)
            packs |= moved.packs
            if isinstance(now.place, Slice):
                packs.add(now.place.pack)
        return Blocks(tuple(tables), tuple(sorted(packs)))


def moved_key(place: Whole | Slice, key: BlobKey) -> Whole | Slice:
    """The same bytes in a blob of the same digest and another era."""
    if isinstance(place, Whole):
        return msgspec.structs.replace(place, era=key.era)
    return msgspec.structs.replace(place, pack=str(key))
