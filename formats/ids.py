"""The names and numbers of the house: what identifies a store, a snapshot, a blob, an operator.

A value with a rule is parsed once, at the border, and trusted after that. Digests are plain strings
of 64 lower-case hex digits (a `NewType`), because a manifest may hold a million of them.
"""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from enum import StrEnum
from typing import NewType, Protocol

from msgspec import Struct

from formats.errors import BadManifestError, BadNameError
from formats.murmur3 import murmur3_128

CheckpointId = NewType("CheckpointId", int)  # from 1, per pipeline, never used twice
Attempt = NewType("Attempt", int)
Era = NewType("Era", int)
Digest = NewType("Digest", str)
OperatorId = NewType("OperatorId", str)  # 32 hex digits
TxId = NewType("TxId", str)  # 32 hex digits, random

MAX_INTEGER = 2**53
DIGEST_PATTERN = r"^[0-9a-f]{64}\Z"
HEX32_PATTERN = r"^[0-9a-f]{32}\Z"
TIME_PATTERN = r"^(?!9999)[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z\Z"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}\Z"

_name = re.compile(NAME_PATTERN)
_blob_key = re.compile(r"^([0-9a-f]{64})\.(0|[1-9][0-9]{0,15})\Z")
_reserved_names = frozenset({"con", "prn", "aux", "nul", "latest"})


class Hasher(Protocol):
    """What `hashlib` and `blake3` have in common."""

    def update(self, data: bytes | bytearray | memoryview, /) -> object: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


class HashAlgorithm(StrEnum):
    """The store's hash, chosen at init and never changed."""

    BLAKE3 = "blake3"
    SHA256 = "sha256"

    def hasher(self) -> Hasher:
        if self is HashAlgorithm.SHA256:
            return hashlib.sha256()
        import blake3  # noqa: PLC0415  (start-up: listing a store hashes nothing large)

        return blake3.blake3()

    def digest(self, data: bytes | bytearray | memoryview) -> Digest:
        hasher = self.hasher()
        hasher.update(data)
        return Digest(hasher.hexdigest())


class BlobKey(Struct, frozen=True, order=True):
    """What a stored blob is called: the digest of its stored bytes, and the era of the session that wrote it."""

    digest: Digest
    era: Era

    def __str__(self) -> str:
        return f"{self.digest}.{self.era}"

    @classmethod
    def parse(cls, text: str) -> BlobKey:
        match = _blob_key.match(text)
        if match is None or int(match[2]) > MAX_INTEGER:
            message = f"not a blob key: {text[:100]!r}"
            raise BadManifestError(message)
        return cls(Digest(match[1]), Era(int(match[2])))


class PipelineId(Struct, frozen=True, order=True):
    """A pipeline's name: `[a-z0-9][a-z0-9._-]{0,62}`, and not a reserved word."""

    name: str

    def __post_init__(self) -> None:
        check_name(self.name, "pipeline")

    def __str__(self) -> str:
        return self.name


def check_name(name: str, what: str) -> str:
    """`name` is safe as a part of a key on every file system and object store.

    Raises: BadNameError.
    """
    if _name.match(name) is None or name in _reserved_names:
        message = f"bad {what} name: {name[:100]!r}"
        raise BadNameError(
            message,
            hint="1 to 63 of a-z 0-9 . _ -, starting with a letter or digit; con, prn, aux, nul, latest are reserved",
        )
    return name


def is_time(text: str) -> bool:
    """A text that fits TIME_PATTERN is in the calendar and on the clock."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def operator_id(uid: str) -> OperatorId:
    """The id that Flink gives an operator of this uid. Source: Flink, `StreamGraphHasherV2`."""
    return OperatorId(murmur3_128(uid.encode()).hex())
