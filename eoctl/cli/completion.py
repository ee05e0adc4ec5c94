"""Shell completion: commands and options by the parser, pipelines and snapshots by looking into the store.

A completion never writes, never makes the embedded store, and says nothing when it fails: the user is in the
middle of a word. bash breaks words at `@` and `=`, so what it hands over is put together again first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer._click.shell_completion import CompletionItem, add_completion_class
from typer._completion_classes import BashComplete
from typer.core import TyperGroup

from eoctl.cli.invocation import invocation_of
from formats.errors import EoctlError

_BREAKS = ("@", "=")
_MAX_SNAPSHOTS = 200

Candidates = list[tuple[str, str]]


def answer_shell(root: TyperGroup) -> int:
    """The shell's question, which is in the environment, has been answered on stdout."""
    add_completion_class(_Bash, "bash")
    try:
        root.main(args=[], prog_name="eoctl")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    return 0


class _Bash(BashComplete):
    """typer's, for words that hold `@` or `=`: bash replaces what follows the last of them, and `@` itself too."""

    _before = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        args, piece = super().get_completion_args()
        words = _rejoin([*args, piece])
        self._before = words[-1][: max(words[-1].rfind("@"), words[-1].rfind("=") + 1, 0)]
        return words[:-1], words[-1]

    def format_completion(self, item: CompletionItem) -> str:
        return str(item.value).removeprefix(self._before)


def _rejoin(words: list[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        if joined and (word[:1] in _BREAKS or joined[-1][-1:] in _BREAKS):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def complete_pipelines(ctx: typer.Context, incomplete: str) -> Candidates:
    """Names of pipelines."""
    return _quietly(lambda: [(name, help_) for name, help_ in _pipelines(ctx) if name.startswith(incomplete)])


def complete_snapshots(ctx: typer.Context, incomplete: str) -> Candidates:
    """`PIPELINE@` while there is a choice, then `PIPELINE@ID` and `PIPELINE@latest`; bare ids where `-p` was given."""
    return _quietly(lambda: [found for found in _snapshots(ctx, incomplete) if found[0].startswith(incomplete)])


def _pipelines(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    for pipeline in _open(ctx).pipelines():
        yield pipeline.name, "pipeline"


def _snapshots(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    from eoctl.cli.quantities import human_bytes, minute  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    store = _open(ctx)
    chosen = ctx.params.get("pipeline")
    name, at, _ = incomplete.partition("@")
    known = [pipeline.name for pipeline in store.pipelines() if pipeline.name.startswith(name)]
    names = [chosen] if chosen else [name] if at else known
    if len(names) > 1:
        yield from ((f"{one}@", "pipeline") for one in names)
        return
    for one in names:
        prefix = "" if chosen and not at else f"{one}@"
        live = store.head(PipelineId(one)).head.live
        yield f"{prefix}latest", "the newest complete checkpoint"
        for entry in reversed(live[-_MAX_SNAPSHOTS:]):
            yield f"{prefix}{entry.label}", f"{minute(entry.created_at)}, {human_bytes(entry.full_bytes)}"


def _open(ctx: typer.Context) -> Any:  # noqa: ANN401  (a Store, whose module is imported late)
    from storage.store import open_store  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    return open_store(invocation.place(invocation.choose()), invocation.ambient)


def _quietly(look: Callable[[], Candidates]) -> Candidates:
    try:
        return look()
    except (EoctlError, OSError):
        return []
