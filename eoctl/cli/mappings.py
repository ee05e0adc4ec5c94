"""`--remap`, `--map`, `--drop` and what goes with them: who gets whose state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli.output import DIM, YELLOW, Output
from eoctl.cli.table import Column
from formats.errors import InvalidInputError, UsageError

if TYPE_CHECKING:
    from eoctl.services.savepoint_values import MoveRow
    from formats.remap import OperatorMapping

Remap = Annotated[
    list[str] | None,
    typer.Option("--remap", metavar="OLD=NEW", help="State of operator OLD goes to NEW, uid or id; repeatable."),
]
MapFile = Annotated[
    str | None,
    typer.Option("--map", metavar="FILE", help="A TOML file: table remap; lists drop, operators; merge = true."),
]
Drop = Annotated[
    list[str] | None, typer.Option("--drop", metavar="UID", help="Leave this operator's state out; repeatable.")
]
Merge = Annotated[
    bool, typer.Option("--merge", help="State of several operators may go to one, if they have no key in common.")
]
AllowNonRestored = Annotated[
    bool,
    typer.Option("--allow-non-restored-state", help="State for which the mapping file lists no operator is left out."),
]


def mapping_of(
    remap: Sequence[str] | None, file: str | None, drop: Sequence[str] | None, *, merge: bool, allow_non_restored: bool
) -> OperatorMapping:
    """What the options say, together. Raises: UsageError, InvalidInputError."""
    from formats.remap import OperatorMapping, parse_pair, together  # noqa: PLC0415  (start-up)

    given = OperatorMapping(
        remap=tuple(map(parse_pair, remap or ())),
        drop=tuple(drop or ()),
        merge=merge,
        allow_non_restored=allow_non_restored,
    )
    return given if file is None else together(given, _read(Path(file).expanduser()))


def _read(path: Path) -> OperatorMapping:
    from formats.remap import MAX_MAPPING_BYTES, parse_mapping  # noqa: PLC0415  (start-up)
    from storage.os_errors import told  # noqa: PLC0415  (start-up)

    if not path.is_file():
        raise UsageError(f"no such mapping file: {path}", hint="--map FILE, a TOML file with a table remap")
    with told(path), path.open("rb") as file:
        data = file.read(4 * MAX_MAPPING_BYTES + 1)
    try:
        return parse_mapping(data.decode(), str(path))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is no mapping: it is not UTF-8, at byte {error.start}") from error


def move_columns(moves: Sequence[MoveRow]) -> list[Column]:
    """OLD NEW ACTION STATES."""
    return [
        Column(title="OLD", cells=[move.old for move in moves], least=8),
        Column(title="NEW", cells=[move.new or "-" for move in moves], least=8),
        Column(
            title="ACTION",
            cells=[move.action for move in moves],
            styles={"dropped": YELLOW, "not restored": YELLOW, "kept": DIM},
        ),
        Column(title="OPERATOR ID", cells=[move.new_id or move.old_id for move in moves], least=8, optional=True),
        Column(title="STATES", cells=[", ".join(move.states) for move in moves], least=8),
    ]


def move_lines(moves: Sequence[MoveRow], out: Output) -> list[str]:
    return out.table_or_notice(move_columns(moves), "the snapshot has no operator")
