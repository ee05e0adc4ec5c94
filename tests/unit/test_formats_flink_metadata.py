"""`_metadata` of real Flinks: read to the last byte, written as it was; and handles that the corpus does not hold."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from formats.binary import Buffer
from formats.errors import CorruptError, EoctlError, IncompatibleError, UnsupportedError
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
    KeyGroups,
    Mode,
    NamedFile,
    OperatorHandle,
    OperatorList,
    RelativeFile,
    SavepointKeyGroups,
    Scope,
    Segment,
)
from formats.flink.metadata import MasterState, Metadata, Operator, Subtask, read_metadata, streams_of
from formats.flink.writer import write_metadata
from formats.ids import OperatorId, operator_id
from tests.support.flink import SNAPSHOTS, metadata_files

FILES = dict(metadata_files())
UIDS = ("orders-source", "rules-source", "orders-parse", "order-totals", "order-window", "order-audit", "order-rules")


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=lambda snapshot: snapshot.name)
def test_a_snapshot_is_read_to_its_last_byte_and_written_as_it_was(snapshot):
    data = FILES[snapshot.name]
    metadata = read_metadata(data)
    assert (metadata.version, metadata.checkpoint_id, len(data)) == (snapshot.version, snapshot.id, snapshot.bytes)
    assert write_metadata(metadata) == data
    handles = [stream.handle for operator in metadata.operators for stream in streams_of(operator)]
    files = [stream for stream in handles if isinstance(stream, AbsoluteFile | RelativeFile | Segment)]
    assert len(files) == snapshot.files
    ids = {operator.id for operator in metadata.operators}
    assert ids >= {operator_id(uid) for uid in (*UIDS, "order-sink")}
    if snapshot.version >= 5:
        assert {operator.uid for operator in metadata.operators} >= {*UIDS, "order-sink"}


def test_every_snapshot_of_the_corpus_is_in_its_table():
    assert sorted(FILES) == sorted(snapshot.name for snapshot in SNAPSHOTS)
    assert len(SNAPSHOTS) == 43


def test_the_properties_say_what_was_taken():
    kinds: dict[str, set[str]] = {}
    for snapshot in SNAPSHOTS:
        properties = read_metadata(FILES[snapshot.name]).properties
        told = "" if properties is None else f"{properties.type_class} {properties.format}".strip()
        kinds.setdefault(told, set()).add(snapshot.path.rpartition("/")[2].partition("-")[0])
    assert kinds == {
        "CheckpointType": {"chk"},
        "SavepointType CANONICAL": {"savepoint", "v4", "v5"},
        "SavepointType NATIVE": {"savepoint"},
        "": {"v3"},
    }


def test_a_finished_operator_has_no_subtasks():
    metadata = read_metadata(FILES["a-transcoded/v3"])
    finished = [operator for operator in metadata.operators if operator.finished]
    assert [operator.id for operator in finished] == [operator_id("rules-source")]
    assert finished[0].subtasks == ()


STREAMS: list[Any] = [
    None,
    Inline("made-up", b"\0\1"),
    AbsoluteFile("file:/x/y", 7),
    RelativeFile("y", 2**40),
    Segment("s3://b/z", 5, 6, Scope.SHARED, "id"),
    EmptySegment(),
    KeyGroups(0, (1, 2), Inline("k", b"")),
]
KEYED: list[Any] = [
    None,
    KeyGroups(3, (0, 10), RelativeFile("a", 20)),
    KeyGroups(3, (0, 10), RelativeFile("a", 20), "handle"),
    SavepointKeyGroups(0, (0, 4), AbsoluteFile("a", 20)),
    Incremental(9, "backend", 0, 64, Inline("m", b"m"), (NamedFile("1.sst", STREAMS[2]),), (), 100, "handle"),
    Incremental(9, "backend", 0, 64, None, (), (NamedFile("CURRENT", STREAMS[1]),)),
    InlineChanges(0, 4, 1, 3, (Change(-1, b"meta"), Change(2, b"")), "handle"),
    ChangeFiles(0, 4, (ChangeSet(12, STREAMS[2]),), 50, 60, "handle", "filesystem"),
    ChangeFiles(0, 4, (), 50, 60, "handle"),
]
KEYED += [
    Changelog(0, 4, 1, (KEYED[2], None), (KEYED[7],), 5, 6, "handle"),
    Changelog(0, 4, 1, (), (KEYED[6],), 5, None, "handle"),
]
OPERATOR: list[Any] = [
    None,
    OperatorHandle((OperatorList("list", Mode.SPLIT, (0, 9)), OperatorList("b", Mode.BROADCAST, (18,))), STREAMS[1]),
    OperatorHandle((OperatorList("u", Mode.UNION, ()),), STREAMS[4], Directories("task", "shared", empty=False)),
    OperatorHandle((), EmptySegment(), Directories("task", "shared", empty=True)),
]
CHANNELS = (
    ChannelHandle(1, (Channel(0, 1, 30, (4, 12)),), 30, STREAMS[1], merged=False),
    ChannelHandle(1, (Channel(0, 1, 30, (4,)), Channel(1, 2, 8, ())), 38, STREAMS[2], merged=True),
)


def made(subtasks, version=6, **operator):
    found = Operator(operator_id("me"), 300, 512, None, tuple(subtasks), "me", "Me", **operator)
    properties = read_metadata(FILES["a-crash/checkpoints/a0000000000000000000000000000001/chk-1"])
    masters = (MasterState(1, "hook", b"\0"),)
    return Metadata(version, 4, masters, (found,), properties.raw_properties, properties.properties)


def subtasks_of_every_kind():
    handles: list[dict[str, Any]] = [{"managed_keyed": handle} for handle in KEYED] + [
        {"raw_keyed": handle} for handle in KEYED
    ]
    handles += [{"managed_operator": handle} for handle in OPERATOR] + [{"raw_operator": handle} for handle in OPERATOR]
    handles += [{"managed_keyed": SavepointKeyGroups(0, (), stream)} for stream in STREAMS]
    handles += [{"inputs": CHANNELS}, {"outputs": CHANNELS[:1]}, {"finished": True}]
    for index, fields in enumerate(handles):
        yield Subtask(index, **fields)


def test_every_kind_of_handle_comes_back():
    metadata = made(subtasks_of_every_kind())
    data = write_metadata(metadata)
    assert read_metadata(data) == metadata
    assert write_metadata(read_metadata(data)) == data


def test_a_flag_for_an_operator_handle_of_no_kind_comes_back():
    metadata = made([Subtask(0, flags=0b01)])
    assert read_metadata(write_metadata(metadata)) == metadata


def test_every_truncation_of_every_kind_of_handle_tells_its_byte():
    data = write_metadata(made(subtasks_of_every_kind()))
    for size in range(len(data)):
        with pytest.raises(EoctlError) as error:
            read_metadata(data[:size])
        assert 0 <= int(str(error.value.facts["offset"])) <= size


def test_an_older_version_leaves_out_names_and_takes_merged_channels_apart():
    metadata = made([Subtask(0, inputs=CHANNELS)])
    older = read_metadata(write_metadata(metadata, 4))
    assert [(operator.uid, operator.name) for operator in older.operators] == [("", "")]
    assert older.operators[0].subtasks[0].inputs == (
        CHANNELS[0],
        ChannelHandle(1, (Channel(0, 1, 30, (4,)),), 30, STREAMS[2], merged=False),
        ChannelHandle(1, (Channel(1, 2, 8, ()),), 8, STREAMS[2], merged=False),
    )
    assert older.properties == metadata.properties


def test_version_3_has_handles_in_their_oldest_form():
    data = write_metadata(made([Subtask(0, managed_keyed=KEYED[2]), Subtask(1, managed_keyed=KEYED[4])]), 3)
    first, second = read_metadata(data).operators[0].subtasks
    assert first.managed_keyed == KEYED[1]
    assert second.managed_keyed == Incremental(
        9, "backend", 0, 64, Inline("m", b"m"), (NamedFile("1.sst", STREAMS[2]),), ()
    )
    for subtask in (Subtask(0, managed_keyed=KEYED[9]), Subtask(0, managed_operator=OPERATOR[2])):
        with pytest.raises(IncompatibleError, match="version 3 cannot hold"):
            write_metadata(made([subtask]), 3)


def test_versions_that_nobody_can_write_are_refused():
    for version in (2, 7):
        with pytest.raises(UnsupportedError, match="known: 3 to 6"):
            write_metadata(made([]), version)
    with pytest.raises(IncompatibleError, match="metadata of version 3 lacks"):
        write_metadata(read_metadata(FILES["a-transcoded/v3"]), 6)


def header(version=6, magic=0x4960672D):
    return struct.pack(">Iiqii", magic, version, 1, 0, 1)


def operator_bytes(tail, parallelism=2, max_parallelism=128, coordinator=b"\0"):
    return b"\0\0\0\0" + b"i" * 16 + struct.pack(">ii", parallelism, max_parallelism) + coordinator + tail


SUBTASK = struct.pack(">iiii", 1, 0, 0, 0)  # one subtask, index 0, no operator handles


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the magic number needs 4 bytes, 0 are left, at byte 0"),
        (header(magic=1), "no metadata of Flink: it begins with 00000001, not 4960672d, at byte 0"),
        (header(version=2), r"metadata of version 2 \(known: 3 to 6\), at byte 4"),
        (header(version=7), r"metadata of version 7 \(known: 3 to 6\), at byte 4"),
        (header(), "the number of operators is 1, with 0 bytes left, at byte 20"),
        (struct.pack(">Iiqi", 0x4960672D, 6, -1, 0), "the checkpoint id is negative: -1, at byte 8"),
        (header() + operator_bytes(bytes(4), parallelism=0), "parallelism 0 of 128, at byte 24"),
        (header() + operator_bytes(bytes(4), coordinator=b"\2"), "handle of tag 2, not inline, at byte 52"),
        (header() + operator_bytes(struct.pack(">ii", 1, 2) + bytes(9)), "subtask 2 of 2, at byte 57"),
        (header() + operator_bytes(SUBTASK + b"\x63" + bytes(9)), "a keyed handle of unknown tag 99, at byte 69"),
        (header() + operator_bytes(SUBTASK + b"\2" + bytes(9)), "a keyed handle of unknown tag 2, at byte 69"),
        (
            header() + operator_bytes(SUBTASK + b"\3" + struct.pack(">ii", 32000, 2000) + bytes(16000)),
            "not a range of key groups: 2000 from 32000, at byte 70",
        ),
        (header() + operator_bytes(SUBTASK + (b"\3" + bytes(8)) * 12 + bytes(9)), "more than 8 deep"),
        (header() + operator_bytes(struct.pack(">iii", 1, 0, 2) + bytes(9)), "2 operator handles, .* at byte 61"),
    ],
)
def test_what_is_no_metadata_is_told_with_its_byte(data, message):
    with pytest.raises(EoctlError, match=message):
        read_metadata(data)


def test_an_operator_or_a_subtask_twice_is_refused():
    metadata = made([Subtask(0), Subtask(0, finished=True)])
    with pytest.raises(CorruptError, match="has a subtask twice"):
        read_metadata(write_metadata(metadata))
    twice = made([])
    twice = Metadata(6, 1, (), twice.operators * 2, twice.raw_properties, None)
    with pytest.raises(CorruptError, match="operator id is there twice"):
        read_metadata(write_metadata(twice))


def java(*parts):
    out = Buffer()
    out.u16(0xACED)
    out.u16(5)
    for part in parts:
        out.raw(part)
    return bytes(out.data)


def with_properties(raw):
    metadata = made([])
    return write_metadata(Metadata(6, 1, (), (), raw, metadata.properties))


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (b"\0\0\0\0", CorruptError, "no Java object where the properties begin, at byte 24"),
        (java(b"\x70"), UnsupportedError, "not the properties of a checkpoint, at byte 24"),
        (java(b"\x74\0\2ab"), UnsupportedError, "an object of 'str'"),
        (java(b"\x75"), UnsupportedError, "a Java object of unknown tag 0x75, at byte 28"),
        (java(b"\x71\0\x7e\0\0"), CorruptError, "a Java reference to nothing, at byte 29"),
        (java(b"\x73\x71\0\x7e\0\0"), CorruptError, "a Java reference to nothing"),
        (java(b"\x73\x72\0\1X" + bytes(8) + b"\3\0\0\x78\x70"), UnsupportedError, "Java class 'X' writes itself"),
        (java(b"\x73\x72\0\1X" + bytes(8) + b"\2\0\0\x77"), UnsupportedError, "Java class 'X' is annotated"),
        (java(b"\x73" + (b"\x72\0\1X" + bytes(8) + b"\2\0\0\x78") * 20), CorruptError, "more than 16, at byte"),
        (
            java((b"\x73\x72\0\1X" + bytes(8) + b"\2\0\1L\0\1f\x74\0\1X\x78\x70") * 20),
            CorruptError,
            "more than 16 deep",
        ),
    ],
)
def test_java_objects_are_data_and_strange_ones_are_refused(raw, error, message):
    with pytest.raises(error, match=message):
        read_metadata(with_properties(raw))


def test_an_id_is_what_flink_prints():
    metadata = read_metadata(FILES["a-crash/checkpoints/a0000000000000000000000000000001/chk-1"])
    by_uid = {operator.uid: operator.id for operator in metadata.operators}
    assert by_uid["order-totals"] == OperatorId("64d13d9aa16aa0e7527f2a20c03a2a05")
