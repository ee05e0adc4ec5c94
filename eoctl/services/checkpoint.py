"""Creating a checkpoint: capture every part, store what is new, commit once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import attrgetter

from msgspec import Struct, field
from msgspec.structs import replace

from eoctl.engines.source import Captured, StateSource
from eoctl.services.resolve import row_of
from eoctl.services.values import Created
from formats.errors import ConflictError, UsageError
from formats.head import check_tag
from formats.ids import Attempt, PipelineId, TxId, operator_id
from formats.manifest import (
    Engine,
    Manifest,
    Metrics,
    OperatorState,
    PackRef,
    SinkState,
    SourceOffsets,
    StateFile,
    SubtaskState,
    Whole,
    files_of,
    packs_of,
)
from storage.files import digest_file
from storage.ingest import Ingest, Tally
from storage.packing import ORIGIN
from storage.session import Session
from storage.store import Store

DEFAULT_UID = "main"


class Part(Struct, frozen=True, kw_only=True):
    """One subtask's state. Max parallelism 0: not known. `key_groups` is half-open."""

    source: StateSource
    operator: str = DEFAULT_UID
    subtask: int = 0
    max_parallelism: int = 0
    key_groups: tuple[int, int] | None = None


class Request(Struct, frozen=True, kw_only=True):
    """What one checkpoint shall hold. `as_id`: commit under this id, once, however often it is asked for."""

    parts: tuple[Part, ...]
    offsets: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    sinks: tuple[SinkState, ...] = ()
    tags: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    as_id: int | None = None
    link: bool = False
    reread: bool = False


class Opened(Struct, frozen=True):
    """A writer's attempt at a pipeline. `keep` refreshes the pin that says so."""

    store: Store
    pipeline: PipelineId
    attempt: Attempt
    owner: TxId
    keep: Callable[[], None] = lambda: None


Progress = Callable[[Tally, int], None]  # so far, and how many bytes there are in all


def create_checkpoint(opened: Opened, request: Request, progress: Progress = lambda *_: None) -> Created:
    """The snapshot exists, and every part of it is in the store.

    Raises: UsageError, SourceChangedError, FencedError, ConflictError, and what sources and the store raise.
    """
    _check_parts(request)
    elapsed = opened.store.ambient.elapsed
    began = elapsed()
    opened.keep()
    with ExitStack() as stack:
        captured = [stack.enter_context(part.source.capture()) for part in request.parts]
        captured_at = elapsed()
        session = Session(opened.store, opened.pipeline, opened.attempt, opened.owner)
        existing = _committed_before(session, request, captured)
        if existing is not None:
            return existing
        tallies: list[Tally] = []

        def plan(session: Session) -> Manifest:
            tally = Tally()
            tallies.append(tally)
            total = sum(sum(map(attrgetter("bytes"), capture.files)) for capture in captured)
            ingest = Ingest(
                session=session,
                checkpoint=request.as_id or session.head.head.last_id + 1,
                link=request.link,
                reread=request.reread,
                tally=tally,
                progress=lambda tally: progress(tally, total),
            )
            operators = _operators(request, captured, ingest)
            micros = int((elapsed() - began) * 1e6), int((captured_at - began) * 1e6)
            return _manifest(opened, request, ingest, operators, *micros)

        entry = session.commit(plan)
        return Created(
            snapshot=row_of(session.head.head, entry),
            stored_bytes=sum(tally.stored_bytes for tally in tallies),
            read_bytes=sum(tally.read_bytes for tally in tallies),
            seconds=elapsed() - began,
        )


def _check_parts(request: Request) -> None:
    seen = set()
    for part in request.parts:
        if not part.operator or (part.operator, part.subtask) in seen or part.subtask < 0:
            raise UsageError(f"two sources for one subtask, or a bad one: {part.operator}/{part.subtask}")
        seen.add((part.operator, part.subtask))
    if request.as_id is not None and request.as_id < 1:
        raise UsageError(f"not a checkpoint id: {request.as_id}", hint="ids start at 1")
    for tag in request.tags:
        check_tag(tag)
    if not request.parts and not request.offsets and not request.sinks:
        raise UsageError("nothing to keep: no source, no offsets", hint="eoctl checkpoint create DIR -p PIPELINE")


def _operators(request: Request, captured: list[Captured], ingest: Ingest) -> tuple[OperatorState, ...]:
    """Operators in the order in which they were first named, their subtasks by index."""
    previous = _previous_files(ingest.session)
    by_uid: dict[str, list[tuple[Part, Captured]]] = {}
    for part, capture in zip(request.parts, captured, strict=True):
        by_uid.setdefault(part.operator, []).append((part, capture))
    operators = []
    for uid, members in by_uid.items():
        identity = operator_id(uid)
        subtasks = []
        for part, capture in sorted(members, key=lambda member: member[0].subtask):
            files = ingest.tree(
                capture.root,
                capture.files,
                previous.get((identity, part.subtask), {}),
                capture.role,
                capture.empty_directories,
                capture.layout,
                capture.here,
            )
            subtasks.append(
                SubtaskState(
                    index=part.subtask,
                    files=files,
                    key_groups=part.key_groups,
                    empty_directories=capture.empty_directories,
                )
            )
        first = members[0][1]
        if any(capture.engine.kind != first.engine.kind for _, capture in members):
            raise UsageError(f"the subtasks of {uid} are of different kinds of source", hint="give them one kind each")
        operators.append(
            OperatorState(
                id=identity,
                uid=uid,
                name=uid,
                parallelism=max(subtask.index for subtask in subtasks) + 1,
                max_parallelism=max(part.max_parallelism for part, _ in members),
                engine=first.engine,
                subtasks=tuple(subtasks),
                states=first.states,
            )
        )
    return tuple(operators)


def _previous_files(session: Session) -> dict[tuple[str, int], dict[str, StateFile]]:
    """The base's files by operator, subtask and name, as far as their stamps mean something on this host."""
    base = session.base
    if base is None:
        return {}
    same_host = base.host == session.store.ambient.host
    return {
        (operator.id, subtask.index): {
            file.name: file for file in subtask.files if same_host or file.stamp.startswith(ORIGIN)
        }
        for operator in base.operators
        for subtask in operator.subtasks
    }


def _manifest(
    opened: Opened,
    request: Request,
    ingest: Ingest,
    operators: tuple[OperatorState, ...],
    duration_micros: int,
    snapshot_micros: int,
) -> Manifest:
    session, tally = ingest.session, ingest.tally
    kinds = {operator.engine.kind for operator in operators}
    metrics = Metrics(
        full_bytes=tally.total_bytes,
        added_bytes=tally.added_bytes,
        stored_bytes=tally.stored_bytes,
        duration_micros=duration_micros,
        snapshot_micros=snapshot_micros,
        upload_micros=duration_micros - snapshot_micros,
    )
    return replace(
        checkpoint_manifest(opened, session, ingest.checkpoint, operators, metrics),
        engine=Engine(kind=kinds.pop() if len(kinds) == 1 else "mixed" if kinds else "eoctl"),
        tags=tuple(sorted(set(request.tags))),
        sources=tuple(SourceOffsets(uid=uid, offsets=dict(at)) for uid, at in sorted(request.offsets.items())),
        sinks=request.sinks,
        properties=dict(request.properties),
    )


def checkpoint_manifest(
    opened: Opened, session: Session, checkpoint: int, operators: tuple[OperatorState, ...], metrics: Metrics
) -> Manifest:
    """A checkpoint of this attempt, by this session, of these operators; its packs are those that their files need."""
    files = (file for operator in operators for subtask in operator.subtasks for file in subtask.files)
    packed = (file for file in files if not isinstance(file.place, Whole)) if session.pack_bytes else ()
    packs = {key for file in packed for key in packs_of(file)}
    return Manifest(
        format="eoctl.manifest",
        version=1,
        store=opened.store.record.id,
        pipeline=opened.pipeline.name,
        kind="checkpoint",
        id=checkpoint,
        txid=session.txid,
        created_at=opened.store.ambient.now(),
        attempt=opened.attempt,
        hash=opened.store.hash,
        engine=Engine(kind="eoctl"),
        operators=operators,
        packs=tuple(PackRef(key, session.pack_bytes[key]) for key in sorted(packs)),
        metrics=metrics,
        base=0 if session.base is None else session.base.id,
        host=opened.store.ambient.host,
    )


def _committed_before(session: Session, request: Request, captured: list[Captured]) -> Created | None:
    """The checkpoint of the wanted id, if it exists and holds just this: then a retry is done already.

    Raises: ConflictError if it holds something else.
    """
    head = session.head.head
    entry = next((entry for entry in head.live if entry.kind == "checkpoint" and entry.id == request.as_id), None)
    if entry is None:
        return None
    manifest = session.store.manifest(head, entry)
    offsets = {source.uid: source.offsets for source in manifest.sources}
    same = offsets == {uid: dict(positions) for uid, positions in request.offsets.items()}
    if not same or _contents(manifest) != _captured_contents(session, manifest, request, captured):
        raise ConflictError(
            f"{head.pipeline}@{entry.id} exists, with other content", hint="leave --as-id out, or take a larger id"
        )
    return Created(snapshot=row_of(head, entry), stored_bytes=0, read_bytes=0, seconds=0.0, existed=True)


def _contents(manifest: Manifest) -> dict[tuple[str, int, str], str]:
    return {
        (operator.uid, subtask.index, file.name): file.digest
        for operator, subtask, file in files_of(manifest)
        if subtask is not None
    }


def _captured_contents(
    session: Session, manifest: Manifest, request: Request, captured: list[Captured]
) -> dict[tuple[str, int, str], str]:
    same_host = manifest.host == session.store.ambient.host
    stamps = {
        (operator.uid, subtask.index, file.name, file.bytes, file.stamp): file.digest
        for operator, subtask, file in files_of(manifest)
        if subtask is not None and file.stamp and (same_host or file.stamp.startswith(ORIGIN))
    }
    contents = {}
    for part, capture in zip(request.parts, captured, strict=True):
        unknown = []
        for file in capture.files:
            digest = stamps.get((part.operator, part.subtask, file.name, file.bytes, file.version))
            if digest is None:
                unknown.append(file)
            else:
                contents[part.operator, part.subtask, file.name] = digest
        for file in capture.here(unknown):
            contents[part.operator, part.subtask, file.name] = digest_file(capture.root, file, session.store.hash)
    return contents
