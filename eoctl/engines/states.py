"""State behind the files of a snapshot, whatever wrote them: a table from the kind of engine to its reader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from formats.manifest import OperatorState, SubtaskState
from formats.state import OperatorStates, StateTable

FolderOf = Callable[[OperatorState, SubtaskState], Path]
Reader = Callable[[OperatorState, FolderOf], tuple[StateTable, ...]]

# kind of engine -> module and function; each is loaded when a snapshot needs it
READERS = {
    "eoctl": ("eoctl.engines.eoctl_states", "eoctl_tables"),
    "rocksdb": ("eoctl.engines.rocksdb_states", "rocksdb_tables"),
}


def is_readable(operator: OperatorState) -> bool:
    """The operator's state can be read row by row; else its files are all there is."""
    return operator.engine.kind in READERS


def open_states(operators: Sequence[OperatorState], folder_of: FolderOf) -> list[OperatorStates]:
    """The operators whose state can be read. Their files lie below the folder of each subtask.

    Raises: CorruptError, UnsupportedError, BadManifestError.
    """
    return [
        OperatorStates(
            uid=operator.uid,
            id=operator.id,
            name=operator.name,
            parallelism=operator.parallelism,
            max_parallelism=operator.max_parallelism,
            tables=_reader(operator.engine.kind)(operator, folder_of),
        )
        for operator in operators
        if is_readable(operator)
    ]


def _reader(kind: str) -> Reader:
    module, name = READERS[kind]
    reader: Reader = getattr(import_module(module), name)
    return reader
