"""`_metadata` changed: handles led elsewhere, operators renamed or left out. Values come in, other values go out.

A restore looks at an operator's id alone; the uid is what people see, so both change together. A sink is two operators,
the writer with the uid that the job gave, and its committer with that uid behind `Sink Committer: `: whoever names the
first means the second too, unless that is named by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec.structs import replace

from formats.flink.handles import (
    ChangeFiles,
    Changelog,
    ChannelHandle,
    Directories,
    EmptySegment,
    Incremental,
    Inline,
    InlineChanges,
    KeyedHandle,
    KeyGroups,
    NamedFile,
    OperatorHandle,
    SavepointKeyGroups,
    Segment,
    StreamHandle,
)
from formats.flink.metadata import Metadata, Operator, Subtask
from formats.ids import HEX32_PATTERN, operator_id
from formats.remap import BadRemapError, Move, OperatorMapping, OperatorName, plan_remap

COMMITTER = "Sink Committer: "

ChangeStream = Callable[[StreamHandle], StreamHandle]
ChangeFolder = Callable[[str], str]

_NOTHING = Inline("empty", b"")
_hex32 = re.compile(HEX32_PATTERN)


def change_streams(metadata: Metadata, change: ChangeStream, change_folder: ChangeFolder | None = None) -> Metadata:
    """Every stream is what `change` makes of it; folders of merged files what `change_folder` makes of them.

    Without that, merged files are to be files of their own: operator state that named their folders names them no
    more, and what is empty is no file.
    """
    changer = _Changer(change, change_folder)
    return replace(metadata, operators=tuple(map(changer.operator, metadata.operators)))


def plan_moves(metadata: Metadata, mapping: OperatorMapping) -> tuple[Move, ...]:
    """What becomes of each operator. Uids that the metadata lacks are known by their ids. Raises: BadRemapError."""
    asked = {name for pair in mapping.remap for name in pair[:1]} | set(mapping.drop)
    guessed = {operator_id(uid): uid for name in asked for uid in (name, f"{COMMITTER}{name}")}
    names = [OperatorName(found.uid or guessed.get(found.id, ""), found.id) for found in metadata.operators]
    twins = {name.uid for name in names if name.uid.startswith(COMMITTER)}
    remap, drop = list(mapping.remap), list(mapping.drop)
    for old, new in mapping.remap:
        twin = COMMITTER + (_uid_of(names, old) or old)
        if twin in twins and not {twin, operator_id(twin)} & asked:
            if _hex32.match(new):
                message = f"the committer of {old!r} has an id of its own, which {new!r} does not tell"
                raise BadRemapError(message, hint=f"--remap '{twin}=UID OR ID' too, or give the new uid")
            remap.append((twin, f"{COMMITTER}{new}"))
    for name in mapping.drop:
        twin = COMMITTER + (_uid_of(names, name) or name)
        if twin in twins and not {twin, operator_id(twin)} & asked:
            drop.append(twin)
    return plan_remap(names, replace(mapping, remap=tuple(remap), drop=tuple(drop)))


def move_operators(metadata: Metadata, moves: tuple[Move, ...]) -> Metadata:
    """The operators under their new names, in the same order, without those that were dropped."""
    kept = []
    for operator, move in zip(metadata.operators, moves, strict=True):
        if move.action == "remapped" and move.new is not None:
            kept.append(replace(operator, id=move.new.id, uid=move.new.uid))
        elif move.action == "kept":
            kept.append(operator)
    return replace(metadata, operators=tuple(kept))


def _uid_of(names: list[OperatorName], name: str) -> str:
    return next((found.uid for found in names if name in {found.uid, found.id}), "")


class _Changer:
    """One way of changing streams, for every kind of handle."""

    def __init__(self, change: ChangeStream, change_folder: ChangeFolder | None) -> None:
        self._change = change
        self._change_folder = change_folder

    def operator(self, operator: Operator) -> Operator:
        return replace(operator, subtasks=tuple(map(self._subtask, operator.subtasks)))

    def _subtask(self, subtask: Subtask) -> Subtask:
        managed, raw = self._operator_handle(subtask.managed_operator), self._operator_handle(subtask.raw_operator)
        return replace(
            subtask,
            managed_operator=managed,
            raw_operator=raw,
            managed_keyed=self._keyed(subtask.managed_keyed),
            raw_keyed=self._keyed(subtask.raw_keyed),
            inputs=tuple(map(self._channel, subtask.inputs)),
            outputs=tuple(map(self._channel, subtask.outputs)),
        )

    def _stream(self, stream: StreamHandle | None) -> StreamHandle | None:
        match stream:
            case None:
                return None
            case KeyGroups():
                return replace(stream, stream=self._stream(stream.stream))
            case EmptySegment():
                return stream if self._change_folder is not None else _NOTHING
        return self._change(stream)

    def _operator_handle(self, handle: OperatorHandle | None) -> OperatorHandle | None:
        if handle is None or handle.directories is None:
            return handle if handle is None else replace(handle, stream=self._stream(handle.stream))
        if self._change_folder is None:
            if isinstance(handle.stream, EmptySegment):
                return None
            return OperatorHandle(handle.states, self._stream(handle.stream))
        told = handle.directories
        directories = Directories(self._change_folder(told.task_owned), self._change_folder(told.shared), told.empty)
        stream = self._stream(handle.stream)
        assert isinstance(stream, Segment | EmptySegment)
        return OperatorHandle(handle.states, stream, directories)

    def _keyed(self, handle: KeyedHandle | None) -> KeyedHandle | None:
        match handle:
            case KeyGroups() | SavepointKeyGroups():
                return replace(handle, stream=self._stream(handle.stream))
            case Incremental():
                return replace(
                    handle,
                    meta=self._stream(handle.meta),
                    shared=tuple(map(self._file, handle.shared)),
                    private=tuple(map(self._file, handle.private)),
                )
            case Changelog():
                return replace(
                    handle,
                    materialized=tuple(map(self._keyed, handle.materialized)),
                    changes=tuple(map(self._keyed, handle.changes)),
                )
            case ChangeFiles():
                sets = tuple(replace(each, stream=self._stream(each.stream)) for each in handle.sets)
                return replace(handle, sets=sets)
            case InlineChanges() | None:
                return handle

    def _file(self, file: NamedFile) -> NamedFile:
        return NamedFile(file.name, self._stream(file.stream))

    def _channel(self, handle: ChannelHandle) -> ChannelHandle:
        return replace(handle, stream=self._stream(handle.stream))
