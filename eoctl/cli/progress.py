"""How far a command is: a bar on a terminal, JSON events with `--jsonl`, nothing in a pipe or with `-q`.

A bar appears only when the work takes longer than a moment, so that a short command neither flickers nor
pays for rich.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from eoctl.cli.invocation import Invocation
from eoctl.cli.output import Form, is_terminal, tell, to_json
from eoctl.cli.quantities import human_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_SECONDS = 0.4
_EVENT_SECONDS = 1.0
_REDRAW_SECONDS = 0.1


class SoFar(Protocol):
    """What services count while they work: bytes of content and files so far."""

    @property
    def total_bytes(self) -> int: ...
    @property
    def files(self) -> int: ...


class Meter:
    """A context; call it with what is done so far and how many bytes there are in all."""

    def __init__(self, invocation: Invocation, command: str, verb: str) -> None:
        self._command = command
        self._verb = verb
        self._elapsed = invocation.ambient.elapsed
        self._began = self._shown_at = self._elapsed()
        self._done: tuple[int, int | None] = (-1, None)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._colour = invocation.out.colour_wanted
        self._show: Callable[[int, int | None, int], None] = lambda *_: None
        if invocation.out.form is Form.JSONL:
            self._show = self._event
        elif invocation.out.form is Form.TEXT and not invocation.out.quiet and is_terminal(sys.stderr):
            self._show = self._draw

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: SoFar, total_bytes: int) -> None:
        self._show(done.total_bytes, done.files, total_bytes)

    def bytes_so_far(self, done_bytes: int, total_bytes: int) -> None:
        """The same, for who counts no files."""
        self._show(done_bytes, None, total_bytes)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _event(self, done_bytes: int, files: int | None, total_bytes: int) -> None:
        """The first, the last, and at most one a second between them."""
        now = self._elapsed()
        first, last = self._done == (-1, None), done_bytes >= total_bytes
        if (done_bytes, files) == self._done or not (first or last or now - self._shown_at >= _EVENT_SECONDS):
            return
        self._shown_at, self._done = now, (done_bytes, files)
        event = {
            "schema": "eoctl.progress/1",
            "command": self._command,
            "files": files,
            "done_bytes": done_bytes,
            "total_bytes": total_bytes,
            "seconds": round(now - self._began, 3),
        }
        tell(to_json(event))

    def _draw(self, done_bytes: int, _files: int | None, total_bytes: int) -> None:
        now = self._elapsed()
        if self._bar is None:
            if now - self._began < _PATIENCE_SECONDS:
                return
            self._start(total_bytes)
        elif now - self._shown_at < _REDRAW_SECONDS:
            return
        self._shown_at = now
        assert self._bar is not None
        assert self._task is not None
        rate = human_bytes(int(done_bytes / (now - self._began)))
        self._bar.update(self._task, completed=done_bytes, total=total_bytes, rate=rate)

    def _start(self, total_bytes: int) -> None:
        # A bar is worth its 50 ms of imports once the command has taken longer than that anyway.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True, no_color=not self._colour),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._verb, total=total_bytes, rate="")
