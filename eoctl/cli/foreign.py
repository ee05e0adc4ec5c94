"""What commands have in common that take a snapshot of Flink where they take one of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formats.errors import UsageError

if TYPE_CHECKING:
    from eoctl.engines.flink import FlinkSnapshot
    from eoctl.engines.flink_paths import Mapping

MapPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--map-path", metavar="OLD=NEW", help="Of Flink's: files that it names below OLD lie below NEW; repeatable."
    ),
]


def mappings_of(texts: Sequence[str] | None) -> tuple[Mapping, ...]:
    """Raises: UsageError."""
    from eoctl.engines.flink_paths import Mapping  # noqa: PLC0415  (start-up)

    mappings = []
    for text in texts or ():
        old, equals, new = text.rpartition("=")
        if not equals or not old or not new:
            raise UsageError(f"not a mapping of paths: {text!r}", hint="--map-path file:/old/place=/new/place")
        mappings.append(Mapping(old, Path(new).expanduser().absolute()))
    return tuple(mappings)


def open_address(address: str, map_paths: Sequence[str] | None) -> FlinkSnapshot:
    """The snapshot of Flink at that path. Raises: what opening raises."""
    from eoctl.services.foreign import open_foreign  # noqa: PLC0415  (start-up)

    return open_foreign(address, mappings_of(map_paths))


def both_foreign(a: str, b: str) -> bool:
    """Whether both are paths. Raises: UsageError where one is."""
    from eoctl.services.resolve import is_foreign  # noqa: PLC0415  (start-up)

    if is_foreign(a) != is_foreign(b):
        hint = "take the one of Flink into the store first: eoctl checkpoint create flink:PATH -p PIPELINE"
        raise UsageError(f"one is a path, the other a snapshot of the store: {a} and {b}", hint=hint)
    return is_foreign(a)
