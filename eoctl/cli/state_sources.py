"""What commands that read state have in common: a snapshot, open, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from eoctl.cli.invocation import Invocation
    from eoctl.services.savepoint_build import SnapshotSource

StateSnapshot = Annotated[
    str,
    typer.Argument(metavar="SNAP", help="A snapshot of the store, or a path: a savepoint's folder, one of Flink's."),
]
Operator = Annotated[
    str | None,
    typer.Option("--operator", metavar="UID", help="The operator, by uid or id; needed only where there are several."),
]
State = Annotated[
    str | None,
    typer.Option("--state", metavar="NAME", help="The state; needed only where the operator has several."),
]
Scratch = Annotated[
    str | None, typer.Option("--scratch", metavar="DIR", help="Where files lie meanwhile. Else in the store's place.")
]


@contextmanager
def opened_state(
    invocation: Invocation,
    address: str,
    pipeline: str | None,
    *,
    operator: str | None = None,
    scratch: str | None = None,
    held: bool = False,
    map_paths: Sequence[str] | None = None,
    ranged: bool = False,
) -> Iterator[SnapshotSource]:
    """The snapshot at that address, open for reading; `held`: and every byte of it checked.

    `ranged`: only some of it will be read, so that nothing else is fetched from a store elsewhere.

    Raises: what opening raises.
    """
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.savepoint_sources import source_at_path, source_of_snapshot  # noqa: PLC0415  (start-up)

    if is_foreign(address):
        from eoctl.cli.foreign import mappings_of  # noqa: PLC0415  (start-up)
        from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)

        where, mappings = path_of(address), mappings_of(map_paths)
        if held:
            from eoctl.services.savepoint_check import whole_source  # noqa: PLC0415  (start-up)

            with whole_source(where, mappings, elapsed=invocation.ambient.elapsed) as source:
                yield source
            return
        with source_at_path(where, mappings) as source:
            yield source
        return
    store = invocation.open_store()
    place = None if scratch is None else Path(scratch).expanduser()
    resolved = resolve(store, address, pipeline)
    if held:
        from eoctl.services.savepoint import held_source  # noqa: PLC0415  (start-up)

        with held_source(store, resolved, place) as source:
            yield source
        return
    with source_of_snapshot(store, resolved, place, operator=operator, verified=False, ranged=ranged) as source:
        yield source
