"""`eoctl checkpoint create`: the shell as a pipeline's writer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eoctl.cli.completion import complete_pipelines
from eoctl.cli.foreign import MapPaths, mappings_of
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import fields_of
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import human_bytes, human_seconds, plural
from eoctl.cli.sources import DEFAULT_OPERATOR, parse_source, parts_of, read_offsets
from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.engines.flink_files import Place
    from eoctl.engines.flink_paths import Mapping
    from eoctl.services.checkpoint import Opened, Request
    from eoctl.services.values import Created
    from formats.ids import PipelineId
    from storage.store import Store

app = typer.Typer()
_COMMAND = "checkpoint create"
_MAX_PARALLELISM = 1 << 15


@app.command("create")
def create(
    ctx: typer.Context,
    *,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="DIR, rocksdb:DIR, sqlite:FILE or flink:PATH; several as OPERATOR[/SUBTASK]=SOURCE.",
        ),
    ],
    pipeline: Annotated[
        str,
        typer.Option(
            "-p", "--pipeline", metavar="PIPELINE", help="Whose state it is.", autocompletion=complete_pipelines
        ),
    ],
    offsets: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help='Where the sources stand: JSON {"source-uid": {"topic-0": 1234}}; - is stdin.'
        ),
    ] = None,
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag; may be given several times.")
    ] = None,
    as_id: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Commit under this id, once: the same command again changes nothing."),
    ] = None,
    link: Annotated[
        bool,
        typer.Option("--link", help="Hard-link files into the store: only if nobody ever writes into them again."),
    ] = False,
    reread: Annotated[
        bool,
        typer.Option("--reread", help="Read every file, also those that look unchanged since the last checkpoint."),
    ] = False,
    verify_capture: Annotated[
        bool, typer.Option("--verify-capture", help="Check what sources other than DIR gave before it is kept.")
    ] = False,
    max_parallelism: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, max=_MAX_PARALLELISM, help="Number of key groups of the operators; 0: not known."
        ),
    ] = 0,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Fence off the writer that seems to be live; it cannot commit any more.")
    ] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="Of one flink:ROOT: take each new complete chk-N below it, then exit.")
    ] = False,
    map_paths: MapPaths = None,
) -> None:
    """Take a checkpoint of state on this host.

    A file that looks as it did at the last checkpoint (inode, size, mtime) is not read again. Either the whole
    checkpoint exists in the end, or nothing of it. The command is a writer of its own: an application that commits
    to the same pipeline would be fenced off, so it is refused while one seems to be live. A path that holds '=' or
    begins like rocksdb: is written behind an operator, as in main=./a=b. A checkpoint or savepoint of Flink is kept
    as one folder that holds all it names; what several of them share is stored once.

    Example:
        eoctl checkpoint create /var/lib/app/state -p orders --tag nightly
        eoctl checkpoint create rocksdb:/data/db -p orders --offsets offsets.json --as-id 42
        eoctl checkpoint create joins/0=/data/0 joins/1=/data/1 -p orders
        eoctl checkpoint create flink:/checkpoints -p orders --follow
    """
    from eoctl.services.checkpoint import Request  # noqa: PLC0415  (start-up)
    from formats.ids import PipelineId  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    writer = PipelineId(pipeline)
    if follow:
        if as_id is not None or offsets is not None:
            raise UsageError(
                "--follow takes neither --as-id nor --offsets", hint="each new checkpoint gets the next id"
            )
        wish = (tuple(tags or ()), link, verify_capture)
        _follow(invocation, writer, sources, mappings_of(map_paths), wish, take_over=take_over)
        return
    request = Request(
        parts=parts_of(sources, max_parallelism, mappings_of(map_paths), verify_capture=verify_capture),
        offsets={} if offsets is None else read_offsets(offsets),
        tags=tuple(tags or ()),
        as_id=as_id,
        link=link,
        reread=reread,
    )
    store = invocation.open_store()
    _create(invocation, store, writer, request, take_over=take_over)


def _create(invocation: Invocation, store: Store, pipeline: PipelineId, request: Request, *, take_over: bool) -> None:
    from eoctl.services.checkpoint import create_checkpoint  # noqa: PLC0415  (start-up)
    from eoctl.services.writers import writing  # noqa: PLC0415  (start-up)

    attempts: list[Opened] = []
    unknown = "it could not be seen whether the checkpoint was committed"
    with told_by(lambda: _became(store, attempts), unknown=unknown, hint=f"eoctl checkpoint list -p {pipeline}"):
        with (
            writing(store, pipeline, take_over=take_over, note=_COMMAND) as opened,
            Meter(invocation, "checkpoint.create", "storing") as meter,
        ):
            attempts.append(opened)
            created = create_checkpoint(opened, request, meter)
        value: dict[str, Any] = {**fields_of(created.snapshot), **fields_of(created)}
        del value["snapshot"]
        invocation.out.answer(
            "checkpoint.create", value, lambda: _lines(created), brief=lambda: [created.snapshot.address]
        )


def _follow(
    invocation: Invocation,
    pipeline: PipelineId,
    sources: list[str],
    mappings: tuple[Mapping, ...],
    wish: tuple[tuple[str, ...], bool, bool],
    *,
    take_over: bool,
) -> None:
    from eoctl.services.follow import follow, new_snapshots  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)
    from eoctl.services.writers import writing  # noqa: PLC0415  (start-up)

    given = [parse_source(text) for text in sources]
    if len(given) != 1 or given[0].kind != "flink":
        raise UsageError("--follow takes one source: flink:ROOT", hint="eoctl checkpoint create flink:ROOT -p PIPELINE")
    store = invocation.open_store()
    root = path_of(given[0].path)
    attempts: list[Opened] = []
    made: list[Created] = []
    found = new_snapshots(store, pipeline, root, mappings)
    for folder in found.unreadable:
        invocation.out.notice(f"left out, as it cannot be read: {folder}")
    unknown = "it could not be seen what was committed"
    with told_by(lambda: _became(store, attempts), unknown=unknown, hint=f"eoctl checkpoint list -p {pipeline}"):
        if found.snapshots:  # where there is nothing new, nobody is fenced off
            with (
                writing(store, pipeline, take_over=take_over, note=_COMMAND) as opened,
                Meter(invocation, "checkpoint.create", "storing") as meter,
            ):
                attempts.append(opened)
                made.extend(follow(opened, found, given[0].operator or DEFAULT_OPERATOR, *wish, meter))
        invocation.out.answer(
            "checkpoint.create",
            {"created": [{**fields_of(created.snapshot), **_rest_of(created)} for created in made]},
            lambda: _followed_lines(made, root),
            rows="created",
            brief=lambda: (created.snapshot.address for created in made),
        )


def _rest_of(created: Created) -> dict[str, Any]:
    value = fields_of(created)
    del value["snapshot"]
    return value


def _followed_lines(made: list[Created], root: Place) -> Iterator[str]:
    if not made:
        yield f"nothing new below {root}"
    for created in made:
        yield from _lines(created)


def _became(store: Store, attempts: list[Opened]) -> str:
    """Whether this command's attempt committed, by HEAD as it is now."""
    for opened in attempts:
        for entry in reversed(store.head(opened.pipeline).head.live):
            if entry.attempt == opened.attempt:
                return f"{opened.pipeline}@{entry.label} is committed, only its report is lost"
    return "nothing was committed"


def _lines(created: Created) -> Iterator[str]:
    row = created.snapshot
    if created.existed:
        yield f"{row.address} was there already, with the same content: nothing was written"
        return
    yield f"{row.address}: {human_bytes(row.full_bytes)} in {plural(row.files, 'file')}"
    yield (
        f"new: {human_bytes(row.added_bytes)} in {plural(row.added_files, 'file')}, "
        f"{human_bytes(created.stored_bytes)} of new blobs, in {human_seconds(created.seconds)}"
    )
