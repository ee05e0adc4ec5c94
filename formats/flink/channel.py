"""In-flight data of unaligned checkpoints: what was captured of channels, and the records in it.

    stream     i32 0 (its version); at each offset of a handle: i32 length, a buffer
    buffers    one after the other they are: i32 length, i8 tag, an element
    element    0 record: i64 timestamp, value      1 record: value      2 watermark: i64 time
               3 latency marker: i64 time, 16 bytes operator id, i32 subtask      4 status: i32, 0 active, 1 idle
               5 record attributes: flag backlog      6 watermark of a channel: i32 subpartition, i64 time

A value is as the serializer of the edge writes it, which no checkpoint describes: its type has to be given.

An input holds what its subtask had received and not yet read, from the start of an element on; the output that feeds
it, what was to be sent after that. So the elements of an edge are those of the input's bytes followed by the output's:
an element may begin in one and end in the other. Which output feeds which input is the job's graph; in the edge of a
shuffle, channel c of subtask s is fed by subpartition s of subtask c.

Source: Flink 2.3.0, `ChannelStateSerializerImpl`, `SpanningRecordSerializer`, `StreamElementSerializer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Literal

from msgspec import Struct

from formats.binary import Cursor
from formats.errors import CorruptError, UnsupportedError
from formats.flink.handles import Channel, ChannelHandle, StreamHandle
from formats.flink.metadata import Operator

OpenStream = Callable[[StreamHandle], BinaryIO]

_VERSION = 0
_LEAST_HEAD = 4


class Captured(Struct, frozen=True, kw_only=True):
    """The bytes of one channel: (gate, channel) of an input, (partition, subpartition) of an output."""

    operator: str
    subtask: int
    output: bool
    first: int
    second: int
    data: bytes


class Element(Struct, frozen=True):
    """A record (its value's bytes), or what travels between records."""

    kind: Literal["record", "watermark", "latency-marker", "status", "attributes"]
    value: bytes
    timestamp: int | None = None


def captured(operator: Operator, open_stream: OpenStream) -> Iterator[Captured]:
    """What was captured of each channel of the operator, inputs before outputs.

    Raises: CorruptError, UnsupportedError.
    """
    for subtask in operator.subtasks:
        for output, handles in ((False, subtask.inputs), (True, subtask.outputs)):
            for handle in handles:
                what = f"{operator.uid or operator.id}, subtask {subtask.index}, {'output' if output else 'input'}"
                for channel, data in _channels(handle, open_stream, what):
                    yield Captured(
                        operator=operator.id,
                        subtask=subtask.index,
                        output=output,
                        first=channel.first,
                        second=channel.second,
                        data=data,
                    )


def _channels(handle: ChannelHandle, open_stream: OpenStream, what: str) -> Iterator[tuple[Channel, bytes]]:
    if handle.stream is None:
        raise CorruptError(f"{what}: a handle without a stream")
    with open_stream(handle.stream) as file:
        version = Cursor(file.read(4), what=what).i32("the version of channel state")
        if version != _VERSION:
            raise UnsupportedError(f"{what}: channel state of version {version}")
        for channel in handle.channels:
            buffers = [_buffer(file, offset, channel.size, what) for offset in channel.offsets]
            yield channel, b"".join(buffers)


def _buffer(file: BinaryIO, offset: int, most: int, what: str) -> bytes:
    if offset < _LEAST_HEAD:
        raise CorruptError(f"{what}: a buffer at byte {offset}", offset=max(offset, 0))
    file.seek(offset)
    size = Cursor(file.read(4), what=what).i32("the length of a buffer")
    if not 0 <= size <= most:
        raise CorruptError(f"{what}: a buffer of {size} bytes in a channel of {most}, at byte {offset}", offset=offset)
    data = file.read(size)
    if len(data) != size:
        raise CorruptError(f"{what}: a buffer ends early, at byte {offset}", offset=offset)
    return data


def read_elements(data: bytes, what: str = "a channel") -> tuple[list[Element], bytes]:
    """The elements in the bytes of an input, or of an input and the output that feeds it; and the start of one more.

    Raises: CorruptError.
    """
    cursor = Cursor(data, what=what)
    found: list[Element] = []
    while cursor.left >= 4:
        start = cursor.at
        size = cursor.i32("the length of an element")
        if size < 1:
            raise cursor.error(f"an element of {size} bytes", at=start)
        if size > cursor.left:
            cursor.at = start
            break
        found.append(_element(cursor.part(size, "an element")))
    return found, cursor.raw(cursor.left)


def _element(part: Cursor) -> Element:
    tag = part.u8("a tag")
    match tag:
        case 0:
            timestamp = part.i64("a timestamp")
            return Element("record", part.raw(part.left), timestamp)
        case 1:
            return Element("record", part.raw(part.left))
        case 2 | 6:
            subpartition = part.raw(4, "a subpartition") if tag == 6 else b""
            timestamp = part.i64("a time")
            part.expect_end("a watermark")
            return Element("watermark", subpartition, timestamp)
        case 3:
            timestamp = part.i64("a time")
            return Element("latency-marker", part.raw(20, "a latency marker"), timestamp)
        case 4:
            return Element("status", part.raw(4, "a status"))
        case 5:
            return Element("attributes", part.raw(part.left))
    raise part.error(f"an element of tag {tag}", at=part.at - 1)


def edge(inputs: Iterable[Captured], outputs: Iterable[Captured], gate: int, partition: int) -> Iterator[bytes]:
    """The bytes of each channel of a shuffle from `partition` of the one operator to `gate` of the other."""
    received = {(each.subtask, each.second): each.data for each in inputs if not each.output and each.first == gate}
    queued = {(each.second, each.subtask): each.data for each in outputs if each.output and each.first == partition}
    for place in sorted(received.keys() | queued.keys()):
        yield received.get(place, b"") + queued.get(place, b"")
