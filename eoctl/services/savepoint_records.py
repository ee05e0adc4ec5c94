"""A savepoint's head and the manifest that a store keeps of it: the same facts, turned into each other.

The tables are files of the operator's subtask 0; files that are carried as they are stay those of their subtask. What
the manifest has no field for is in the properties of its states and its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from formats.errors import UnsupportedError
from formats.manifest import Manifest, OperatorState, Role, StateFile, StateInfo, SubtaskState
from formats.savepoint import (
    COORDINATOR,
    Origin,
    SavepointFile,
    SavepointHead,
    SavepointOperator,
    SavepointSubtask,
    SavepointTable,
)
from formats.state import StateSchema

_SAVEPOINT = "eoctl.savepoint"
_TYPES = ("key", "namespace", "map_key", "value")
_OWN = frozenset({"table", *_TYPES})
_ORIGIN = ("snapshot", "taken_at", "engine", "store")

FileAt = Callable[[str, str, Role], StateFile]  # path in the savepoint, name in its subtask, role


def is_portable(manifest: Manifest) -> bool:
    """The snapshot is a savepoint that was written in the portable format."""
    return manifest.properties.get(_SAVEPOINT) == "1"


def operators_of(head: SavepointHead, file_at: FileAt) -> tuple[OperatorState, ...]:
    """The head's operators as a manifest has them."""
    return tuple(_operator(operator, file_at) for operator in head.operators)


def properties_of(head: SavepointHead) -> dict[str, str]:
    origin = {f"{_SAVEPOINT}.{name}": getattr(head.origin, name) for name in _ORIGIN}
    return {**head.properties, _SAVEPOINT: "1", **{name: text for name, text in origin.items() if text}}


def head_of(manifest: Manifest) -> SavepointHead:
    """The head that the savepoint was made from. Raises: UnsupportedError where it is no portable savepoint."""
    if not is_portable(manifest):
        message = f"{manifest.pipeline}@{manifest.name or manifest.id} is no portable savepoint"
        address = f"{manifest.pipeline}@{manifest.name or manifest.id}"
        raise UnsupportedError(message, hint=f"eoctl savepoint create {address} makes one of it")
    origin = {name: manifest.properties.get(f"{_SAVEPOINT}.{name}", "") for name in _ORIGIN}
    return SavepointHead(
        format="eoctl.savepoint",
        version=1,
        pipeline=manifest.pipeline,
        hash=manifest.hash,
        origin=Origin(**origin),
        operators=tuple(map(_saved_operator, manifest.operators)),
        sources=manifest.sources,
        sinks=manifest.sinks,
        properties={name: text for name, text in manifest.properties.items() if not name.startswith(_SAVEPOINT)},
    )


def paths_of(manifest: Manifest) -> Mapping[str, str]:
    """Where each file of the manifest lies in the savepoint's folder: OPERATOR/SUBTASK/NAME -> path."""
    found = {}
    for operator in manifest.operators:
        tables = _tables(operator)
        for subtask in operator.subtasks:
            for file in subtask.files:
                own = subtask.index == 0 and file.name in tables
                path = f"{operator.id}/{file.name}" if own else f"{operator.id}/{subtask.index}/{file.name}"
                found[f"{operator.id}/{subtask.index}/{file.name}"] = path
        for file in operator.coordinator:
            found[f"{operator.id}/{COORDINATOR}/{file.name}"] = f"{operator.id}/{COORDINATOR}/{file.name}"
    return found


def schema_of(info: StateInfo) -> StateSchema:
    """What a state's bytes mean, as its manifest has it."""
    types = {name: info.properties.get(name, "") for name in _TYPES}
    rest = {name: text for name, text in info.properties.items() if name not in _OWN}
    return StateSchema(name=info.name, kind=info.kind, **types, properties=rest)  # type: ignore[arg-type]  # ours


def _operator(operator: SavepointOperator, file_at: FileAt) -> OperatorState:
    tables = [file_at(table.path, table.path.partition("/")[2], _role(table.schema)) for table in operator.tables]
    subtasks = {
        subtask.index: SubtaskState(
            index=subtask.index,
            files=tuple(_carried(file, f"{operator.id}/{subtask.index}/", file_at) for file in subtask.files),
            key_groups=subtask.key_groups,
            finished=subtask.finished,
            empty_directories=subtask.empty_directories,
        )
        for subtask in operator.subtasks
    }
    if tables:
        first = subtasks.get(0, SubtaskState(index=0, files=()))
        subtasks[0] = SubtaskState(
            index=0,
            files=tuple(sorted([*first.files, *tables], key=lambda file: file.name)),
            key_groups=(0, operator.max_parallelism) if operator.max_parallelism else None,
            finished=first.finished,
            empty_directories=first.empty_directories,
        )
    return OperatorState(
        id=operator.id,
        uid=operator.uid,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=operator.max_parallelism,
        engine=operator.engine,
        subtasks=tuple(subtasks[index] for index in sorted(subtasks)),
        states=tuple(map(_info, operator.tables)),
        coordinator=tuple(_carried(file, f"{operator.id}/{COORDINATOR}/", file_at) for file in operator.coordinator),
    )


def _carried(file: SavepointFile, prefix: str, file_at: FileAt) -> StateFile:
    return file_at(file.path, file.path.removeprefix(prefix), file.role)


def _role(schema: StateSchema) -> Role:
    if schema.kind == "timer":
        return "timer"
    return "keyed" if schema.keyed else "operator"


def _info(table: SavepointTable) -> StateInfo:
    types = {name: text for name in _TYPES if (text := getattr(table.schema, name))}
    properties = {**table.schema.properties, **types, "table": table.path.partition("/")[2]}
    return StateInfo(
        name=table.schema.name, kind=table.schema.kind, bytes=table.bytes, entries=table.rows, properties=properties
    )


def _tables(operator: OperatorState) -> dict[str, StateInfo]:
    return {info.properties["table"]: info for info in operator.states if "table" in info.properties}


def _saved_operator(operator: OperatorState) -> SavepointOperator:
    tables = _tables(operator)
    files = {file.name: file for subtask in operator.subtasks if subtask.index == 0 for file in subtask.files}
    subtasks = []
    for subtask in operator.subtasks:
        own = bool(tables) and subtask.index == 0
        kept = tuple(
            _saved(file, f"{operator.id}/{subtask.index}")
            for file in subtask.files
            if not (own and file.name in tables)
        )
        if kept or subtask.finished or subtask.empty_directories or not tables:
            groups = None if own else subtask.key_groups
            subtasks.append(
                SavepointSubtask(
                    index=subtask.index,
                    files=kept,
                    key_groups=groups,
                    finished=subtask.finished,
                    empty_directories=subtask.empty_directories,
                )
            )
    return SavepointOperator(
        id=operator.id,
        uid=operator.uid,
        name=operator.name,
        parallelism=operator.parallelism,
        max_parallelism=operator.max_parallelism,
        engine=operator.engine,
        tables=tuple(
            SavepointTable(
                path=f"{operator.id}/{name}",
                bytes=files[name].bytes,
                digest=files[name].digest,
                rows=info.entries or 0,
                schema=schema_of(info),
            )
            for name, info in tables.items()
        ),
        subtasks=tuple(subtasks),
        coordinator=tuple(_saved(file, f"{operator.id}/{COORDINATOR}") for file in operator.coordinator),
    )


def _saved(file: StateFile, folder: str) -> SavepointFile:
    return SavepointFile(path=f"{folder}/{file.name}", bytes=file.bytes, digest=file.digest, role=file.role)
