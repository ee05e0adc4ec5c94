"""`eoctl store repair`: damaged contents from intact copies, and a lost HEAD from what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli import exit_codes
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import GREEN, RED, YELLOW, Output, fields_of
from eoctl.cli.parameters import Pipeline
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import human_bytes, plural, second
from eoctl.cli.table import Column
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.services.repair_values import HeadRebuild, PipelineRepair, RepairItem, StoreRepair

app = typer.Typer()
_NAME_LEAST, _REASON_LEAST, _SNAPSHOTS_LEAST = 12, 12, 12
_STYLES = {"repaired": GREEN, "repairable": YELLOW, "damaged": RED}


@app.command("repair")
def repair(
    ctx: typer.Context,
    *,
    pipeline: Pipeline = None,
    folders: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="DIR", help="Where intact files or copies of the store may lie; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what could be repaired, and do nothing.")] = False,
    rebuild_head: Annotated[
        bool, typer.Option("--rebuild-head", help="Propose a new HEAD for a pipeline that has lost its own.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --rebuild-head: make it.")] = False,
) -> None:
    """Repair damage from intact copies of the same bytes.

    Reads every byte of a pipeline, or of all. For what is damaged, files of the same digest are looked for below each
    --from (restored files, the live state, a copy of the store) and in the store itself; they are stored anew, and the
    snapshots concerned name them instead. Nothing is overwritten. Exit 3: something stays damaged.

    --rebuild-head shows which snapshots of a lost HEAD could be had again, and writes nothing without --yes. Exit 3:
    some could not.

    Example:
        eoctl store repair -p orders --from /mnt/backup/eoctl --from /var/lib/app/state
        eoctl store repair -p orders --rebuild-head
    """
    invocation = invocation_of(ctx)
    if rebuild_head:
        if pipeline is None:
            raise UsageError("say which pipeline has lost its HEAD", hint="-p PIPELINE --rebuild-head")
        if folders:
            raise UsageError("--from is not for --rebuild-head", hint="rebuild first, then repair with --from")
        _rebuild(invocation, pipeline, write=yes and not dry_run)
    elif yes:
        raise UsageError("--yes goes with --rebuild-head")
    else:
        _repair(invocation, pipeline, folders or [], dry_run=dry_run)


def _repair(invocation: Invocation, pipeline: str | None, folders: Sequence[str], *, dry_run: bool) -> None:
    from eoctl.services.repair import repair as repair_store  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    chosen = None if pipeline is None else PipelineId(pipeline)
    stopped = "what was repaired is repaired, and nothing is harmed: run it again"
    with told_by(lambda: stopped, unknown=stopped, hint="eoctl store repair"):
        with Meter(invocation, "store.repair", "reading") as meter:
            done = repair_store(
                store, chosen, [Path(folder) for folder in folders], dry_run=dry_run, progress=meter.bytes_so_far
            )
        for note in (note for one in done.pipelines for note in one.notes):
            invocation.out.notice(note)
        invocation.out.answer(
            "store.repair",
            fields_of(done),
            lambda: _lines(done, invocation.out),
            brief=lambda: (item.name for one in done.pipelines for item in one.items if item.status != "repaired"),
        )
    if not done.whole:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _lines(done: StoreRepair, out: Output) -> Iterator[str]:
    for one in done.pipelines:
        yield from _pipeline_lines(one, out)
    if not done.pipelines:
        yield "no pipelines yet"
    if done.searched_files:
        yield f"looked at {plural(done.searched_files, 'file')} below {', '.join(done.sources)}"
    left = [item for one in done.pipelines for item in one.items if item.status == "damaged"]
    if left and not done.dry_run:
        yield out.paint(f"{plural(len(left), 'content')} not repaired", RED)


def _pipeline_lines(one: PipelineRepair, out: Output) -> Iterator[str]:
    yield out.heading(f"{one.pipeline}: read {human_bytes(one.checked_bytes)}")
    if not one.items:
        yield out.paint("no damage", GREEN)
        return
    yield from out.table(_columns(one.items))
    for item in one.items:
        if item.wanted:
            yield from out.wrapped(f"looked for, and not found, for {item.name}: {', '.join(item.wanted)}")
    if one.rewritten:
        yield (
            f"stored {human_bytes(one.uploaded_bytes)} in {plural(one.uploaded_blobs, 'blob')}; new manifests: "
            f"{', '.join(one.rewritten)}"
        )


def _columns(items: Sequence[RepairItem]) -> list[Column]:
    more = [f" and {len(item.other_names)} more" if item.other_names else "" for item in items]
    return [
        Column(title="STATUS", cells=[item.status for item in items], styles=_STYLES),
        Column(
            title="FILE",
            cells=[f"{item.name}{rest}" for item, rest in zip(items, more, strict=True)],
            least=_NAME_LEAST,
        ),
        Column(title="REASON", cells=[item.reason for item in items], least=_REASON_LEAST),
        Column(title="HARMS", cells=[", ".join(item.snapshots) or "-" for item in items], least=_SNAPSHOTS_LEAST),
        Column(title="SOURCE", cells=[item.source or "-" for item in items], least=_REASON_LEAST),
    ]


def _rebuild(invocation: Invocation, name: str, *, write: bool) -> None:
    from eoctl.services.rebuild import rebuild_head  # noqa: PLC0415  (start-up)
    from eoctl.services.repair_values import StoreRepair  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    stopped = f"HEAD of {name} is lost as before, or it is there and complete"
    with told_by(lambda: stopped, unknown=stopped, hint=f"eoctl checkpoint list -p {name}"):
        with Meter(invocation, "store.repair", "reading") as meter:
            rebuilt = rebuild_head(store, PipelineId(name), write=write, progress=meter.bytes_so_far)
        if not rebuilt.written:
            invocation.out.notice("nothing was written; --yes makes this HEAD")
        done = StoreRepair(
            dry_run=not rebuilt.written,
            whole=rebuilt.written and not rebuilt.left_out,
            sources=(),
            searched_files=0,
            searched_bytes=0,
            pipelines=(),
            rebuilt=rebuilt,
        )
        invocation.out.answer(
            "store.repair",
            fields_of(done),
            lambda: _head_lines(rebuilt, invocation.out),
            brief=lambda: (one.snapshot for one in rebuilt.snapshots),
        )
    if rebuilt.left_out:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _head_lines(rebuilt: HeadRebuild, out: Output) -> Iterator[str]:
    was = rebuilt.torn or "HEAD is missing"
    yield out.heading(f"{rebuilt.pipeline}: {was}")
    yield from out.fields(
        [
            ("from", rebuilt.backup or "manifests alone: no copy of HEAD was found"),
            ("era, floor", str(rebuilt.era)),
            ("attempt", str(rebuilt.attempt)),
            ("seq", str(rebuilt.seq)),
            ("last id", str(rebuilt.last_id)),
        ]
    )
    rows = rebuilt.snapshots
    if rows:
        yield from out.table(
            [
                Column(title="SNAPSHOT", cells=[row.snapshot for row in rows], least=_NAME_LEAST),
                Column(title="CREATED", cells=[second(row.created_at) for row in rows]),
                Column(title="ATTEMPT", cells=[str(row.attempt) for row in rows], right=True),
                Column(title="FULL", cells=[human_bytes(row.full_bytes) for row in rows], right=True),
                Column(title="STATUS", cells=[row.status for row in rows]),
                Column(title="KNOWN FROM", cells=[row.origin for row in rows]),
            ]
        )
    for left in rebuilt.left_out:
        yield from out.wrapped(out.paint(f"left out: {left.snapshot or left.manifest}: {left.reason}", RED))
    if rebuilt.written:
        copied = f"{human_bytes(rebuilt.copied_bytes)} in {plural(rebuilt.copied_blobs, 'blob')}"
        yield out.paint(f"HEAD is made: {plural(len(rows), 'snapshot')}, copied {copied}", GREEN)
    else:
        yield f"would be made: {plural(len(rows), 'snapshot')}; each is tagged resurrected"
