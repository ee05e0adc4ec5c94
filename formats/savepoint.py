"""A portable savepoint: a folder with a JSON head and, for each state of each operator, one sorted table.

    savepoint.json
    OPERATOR-ID/STATE.parquet        every row of the state, over all subtasks (formats/sst.py)
    OPERATOR-ID/SUBTASK/FILE         files that are carried as they are, `coordinator` for those of no subtask

Nothing in it says when or by whom it was made: the same state gives the same bytes. In a store the same files are
those of a manifest of kind `savepoint`. The format is told in docs/formats/savepoint.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from formats import canonical
from formats.errors import BadManifestError
from formats.ids import HashAlgorithm, check_name
from formats.keygroups import MAX_MAX_PARALLELISM
from formats.manifest import Count, DigestText, Engine, Hex32, Name, Role, SinkState, SourceOffsets, Text
from formats.names import check_file_names
from formats.state import StateSchema

HEAD_NAME = "savepoint.json"
MAX_HEAD_BYTES = 256 << 20
COORDINATOR = "coordinator"

_plain = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z")


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The snapshot that the state was taken from."""

    snapshot: Text  # its address, or the name of a foreign one
    taken_at: Text
    engine: Name
    store: Text = ""


class SavepointTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One state: where its table lies, and what it is."""

    path: Text
    bytes: Count
    digest: DigestText
    rows: Count
    schema: StateSchema


class SavepointFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that is carried as it is."""

    path: Text
    bytes: Count
    digest: DigestText
    role: Role


class SavepointSubtask(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one subtask had, beside rows."""

    index: Count
    files: tuple[SavepointFile, ...] = ()
    key_groups: tuple[Count, Count] | None = None
    finished: bool = False
    empty_directories: tuple[Text, ...] = ()


class SavepointOperator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One operator. Max parallelism 0: not known, as its files are carried as they are."""

    id: Hex32
    uid: Text = ""
    name: Text = ""
    parallelism: Count
    max_parallelism: Annotated[int, Meta(ge=0, le=MAX_MAX_PARALLELISM)] = 0
    engine: Engine
    tables: tuple[SavepointTable, ...] = ()
    subtasks: tuple[SavepointSubtask, ...] = ()
    coordinator: tuple[SavepointFile, ...] = ()


class SavepointHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`savepoint.json`."""

    FORMAT: ClassVar[str] = "eoctl.savepoint"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.savepoint"]
    version: Literal[1]
    pipeline: Name
    hash: HashAlgorithm
    origin: Origin
    operators: tuple[SavepointOperator, ...]
    sources: tuple[SourceOffsets, ...] = ()
    sinks: tuple[SinkState, ...] = ()
    properties: dict[Text, Text] = {}


def encode_head(head: SavepointHead) -> bytes:
    return canonical.encode(head)


def decode_head(data: bytes) -> SavepointHead:
    """The head, whose paths are safe and distinct.

    Raises: BadManifestError, UnsupportedError, TooLargeError, BadNameError, NameClashError.
    """
    head = canonical.decode(data, SavepointHead, what=HEAD_NAME, max_bytes=MAX_HEAD_BYTES)
    check_name(head.pipeline, "pipeline")
    ids = [operator.id for operator in head.operators]
    if len(set(ids)) != len(ids):
        raise BadManifestError(f"{HEAD_NAME} has an operator twice")
    for operator in head.operators:
        prefixes = {f"{operator.id}/{subtask.index}/": subtask.files for subtask in operator.subtasks}
        if len(prefixes) != len(operator.subtasks):
            raise BadManifestError(f"{HEAD_NAME} has a subtask of {operator.uid or operator.id} twice")
        prefixes[f"{operator.id}/{COORDINATOR}/"] = operator.coordinator
        for prefix, files in prefixes.items():
            _check_below(prefix, [file.path for file in files])
        _check_below(f"{operator.id}/", [table.path for table in operator.tables])
        names = [(table.schema.name, table.schema.kind) for table in operator.tables]
        if len(set(names)) != len(names):
            raise BadManifestError(f"{HEAD_NAME} has a state of {operator.uid or operator.id} twice")
    check_file_names([HEAD_NAME, *(path for path, _, _ in parts_of(head))])
    return head


def parts_of(head: SavepointHead) -> Iterator[tuple[str, int, str]]:
    """Path, size and digest of every file beside the head."""
    for operator in head.operators:
        for table in operator.tables:
            yield table.path, table.bytes, table.digest
        for file in (*operator.coordinator, *(file for subtask in operator.subtasks for file in subtask.files)):
            yield file.path, file.bytes, file.digest


def table_name(state: str, taken: Collection[str]) -> str:
    """A file's name for the table of a state: its own name where that is plain, and nobody else's but for case."""
    stem = state if _plain.match(state) else "".join(map(_escaped, state))[:100].lstrip(".") or "state"
    lower = {name.lower() for name in taken}
    name, count = f"{stem}.parquet", 1
    while name.lower() in lower:
        count += 1
        name = f"{stem}~{count}.parquet"
    return name


def _escaped(character: str) -> str:
    return character if _plain.match(f"a{character}") else f"%{ord(character):02x}"


def _check_below(prefix: str, paths: list[str]) -> None:
    for path in paths:
        if not path.startswith(prefix):
            raise BadManifestError(f"{HEAD_NAME} has a file that is not below {prefix}: {path[:200]!r}")
