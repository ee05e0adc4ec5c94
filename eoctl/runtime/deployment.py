"""The graph as subtasks with channels between them, and records that were in flight back in their channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from msgspec import Struct

from eoctl.runtime.alignment import Aligner, Mode
from eoctl.runtime.channels import CAPACITY, Channel
from eoctl.runtime.coordinator import Ref
from eoctl.runtime.graph import Edge, Graph, Node, Partition, Working, Writing
from eoctl.runtime.graph import Reading as Reads
from eoctl.runtime.keys import Split
from eoctl.runtime.operators.protocol import Context
from eoctl.runtime.reading import Reading
from eoctl.runtime.records import Batch
from eoctl.runtime.recovery import Loaded, restore_state
from eoctl.runtime.sinks.at_most_once import AtMostOnce
from eoctl.runtime.sinks.protocol import Delivery, SinkContext
from eoctl.runtime.sinks.second_phase import Note, SecondPhase
from eoctl.runtime.state.backend import StateBackend, directory_of
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.subtask import Clock, Output, Subtask
from eoctl.services.checkpoint import Opened
from formats.errors import IncompatibleError, UnsupportedError
from formats.inflight import InFlight

MakeState: TypeAlias = Callable[[Path, Node, str], StateBackend]
_Channels: TypeAlias = dict[tuple[str, int, str, int, int], Channel]


def _heap(directory: Path, node: Node, prefix: str) -> StateBackend:
    return HeapState(directory, node.max_parallelism, prefix)


def _rocksdb(directory: Path, node: Node, prefix: str) -> StateBackend:
    from eoctl.runtime.state.rocksdb import RocksState  # noqa: PLC0415  (an extra)

    return RocksState(directory, node.max_parallelism, prefix) if node.keyed else _heap(directory, node, prefix)


BACKENDS: dict[str, MakeState] = {"heap": _heap, "rocksdb": _rocksdb}


class Settings(Struct, frozen=True, kw_only=True):
    """How a graph runs. `alignment_timeout_seconds`: 0 is unaligned from the first barrier, None never."""

    mode: Mode = Mode.EXACTLY_ONCE
    alignment_timeout_seconds: float | None = None
    batch_size: int = 2048
    channel_capacity: int = CAPACITY
    at_most_once: bool = False
    checkpoint_timeout_seconds: float = 600.0
    make_state: MakeState = _heap


def deploy(
    opened: Opened,
    graph: Graph,
    settings: Settings,
    loaded: Loaded | None,
    root: Path,
    clock: Clock,
    note: Note,
) -> list[Subtask]:
    """The subtasks in the order of the flow, with what was restored.

    Raises: IncompatibleError, CorruptError, what sources, sinks and operators raise.
    """
    channels = _channels(graph, settings.channel_capacity)
    subtasks = [
        _subtask(opened, graph, settings, loaded, root, clock, note, channels, node, index)
        for node in graph.nodes
        for index in range(node.parallelism)
    ]
    if loaded is not None:
        _put_back(graph, loaded, channels)
        for subtask in subtasks:
            subtask.reopen(loaded.watermark(subtask.ref[0]))
    return subtasks


def _channels(graph: Graph, capacity: int) -> _Channels:
    channels: _Channels = {}
    for node in graph.nodes:
        for edge in node.inputs:
            for sender in range(graph.node(edge.upstream).parallelism):
                for target in range(node.parallelism):
                    if edge.partition is not Partition.FORWARD or sender == target:
                        key = edge.upstream, sender, node.uid, edge.gate, target
                        channels[key] = Channel(key[:2], (node.uid, target), edge.gate, capacity)
    return channels


def _subtask(
    opened: Opened,
    graph: Graph,
    settings: Settings,
    loaded: Loaded | None,
    root: Path,
    clock: Clock,
    note: Note,
    channels: _Channels,
    node: Node,
    index: int,
) -> Subtask:
    inputs = [channel for key, channel in channels.items() if key[2] == node.uid and key[4] == index]
    outputs = [_output(channels, node.uid, index, reader, edge) for reader, edge in graph.readers_of(node.uid)]
    prefix = f"a{opened.attempt:06d}-"
    in_place = loaded is not None and node.uid in loaded.in_place
    base = root / loaded.entry.label if in_place and loaded is not None else root / "run"
    directory = directory_of(base, node.id, index)
    state = settings.make_state(directory, node, prefix)
    if loaded is not None:
        restore_state(loaded, node, index, state)
    subtask = Subtask(
        (node.uid, index),
        inputs=inputs,
        outputs=outputs,
        aligner=Aligner(max(1, len(inputs)), settings.mode, settings.alignment_timeout_seconds),
        state=state,
        directory=directory,
        prefix=prefix,
        clock=clock,
        unaligned=settings.alignment_timeout_seconds == 0 and settings.mode is Mode.EXACTLY_ONCE,
    )
    match node.work:
        case Reads():
            subtask.reading = _reading(node.work, node, index, settings, loaded)
        case Working(make):
            subtask.operator = make()
        case Writing(sink):
            context = SinkContext(
                pipeline=opened.pipeline.name,
                uid=node.uid,
                attempt=opened.attempt,
                subtask=index,
                parallelism=node.parallelism,
                held=() if loaded is None else loaded.transactions(node.uid),
                store=opened.store.record.id,
                checkpoint_seconds=settings.checkpoint_timeout_seconds,
            )
            writer, committer = sink.writer(context), sink.committer(context)
            if settings.at_most_once and sink.delivery is Delivery.NEITHER:
                writer = committer = AtMostOnce(writer, context)
            subtask.second_phase = SecondPhase(node.uid, writer, committer, note)
            subtask.operator = subtask.second_phase
    if subtask.operator is not None:
        subtask.operator.open(
            Context(
                uid=node.uid,
                subtask=index,
                parallelism=node.parallelism,
                max_parallelism=node.max_parallelism,
                state=state,
                key_type=node.key_type,
            )
        )
    unclaimed = state.unclaimed()
    if unclaimed:
        raise IncompatibleError(
            f"{node.uid} does not declare states that it was saved with: {', '.join(unclaimed)}",
            hint="declare them again, or give the operator a new uid",
            non_restored=list(unclaimed),
        )
    return subtask


def _reading(work: Reads, node: Node, index: int, settings: Settings, loaded: Loaded | None) -> Reading:
    splits = work.source.splits()
    mine = splits[index :: node.parallelism]
    positions = {} if loaded is None else loaded.positions(node.uid)
    reader = work.source.reader(mine, {split: positions[split] for split in mine if split in positions})
    return Reading(reader, mine, work.time, work.max_delay_ms, settings.batch_size)


def _output(channels: _Channels, uid: str, index: int, reader: Node, edge: Edge) -> Output:
    mine = [
        channel
        for key, channel in channels.items()
        if key[:2] == (uid, index) and key[2] == reader.uid and key[3] == edge.gate
    ]
    split = Split(reader.parallelism, reader.max_parallelism) if edge.partition is Partition.KEYED else None
    return Output(mine, edge.partition, split, edge.key)


def _put_back(graph: Graph, loaded: Loaded, channels: _Channels) -> None:
    """Of one channel, what its receiver had captured comes before what its sender had."""
    for entry in sorted(loaded.in_flight, key=lambda one: one.side):
        node = graph.node(entry.uid)
        edge = next((edge for edge in node.inputs if edge.upstream == entry.upstream and edge.gate == entry.gate), None)
        if edge is None:
            raise IncompatibleError(
                f"records are in flight from {entry.upstream} to {entry.uid}, and there is no such edge any more",
                hint="restore into the pipeline that the checkpoint was taken of, and stop it with a last checkpoint",
            )
        senders = graph.node(entry.upstream).parallelism
        old = loaded.states[entry.uid].parallelism, loaded.states[entry.upstream].parallelism
        for target, batch in _dealt(entry, node, edge, rescaled=old != (node.parallelism, senders)):
            sender = target if edge.partition is Partition.FORWARD else entry.upstream_subtask % senders
            channels[entry.upstream, sender, entry.uid, entry.gate, target].put(batch)


def _dealt(entry: InFlight, node: Node, edge: Edge, *, rescaled: bool) -> list[tuple[int, Batch]]:
    """The records by the subtask that they belong to now: their key's, or else the old one's successor."""
    batch = Batch(entry.values, entry.timestamps, entry.keys)
    if not rescaled:
        return [(entry.subtask, batch)]
    if edge.partition is Partition.BROADCAST:
        raise UnsupportedError(
            f"records are in flight on the broadcast edge to {node.uid}, whose parallelism changed",
            hint="rescale from an aligned checkpoint",
        )
    if batch.keys is not None:
        return Split(node.parallelism, node.max_parallelism).batches(batch)
    return [(entry.subtask % node.parallelism, batch)]


def refs_of(graph: Graph) -> frozenset[Ref]:
    """Every subtask."""
    return frozenset((node.uid, index) for node in graph.nodes for index in range(node.parallelism))
