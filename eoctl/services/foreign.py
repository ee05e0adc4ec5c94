"""Snapshots that Flink wrote, taken as they lie: listed, inspected, compared. Nothing is written, nothing imported.

The answers are those that a store gives of its own snapshots. A file is told by where it lies; which checkpoint stored
it first is known as far as the job's older checkpoints are still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from eoctl.ambient import format_time
from eoctl.engines.flink import FlinkSnapshot, Piece, find_folders, is_snapshot, open_snapshot
from eoctl.engines.flink_files import LOCAL, Place
from eoctl.engines.flink_paths import CHECKPOINT, Mapping, named_root
from eoctl.services.foreign_connectors import connectors_of
from eoctl.services.values import (
    Difference,
    FileNames,
    ForeignFileRow,
    ForeignRow,
    Inspection,
    Metrics,
    OperatorRow,
    StateRow,
)
from formats.errors import EoctlError, UsageError
from formats.flink.handles import Inline, Mode, Segment
from formats.flink.metadata import Operator

MOVED = "it names files at another place than they lie: eoctl flink relocate, or export, before Flink restores it"

_KINDS = {Mode.SPLIT: "operator-list", Mode.UNION: "operator-union", Mode.BROADCAST: "broadcast"}


class ForeignList(Struct, frozen=True, kw_only=True):
    """What lies below a root. `unfinished`: folders of checkpoints that were never completed, or are being written."""

    root: str
    rows: tuple[ForeignRow, ...]
    unfinished: tuple[str, ...]
    problems: tuple[EoctlError, ...]


class History(Struct, frozen=True):
    """What a job's checkpoints up to one have stored: file -> the first of them that names it."""

    first: dict[str, int]
    parent: int | None = None
    parent_names: dict[str, str] = {}
    notes: tuple[str, ...] = ()


def path_of(address: str) -> Place:
    """What a foreign address names: a path of this machine, or one in a bucket. Raises: UsageError."""
    text = address.removeprefix("flink:")
    if text.startswith(("s3://", "s3a://", "s3p://")):
        from eoctl.engines.flink_s3 import s3_place  # noqa: PLC0415  (start-up: boto3)

        return s3_place(text)
    if text.startswith("file:"):
        rest = text.removeprefix("file:")
        host, slash, path = rest[2:].partition("/") if rest.startswith("//") else ("", "/", rest.removeprefix("/"))
        if host not in {"", "localhost"} or not slash:
            raise UsageError(f"not a local file URL: {address!r}", hint="file:///PATH")
        text = f"/{path}"
    elif "://" in text:
        raise UsageError(
            f"snapshots of Flink are read from local folders and from S3: {address!r}",
            hint="copy the job's folder first",
        )
    if not text:
        raise UsageError(f"a snapshot without a path: {address!r}", hint="flink:/checkpoints/JOB/chk-7")
    return Place(LOCAL, str(Path(text).expanduser()))


def open_foreign(address: str, mappings: Sequence[Mapping] = ()) -> FlinkSnapshot:
    """The snapshot at a foreign address. Raises: UsageError, SnapshotNotFoundError, what reading raises."""
    return open_snapshot(path_of(address), tuple(mappings))


def list_foreign(root: Place, mappings: Sequence[Mapping] = ()) -> ForeignList:
    """Every snapshot below `root`, those of a job in the order of their ids; and what could not be read."""
    found = named_root(root) if root.is_folder() and not is_snapshot(root) else None
    rows: list[ForeignRow] = []
    unfinished: list[str] = []
    problems: list[EoctlError] = []
    stored: dict[str, dict[str, int]] = {}  # job -> file -> first checkpoint
    for folder in find_folders(root):
        if not is_snapshot(folder):
            unfinished.append(str(folder))
            continue
        try:
            snapshot = open_snapshot(folder, tuple(mappings), found)
        except EoctlError as error:
            problems.append(error)
            continue
        first = stored.setdefault(str(folder.parent), {}) if not snapshot.is_savepoint else {}
        rows.append(row_of(snapshot, _remember(snapshot, first)))
    return ForeignList(root=str(root), rows=tuple(rows), unfinished=tuple(unfinished), problems=tuple(problems))


def row_of(snapshot: FlinkSnapshot, first: dict[str, int]) -> ForeignRow:
    """Files count once however often they are named; what lies in `_metadata` counts with it."""
    number = snapshot.metadata.checkpoint_id
    kept = {piece.place: piece for piece in snapshot.pieces() if piece.file}
    new = [piece for piece in kept.values() if first.get(piece.file, number) == number]
    files, new_files = {piece.file for piece in kept.values()}, {piece.file for piece in new}
    return ForeignRow(
        pipeline=snapshot.job,
        id=number,
        kind="savepoint" if snapshot.is_savepoint else "checkpoint",
        name=snapshot.paths.folder.name if snapshot.is_savepoint else "",
        created_at=format_time(datetime.fromtimestamp(snapshot.modified_at, UTC)),
        attempt=0,
        full_bytes=snapshot.metadata_bytes + sum(piece.bytes for piece in kept.values()),
        added_bytes=snapshot.metadata_bytes + sum(piece.bytes for piece in new),
        files=len(files),
        added_files=len(new_files),
        referenced_files=len(files) - len(new_files),
        tags=(),
        status="complete",
        engine="flink",
        path=str(snapshot.path),
    )


def inspect_foreign(snapshot: FlinkSnapshot) -> Inspection:
    """What the snapshot consists of, as its `_metadata`, and the heads and connectors' part of its state tell it."""
    history = history_of(snapshot)
    rows = foreign_files(snapshot, history=history)
    number = snapshot.metadata.checkpoint_id
    names = {f"{row.operator}/{_subtask(row)}/{row.name}": row for row in rows if row.place != "inline"}
    older = {name: row.first_stored_in for name, row in names.items() if row.first_stored_in != number}
    there = {row.path for row in rows}
    notes = list(history.notes)
    operators = operator_rows(snapshot, notes)
    sources, sinks = connectors_of(snapshot, notes)
    if was_moved(snapshot):
        notes.append(MOVED)
    references: dict[str, list[str]] = {}
    for name, first in older.items():
        references.setdefault(str(first), []).append(name)
    return Inspection(
        snapshot=row_of(snapshot, history.first),
        parent=history.parent,
        metadata_version=snapshot.metadata.version,
        metrics=Metrics(
            duration_seconds=0.0,
            alignment_seconds=0.0,
            snapshot_seconds=0.0,
            upload_seconds=0.0,
            stored_bytes=0,
            in_flight_bytes=sum(row.in_flight_bytes for row in operators),
        ),
        operators=operators,
        sources=sources,
        sinks=sinks,
        files=FileNames(
            new=tuple(sorted(names.keys() - older.keys())),
            referenced=tuple(sorted(older)),
            obsolete=tuple(sorted({name for path, name in history.parent_names.items() if path not in there})),
        ),
        references={first: tuple(sorted(found)) for first, found in sorted(references.items())},
        notes=tuple(notes),
    )


def foreign_files(
    snapshot: FlinkSnapshot, operator: str | None = None, history: History | None = None
) -> tuple[ForeignFileRow, ...]:
    """Every piece of state, in the order of `_metadata`; of one operator (uid or id) where it is given.

    Raises: UsageError.
    """
    operators = snapshot.metadata.operators
    if operator is not None and all(operator not in {found.uid, found.id} for found in operators):
        known = ", ".join(found.uid or found.id for found in operators) or "none"
        raise UsageError(f"{snapshot.path} has no operator {operator!r}", hint=f"its operators: {known}")
    first = (history or history_of(snapshot)).first
    return tuple(
        _file_row(piece, first, snapshot)
        for piece in snapshot.pieces()
        if operator in {None, piece.operator.uid, piece.operator.id}
    )


def operator_rows(snapshot: FlinkSnapshot, notes: list[str]) -> tuple[OperatorRow, ...]:
    """The operators, in the order of `_metadata`. `notes` gets what keeps the states of one from being known."""
    rows = []
    for operator, pieces in by_operator(snapshot):
        try:
            keyed = _keyed_states(operator, snapshot)
        except EoctlError as error:
            keyed = ()
            notes.append(f"keyed states of {operator.uid or operator.id} are not known: {error.message}")
        rows.append(operator_row(operator, pieces, keyed))
    return tuple(rows)


def diff_foreign(a: FlinkSnapshot, b: FlinkSnapshot) -> Difference:
    """From `a` to `b`: by the files that both name, and what lies in `_metadata` by its bytes.

    Flink never writes a file again, so that a file of the same place is the same.
    """
    old, new = _by_name(a), _by_name(b)
    gone = [row for name, row in old.items() if name not in new]
    come = [row for name, row in new.items() if name not in old]
    same = [name for name in new if name in old]
    return Difference(
        a=str(a.path),
        b=str(b.path),
        added=tuple(come),
        removed=tuple(gone),
        changed=(),
        same_files=len(same),
        added_bytes=sum(row.bytes for row in come),
        removed_bytes=sum(row.bytes for row in gone),
        shared_stored_bytes=sum(new[name].bytes for name in same if new[name].place != "inline"),
    )


def history_of(snapshot: FlinkSnapshot) -> History:
    """What older checkpoints beside this one have stored."""
    folder, number = snapshot.paths.folder, snapshot.metadata.checkpoint_id
    if snapshot.is_savepoint or not CHECKPOINT.match(folder.name):
        return History(_remember(snapshot, {}))
    beside = (entry.name for entry in folder.files.entries(folder.parent.text) if entry.kind == "folder")
    older = sorted((int(match[1]), folder.parent / name) for name in beside if (match := CHECKPOINT.match(name)))
    first: dict[str, int] = {}
    parent, names, notes = None, {}, []
    for found, path in older:
        if found >= number or not is_snapshot(path):
            continue
        try:
            before = open_snapshot(path, snapshot.paths.mappings, snapshot.paths.root)
        except EoctlError as error:
            notes.append(f"what {path.name} stored is not known: {error.message}")
            continue
        _remember(before, first)
        parent = before.metadata.checkpoint_id
        names = {piece.place: _full_name(piece) for piece in before.pieces() if piece.file}
    return History(_remember(snapshot, first), parent, names, tuple(notes))


def was_moved(snapshot: FlinkSnapshot) -> bool:
    """Files were found, but not where Flink would look for them."""
    return any(piece.located is not None and piece.located.moved for piece in snapshot.pieces())


def snapshots_below(paths: Iterable[Place], mappings: Sequence[Mapping] = ()) -> Iterator[FlinkSnapshot]:
    """Every snapshot at or below the paths. Raises: what finding and reading raise."""
    for path in paths:
        if is_snapshot(path):
            yield open_snapshot(path, tuple(mappings))
        else:
            root = named_root(path)
            for folder in find_folders(path):
                if is_snapshot(folder):
                    yield open_snapshot(folder, tuple(mappings), root)


def _remember(snapshot: FlinkSnapshot, first: dict[str, int]) -> dict[str, int]:
    number = snapshot.metadata.checkpoint_id
    for piece in snapshot.pieces():
        if piece.file:
            first.setdefault(piece.file, number)
    return first


def _full_name(piece: Piece) -> str:
    subtask = "coordinator" if piece.stream.subtask < 0 else str(piece.stream.subtask)
    return f"{piece.operator.uid or piece.operator.id}/{subtask}/{piece.stream.name}"


def _subtask(row: ForeignFileRow) -> str:
    return "coordinator" if row.subtask < 0 else str(row.subtask)


def _file_row(piece: Piece, first: dict[str, int], snapshot: FlinkSnapshot) -> ForeignFileRow:
    inline = not piece.file
    place = "inline" if inline else "segment" if isinstance(piece.stream.handle, Segment) else "file"
    number = snapshot.metadata.checkpoint_id
    return ForeignFileRow(
        operator=piece.operator.uid or piece.operator.id,
        subtask=piece.stream.subtask,
        name=piece.stream.name,
        bytes=piece.bytes,
        digest="",
        stored_bytes=piece.bytes,
        place=place,
        first_stored_in=first.get(piece.file, number),
        path=piece.place or str(snapshot.file),
    )


def _by_name(snapshot: FlinkSnapshot) -> dict[tuple[str, int, str, str | bytes], ForeignFileRow]:
    found: dict[tuple[str, int, str, str | bytes], ForeignFileRow] = {}
    first = history_of(snapshot).first
    for piece in snapshot.pieces():
        handle = piece.stream.handle
        content = handle.data if isinstance(handle, Inline) else piece.place
        found[piece.operator.id, piece.stream.subtask, piece.stream.name, content] = _file_row(piece, first, snapshot)
    return found


def by_operator(snapshot: FlinkSnapshot) -> Iterator[tuple[Operator, list[Piece]]]:
    """The operators with their pieces, in the order of `_metadata`."""
    by_id: dict[str, list[Piece]] = {operator.id: [] for operator in snapshot.metadata.operators}
    for piece in snapshot.pieces():
        by_id[piece.operator.id].append(piece)
    yield from ((operator, by_id[operator.id]) for operator in snapshot.metadata.operators)


def operator_row(operator: Operator, pieces: list[Piece], keyed: tuple[StateRow, ...] = ()) -> OperatorRow:
    """What one operator takes, and its states; `keyed`: those that are not in `_metadata`."""
    in_flight = [piece for piece in pieces if piece.stream.role == "in-flight"]
    return OperatorRow(
        uid=operator.uid,
        id=operator.id,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=operator.max_parallelism,
        subtasks=len(operator.subtasks),
        full_bytes=_bytes(pieces),
        in_flight_bytes=_bytes(in_flight),
        files=len({piece.file for piece in pieces if piece.file}),
        engine="flink",
        properties={"finished": "true"} if operator.finished else {},
        states=keyed + _states(operator),
    )


def _bytes(pieces: Iterable[Piece]) -> int:
    """What is named twice counts once."""
    sizes = {piece.place or (piece.stream.subtask, piece.stream.name): piece.bytes for piece in pieces}
    return sum(sizes.values())


def _keyed_states(operator: Operator, snapshot: FlinkSnapshot) -> tuple[StateRow, ...]:
    """As the head of one subtask's state tells: all have the same states. Raises: what reading it raises."""
    from eoctl.engines.flink_states import keyed_sources  # noqa: PLC0415  (start-up: not for lists)

    first = next((subtask for subtask in operator.subtasks if subtask.managed_keyed is not None), None)
    if first is None:
        return ()
    sources = keyed_sources(replace(operator, subtasks=(first,)), snapshot.paths.open)
    schemas = [schema for source in sources for schema in source.schemas()]
    return tuple(StateRow(name=schema.name, kind=schema.kind, bytes=None, entries=None) for schema in schemas)


def _states(operator: Operator) -> tuple[StateRow, ...]:
    """The operator states, which `_metadata` names; list and union ones with the number of their elements."""
    entries: dict[tuple[str, str], int] = {}
    for subtask in operator.subtasks:
        for handle in (subtask.managed_operator, subtask.raw_operator):
            for state in () if handle is None else handle.states:
                key = (state.name, _KINDS[state.mode])
                entries[key] = entries.get(key, 0) + len(state.offsets)
    return tuple(
        StateRow(name=name, kind=kind, bytes=None, entries=None if kind == "broadcast" else count)
        for (name, kind), count in entries.items()
    )
