"""Manifests read one after another: what they have in common is decoded and checked once.

Snapshots of one pipeline share most of their files, byte for byte. A `Series` keeps the record of each state file with
the bytes that it was decoded from; where the same bytes come again, in whatever manifest, the same object stands for
them. So the tenth manifest of ten thousand files costs what is new in it, and its reader is told what that is.

Lawful manifests only are read here, by the rules of formats/manifest.py. Of anything else no more is said than that
it may not be one: `check_manifest` tells why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from formats.canonical import encode
from formats.errors import BadManifestError, EoctlError
from formats.manifest import (
    MAX_INLINE_TOTAL_BYTES,
    Blocks,
    Inline,
    Manifest,
    OperatorState,
    Slice,
    StateFile,
    SubtaskState,
    check_apart,
    check_parts,
    check_place,
)
from formats.names import check_file_names

MAX_KNOWN = 100_000  # records that are kept, about a kilobyte each
MAX_BYTES = 64 << 20  # of a manifest

_hex = re.compile(r"[0-9a-f]*\Z")


class _Subtask(SubtaskState, frozen=True, kw_only=True):
    files: tuple[Raw, ...]  # type: ignore[assignment]


class _Operator(OperatorState, frozen=True, kw_only=True):
    subtasks: tuple[_Subtask, ...]
    coordinator: tuple[Raw, ...] = ()  # type: ignore[assignment]


class _Outline(Manifest, frozen=True, kw_only=True):
    """A manifest of which the files are not decoded."""

    operators: tuple[_Operator, ...]


class Read(NamedTuple):
    """A lawful manifest, and those of its files that no manifest of the series had before."""

    manifest: Manifest
    new: list[StateFile]


_outlines = msgspec.json.Decoder(_Outline)
_encoder = msgspec.json.Encoder(order="sorted")
_records = msgspec.json.Decoder(list[StateFile])
_Record = TypeVar("_Record", bound=msgspec.Struct)
_Slices = dict[str, set[tuple[int, int, str]]]


class Series:
    """Manifests of one pipeline. What does not fit into `MAX_KNOWN` records and `MAX_BYTES` is left to others."""

    def __init__(self) -> None:
        self._known: dict[bytes, StateFile] = {}
        self._packs: dict[str, int] = {}
        self._slices: _Slices = {}
        self._checked_names: list[str] = []

    def read(self, data: bytes) -> Read | None:
        """The manifest, decoded and checked; None where it does not fit, or may not be lawful."""
        if len(data) > MAX_BYTES:
            return None
        try:
            outline = _outlines.decode(data)
            packs = check_parts(outline)
            if any(self._packs.get(pack, size) != size for pack, size in packs.items()) or encode(outline) != data:
                return None
            groups = [[bytes(record) for record in group] for group in _groups(outline)]
            new = _decode([record for group in groups for record in group if record not in self._known])
            if new is None or len(self._known) + len(new) > MAX_KNOWN:
                return None
            slices = self._check_new(outline, packs, new)
            found = self._known if not new else self._known | new
            files = [tuple(map(found.__getitem__, group)) for group in groups]
            self._check_groups(outline, packs, files)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, EoctlError):
            return None
        self._known = found
        self._packs |= packs
        self._slices |= slices
        return Read(_whole(outline, files), list(new.values()))

    def _check_new(self, outline: _Outline, packs: dict[str, int], new: dict[bytes, StateFile]) -> _Slices:
        """New files can lie where they say, apart from all others. Returns all slices of the packs in which they lie.

        Raises: BadManifestError.
        """
        if _hex.match("".join(file.digest for file in new.values())) is None:
            raise BadManifestError("a digest is not 64 lower-case hex digits")
        used: _Slices = {}
        for file in new.values():
            check_place(outline, file, packs, used)
        for pack, slices in used.items():
            slices.update(self._slices.get(pack, ()))
            check_apart(outline, slices)
        return used

    def _check_groups(self, outline: _Outline, packs: dict[str, int], groups: list[tuple[StateFile, ...]]) -> None:
        """Names in each group, and packs and inline data of all of them together.

        Raises: BadManifestError, BadNameError, NameClashError.
        """
        inline_bytes = 0
        used: set[str] = set()
        for group, directories in zip(groups, _directories(outline), strict=True):
            names = [file.name for file in group]
            if directories or (names and names != self._checked_names):
                if names != sorted(names):
                    raise BadManifestError("files are not sorted by name")
                check_file_names(names + list(directories))
                self._checked_names = names
            for file in group:
                place = file.place
                if type(place) is Slice:
                    used.add(place.pack)
                elif type(place) is Inline:
                    inline_bytes += len(place.data)
                elif type(place) is Blocks:
                    used.update(place.packs)
                    used.update(table.place.pack for table in place.tables if isinstance(table.place, Slice))
        if inline_bytes > MAX_INLINE_TOTAL_BYTES or used != packs.keys():
            raise BadManifestError("packs or inline data are not what they should be")


def _groups(outline: _Outline) -> Iterator[tuple[Raw, ...]]:
    for operator in outline.operators:
        yield operator.coordinator
        for subtask in operator.subtasks:
            yield subtask.files


def _whole(outline: _Outline, groups: Sequence[tuple[StateFile, ...]]) -> Manifest:
    """The outline with its files, in the order of `_groups`."""
    files = iter(groups)
    operators = []
    for operator in outline.operators:
        coordinator = next(files)
        subtasks = tuple(_plain(subtask, SubtaskState, files=next(files)) for subtask in operator.subtasks)
        operators.append(_plain(operator, OperatorState, coordinator=coordinator, subtasks=subtasks))
    return _plain(outline, Manifest, operators=tuple(operators))


def _plain(outline: msgspec.Struct, record: type[_Record], **changes: object) -> _Record:
    """The outline as the record that it is one of."""
    fields = {name: getattr(outline, name) for name in record.__struct_fields__}
    return record(**fields | changes)


def _directories(outline: _Outline) -> Iterator[tuple[str, ...]]:
    """Of each group, in the same order."""
    for operator in outline.operators:
        yield ()
        for subtask in operator.subtasks:
            yield subtask.empty_directories


def _decode(records: list[bytes]) -> dict[bytes, StateFile] | None:
    """The records, each once; None if there are too many, or one is not written as it should be."""
    distinct = list(dict.fromkeys(records))
    if len(distinct) > MAX_KNOWN:
        return None
    together = b"[" + b",".join(distinct) + b"]"
    files = _records.decode(together)
    if len(files) != len(distinct) or _encoder.encode(files) != together:
        return None
    return dict(zip(distinct, files, strict=True))
