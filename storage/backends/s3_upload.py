"""Large values on their way to S3: in parts, side by side, all or nothing.

The parts of an upload are joined only by its completion; an upload that fails or is interrupted is aborted, and one
that was killed is found by `list(reach=UNFINISHED)`. After return or error no thread runs.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from formats.errors import EoctlError, NoSpaceError, OutcomeUnknownError, UnavailableError
from storage.backend import CopyOf, Key, KeyAbsentError, VersionMismatchError
from storage.backends.s3_client import Reply, S3Client, Span, StoppedSendingError
from storage.backends.s3_errors import UnsupportedRequestError, UploadAbsentError

if TYPE_CHECKING:
    from concurrent.futures import Future

PART_BYTES = 16 << 20
COPY_PART_BYTES = 1 << 30
MAX_PARTS = 10_000
PARALLEL = 3

Send: TypeAlias = Callable[[int, int, int], Reply]  # number, start, length of a part -> what names it at the end


def upload_parts(s3: S3Client, key: Key, source: bytes | int, size: int, sent: Callable[[int], None]) -> bool:
    """The value is there, whole; False where some value was.

    Raises: OutcomeUnknownError, what a request raises, what `sent` raises.
    """
    spans: dict[int, Span] = {}

    def send(upload: str) -> Send:
        def part(number: int, start: int, length: int) -> Reply:
            spans[number] = span = Span(source, start, length, sent)
            crc = span.crc32()
            reply = _insisted(
                s3,
                lambda: s3.send_span(
                    "UploadPart",
                    key,
                    span,
                    Key=s3.name(key.path),
                    UploadId=upload,
                    PartNumber=number,
                    ChecksumCRC32=crc,
                ),
            )
            del spans[number]
            return {"PartNumber": number, "ETag": s3.told(reply, "ETag"), "ChecksumCRC32": crc}

        return part

    def stop() -> None:
        for span in list(spans.values()):
            span.stop()

    return _joined(s3, key, size, PART_BYTES, send, stop, {"ChecksumAlgorithm": "CRC32", "ChecksumType": "COMPOSITE"})


def copy_parts(s3: S3Client, key: Key, source: CopyOf, size: int) -> bool:
    """As `upload_parts`, of bytes that the server has under another key. Raises: KeyAbsentError too."""

    def send(upload: str) -> Send:
        def part(number: int, start: int, length: int) -> Reply:
            reply = s3.ask(
                "UploadPartCopy",
                source.key,
                Key=s3.name(key.path),
                UploadId=upload,
                PartNumber=number,
                CopySource=source_of(s3, source),
                CopySourceRange=f"bytes={start}-{start + length - 1}",
            )
            return {"PartNumber": number, "ETag": s3.told(s3.told(reply, "CopyPartResult"), "ETag")}

        return part

    return _joined(s3, key, size, COPY_PART_BYTES, send, lambda: None, {})


def source_of(s3: S3Client, source: CopyOf) -> dict[str, str]:
    """What a copy calls its source: a name in this bucket, or in that of another place."""
    if not source.root:
        return {"Bucket": s3.location.bucket, "Key": s3.name(source.key.path)}
    bucket, _, prefix = source.root.partition("/")
    return {"Bucket": bucket, "Key": f"{prefix}/{source.key}" if prefix else source.key.path}


def _joined(
    s3: S3Client,
    key: Key,
    size: int,
    part_bytes: int,
    send: Callable[[str], Send],
    stop: Callable[[], None],
    checksums: dict[str, str],
) -> bool:
    name = s3.name(key.path)
    with contextlib.suppress(KeyAbsentError):
        s3.ask("HeadObject", key, Key=name)
        return False
    upload: str = s3.told(s3.ask("CreateMultipartUpload", key, Key=name, **checksums), "UploadId")
    try:
        parts = list(_side_by_side(send(upload), _parts(size, part_bytes), stop))
        return _complete(s3, key, upload, parts, checksums)
    except UploadAbsentError as error:
        raise UnavailableError(f"the upload of {key} was aborted by somebody else", hint="run it again") from error
    except BaseException as error:
        # An unknown completion may still happen; then the abort finds nothing, or nothing becomes of either.
        if not isinstance(error, OutcomeUnknownError):
            with contextlib.suppress(EoctlError):
                s3.ask("AbortMultipartUpload", key, Key=name, UploadId=upload)
        raise


def _insisted(s3: S3Client, send: Callable[[], Reply]) -> Reply:
    """The answer to what may be sent as often as it takes; unlike the library's, a stop ends it at once."""
    for number in range(s3.limits.attempts - 1):
        try:
            return send()
        except (OutcomeUnknownError, UnavailableError) as error:
            if isinstance(error, NoSpaceError | StoppedSendingError):
                raise
            s3.limits.pause(number)
    return send()


def _parts(size: int, part_bytes: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and length of each part: at most as many as S3 takes."""
    step = max(part_bytes, -(-size // MAX_PARTS))
    for number, start in enumerate(range(0, size, step), 1):
        yield number, start, min(step, size - start)


def _side_by_side(send: Send, parts: Iterator[tuple[int, int, int]], stop: Callable[[], None]) -> Iterator[Reply]:
    """Every part sent, in order; after an error the others are stopped and waited for."""
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  (start-up)

    pool = ThreadPoolExecutor(PARALLEL, thread_name_prefix="eoctl-s3-write")
    waiting: deque[Future[Reply]] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(send, *part))
            if len(waiting) > PARALLEL:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BaseException:
        stop()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _complete(s3: S3Client, key: Key, upload: str, parts: list[Reply], checksums: dict[str, str]) -> bool:
    """The parts are the value; False where some value was there. The outcome of a lost reply is read back.

    A server that does not know conditions here completes without one: whoever else makes this key, which is named by
    the digest of its bytes, makes the same bytes, and HEAD is never written in parts.
    """
    name = s3.name(key.path)
    condition = {"IfNoneMatch": "*"}
    kind = {"ChecksumType": checksums["ChecksumType"]} if checksums else {}
    uncertain: EoctlError | None = None
    for number in range(s3.limits.attempts):
        try:
            joined = {"Parts": parts}
            s3.send(
                "CompleteMultipartUpload", key, Key=name, UploadId=upload, MultipartUpload=joined, **kind, **condition
            )
        except UnsupportedRequestError:
            if not condition:
                raise
            condition = {}
        except VersionMismatchError:
            return _lost(s3, key, upload)
        except UploadAbsentError:
            if uncertain is None:
                raise
            return _settled(s3, key, uncertain)
        except OutcomeUnknownError as error:
            uncertain = error
            s3.limits.pause(number)
        except UnavailableError:
            if number + 1 == s3.limits.attempts and uncertain is None:
                raise
            s3.limits.pause(number)
        else:
            return True
    return _settled(s3, key, uncertain or UnavailableError(f"the upload of {key} cannot be completed"))


def _lost(s3: S3Client, key: Key, upload: str) -> bool:
    """Another value came first: the parts go."""
    with contextlib.suppress(UploadAbsentError):  # we came first, and the reply was lost
        s3.ask("AbortMultipartUpload", key, Key=s3.name(key.path), UploadId=upload)
    return False


def _settled(s3: S3Client, key: Key, cause: EoctlError) -> bool:
    """The upload is over, one way or the other: where a value is, its reader decides if it is the right one."""
    try:
        s3.ask("HeadObject", key, Key=s3.name(key.path))
    except KeyAbsentError as error:
        raise cause from error
    return False
