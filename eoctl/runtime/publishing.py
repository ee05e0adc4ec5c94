"""One checkpoint of the runtime becomes one manifest: every subtask's files, all positions, all sinks' transactions.

Files are uploaded before it is asked whether the checkpoint is still wanted; after that only the swap of HEAD is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from eoctl.engines.directory import source_file
from eoctl.runtime.coordinator import Ref
from eoctl.runtime.graph import Graph, Node
from eoctl.runtime.snapshot import SubtaskFiles
from eoctl.services.checkpoint import Opened, checkpoint_manifest
from formats.errors import ConflictError, CorruptError
from formats.head import HeadEntry
from formats.keygroups import range_of
from formats.manifest import (
    Engine,
    Manifest,
    Metrics,
    OperatorState,
    Role,
    SinkState,
    SourceOffsets,
    StateFile,
    SubtaskState,
)
from storage.ingest import Ingest, Tally
from storage.packing import Layout, SourceFile
from storage.session import Session

ENGINE = Engine(kind="eoctl")
WATERMARK = "watermark:"  # + uid, in the manifest's properties: the least of its subtasks


class NotWantedError(ConflictError):
    """The checkpoint was aborted before its commit."""

    kind = "not-wanted"


class Publication(Struct, frozen=True, kw_only=True):
    """What a checkpoint consists of, and what it took so far."""

    checkpoint: int
    graph: Graph
    parts: Mapping[Ref, SubtaskFiles]
    seconds: float  # since it was triggered
    timeout_seconds: float
    properties: Mapping[str, str]
    tags: tuple[str, ...] = ()


def publish(opened: Opened, publication: Publication, wanted: Callable[[], bool]) -> HeadEntry:
    """HEAD names the checkpoint. `wanted` is asked last; whoever answers yes can take nothing back.

    Raises: NotWantedError, FencedError, CommitUnknownError, what storing raises.
    """
    opened.keep()
    elapsed = opened.store.ambient.elapsed
    began = elapsed()
    session = _session(opened)
    asked = False

    def plan(session: Session) -> Manifest:
        nonlocal asked
        ingest = Ingest(session=session, checkpoint=publication.checkpoint, link=True, tally=Tally())
        operators = tuple(_operator(node, publication.parts, ingest) for node in publication.graph.nodes)
        upload_seconds = elapsed() - began
        if not asked and not wanted():
            message = f"checkpoint {publication.checkpoint} was aborted before its commit"
            raise NotWantedError(message)
        asked = True
        return _manifest(opened, session, publication, ingest.tally, operators, upload_seconds)

    return session.commit(plan)


def _session(opened: Opened) -> Session:
    """Where the newest checkpoint was passed over for its manifest, nothing is shared with it."""
    try:
        return Session(opened.store, opened.pipeline, opened.attempt, opened.owner)
    except CorruptError:
        return Session(opened.store, opened.pipeline, opened.attempt, opened.owner, based=False)


def _operator(node: Node, parts: Mapping[Ref, SubtaskFiles], ingest: Ingest) -> OperatorState:
    mine = [parts[node.uid, subtask] for subtask in range(node.parallelism)]
    previous = _previous(ingest.session, node.id)
    subtasks = []
    for subtask, part in enumerate(mine):
        key_groups = range_of(subtask, node.parallelism, node.max_parallelism) if node.keyed else None
        subtasks.append(
            SubtaskState(
                index=subtask,
                files=_files(part, previous.get(subtask, {}), ingest),
                key_groups=None if key_groups is None else (key_groups.start, key_groups.stop),
            )
        )
    return OperatorState(
        id=node.id,
        uid=node.uid,
        name=node.uid,
        parallelism=node.parallelism,
        max_parallelism=node.max_parallelism,
        engine=mine[0].engine,
        subtasks=tuple(subtasks),
        states=mine[0].states,
    )


def _previous(session: Session, operator: str) -> dict[int, dict[str, StateFile]]:
    base = session.base
    if base is None or base.host != session.store.ambient.host:
        return {}
    found = next((state for state in base.operators if state.id == operator), None)
    return {} if found is None else {one.index: {file.name: file for file in one.files} for one in found.subtasks}


def _files(part: SubtaskFiles, previous: Mapping[str, StateFile], ingest: Ingest) -> tuple[StateFile, ...]:
    roles: dict[Role, list[str]] = {"keyed": [], "timer": [], "in-flight": [part.in_flight] if part.in_flight else []}
    for table in part.tables:
        roles["timer" if table.timer else "keyed"].append(table.name)
    found: list[StateFile] = []
    for role, names in roles.items():
        if names:
            files = [_settled(part.directory, name) for name in sorted(names)]
            found += ingest.tree(part.directory, files, previous, role, layout=Layout.WHOLE)
    return tuple(sorted(found, key=attrgetter("name")))


def _settled(directory: Path, name: str) -> SourceFile:
    # Nobody writes into a table again, and no name is used twice: however young, it is what it was.
    return source_file(name, (directory / name).stat(), 1 << 62)


def _manifest(
    opened: Opened,
    session: Session,
    publication: Publication,
    tally: Tally,
    operators: tuple[OperatorState, ...],
    upload_seconds: float,
) -> Manifest:
    parts = publication.parts.values()
    metrics = Metrics(
        full_bytes=tally.total_bytes,
        added_bytes=tally.added_bytes,
        stored_bytes=tally.stored_bytes,
        in_flight_bytes=sum(part.in_flight_bytes for part in parts),
        duration_micros=_micros(publication.seconds + upload_seconds),
        alignment_micros=_micros(max(part.alignment_seconds for part in parts)),
        snapshot_micros=_micros(max(part.snapshot_seconds for part in parts)),
        upload_micros=_micros(upload_seconds),
        timeout_micros=_micros(publication.timeout_seconds),
    )
    return replace(
        checkpoint_manifest(opened, session, publication.checkpoint, operators, metrics),
        tags=publication.tags,
        sources=_sources(publication),
        sinks=_sinks(publication),
        properties={**publication.properties, **_watermarks(publication)},
    )


def _micros(seconds: float) -> int:
    return max(0, int(seconds * 1e6))


def _sources(publication: Publication) -> tuple[SourceOffsets, ...]:
    found = []
    for node, mine in _by_node(publication):
        offsets = [part.offsets for part in mine if part.offsets is not None]
        if offsets:
            merged = {split: position for one in offsets for split, position in one.items()}
            found.append(SourceOffsets(uid=node.uid, offsets=dict(sorted(merged.items()))))
    return tuple(found)


def _sinks(publication: Publication) -> tuple[SinkState, ...]:
    found = []
    for node, mine in _by_node(publication):
        if any(part.transactions is not None for part in mine):
            transactions = tuple(one for part in mine for one in part.transactions or ())
            found.append(SinkState(uid=node.uid, transactions=transactions))
    return tuple(found)


def _watermarks(publication: Publication) -> dict[str, str]:
    """Of each operator the time that all its subtasks had reached."""
    found = {}
    for node, mine in _by_node(publication):
        marks = [part.watermark for part in mine]
        if all(mark is not None for mark in marks):
            found[WATERMARK + node.uid] = str(min(mark for mark in marks if mark is not None))
    return found


def _by_node(publication: Publication) -> Iterable[tuple[Node, list[SubtaskFiles]]]:
    for node in publication.graph.nodes:
        yield node, [publication.parts[node.uid, subtask] for subtask in range(node.parallelism)]
