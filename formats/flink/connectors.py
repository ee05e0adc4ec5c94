"""What connectors keep in operator state, inside `bytes`: the splits of a source, the committables of a sink.

    versioned     i32 version of a serializer, i32 length, its bytes
    splits        `SourceReaderState`, an element each: versioned
      numbers     (1): utf id, i64 next, i64 last
      Kafka       (0): utf topic, i32 partition, i64 next offset, i64 offset to stop at or the least number
    committables  `streaming_committer_raw_states`: versioned (2): u32 0xB91F252C, list of checkpoints
      checkpoint    i64 id, i32 subtasks, list of subtasks
      subtask       i32 subtask, list of requests, i32 and i32 [and i32 in version 1]: how many, how many failed
      request       versioned: the sink's own; i32 retries, i32 state
      list          i32 version, i32 n, n times i32 length, bytes
    Kafka         (1): i16 epoch, i64 producer id, utf transactional id
    FileSink      (2): u32 0x1E765C80, utf bucket, flag + versioned pending file, flag + versioned file to remove,
                  flag + utf path of a file to remove
      pending       u32 0x2C853C89, flag, utf path, i64 size, versioned recoverable
      in progress   u32 0xB3A4073D, flag, utf path, versioned recoverable
      recoverable   local, little-endian: u32 0x1E744B57, i64 length, i32 and i32 lengths of target and temporary path
    writer        `writer_raw_states` of FileSink: versioned (3): u32 0x1E764B79, versioned bucket id, utf folder, i64
                  creation time, flag + versioned file in progress

What is not one of these is told by its version and bytes alone.

Source: Flink 2.3.0, `CommittableCollectorSerializer`, `FileSinkCommittableSerializer`,
`FileWriterBucketStateSerializer`, `OutputStreamBasedPartFileWriter`, `LocalRecoverableSerializer`; the Kafka connector
4.0.1, `KafkaPartitionSplitSerializer`, `KafkaCommittableSerializer` (their code; no file of one was seen).
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from formats.binary import Cursor
from formats.errors import CorruptError
from formats.types import Simple, decode

COMMITTABLES = 0xB91F252C
FILE_COMMITTABLE = 0x1E765C80
PENDING_FILE = 0x2C853C89
FILE_IN_PROGRESS = 0xB3A4073D
LOCAL_RECOVERABLE = 0x1E744B57
BUCKET = 0x1E764B79

_NEVER = -(1 << 63)


class Versioned(Struct, frozen=True):
    """Bytes of a serializer that is known by its version alone."""

    version: int
    data: bytes


class NumberSplit(Struct, frozen=True):
    """A part of a number sequence: the next number, and the last one."""

    split: str
    next: int
    last: int


class KafkaSplit(Struct, frozen=True):
    """A partition of a topic: the next offset to read (less than 0: not known yet), and where to stop, if anywhere."""

    topic: str
    partition: int
    next: int
    stop: int | None


class KafkaTransaction(Struct, frozen=True):
    """What Kafka's sink commits."""

    transactional_id: str
    producer_id: int
    epoch: int


class SinkFile(Struct, frozen=True):
    """A file of a sink: where it shall be, where it is as long as it is not committed ("": not known), its length."""

    path: str
    temporary: str
    size: int


class FileCommittable(Struct, frozen=True):
    """What FileSink commits: a pending file that becomes visible, and files that are removed."""

    bucket: str
    pending: SinkFile | None
    cleanup: tuple[str, ...]


class Committable(Struct, frozen=True):
    """What a sink's writer handed over for a checkpoint and is not yet known to be committed."""

    checkpoint_id: int
    subtask: int
    content: FileCommittable | KafkaTransaction | Versioned
    retries: int = 0
    state: int = 0


class Bucket(Struct, frozen=True):
    """A folder that a subtask of FileSink writes to, and the file that it has open there."""

    bucket: str
    folder: str
    in_progress: SinkFile | None


def read_split(element: bytes, what: str = "a split") -> NumberSplit | KafkaSplit | Versioned:
    """An element of `SourceReaderState`, as the value of a row.

    Raises: CorruptError.
    """
    found = _versioned_element(element, what)
    cursor = Cursor(found.data, what=what)
    if found.version == 1 and cursor.left >= 18 and cursor.left == 18 + int.from_bytes(found.data[:2], "big"):
        return NumberSplit(cursor.utf("a split's id"), cursor.i64("a number"), cursor.i64("a number"))
    if found.version == 0 and cursor.left >= 22 and cursor.left == 22 + int.from_bytes(found.data[:2], "big"):
        topic, partition = cursor.utf("a topic"), cursor.i32("a partition")
        offset, stop = cursor.i64("an offset"), cursor.i64("an offset")
        return KafkaSplit(topic, partition, offset, None if stop == _NEVER else stop)
    return found


def read_committables(element: bytes, what: str = "committables") -> list[Committable]:
    """An element of `streaming_committer_raw_states`.

    Raises: CorruptError.
    """
    found = _versioned_element(element, what)
    cursor = Cursor(found.data, what=what)
    if found.version != 2 or cursor.left < 4 or cursor.u32() != COMMITTABLES:
        return [Committable(-1, -1, found)]
    committables = []
    for _, checkpoint in _list(cursor):
        checkpoint_id = checkpoint.i64("a checkpoint's id")
        checkpoint.i32("the number of subtasks")
        for version, subtask in _list(checkpoint):
            index = subtask.i32("a subtask")
            for _, request in _list(subtask):
                content = _versioned(request)
                retries, state = request.i32("the number of retries"), request.i32("a request's state")
                request.expect_end("a committable")
                committables.append(Committable(checkpoint_id, index, _content(content, what), retries, state))
            subtask.raw(12 if version == 1 else 8, "counters")
            subtask.expect_end("a subtask")
        checkpoint.expect_end("a checkpoint")
    cursor.expect_end("the committables")
    return committables


def read_bucket(element: bytes, what: str = "a bucket") -> Bucket | Versioned:
    """An element of FileSink's `writer_raw_states`.

    Raises: CorruptError.
    """
    found = _versioned_element(element, what)
    cursor = Cursor(found.data, what=what)
    if found.version != 3 or cursor.left < 4 or cursor.u32() != BUCKET:
        return found
    name = Cursor(_versioned(cursor).data, what=what)
    bucket = _text(name.raw(name.u32_le("the length of a name")), name)
    folder = cursor.utf("a folder")
    cursor.i64("a time")
    in_progress = _file(_versioned(cursor), what) if cursor.flag("a file in progress") else None
    cursor.expect_end("a bucket")
    return Bucket(bucket, folder, in_progress)


def _content(found: Versioned, what: str) -> FileCommittable | KafkaTransaction | Versioned:
    cursor = Cursor(found.data, what=what)
    if found.version == 1 and cursor.left >= 12 and cursor.left == 12 + int.from_bytes(found.data[10:12], "big"):
        epoch, producer_id = cursor.i16("an epoch"), cursor.i64("a producer's id")
        return KafkaTransaction(cursor.utf("a transactional id"), producer_id, epoch)
    if found.version != 2 or cursor.left < 4 or cursor.u32() != FILE_COMMITTABLE:
        return found
    bucket = cursor.utf("a bucket")
    pending = _file(_versioned(cursor), what) if cursor.flag("a pending file") else None
    cleanup = []
    if cursor.flag("a file to remove") and (left := _file(_versioned(cursor), what)) is not None:
        cleanup.append(left.path)
    if cursor.flag("a path to remove"):
        cleanup.append(cursor.utf("a path"))
    cursor.expect_end("a committable")
    return FileCommittable(bucket, pending, tuple(cleanup))


def _file(found: Versioned, what: str) -> SinkFile | None:
    """A pending file, or one in progress; None, where it is written in another way."""
    cursor = Cursor(found.data, what=what)
    if found.version != 2 or cursor.left < 5:
        return None
    magic = cursor.u32("a file")
    if magic not in {PENDING_FILE, FILE_IN_PROGRESS}:
        return None
    path, size = "", -1
    if cursor.flag("a path"):
        path = cursor.utf("a path")
        size = cursor.i64("a size") if magic == PENDING_FILE else -1
    recoverable = _recoverable(_versioned(cursor), what)
    cursor.expect_end("a file")
    if recoverable is None:
        return SinkFile(path, "", size)
    target, temporary, length = recoverable
    return SinkFile(path or target, temporary, size if size >= 0 else length)


def _recoverable(found: Versioned, what: str) -> tuple[str, str, int] | None:
    cursor = Cursor(found.data, what=what)
    if cursor.left < 20 or cursor.u32_le() != LOCAL_RECOVERABLE:
        return None
    length = cursor.u64_le("a length")
    target, temporary = cursor.u32_le("a length"), cursor.u32_le("a length")
    paths = _text(cursor.raw(target, "a path"), cursor), _text(cursor.raw(temporary, "a path"), cursor)
    cursor.expect_end("a file")
    return (*paths, length)


def _versioned_element(element: bytes, what: str) -> Versioned:
    """The row's value is `bytes` itself, with a length in front."""
    data = decode(Simple("bytes"), element)
    assert isinstance(data, bytes)
    cursor = Cursor(data, what=what)
    found = _versioned(cursor)
    cursor.expect_end("it")
    return found


def _versioned(cursor: Cursor) -> Versioned:
    return Versioned(cursor.i32("a serializer's version"), cursor.sized("its data"))


def _list(cursor: Cursor) -> Iterator[tuple[int, Cursor]]:
    version = cursor.i32("a serializer's version")
    for _ in range(cursor.count("the length of a list", 4)):
        yield version, cursor.part(cursor.count("a length"), "an element")


def _text(raw: bytes, cursor: Cursor) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"{cursor.what}: a text that is not UTF-8", offset=cursor.at) from error
