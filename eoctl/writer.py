"""What `PipelineHandle.writer` gives: who commits checkpoints of a pipeline, from scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from eoctl.engines.directory import DirectorySource
from eoctl.engines.source import StateSource
from eoctl.services.checkpoint import Opened, Part, Request, create_checkpoint
from eoctl.services.values import Created
from formats.errors import UsageError
from formats.manifest import SinkState

State = str | Path | StateSource
Offsets = Mapping[str, Mapping[str, int | str]]


class Writer:
    """A pipeline's writer: commits checkpoints under its attempt."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    @property
    def attempt(self) -> int:
        return self._opened.attempt

    def checkpoint(
        self,
        state: State | Mapping[str, State] | Iterable[Part] | None = None,
        *,
        offsets: Offsets | None = None,
        sinks: Iterable[SinkState] = (),
        tags: Iterable[str] = (),
        as_id: int | None = None,
        link: bool = False,
    ) -> Created:
        """A complete checkpoint of `state`: a directory, a source, or one for each `OPERATOR[/SUBTASK]` or `Part`.

        Raises: FencedError when a newer attempt exists; SourceChangedError; CommitUnknownError.
        """
        request = Request(
            parts=_parts(state), offsets=offsets or {}, sinks=tuple(sinks), tags=tuple(tags), as_id=as_id, link=link
        )
        return create_checkpoint(self._opened, request)


def _parts(state: State | Mapping[str, State] | Iterable[Part] | None) -> tuple[Part, ...]:
    if state is None:
        return ()
    if isinstance(state, str | Path | StateSource):
        return (Part(source=_source(state)),)
    if not isinstance(state, Mapping):
        return tuple(state)
    parts = []
    for name, source in state.items():
        operator, slash, index = name.rpartition("/")
        if slash and index.isdecimal():
            parts.append(Part(source=_source(source), operator=operator, subtask=int(index)))
        elif name:
            parts.append(Part(source=_source(source), operator=name))
        else:
            raise UsageError("a state without an operator's name")
    return tuple(parts)


def _source(state: State) -> StateSource:
    return DirectorySource(Path(state)) if isinstance(state, (str, Path)) else state
