"""From a snapshot to subtasks: state for each, at any parallelism; records in flight; positions; transactions.

Rules kept here: the attempt was raised before, so nobody else commits meanwhile. A checkpoint that is damaged is passed
over for the next older one, and what that means is told. Transactions that the snapshot holds are committed, those of
earlier attempts that it does not hold are aborted; where output of later checkpoints is visible already and would come
a second time, it goes no further.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from eoctl.runtime.coordinator import Ref
from eoctl.runtime.graph import Graph, Node, Writing
from eoctl.runtime.publishing import WATERMARK
from eoctl.runtime.sinks.protocol import CommitPermit, Delivery, SinkContext
from eoctl.runtime.sinks.second_phase import Note
from eoctl.runtime.state.backend import OldState, StateBackend, directory_of
from eoctl.runtime.state.flinks import is_clock_timers
from eoctl.services.checkpoint import Opened
from eoctl.services.resolve import Resolved, resolve
from formats.errors import ConflictError, CorruptError, IncompatibleError, SnapshotNotFoundError
from formats.head import HeadEntry
from formats.inflight import InFlight, read_inflight
from formats.keygroups import KeyGroupRange, range_of
from formats.manifest import Manifest, OperatorState, Transaction
from storage.blobs import Blobs
from storage.edits import fenced
from storage.extract import Extraction

SORTED_TABLES = "eoctl"  # the engine of savepoints and of the heap backend


class Choice(Struct, frozen=True, kw_only=True):
    """Which snapshot, and what is allowed. `remap`: uid in the snapshot -> uid in the graph."""

    snapshot: str = "latest"
    remap: Mapping[str, str] = {}
    allow_non_restored: bool = False
    allow_repeated_output: bool = False


class Loaded(Struct, frozen=True, kw_only=True):
    """A snapshot on local disk. `passed`: newer ones that could not be read, with the reason."""

    entry: HeadEntry
    manifest: Manifest
    states: Mapping[str, OperatorState]  # by uid in the graph
    folders: Mapping[str, Path]  # of an operator's files, by uid in the graph
    in_place: frozenset[str]  # uids whose subtasks have their files where they will go on writing
    in_flight: tuple[InFlight, ...]
    passed: tuple[str, ...] = ()

    def watermark(self, uid: str) -> int | None:
        old = next((state.uid for new, state in self.states.items() if new == uid), uid)
        text = self.manifest.properties.get(WATERMARK + old)
        return None if text is None else int(text)

    def positions(self, uid: str) -> dict[str, int | str]:
        return next((dict(source.offsets) for source in self.manifest.sources if source.uid == uid), {})

    def transactions(self, uid: str) -> tuple[Transaction, ...]:
        return next((sink.transactions for sink in self.manifest.sinks if sink.uid == uid), ())


def load(opened: Opened, graph: Graph, choice: Choice, root: Path) -> Loaded | None:
    """The snapshot's files are below `root`; None where `latest` was asked for and there is none.

    Raises: SnapshotNotFoundError, CorruptError where nothing older is whole, IncompatibleError.
    """
    try:
        resolved = resolve(opened.store, choice.snapshot, opened.pipeline.name)
    except SnapshotNotFoundError:
        if choice.snapshot == "latest":
            return None
        raise
    passed: list[str] = []
    while True:
        try:
            return _load(opened, resolved, graph, choice, root / resolved.entry.label, tuple(passed))
        except CorruptError as error:
            passed.append(f"{resolved.address}: {error.message}")
            older = _older(resolved)
            if older is None:
                message = f"no checkpoint of {opened.pipeline} can be restored: {'; '.join(passed)}"
                raise CorruptError(message, hint=f"eoctl store repair -p {opened.pipeline} --from DIR") from error
            resolved = older


def _older(resolved: Resolved) -> Resolved | None:
    for entry in reversed(resolved.head.live):
        if entry.kind == "checkpoint" and entry.seq < resolved.entry.seq:
            return Resolved(resolved.pipeline, resolved.committed, entry)
    return None


def _load(
    opened: Opened, resolved: Resolved, graph: Graph, choice: Choice, root: Path, passed: tuple[str, ...]
) -> Loaded:
    manifest = opened.store.manifest(resolved.head, resolved.entry)
    states = _matched(manifest, graph, choice)
    extraction = Extraction(blobs=Blobs(opened.store.backend, opened.pipeline, opened.store.hash), link=False)
    folders: dict[str, Path] = {}
    in_place: set[str] = set()
    in_flight: list[InFlight] = []
    back = {state.uid: uid for uid, state in states.items()}
    for uid, state in states.items():
        node = graph.node(uid)
        if state.max_parallelism != node.max_parallelism and any(one.files for one in state.subtasks):
            raise IncompatibleError(
                f"{uid} was saved with max parallelism {state.max_parallelism}, and now has {node.max_parallelism}",
                hint=f"max_parallelism={state.max_parallelism}: it can never be changed",
            )
        if state.uid == uid and _dealt_alike(state, node):
            in_place.add(uid)
        for subtask in state.subtasks:
            folder = directory_of(root, node.id, subtask.index)
            folder.mkdir(parents=True, exist_ok=True)
            extraction.tree(folder, subtask.files, ())
            for file in subtask.files:
                if file.role == "in-flight":
                    in_flight += read_inflight((folder / file.name).read_bytes())
        folders[uid] = root / node.id
    renamed = tuple(_renamed(one, back) for one in in_flight)
    return Loaded(
        entry=resolved.entry,
        manifest=manifest,
        states=states,
        folders=folders,
        in_place=frozenset(in_place),
        in_flight=renamed,
        passed=passed,
    )


def _dealt_alike(state: OperatorState, node: Node) -> bool:
    """Each subtask has the files that it shall have: not so in a savepoint, whose first one has everybody's."""
    if state.parallelism != node.parallelism or len(state.subtasks) != node.parallelism:
        return False
    own = [range_of(one.index, node.parallelism, node.max_parallelism) for one in state.subtasks]
    return all(
        one.key_groups in {None, (groups.start, groups.stop)} for one, groups in zip(state.subtasks, own, strict=True)
    )


def _renamed(one: InFlight, back: Mapping[str, str]) -> InFlight:
    return InFlight(
        one.side,
        back.get(one.upstream, one.upstream),
        one.upstream_subtask,
        back.get(one.uid, one.uid),
        one.gate,
        one.subtask,
        one.values,
        one.timestamps,
        one.keys,
    )


def _matched(manifest: Manifest, graph: Graph, choice: Choice) -> dict[str, OperatorState]:
    """The snapshot's operators by the uid that they have now. Raises: IncompatibleError."""
    known = {node.uid for node in graph.nodes}
    found: dict[str, OperatorState] = {}
    lost: list[str] = []
    for state in manifest.operators:
        uid = choice.remap.get(state.uid, state.uid)
        if uid in known and uid not in found:
            found[uid] = state
            if any(is_clock_timers(info.name) and info.entries for info in state.states):
                lost.append(f"{uid} (its timers by the clock)")
        elif any(subtask.files for subtask in state.subtasks):
            lost.append(state.uid or state.id)
    transactions = {sink.uid for sink in manifest.sinks if sink.transactions}
    lost += sorted(transactions - known - set(lost))
    if lost and not choice.allow_non_restored:
        raise IncompatibleError(
            f"no operator of the pipeline takes the state of {', '.join(lost)}",
            hint="give it its old uid, remap={'OLD': 'NEW'}, or allow_non_restored=True to leave it behind",
            non_restored=lost,
        )
    return found


def restore_state(loaded: Loaded, node: Node, subtask: int, backend: StateBackend) -> None:
    """The backend holds what the snapshot has for this subtask."""
    state = loaded.states.get(node.uid)
    if state is None:
        return
    key_groups = range_of(subtask, node.parallelism, node.max_parallelism) if node.keyed else None
    in_place = node.uid in loaded.in_place
    old = [
        OldState(loaded.folders[node.uid] / str(one.index), one.files, in_place)
        for one in state.subtasks
        if (one.index == subtask if in_place else _concerns(key_groups, one.key_groups))
    ]
    _check_engine(backend, state)
    backend.load(old, key_groups)


def _concerns(ours: KeyGroupRange | None, theirs: tuple[int, int] | None) -> bool:
    return ours is None or theirs is None or (ours.start < theirs[1] and theirs[0] < ours.stop)


def _check_engine(backend: StateBackend, state: OperatorState) -> None:
    kinds = {backend.engine.kind, SORTED_TABLES}  # which every backend reads
    if any(one.files for one in state.subtasks) and state.engine.kind not in kinds:
        raise IncompatibleError(
            f"the state of {state.uid} is of {state.engine.kind}, and is to be restored into {backend.engine.kind}",
            hint="choose the state backend that it was saved with, or go on from a savepoint of it",
        )


def settle(opened: Opened, graph: Graph, loaded: Loaded | None, choice: Choice, note: Note) -> dict[Ref, str]:
    """Every sink shows what the snapshot holds and nothing that it does not; what was aborted, by sink and place.

    Raises: ConflictError where later output is visible and would come again; what committing raises.
    """
    sinks = []
    for node in graph.nodes:
        if isinstance(node.work, Writing):
            context = SinkContext(
                pipeline=opened.pipeline.name, uid=node.uid, attempt=opened.attempt, store=opened.store.record.id
            )
            committer = node.work.sink.committer(context)
            if committer is not None:
                sinks.append((node, committer))
    aborted: dict[Ref, str] = {}
    try:
        if loaded is not None and not choice.allow_repeated_output:
            _check_visible([(node, committer.visible_after(loaded.entry.id)) for node, committer in sinks], loaded)
        for node, committer in sinks:
            held = () if loaded is None else loaded.transactions(node.uid)
            if loaded is not None:
                permit = CommitPermit(loaded.entry, opened.attempt)
                for transaction in held:
                    committer.commit(permit, transaction)
                    note(node.uid, permit, transaction)
            check_newest(opened)
            for number, name in enumerate(committer.abort_others(frozenset(one.id for one in held))):
                aborted[node.uid, number] = name
    finally:
        for _, committer in sinks:
            committer.close()
    return aborted


def check_newest(opened: Opened) -> None:
    """Nobody has fenced us off so far. Raises: FencedError."""
    head = opened.store.head(opened.pipeline).head
    if (head.writer.attempt, head.writer.owner) != (opened.attempt, opened.owner):
        raise fenced(head, opened.attempt)


def _check_visible(found: list[tuple[Node, tuple[str, ...]]], loaded: Loaded) -> None:
    shown = [
        name
        for node, names in found
        for name in names
        if isinstance(node.work, Writing) and node.work.sink.delivery is Delivery.TRANSACTIONAL
    ]
    if shown:
        raise ConflictError(
            f"output of checkpoints after {loaded.entry.id} is visible and would come again: {', '.join(shown[:5])}"
            + (f" and {len(shown) - 5} more" if len(shown) > 5 else ""),
            hint="take it back by hand, restore a newer checkpoint, or allow_repeated_output=True",
            visible=shown,
        )
