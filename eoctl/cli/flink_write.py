"""`eoctl flink remap`, `relocate`, `export`: snapshots for Flink."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.foreign import MapPaths, open_address, read_text
from eoctl.cli.interrupts import told_by
from eoctl.cli.invocation import Invocation, invocation_of
from eoctl.cli.output import fields_of
from eoctl.cli.parameters import Pipeline
from eoctl.cli.progress import Meter
from eoctl.cli.quantities import human_bytes, plural

if TYPE_CHECKING:
    from eoctl.engines.flink import FlinkSnapshot
    from eoctl.services.foreign_write import Written
    from eoctl.services.savepoint_build import SnapshotSource

app = typer.Typer()

Foreign = Annotated[
    str,
    typer.Argument(
        metavar="SNAP", help="A chk-N, a savepoint's folder, or its _metadata; or one of the store: PIPELINE@42."
    ),
]
To = Annotated[str, typer.Option("--to", metavar="DIR", help="Where to; must not exist, or be empty.")]


@app.command("remap")
def remap(
    ctx: typer.Context,
    *,
    snapshot: Foreign,
    to: To,
    remaps: Annotated[
        list[str] | None,
        typer.Option("--remap", metavar="OLD=NEW", help="State of OLD goes to NEW: uids, or ids of 32 hex digits."),
    ] = None,
    map_file: Annotated[
        str | None, typer.Option("--map", metavar="FILE", help="TOML: a table remap, a list drop; - is stdin.")
    ] = None,
    drops: Annotated[
        list[str] | None, typer.Option("--drop", metavar="UID", help="Leave its state out; repeatable.")
    ] = None,
    pipeline: Pipeline = None,
    map_paths: MapPaths = None,
) -> None:
    """Give the state of operators to others.

    By new uids, or ids. All mappings apply at once. A sink's committer goes with it. The snapshot's own files are
    copied; files that it shares with others stay where they are, so keep those. The source is not changed.

    Example:
        eoctl flink remap /savepoints/savepoint-fd7201-0a1b2c3d4e5f --to ./renamed --remap totals=order-totals
        eoctl flink remap ./chk-7 --to ./fewer --drop old-rules --map mapping.toml
    """
    from eoctl.services.foreign_write import remap as write  # noqa: PLC0415  (start-up)
    from formats.remap import OperatorMapping, parse_mapping, parse_pair, together  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    mapping = OperatorMapping(remap=tuple(map(parse_pair, remaps or ())), drop=tuple(drops or ()))
    if map_file is not None:
        mapping = together(mapping, parse_mapping(read_text(map_file, "--map"), map_file))
    target = Path(to).expanduser()
    with (
        _writing(invocation, target, "flink.remap") as meter,
        _opened(invocation, snapshot, target, pipeline, map_paths) as source,
    ):
        written = write(source, target, mapping, meter)
    _answer(invocation, "flink.remap", written, snapshot)


@app.command("relocate")
def relocate(
    ctx: typer.Context,
    *,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A job's folder, or one that holds several.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Where to; must not exist, or be empty.")],
    told_as: Annotated[
        str | None, typer.Option("--as", metavar="URL", help="Under which Flink will find DST: s3://bucket/flink.")
    ] = None,
) -> None:
    """Copy checkpoints, with all paths rewritten.

    Every checkpoint and savepoint in the copy names its files at their new place. It does not matter where they were
    written: a folder that was moved by hand is put right. A file outside of SRC is refused.

    Example:
        eoctl flink relocate /checkpoints/fd72014d4c864993a2e5a9287b4a9c5d /mnt/new/fd72014d4c864993a2e5a9287b4a9c5d
        eoctl flink relocate /checkpoints ./upload --as s3://bucket/checkpoints
    """
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign_write import relocate as write  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    place = Path(target).expanduser()
    with _writing(invocation, place, "flink.relocate") as meter:
        written = write(path_of(source), place, told_as, meter)
    _answer(invocation, "flink.relocate", written, source)


@app.command("export")
def export(
    ctx: typer.Context,
    *,
    snapshot: Foreign,
    to: To,
    metadata_version: Annotated[
        int | None, typer.Option(metavar="N", help="Write _metadata for an older Flink: 4 for 1.15 to 1.20.")
    ] = None,
    canonical: Annotated[
        bool, typer.Option("--canonical", help="Keyed state as in a canonical savepoint, which any backend restores.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Hard-link files that can be: only if nobody writes into them again.")
    ] = False,
    pipeline: Pipeline = None,
    map_paths: MapPaths = None,
) -> None:
    """Gather a snapshot into one folder.

    Files that it shares with other checkpoints are copied into it, parts of merged files as files of their own, and
    every handle is relative. Flink restores it from wherever it lies. With --canonical keyed state is written anew: of
    RocksDB for HashMap and the other way round, of the changelog backend with its changes replayed, and of Flink 2 for
    1.20, whose RocksDB cannot open the newer tables. Of a pipeline of ours, or a portable savepoint, it is always so.

    Example:
        eoctl flink export /checkpoints/fd72014d4c864993a2e5a9287b4a9c5d/chk-7 --to ./alone
        eoctl flink export orders@latest --to ./for-1.20 --canonical --metadata-version 4
    """
    from eoctl.services.foreign_write import export as write  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    target = Path(to).expanduser()
    with _rows(invocation, snapshot, pipeline) as state:
        if state is not None:
            from eoctl.services.flink_from_state import export_state  # noqa: PLC0415  (start-up)

            with _writing(invocation, target, "flink.export") as meter:
                told = export_state(
                    state, target, version=metadata_version, progress=partial(meter.bytes_so_far, total_bytes=0)
                )
            _answer(invocation, "flink.export", told, snapshot)
            return
    with (
        _writing(invocation, target, "flink.export") as meter,
        _opened(invocation, snapshot, target, pipeline, map_paths) as source,
    ):
        written = write(source, target, version=metadata_version, canonical=canonical, link=link, progress=meter)
    _answer(invocation, "flink.export", written, snapshot)


@contextmanager
def _writing(invocation: Invocation, target: Path, command: str) -> Iterator[Meter]:
    """An interrupt inside tells whether the target is there: it appears in one step."""
    there, not_there = f"{target} is there, complete; only its report is lost", f"{target} was not written"
    with (
        told_by(
            lambda: there if (target / "_metadata").exists() else not_there,
            unknown=f"it could not be seen whether {target} is there",
            hint=f"ls {target}",
        ),
        Meter(invocation, command, "copying") as meter,
    ):
        yield meter


@contextmanager
def _rows(invocation: Invocation, address: str, pipeline: str | None) -> Iterator[SnapshotSource | None]:
    """What is no folder of Flink's, to be read by rows: a savepoint's folder, or a snapshot of the store. Else None."""
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)

    if is_foreign(address):
        from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)
        from formats.savepoint import HEAD_NAME  # noqa: PLC0415  (start-up)

        place = path_of(address)
        if not place.files.is_local or not (place / HEAD_NAME).is_file():
            yield None
            return
        from eoctl.services.savepoint_sources import source_at_path  # noqa: PLC0415  (start-up)

        with source_at_path(place) as source:
            yield source
        return
    from eoctl.services.imported import is_of_flink  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_sources import source_of_snapshot  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    resolved = resolve(store, address, pipeline)
    if is_of_flink(store, resolved):
        yield None
        return
    with source_of_snapshot(store, resolved) as source:
        yield source


@contextmanager
def _opened(
    invocation: Invocation, address: str, target: Path, pipeline: str | None, map_paths: Sequence[str] | None
) -> Iterator[FlinkSnapshot]:
    """The snapshot at a path; or one of the store, restored beside the target meanwhile."""
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)

    if is_foreign(address):
        yield open_address(address, map_paths)
        return
    from eoctl.services.imported import restored_beside  # noqa: PLC0415  (start-up)

    store = invocation.open_store()
    with restored_beside(store, resolve(store, address, pipeline), target) as snapshot:
        yield snapshot


def _answer(invocation: Invocation, document: str, written: Written, source: str) -> None:
    for note in written.notes:
        invocation.out.notice(note)
    invocation.out.answer(
        document,
        {**fields_of(written), "source": source},
        lambda: _lines(written, source),
        brief=lambda: [written.target],
    )


def _lines(written: Written, source: str) -> Iterator[str]:
    yield (
        f"{source} -> {written.target}: {human_bytes(written.bytes)} in {plural(written.files, 'file')}, "
        f"metadata version {written.metadata_version}"
    )
    yield from (f"{old} -> {new}" for old, new in written.remapped.items())
    yield from (f"{old} dropped" for old in written.dropped)
    if written.rewritten_paths:
        yield f"{plural(written.rewritten_paths, 'handle')} rewritten in {plural(len(written.snapshots), 'snapshot')}"
