"""What commands have in common that take a snapshot of Flink where they take one of the store."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from formats.errors import AccessDeniedError, InvalidInputError, UsageError

if TYPE_CHECKING:
    from eoctl.engines.flink import FlinkSnapshot
    from eoctl.engines.flink_paths import Mapping

MAX_TEXT_BYTES = 4 << 20
_TO_BUCKET = re.compile("(=)(?=(?:flink:)?s3[ap]?://)")

MapPaths = Annotated[
    list[str] | None,
    typer.Option(
        "--map-path", metavar="OLD=NEW", help="Of Flink's: files that it names below OLD lie below NEW; repeatable."
    ),
]


def mappings_of(texts: Sequence[str] | None) -> tuple[Mapping, ...]:
    """Raises: UsageError."""
    from eoctl.engines.flink_paths import Mapping  # noqa: PLC0415  (start-up)
    from eoctl.services.foreign import path_of  # noqa: PLC0415  (start-up)

    mappings = []
    for text in texts or ():
        old, _, new = _TO_BUCKET.split(text, maxsplit=1) if _TO_BUCKET.search(text) else text.rpartition("=")
        if not old or not new:
            raise UsageError(f"not a mapping of paths: {text!r}", hint="--map-path file:/old/place=/new/place")
        place = path_of(new)
        mappings.append(Mapping(old, Path(place.text).absolute() if place.files.is_local else place))
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


def read_text(name: str, option: str) -> str:
    """The text of the file of that name, `-` for stdin. Raises: UsageError, AccessDeniedError, InvalidInputError."""
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_TEXT_BYTES + 1)
        else:
            with Path(name).expanduser().open("rb") as file:
                data = file.read(MAX_TEXT_BYTES + 1)
    except PermissionError as error:
        raise AccessDeniedError(f"no permission to read {name}") from error
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}", hint=f"{option} FILE, or -") from error
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidInputError(f"{name} is larger than {MAX_TEXT_BYTES} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{name} is no UTF-8 text: byte {error.start}") from error
