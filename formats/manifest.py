"""The manifest: the immutable list of what one snapshot consists of.

`Manifest` > `OperatorState` > `SubtaskState` > `StateFile`; beside them source offsets, sink
transactions, metrics and where it all came from. Stored as canonical JSON in one zstd frame, under the
digest of the stored bytes. The format is told in docs/formats/manifest.md.

A state file's *content* has a digest and a size: by these it is reused and restored. Where its bytes lie is
its `place`: inline, whole in a blob of its own, a slice of a pack, or, for a large mutable file, tables of
64 KiB blocks (formats/blocktable.py) whose packs `Manifest.packs` names. So the manifest alone says which
blobs a snapshot needs: `blobs(manifest)`.

Rules kept here: every name is safe (formats/names.py), files are sorted by name and distinct within a
subtask, slices lie inside their pack, a file's parts fit its size. Durations are integers of microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from formats.canonical import MAX_STRING_BYTES
from formats.errors import BadManifestError, TooLargeError
from formats.ids import DIGEST_PATTERN, HEX32_PATTERN, MAX_INTEGER, NAME_PATTERN, BlobKey, Digest, Era, HashAlgorithm
from formats.names import check_file_names

MAX_MANIFEST_BYTES = 256 << 20
MAX_FILES = 1_000_000
MAX_INLINE_BYTES = 4096
MAX_INLINE_TOTAL_BYTES = 1 << 20
MAX_PACK_BYTES = 32 << 20  # and of one content in it: both are held in memory whole
BLOCK_BYTES = 64 << 10
TABLE_BLOCKS = 4096  # blocks of one table: 256 MiB of content

_hex = re.compile(r"[0-9a-f]*\Z")

Count: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
Text: TypeAlias = Annotated[str, Meta(max_length=MAX_STRING_BYTES)]
DigestText: TypeAlias = Annotated[str, Meta(pattern=DIGEST_PATTERN)]
KeyText: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\.(0|[1-9][0-9]{0,15})\Z")]
Hex32: TypeAlias = Annotated[str, Meta(pattern=HEX32_PATTERN)]
Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN)]
Codec: TypeAlias = Literal["raw", "zstd"]
Role: TypeAlias = Literal["opaque", "keyed", "operator", "timer", "in-flight", "coordinator"]


class Inline(Struct, frozen=True, tag="inline", tag_field="in", forbid_unknown_fields=True, gc=False):
    """The content itself, at most 4 KiB."""

    data: Annotated[bytes, Meta(max_length=MAX_INLINE_BYTES)]


class Whole(Struct, frozen=True, tag="blob", tag_field="in", forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One blob holds the content. Stored raw, its digest and size are the content's and are not said twice."""

    era: Count
    codec: Codec = "raw"
    digest: DigestText = ""
    stored_bytes: Count = 0


class Slice(Struct, frozen=True, tag="pack", tag_field="in", forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Bytes `[offset, offset + length)` of a pack, which `Manifest.packs` names too."""

    pack: KeyText
    offset: Count
    length: Count
    codec: Codec = "raw"


class Table(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One encoded block table: the digest and size of the table, and where it lies."""

    digest: DigestText
    bytes: Count
    place: Whole | Slice


class Blocks(Struct, frozen=True, tag="blocks", tag_field="in", forbid_unknown_fields=True, gc=False):
    """Fixed blocks of 64 KiB, 4096 to a table, in order; the last block may be short."""

    tables: tuple[Table, ...]
    packs: tuple[KeyText, ...]  # sorted; every pack that the tables name


Place: TypeAlias = Inline | Whole | Slice | Blocks


class StateFile(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One named file of a subtask.

    `stamp` says how the file looked at its source (device, inode, mtime in ns; hex), so that an unchanged
    file is not read again; it is absent where the file could still have changed within one clock tick. Of a copy
    from a bucket it tells the place and version there.
    `first_stored_in` is the checkpoint that uploaded the content.
    """

    name: Text
    bytes: Count
    digest: Annotated[str, Meta(min_length=64, max_length=64)]  # hex, which `check_manifest` checks for all at once
    place: Place
    first_stored_in: Count
    role: Role = "opaque"
    stamp: Text = ""


class PackRef(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A pack that some slice or block of this manifest lies in."""

    key: KeyText
    bytes: Count


class Engine(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What wrote the state: `directory`, `rocksdb`, `sqlite`, `flink`, `eoctl`; or `mixed`, on a manifest."""

    kind: Name
    version: Text = ""
    properties: dict[Text, Text] = {}


class SubtaskState(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one parallel instance handed over. `key_groups` is half-open."""

    index: Count
    files: tuple[StateFile, ...]
    key_groups: tuple[Count, Count] | None = None
    finished: bool = False
    empty_directories: tuple[Text, ...] = ()


class StateInfo(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A named state of an operator, as far as its engine tells: kind is value, list, map, timer, broadcast, ..."""

    name: Text
    kind: Text
    bytes: Count | None = None
    entries: Count | None = None
    properties: dict[Text, Text] = {}


class OperatorState(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """All state of one operator. `coordinator` holds what belongs to no subtask. Max parallelism 0: not known."""

    id: Hex32
    subtasks: tuple[SubtaskState, ...]
    parallelism: Count
    engine: Engine
    uid: Text = ""
    name: Text = ""
    max_parallelism: Count = 0
    states: tuple[StateInfo, ...] = ()
    coordinator: tuple[StateFile, ...] = ()


class SourceOffsets(Struct, frozen=True, forbid_unknown_fields=True):
    """Where one source stands: partition (or split) -> next position to read."""

    uid: Text
    offsets: dict[Text, Annotated[int, Meta(ge=-MAX_INTEGER, le=MAX_INTEGER)] | Text]


class Transaction(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A committable: a sink's pre-committed transaction, to be committed because this snapshot exists."""

    id: Text
    state: Literal["pre-committed", "committed", "aborted"]
    checkpoint: Count
    subtask: Count = 0
    properties: dict[Text, Text] = {}
    payload: bytes = b""


class SinkState(Struct, frozen=True, forbid_unknown_fields=True):
    """One sink's transactions."""

    uid: Text
    transactions: tuple[Transaction, ...]


class Metrics(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the checkpoint cost. Times in microseconds."""

    full_bytes: Count
    added_bytes: Count
    stored_bytes: Count = 0  # what was uploaded for the added bytes, after compression
    in_flight_bytes: Count = 0
    duration_micros: Count = 0
    alignment_micros: Count = 0
    snapshot_micros: Count = 0
    upload_micros: Count = 0
    timeout_micros: Count = 0


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One snapshot, complete. `base` and `seq` only inform: nothing is read through them."""

    FORMAT: ClassVar[str] = "eoctl.manifest"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.manifest"]
    version: Literal[1]
    store: Hex32
    pipeline: Name
    kind: Literal["checkpoint", "savepoint"]
    id: Count
    txid: Hex32
    created_at: Text
    attempt: Count
    hash: HashAlgorithm
    engine: Engine
    operators: tuple[OperatorState, ...]
    packs: tuple[PackRef, ...]
    metrics: Metrics
    name: Text = ""  # of a savepoint
    base: Count = 0
    tags: tuple[Text, ...] = ()  # as given at creation; HEAD has the present ones
    host: Text = ""  # on which the stamps mean something; a digest, not a name
    sources: tuple[SourceOffsets, ...] = ()
    sinks: tuple[SinkState, ...] = ()
    properties: dict[Text, Text] = {}


def files_of(manifest: Manifest) -> Iterator[tuple[OperatorState, SubtaskState | None, StateFile]]:
    """Every state file with its operator and subtask; None for the operator's coordinator."""
    for operator in manifest.operators:
        for file in operator.coordinator:
            yield operator, None, file
        for subtask in operator.subtasks:
            for file in subtask.files:
                yield operator, subtask, file


def count_files(manifest: Manifest) -> int:
    """How many state files there are."""
    return sum(
        len(operator.coordinator) + sum(len(subtask.files) for subtask in operator.subtasks)
        for operator in manifest.operators
    )


def blob_key(file: StateFile | Table, place: Whole) -> BlobKey:
    """The blob that holds `file` whole."""
    return BlobKey(Digest(place.digest or file.digest), Era(place.era))


def stored_bytes_of(file: StateFile | Table, place: Whole) -> int:
    return file.bytes if place.codec == "raw" else place.stored_bytes


def packs_of(file: StateFile) -> tuple[str, ...]:
    """The packs that the file's bytes lie in."""
    match file.place:
        case Slice(pack=pack):
            return (pack,)
        case Blocks(packs=packs):
            return packs
    return ()


def blobs(manifest: Manifest) -> dict[BlobKey, int]:
    """Every blob that the snapshot needs, with its stored size; the manifest's own key is not among them."""
    return blobs_of(manifest.packs, (file for _, _, file in files_of(manifest)))


def blobs_of(packs: Iterable[PackRef], files: Iterable[StateFile]) -> dict[BlobKey, int]:
    """These packs, and the blobs that hold these files or their block tables whole, with their stored sizes."""
    found = {BlobKey.parse(pack.key): pack.bytes for pack in packs}
    for file in files:
        match file.place:
            case Whole() as place:
                found[blob_key(file, place)] = stored_bytes_of(file, place)
            case Blocks(tables=tables):
                for table in tables:
                    if isinstance(table.place, Whole):
                        found[blob_key(table, table.place)] = stored_bytes_of(table, table.place)
    return found


def check_manifest(manifest: Manifest) -> None:
    """The rules that types cannot say.

    Raises: BadManifestError, BadNameError, NameClashError, TooLargeError.
    """
    packs = check_parts(manifest)
    files = inline_bytes = 0
    used: dict[str, set[tuple[int, int, str]]] = {}
    for operator in manifest.operators:
        groups: list[tuple[tuple[StateFile, ...], tuple[str, ...]]] = [(operator.coordinator, ())]
        groups += [(subtask.files, subtask.empty_directories) for subtask in operator.subtasks]
        for group, directories in groups:
            files += len(group)
            if files > MAX_FILES:
                message = f"manifest of {manifest.pipeline} names more than {MAX_FILES} files"
                raise TooLargeError(message)
            names = [file.name for file in group]
            if names != sorted(names):
                _bad(manifest, "files are not sorted by name")
            check_file_names(names + list(directories))
            if _hex.match("".join(file.digest for file in group)) is None:
                _bad(manifest, "a digest is not 64 lower-case hex digits")
            for file in group:
                inline_bytes += check_place(manifest, file, packs, used)
    if inline_bytes > MAX_INLINE_TOTAL_BYTES:
        _bad(manifest, f"{inline_bytes} bytes inline (limit {MAX_INLINE_TOTAL_BYTES})")
    if used.keys() != packs.keys():
        _bad(manifest, "packs named are not the packs used")
    for slices in used.values():
        check_apart(manifest, slices)


def check_parts(manifest: Manifest) -> dict[str, int]:
    """Packs with their sizes, operators and subtasks are as they should be, whatever files there are.

    Raises: BadManifestError.
    """
    packs = {str(BlobKey.parse(pack.key)): pack.bytes for pack in manifest.packs}
    if list(packs) != sorted(packs) or len(packs) != len(manifest.packs):
        _bad(manifest, "packs are not sorted and distinct")
    if any(size > MAX_PACK_BYTES for size in packs.values()):
        _bad(manifest, f"a pack of more than {MAX_PACK_BYTES} bytes")
    _distinct(manifest, [operator.id for operator in manifest.operators], "operator ids")
    for operator in manifest.operators:
        _distinct(manifest, [str(subtask.index) for subtask in operator.subtasks], "subtask indexes")
    return packs


def check_place(
    manifest: Manifest,
    file: StateFile | Table,
    packs: dict[str, int],
    used: dict[str, set[tuple[int, int, str]]],
) -> int:
    """The file's bytes can lie where it says; returns how many of them lie inline. `used`: slices met, by pack.

    Raises: BadManifestError.
    """
    match file.place:
        case Inline(data=data):
            if len(data) != file.bytes:
                _bad(manifest, "inline data of another size", file)
            return len(data)
        case Whole(codec=codec, digest=digest, stored_bytes=stored_bytes):
            if (codec == "raw") != (digest == "") or (codec == "raw" and stored_bytes):
                _bad(manifest, "a stored digest goes with a codec, and only with one", file)
        case Slice(pack=pack, offset=offset, length=length, codec=codec):
            if offset + length > packs.get(pack, -1) or (codec == "raw" and length != file.bytes):
                _bad(manifest, "slice beyond its pack or its size", file)
            if file.bytes > MAX_PACK_BYTES:
                _bad(manifest, f"a slice of more than {MAX_PACK_BYTES} bytes", file)
            used.setdefault(pack, set()).add((offset, length, file.digest))
        case Blocks(tables=tables, packs=block_packs):
            blocks = -(-file.bytes // BLOCK_BYTES)
            if len(tables) != -(-blocks // TABLE_BLOCKS) or not set(block_packs) <= packs.keys():
                _bad(manifest, "block tables do not fit the file's size", file)
            for pack in block_packs:
                used.setdefault(pack, set())
            for table in tables:
                check_place(manifest, table, packs, used)
    return 0


def check_apart(manifest: Manifest, slices: set[tuple[int, int, str]]) -> None:
    """Slices of one pack are the same or lie apart: bytes never stand for two contents. Raises: BadManifestError."""
    end = 0
    for offset, length, _ in sorted(slices):
        if offset < end:
            _bad(manifest, "slices of a pack overlap")
        end = offset + length


def _distinct(manifest: Manifest, names: list[str], what: str) -> None:
    if len(set(names)) != len(names):
        _bad(manifest, f"{what} are not distinct")


def _bad(manifest: Manifest, reason: str, file: StateFile | Table | None = None) -> None:
    where = f": {file.name[:200]!r}" if isinstance(file, StateFile) else ""
    message = f"manifest of {manifest.pipeline}@{manifest.name or manifest.id}: {reason}{where}"
    raise BadManifestError(message)
