"""`eoctl store`: making a store, and seeing what it is, holds and costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import RED, Output, fields_of
from eoctl.cli.quantities import age, human_bytes, plural, second
from eoctl.cli.settings import ChosenStore
from eoctl.cli.table import Column

if TYPE_CHECKING:
    from eoctl.services.store_values import PipelineStats, StoreInfo, StoreStats
    from storage.backend import Place
    from storage.head import Ambient

app = typer.Typer()
_NAME_LEAST = 12


@app.command("init")
def init(
    ctx: typer.Context,
    *,
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="Where: a path, file:///PATH or s3://BUCKET/PREFIX.")
    ] = None,
    hash_name: Annotated[
        Literal["blake3", "sha256"],
        typer.Option("--hash", metavar="NAME", help="blake3 or sha256; it is never changed afterwards."),
    ] = "blake3",
    allow_network_fs: Annotated[
        bool,
        typer.Option("--allow-network-fs", help="Allow NFS, SMB or FUSE, if two processes racing there lose nothing."),
    ] = False,
) -> None:
    """Make a new, empty store.

    blake3 is the faster hash; sha256 is for those who must use it.

    Example:
        eoctl store init /srv/eoctl
        eoctl store init file:///srv/eoctl --hash sha256
        eoctl store init 's3://bucket/prefix?region=eu-central-1'
    """
    from formats.ids import HashAlgorithm  # noqa: PLC0415  (start-up)
    from storage.store import init_store  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    chosen = invocation.choose(url)
    place = invocation.place(chosen)
    unknown = f"it could not be seen whether the store was made: {place.url}"
    with told_by(
        lambda: _became(place, invocation.ambient), unknown=unknown, hint=f"eoctl store info --store {place.url}"
    ):
        algorithm = HashAlgorithm(hash_name)
        store = init_store(place, algorithm, invocation.ambient, allow_network_fs=allow_network_fs)
        record = store.record
        value: dict[str, Any] = {"url": place.url, "id": record.id, "format_version": record.version}
        value |= {"hash": str(record.hash), "created_at": record.created_at}
        lines = [f"made a store at {place.url} (hash {record.hash})", f"next: {_next_step(place, chosen)}"]
        invocation.out.answer("store.init", value, lambda: lines, brief=lambda: [place.url])


def _next_step(place: Place, chosen: ChosenStore) -> str:
    """The command to type now: with the store's name where no setting names it."""
    import shlex  # noqa: PLC0415  (only here)

    where = f" --store {shlex.quote(place.url)}" if chosen.origin == "--store" else ""
    return f"eoctl checkpoint create DIR -p PIPELINE{where}"


def _became(place: Place, ambient: Ambient) -> str:
    from formats.errors import StoreNotFoundError  # noqa: PLC0415  (start-up)
    from storage.store import open_store  # noqa: PLC0415  (start-up)

    try:
        open_store(place, ambient)
    except StoreNotFoundError:
        return f"no store was made: {place.url}"
    return f"there is a store: {place.url}"


@app.command("info")
def info(ctx: typer.Context) -> None:
    """Show what a store is and what its place can do.

    Example:
        eoctl store info --store /srv/eoctl
    """
    from eoctl.services.stats import store_info  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    found = store_info(invocation.open_store())
    invocation.out.answer(
        "store.info", fields_of(found), lambda: _info_lines(found, invocation.out), brief=lambda: [found.url]
    )


def _info_lines(found: StoreInfo, out: Output) -> list[str]:
    pairs = [
        ("store", found.url),
        ("id", found.id),
        ("format", f"version {found.format_version}"),
        ("hash", found.hash),
        ("created", f"{second(found.created_at)} UTC"),
        ("pipelines", str(found.pipelines)),
    ]
    return out.fields(pairs + [_capability(name, value) for name, value in found.capabilities.items()])


def _capability(name: str, value: str) -> tuple[str, str]:
    if name.endswith("_bytes") and value.isdecimal():
        return name.removesuffix("_bytes"), human_bytes(int(value))
    return name.replace("_", " "), value


@app.command("stats")
def stats(ctx: typer.Context) -> None:
    """Show what each pipeline stores, and what sharing saves.

    LOGICAL is what all snapshots would take without sharing, STORED what lies in the store, ORPHAN the part of it that
    no snapshot needs: uploads under way, or what gc will delete. SAVED is the part of LOGICAL that sharing and
    compression save. MISSING counts blobs that are needed and not there.

    Example:
        eoctl store stats --json
    """
    from eoctl.services.stats import store_stats  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    found = store_stats(invocation.open_store())
    invocation.out.answer(
        "store.stats", fields_of(found), lambda: _stats_lines(found, invocation.out), rows="pipelines"
    )


def _stats_lines(found: StoreStats, out: Output) -> Iterator[str]:
    rows = found.pipelines
    if rows:
        yield from out.table(_stats_columns(rows))
    elif not found.damaged:
        yield "no pipelines yet"
    yield from (out.paint(f"{name}: {reason}", RED) for name, reason in found.damaged.items())
    drill = found.last_good_drill_age_seconds
    yield f"last good restore drill: {'never' if drill is None else f'{age(drill)} ago'}"
    if found.unfinished_uploads:
        yield f"unfinished uploads: {plural(found.unfinished_uploads, 'file')}"


def _stats_columns(rows: tuple[PipelineStats, ...]) -> list[Column]:
    def numbers(title: str, values: list[int]) -> Column:
        return Column(title=title, cells=[str(value) for value in values], right=True)

    def sizes(title: str, values: list[int]) -> Column:
        return Column(title=title, cells=[human_bytes(value) for value in values], right=True)

    columns = [
        Column(title="PIPELINE", cells=[row.pipeline for row in rows], least=_NAME_LEAST),
        Column(title="CHECKPOINTS", short_title="CHK", cells=[str(row.checkpoints) for row in rows], right=True),
        Column(title="SAVEPOINTS", short_title="SAV", cells=[str(row.savepoints) for row in rows], right=True),
        numbers("TRASH", [row.trash for row in rows]),
        numbers("HOLDS", [row.holds for row in rows]),
        sizes("LOGICAL", [row.logical_bytes for row in rows]),
        numbers("BLOBS", [row.stored_blobs for row in rows]),
        sizes("STORED", [row.stored_bytes for row in rows]),
        sizes("ORPHAN", [row.orphan_bytes for row in rows]),
        Column(title="SAVED", cells=[_percent(row.saved_by_sharing) for row in rows], right=True),
    ]
    if any(row.missing_blobs for row in rows):
        columns.append(numbers("MISSING", [row.missing_blobs for row in rows]))
    return columns


def _percent(part: float) -> str:
    text = f"{100 * part:.1f}%"
    return text.removeprefix("-") if text == "-0.0%" else text
