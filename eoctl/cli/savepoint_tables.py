"""Savepoints on a screen: what one consists of, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from eoctl.cli.output import RED, Output
from eoctl.cli.quantities import human_bytes, human_seconds, plural, second
from eoctl.cli.table import Column
from eoctl.services.savepoint_values import SavepointCheck, SavepointDetail


def detail_lines(detail: SavepointDetail, out: Output) -> Iterator[str]:
    """A heading, the operators, their states, and where sources go on."""
    row = detail.snapshot
    yield out.heading(f"{row.address}  savepoint, {row.status}")
    yield from out.fields(
        [
            ("of", f"{detail.source}, taken {second(detail.taken_at)} UTC"),
            ("size", f"{human_bytes(row.full_bytes)} in {plural(row.files, 'file')}"),
        ]
    )
    operators = detail.operators
    if operators:
        yield ""
        yield from out.table(
            [
                Column(title="OPERATOR", cells=[one.uid or one.id for one in operators], least=8),
                Column(title="ID", cells=[one.id for one in operators], least=8, optional=True),
                Column(
                    title="PARALLELISM",
                    short_title="PAR",
                    cells=[str(one.parallelism) for one in operators],
                    right=True,
                ),
                Column(title="MAX", cells=[str(one.max_parallelism) for one in operators], right=True),
                Column(title="STATES", cells=[str(one.states) for one in operators], right=True),
                Column(title="ROWS", cells=[f"{one.rows:,}" for one in operators], right=True),
                Column(title="FILES", cells=[str(one.files) for one in operators], right=True),
                Column(title="BYTES", cells=[human_bytes(one.bytes) for one in operators], right=True),
            ]
        )
    states = detail.states
    if states:
        yield ""
        yield from out.table(
            [
                Column(title="OPERATOR", cells=[one.operator for one in states], least=8),
                Column(title="STATE", cells=[one.name for one in states], least=8),
                Column(title="KIND", cells=[one.kind for one in states]),
                Column(title="KEY", cells=[one.key for one in states], least=6),
                Column(title="VALUE", cells=[one.value for one in states], least=6),
                Column(title="ROWS", cells=[f"{one.rows:,}" for one in states], right=True),
                Column(title="BYTES", cells=[human_bytes(one.bytes) for one in states], right=True),
            ]
        )
    for uid, positions in detail.source_offsets.items():
        told = ", ".join(f"{partition} at {position}" for partition, position in positions.items())
        yield f"source {uid} goes on from: {told}"
    if detail.transactions.commit:
        yield f"transactions to commit: {', '.join(detail.transactions.commit)}"
    if detail.transactions.abort:
        yield f"transactions to abort: {', '.join(detail.transactions.abort)}"


def check_lines(found: SavepointCheck, out: Output) -> Iterator[str]:
    for damage in found.damaged:
        yield f"{out.paint('damaged', RED)}: {damage.path}: {damage.reason}"
    yield (
        f"{found.path}: {plural(found.files, 'file')}, {human_bytes(found.bytes)}, {plural(found.rows, 'row')} of "
        f"{plural(found.tables, 'state')} checked in {human_seconds(found.seconds)}"
    )
    if not found.damaged:
        yield "no damage"
