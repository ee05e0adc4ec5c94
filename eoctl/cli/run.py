"""`eoctl run`: a pipeline from a Python file, on the embedded runtime."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_snapshots
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import human_seconds, plural

if TYPE_CHECKING:
    from eoctl.runtime.executor import Ended
    from eoctl.runtime.pipeline import Pipeline
    from eoctl.runtime.run import Finished, Told

app = typer.Typer()
_NAME = "pipeline"


@app.command("run")
def run(
    ctx: typer.Context,
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE.py[:NAME]", help="A Python file, and the name of the Pipeline in it.")
    ],
    from_: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SNAP",
            help="latest, none, or a snapshot: PIPELINE@42, PIPELINE@NAME.",
            autocompletion=complete_snapshots,
        ),
    ] = "latest",
    remap: Annotated[
        list[str] | None, typer.Option("--remap", metavar="OLD=NEW", help="Give the state of uid OLD to NEW.")
    ] = None,
    allow_non_restored_state: Annotated[
        bool, typer.Option("--allow-non-restored-state", help="Leave state behind that no operator takes.")
    ] = False,
    allow_repeated_output: Annotated[
        bool,
        typer.Option("--allow-repeated-output", help="Go on though output is visible that will come a second time."),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Fence off the attempt that seems to be live; it cannot commit again."),
    ] = False,
    audit: Annotated[
        str | None, typer.Option("--audit", metavar="FILE", help="Append every commit of a sink to this log.")
    ] = None,
) -> None:
    """Run a pipeline, from its newest checkpoint on.

    FILE.py is executed; the object of that name in it (by default `pipeline`) runs until its sources end. Interrupted
    (Ctrl-C, SIGTERM) it takes a last checkpoint and stops; a second time it stops at once, and the next run goes on
    from the newest checkpoint. State, positions and output are exactly once where the pipeline promises it.

    Example:
        eoctl run usage.py
        eoctl run usage.py:nightly --from usage@42 --take-over
    """
    from eoctl.runtime.recovery import Choice  # noqa: PLC0415  (start-up)
    from eoctl.runtime.run import FRESH, Request  # noqa: PLC0415  (start-up)
    from eoctl.runtime.run import run as run_pipeline  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    out = invocation.out
    pipeline = _pipeline_in(file)
    stopping = _Stop()
    choice = Choice(
        snapshot=_snapshot(from_, pipeline.name),
        remap=_pairs(remap or []),
        allow_non_restored=allow_non_restored_state,
        allow_repeated_output=allow_repeated_output,
    )
    request = Request(
        choice=choice,
        fresh=from_ == FRESH,
        take_over=take_over,
        audit=None if audit is None else Path(audit).expanduser(),
        stop=stopping.wanted,
        on_start=lambda told: _started(out, told),
        on_checkpoint=lambda ended: _ended(out, ended),
    )
    store = invocation.open_store()
    with stopping:
        finished = run_pipeline(store, pipeline, request)
    answer = {"pipeline": pipeline.name, **fields_of(finished)}
    out.answer("run", answer, lambda: _lines(pipeline.name, finished), brief=lambda: ())


class _Stop:
    """Signals that ask for an end: the first is noted, the second is an interrupt."""

    def __init__(self) -> None:
        self._asked = False
        self._before: list[tuple[int, object]] = []

    def wanted(self) -> bool:
        return self._asked

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before.append((number, signal.signal(number, self._note)))

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)  # type: ignore[arg-type]  # as it was given

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


def _pipeline_in(file: str) -> Pipeline:
    """The pipeline that the file makes. Raises: UsageError; what the file raises."""
    import runpy  # noqa: PLC0415  (start-up)

    from eoctl.runtime.pipeline import Pipeline as Kind  # noqa: PLC0415  (start-up)
    from formats.errors import UsageError  # noqa: PLC0415  (start-up)

    path, _, name = file.rpartition(":") if ".py:" in file else (file, "", _NAME)
    if not Path(path).is_file():
        raise UsageError(f"no such file: {path}", hint="name a Python file that makes a Pipeline")
    made = runpy.run_path(path, run_name="__eoctl__")
    found = made.get(name)
    if not isinstance(found, Kind):
        known = ", ".join(sorted(key for key, value in made.items() if isinstance(value, Kind))) or "none"
        raise UsageError(f"{path} has no Pipeline called {name!r}", hint=f"it has: {known}; say which: {path}:NAME")
    return found


def _snapshot(text: str, pipeline: str) -> str:
    from eoctl.runtime.run import FRESH  # noqa: PLC0415  (start-up)
    from formats.errors import UsageError  # noqa: PLC0415  (start-up)

    before, at, after = text.rpartition("@")
    if at and before != pipeline:
        raise UsageError(f"{text} is no snapshot of {pipeline}", hint=f"{pipeline}@{after or 'latest'}")
    return "latest" if text == FRESH else after


def _pairs(remap: list[str]) -> dict[str, str]:
    from formats.errors import UsageError  # noqa: PLC0415  (start-up)

    pairs = {}
    for text in remap:
        old, equals, new = text.partition("=")
        if not (old and equals and new) or old in pairs:
            raise UsageError(f"not a remap: {text!r}", hint="--remap OLD=NEW, each OLD once")
        pairs[old] = new
    return pairs


def _started(out: Output, told: Told) -> None:
    if told.passed:
        for reason in told.passed:
            out.notice(f"passed over, it is damaged: {reason}", "warning")
    out.notice(f"attempt {told.attempt}, " + (f"restored from {told.restored}" if told.restored else "from the start"))
    if told.aborted:
        out.notice(f"aborted what earlier attempts left: {', '.join(told.aborted)}")


def _ended(out: Output, ended: Ended) -> None:
    if ended.reason:
        out.notice(f"checkpoint {ended.checkpoint} aborted: {ended.reason}", "warning")


def _lines(name: str, finished: Finished) -> Iterator[str]:
    yield (
        f"{name}: {plural(finished.records, 'record')} in {human_seconds(finished.seconds)}, "
        f"{plural(finished.checkpoints, 'checkpoint')}, attempt {finished.attempt}"
    )
    for sink, count in finished.written.items():
        yield f"  {sink}: {plural(count, 'record')}"
