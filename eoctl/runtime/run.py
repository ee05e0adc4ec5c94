"""Running a pipeline: open an attempt, restore, go round until it is over."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from eoctl.runtime.audit import AuditLog
from eoctl.runtime.coordinator import Ref
from eoctl.runtime.deployment import deploy
from eoctl.runtime.executor import Ended, Executor
from eoctl.runtime.pipeline import Pipeline
from eoctl.runtime.recovery import Choice, Loaded, load, settle
from eoctl.runtime.sinks.protocol import CommitPermit
from eoctl.runtime.wire import LocalWire
from eoctl.services import entries
from eoctl.services.writers import writing
from formats.ids import PipelineId
from formats.manifest import Transaction
from storage.store import Store
from storage.transfer import Background

IDLE_SECONDS = 0.002
FRESH = "none"  # restore from no snapshot


class Told(Struct, frozen=True, kw_only=True):
    """What a run has to say at its start. `passed`: damaged checkpoints; `aborted`: leftovers of earlier attempts."""

    attempt: int
    restored: str = ""
    passed: tuple[str, ...] = ()
    aborted: tuple[str, ...] = ()


class Finished(Struct, frozen=True, kw_only=True):
    """What a run did. `seconds`: of processing. `records`: read by its sources, and that each sink was given."""

    attempt: int
    restored: str
    checkpoints: int
    aborted: int
    records: int
    written: Mapping[str, int]
    seconds: float


class Request(Struct, frozen=True, kw_only=True):
    """How to run. `stop`: asked between rounds; a last checkpoint is then taken."""

    choice: Choice = Choice()
    fresh: bool = False
    take_over: bool = False
    directory: Path | None = None
    audit: Path | None = None
    stop: Callable[[], bool] = lambda: False
    on_start: Callable[[Told], None] = lambda _: None
    on_checkpoint: Callable[[Ended], None] = lambda _: None


def run(store: Store, pipeline: Pipeline, request: Request) -> Finished:
    """The pipeline has run to the end of its sources, or until it was stopped; all of its output is visible.

    Raises: UsageError, ConflictError, FencedError, PipelineFailedError, what restoring and sinks raise.
    """
    graph = pipeline.graph()
    ambient = store.ambient
    name = PipelineId(pipeline.name)
    ended: list[Ended] = []

    def on_end(one: Ended) -> None:
        ended.append(one)
        request.on_checkpoint(one)

    with ExitStack() as stack:
        root = _directory(stack, request.directory)
        opened = stack.enter_context(writing(store, name, take_over=request.take_over, note="run"))
        audit = None if request.audit is None else stack.enter_context(AuditLog.opened(request.audit))

        def note(uid: str, permit: CommitPermit, transaction: Transaction) -> None:
            if audit is not None:
                audit.committed(pipeline.name, uid, permit.checkpoint, opened.attempt, transaction)

        loaded = None if request.fresh else load(opened, graph, request.choice, root)
        aborted = settle(opened, graph, loaded, request.choice, note)
        request.on_start(_told(opened.attempt, loaded, aborted))
        subtasks = deploy(opened, graph, pipeline.settings, loaded, root, ambient.elapsed, note)
        background = Background()
        stack.callback(background.close)
        executor = Executor(
            opened,
            graph,
            subtasks,
            pipeline.rules,
            clock=ambient.elapsed,
            wire=LocalWire(),
            background=background,
            properties=lambda: {"guarantee": pipeline.guarantee, **({} if audit is None else audit.properties())},
            on_end=on_end,
        )
        stack.callback(executor.close)
        began = ambient.elapsed()
        stopped = False
        while not executor.finished:
            if not stopped and request.stop():
                stopped = True
                executor.stop()
            if not executor.round():
                (background if executor.busy else ambient).wait(IDLE_SECONDS)
        seconds = ambient.elapsed() - began
    if stopped and not pipeline.options.retain_on_cancellation:
        _discard(store, name)
    return Finished(
        attempt=opened.attempt,
        restored="" if loaded is None else loaded.entry.label,
        checkpoints=sum(not one.reason for one in ended),
        aborted=sum(bool(one.reason) for one in ended),
        records=sum(one.records_in for one in subtasks if one.reading is not None),
        written=_written(executor),
        seconds=seconds,
    )


def _directory(stack: ExitStack, wanted: Path | None) -> Path:
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="eoctl-run-", dir=wanted))
    stack.callback(shutil.rmtree, root, ignore_errors=True)
    return root


def _told(attempt: int, loaded: Loaded | None, aborted: Mapping[Ref, str]) -> Told:
    return Told(
        attempt=attempt,
        restored="" if loaded is None else loaded.entry.label,
        passed=() if loaded is None else loaded.passed,
        aborted=tuple(aborted.values()),
    )


def _written(executor: Executor) -> dict[str, int]:
    written: dict[str, int] = {}
    for subtask in executor.subtasks:
        if subtask.second_phase is not None:
            written[subtask.ref[0]] = written.get(subtask.ref[0], 0) + subtask.records_in
    return written


def _discard(store: Store, name: PipelineId) -> None:
    """A cancelled pipeline that wants no checkpoints kept has them in the trash."""
    labels = frozenset(entry.label for entry in store.head(name).head.live if entry.kind == "checkpoint")
    entries.delete(store, name, labels, dry_run=False)
