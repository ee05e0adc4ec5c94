"""A snapshot of Flink as a source: its keyed and operator state by rows, all else carried as files.

What a coordinator has, raw state and records in flight are bytes whose meaning only the job knows. Keyed and operator
state that cannot be read stops a savepoint: nothing is left out in silence.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path

from eoctl.ambient import format_time
from eoctl.engines.flink import FlinkSnapshot, Piece, open_snapshot
from eoctl.engines.flink_files import Place
from eoctl.engines.flink_paths import Mapping
from eoctl.engines.flink_states import operator_states
from eoctl.services.savepoint_build import SnapshotSource, SourceOperator
from formats.errors import BadNameError
from formats.flink.metadata import Operator
from formats.ids import HashAlgorithm, check_name
from formats.manifest import Engine, Inline, OperatorState, Role, StateFile, SubtaskState
from formats.savepoint import COORDINATOR, Origin
from formats.state import StateTable
from storage.blobs import chunks, digest_of
from storage.os_errors import told

_CARRIED = ("raw-operator", "raw-keyed")


@contextmanager
def source_of_flink(path: Path | Place, mappings: tuple[Mapping, ...] = ()) -> Iterator[SnapshotSource]:
    """The snapshot at `path`, open for reading. Raises: as `open_snapshot`; CorruptError where a file is missing."""
    snapshot = _opened(path, mappings)
    with tempfile.TemporaryDirectory(prefix="eoctl-flink-") as scratch:
        carried: dict[str, list[Piece]] = {operator.id: [] for operator in snapshot.metadata.operators}
        for piece in snapshot.pieces():
            if piece.stream.role in {"coordinator", "in-flight"} or piece.stream.name.startswith(_CARRIED):
                carried[piece.operator.id].append(piece)
        yield SnapshotSource(
            address=str(path),
            origin=Origin(
                snapshot=str(path),
                taken_at=_time(snapshot),
                engine="flink",
            ),
            pipeline=_pipeline(snapshot),
            hash=HashAlgorithm.BLAKE3,
            operators=tuple(
                _operator(snapshot, operator, carried[operator.id], path, mappings, Path(scratch))
                for operator in snapshot.metadata.operators
            ),
        )


@lru_cache(maxsize=2)  # a job of another process opens it again
def _opened(path: Path | Place, mappings: tuple[Mapping, ...]) -> FlinkSnapshot:
    return open_snapshot(path, mappings)


def _operator(
    snapshot: FlinkSnapshot,
    operator: Operator,
    carried: list[Piece],
    path: Path | Place,
    mappings: tuple[Mapping, ...],
    scratch: Path,
) -> SourceOperator:
    files = {piece: _written(snapshot, piece, scratch / operator.id) for piece in carried}
    subtasks: dict[int, list[StateFile]] = {}
    for piece, file in files.items():
        subtasks.setdefault(piece.stream.subtask, []).append(file)
    state = OperatorState(
        id=operator.id,
        uid=operator.uid,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=max(operator.max_parallelism, 0),
        engine=Engine(kind="eoctl", properties={"from": "flink"}),
        subtasks=tuple(
            SubtaskState(index=index, files=tuple(sorted(found, key=lambda file: file.name)))
            for index, found in sorted(subtasks.items())
            if index >= 0
        ),
        coordinator=tuple(subtasks.get(-1, ())),
    )
    opened = partial(_tables, path, mappings, operator.id)
    return SourceOperator(state=state, open=opened, parts=(opened,), files=scratch / operator.id)


def _tables(path: Path | Place, mappings: tuple[Mapping, ...], identity: str) -> tuple[StateTable, ...]:
    snapshot = _opened(path, mappings)
    operator = next(operator for operator in snapshot.metadata.operators if operator.id == identity)
    return operator_states(operator, snapshot.paths.open).tables


def _written(snapshot: FlinkSnapshot, piece: Piece, folder: Path) -> StateFile:
    """The stream's bytes are in a file of their own."""
    stream = piece.stream
    place = folder / (COORDINATOR if stream.subtask < 0 else str(stream.subtask)) / stream.name
    with told(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        with snapshot.paths.open(stream.handle) as source, place.open("xb") as target:
            for part in chunks(source):
                target.write(part)
        with place.open("rb") as written:
            digest = digest_of(written, HashAlgorithm.BLAKE3)
        size = place.stat().st_size
    role: Role = stream.role if stream.role in {"coordinator", "in-flight"} else "opaque"
    return StateFile(name=stream.name, bytes=size, digest=digest, place=Inline(b""), first_stored_in=0, role=role)


def _time(snapshot: FlinkSnapshot) -> str:
    return format_time(datetime.fromtimestamp(snapshot.modified_at, UTC))


def _pipeline(snapshot: FlinkSnapshot) -> str:
    """What the savepoint's pipeline is called where nobody says: the job's id, or `flink`."""
    try:
        return check_name(snapshot.job or "flink", "pipeline")
    except BadNameError:
        return "flink"
