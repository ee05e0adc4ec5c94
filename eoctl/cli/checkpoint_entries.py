"""`eoctl checkpoint tag|hold|release|delete|undelete`: edits of HEAD. None of them touches a blob."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.completion import complete_snapshots
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import fields_of
from eoctl.cli.parameters import Pipeline, Snapshot
from eoctl.cli.quantities import human_bytes, parse_duration, plural, second
from formats.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from eoctl.services.resolve import Resolved
    from eoctl.services.values import Deletion, EntryChange, HoldRow
    from formats.ids import PipelineId
    from storage.store import Store

app = typer.Typer()


@app.command("tag")
def tag(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    tags: Annotated[
        list[str], typer.Argument(metavar="TAG...", help="Letters, digits and . _ : / = + -, at most 128.")
    ],
    pipeline: Pipeline = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the tags instead.")] = False,
) -> None:
    """Add tags to a snapshot, or remove them.

    Example:
        eoctl checkpoint tag orders@42 release-7 good
        eoctl checkpoint tag orders@42 good --remove
    """
    from eoctl.services.entries import tag as tag_snapshot  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    resolved = _resolve(store, snapshot, pipeline)
    with _unsure(resolved.pipeline):
        change = tag_snapshot(store, resolved, () if remove else tags, tags if remove else ())
        row = change.snapshot
        line = f"{row.address}: {'' if change.changed else 'nothing to change, '}tags {', '.join(row.tags) or 'none'}"
        invocation.out.answer("checkpoint.tag", _document(change), lambda: [line], brief=lambda: [row.address])


@app.command("hold")
def hold(
    ctx: typer.Context,
    *,
    snapshot: Snapshot,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; shown to who wonders later.")],
    pipeline: Pipeline = None,
    duration: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="7d, 6h, 30m. Else until it is released.")
    ] = None,
) -> None:
    """Keep a snapshot until it is released.

    Without --for nothing but `release` ends the hold, and the snapshot cannot be deleted while it lasts. With --for,
    gc drops it after that time.

    Example:
        eoctl checkpoint hold orders@42 --reason "audit 2026-11" --for 90d
    """
    from eoctl.services.entries import hold as hold_snapshot  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    seconds = None if duration is None else parse_duration(duration, "--for")
    store = invocation.open_store()
    resolved = _resolve(store, snapshot, pipeline)
    with _unsure(resolved.pipeline):
        row = hold_snapshot(store, resolved, reason, seconds)
        line = f"{row.snapshot} is held {_end_of(row)}: {row.reason}"
        invocation.out.answer("checkpoint.hold", fields_of(row), lambda: [line], brief=lambda: [row.id])


@app.command("release")
def release(
    ctx: typer.Context,
    *,
    snapshot: Annotated[
        str | None,
        typer.Argument(metavar="SNAP", help="Drop all holds of this snapshot.", autocompletion=complete_snapshots),
    ] = None,
    pipeline: Pipeline = None,
    hold_id: Annotated[
        str | None, typer.Option("--hold", metavar="ID", help="Drop this hold only: its id, or 8 digits of it.")
    ] = None,
) -> None:
    """Drop the holds of a snapshot.

    `eoctl pipeline show` lists the holds.

    Example:
        eoctl checkpoint release orders@42
        eoctl checkpoint release --hold 1f0c9d2e
    """
    from eoctl.services.entries import release as release_holds  # noqa: PLC0415  (start-up)

    if (snapshot is None) == (hold_id is None):
        raise UsageError("name a snapshot, or one hold", hint="eoctl checkpoint release SNAP, or --hold ID")
    invocation = invocation_of(ctx)
    store = invocation.open_store()
    what = _resolve(store, snapshot, pipeline) if snapshot is not None else hold_id or ""
    with _unsure(what if isinstance(what, str) else what.pipeline):
        released = release_holds(store, what)
        lines = [f"released: {hold.snapshot} was held {_end_of(hold)}: {hold.reason}" for hold in released.released]
        invocation.out.answer(
            "checkpoint.release",
            fields_of(released),
            lambda: lines or ["there was no hold: nothing to release"],
            brief=lambda: (hold.id for hold in released.released),
        )


@app.command("delete")
def delete(
    ctx: typer.Context,
    *,
    snapshots: Annotated[
        list[str],
        typer.Argument(metavar="SNAP...", help="Snapshots of one pipeline.", autocompletion=complete_snapshots),
    ],
    pipeline: Pipeline = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and do nothing.")] = False,
) -> None:
    """Move snapshots to the trash; undelete brings them back.

    All of them go at once, or none. They stay whole in the trash until gc drops them, and no space is free before. A
    snapshot under a hold without an end is not deleted.

    Example:
        eoctl checkpoint delete orders@40 orders@41 --dry-run
    """
    delete_snapshots(invocation_of(ctx), snapshots, pipeline, dry_run=dry_run, schema="checkpoint.delete")


def delete_snapshots(
    invocation: Invocation, snapshots: list[str], pipeline: str | None, *, dry_run: bool, schema: str
) -> None:
    """The snapshots are in the trash, all of them or none, and the answer says so."""
    from eoctl.services.entries import delete as delete_entries  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    chosen = [_resolve(store, snapshot, pipeline) for snapshot in snapshots]
    owner = chosen[0].pipeline
    if any(resolved.pipeline != owner for resolved in chosen):
        raise UsageError("the snapshots are of several pipelines", hint="one command for each pipeline")
    with _unsure(owner):
        deletion = delete_entries(store, owner, [resolved.entry.label for resolved in chosen], dry_run=dry_run)
        for note in deletion.notes:
            invocation.out.notice(note)
        invocation.out.answer(
            schema,
            fields_of(deletion),
            lambda: _deletion_lines(deletion),
            brief=lambda: (change.snapshot.address for change in deletion.entries),
        )


def _deletion_lines(deletion: Deletion) -> Iterator[str]:
    for change in deletion.entries:
        row = change.snapshot
        now = "would go to" if deletion.dry_run else "is in"
        newest = "; it was the newest checkpoint" if change.newest else ""
        size = f"{human_bytes(row.full_bytes)} in {plural(row.files, 'file')}{newest}"
        yield f"{row.address} {now if change.changed else 'was before, and stays, in'} the trash ({size})"
    if deletion.frees_bytes is not None and deletion.frees_blobs is not None:
        amount = f"{human_bytes(deletion.frees_bytes)} in {plural(deletion.frees_blobs, 'blob')}"
        yield f"once gc drops the trash, {amount} {'would be' if deletion.dry_run else 'are'} free"
    if not deletion.dry_run:
        yield f"to bring one back: eoctl checkpoint undelete {deletion.entries[0].snapshot.address}"


@app.command("undelete")
def undelete(ctx: typer.Context, *, snapshot: Snapshot, pipeline: Pipeline = None) -> None:
    """Bring a snapshot back from the trash.

    Example:
        eoctl checkpoint undelete orders@40
    """
    from eoctl.services.entries import undelete as undelete_snapshot  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    store = invocation.open_store()
    resolved = _resolve(store, snapshot, pipeline)
    with _unsure(resolved.pipeline):
        change = undelete_snapshot(store, resolved.pipeline, resolved.entry.label)
        row = change.snapshot
        line = f"{row.address} is {'back' if change.changed else 'not in the trash'}: {row.status}"
        invocation.out.answer("checkpoint.undelete", _document(change), lambda: [line], brief=lambda: [row.address])


def _document(change: EntryChange) -> dict[str, object]:
    return {**fields_of(change.snapshot), "changed": change.changed}


def _end_of(hold: HoldRow) -> str:
    return "until it is released" if hold.expires_at is None else f"until {second(hold.expires_at)} UTC"


def _resolve(store: Store, snapshot: str, pipeline: str | None) -> Resolved:
    from eoctl.services.resolve import resolve  # noqa: PLC0415  (start-up)

    return resolve(store, snapshot, pipeline)


def _unsure(pipeline: PipelineId | str) -> AbstractContextManager[None]:
    """An interrupted edit of HEAD was made or was not; which of them, the pipeline shows."""
    unknown = "the change may have been made or not"

    def look() -> str:
        raise UnavailableError(unknown)

    hint = f"eoctl pipeline show {pipeline}" if not isinstance(pipeline, str) else "eoctl pipeline show"
    return told_by(look, unknown=unknown, hint=hint)
