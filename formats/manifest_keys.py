"""The keys in a manifest, and nothing else of it: how gc reads a million files within bounded memory.

Decoded by the same types as the whole manifest (formats/manifest.py), without names, stamps and properties. The
bytes are those of a digest in HEAD, so they were checked when they were written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from msgspec import Struct

from formats.ids import BlobKey
from formats.manifest import Blocks, Count, DigestText, Hex32, Name, PackRef, Place, Slice, Text, Whole


class FileKeys(Struct, frozen=True, gc=False):
    """Of a state file."""

    digest: DigestText
    place: Place


class SubtaskKeys(Struct, frozen=True):
    """Of a subtask."""

    files: tuple[FileKeys, ...]


class OperatorKeys(Struct, frozen=True):
    """Of an operator."""

    subtasks: tuple[SubtaskKeys, ...]
    coordinator: tuple[FileKeys, ...] = ()


class ManifestKeys(Struct, frozen=True):
    """Of a manifest, and whose it is."""

    FORMAT: ClassVar[str] = "eoctl.manifest"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.manifest"]
    version: Literal[1]
    store: Hex32
    pipeline: Name
    id: Count
    txid: Hex32
    operators: tuple[OperatorKeys, ...]
    packs: tuple[PackRef, ...]
    name: Text = ""


def keys_of(manifest: ManifestKeys) -> Iterator[tuple[str, int]]:
    """Digest and era of every blob that the snapshot needs, some more than once.

    A pack is needed if the manifest lists it or a file names it, though each that a file names should be listed.
    """
    packs = {pack.key for pack in manifest.packs}
    for operator in manifest.operators:
        for group in (operator.coordinator, *(subtask.files for subtask in operator.subtasks)):
            for file in group:
                place = file.place
                if isinstance(place, Whole):
                    yield place.digest or file.digest, place.era
                elif isinstance(place, Slice):
                    packs.add(place.pack)
                elif isinstance(place, Blocks):
                    packs.update(place.packs)
                    for table in place.tables:
                        if isinstance(table.place, Whole):
                            yield table.place.digest or table.digest, table.place.era
                        else:
                            packs.add(table.place.pack)
    for pack in packs:
        key = BlobKey.parse(pack)
        yield key.digest, key.era
