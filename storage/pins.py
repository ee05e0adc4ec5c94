"""Pins: "an upload is in progress", said to whoever asks. Advisory: no answer depends on them.

A pin is a small record under its session's name, written anew (with a larger number) when refreshed and removed
at the end. gc may spare the eras of fresh ones; the command line asks them who is writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from formats.canonical import decode, encode
from formats.errors import BadManifestError, TooLargeError, UnsupportedError
from formats.ids import MAX_INTEGER, PipelineId
from storage import layout
from storage.backend import Backend, Found, Key, KeyAbsentError

MAX_PIN_BYTES = 1 << 16
SYNC_FAILED = "sync-failed"  # a note: the disk lost something, and the era could not be raised at once

_Count = Annotated[int, Meta(ge=0, le=MAX_INTEGER)]


class PinRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """Who uploads: the era it stamps, its attempt, its host (a digest) and process there."""

    FORMAT: ClassVar[str] = "eoctl.pin"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.pin"]
    version: Literal[1]
    era: _Count
    attempt: _Count
    host: Annotated[str, Meta(max_length=64)]
    process: Annotated[str, Meta(max_length=64)]  # id and start time there
    note: Annotated[str, Meta(max_length=256)]


class Pin:
    """One session's pin."""

    def __init__(self, backend: Backend, pipeline: PipelineId, session: str) -> None:
        self._backend = backend
        self._pipeline = pipeline
        self._session = session
        self._number = 0

    def refresh(self, record: PinRecord) -> None:
        """The pin is fresh: the new one first, so that there is always one."""
        self._backend.create(layout.pin(self._pipeline, self._session, self._number + 1), encode(record))
        self.remove()
        self._number += 1

    def remove(self) -> None:
        if self._number:
            self._backend.delete([layout.pin(self._pipeline, self._session, self._number)])


def read_pins(backend: Backend, pipeline: PipelineId) -> Iterator[tuple[Found, PinRecord]]:
    """Every pin that can be read, with when it was written by the store's clock."""
    for found in backend.list(layout.pins(pipeline)):
        if isinstance(found, Found):
            try:
                with backend.open(found.key) as file:
                    data = file.read(MAX_PIN_BYTES + 1)
                record = decode(data, PinRecord, what=str(found.key), max_bytes=MAX_PIN_BYTES)
            except (KeyAbsentError, BadManifestError, TooLargeError, UnsupportedError):
                continue  # gone meanwhile, or not ours to understand: it advises nobody
            yield found, record


def find_lost_writes(backend: Backend, pipeline: PipelineId) -> list[Key]:
    """Pins that say that the disk failed a session; and what cannot be read, for it may be one."""
    notes = []
    for found in backend.list(layout.pins(pipeline)):
        if isinstance(found, Found):
            try:
                with backend.open(found.key) as file:
                    data = file.read(MAX_PIN_BYTES + 1)
                record = decode(data, PinRecord, what=str(found.key), max_bytes=MAX_PIN_BYTES)
            except KeyAbsentError:
                continue
            except (BadManifestError, TooLargeError, UnsupportedError):
                notes.append(found.key)
            else:
                notes += [found.key] if record.note == SYNC_FAILED else []
    return notes


def remove_pins(backend: Backend, keys: list[Key]) -> None:
    backend.delete(keys)
