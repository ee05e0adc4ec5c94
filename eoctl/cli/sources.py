"""What `checkpoint create` is given: `[OPERATOR[/SUBTASK]=][KIND:]PATH` for each source, and a file of offsets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formats.errors import AccessDeniedError, InvalidInputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eoctl.engines.flink_paths import Mapping
    from eoctl.engines.source import StateSource
    from eoctl.services.checkpoint import Part

KINDS = ("dir", "rocksdb", "sqlite", "flink")
DEFAULT_OPERATOR = "main"
MAX_OFFSETS_BYTES = 4 << 20  # as Python values they take up to thirty times that
MAX_TEXT_BYTES = 4096
MAX_INTEGER = 2**53
_FORMS = "DIR, rocksdb:DIR, sqlite:FILE or flink:PATH; several as OPERATOR[/SUBTASK]=SOURCE"

Offsets = dict[str, dict[str, int | str]]


@dataclass(frozen=True, slots=True)
class SourceText:
    """One SOURCE, taken apart. `operator` is empty where none was named."""

    operator: str
    subtask: int
    kind: str
    path: str


def parse_source(text: str) -> SourceText:
    """The first `=` ends the operator, unless what stands before it is `KIND:`; the first `:` ends a known kind.

    So a path with `=` or `:` in it is written behind an operator: `main=./a=b`, `main=dir:rocksdb:x`.
    Raises: UsageError.
    """
    before, equals, after = text.partition("=")
    if not equals or before.startswith(tuple(f"{kind}:" for kind in KINDS)):
        return SourceText("", 0, *_parse_place(text, text))
    operator, slash, index = before.rpartition("/")
    if not slash or not index.isdecimal():
        operator, index = before, "0"
    if not operator or operator.startswith((".", "/", "~")):
        raise UsageError(
            f"not an operator before '=': {text!r}", hint=f"a path with '=' is written {DEFAULT_OPERATOR}={text}"
        )
    return SourceText(operator, int(index), *_parse_place(after, text))


def _parse_place(place: str, text: str) -> tuple[str, str]:
    kind, colon, path = place.partition(":")
    if not colon or kind not in KINDS:
        kind, path = "dir", place
    if not path:
        raise UsageError(f"a source without a path: {text!r}", hint=_FORMS)
    return kind, path


def parts_of(
    texts: Sequence[str], max_parallelism: int, mappings: tuple[Mapping, ...] = (), *, verify_capture: bool
) -> tuple[Part, ...]:
    """One part for each source, named as it was. `mappings`: of paths that snapshots of Flink name.

    Raises: UsageError, SnapshotNotFoundError, and what reading a `_metadata` raises.
    """
    from eoctl.services.checkpoint import Part  # noqa: PLC0415  (start-up)

    sources = [parse_source(text) for text in texts]
    nameless = next((text for text, source in zip(texts, sources, strict=True) if not source.operator), None)
    if len(sources) > 1 and nameless is not None:
        raise UsageError(f"one of several sources has no operator: {nameless!r}", hint=f"OPERATOR={nameless}")
    if verify_capture and all(source.kind == "dir" for source in sources):
        raise UsageError("--verify-capture is for rocksdb:, sqlite: and flink: sources", hint=_FORMS)
    return tuple(
        Part(
            source=_source_of(source, mappings, verify_capture=verify_capture),
            operator=source.operator or DEFAULT_OPERATOR,
            subtask=source.subtask,
            max_parallelism=max_parallelism,
        )
        for source in sources
    )


def _flink_source(text: str, mappings: tuple[Mapping, ...], *, verify: bool) -> StateSource:
    from eoctl.engines.flink import open_snapshot  # noqa: PLC0415  (start-up)
    from eoctl.engines.flink_source import FlinkSource  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)

    path = path_of(text)
    open_snapshot(path, mappings)
    return FlinkSource(path, mappings, verify=verify)


def _source_of(source: SourceText, mappings: tuple[Mapping, ...], *, verify_capture: bool) -> StateSource:
    # Looked for before the pipeline is opened, so that a misspelt path does not make or fence one.
    if source.kind == "flink":
        return _flink_source(source.path, mappings, verify=verify_capture)
    path = Path(source.path).expanduser()
    if not (path.is_file() if source.kind == "sqlite" else path.is_dir()):
        raise UsageError(f"no such {'file' if source.kind == 'sqlite' else 'directory'}: {path}", hint=_FORMS)
    match source.kind:
        case "rocksdb":
            from eoctl.engines.rocksdb import RocksdbSource  # noqa: PLC0415  (heavy, and optional)

            return RocksdbSource(path, verify=verify_capture)
        case "sqlite":
            from eoctl.engines.sqlite import SqliteSource  # noqa: PLC0415  (start-up)

            return SqliteSource(path, verify=verify_capture)
    from eoctl.engines.directory import DirectorySource  # noqa: PLC0415  (start-up)

    return DirectorySource(path)


def read_offsets(name: str) -> Offsets:
    """The offsets in the file of that name, `-` for stdin: `{"clicks": {"topic-0": 1234}}`.

    Raises: UsageError, AccessDeniedError, InvalidInputError saying what is wrong and where.
    """
    where = "stdin" if name == "-" else name
    try:
        if name == "-":
            if sys.stdin is None:
                raise UsageError("--offsets -: stdin is closed")
            data = sys.stdin.buffer.read(MAX_OFFSETS_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_OFFSETS_BYTES + 1)
    except PermissionError as error:
        raise AccessDeniedError(f"no permission to read the offsets: {where}") from error
    except OSError as error:
        raise UsageError(
            f"the offsets cannot be read: {error.strerror}: {where}", hint="--offsets FILE, or -"
        ) from error
    if len(data) > MAX_OFFSETS_BYTES:
        raise InvalidInputError(f"the offsets are larger than {MAX_OFFSETS_BYTES} bytes: {where}")
    return parse_offsets(data, where)


def parse_offsets(data: bytes, where: str) -> Offsets:
    """Source uid -> partition -> position. Raises: InvalidInputError."""
    import json  # noqa: PLC0415  (start-up)

    try:
        document = json.loads(data.decode(), object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise _bad(f"{where} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise _bad(f"{where} holds {_kind(document)} where an object of source uids belongs")
    for uid, positions in document.items():
        _check_text(uid, f"{where}: a source uid")
        if not uid:
            raise _bad(f"{where}: a source uid is empty")
        if not isinstance(positions, dict):
            raise _bad(f"{where}: {uid} holds {_kind(positions)} where an object of partitions belongs")
        for partition, position in positions.items():
            _check_text(partition, f"{where}: a partition of {uid}")
            _check_position(position, f"{where}: {uid}.{partition}")
    return document


def _check_text(text: str, where: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise _bad(f"{where} is text that UTF-8 cannot say: {text[:100]!r}") from error
    if size > MAX_TEXT_BYTES:
        raise _bad(f"{where} is longer than {MAX_TEXT_BYTES} bytes")


def _check_position(position: object, where: str) -> None:
    match position:
        case bool():
            raise _bad(f"{where} is {_kind(position)}, neither an integer nor text")
        case int():
            if abs(position) > MAX_INTEGER:
                raise _bad(f"{where} is beyond 2^53: {position}")
        case str():
            _check_text(position, where)
        case _:
            raise _bad(f"{where} is {_kind(position)}, neither an integer nor text")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name!r} is there twice")
        found[name] = value
    return found


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case float():
            return f"the number {value}"
        case int():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
    return "an object"


def _bad(message: str) -> InvalidInputError:
    return InvalidInputError(f"bad offsets: {message}", hint='{"source-uid": {"topic-0": 1234}}')
