"""State behind Flink's `_metadata`: each operator's keyed and operator state as tables of rows.

What handles name is opened by the caller, who knows where it lies and what may be looked at. A state that cannot be
read does not hide the others: it is listed, and refused when it is scanned.
"""

from __future__ import annotations

from collections.abc import Iterator

from formats.flink.changelog import ChangelogSource
from formats.flink.handles import Changelog, EmptySegment, Incremental, KeyedHandle, KeyGroups, SavepointKeyGroups
from formats.flink.keyed import KeyedSource, OpenStream, keyed_source, keyed_tables
from formats.flink.metadata import Metadata, Operator
from formats.flink.operator_state import OperatorSource, operator_tables
from formats.state import OperatorStates


def flink_states(metadata: Metadata, open_file: OpenStream) -> list[OperatorStates]:
    """The operators that have state, in the order of the metadata. Headers are read, rows when they are scanned.

    Raises: CorruptError, UnsupportedError.
    """
    found = (operator_states(operator, open_file) for operator in metadata.operators)
    return [states for states in found if states.tables]


def operator_states(operator: Operator, open_file: OpenStream) -> OperatorStates:
    """The state of one operator."""
    keyed = keyed_tables(keyed_sources(operator, open_file))
    others = operator_tables(list(_operator_sources(operator, open_file)))
    return OperatorStates(
        uid=operator.uid,
        id=operator.id,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=max(operator.max_parallelism, 0),
        tables=(*keyed, *others),
    )


def list_elements(operator: Operator, name: str, open_file: OpenStream) -> Iterator[bytes]:
    """The elements of a list state, of all subtasks. Raises: CorruptError, UnsupportedError."""
    for source in _operator_sources(operator, open_file):
        if name in source.states:
            yield from source.parts(name)


def keyed_sources(operator: Operator, open_file: OpenStream) -> list[KeyedSource]:
    """What the operator's keyed handles hold."""
    found: list[KeyedSource] = []
    logs: list[ChangelogSource] = []
    for subtask in operator.subtasks:
        handle = subtask.managed_keyed
        what = f"{operator.uid or operator.id}, subtask {subtask.index}"
        if handle is None or _is_empty(handle):
            continue
        if isinstance(handle, Changelog):
            logs.append(ChangelogSource(handle, open_file, operator.max_parallelism, what))
        else:
            found.append(keyed_source(handle, open_file, operator.max_parallelism, what))
    hint = next((log.header.key for log in logs if log.header.key is not None), None)
    for log in logs:
        log.key_hint = hint
    return [*found, *logs]


def _is_empty(handle: KeyedHandle) -> bool:
    """There is nothing behind it: no key groups, or a segment without bytes."""
    match handle:
        case KeyGroups() | SavepointKeyGroups():
            return not handle.offsets or handle.stream is None or isinstance(handle.stream, EmptySegment)
        case Incremental() | Changelog():
            return handle.start == handle.stop
    return False


def _operator_sources(operator: Operator, open_file: OpenStream) -> Iterator[OperatorSource]:
    for subtask in operator.subtasks:
        handle = subtask.managed_operator
        if handle is not None and handle.states and not isinstance(handle.stream, EmptySegment):
            yield OperatorSource(
                subtask.index, handle, open_file, f"{operator.uid or operator.id}, subtask {subtask.index}"
            )
