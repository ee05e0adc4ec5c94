"""`eoctl txn list` and `eoctl txn audit`: what sinks pre-committed, and whether the log of commits is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_snapshots
from eoctl.cli.exit_codes import ANSWER_NO
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import fields_of
from eoctl.cli.parameters import Pipeline, Snapshot
from eoctl.cli.quantities import plural
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.runtime.audit import Finding

app = typer.Typer()


@app.command("list")
def list_(ctx: typer.Context, *, snapshot: Snapshot, pipeline: Pipeline = None) -> None:
    """List the sink transactions of a snapshot.

    Pending: a recovery from this snapshot commits it, if it is not committed yet. Committed: a later checkpoint does
    not carry it any more. Zombie: pending, and its attempt has been fenced by a newer one, which is told.

    Example:
        eoctl txn list orders@latest
        eoctl txn list orders@42 --jsonl
    """
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.transactions import list_transactions  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    out = invocation.out
    store = invocation.open_store()
    resolved = resolve(store, snapshot, pipeline)
    rows = list_transactions(store, resolved)

    def lines() -> Iterator[str]:
        columns = [
            Column("SINK", [row.sink for row in rows]),
            Column("TRANSACTION", [row.id for row in rows]),
            Column("STATE", [row.state for row in rows]),
            Column("CHECKPOINT", [str(row.checkpoint) for row in rows]),
            Column("SUBTASK", [str(row.subtask) for row in rows]),
            Column("RECORDS", ["-" if row.records is None else str(row.records) for row in rows]),
            Column("FENCED BY", [row.fenced_by or "-" for row in rows]),
        ]
        yield from out.table_or_notice(columns, f"{resolved.address} holds no transactions")

    answer = {"snapshot": resolved.address, "transactions": [fields_of(row) for row in rows]}
    out.answer("txn.list", answer, lines, rows="transactions")


@app.command("audit")
def audit(
    ctx: typer.Context,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The audit log of a pipeline.")],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="SNAP",
            help="A snapshot that knows how long the log was.",
            autocompletion=complete_snapshots,
        ),
    ] = None,
    pipeline: Pipeline = None,
) -> None:
    """Check that a log of commits is whole.

    Each line is chained to the one before, so a missing or changed one shows. Lines cut off at the end show only
    against a snapshot.

    Exit 3: the log is not whole.

    Example:
        eoctl txn audit /var/log/orders.audit
        eoctl txn audit /var/log/orders.audit --against orders@latest
    """
    from eoctl.runtime.audit import FIRST  # noqa: PLC0415  (start-up)
    from eoctl.runtime.audit import audit as check  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    lines, head = (0, FIRST) if against is None else _known(ctx, against, pipeline)
    count, findings = check(Path(file).expanduser(), lines, head)
    answer = {"file": file, "lines": count, "whole": not findings, "findings": [fields_of(one) for one in findings]}
    invocation.out.answer("txn.audit", answer, lambda: _lines(file, count, findings), rows="findings")
    if findings:
        raise typer.Exit(ANSWER_NO)


def _known(ctx: typer.Context, against: str, pipeline: str | None) -> tuple[int, str]:
    """How many lines the log had when the snapshot was taken, and the last one's hash. Raises: UsageError."""
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)
    from formats.errors import UsageError  # noqa: PLC0415  (start-up)

    store = invocation_of(ctx).open_store()
    resolved = resolve(store, against, pipeline)
    properties = store.manifest(resolved.head, resolved.entry).properties
    lines, head = properties.get("audit.lines", ""), properties.get("audit.head", "")
    if not lines.isdecimal() or not head:
        raise UsageError(f"{resolved.address} was taken without an audit log", hint="leave out --against")
    return int(lines), head


def _lines(file: str, count: int, findings: tuple[Finding, ...]) -> Iterator[str]:
    yield f"{file}: {plural(count, 'commit')}, {'whole' if not findings else plural(len(findings), 'finding')}"
    yield from (f"  line {one.line}: {one.reason}" for one in findings)
