"""Handles, read from a cursor. Each function takes a tag and what follows it."""

from __future__ import annotations

import struct

from formats.binary import Cursor
from formats.errors import UnsupportedError
from formats.flink.handles import (
    AbsoluteFile,
    Change,
    ChangeFiles,
    Changelog,
    ChangeSet,
    Channel,
    ChannelHandle,
    Directories,
    EmptySegment,
    Incremental,
    Inline,
    InlineChanges,
    KeyedHandle,
    KeyGroups,
    Mode,
    NamedFile,
    OperatorHandle,
    OperatorList,
    RelativeFile,
    SavepointKeyGroups,
    Scope,
    Segment,
    StreamHandle,
)
from formats.keygroups import MAX_MAX_PARALLELISM

MAX_DEPTH = 8  # of handles in handles: Flink writes two at most

_CHANNEL_TAGS = {False: (1, 3), True: (2, 4)}  # of an input, of an output: one channel, or several merged


def read_stream(cursor: Cursor, *, inline_only: bool = False, depth: int = 0) -> StreamHandle | None:
    """The stream handle here; None for none. `inline_only`: of a coordinator, which Flink keeps in `_metadata`."""
    tag = cursor.u8("a stream handle")
    if inline_only and tag > 1:
        raise cursor.error(f"a coordinator's state lies in a handle of tag {tag}, not inline", at=cursor.at - 1)
    match tag:
        case 0:
            return None
        case 2:
            size = cursor.size("a file's size")
            return AbsoluteFile(cursor.utf("a path"), size)
        case 6:
            return RelativeFile(cursor.utf("a path"), cursor.size("a file's size"))
        case 1:
            return Inline(cursor.utf("a handle's name"), cursor.sized("inline state"))
        case 15:
            return _read_segment(cursor)
        case 16:
            return EmptySegment()
        case 3:
            _check_depth(cursor, depth)
            return _read_key_groups(cursor, named=False, depth=depth)
    raise _unknown(cursor, "stream", tag)


def read_keyed(cursor: Cursor, depth: int = 0) -> KeyedHandle | None:
    """The keyed handle here; None for none."""
    _check_depth(cursor, depth)
    tag = cursor.u8("a keyed handle")
    match tag:
        case 0:
            return None
        case 3 | 12:
            return _read_key_groups(cursor, named=tag == 12, depth=depth)
        case 7:
            start, offsets = _read_offsets(cursor)
            return SavepointKeyGroups(start, offsets, read_stream(cursor, depth=depth + 1))
        case 5 | 11:
            return _read_incremental(cursor, new=tag == 11, depth=depth)
        case 8 | 14:
            return _read_changelog(cursor, new=tag == 14, depth=depth)
        case 9:
            return _read_inline_changes(cursor)
        case 10 | 13:
            return _read_change_files(cursor, new=tag == 13, depth=depth)
    raise _unknown(cursor, "keyed", tag)


def read_operator_handle(cursor: Cursor) -> OperatorHandle | None:
    """The operator handle here; None for none."""
    tag = cursor.u8("an operator handle")
    if tag == 0:
        return None
    if tag not in {4, 17}:
        raise _unknown(cursor, "operator", tag)
    states = []
    for _ in range(cursor.count("the number of operator states", 7)):
        name = cursor.utf("a state's name")
        mode = cursor.u8("a state's mode")
        if mode > Mode.BROADCAST:
            raise cursor.error(f"state {name!r} has an unknown mode {mode}", at=cursor.at - 1)
        offsets = _read_i64s(cursor, cursor.count("the number of offsets", 8))
        states.append(OperatorList(name, Mode(mode), offsets))
    directories = None
    if tag == 17:
        directories = Directories(cursor.utf("a directory"), cursor.utf("a directory"), cursor.flag("a flag"))
    start = cursor.at
    stream = read_stream(cursor)
    if directories is not None and not isinstance(stream, Segment | EmptySegment):
        raise cursor.error("merged operator state whose stream is no segment", at=start)
    return OperatorHandle(tuple(states), stream, directories)


def read_channels(cursor: Cursor, *, tagged: bool, output: bool) -> tuple[ChannelHandle, ...]:
    """The channel handles of one direction."""
    count = cursor.count("the number of channel handles", 18)
    return tuple(_read_channel(cursor, tagged=tagged, output=output) for _ in range(count))


def _read_channel(cursor: Cursor, *, tagged: bool, output: bool) -> ChannelHandle:
    single, merged = _CHANNEL_TAGS[output]
    tag = cursor.u8("a channel handle") if tagged else single
    if tag not in {single, merged}:
        raise _unknown(cursor, "output channel" if output else "input channel", tag)
    subtask = cursor.i32("a subtask")
    if tag == single:
        first, second = cursor.i32("a channel"), cursor.i32("a channel")
        offsets = _read_i64s(cursor, cursor.count("the number of offsets", 8))
        size = cursor.size("the size of a channel")
        channels: tuple[Channel, ...] = (Channel(first, second, size, offsets),)
        return ChannelHandle(subtask, channels, size, read_stream(cursor), merged=False)
    size = cursor.size("the size of channels")
    stream = read_stream(cursor)
    part = cursor.part(cursor.count("the length of channels"), "channels")
    channels = tuple(_read_merged(part) for _ in range(part.count("the number of channels", 20)))
    part.expect_end("the channels")
    return ChannelHandle(subtask, channels, size, stream, merged=True)


def _read_merged(part: Cursor) -> Channel:
    first, second = part.i32("a channel"), part.i32("a channel")
    size = part.size("the size of a channel")
    return Channel(first, second, size, _read_i64s(part, part.count("the number of offsets", 8)))


def _read_segment(cursor: Cursor) -> Segment:
    start, size = cursor.size("a segment's start"), cursor.size("a segment's size")
    scope = cursor.i32("a segment's scope")
    if scope not in {Scope.EXCLUSIVE, Scope.SHARED}:
        raise cursor.error(f"a segment of an unknown scope {scope}", at=cursor.at - 4)
    return Segment(cursor.utf("a path"), start, size, Scope(scope), cursor.utf("a file's id"))


def _read_key_groups(cursor: Cursor, *, named: bool, depth: int) -> KeyGroups:
    start, offsets = _read_offsets(cursor)
    stream = read_stream(cursor, depth=depth + 1)
    return KeyGroups(start, offsets, stream, cursor.utf("a handle's id") if named else None)


def _read_incremental(cursor: Cursor, *, new: bool, depth: int) -> Incremental:
    checkpoint_id = cursor.i64("a checkpoint id")
    backend_id = cursor.utf("a backend's id")
    start, stop = _read_range(cursor)
    checkpointed = cursor.i64("the checkpointed size") if new else None
    meta = read_stream(cursor, depth=depth + 1)
    shared = _read_files(cursor, depth + 1)
    private = _read_files(cursor, depth + 1)
    handle_id = cursor.utf("a handle's id") if new else None
    return Incremental(checkpoint_id, backend_id, start, stop, meta, shared, private, checkpointed, handle_id)


def _read_files(cursor: Cursor, depth: int) -> tuple[NamedFile, ...]:
    count = cursor.count("the number of files", 3)
    return tuple(NamedFile(cursor.utf("a file's name"), read_stream(cursor, depth=depth)) for _ in range(count))


def _read_changelog(cursor: Cursor, *, new: bool, depth: int) -> Changelog:
    start, stop = _read_range(cursor)
    checkpointed = cursor.i64("the checkpointed size")
    materialized = _read_keyed_list(cursor, depth)
    changes = _read_keyed_list(cursor, depth)
    materialization = cursor.i64("a materialization's id")
    checkpoint_id = cursor.i64("a checkpoint id") if new else None
    handle_id = cursor.utf("a handle's id")
    return Changelog(start, stop, checkpointed, materialized, changes, materialization, checkpoint_id, handle_id)


def _read_keyed_list(cursor: Cursor, depth: int) -> tuple[KeyedHandle | None, ...]:
    return tuple(read_keyed(cursor, depth + 1) for _ in range(cursor.count("the number of keyed handles")))


def _read_inline_changes(cursor: Cursor) -> InlineChanges:
    start, stop = _read_range(cursor)
    first, last = cursor.i64("a sequence number"), cursor.i64("a sequence number")
    count = cursor.count("the number of changes", 8)
    changes = tuple(Change(cursor.i32("a key group"), cursor.sized("a change")) for _ in range(count))
    return InlineChanges(start, stop, first, last, changes, cursor.utf("a handle's id"))


def _read_change_files(cursor: Cursor, *, new: bool, depth: int) -> ChangeFiles:
    start, stop = _read_range(cursor)
    count = cursor.count("the number of change sets", 9)
    sets = tuple(ChangeSet(cursor.i64("an offset"), read_stream(cursor, depth=depth + 1)) for _ in range(count))
    size, checkpointed = cursor.i64("a size"), cursor.i64("the checkpointed size")
    handle_id = cursor.utf("a handle's id")
    return ChangeFiles(start, stop, sets, size, checkpointed, handle_id, cursor.utf("a storage's id") if new else None)


def _read_range(cursor: Cursor, smallest_bytes: int = 0) -> tuple[int, int]:
    start, count = cursor.i32("the first key group"), cursor.count("the number of key groups", smallest_bytes)
    if start < 0 or start + count > MAX_MAX_PARALLELISM:
        raise cursor.error(f"not a range of key groups: {count} from {start}", at=cursor.at - 8)
    return start, start + count


def _read_offsets(cursor: Cursor) -> tuple[int, tuple[int, ...]]:
    start, stop = _read_range(cursor, 8)
    return start, _read_i64s(cursor, stop - start)


def _read_i64s(cursor: Cursor, count: int) -> tuple[int, ...]:
    return struct.unpack(f">{count}q", cursor.raw(8 * count, "offsets"))


def _check_depth(cursor: Cursor, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise cursor.error(f"handles lie in handles, more than {MAX_DEPTH} deep")


def _unknown(cursor: Cursor, kind: str, tag: int) -> UnsupportedError:
    at = cursor.at - 1
    hint = "a newer Flink may have written it; else the file is damaged: take another snapshot"
    return UnsupportedError(f"{cursor.what}: a {kind} handle of unknown tag {tag}, at byte {at}", hint=hint, offset=at)
