"""`eoctl pipeline`: the pipelines of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_pipelines
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import age, human_bytes, human_seconds, minute, plural, second, timestamp
from eoctl.cli.table import Column
from formats.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from eoctl.services.destroy import Destruction
    from eoctl.services.fork import Forked
    from eoctl.services.resolve import Resolved
    from eoctl.services.values import PipelineDetail, PipelineRow
    from formats.ids import PipelineId
    from storage.store import Store

app = typer.Typer()
_NEWEST = 10
_NAME_LEAST = 12


@app.command("list")
def list_pipelines(ctx: typer.Context) -> None:
    """List the pipelines of the store.

    Example:
        eoctl pipeline list
    """
    from eoctl.services.stats import list_pipelines as list_rows  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    rows = list_rows(store)
    now = timestamp(invocation.ambient.now())
    invocation.out.answer(
        "pipeline.list",
        {"store": store.place.url, "pipelines": rows},
        lambda: invocation.out.table_or_notice(_columns(rows, now), f"no pipelines in {store.place.url}"),
        rows="pipelines",
        brief=lambda: (row.pipeline for row in rows),
    )


def _columns(rows: Sequence[PipelineRow], now: float) -> list[Column]:
    def numbers(title: str, values: list[int], short_title: str = "") -> Column:
        return Column(title=title, short_title=short_title, cells=[str(value) for value in values], right=True)

    return [
        Column(title="PIPELINE", cells=[row.pipeline for row in rows], least=_NAME_LEAST),
        Column(
            title="STATE",
            cells=[row.state for row in rows],
            least=_NAME_LEAST,
            optional=all(row.state == "active" for row in rows),
        ),
        numbers("CHECKPOINTS", [row.checkpoints for row in rows], "CHK"),
        numbers("SAVEPOINTS", [row.savepoints for row in rows], "SAV"),
        numbers("TRASH", [row.trash for row in rows]),
        numbers("HOLDS", [row.holds for row in rows]),
        Column(title="NEWEST", cells=[row.newest or "-" for row in rows], right=True),
        Column(
            title="CREATED (UTC)",
            short_title="UTC",
            cells=[minute(row.newest_at) if row.newest_at else "-" for row in rows],
            short=[minute(row.newest_at)[5:] if row.newest_at else "-" for row in rows],
        ),
        Column(
            title="AGE",
            cells=[age(now - timestamp(row.newest_at)) if row.newest_at else "-" for row in rows],
            right=True,
        ),
        Column(title="FULL", cells=[human_bytes(row.full_bytes) for row in rows], right=True),
    ]


@app.command("show")
def show(
    ctx: typer.Context,
    *,
    pipeline: Annotated[
        str | None, typer.Argument(metavar="PIPELINE", help="Its name.", autocompletion=complete_pipelines)
    ] = None,
    option: Annotated[
        str | None,
        typer.Option("-p", "--pipeline", metavar="PIPELINE", help="The same.", autocompletion=complete_pipelines),
    ] = None,
) -> None:
    """Show a pipeline's counters, writers, holds, snapshots.

    Example:
        eoctl pipeline show orders
    """
    from eoctl.services.resolve import pick_pipeline  # noqa: PLC0415  (start-up)
    from eoctl.services.stats import show_pipeline  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    detail = show_pipeline(store, pick_pipeline(store, pipeline or option))
    value = {**fields_of(detail.row), **fields_of(detail)}
    del value["row"]
    now = timestamp(invocation.ambient.now())
    invocation.out.answer(
        "pipeline.show", value, lambda: _lines(detail, invocation.out, now), brief=lambda: [detail.row.pipeline]
    )


def _lines(detail: PipelineDetail, out: Output, now: float) -> Iterator[str]:
    from eoctl.cli.snapshot_table import snapshot_columns  # noqa: PLC0415  (start-up)

    row = detail.row
    yield out.heading(f"{row.pipeline}  {row.state}")
    yield from out.fields(
        [
            ("checkpoints", f"{row.checkpoints}, last id {detail.last_id}"),
            ("savepoints", str(row.savepoints)),
            ("trash", str(row.trash)),
            ("counters", f"attempt {row.attempt}, era {row.era}, floor {row.floor}, sequence {detail.seq}"),
            ("writers", "; ".join(detail.writers) or "none is live"),
        ]
    )
    if detail.hold_rows:
        yield ""
        yield out.heading("HOLDS")
        yield from out.table(
            [
                Column(title="SNAPSHOT", cells=[hold.snapshot for hold in detail.hold_rows]),
                Column(title="UNTIL (UTC)", cells=[_until(hold.expires_at) for hold in detail.hold_rows]),
                Column(title="REASON", cells=[hold.reason for hold in detail.hold_rows], least=_NAME_LEAST),
            ]
        )
    if detail.snapshots:
        yield ""
        older = len(detail.snapshots) - _NEWEST
        yield out.heading("SNAPSHOTS" + (f" (the newest {_NEWEST}, of {len(detail.snapshots)})" if older > 0 else ""))
        yield from out.table(snapshot_columns(detail.snapshots[-_NEWEST:], now))


def _until(expires_at: str | None) -> str:
    return "released" if expires_at is None else second(expires_at)


@app.command("fork")
def fork(
    ctx: typer.Context,
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="PIPELINE: its newest checkpoint; or PIPELINE@42, PIPELINE@NAME.",
            autocompletion=complete_pipelines,
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Of the new pipeline; with --to it may be left out.")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="URL", help="Another store, which exists.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All live snapshots, not only one.")] = False,
) -> None:
    """Copy a snapshot, or all, into a new pipeline.

    Here, or in another store: on disk or S3, from where to where you like. Ids, names, tags and times stay; every byte
    is checked on the way. The source is only read. A fork that was stopped goes on where it was when the same command
    is given again, and one with --all takes what came since.

    Example:
        eoctl pipeline fork orders@42 orders-test
        eoctl pipeline fork orders --all --to s3://backups/eoctl
    """
    from eoctl.services.fork import fork as fork_pipeline  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    snapshots = _chosen(store, source, every=every)
    if name is None and to is None:
        raise UsageError("the fork has no name", hint="eoctl pipeline fork SOURCE NAME, or --to URL")
    target = store if to is None else invocation.open_other(to)
    new = snapshots[0].pipeline if name is None else PipelineId(name)
    unknown = f"it could not be seen what was copied to {new}"
    with (
        told_by(lambda: _copied_so_far(target, new), unknown=unknown, hint=f"eoctl pipeline show {new}"),
        Meter(invocation, "pipeline.fork", "copying") as meter,
    ):
        forked = fork_pipeline(store, snapshots, target, new, meter)
    for note in forked.notes:
        invocation.out.notice(note)
    invocation.out.answer(
        "pipeline.fork",
        fields_of(forked),
        lambda: _forked(forked),
        brief=lambda: (copy.snapshot.address for copy in forked.copies),
    )


def _chosen(store: Store, source: str, *, every: bool) -> list[Resolved]:
    from eoctl.services.resolve import LATEST, live, resolve  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    if not every:
        return [resolve(store, source if "@" in source else f"{source}@{LATEST}")]
    if "@" in source:
        raise UsageError(f"{source} is one snapshot, and --all are many", hint="give one of them")
    return live(store, PipelineId(source))


def _copied_so_far(target: Store, pipeline: PipelineId) -> str:
    from formats.errors import SnapshotNotFoundError  # noqa: PLC0415  (start-up)

    try:
        copies = len(target.head(pipeline).head.live)
    except SnapshotNotFoundError:
        return f"{pipeline} was not made"
    return f"{pipeline} has {plural(copies, 'snapshot')}, each of them whole; the same command goes on"


def _forked(forked: Forked) -> Iterator[str]:
    new = [copy.snapshot.address for copy in forked.copies if not copy.existed]
    old = len(forked.copies) - len(new)
    where = "" if forked.store == forked.from_store else f" in {forked.store}"
    if new:
        copied = f"{human_bytes(forked.copied_bytes)} in {plural(forked.copied_blobs, 'blob')}"
        yield f"{', '.join(new)}{where}: {copied} copied and checked, in {human_seconds(forked.seconds)}"
    if old:
        yield f"{plural(old, 'snapshot')} of {forked.pipeline} {'was' if old == 1 else 'were'} there already{where}"


@app.command("destroy")
def destroy(
    ctx: typer.Context,
    *,
    pipeline: Annotated[str, typer.Argument(metavar="PIPELINE", help="Its name.", autocompletion=complete_pipelines)],
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Nothing brings it back.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be destroyed.")] = False,
) -> None:
    """Delete a pipeline with all its snapshots, for good.

    Savepoints, trash and holds with an end go too; a hold without an end forbids it. Writers of the pipeline are
    fenced off. Its name stays known, as destroyed, and is never used again. Without --yes nothing is done but to say
    what would be.

    Example:
        eoctl pipeline destroy orders --dry-run
        eoctl pipeline destroy orders --yes
    """
    from eoctl.services.destroy import destroy as destroy_pipeline  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    if yes and dry_run:
        raise UsageError("--yes and --dry-run contradict each other", hint="give one of them")
    invocation = invocation_of(ctx)
    out = invocation.out
    store = invocation.open_store()
    name = PipelineId(pipeline)

    def look() -> str:
        if store.head(name).head.state != "destroyed":
            return f"{name} was not destroyed"
        return f"{name} is destroyed; what is left of it, eoctl gc -p {name} deletes"

    unknown = f"{name} may have been destroyed or not"
    with (
        told_by(look, unknown=unknown, hint=f"eoctl pipeline show {name}"),
        Meter(invocation, "destroy", "deleting") as meter,
    ):
        found = destroy_pipeline(store, name, dry_run=not yes, progress=meter.bytes_so_far)
    for writer in found.writers:
        out.notice(f"{name} has a live writer: {writer}")
    for note in found.notes:
        out.notice(note)
    out.answer("pipeline.destroy", fields_of(found), lambda: _destruction(found), brief=lambda: [found.pipeline] * yes)
    if found.left_blobs and found.notes:
        message = f"{name} is destroyed, but {plural(found.left_blobs, 'blob')} could not be deleted"
        raise UnavailableError(message, hint=f"eoctl gc -p {name}")
    if not (yes or dry_run):
        raise UsageError(f"nothing was done: {name} is destroyed with --yes only", hint="look twice; there is no undo")


def _destruction(found: Destruction) -> Iterator[str]:
    if found.state == "destroyed" and not found.destroyed:
        yield f"{found.pipeline} was destroyed before"
    else:
        lost = (
            f"{plural(len(found.snapshots), 'snapshot')} in {plural(found.blobs, 'blob')}, {human_bytes(found.bytes)}"
        )
        yield f"{found.pipeline} {'is destroyed' if found.destroyed else 'would be destroyed'}: {lost}"
        if found.snapshots:
            yield f"lost for ever: {', '.join(found.snapshots[-_NEWEST:])}{_and_older(found)}"
        if found.holds:
            yield f"{plural(found.holds, 'hold')} with an end {'went' if found.destroyed else 'would go'} with it"
    if found.deleted_blobs:
        yield f"deleted {plural(found.deleted_blobs, 'blob')}, {human_bytes(found.freed_bytes)}"


def _and_older(found: Destruction) -> str:
    older = len(found.snapshots) - _NEWEST
    return f" and {older} more" if older > 0 else ""
