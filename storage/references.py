"""Who references what: derived from manifests whenever it is asked, never counted, never kept.

`References` takes every root once and remembers, for each blob, which roots name it; the manifests themselves may
be gone by then, so a hundred snapshots of ten thousand files are never in memory together. A manifest is a stored
blob too, in a name space of its own: an equal key below `o/` and below `m/` are two things (`Stored`).

A reference keeps a blob whole: a pack stays as long as one slice of it is needed. Left to others: which entries and
holds of HEAD are roots, and when gc may delete what no root names (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from enum import StrEnum
from typing import NamedTuple

from formats.ids import BlobKey
from formats.manifest import Manifest, OperatorState, StateFile, SubtaskState, blobs, files_of

COORDINATOR = "coordinator"


class Space(StrEnum):
    """The two name spaces of a pipeline's immutable values."""

    BLOB = "o"
    MANIFEST = "m"


class Stored(NamedTuple):
    """One stored value of a pipeline."""

    space: Space
    key: BlobKey


class Root(NamedTuple):
    """One root: a label of its own, its manifest, and the key and stored size of that."""

    label: str
    manifest: Manifest
    key: BlobKey
    bytes: int


class References:
    """What each root needs. Two roots of one label count as one.

    Sets of stored values are dicts with their stored bytes, in no order.
    """

    def __init__(self, roots: Iterable[Root]) -> None:
        self._bits: dict[str, int] = {}
        self._users: dict[Space, dict[BlobKey, int]] = {space: {} for space in Space}  # one bit for each root
        self._bytes: dict[Space, dict[BlobKey, int]] = {space: {} for space in Space}
        self._labels: dict[int, tuple[str, ...]] = {}  # by their bits
        for root in roots:
            self._add(root)

    def _add(self, root: Root) -> None:
        bit = self._bits.setdefault(root.label, 1 << len(self._bits))
        for space, found in ((Space.BLOB, blobs(root.manifest)), (Space.MANIFEST, {root.key: root.bytes})):
            users, sizes = self._users[space], self._bytes[space]
            for key, size in found.items():
                if key in users:
                    users[key] |= bit
                else:
                    users[key], sizes[key] = bit, size

    @property
    def labels(self) -> tuple[str, ...]:
        """The roots, in the order in which they came."""
        return tuple(self._bits)

    def needs(self, label: str) -> dict[Stored, int]:
        """Every blob that the root names, and its manifest."""
        bit = self._bits[label]
        return self._select(lambda users: bool(users & bit))

    def everything(self) -> dict[Stored, int]:
        """Whatever some root names."""
        return self._select(lambda _: True)

    def freed_by(self, labels: Collection[str]) -> dict[Stored, int]:
        """What dropping these roots frees: all that they name and no other root does."""
        dropped = self._mask(labels)
        return self._select(lambda users: not users & ~dropped)

    def shared(self, a: str, b: str) -> dict[Stored, int]:
        """What both roots name."""
        bits = self._mask((a, b))
        return self._select(lambda users: users & bits == bits)

    def users(self, stored: Stored) -> tuple[str, ...]:
        """The roots that name it, in the order in which they came."""
        mask = self._users[stored.space].get(stored.key, 0)
        if mask not in self._labels:  # blobs by the thousand are named by the same few roots
            self._labels[mask] = tuple(label for label, bit in self._bits.items() if mask & bit)
        return self._labels[mask]

    def bytes_of(self, stored: Stored) -> int:
        return self._bytes[stored.space][stored.key]

    def _mask(self, labels: Collection[str]) -> int:
        mask = 0
        for label in labels:
            mask |= self._bits.get(label, 0)
        return mask

    def _select(self, wanted: Callable[[int], bool]) -> dict[Stored, int]:
        return {
            Stored(space, key): self._bytes[space][key]
            for space, all_users in self._users.items()
            for key, users in all_users.items()
            if wanted(users)
        }


def full_name(operator: OperatorState, subtask: SubtaskState | None, file: StateFile) -> str:
    """`OPERATOR/SUBTASK/NAME`: the uid where there is one, else the id; `coordinator` for what has no subtask."""
    return f"{operator.uid or operator.id}/{COORDINATOR if subtask is None else subtask.index}/{file.name}"


def file_id(operator: OperatorState, subtask: SubtaskState | None, file: StateFile) -> tuple[str, int, str]:
    """What makes it the same file in two snapshots: operator id, subtask (-1: the coordinator's), name."""
    return operator.id, -1 if subtask is None else subtask.index, file.name


def obsolete_files(before: Manifest, now: Manifest) -> tuple[str, ...]:
    """The full names of files that `before` has and `now` has not any more, sorted."""
    present = {file_id(*found) for found in files_of(now)}
    return tuple(sorted(full_name(*found) for found in files_of(before) if file_id(*found) not in present))
