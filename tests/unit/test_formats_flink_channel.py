"""In-flight data, taken apart; that of the corpus is compared with its formulas in test_engines_flink_states.py."""

from __future__ import annotations

import io
import struct

import pytest

from formats.errors import CorruptError, EoctlError, UnsupportedError
from formats.flink.channel import Captured, Element, captured, edge, read_elements
from formats.flink.handles import Channel, ChannelHandle, Inline
from formats.flink.metadata import Operator, Subtask
from formats.ids import OperatorId


def element(tag: int, body: bytes) -> bytes:
    return struct.pack(">iB", len(body) + 1, tag) + body


def operator(data: bytes, *channels: Channel) -> Operator:
    handle = ChannelHandle(0, channels, sum(channel.size for channel in channels), Inline("x", data), merged=True)
    return Operator(OperatorId("0" * 32), 1, 128, None, (Subtask(0, inputs=(handle,)),))


def opened(handle) -> io.BytesIO:
    return io.BytesIO(handle.data)


def stream(*buffers: bytes) -> tuple[bytes, tuple[int, ...]]:
    data, offsets = bytearray(4), []
    for each in buffers:
        offsets.append(len(data))
        data += struct.pack(">i", len(each)) + each
    return bytes(data), tuple(offsets)


def part(*, output: bool, subtask: int, first: int, second: int, data: bytes) -> Captured:
    return Captured(operator="o", subtask=subtask, output=output, first=first, second=second, data=data)


def test_every_kind_of_element_is_told() -> None:
    data = (
        element(0, struct.pack(">q", 7) + b"a")
        + element(1, b"b")
        + element(2, struct.pack(">q", 9))
        + element(3, struct.pack(">q", 8) + bytes(20))
        + element(4, struct.pack(">i", 1))
        + element(5, b"\1")
        + element(6, struct.pack(">iq", 2, 10))
    )
    assert read_elements(data) == (
        [
            Element("record", b"a", 7),
            Element("record", b"b"),
            Element("watermark", b"", 9),
            Element("latency-marker", bytes(20), 8),
            Element("status", b"\0\0\0\1"),
            Element("attributes", b"\1"),
            Element("watermark", b"\0\0\0\2", 10),
        ],
        b"",
    )


@pytest.mark.parametrize("size", range(1, 6))
def test_the_start_of_an_element_is_kept(size) -> None:
    data = element(1, b"whole") + element(1, b"cut")[:size]
    assert read_elements(data) == ([Element("record", b"whole")], element(1, b"cut")[:size])


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\0\0", b"\xff\xff\xff\xff\0", element(9, b""), element(0, b"x"), element(2, bytes(9)), element(3, b"x")],
)
def test_what_is_no_element_is_corrupt(data) -> None:
    with pytest.raises(CorruptError):
        read_elements(data)


def test_buffers_of_a_channel_are_put_together() -> None:
    data, offsets = stream(b"ab", b"xy", b"cd")
    first, second = Channel(0, 0, 12, (offsets[0], offsets[2])), Channel(0, 1, 6, (offsets[1],))
    found = list(captured(operator(data, first, second), opened))
    assert [(each.second, each.data) for each in found] == [(0, b"abcd"), (1, b"xy")]


def test_a_stream_of_another_version_and_buffers_outside_of_it_are_refused() -> None:
    data, offsets = stream(b"ab")
    with pytest.raises(UnsupportedError, match="version 1"):
        list(captured(operator(b"\0\0\0\1" + data[4:], Channel(0, 0, 6, offsets)), opened))
    for bad in [(0,), (-1,), (offsets[0] + 1,), (1000,)]:
        with pytest.raises(CorruptError):
            list(captured(operator(data, Channel(0, 0, 6, bad)), opened))
    for size in range(len(data)):
        with pytest.raises(EoctlError):
            list(captured(operator(data[:size], Channel(0, 0, 6, offsets)), opened))


def test_an_element_may_begin_in_an_input_and_end_in_the_output_that_feeds_it() -> None:
    whole = element(1, b"spanning")
    inputs = [part(output=False, subtask=1, first=0, second=0, data=whole[:6])]
    outputs = [
        part(output=True, subtask=0, first=0, second=1, data=whole[6:]),
        part(output=True, subtask=0, first=0, second=0, data=whole),
        part(output=True, subtask=0, first=1, second=1, data=b"of another edge"),
    ]
    assert [read_elements(data) for data in edge(inputs, outputs, 0, 0)] == [
        ([Element("record", b"spanning")], b"")
    ] * 2
