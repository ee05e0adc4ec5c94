"""Rows of state on a screen, and what two states differ in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eoctl.cli.output import GREEN, RED, YELLOW, Output, to_json
from eoctl.cli.quantities import human_bytes
from eoctl.cli.table import Column, clean

if TYPE_CHECKING:
    from eoctl.services.state import ChangedRow, StateDifference, StateListRow
    from formats.state_text import Row


def state_columns(rows: Sequence[StateListRow]) -> list[Column]:
    """OPERATOR STATE KIND KEY NAMESPACE MAP KEY VALUE PARALLELISM MAX."""
    return [
        Column(title="OPERATOR", cells=[row.operator for row in rows], least=8),
        Column(title="STATE", cells=[row.name for row in rows], least=8),
        Column(title="KIND", cells=[row.kind for row in rows]),
        Column(title="KEY", cells=[row.key for row in rows], least=6),
        Column(title="NAMESPACE", cells=[row.namespace for row in rows], least=6, optional=True),
        Column(title="MAP KEY", cells=[row.map_key for row in rows], least=6, optional=True),
        Column(title="VALUE", cells=[row.value for row in rows], least=6),
        Column(title="PARALLELISM", short_title="PAR", cells=[str(row.parallelism) for row in rows], right=True),
        Column(title="MAX", cells=[str(row.max_parallelism) for row in rows], right=True),
    ]


def word(value: object) -> str:
    """A value on one line: text bare, all else as JSON."""
    return clean(value) if isinstance(value, str) else to_json(value)


def row_table(rows: list[Row], out: Output) -> list[str]:
    if not rows:
        return []
    names = [name for name in rows[0] if name != "namespace" or any(row[name] for row in rows)]
    titles = {"key_group": "GROUP", "key": "KEY", "namespace": "NAMESPACE", "map_key": "MAP KEY", "value": "VALUE"}
    return out.table(
        [
            Column(title=titles[name], cells=[word(row[name]) for row in rows], right=name == "key_group", least=8)
            for name in names
        ]
    )


def diff_lines(states: list[StateDifference], rows: list[ChangedRow], out: Output) -> Iterator[str]:
    for found in states:
        yield out.heading(
            f"{found.operator}/{found.name}: {found.added:,} added ({human_bytes(found.added_bytes)}), "
            f"{found.removed:,} removed ({human_bytes(found.removed_bytes)}), {found.changed:,} changed, "
            f"{found.same:,} the same"
        )
        own = [row for row in rows if (row.operator, row.state) == (found.operator, found.name)]
        if own:
            yield from out.table(
                [
                    Column(title="", cells=[row.sign for row in own], styles={"+": GREEN, "-": RED, "~": YELLOW}),
                    Column(title="KEY", cells=[_key(row.row) for row in own], least=8),
                    Column(title="VALUE", cells=[_change(row) for row in own], least=12),
                ]
            )


def _key(row: Row) -> str:
    namespace = [row["namespace"]] if row.get("namespace") else []  # the one of state without windows is nothing
    map_key = [row["map_key"]] if row.get("map_key", "") != "" else []
    return " ".join(map(word, [row["key"], *namespace, *map_key]))


def _change(row: ChangedRow) -> str:
    return f"{word(row.old)} -> {word(row.row['value'])}" if row.sign == "~" else word(row.row["value"])
