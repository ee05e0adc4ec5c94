"""What every source of a checkpoint is: something that can be held still while its files are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from msgspec import Struct

from formats.manifest import Engine, Role, StateInfo
from storage.packing import Layout, SourceFile


class Captured(Struct, frozen=True, kw_only=True):
    """A consistent set of files below `root`, valid until the context that gave it ends.

    `layout`: how large files are kept; None: as their names tell. `fetch` brings files that lie elsewhere to `root`,
    and says how they look there; None: they all are there.
    """

    engine: Engine
    root: Path
    files: tuple[SourceFile, ...]
    empty_directories: tuple[str, ...] = ()
    role: Role = "opaque"
    layout: Layout | None = None
    states: tuple[StateInfo, ...] = ()
    fetch: Callable[[Sequence[SourceFile]], Sequence[SourceFile]] | None = None

    def here(self, files: Sequence[SourceFile]) -> Sequence[SourceFile]:
        """Those files, to be read below `root`."""
        return files if self.fetch is None else self.fetch(files)


@runtime_checkable
class StateSource(Protocol):
    """A directory, a database, a checkpoint of another engine."""

    def capture(self) -> AbstractContextManager[Captured]:
        """The state as of now. Read it inside the context; what was made for it is gone afterwards.

        Raises: UsageError (no such source), BadNameError, SourceChangedError, AccessDeniedError.
        """
