"""`_metadata`: the head of every checkpoint and savepoint of Flink; versions 3 to 6.

    u32 magic, i32 version, i64 checkpoint id, i32 n + master states, i32 n + operators, [4 and later: a Java object]

What versions differ in is data (`VERSIONS`), not classes. The whole file is read and every byte of it has a place
here, so that formats/flink/writer.py writes the same bytes again. Nothing is allocated on a length's word.
Source: Flink 2.3.0, `MetadataV2V3SerializerBase`, `MetadataV3Serializer` to `MetadataV6Serializer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

from formats.binary import Cursor
from formats.errors import TooLargeError, UnsupportedError
from formats.flink.handles import ChannelHandle, KeyedHandle, OperatorHandle, StreamHandle, leaf_of, streams_of_keyed
from formats.flink.java_properties import CheckpointProperties, read_properties
from formats.flink.reader import read_channels, read_keyed, read_operator_handle, read_stream
from formats.ids import OperatorId
from formats.keygroups import MAX_MAX_PARALLELISM

MAGIC = 0x4960672D
MASTER_MAGIC = 0xC96B1696
MAX_METADATA_BYTES = 1 << 30
FULLY_FINISHED = -1

_UPGRADE = "upgrade eoctl, or let a Flink that knows this version write a savepoint"


class Version(Struct, frozen=True):
    """What a version has that the one before has not."""

    number: int
    names: bool = False  # an operator's name and uid
    properties: bool = False  # a Java object at the end
    channel_tags: bool = False  # merged in-flight data


VERSIONS = {
    version.number: version
    for version in (
        Version(3),
        Version(4, properties=True),
        Version(5, properties=True, names=True),
        Version(6, properties=True, names=True, channel_tags=True),
    )
}


class MasterState(Struct, frozen=True, gc=False):
    """What a hook of the job manager keeps."""

    version: int
    name: str
    data: bytes


class Subtask(Struct, frozen=True, gc=False):
    """State of one parallel instance; `finished`: it had ended, and has none."""

    index: int
    finished: bool = False
    managed_operator: OperatorHandle | None = None
    raw_operator: OperatorHandle | None = None
    managed_keyed: KeyedHandle | None = None
    raw_keyed: KeyedHandle | None = None
    inputs: tuple[ChannelHandle, ...] = ()
    outputs: tuple[ChannelHandle, ...] = ()
    flags: int = 0  # operator handles that Flink says are there, and are of tag 0


class Operator(Struct, frozen=True, gc=False):
    """One operator. Uid and name are "" below version 5, and where the job gave none. `finished`: all of it had."""

    id: OperatorId
    parallelism: int
    max_parallelism: int
    coordinator: StreamHandle | None
    subtasks: tuple[Subtask, ...]
    uid: str = ""
    name: str = ""
    finished: bool = False


class Metadata(Struct, frozen=True):
    """One checkpoint or savepoint. `raw_properties`: the Java object at the end, as it is."""

    version: int
    checkpoint_id: int
    master_states: tuple[MasterState, ...]
    operators: tuple[Operator, ...]
    raw_properties: bytes
    properties: CheckpointProperties | None


def read_metadata(data: bytes, what: str = "_metadata") -> Metadata:
    """The whole of `data`, told as `what` in errors.

    Raises: CorruptError with the byte offset, UnsupportedError, TooLargeError.
    """
    if len(data) > MAX_METADATA_BYTES:
        raise TooLargeError(f"{what} is larger than {MAX_METADATA_BYTES} bytes: {len(data)}")
    cursor = Cursor(data, what=what)
    version = _read_version(cursor)
    checkpoint_id = cursor.size("the checkpoint id")
    masters = tuple(_read_master(cursor) for _ in range(cursor.count("the number of master states", 8)))
    start, count = cursor.at, cursor.count("the number of operators", 28)
    operators = tuple(_read_operator(cursor, version) for _ in range(count))
    if len({operator.id for operator in operators}) != len(operators):
        raise cursor.error("an operator id is there twice", at=start)
    raw, properties = b"", None
    start = cursor.at
    if version.properties:
        properties = read_properties(cursor)
        raw = data[start : cursor.at]
    cursor.expect_end("the last operator" if properties is None else "the properties")
    return Metadata(version.number, checkpoint_id, masters, operators, raw, properties)


class Stream(Struct, frozen=True, gc=False):
    """One stream of an operator. `subtask` -1: the coordinator's. `name` is distinct within a subtask."""

    subtask: int
    role: Literal["coordinator", "operator", "keyed", "in-flight"]
    name: str
    handle: StreamHandle

    @property
    def exact(self) -> bool:
        """A file's size is the handle's; that of changes does not count what the file begins with."""
        return "/change-set-" not in self.name


def streams_of(operator: Operator) -> Iterator[Stream]:
    """All state of the operator."""
    if operator.coordinator is not None:
        yield Stream(-1, "coordinator", "coordinator", operator.coordinator)
    for subtask in operator.subtasks:
        yield from _streams_of_subtask(subtask)


def _streams_of_subtask(subtask: Subtask) -> Iterator[Stream]:
    for name, operator_handle in (("operator", subtask.managed_operator), ("raw-operator", subtask.raw_operator)):
        found = None if operator_handle is None else leaf_of(operator_handle.stream)
        if found is not None:
            yield Stream(subtask.index, "operator", name, found)
    for name, keyed in (("keyed", subtask.managed_keyed), ("raw-keyed", subtask.raw_keyed)):
        for part, stream in streams_of_keyed(keyed, name):
            yield Stream(subtask.index, "keyed", part, stream)
    for name, channels in (("input", subtask.inputs), ("output", subtask.outputs)):
        for number, channel in enumerate(channels):
            found = leaf_of(channel.stream)
            if found is not None:
                yield Stream(subtask.index, "in-flight", f"{name}-{number}", found)


def _read_version(cursor: Cursor) -> Version:
    magic = cursor.u32("the magic number")
    if magic != MAGIC:
        raise cursor.error(f"no metadata of Flink: it begins with {magic:08x}, not {MAGIC:08x}", at=0)
    number = cursor.i32("the version")
    version = VERSIONS.get(number)
    if version is None:
        known = f"{min(VERSIONS)} to {max(VERSIONS)}"
        raise UnsupportedError(
            f"{cursor.what}: metadata of version {number} (known: {known}), at byte 4", hint=_UPGRADE, offset=4
        )
    return version


def _read_master(cursor: Cursor) -> MasterState:
    if cursor.u32("a master state") != MASTER_MAGIC:
        raise cursor.error("a master state does not begin with its magic number", at=cursor.at - 4)
    part = cursor.part(cursor.count("the length of a master state"), "a master state")
    state = MasterState(part.i32("its version"), part.utf("its name"), part.sized("its data"))
    part.expect_end("a master state")
    return state


def _read_operator(cursor: Cursor, version: Version) -> Operator:
    start = cursor.at
    name = cursor.utf("an operator's name") if version.names else ""
    uid = cursor.utf("an operator's uid") if version.names else ""
    identity = OperatorId(cursor.raw(16, "an operator id").hex())
    parallelism = cursor.i32("the parallelism")
    max_parallelism = cursor.i32("the max parallelism")
    if not 1 <= parallelism <= MAX_MAX_PARALLELISM or not -1 <= max_parallelism <= MAX_MAX_PARALLELISM:
        raise cursor.error(f"operator {identity}: parallelism {parallelism} of {max_parallelism}", at=start)
    coordinator = read_stream(cursor, inline_only=True)
    finished = cursor.i32("the number of subtasks") == FULLY_FINISHED
    cursor.at -= 0 if finished else 4
    count = 0 if finished else cursor.count("the number of subtasks", 4)
    subtasks = [_read_subtask(cursor, version, parallelism) for _ in range(count)]
    if len({subtask.index for subtask in subtasks}) != len(subtasks):
        raise cursor.error(f"operator {identity} has a subtask twice", at=start)
    return Operator(identity, parallelism, max_parallelism, coordinator, tuple(subtasks), uid, name, finished)


def _read_subtask(cursor: Cursor, version: Version, parallelism: int) -> Subtask:
    index = cursor.i32("a subtask's index")
    finished = index < 0
    if finished:
        index = -index - 1
    if index >= parallelism:
        raise cursor.error(f"subtask {index} of {parallelism}", at=cursor.at - 4)
    if finished:
        return Subtask(index, finished=True)
    flags, handles = 0, []
    for bit in (1, 2):
        handle = None
        if _is_there(cursor):
            handle = read_operator_handle(cursor)
            flags |= bit if handle is None else 0
        handles.append(handle)
    return Subtask(
        index,
        managed_operator=handles[0],
        raw_operator=handles[1],
        managed_keyed=read_keyed(cursor),
        raw_keyed=read_keyed(cursor),
        inputs=read_channels(cursor, tagged=version.channel_tags, output=False),
        outputs=read_channels(cursor, tagged=version.channel_tags, output=True),
        flags=flags,
    )


def _is_there(cursor: Cursor) -> bool:
    count = cursor.i32("the number of operator handles")
    if count not in {0, 1}:
        raise cursor.error(f"{count} operator handles, where Flink writes one at most", at=cursor.at - 4)
    return count == 1
