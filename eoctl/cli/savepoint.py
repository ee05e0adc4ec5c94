"""`eoctl savepoint`: portable copies of state, in the store or as folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoctl.cli import exit_codes
from eoctl.cli.completion import complete_pipelines, complete_snapshots
from eoctl.cli.foreign import MapPaths
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import invocation_of
from eoctl.cli.mappings import AllowNonRestored, Drop, MapFile, Merge, Remap, mapping_of, move_lines
from eoctl.cli.output import Output, fields_of
from eoctl.cli.parameters import Pipeline, Snapshot
from eoctl.cli.quantities import human_bytes, human_seconds, plural, timestamp
from eoctl.cli.state_sources import StateSnapshot, opened_state
from formats.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from eoctl.cli.invocation import Invocation
    from eoctl.services.savepoint_build import SnapshotSource
    from eoctl.services.savepoint_values import SavepointCreated
    from eoctl.services.values import SnapshotRow
    from formats.remap import OperatorMapping

app = typer.Typer()

SavepointAt = Annotated[
    str, typer.Argument(metavar="SAVEPOINT", help="PIPELINE@NAME, or the path of a savepoint's folder.")
]


@app.command("create")
def create(
    ctx: typer.Context,
    *,
    snapshot: StateSnapshot,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="What the savepoint is called in the store.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="URL|DIR", help="Write a folder, or into the store at that URL.")
    ] = None,
    remap: Remap = None,
    map_file: MapFile = None,
    drop: Drop = None,
    merge: Merge = False,
    allow_non_restored: AllowNonRestored = False,
    max_parallelism: Annotated[
        int | None,
        typer.Option(
            "--max-parallelism", metavar="N", min=1, max=1 << 15, help="Hash all keys anew into N key groups."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option("--executor", metavar="N|URL", help="How many processes; or dask://HOST:PORT, a cluster."),
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; repeatable.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would become of each operator's state.")
    ] = False,
    map_paths: MapPaths = None,
    pipeline: Pipeline = None,
) -> None:
    """Make a portable savepoint of a snapshot.

    A table in Parquet for each state of each operator, and a JSON head: self-contained, and never touched by
    retention. State that cannot be read by rows is carried as files. Without --to it is kept in the snapshot's
    store. The same state gives the same bytes.

    Example:
        eoctl savepoint create orders@latest --name before-upgrade
        eoctl savepoint create orders@42 --to /backup/orders --remap totals=sums --drop old-sink
    """
    from msgspec.structs import replace  # noqa: PLC0415  (start-up)

    from eoctl.services.executors import executor_of, state_bytes  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint import Wish, create_folder, create_in_store  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    mapping = mapping_of(remap, map_file, drop, merge=merge, allow_non_restored=allow_non_restored)
    if dry_run:
        _plan(invocation, snapshot, pipeline, mapping, map_paths)
        return
    with (
        _told(name or to or snapshot),
        opened_state(invocation, snapshot, pipeline, held=True, map_paths=map_paths) as source,
        executor_of(executor, state_bytes(source)) as pool,
    ):
        wish = Wish(mapping=mapping, executor=pool, tags=tuple(tags or ()), max_parallelism=max_parallelism or 0)
        if to is not None and "://" not in to:
            _refuse_name(name, tags)
            created = create_folder(source, Path(to).expanduser(), wish, elapsed=invocation.ambient.elapsed)
        else:
            store = invocation.open_store() if to is None else invocation.open_other(to)
            owner = pipeline if pipeline and is_foreign(snapshot) else source.pipeline
            created = create_in_store(replace(source, pipeline=owner), store, name or _name_of(source), wish)
    for note in created.notes:
        invocation.out.notice(note)
    invocation.out.answer(
        "savepoint.create",
        _document(created),
        lambda: _created_lines(created, invocation.out),
        brief=lambda: [created.snapshot.address],
    )


def _told(what: str) -> AbstractContextManager[None]:
    """An interrupt says that the savepoint is there whole or not at all, and how to see which."""
    unknown = f"{what} was made whole, or not at all"

    def look() -> str:
        raise UnavailableError(unknown)

    return told_by(look, unknown=unknown, hint="eoctl savepoint list, or look at the folder")


def _plan(
    invocation: Invocation,
    snapshot: str,
    pipeline: str | None,
    mapping: OperatorMapping,
    map_paths: list[str] | None,
) -> None:
    from eoctl.services.savepoint import move_rows  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_build import names_of  # noqa: PLC0415  (start-up)
    from formats.remap import plan_remap  # noqa: PLC0415  (start-up)

    with opened_state(invocation, snapshot, pipeline, map_paths=map_paths) as source:
        moves = move_rows(source, plan_remap(names_of(source), mapping))
        invocation.out.answer(
            "savepoint.create",
            {"dry_run": True, "source": source.address, "moves": moves},
            lambda: move_lines(moves, invocation.out),
            rows="moves",
            brief=lambda: (f"{move.old}={move.new}" for move in moves),
        )


def _refuse_name(name: str | None, tags: list[str] | None) -> None:
    if name is not None or tags:
        raise UsageError("a folder has neither name nor tags", hint="leave --name and --tag out, or --to")


def _name_of(source: SnapshotSource) -> str:
    label = source.address.rpartition("@")[2]
    if label.isdecimal():
        return f"savepoint-{label}"
    raise UsageError("the savepoint needs a name", hint="--name NAME, or --to DIR")


def _document(created: SavepointCreated) -> dict[str, Any]:
    value = {**fields_of(created.snapshot), **fields_of(created)}
    del value["snapshot"]
    return {**value, "dry_run": False}


def _created_lines(created: SavepointCreated, out: Output) -> Iterator[str]:
    row = created.snapshot
    yield (
        f"{row.address}: {plural(created.rows, 'row')} of {plural(len(created.states), 'state')}, "
        f"{human_bytes(row.full_bytes)} in {plural(row.files, 'file')}, in {human_seconds(created.seconds)}"
    )
    if any(move.action != "kept" for move in created.moves):
        yield from move_lines(created.moves, out)


@app.command("list")
def list_savepoints(
    ctx: typer.Context,
    *,
    pipeline: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--pipeline",
            metavar="PIPELINE",
            help="Only this pipeline. Else all of them.",
            autocompletion=complete_pipelines,
        ),
    ] = None,
) -> None:
    """List the savepoints of the store.

    Example:
        eoctl savepoint list -p orders
    """
    from eoctl.cli.snapshot_table import snapshot_columns  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint import list_savepoints as savepoints_of  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    rows = savepoints_of(store, None if pipeline is None else PipelineId(pipeline))
    now = timestamp(invocation.ambient.now())
    invocation.out.answer(
        "savepoint.list",
        {"store": store.place.url, "snapshots": rows},
        lambda: invocation.out.table_or_notice(snapshot_columns(rows, now), f"no savepoints in {store.place.url}"),
        rows="snapshots",
        brief=lambda: (row.address for row in rows),
    )


@app.command("inspect")
def inspect(ctx: typer.Context, *, savepoint: SavepointAt, pipeline: Pipeline = None) -> None:
    """Show what a savepoint consists of.

    Example:
        eoctl savepoint inspect orders@before-upgrade
        eoctl savepoint inspect /backup/orders
    """
    from eoctl.cli.savepoint_tables import detail_lines  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign, resolve, row_of  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint import folder_row, head_in_store, inspect_head  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if is_foreign(savepoint):
        from eoctl.services.savepoint_sources import read_head  # noqa: PLC0415  (start-up)

        path = Path(savepoint).expanduser()
        head = read_head(path)
        row: SnapshotRow = folder_row(path, head)
    else:
        store = invocation.open_store()
        resolved = resolve(store, savepoint, pipeline)
        head, row = head_in_store(store, resolved), row_of(resolved.head, resolved.entry)
    detail = inspect_head(head, row)
    value = {**fields_of(row), **fields_of(detail)}
    del value["snapshot"]
    invocation.out.answer(
        "savepoint.inspect", value, lambda: detail_lines(detail, invocation.out), brief=lambda: [row.address]
    )


@app.command("verify")
def verify(ctx: typer.Context, *, savepoint: SavepointAt, pipeline: Pipeline = None) -> None:
    """Check that a savepoint is whole.

    Every byte against its digest; of a folder also every row: that keys are in order and in their key group, and that
    none is there twice. Damage is exit code 3. In a store it is checkpoint verify --level full of this snapshot.

    Example:
        eoctl savepoint verify /backup/orders
    """
    from eoctl.cli.savepoint_tables import check_lines  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_check import check_folder, check_in_store  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if is_foreign(savepoint):
        found = check_folder(Path(savepoint).expanduser(), elapsed=invocation.ambient.elapsed)
    else:
        store = invocation.open_store()
        found = check_in_store(store, resolve(store, savepoint, pipeline))
    invocation.out.answer(
        "savepoint.verify",
        fields_of(found),
        lambda: check_lines(found, invocation.out),
        brief=lambda: (damage.path for damage in found.damaged),
    )
    if found.damaged:
        raise typer.Exit(exit_codes.ANSWER_NO)


@app.command("export")
def export(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="A new directory.")],
    pipeline: Pipeline = None,
) -> None:
    """Write a savepoint of the store as a folder.

    Example:
        eoctl savepoint export orders@before-upgrade --to /backup/orders
    """
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint import export as export_savepoint  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint import folder_row  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    resolved = resolve(store, snapshot, pipeline)
    target = Path(to).expanduser()
    with _told(to):
        row = folder_row(target, export_savepoint(store, resolved, target))
    line = f"{resolved.address} is in {to}: {human_bytes(row.full_bytes)} in {plural(row.files, 'file')}"
    invocation.out.answer(
        "savepoint.export", {"source": resolved.address, **fields_of(row)}, lambda: [line], brief=lambda: [to]
    )


@app.command("import")
def import_savepoint(
    ctx: typer.Context,
    *,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="A savepoint's folder.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What it is called in the store.")],
    pipeline: Annotated[
        str | None,
        typer.Option("-p", "--pipeline", metavar="PIPELINE", help="Whose it is; else the pipeline it was taken of."),
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; repeatable.")] = None,
) -> None:
    """Take a savepoint's folder into the store.

    It is checked as by verify first: nothing is taken in that is damaged.

    Example:
        eoctl savepoint import /backup/orders --name before-upgrade
    """
    from eoctl.services.savepoint import import_folder  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_sources import read_head  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    path = Path(folder).expanduser()
    owner = PipelineId(pipeline or read_head(path).pipeline)
    store = invocation.open_store()
    with _told(f"{owner}@{name}"):
        created = import_folder(store, owner, name, path, tuple(tags or ()))
    invocation.out.answer(
        "savepoint.import",
        _document(created),
        lambda: _created_lines(created, invocation.out),
        brief=lambda: [created.snapshot.address],
    )


@app.command("delete")
def delete(
    ctx: typer.Context,
    *,
    savepoints: Annotated[
        list[str], typer.Argument(metavar="SAVEPOINT...", help="PIPELINE@NAME.", autocompletion=complete_snapshots)
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")] = False,
    pipeline: Pipeline = None,
) -> None:
    """Move savepoints of the store to the trash.

    checkpoint undelete brings them back. Nothing else deletes one: retention never does. A folder is deleted as any
    folder is.

    Example:
        eoctl savepoint delete orders@before-upgrade --dry-run
    """
    from eoctl.cli.checkpoint_entries import delete_snapshots  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    for text in savepoints:
        if resolve(store, text, pipeline).entry.kind != "savepoint":
            raise UsageError(f"not a savepoint: {text}", hint=f"eoctl checkpoint delete {text}")
    delete_snapshots(invocation, savepoints, pipeline, dry_run=dry_run, schema="savepoint.delete")
