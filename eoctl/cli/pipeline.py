"""`eoctl pipeline`: the pipelines of a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_pipelines
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import age, human_bytes, minute, second, timestamp
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.services.values import PipelineDetail, PipelineRow

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
