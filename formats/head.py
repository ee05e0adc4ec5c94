"""HEAD: the one record of a pipeline that changes, and the listing index of its snapshots.

It changes only by compare-and-swap (storage/head.py). An entry in it is what makes a manifest a snapshot;
entries in the trash and holds are roots too. `nonce` makes its bytes unique for ever, so a stale condition
can never match again. Canonical JSON, at most 4 MiB and 4096 roots; told in docs/formats/head.md.

As stored it also says the digest of its other fields, so that a wrong bit is damage, and never another lawful HEAD.

Times are RFC 3339 UTC with milliseconds, of fixed width; they inform and steer policy, and no safety rule
reads them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta, Struct

from formats.canonical import MAX_STRING_BYTES, decode, encode
from formats.errors import (
    BadManifestError,
    BadNameError,
    CorruptError,
    EoctlError,
    InvalidInputError,
    TooLargeError,
    UnsupportedError,
)
from formats.ids import DIGEST_PATTERN, HEX32_PATTERN, MAX_INTEGER, NAME_PATTERN, TIME_PATTERN, BlobKey, is_time

MAX_HEAD_BYTES = 4 << 20
MAX_ROOTS = 4096
LOST_HEAD = "nothing was changed or deleted; never put an old HEAD back (docs/protocol.md, A lost HEAD)"
TAG_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:/=+-]{0,127}\Z"

_Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]
_Text = Annotated[str, Meta(max_length=MAX_STRING_BYTES)]
_Tag = Annotated[str, Meta(pattern=TAG_PATTERN)]
_Time = Annotated[str, Meta(pattern=TIME_PATTERN)]
_Hex32 = Annotated[str, Meta(pattern=HEX32_PATTERN)]
_Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\.(0|[1-9][0-9]{0,15})\Z")]
_Name = Annotated[str, Meta(pattern=NAME_PATTERN)]


class HeadEntry(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One snapshot: everything that `list` prints, and the key of its manifest."""

    kind: Literal["checkpoint", "savepoint"]
    id: _Count
    seq: _Count
    txid: _Hex32
    created_at: _Time
    attempt: _Count
    engine: _Name
    manifest: _Key
    manifest_bytes: _Count
    full_bytes: _Count
    added_bytes: _Count
    files: _Count
    added_files: _Count
    referenced_files: _Count
    name: _Text = ""  # of a savepoint
    base: _Count = 0
    duration_micros: _Count = 0
    tags: tuple[_Tag, ...] = ()

    @property
    def label(self) -> str:
        return self.name or str(self.id)


class Trashed(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An expired entry, still a root. `seen_by_advance`: a gc advance has met it here, so that the next may drop it."""

    entry: HeadEntry
    trashed_at: _Time
    seen_by_advance: bool = False


class Hold(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A root that keeps a snapshot for a restore or an audit. No `expires_at`: a legal hold."""

    id: _Hex32
    entry: HeadEntry
    reason: _Text
    created_at: _Time
    expires_at: _Time | None = None


class Writer(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose commits are accepted: the newest attempt, known by its random owner, not by its number."""

    attempt: _Count
    owner: _Hex32
    last_tx: _Hex32


class Head(Struct, frozen=True, forbid_unknown_fields=True):
    """One value of HEAD. `live` is in order of commit."""

    FORMAT: ClassVar[str] = "eoctl.head"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.head"]
    version: Literal[1]
    store: _Hex32
    pipeline: _Name
    state: Literal["active", "destroyed"]
    seq: _Count
    nonce: _Hex32
    era: _Count
    floor: _Count
    advanced_at: _Time
    last_id: _Count  # the largest checkpoint id ever committed
    writer: Writer
    live: tuple[HeadEntry, ...]
    trash: tuple[Trashed, ...]
    holds: tuple[Hold, ...]


class _Sealed(Head, frozen=True, forbid_unknown_fields=True):
    """HEAD as it is stored. `digest`: SHA-256, in hex, of the canonical JSON of all other fields."""

    digest: Annotated[str, Meta(pattern=DIGEST_PATTERN)] | msgspec.UnsetType = msgspec.UNSET


def roots(head: Head) -> Iterator[HeadEntry]:
    """Every entry whose manifest and blobs must exist."""
    yield from head.live
    for trashed in head.trash:
        yield trashed.entry
    for hold in head.holds:
        yield hold.entry


def manifests_of(head: Head) -> dict[str, HeadEntry]:
    """Every manifest that a root names, by its key, with one of its roots: a held snapshot may be a live one too."""
    return {entry.manifest: entry for entry in roots(head)}


def encode_head(head: Head) -> bytes:
    """The bytes to store: never any that `decode_head` would refuse.

    Raises: TooLargeError, with what to do about it; InvalidInputError for a value that HEAD cannot hold.
    """
    fields = {name: getattr(head, name) for name in Head.__struct_fields__}
    data = encode(_Sealed(**fields, digest=_digest(head)))
    count = sum(1 for _ in roots(head))
    if len(data) > MAX_HEAD_BYTES or count > MAX_ROOTS:
        limits = f"limits {MAX_ROOTS}, {MAX_HEAD_BYTES}"
        message = f"HEAD of {head.pipeline} is full: {count} roots, {len(data)} bytes ({limits})"
        raise TooLargeError(message, hint="go on under a new pipeline name; this one can still be read")
    try:
        decode_head(data)
    except CorruptError as error:
        message = f"HEAD of {head.pipeline} cannot hold this: {error.__cause__ or error}"
        raise InvalidInputError(message, hint="nothing was changed") from error
    return data


def check_tag(tag: str) -> str:
    """Raises: BadNameError."""
    if re.match(TAG_PATTERN, tag) is None:
        message = f"bad tag: {tag[:200]!r}"
        raise BadNameError(message, hint="1 to 128 of A-Z a-z 0-9 . _ : / = + -, starting with a letter or digit")
    return tag


def decode_head(data: bytes) -> Head:
    """The value of HEAD, whole and lawful. Anything else stops every write and every gc.

    Raises: CorruptError, UnsupportedError for a newer version.
    """
    try:
        sealed = decode(data, _Sealed, what="HEAD", max_bytes=MAX_HEAD_BYTES)
        head = Head(*(getattr(sealed, name) for name in Head.__struct_fields__))
        if sealed.digest is not msgspec.UNSET and sealed.digest != _digest(head):
            _bad("its digest is another")
        _check(head)
    except UnsupportedError:
        raise
    except EoctlError as error:
        message = f"HEAD is damaged: {error.message}"
        raise CorruptError(message, hint=LOST_HEAD) from error
    return head


def _digest(head: Head) -> str:
    return hashlib.sha256(encode(head)).hexdigest()


def _check(head: Head) -> None:
    destroyed = head.state == "destroyed"
    all_roots = list(roots(head))
    if len(all_roots) > MAX_ROOTS:
        _bad(f"more than {MAX_ROOTS} roots")
    if head.floor > head.era + (1 if destroyed else 0) or (destroyed and all_roots):
        _bad("floor above era, or roots in a destroyed pipeline")
    labels = [entry.label for entry in head.live] + [trashed.entry.label for trashed in head.trash]
    if len(set(labels)) != len(labels):
        _bad("two entries of one name")
    if len({hold.id for hold in head.holds}) != len(head.holds):
        _bad("two holds of one id")
    if any((entry.kind == "savepoint") != bool(entry.name) or entry.name.isdecimal() for entry in all_roots):
        _bad("a savepoint without a name of its own")
    if any(BlobKey.parse(entry.manifest).era > head.era for entry in all_roots):
        _bad("an era above the pipeline's")
    if any(entry.seq > head.seq or entry.id > head.last_id or entry.base > head.last_id for entry in all_roots):
        _bad("an entry from the future")
    times = [head.advanced_at, *(entry.created_at for entry in all_roots), *(t.trashed_at for t in head.trash)]
    times += [time for hold in head.holds for time in (hold.created_at, hold.expires_at) if time is not None]
    if not all(map(is_time, times)):
        _bad("a time that is in no calendar")


def _bad(reason: str) -> None:
    message = f"HEAD is not valid: {reason}"
    raise BadManifestError(message)
