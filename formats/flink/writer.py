"""`_metadata`, written: what `read_metadata` read comes out as the same bytes, in its own version or in another.

An older version cannot say everything. Below 5 uids and names are left out, which a restore does not need. Below 6
merged in-flight data is written channel by channel. Below 4 the Java object is left out, and handles take their oldest
form, because Flinks of that time know no other. To a version that needs the Java object one has to be given.
Source: Flink 2.3.0, `MetadataV2V3SerializerBase`, `MetadataV3Serializer` to `MetadataV6Serializer`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from formats.binary import Buffer
from formats.errors import IncompatibleError, UnsupportedError
from formats.flink.handles import (
    AbsoluteFile,
    ChangeFiles,
    Changelog,
    Channel,
    ChannelHandle,
    EmptySegment,
    Incremental,
    Inline,
    InlineChanges,
    KeyedHandle,
    KeyGroups,
    NamedFile,
    OperatorHandle,
    RelativeFile,
    SavepointKeyGroups,
    Segment,
    StreamHandle,
)
from formats.flink.metadata import (
    FULLY_FINISHED,
    MAGIC,
    MASTER_MAGIC,
    VERSIONS,
    MasterState,
    Metadata,
    Operator,
    Subtask,
    Version,
)

_OLD_TAGS_BELOW = 4


def write_metadata(metadata: Metadata, version: int | None = None) -> bytes:
    """The bytes of `_metadata`; in `version` where it is given.

    Raises: UnsupportedError, IncompatibleError.
    """
    number = metadata.version if version is None else version
    if number not in VERSIONS:
        known = f"{min(VERSIONS)} to {max(VERSIONS)}"
        raise UnsupportedError(f"metadata of version {number} cannot be written (known: {known})")
    target = VERSIONS[number]
    if target.properties and not metadata.raw_properties:
        raise IncompatibleError(
            f"metadata of version {metadata.version} lacks what version {number} says of the kind of snapshot",
            hint=f"write version {_OLD_TAGS_BELOW - 1}; every Flink since reads it",
        )
    out = _Writer(target)
    out.u32(MAGIC)
    out.i32(number)
    out.i64(metadata.checkpoint_id)
    out.i32(len(metadata.master_states))
    for master in metadata.master_states:
        out.master(master)
    out.i32(len(metadata.operators))
    for operator in metadata.operators:
        out.operator(operator)
    if target.properties:
        out.raw(metadata.raw_properties)
    return bytes(out.data)


class _Writer(Buffer):
    """The bytes of one file."""

    __slots__ = ("_old_tags", "_version")

    def __init__(self, version: Version) -> None:
        super().__init__()
        self._version = version
        self._old_tags = version.number < _OLD_TAGS_BELOW

    def master(self, state: MasterState) -> None:
        body = Buffer()
        body.i32(state.version)
        body.utf(state.name)
        body.sized(state.data)
        self.u32(MASTER_MAGIC)
        self.sized(bytes(body.data))

    def operator(self, operator: Operator) -> None:
        if self._version.names:
            self.utf(operator.name)
            self.utf(operator.uid)
        self.raw(bytes.fromhex(operator.id))
        self.i32(operator.parallelism)
        self.i32(operator.max_parallelism)
        self.stream(operator.coordinator)
        self.i32(FULLY_FINISHED if operator.finished else len(operator.subtasks))
        for subtask in operator.subtasks:
            self._subtask(subtask)

    def _subtask(self, subtask: Subtask) -> None:
        self.i32(-subtask.index - 1 if subtask.finished else subtask.index)
        if subtask.finished:
            return
        for bit, handle in ((1, subtask.managed_operator), (2, subtask.raw_operator)):
            is_there = handle is not None or bool(subtask.flags & bit)
            self.i32(int(is_there))
            if is_there:
                self._operator_handle(handle)
        self.keyed(subtask.managed_keyed)
        self.keyed(subtask.raw_keyed)
        self._channels(subtask.inputs, 1)
        self._channels(subtask.outputs, 2)

    def stream(self, stream: StreamHandle | None) -> None:
        match stream:
            case None:
                self.i8(0)
            case Inline(name=name, data=data):
                self.i8(1)
                self.utf(name)
                self.sized(data)
            case AbsoluteFile(path=path, size=size):
                self.i8(2)
                self.i64(size)
                self.utf(path)
            case RelativeFile(path=path, size=size):
                self.i8(6)
                self.utf(path)
                self.i64(size)
            case Segment():
                self._refuse_if_old("merged files")
                self.i8(15)
                self.i64(stream.start)
                self.i64(stream.size)
                self.i32(stream.scope)
                self.utf(stream.path)
                self.utf(stream.file_id)
            case EmptySegment():
                self._refuse_if_old("merged files")
                self.i8(16)
            case KeyGroups(start=start, offsets=offsets, stream=inner):
                self.i8(3)
                self._key_groups(start, offsets, inner)

    def keyed(self, handle: KeyedHandle | None) -> None:
        match handle:
            case None:
                self.i8(0)
            case KeyGroups(start=start, offsets=offsets, stream=stream, handle_id=handle_id):
                named = None if self._old_tags else handle_id
                self.i8(3 if named is None else 12)
                self._key_groups(start, offsets, stream)
                if named is not None:
                    self.utf(named)
            case SavepointKeyGroups(start=start, offsets=offsets, stream=stream):
                self.i8(7)
                self._key_groups(start, offsets, stream)
            case Incremental():
                self._incremental(handle)
            case Changelog():
                self._changelog(handle)
            case InlineChanges():
                self._inline_changes(handle)
            case ChangeFiles():
                self._change_files(handle)

    def _key_groups(self, start: int, offsets: Sequence[int], stream: StreamHandle | None) -> None:
        self._range(start, start + len(offsets))
        self._i64s(offsets)
        self.stream(stream)

    def _incremental(self, handle: Incremental) -> None:
        checkpointed, handle_id = handle.checkpointed_bytes, handle.handle_id
        new = checkpointed is not None and handle_id is not None and not self._old_tags
        self.i8(11 if new else 5)
        self.i64(handle.checkpoint_id)
        self.utf(handle.backend_id)
        self._range(handle.start, handle.stop)
        if new and checkpointed is not None:
            self.i64(checkpointed)
        self.stream(handle.meta)
        self._files(handle.shared)
        self._files(handle.private)
        if new and handle_id is not None:
            self.utf(handle_id)

    def _files(self, files: Sequence[NamedFile]) -> None:
        self.i32(len(files))
        for file in files:
            self.utf(file.name)
            self.stream(file.stream)

    def _changelog(self, handle: Changelog) -> None:
        self._refuse_if_old("changelog state")
        self.i8(8 if handle.checkpoint_id is None else 14)
        self._range(handle.start, handle.stop)
        self.i64(handle.checkpointed_bytes)
        for handles in (handle.materialized, handle.changes):
            self.i32(len(handles))
            for each in handles:
                self.keyed(each)
        self.i64(handle.materialization_id)
        if handle.checkpoint_id is not None:
            self.i64(handle.checkpoint_id)
        self.utf(handle.handle_id)

    def _inline_changes(self, handle: InlineChanges) -> None:
        self._refuse_if_old("changelog state")
        self.i8(9)
        self._range(handle.start, handle.stop)
        self.i64(handle.start_number)
        self.i64(handle.stop_number)
        self.i32(len(handle.changes))
        for change in handle.changes:
            self.i32(change.key_group)
            self.sized(change.data)
        self.utf(handle.handle_id)

    def _change_files(self, handle: ChangeFiles) -> None:
        self._refuse_if_old("changelog state")
        self.i8(10 if handle.storage is None else 13)
        self._range(handle.start, handle.stop)
        self.i32(len(handle.sets))
        for each in handle.sets:
            self.i64(each.offset)
            self.stream(each.stream)
        self.i64(handle.size)
        self.i64(handle.checkpointed_bytes)
        self.utf(handle.handle_id)
        if handle.storage is not None:
            self.utf(handle.storage)

    def _operator_handle(self, handle: OperatorHandle | None) -> None:
        if handle is None:
            self.i8(0)
            return
        if handle.directories is not None:
            self._refuse_if_old("merged files")
        self.i8(4 if handle.directories is None else 17)
        self.i32(len(handle.states))
        for state in handle.states:
            self.utf(state.name)
            self.i8(state.mode)
            self.i32(len(state.offsets))
            self._i64s(state.offsets)
        if handle.directories is not None:
            self.utf(handle.directories.task_owned)
            self.utf(handle.directories.shared)
            self.flag(handle.directories.empty)
        self.stream(handle.stream)

    def _channels(self, handles: Sequence[ChannelHandle], single_tag: int) -> None:
        """`single_tag`: of a handle of one channel; two more is that of a merged one."""
        if not self._version.channel_tags:
            handles = [single for handle in handles for single in _apart(handle)]
        self.i32(len(handles))
        for handle in handles:
            if self._version.channel_tags:
                self.i8(single_tag + 2 * handle.merged)
            self.i32(handle.subtask)
            if handle.merged:
                self._merged(handle)
            else:
                self._channel(self, handle.channels[0], size_first=False)
                self.stream(handle.stream)

    def _merged(self, handle: ChannelHandle) -> None:
        self.i64(handle.size)
        self.stream(handle.stream)
        body = Buffer()
        body.i32(len(handle.channels))
        for channel in handle.channels:
            self._channel(body, channel, size_first=True)
        self.sized(bytes(body.data))

    @staticmethod
    def _channel(out: Buffer, channel: Channel, *, size_first: bool) -> None:
        out.i32(channel.first)
        out.i32(channel.second)
        if size_first:
            out.i64(channel.size)
        out.i32(len(channel.offsets))
        out.raw(struct.pack(f">{len(channel.offsets)}q", *channel.offsets))
        if not size_first:
            out.i64(channel.size)

    def _range(self, start: int, stop: int) -> None:
        self.i32(start)
        self.i32(stop - start)

    def _i64s(self, values: Sequence[int]) -> None:
        self.raw(struct.pack(f">{len(values)}q", *values))

    def _refuse_if_old(self, what: str) -> None:
        if self._old_tags:
            raise IncompatibleError(
                f"metadata of version {self._version.number} cannot hold {what}",
                hint=f"write version {_OLD_TAGS_BELOW} or later",
            )


def _apart(handle: ChannelHandle) -> list[ChannelHandle]:
    """One handle for each channel; they share the stream, as each has its own offsets in it."""
    return [
        ChannelHandle(handle.subtask, (channel,), channel.size, handle.stream, merged=False)
        for channel in handle.channels
    ]
