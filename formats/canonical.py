"""Canonical JSON, read by one strict reader.

Canonical: UTF-8, keys sorted, no white space, no floats, absent fields left out. The reader accepts
nothing else: it decodes into a typed record (unknown field, wrong type, bool for int: refused), encodes
that again and compares. So duplicate keys, a byte-order mark, trailing bytes, another order or spelling
of a number cannot pass, and two different byte strings never mean the same record. Depth is bounded by the
records' own types: nothing in them nests without end.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from formats.errors import BadManifestError, TooLargeError, UnsupportedError

MAX_STRING_BYTES = 4096

_encoder = msgspec.json.Encoder(order="sorted")
Record = TypeVar("Record", bound=msgspec.Struct)


class _Envelope(msgspec.Struct, frozen=True):
    format: str
    version: int


def encode(record: msgspec.Struct) -> bytes:
    """The one byte string of this record. Raises: BadManifestError for text that UTF-8 cannot say."""
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError as error:
        message = f"text that is not UTF-8: {error.object[:100]!r}"
        raise BadManifestError(message, hint="rename it at the source; nothing was taken in") from error


def decode(data: bytes, record: type[Record], *, what: str, max_bytes: int, canonical: bool = True) -> Record:
    """The record that `data` is the canonical form of; `what` names it in errors.

    Not `canonical`: bytes whose digest vouches for them are not encoded again to compare.

    Raises: TooLargeError before anything is decoded; UnsupportedError for a newer version; BadManifestError.
    """
    if len(data) > max_bytes:
        message = f"{what} is too large: {len(data)} bytes (limit {max_bytes})"
        raise TooLargeError(message)
    try:
        value = msgspec.json.decode(data, type=record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        _check_version(data, record, what)
        message = f"{what} is not valid: {error}"
        raise BadManifestError(message) from error
    if canonical and encode(value) != data:
        message = f"{what} is not canonical JSON"
        raise BadManifestError(message)
    return value


def to_builtins(value: Any) -> Any:  # noqa: ANN401  (a border: any record in, JSON values out)
    """`value` as plain dicts, lists, strings and numbers."""
    return msgspec.to_builtins(value)


def _check_version(data: bytes, record: type[msgspec.Struct], what: str) -> None:
    """The envelope names this record's format, in a version that is known; else say so rather than "bad field"."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    known_format, known_version = record.FORMAT, record.VERSION  # type: ignore[attr-defined]  # every stored record names both
    if envelope.format != known_format:
        message = f"{what} is a {envelope.format[:64]!r}, not a {known_format!r}"
        raise BadManifestError(message)
    if envelope.version != known_version:
        message = f"{what} has version {envelope.version}; this eoctl knows version {known_version}"
        raise UnsupportedError(message, hint="upgrade eoctl")
