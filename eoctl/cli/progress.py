"""How far a command is: a bar on a terminal, JSON events with `--jsonl`, nothing in a pipe or with `-q`.

A bar appears only when the work takes longer than a moment, so that a short command neither flickers nor
pays for rich.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from eoctl.cli.invocation import Invocation
from eoctl.cli.output import Form, is_terminal, tell, to_json
from eoctl.cli.quantities import human_bytes, human_seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_PATIENCE_SECONDS = 0.4
_EVENT_SECONDS = 1.0
_REDRAW_SECONDS = 0.1
_RATE_SECONDS = 10.0  # the rate is that of the last so many


class SoFar(Protocol):
    """What services count while they work: bytes of content and files so far; and bytes of files under way."""

    @property
    def total_bytes(self) -> int: ...
    @property
    def moving_bytes(self) -> int: ...
    @property
    def files(self) -> int: ...


class Pace:
    """How fast it goes: by what was done when, in the last seconds."""

    def __init__(self, now: float) -> None:
        self._seen = deque([(now, 0)])

    def at(self, now: float, done_bytes: int) -> None:
        if done_bytes < self._seen[-1][1]:  # the next of several things begins
            self._seen = deque([(now, done_bytes)])
        elif now - self._seen[-1][0] >= _REDRAW_SECONDS:
            self._seen.append((now, done_bytes))
            while now - self._seen[1][0] >= _RATE_SECONDS:
                self._seen.popleft()

    @property
    def bytes_per_second(self) -> int:
        seconds = self._seen[-1][0] - self._seen[0][0]
        return int((self._seen[-1][1] - self._seen[0][1]) / seconds) if seconds > 0 else 0

    def left_seconds(self, left_bytes: int) -> float | None:
        """None: nobody can tell."""
        rate = self.bytes_per_second
        return left_bytes / rate if rate else None


class Meter:
    """A context; call it with what is done so far and how many bytes there are in all."""

    def __init__(self, invocation: Invocation, command: str, verb: str) -> None:
        self._command = command
        self._verb = verb
        self._elapsed = invocation.ambient.elapsed
        self._began = self._shown_at = self._elapsed()
        self._pace = Pace(self._began)
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
        self._show(done.total_bytes + done.moving_bytes, done.files, total_bytes)

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
        self._pace.at(now, done_bytes)
        first, last = self._done == (-1, None), done_bytes >= total_bytes
        if (done_bytes, files) == self._done or not (first or last or now - self._shown_at >= _EVENT_SECONDS):
            return
        self._shown_at, self._done = now, (done_bytes, files)
        left = self._pace.left_seconds(total_bytes - done_bytes)
        event = {
            "schema": "eoctl.progress/1",
            "command": self._command,
            "files": files,
            "done_bytes": done_bytes,
            "total_bytes": total_bytes,
            "seconds": round(now - self._began, 3),
            "bytes_per_second": self._pace.bytes_per_second,
            "left_seconds": None if left is None else round(left, 3),
        }
        tell(to_json(event))

    def _draw(self, done_bytes: int, _files: int | None, total_bytes: int) -> None:
        now = self._elapsed()
        self._pace.at(now, done_bytes)
        if self._bar is None:
            if now - self._began < _PATIENCE_SECONDS:
                return
            self._start(total_bytes)
        elif now - self._shown_at < _REDRAW_SECONDS:
            return
        self._shown_at = now
        assert self._bar is not None
        assert self._task is not None
        left = self._pace.left_seconds(total_bytes - done_bytes)
        self._bar.update(
            self._task,
            completed=done_bytes,
            total=total_bytes,
            rate=human_bytes(self._pace.bytes_per_second),
            left="" if left is None else f"{human_seconds(left)} left",
        )

    def _start(self, total_bytes: int) -> None:
        # A bar is worth its 50 ms of imports once the command has taken longer than that anyway.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}/s"),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True, no_color=not self._colour),
            transient=True,
        )
        self._bar.start()
        self._task = self._bar.add_task(self._verb, total=total_bytes, rate="", left="")
