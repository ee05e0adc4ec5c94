"""`eoctl report`: how a pipeline's checkpoints went, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_snapshots
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.parameters import Pipeline
from eoctl.cli.quantities import human_bytes, human_seconds, minute
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.services.report_values import Report

app = typer.Typer()


@app.command("report")
def report(
    ctx: typer.Context,
    *,
    snapshot: Annotated[
        str | None,
        typer.Argument(metavar="[SNAP]", help="Up to this one; else to the newest.", autocompletion=complete_snapshots),
    ] = None,
    pipeline: Pipeline = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page with charts; replaced by rename.")
    ] = None,
) -> None:
    """Show growth, sharing and durations over time.

    The page is one file without script, and loads nothing from anywhere. Without --html a table is printed; --json has
    every figure of the page.

    Example:
        eoctl report -p orders --html orders.html
        eoctl report orders@42 --json
    """
    from eoctl.services.report import report as make_report  # noqa: PLC0415  (start-up)
    from eoctl.services.resolve import LATEST, resolve  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    out = invocation.out
    store = invocation.open_store()
    found = make_report(store, resolve(store, snapshot or LATEST, pipeline))
    if html is not None:
        from eoctl.services.outfile import replace_text  # noqa: PLC0415  (start-up)
        from eoctl.services.report_html import render_html  # noqa: PLC0415  (start-up)

        replace_text(html, render_html(found))
        out.notice(f"wrote {html}")
    out.answer("report", fields_of(found), lambda: _lines(found, out), rows="snapshots", brief=list)


def _lines(found: Report, out: Output) -> list[str]:
    rows = found.snapshots
    saved = f": {100 * found.saved_by_sharing:.1f} % saved" if found.saved_by_sharing > 0 else ", manifests included"
    return [
        *out.table(
            [
                Column("SNAPSHOT", [row.snapshot for row in rows], least=8),
                Column("CREATED", [minute(row.created_at) for row in rows]),
                Column("FULL", [human_bytes(row.full_bytes) for row in rows], right=True),
                Column("ADDED", [human_bytes(row.added_bytes) for row in rows], right=True),
                Column("ALONE", [human_bytes(row.exclusive_bytes) for row in rows], right=True),
                Column("DURATION", [_duration(row.duration_seconds) for row in rows], right=True, short_title="TOOK"),
            ]
        ),
        "",
        f"{human_bytes(found.logical_bytes)} in full, {human_bytes(found.referenced_bytes)} stored{saved}",
    ]


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else human_seconds(seconds)
