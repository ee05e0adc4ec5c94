"""`eoctl checkpoint`: what reads snapshots. What edits HEAD is in checkpoint_entries.py, `create` in its own module."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eoctl.cli import exit_codes
from eoctl.cli.completion import complete_pipelines, complete_snapshots
from eoctl.cli.foreign import MapPaths, both_foreign, mappings_of, open_address
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import fields_of
from eoctl.cli.parameters import Pipeline, Snapshot
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import timestamp

if TYPE_CHECKING:
    from eoctl.services.values import FileRow, SnapshotRow, Verification
    from formats.errors import EoctlError
    from storage.store import Store

app = typer.Typer()


@app.command("list")
def list_snapshots(
    ctx: typer.Context,
    *,
    root: Annotated[
        str | None, typer.Argument(metavar="ROOT", help="A folder of Flink's: what lies below it, and not the store.")
    ] = None,
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
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the newest N of each pipeline.")] = None,
    map_paths: MapPaths = None,
) -> None:
    """List snapshots, newest last.

    FULL is what a restore would write, ADDED what was new when the checkpoint was taken; NEW/REF counts the files that
    it stored and the files that it shares with earlier ones. STATUS: complete, held (a hold keeps it) or trash
    (deleted; undelete brings it back until gc runs). Times are UTC. With ROOT the checkpoints and savepoints of every
    Flink job below it.

    Example:
        eoctl checkpoint list -p orders --limit 10
        eoctl checkpoint list /checkpoints
        eoctl checkpoint list --json | jq '.snapshots[-1].full_bytes'
    """
    from eoctl.cli.snapshot_table import snapshot_columns  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    out = invocation.out
    if root is None:
        store, (rows, problems) = invocation.look(
            lambda store: _rows(store, pipeline, limit), at_head=pipeline is not None
        )
        place = store.place.url
    else:
        place = root
        rows, problems = _foreign_rows(invocation, root, pipeline, limit, map_paths)
    now = timestamp(invocation.ambient.now())
    nothing = "" if problems else f"no snapshots in {place}"
    out.answer(
        "checkpoint.list",
        {"store": place, "snapshots": rows},
        lambda: out.table_or_notice(snapshot_columns(rows, now), nothing),
        rows="snapshots",
        brief=lambda: (row.address for row in rows),
    )
    if problems:
        raise problems[0]


def _rows(store: Store, name: str | None, limit: int | None) -> tuple[list[SnapshotRow], list[EoctlError]]:
    """The rows of the pipeline, or of every one that can be read, and what is wrong with the others."""
    from eoctl.services.resolve import rows_of  # noqa: PLC0415  (start-up)
    from formats.errors import CorruptError, UnsupportedError  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    start = 0 if limit is None else -limit
    if name is not None:
        return list(rows_of(store.head(PipelineId(name)).head)[start:]), []
    rows: list[SnapshotRow] = []
    problems: list[EoctlError] = []
    for pipeline in store.pipelines():
        try:
            rows.extend(rows_of(store.head(pipeline).head)[start:])
        except (CorruptError, UnsupportedError) as error:
            problems.append(error)
    return rows, problems


def _foreign_rows(
    invocation: Invocation, root: str, pipeline: str | None, limit: int | None, map_paths: list[str] | None
) -> tuple[list[SnapshotRow], list[EoctlError]]:
    """Of every job below the folder, or of one by its id; the newest of each come last."""
    from eoctl.services.foreign import list_foreign, path_of  # noqa: PLC0415  (start-up)

    found = list_foreign(path_of(root), mappings_of(map_paths))
    for folder in found.unfinished:
        invocation.out.notice(f"no _metadata, so it is no checkpoint (yet): {folder}")
    by_job: dict[str, list[SnapshotRow]] = {}
    for row in found.rows:
        by_job.setdefault(row.pipeline, []).append(row)
    start = 0 if limit is None else -limit
    rows = [row for job, rows in by_job.items() if pipeline in {None, job} for row in rows[start:]]
    return rows, list(found.problems)


@app.command("inspect")
def inspect(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    pipeline: Pipeline = None,
    operators: Annotated[bool, typer.Option("--operators", help="Only: the operators.")] = False,
    states: Annotated[bool, typer.Option("--states", help="Only: the named states of each operator.")] = False,
    files: Annotated[bool, typer.Option("--files", help="Only: the names of new and obsolete files.")] = False,
    offsets: Annotated[bool, typer.Option("--offsets", help="Only: where each source stands.")] = False,
    transactions: Annotated[bool, typer.Option("--transactions", help="Only: the transactions of sinks.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Only: the files by the checkpoint that first stored them.")
    ] = False,
    map_paths: MapPaths = None,
) -> None:
    """Show what a snapshot consists of.

    Without options an overview: operators, files, sources, sinks, what it cost. The options choose parts, in full;
    several may be given. --json always prints all.

    Example:
        eoctl checkpoint inspect orders@latest
        eoctl checkpoint inspect orders@42 --operators --states
    """
    from eoctl.cli.inspection import Parts, document_of, lines_of  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if is_foreign(snapshot):
        from eoctl.services.foreign import inspect_foreign  # noqa: PLC0415  (start-up)

        inspection = inspect_foreign(open_address(snapshot, map_paths))
    else:
        from eoctl.services.inspect import inspect as inspect_snapshot  # noqa: PLC0415  (start-up)

        store = invocation.open_store()
        inspection = inspect_snapshot(store, resolve(store, snapshot, pipeline))
    for note in inspection.notes:
        invocation.out.notice(note)
    wanted = {"operators": operators, "states": states, "files": files, "offsets": offsets}
    wanted |= {"transactions": transactions, "references": references}
    now = timestamp(invocation.ambient.now())
    invocation.out.answer(
        "checkpoint.inspect",
        document_of(inspection),
        lambda: lines_of(inspection, Parts.of(wanted), invocation.out, now),
        brief=lambda: [inspection.snapshot.address],
    )


@app.command("files")
def files(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    pipeline: Pipeline = None,
    operator: Annotated[str | None, typer.Option(metavar="UID", help="Only this operator's, by its uid or id.")] = None,
    map_paths: MapPaths = None,
) -> None:
    """List a snapshot's files, and who stored each first.

    STORED is what the file takes in the store, compressed or as a slice of a pack; WHERE says how: inline in the
    manifest, in a blob of its own, in a pack, or in blocks. FIRST is the checkpoint that stored the content.

    Example:
        eoctl checkpoint files orders@latest --operator joins
    """
    from eoctl.cli.file_tables import file_columns, full_name  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if is_foreign(snapshot):
        from eoctl.services.foreign import foreign_files  # noqa: PLC0415  (start-up)

        foreign = open_address(snapshot, map_paths)
        address = str(foreign.path)
        rows: tuple[FileRow, ...] = foreign_files(foreign, operator)
    else:
        from eoctl.services.inspect import list_files  # noqa: PLC0415  (start-up)

        store = invocation.open_store()
        resolved = resolve(store, snapshot, pipeline)
        address, rows = resolved.address, list_files(store, resolved, operator)
    invocation.out.answer(
        "checkpoint.files",
        {"snapshot": address, "files": rows},
        lambda: invocation.out.table(file_columns(rows)),
        rows="files",
        brief=lambda: map(full_name, rows),
    )


@app.command("diff")
def diff(
    ctx: typer.Context,
    *,
    a: Annotated[str, typer.Argument(metavar="A", help="The one snapshot.", autocompletion=complete_snapshots)],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.", autocompletion=complete_snapshots)],
    pipeline: Pipeline = None,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 where they differ.")] = False,
    map_paths: MapPaths = None,
) -> None:
    """Compare the files of two snapshots.

    + is only in B, - only in A, ~ in both with other content.

    Example:
        eoctl checkpoint diff orders@41 orders@42 --exit-code
    """
    from eoctl.cli.file_tables import difference_lines  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if both_foreign(a, b):
        from eoctl.services.foreign import diff_foreign  # noqa: PLC0415  (start-up)

        difference = diff_foreign(open_address(a, map_paths), open_address(b, map_paths))
    else:
        from eoctl.services.diff import diff as compare  # noqa: PLC0415  (start-up)
        from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)

        store = invocation.open_store()
        difference = compare(store, resolve(store, a, pipeline), resolve(store, b, pipeline))
    invocation.out.answer(
        "checkpoint.diff",
        {**fields_of(difference), "differs": difference.differs},
        lambda: difference_lines(difference, invocation.out),
        brief=lambda: ["different" if difference.differs else "same"],
    )
    if exit_code and difference.differs:
        raise typer.Exit(exit_codes.ANSWER_NO)


@app.command("explain")
def explain(
    ctx: typer.Context,
    *,
    subject: Annotated[
        str,
        typer.Argument(metavar="SNAP|FILE", help="A snapshot, or a file of one.", autocompletion=complete_snapshots),
    ],
    pipeline: Pipeline = None,
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="SNAP", help="The snapshot whose file it is.", autocompletion=complete_snapshots),
    ] = None,
) -> None:
    """Say who needs a snapshot or a file, and why it is kept.

    A file is named as `checkpoint files -q` prints it, OPERATOR/SUBTASK/NAME; with --of its NAME alone, or the
    beginning of its digest, will do. What it would free is told for deleting the whole snapshot.

    Example:
        eoctl checkpoint explain orders@42
        eoctl checkpoint explain main/0/000017.sst --of orders@latest
    """
    from eoctl.cli.file_tables import explanation_lines  # noqa: PLC0415  (start-up)
    from eoctl.services.explain import explain as explain_subject  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    if of is not None or "/" in subject:
        explanation = explain_subject(store, resolve(store, of or "latest", pipeline), subject)
    else:
        explanation = explain_subject(store, resolve(store, subject, pipeline))
    invocation.out.answer(
        "checkpoint.explain", fields_of(explanation), lambda: explanation_lines(explanation, invocation.out)
    )


@app.command("verify")
def verify(
    ctx: typer.Context,
    *,
    snapshot: Annotated[
        str | None,
        typer.Argument(
            metavar="SNAP", help="Only this snapshot. Else the whole pipeline.", autocompletion=complete_snapshots
        ),
    ] = None,
    pipeline: Pipeline = None,
    level: Annotated[
        Literal["quick", "sample", "full", "drill"],
        typer.Option(metavar="LEVEL", help="quick, sample, full or drill."),
    ] = "full",
    sample_percent: Annotated[
        float,
        typer.Option(
            metavar="P", help="Of a sample: how many percent of the blobs to read; the next run reads others."
        ),
    ] = 5.0,
    hook: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="Of a drill: is given the restored directory; its exit code 0 says it is good."
        ),
    ] = None,
    scratch: Annotated[
        str | None, typer.Option(metavar="DIR", help="Of a drill: where it restores to. Else TMPDIR, or /tmp.")
    ] = None,
    map_paths: MapPaths = None,
) -> None:
    """Check that what snapshots need is there and undamaged.

    quick: manifests, and that every blob is there with its size. sample: also the bytes of some blobs, in turn. full:
    every byte. drill: a real restore, whose every byte is checked, and which is removed again. Damage is exit code 3,
    and each damaged file is told with the snapshots that it harms. The result is kept in the store as a report.

    Example:
        eoctl checkpoint verify -p orders --level quick
        eoctl checkpoint verify orders@latest --level drill --hook ./open-database
    """
    from eoctl.cli.file_tables import verification_lines  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import is_foreign, pick_pipeline, resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if snapshot is not None and is_foreign(snapshot):
        found = _verify_foreign(invocation, snapshot, level, map_paths)
    else:
        from eoctl.services.verify import verify as check  # noqa: PLC0415  (start-up)

        store = invocation.open_store()
        resolved = None if snapshot is None else resolve(store, snapshot, pipeline)
        chosen = pick_pipeline(store, pipeline) if resolved is None else resolved.pipeline
        with Meter(invocation, "checkpoint.verify", "verifying") as meter:
            found = check(
                store,
                chosen,
                resolved,
                level,
                sample_percent=sample_percent,
                hook=hook,
                scratch=Path(scratch or tempfile.gettempdir()).expanduser(),
                progress=meter.bytes_so_far,
            )
    if found.report_skipped:
        invocation.out.notice(f"the result is not kept in the store: {found.report_skipped}")
    invocation.out.answer(
        "checkpoint.verify",
        fields_of(found),
        lambda: verification_lines(found, invocation.out),
        brief=lambda: (damaged.name for damaged in found.damaged),
    )
    if found.damaged:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _verify_foreign(invocation: Invocation, address: str, level: str, map_paths: list[str] | None) -> Verification:
    """The snapshot at that path, or each below it."""
    from eoctl.services.foreign import MOVED, path_of, snapshots_below, was_moved  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign_verify import verify_foreign  # noqa: PLC0415  (start-up)

    snapshots = list(snapshots_below([path_of(address)], mappings_of(map_paths)))
    if any(map(was_moved, snapshots)):
        invocation.out.notice(MOVED)
    with Meter(invocation, "checkpoint.verify", "verifying") as meter:
        return verify_foreign(snapshots, level, invocation.ambient.elapsed, meter.bytes_so_far)
