"""`eoctl flink`: what looks at Flink's checkpoints and savepoints. What writes them is in flink_write.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli import exit_codes
from eoctl.cli.foreign import MapPaths, mappings_of, open_address, read_text
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import age, human_bytes, parse_duration, plural, timestamp
from eoctl.cli.table import Column
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.services.foreign_deletion import Deletable
    from eoctl.services.foreign_orphans import Survey
    from eoctl.services.foreign_preflight import JobOperator, Preflight

app = typer.Typer()
_PATH_LEAST, _REASON_LEAST, _UID_LEAST = 24, 20, 16
_MAX_SHOWN = 20

LiveJobs = Annotated[
    list[str] | None,
    typer.Option(
        "--live-job",
        metavar="DIR",
        help="The folder of a running job: what it names counts, what it may be writing is no orphan; repeatable.",
    ),
]


@app.command("orphans")
def orphans(
    ctx: typer.Context,
    *,
    root: Annotated[str, typer.Argument(metavar="ROOT", help="The folder that jobs' folders and savepoints lie in.")],
    live_jobs: LiveJobs = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only files that were written longer ago than this: 7d.")
    ] = None,
    quarantine: Annotated[
        str | None, typer.Option(metavar="DIR", help="Move them there, below the paths that they have below ROOT.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; needs --expect and --older-than.")] = False,
    expect: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="There are N; else nothing is deleted.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report, whatever else is said.")] = False,
    map_paths: MapPaths = None,
) -> None:
    """Find files that no checkpoint or savepoint names.

    Every _metadata below ROOT is read, and those of --live-job. Only files where Flink puts state are looked at. What
    a job is writing at the moment is named by nothing yet: name running jobs, and take an age that is longer than any
    checkpoint takes. Without --quarantine or --delete nothing is changed. Where a _metadata cannot be read, nothing
    is changed either, as what it names is not known.

    Example:
        eoctl flink orphans /checkpoints --live-job /checkpoints/fd72014d4c864993a2e5a9287b4a9c5d --older-than 7d
        eoctl flink orphans /checkpoints --delete --expect 10 --older-than 7d
    """
    from eoctl.services import foreign_orphans  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    if delete and (expect is None or older_than is None or quarantine is not None):
        raise UsageError(
            "--delete needs --expect N and --older-than, and no --quarantine", hint="look without it first"
        )
    now = timestamp(invocation.ambient.now())
    before = None if older_than is None else now - parse_duration(older_than, "--older-than")
    mappings = mappings_of(map_paths)
    if (delete or quarantine is not None) and not dry_run:
        path_of(root).local("moving or deleting orphans")

    def look() -> Survey:
        return foreign_orphans.survey(path_of(root), [path_of(job) for job in live_jobs or ()], mappings, before)

    found = look()
    done = 0
    if delete and expect is not None and not dry_run:
        done = foreign_orphans.delete(found, look(), expect)
    elif quarantine is not None and not dry_run:
        done = foreign_orphans.quarantine(found, look(), Path(quarantine).expanduser())
    action = "deleted" if delete and not dry_run else "quarantined" if quarantine is not None and not dry_run else ""
    value = fields_of(found)
    del value["problems"]
    invocation.out.answer(
        "flink.orphans",
        {**value, "action": action or "none", "changed_files": done},
        lambda: _orphan_lines(found, action, done, invocation.out, now),
        rows="orphans",
        brief=lambda: (orphan.path for orphan in found.orphans),
    )
    if found.problems:
        raise found.problems[0]


def _orphan_lines(found: Survey, action: str, done: int, out: Output, now: float) -> Iterator[str]:
    if found.orphans:
        columns = [
            Column(title="PATH", cells=[orphan.path for orphan in found.orphans], least=_PATH_LEAST),
            Column(title="BYTES", cells=[human_bytes(orphan.bytes) for orphan in found.orphans], right=True),
            Column(
                title="AGE", cells=[age(now - timestamp(orphan.modified_at)) for orphan in found.orphans], right=True
            ),
            Column(title="REASON", cells=[orphan.reason for orphan in found.orphans], least=_REASON_LEAST),
        ]
        yield from out.table(columns)
    yield (
        f"{plural(len(found.orphans), 'orphan')}, {human_bytes(found.orphan_bytes)}; "
        f"{plural(found.snapshots, 'snapshot')} name {plural(found.referenced_files, 'file')}"
    )
    if found.missing:
        yield f"{plural(len(found.missing), 'file')} that a snapshot names not there: eoctl checkpoint verify"
    if action:
        yield f"{plural(done, 'file')} {action}"


@app.command("can-delete")
def can_delete(
    ctx: typer.Context,
    *,
    path: Annotated[str, typer.Argument(metavar="PATH", help="A chk-N, a savepoint, a job's folder, or a file.")],
    root: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Look for snapshots below it. Else where jobs lie beside this one."),
    ] = None,
    live_jobs: LiveJobs = None,
    map_paths: MapPaths = None,
) -> None:
    """Say whether something can be deleted.

    It tells what needs it, and what deleting frees. Exit 3: another checkpoint or savepoint names a file there. Files
    elsewhere that only what lies there names are orphans afterwards.

    Example:
        eoctl flink can-delete /checkpoints/fd72014d4c864993a2e5a9287b4a9c5d/chk-123
        eoctl flink can-delete /savepoints/savepoint-fd7201-0a1b2c3d4e5f --root /checkpoints
    """
    from eoctl.services import foreign_deletion  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    found = foreign_deletion.can_delete(
        path_of(path),
        None if root is None else path_of(root),
        [path_of(job) for job in live_jobs or ()],
        mappings_of(map_paths),
    )
    invocation.out.answer(
        "flink.can-delete",
        fields_of(found),
        lambda: _deletable_lines(found, invocation.out),
        brief=lambda: ["yes" if found.safe else "no"],
    )
    if not found.safe:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _deletable_lines(found: Deletable, out: Output) -> Iterator[str]:
    frees = f"{human_bytes(found.frees_bytes)} in {plural(found.frees_files, 'file')}"
    asked = f"of {plural(found.other_snapshots, 'other snapshot')} below {found.searched}"
    if found.safe:
        yield f"yes: no file there is named by any {asked}"
    else:
        needing = sorted({blocker.snapshot or "(unreadable)" for blocker in found.blocked_by})
        yield f"no: {plural(len(needing), 'snapshot')} {asked} need{'s' if len(needing) == 1 else ''} it"
        rows = found.blocked_by[:_MAX_SHOWN]
        yield from out.table(
            [
                Column(title="SNAPSHOT", cells=[row.snapshot or "(unreadable)" for row in rows], least=_PATH_LEAST),
                Column(title="FILE", cells=[row.file for row in rows], least=_PATH_LEAST),
            ]
        )
        if len(found.blocked_by) > len(rows):
            yield f"and {len(found.blocked_by) - len(rows)} more: --json lists them all"
    yield f"frees {frees}"
    if found.leaves_orphans:
        left = f"{plural(found.leaves_orphans, 'file')} with {human_bytes(found.orphan_bytes)}"
        yield f"leaves {left} elsewhere that nothing names: eoctl flink orphans {found.searched}"
    yield from found.notes


@app.command("uid-hash")
def uid_hash(
    ctx: typer.Context,
    *,
    uids: Annotated[list[str], typer.Argument(metavar="UID...", help="Operator uids, as in .uid(...).")],
) -> None:
    """Print the operator id that Flink makes of a uid.

    It is what Flink prints in "Cannot map checkpoint/savepoint state for operator ...". A sink is two operators: its
    committer's uid is "Sink Committer: " and the sink's.

    Example:
        eoctl flink uid-hash order-totals "Sink Committer: order-sink"
    """
    from formats.ids import operator_id  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    rows = [{"uid": uid, "id": operator_id(uid)} for uid in uids]
    columns = [
        Column(title="ID", cells=[row["id"] for row in rows]),
        Column(title="UID", cells=[row["uid"] for row in rows]),
    ]
    invocation.out.answer(
        "flink.uid-hash",
        {"operators": rows},
        lambda: invocation.out.table(columns),
        rows="operators",
        brief=lambda: (row["id"] for row in rows),
    )


@app.command("preflight")
def preflight(
    ctx: typer.Context,
    *,
    snapshot: Annotated[str, typer.Argument(metavar="SNAP", help="A chk-N, a savepoint's folder, or its _metadata.")],
    uids: Annotated[
        str | None, typer.Option(metavar="FILE", help="The job's operators: a uid or an id to a line; - is stdin.")
    ] = None,
    operators: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help='The same as JSON: [{"uid": "totals", "parallelism": 4, "max_parallelism": 128}].'
        ),
    ] = None,
    map_paths: MapPaths = None,
) -> None:
    """Say whether a job will restore from a snapshot.

    As Flink looks at it when the job is submitted: every state has to have an operator, by its id, and max parallelism
    has to be the same. Ids are compared with the hashes of the job's uids, and of what these may have been called
    before. With allowNonRestoredState what is unmapped would be dropped without a word. Exit 3: it does not fit.

    Example:
        eoctl flink preflight /savepoints/savepoint-fd7201-0a1b2c3d4e5f --uids uids.txt
        eoctl flink preflight ./chk-7 --operators operators.json --json
    """
    from eoctl.services.foreign_preflight import preflight as look  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    found = look(open_address(snapshot, map_paths), _job_of(uids, operators))
    invocation.out.answer(
        "flink.preflight",
        fields_of(found),
        lambda: _preflight_lines(found, invocation),
        brief=lambda: ["fits" if found.fits else "does not fit"],
    )
    if not found.fits:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _job_of(uids: str | None, operators: str | None) -> tuple[JobOperator, ...]:
    from eoctl.services.foreign_preflight import read_operators, read_uids  # noqa: PLC0415  (start-up)

    if (uids is None) == (operators is None):
        raise UsageError("one of --uids and --operators is needed", hint="--uids FILE, a uid to a line")
    if uids is not None:
        return read_uids(read_text(uids, "--uids"), uids)
    assert operators is not None
    return read_operators(read_text(operators, "--operators").encode(), operators)


def _preflight_lines(found: Preflight, invocation: Invocation) -> Iterator[str]:
    out = invocation.out
    if found.fits:
        yield f"fits: every state of {found.snapshot} has an operator in the job"
    else:
        yield (
            f"does not fit: {plural(len(found.unmapped), 'operator')} with state that the job lacks, "
            f"{plural(len(found.parallelism), 'conflict')} of parallelism"
        )
    if found.unmapped:
        columns = [
            Column(title="ID", cells=[each.id for each in found.unmapped]),
            Column(title="UID", cells=[each.uid or each.name or "-" for each in found.unmapped], least=_UID_LEAST),
            Column(title="BYTES", cells=[human_bytes(each.bytes) for each in found.unmapped], right=True),
            Column(title="MEANT", cells=[found.suggestions.get(each.id, "-") for each in found.unmapped]),
        ]
        yield from out.table(columns)
        yield f"allowNonRestoredState would drop {human_bytes(found.dropped_bytes)} without a word"
        pairs = [f"--remap '{each.uid or each.id}={found.suggestions[each.id]}'" for each in found.unmapped
                 if each.id in found.suggestions and not each.uid.startswith("Sink Committer: ")]  # fmt: skip
        if pairs:
            yield f"eoctl flink remap {found.snapshot} --to DIR {' '.join(pairs)}"
    for conflict in found.parallelism:
        yield f"{conflict.uid or conflict.id}: {conflict.reason}"
    if found.starts_empty:
        yield f"starts empty: {', '.join(found.starts_empty)}"
