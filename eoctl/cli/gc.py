"""`eoctl gc`: for cron, on any host, beside live writers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_pipelines
from eoctl.cli.exit_codes import ANSWER_NO
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import Form, Output, fields_of, tell
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import human_bytes, human_seconds, parse_duration, plural, timestamp
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.services.gc_rows import GcRun, PipelineGc
    from formats.ids import PipelineId
    from storage.store import Store

app = typer.Typer()
_RULE_METAVAR = "N"
_NAME_LEAST = 12
_REASON_LEAST = 20


@app.command("gc")
def gc(
    ctx: typer.Context,
    *,
    pipelines: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--pipeline", metavar="PIPELINE", help="Only this one; repeatable.", autocompletion=complete_pipelines
        ),
    ] = None,
    keep_last: Annotated[int, typer.Option(metavar=_RULE_METAVAR, min=0, help="Keep the newest N checkpoints.")] = 0,
    keep_within: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Keep those younger than this: 7d, 6h.")
    ] = None,
    keep_hourly: Annotated[int, typer.Option(metavar=_RULE_METAVAR, min=0, help="The last of each of N hours.")] = 0,
    keep_daily: Annotated[int, typer.Option(metavar=_RULE_METAVAR, min=0, help="The last of each of N days.")] = 0,
    keep_weekly: Annotated[int, typer.Option(metavar=_RULE_METAVAR, min=0, help="The last of each of N weeks.")] = 0,
    keep_tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Those with this tag; repeatable.")] = None,
    grace: Annotated[
        str, typer.Option(metavar="DURATION", help="How long an upload may take before it has to copy: 6h; 0s: none.")
    ] = "6h",
    keep_trash: Annotated[
        str, typer.Option(metavar="DURATION", help="How long undelete can bring a snapshot back: 24h; 0s: not.")
    ] = "24h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what a run would do now.")] = False,
    expect: Annotated[
        int, typer.Option(metavar="N", min=0, help="So many blobs of garbage are no surprise (see above).")
    ] = 0,
    repack: Annotated[bool, typer.Option("--repack/--no-repack", help="Write packs below 90 % live again.")] = True,
    metrics: Annotated[
        Path | None, typer.Option(metavar="FILE.prom", help="Write figures for Prometheus, by rename.")
    ] = None,
) -> None:
    """Expire old checkpoints, delete what no snapshot needs.

    Safe at any time, on any host, beside writers, restores and other runs. Without a --keep rule nothing expires. What
    a rule does not keep goes to the trash; a later run drops it from there once --keep-trash has passed, and what
    only it needed is deleted by the run after the next advance, --grace later. Savepoints and held snapshots are
    never expired. More than 1000 blobs that are more than half of all are not deleted without --expect.

    Exit 3: stopped for --expect, or something that snapshots need is missing.

    Example:
        eoctl gc --keep-last 3 --keep-hourly 24 --keep-daily 7 --dry-run
        eoctl gc -p orders --keep-within 7d --keep-tag release --metrics /var/lib/node_exporter/eoctl-gc.prom
    """
    from eoctl.services.gc import Options, collect  # noqa: PLC0415  (start-up)
    from eoctl.services.retention import Policy  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    policy = Policy(
        keep_last=keep_last,
        keep_within_seconds=0 if keep_within is None else parse_duration(keep_within, "--keep-within"),
        keep_hourly=keep_hourly,
        keep_daily=keep_daily,
        keep_weekly=keep_weekly,
        keep_tags=tuple(keep_tag or ()),
    )
    options = Options(
        policy=policy,
        grace_seconds=_or_none(grace, "--grace"),
        keep_trash_seconds=_or_none(keep_trash, "--keep-trash"),
        expect=expect,
        dry_run=dry_run,
        names=invocation.verbose,
        repack=repack,
        cache=invocation.environment.cache_home / "eoctl" / "manifests",
    )
    store = invocation.open_store()
    chosen = _chosen(store, pipelines)
    stopped = "whatever it deleted was garbage; run it again at any time"
    with told_by(lambda: stopped, unknown=stopped, hint="eoctl gc"):
        with Meter(invocation, "gc", "deleting") as meter:
            run = collect(store, chosen, options, meter.bytes_so_far)
        if metrics is not None:
            from eoctl.services.gc_metrics import gc_metrics  # noqa: PLC0415  (start-up)
            from eoctl.services.prometheus import write_metrics  # noqa: PLC0415  (start-up)

            write_metrics(metrics, gc_metrics(run, timestamp(invocation.ambient.now())))
    _answer(invocation, run)
    code = max((_exit_code(row) for row in run.pipelines), default=0)
    if code:
        raise typer.Exit(code)


def _or_none(text: str, option: str) -> int:
    """A duration that may be nothing."""
    return 0 if text in {"0", "0s"} else parse_duration(text, option)


def _chosen(store: Store, names: Sequence[str] | None) -> list[PipelineId]:
    """The pipelines named, or all of them. Raises: BadNameError."""
    from eoctl.services.gc import pipelines_to_collect  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    if not names:
        return list(pipelines_to_collect(store))
    return [PipelineId(name) for name in dict.fromkeys(names)]


def _exit_code(row: PipelineGc) -> int:
    return row.exit_code or (ANSWER_NO if row.stopped or row.dangling else 0)


def _answer(invocation: Invocation, run: GcRun) -> None:
    out = invocation.out
    out.answer("gc", fields_of(run), lambda: _lines(out, run), rows="pipelines", brief=lambda: ())
    for note in run.notes:
        out.notice(note)
    for row in run.pipelines:
        for trouble, hint in _troubles(row):
            if out.form is Form.TEXT:
                tell(f"error: {row.pipeline}: {trouble}")
                if hint:
                    tell(f"hint: {hint}")
        for note in row.notes:
            out.notice(f"{row.pipeline}: {note}")
        if row.strangers:
            out.notice(
                f"{row.pipeline}: {plural(len(row.strangers), 'file')} of nobody's, left alone: {row.strangers[0]}"
            )


def _troubles(row: PipelineGc) -> Iterator[tuple[str, str]]:
    if row.error:
        yield row.message, row.hint
    if row.stopped:
        yield row.stopped, f"it is left as it is; eoctl gc -p {row.pipeline} --dry-run -v names the blobs"
    for lost in row.dangling:
        yield f"{lost.key} is gone, and {', '.join(lost.snapshots)} need it", f"eoctl store repair -p {row.pipeline}"


def _lines(out: Output, run: GcRun) -> Iterator[str]:
    if not run.pipelines:
        out.notice("there are no pipelines in this store")
    for number, row in enumerate(run.pipelines):
        if not row.era:
            continue  # nothing was found out
        if number:
            yield ""
        yield out.heading(f"{row.pipeline}{'  (dry run: nothing is changed)' if run.dry_run else ''}")
        if row.expired or row.by_rules:
            yield from out.table(_retention(row))
        yield from out.fields(_figures(row))
        yield from (f"garbage: {name}" for name in row.garbage)


def _retention(row: PipelineGc) -> list[Column]:
    found = [(each.snapshot, "expire", each.reason) for each in row.expired]
    found += [(each.snapshot, "keep", each.reason) for each in row.kept]
    return [
        Column(title="SNAPSHOT", cells=[snapshot for snapshot, _, _ in found], least=_NAME_LEAST),
        Column(title="", cells=[verdict for _, verdict, _ in found]),
        Column(title="REASON", cells=[reason for _, _, reason in found], least=_REASON_LEAST),
    ]


def _figures(row: PipelineGc) -> Iterator[tuple[str, str]]:
    would = "would be " if row.dry_run else ""
    if row.expired:
        yield "Expired", f"{plural(len(row.expired), 'snapshot')} {would}moved to the trash"
    if row.left_trash:
        yield "Trash", f"{plural(row.left_trash, 'snapshot')} {would}dropped for good"
    count = row.garbage_blobs if row.dry_run or row.stopped else row.deleted_blobs
    size = row.garbage_bytes if row.dry_run or row.stopped else row.freed_bytes
    verb = "Garbage" if row.dry_run or row.stopped else "Deleted"
    yield verb, f"{plural(count, 'blob')}, {human_bytes(size)}"
    if row.repacked_packs:
        yield (
            "Re-packed",
            f"{plural(row.repacked_packs, 'pack')} of {human_bytes(row.repacked_bytes)} {would}written again",
        )
    yield "Live", f"{plural(row.live_blobs, 'blob')}, {human_bytes(row.live_bytes)}"
    if row.young_orphans:
        told = f"{plural(row.young_orphans, 'blob')}, {human_bytes(row.young_bytes)}"
        yield "Unreferenced", f"{told}, in use or for a later run (--grace)"
    yield "Stored", human_bytes(row.stored_bytes)
    yield "Took", human_seconds(row.seconds)
