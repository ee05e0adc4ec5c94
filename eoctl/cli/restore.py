"""`eoctl restore`: a snapshot's files in a new directory, and where its sources go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import invocation_of
from eoctl.cli.mappings import AllowNonRestored, Drop, MapFile, Merge, Remap, mapping_of
from eoctl.cli.next_steps import next_steps
from eoctl.cli.output import Form, Output, fields_of, tell, to_json
from eoctl.cli.parameters import Pipeline, Snapshot
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import human_bytes, human_seconds, plural
from eoctl.cli.table import clean
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.services.values import Restored

app = typer.Typer()
NOTICE = "eoctl.notice/1"


@app.command("restore")
def restore(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Where to; must not exist, or be empty.")],
    pipeline: Pipeline = None,
    operator: Annotated[str | None, typer.Option(metavar="UID", help="Only this operator, by its uid or id.")] = None,
    link: Annotated[
        bool,
        typer.Option("--link", help="Hard-link what can be linked, unchecked: only if nobody writes into the files."),
    ] = False,
    fallback: Annotated[
        bool, typer.Option("--fallback", help="If it is damaged, restore the newest older checkpoint that is whole.")
    ] = False,
    parallelism: Annotated[
        int | None, typer.Option("--parallelism", metavar="N", min=1, help="Deal the state out to N subtasks, by rows.")
    ] = None,
    max_parallelism: Annotated[
        int | None,
        typer.Option("--max-parallelism", metavar="N", min=1, max=1 << 15, help="Hash keys anew into N key groups."),
    ] = None,
    remap: Remap = None,
    map_file: MapFile = None,
    drop: Drop = None,
    merge: Merge = False,
    allow_non_restored: AllowNonRestored = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would become of each operator's state.")
    ] = False,
) -> None:
    """Restore a snapshot into a new directory.

    Every byte is checked, and the directory appears when all of it is there and right, not before: a damaged or
    missing file is an error (exit 13) and leaves nothing. Only files that --link links are not read. The files of
    one subtask lie in DIR itself, those of several in DIR/OPERATOR/SUBTASK. The answer tells the offsets at which
    the sources go on; with --fallback these may be older ones, and a warning says so.

    With --parallelism, --max-parallelism or a mapping, and of a savepoint's folder or a snapshot of Flink, state is
    restored by rows: a table in Parquet for each state and subtask, in DIR/OPERATOR/SUBTASK.

    Example:
        eoctl restore orders@latest --to /var/lib/app/restored
        eoctl restore orders@42 --to ./joins --operator joins --json
        eoctl restore orders@before-upgrade --to ./state --parallelism 8 --remap totals=sums
    """
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.restore import restore as restore_snapshot  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    target = Path(to).expanduser()
    mapping = mapping_of(remap, map_file, drop, merge=merge, allow_non_restored=allow_non_restored)
    if parallelism or max_parallelism or mapping or dry_run or is_foreign(snapshot):
        from eoctl.cli.restore_rows import restore_rows  # noqa: PLC0415  (start-up)
        from eoctl.services.rescale import Deal  # noqa: PLC0415  (start-up)

        if link or fallback:
            raise UsageError("state is restored by rows here, not by files", hint="leave --link and --fallback out")
        deal = Deal(
            parallelism=parallelism or 0, max_parallelism=max_parallelism or 0, operator=operator, mapping=mapping
        )
        restore_rows(invocation, snapshot, pipeline, target, deal, dry_run=dry_run)
        return
    store = invocation.open_store()
    resolved = resolve(store, snapshot, pipeline)
    before = _holds_something(target)
    unknown = f"it could not be seen whether {target} is there"
    with told_by(lambda: _became(target, before=before), unknown=unknown, hint=f"ls {target}"):
        with Meter(invocation, "restore", "restoring") as meter:
            restored = restore_snapshot(
                store, resolved, target, operator=operator, link=link, fallback=fallback, progress=meter
            )
        _warn(restored, invocation.out)
        for note in restored.notes:
            invocation.out.notice(note)
        invocation.out.answer("restore", fields_of(restored), lambda: _lines(restored), brief=lambda: [restored.target])


def _warn(restored: Restored, out: Output) -> None:
    """That this is not what was asked for is said with -q too."""
    if restored.fell_back_from:
        asked = restored.fell_back_from[0]
        text = f"{asked.snapshot} is damaged; {restored.snapshot} was restored in its place: {asked.reason}"
        tell(f"warning: {clean(text)}" if out.form is Form.TEXT else to_json({"schema": NOTICE, "warning": text}))


def _became(target: Path, *, before: bool) -> str:
    """The target appears in one step, so what is new there is whole."""
    if not target.is_dir():
        return f"{target} was not created"
    if _holds_something(target) and not before:
        return f"{target} is restored, complete; only its report is lost"
    return f"{target} is as it was"


def _holds_something(target: Path) -> bool:
    try:
        return any(target.iterdir())
    except OSError:
        return False


def _lines(restored: Restored) -> Iterator[str]:
    linked = f", {plural(restored.linked_files, 'file')} linked" if restored.linked_files else ""
    yield (
        f"{restored.snapshot} restored to {restored.target}: {human_bytes(restored.bytes)} "
        f"in {plural(restored.files, 'file')}{linked}, in {human_seconds(restored.seconds)}"
    )
    if len(restored.operators) > 1:
        yield from (f"  {operator.uid}/{operator.subtask}  {operator.path}" for operator in restored.operators)
    yield from next_steps(restored)
    if restored.fell_back_from:
        passed = ", ".join(one.snapshot for one in restored.fell_back_from)
        yield f"NOT what was asked for: fell back from {passed}, which cannot be restored"
