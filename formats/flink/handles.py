"""Handles: what Flink's `_metadata` says of where state lies. One class for each kind; a union for each place of one.

Where Flink has an old and a new form of a kind, a field that only the new one has is None in the old one. Key groups
are half-open here (`stop`), and inclusive in Flink. Offsets count from the start of the stream that the handle holds.
Source: Flink 2.3.0, `MetadataV2V3SerializerBase` (tags), `ChannelStateHandleSerializer...`.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TypeAlias

from msgspec import Struct


class Mode(IntEnum):
    """How an operator state is dealt out on a restore. The numbers are those of the format."""

    SPLIT = 0
    UNION = 1
    BROADCAST = 2


class Scope(IntEnum):
    """Whether later checkpoints may share a segment's file."""

    EXCLUSIVE = 0
    SHARED = 1


# Streams: where bytes are.


class Inline(Struct, frozen=True, gc=False):
    """The bytes lie in `_metadata`. `name` is made up by Flink, nothing lies there. Tag 1."""

    name: str
    data: bytes


class AbsoluteFile(Struct, frozen=True, gc=False):
    """A whole file, by its absolute path as Flink writes it (`file:/tmp/...`). Tag 2."""

    path: str
    size: int


class RelativeFile(Struct, frozen=True, gc=False):
    """A whole file, by its path from the folder of `_metadata`. Tag 6."""

    path: str
    size: int


class Segment(Struct, frozen=True, gc=False):
    """Bytes `[start, start + size)` of a file that holds several. Tag 15."""

    path: str
    start: int
    size: int
    scope: Scope
    file_id: str


class EmptySegment(Struct, frozen=True, gc=False):
    """No bytes, of a file that was to hold several. Tag 16."""


class KeyGroups(Struct, frozen=True, gc=False):
    """Keyed state of a range of key groups, at an offset each. Tag 12; without `handle_id` tag 3.

    What HashMap checkpoints and native HashMap savepoints hold.
    """

    start: int
    offsets: tuple[int, ...]
    stream: StreamHandle | None
    handle_id: str | None = None

    @property
    def stop(self) -> int:
        return self.start + len(self.offsets)


StreamHandle: TypeAlias = Inline | AbsoluteFile | RelativeFile | Segment | EmptySegment | KeyGroups


# Keyed state.


class SavepointKeyGroups(Struct, frozen=True, gc=False):
    """The same in canonical form, whatever backend wrote it; an empty key group has offset 0. Tag 7."""

    start: int
    offsets: tuple[int, ...]
    stream: StreamHandle | None

    @property
    def stop(self) -> int:
        return self.start + len(self.offsets)


class NamedFile(Struct, frozen=True, gc=False):
    """A file of a database, by its name there."""

    name: str
    stream: StreamHandle | None


class Incremental(Struct, frozen=True, gc=False):
    """A RocksDB database. Tag 11; without `checkpointed_bytes` and `handle_id` tag 5."""

    checkpoint_id: int
    backend_id: str
    start: int
    stop: int
    meta: StreamHandle | None
    shared: tuple[NamedFile, ...]
    private: tuple[NamedFile, ...]
    checkpointed_bytes: int | None = None
    handle_id: str | None = None


class Changelog(Struct, frozen=True, gc=False):
    """Materialised state and the changes since. Tag 14; without `checkpoint_id` tag 8."""

    start: int
    stop: int
    checkpointed_bytes: int
    materialized: tuple[KeyedHandle | None, ...]
    changes: tuple[KeyedHandle | None, ...]
    materialization_id: int
    checkpoint_id: int | None
    handle_id: str


class Change(Struct, frozen=True, gc=False):
    """One change, inline; key group -1: about the states themselves."""

    key_group: int
    data: bytes


class InlineChanges(Struct, frozen=True, gc=False):
    """Changes inside `_metadata`, numbered `[start_number, stop_number)`. Tag 9."""

    start: int
    stop: int
    start_number: int
    stop_number: int
    changes: tuple[Change, ...]
    handle_id: str


class ChangeSet(Struct, frozen=True, gc=False):
    """Changes in a stream from `offset` on, which does not count the stream's first byte."""

    offset: int
    stream: StreamHandle | None


class ChangeFiles(Struct, frozen=True, gc=False):
    """Changes in files. Tag 13; without `storage` tag 10, and then it is "filesystem"."""

    start: int
    stop: int
    sets: tuple[ChangeSet, ...]
    size: int
    checkpointed_bytes: int
    handle_id: str
    storage: str | None = None


KeyedHandle: TypeAlias = KeyGroups | SavepointKeyGroups | Incremental | Changelog | InlineChanges | ChangeFiles


# Operator state.


class OperatorList(Struct, frozen=True, gc=False):
    """One named state: where each of its elements begins; of a broadcast state, the whole of it."""

    name: str
    mode: Mode
    offsets: tuple[int, ...]


class Directories(Struct, frozen=True, gc=False):
    """Where merged files of operator state lie. `empty`: there is nothing in them."""

    task_owned: str
    shared: str
    empty: bool


class OperatorHandle(Struct, frozen=True, gc=False):
    """Operator state of one subtask. Tag 4; with `directories` tag 17, whose stream is a segment or an empty one."""

    states: tuple[OperatorList, ...]
    stream: StreamHandle | None
    directories: Directories | None = None


# In-flight data.


class Channel(Struct, frozen=True, gc=False):
    """What was captured of one channel: (gate, channel) of an input, (partition, subpartition) of an output."""

    first: int
    second: int
    size: int
    offsets: tuple[int, ...]


class ChannelHandle(Struct, frozen=True, gc=False):
    """In-flight data of one subtask. Not `merged`: of one channel, whose size is that of the handle."""

    subtask: int
    channels: tuple[Channel, ...]
    size: int
    stream: StreamHandle | None
    merged: bool


def streams_of_keyed(handle: KeyedHandle | None, name: str) -> Iterator[tuple[str, StreamHandle]]:
    """Every stream below the handle, called `name` or `name/...`: a database's files as it calls them."""
    match handle:
        case KeyGroups(stream=stream) | SavepointKeyGroups(stream=stream):
            yield from _leaf(name, stream)
        case Incremental(meta=meta, shared=shared, private=private):
            yield from _leaf(f"{name}/meta", meta)
            for file in (*shared, *private):
                yield from _leaf(f"{name}/{file.name}", file.stream)
        case Changelog(materialized=materialized, changes=changes):
            for number, part in enumerate(materialized):
                yield from streams_of_keyed(part, f"{name}/materialized-{number}")
            for number, part in enumerate(changes):
                yield from streams_of_keyed(part, f"{name}/changes-{number}")
        case ChangeFiles(sets=sets):
            for number, each in enumerate(sets):
                yield from _leaf(f"{name}/change-set-{number}", each.stream)


def leaf_of(stream: StreamHandle | None) -> StreamHandle | None:
    """Where the bytes are: a key-groups handle that is used as a stream stands for the one that it holds."""
    while isinstance(stream, KeyGroups):
        stream = stream.stream
    return stream


def size_of(stream: StreamHandle | None) -> int:
    """How many bytes the stream has."""
    match leaf_of(stream):
        case Inline(data=data):
            return len(data)
        case AbsoluteFile(size=size) | RelativeFile(size=size) | Segment(size=size):
            return size
    return 0


def _leaf(name: str, stream: StreamHandle | None) -> Iterator[tuple[str, StreamHandle]]:
    found = leaf_of(stream)
    if found is not None:
        yield name, found
