"""Where a snapshot's sources stand and what its sinks have yet to commit, as far as their connectors' bytes are known.

A split or committable of a connector that is not known is told by its version and size: it is there, and that is all.
"""

from __future__ import annotations

from collections.abc import Iterator

from eoctl.engines.flink import FlinkSnapshot
from eoctl.services.values import SinkRow, SourceRow, TransactionRow
from formats.errors import EoctlError
from formats.flink.connectors import (
    Committable,
    FileCommittable,
    KafkaSplit,
    KafkaTransaction,
    NumberSplit,
    Versioned,
    read_committables,
    read_split,
)
from formats.flink.metadata import Operator
from formats.flink.rewrite import COMMITTER

SPLITS, COMMITTABLES = "SourceReaderState", "streaming_committer_raw_states"
_STATES = ("pending", "retried", "failed", "committed")


def connectors_of(snapshot: FlinkSnapshot, notes: list[str]) -> tuple[tuple[SourceRow, ...], tuple[SinkRow, ...]]:
    """Sources and sinks, in the order of `_metadata`. `notes` gets what keeps one from being known."""
    sources, sinks = [], []
    for operator in snapshot.metadata.operators:
        name = operator.uid or operator.id
        try:
            if _has(operator, SPLITS):
                sources.append(SourceRow(uid=name, offsets=dict(_offsets(operator, snapshot))))
            if _has(operator, COMMITTABLES):
                transactions = tuple(_transactions(operator, snapshot))
                sinks.append(SinkRow(uid=name.removeprefix(COMMITTER), transactions=transactions))
        except EoctlError as error:
            notes.append(f"what {name} keeps for its connector is not known: {error.message}")
    return tuple(sources), tuple(sinks)


def _has(operator: Operator, name: str) -> bool:
    handles = (subtask.managed_operator for subtask in operator.subtasks)
    return any(state.name == name for handle in handles if handle is not None for state in handle.states)


def _offsets(operator: Operator, snapshot: FlinkSnapshot) -> Iterator[tuple[str, int | str]]:
    for what, element in _elements(operator, SPLITS, snapshot):
        match read_split(element, what):
            case NumberSplit(split=split, next=position):
                yield split, position
            case KafkaSplit(topic=topic, partition=partition, next=position):
                yield f"{topic}-{partition}", position
            case Versioned() as other:
                yield what.rpartition(", ")[2], _told(other)


def _transactions(operator: Operator, snapshot: FlinkSnapshot) -> Iterator[TransactionRow]:
    for what, element in _elements(operator, COMMITTABLES, snapshot):
        for found in read_committables(element, what):
            state = _STATES[found.state] if found.state in range(len(_STATES)) else str(found.state)
            yield TransactionRow(id=_id(found), state=state, checkpoint=max(found.checkpoint_id, 0))


def _id(found: Committable) -> str:
    match found.content:
        case FileCommittable(pending=pending, cleanup=cleanup):
            return pending.path if pending is not None else ", ".join(f"remove {path}" for path in cleanup)
        case KafkaTransaction(transactional_id=name):
            return name
        case Versioned() as other:
            return _told(other)


def _told(found: Versioned) -> str:
    return f"{len(found.data)} bytes of version {found.version}"


def _elements(operator: Operator, name: str, snapshot: FlinkSnapshot) -> Iterator[tuple[str, bytes]]:
    """The elements of a list state, and what an error calls each."""
    from eoctl.engines.flink_states import list_elements  # noqa: PLC0415  (start-up: not for lists)

    for number, element in enumerate(list_elements(operator, name, snapshot.paths.open)):
        yield f"{operator.uid or operator.id}, {name}, element {number}", element
