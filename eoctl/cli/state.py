"""`eoctl state`: what is in the states of a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eoctl.cli import exit_codes
from eoctl.cli.foreign import MapPaths
from eoctl.cli.invocation import invocation_of
from eoctl.cli.output import Form, fields_of, to_json, write
from eoctl.cli.parameters import Pipeline
from eoctl.cli.quantities import human_bytes, plural
from eoctl.cli.state_sources import Operator, Scratch, State, StateSnapshot, opened_state
from eoctl.cli.state_tables import diff_lines, row_table, state_columns, word
from eoctl.cli.table import Column
from formats.errors import UnsupportedError

if TYPE_CHECKING:
    from eoctl.services.savepoint_build import SourceOperator
    from eoctl.services.state import ChangedRow, Filter, StateCount
    from formats.keygroups import KeyGroupRange
    from formats.state import StateTable
    from formats.state_text import Row

app = typer.Typer()

_MANY = 1000
KeyGroups = Annotated[
    str | None, typer.Option("--key-groups", metavar="N|A-B", help="Only these key groups, both ends included.")
]
Prefix = Annotated[
    str | None, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin so; hex:6b31 compares bytes.")
]
Raw = Annotated[bool, typer.Option("--hex", help="Show every byte in hex, decode nothing.")]


@app.command("list")
def list_states(
    ctx: typer.Context, *, snapshot: StateSnapshot, pipeline: Pipeline = None, map_paths: MapPaths = None
) -> None:
    """List the states of a snapshot.

    KEY and VALUE are the types of their bytes, as far as they are known. Of an operator whose KIND is files, only the
    files are known: restore writes them.

    Example:
        eoctl state list orders@latest
    """
    from eoctl.services.resolve import is_foreign, resolve  # noqa: PLC0415  (start-up)
    from eoctl.services.state import list_states as states_of  # noqa: PLC0415  (start-up)
    from eoctl.services.state import listed_in  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    address, rows = snapshot, None
    if not is_foreign(snapshot):
        store = invocation.open_store()
        resolved = resolve(store, snapshot, pipeline)
        address, rows = resolved.address, listed_in(store.manifest(resolved.head, resolved.entry))
    if rows is None:
        with opened_state(invocation, snapshot, pipeline, map_paths=map_paths, ranged=True) as source:
            rows = states_of(source)
    invocation.out.answer(
        "state.list",
        {"snapshot": address, "states": rows},
        lambda: invocation.out.table_or_notice(state_columns(rows), f"no state in {snapshot}"),
        rows="states",
        brief=lambda: (f"{row.operator}/{row.name}" for row in rows),
    )


@app.command("get")
def get(
    ctx: typer.Context,
    *,
    snapshot: StateSnapshot,
    key: Annotated[
        str, typer.Option("--key", metavar="K", help="The key: text, a number or JSON as its type is; or hex:6b31.")
    ],
    operator: Operator = None,
    state: State = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="N", help="Only this namespace; written as the key is.")
    ] = None,
    pipeline: Pipeline = None,
    raw: Raw = False,
    scratch: Scratch = None,
    map_paths: MapPaths = None,
) -> None:
    """Show what a state holds for a key.

    A row for each namespace and, of a map, for each of its entries. No such key is exit code 3.

    Example:
        eoctl state get orders@latest --operator totals --state sum --key customer-7
    """
    from eoctl.services.state import Filter, find_state  # noqa: PLC0415  (start-up)
    from formats.state_text import bytes_of  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    with opened_state(
        invocation, snapshot, pipeline, operator=operator, scratch=scratch, map_paths=map_paths, ranged=True
    ) as source:
        holder, table = find_state(source, operator, state)
        schema = table.schema
        wanted = Filter(
            key=bytes_of(key, schema.key, "--key"),
            namespace=None if namespace is None else bytes_of(namespace, schema.namespace, "--namespace"),
        )
        rows = list(_rows(holder, table, wanted, raw=raw))
        invocation.out.answer(
            "state.get",
            {"snapshot": source.address, "operator": str(holder.name), "state": schema.name, "rows": rows},
            lambda: row_table(rows, invocation.out),
            rows="rows",
            brief=lambda: (word(row["value"]) for row in rows),
        )
    if not rows:
        invocation.out.notice(f"no key {key!r} in {schema.name}")
        raise typer.Exit(exit_codes.ANSWER_NO)


@app.command("scan")
def scan(
    ctx: typer.Context,
    *,
    snapshot: StateSnapshot,
    operator: Operator = None,
    state: State = None,
    key: Annotated[str | None, typer.Option("--key", metavar="K", help="Only this key.")] = None,
    key_groups: KeyGroups = None,
    prefix: Prefix = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N rows. Else 1000 as text, all with --jsonl.")
    ] = None,
    pipeline: Pipeline = None,
    raw: Raw = False,
    scratch: Scratch = None,
    map_paths: MapPaths = None,
) -> None:
    """Show the rows of a state, in the order of their bytes.

    With --jsonl rows are printed as they are read, however many. What cannot be decoded is shown as hex.

    Example:
        eoctl state scan orders@latest --operator totals --limit 20
        eoctl state scan orders@latest --state sum --key-groups 0-15 --jsonl | jq .value
    """
    from eoctl.services.state import find_state  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    out = invocation.out
    with opened_state(
        invocation, snapshot, pipeline, operator=operator, scratch=scratch, map_paths=map_paths, ranged=True
    ) as source:
        holder, table = find_state(source, operator, state)
        rows = _rows(holder, table, _filter(table, key, key_groups, prefix), raw=raw)
        if out.form is Form.JSONL:
            for row in islice(rows, limit):
                write([to_json(row), "\n"])
            return
        most = limit or _MANY
        found = list(islice(rows, most + 1))
        shown = found[:most]
        if len(found) > most and limit is None:
            out.notice("there are more rows: --limit N shows more, --jsonl all, state export writes a file")
        out.answer(
            "state.scan",
            {
                "snapshot": source.address,
                "operator": str(holder.name),
                "state": table.schema.name,
                "rows": shown,
                "more": len(found) > most,
            },
            lambda: row_table(shown, out),
            rows="rows",
            brief=lambda: (word(row["key"]) for row in shown),
        )


@app.command("count")
def count(
    ctx: typer.Context,
    *,
    snapshot: StateSnapshot,
    operator: Operator = None,
    state: State = None,
    key_groups: KeyGroups = None,
    prefix: Prefix = None,
    pipeline: Pipeline = None,
    scratch: Scratch = None,
    map_paths: MapPaths = None,
) -> None:
    """Count the rows, keys and bytes of states.

    Of all states, or of those of an operator or a name. BYTES are those of keys and values as they are serialized. One
    that cannot be read is an error, after the others were counted.

    Example:
        eoctl state count orders@latest
        eoctl state count orders@latest --operator totals --prefix customer-7
    """
    from eoctl.services.state import count as count_rows  # noqa: PLC0415  (start-up)
    from eoctl.services.state import find_state  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    with opened_state(
        invocation,
        snapshot,
        pipeline,
        operator=operator,
        scratch=scratch,
        map_paths=map_paths,
        ranged=bool(key_groups or prefix),
    ) as source:
        chosen = [
            (holder, table)
            for holder in source.operators
            for table in holder.open()
            if operator in {None, holder.state.uid, holder.state.id} and state in {None, table.schema.name}
        ]
        if not chosen:
            chosen = [find_state(source, operator, state)]
        rows: list[StateCount] = []
        unreadable: list[UnsupportedError] = []
        for holder, table in chosen:
            try:
                rows.append(count_rows(holder, table, _filter(table, None, key_groups, prefix)))
            except UnsupportedError as error:
                unreadable.append(error)
        if not rows and unreadable:
            raise unreadable[0]
        columns = [
            Column(title="OPERATOR", cells=[row.operator for row in rows], least=8),
            Column(title="STATE", cells=[row.name for row in rows], least=8),
            Column(title="ROWS", cells=[f"{row.rows:,}" for row in rows], right=True),
            Column(title="KEYS", cells=[f"{row.keys:,}" for row in rows], right=True),
            Column(title="KEY GROUPS", short_title="GROUPS", cells=[str(row.key_groups) for row in rows], right=True),
            Column(title="BYTES", cells=[human_bytes(row.raw_bytes) for row in rows], right=True),
        ]
        invocation.out.answer(
            "state.count",
            {"snapshot": source.address, "states": rows},
            lambda: invocation.out.table(columns),
            rows="states",
            brief=lambda: (str(row.rows) for row in rows),
        )
    for other in unreadable[1:]:
        invocation.out.notice(other.message)
    if unreadable:
        raise unreadable[0]


@app.command("export")
def export(
    ctx: typer.Context,
    *,
    snapshot: StateSnapshot,
    to: Annotated[str, typer.Option("--to", metavar="FILE", help="A new file; .parquet, or .jsonl.")],
    operator: Operator = None,
    state: State = None,
    key_groups: KeyGroups = None,
    prefix: Prefix = None,
    pipeline: Pipeline = None,
    raw: Raw = False,
    scratch: Scratch = None,
    map_paths: MapPaths = None,
) -> None:
    """Write the rows of a state into one file.

    Parquet has the raw bytes and, where types are known, typed columns beside them; .jsonl has what scan --jsonl
    prints. The file appears whole, or not at all.

    Example:
        eoctl state export orders@latest --operator totals --state sum --to sum.parquet
    """
    from eoctl.services.state import find_state  # noqa: PLC0415  (start-up)
    from eoctl.services.state_export import export_rows  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    with opened_state(
        invocation,
        snapshot,
        pipeline,
        operator=operator,
        scratch=scratch,
        map_paths=map_paths,
        ranged=bool(key_groups or prefix),
    ) as source:
        holder, table = find_state(source, operator, state)
        wanted = _filter(table, None, key_groups, prefix)
        exported = export_rows(holder, table, wanted, Path(to).expanduser(), raw=raw)
        for note in exported.notes:
            invocation.out.notice(note)
        invocation.out.answer(
            "state.export",
            {"snapshot": source.address, **fields_of(exported)},
            lambda: [f"{plural(exported.rows, 'row')} of {table.schema.name} in {to}: {human_bytes(exported.bytes)}"],
            brief=lambda: [to],
        )


@app.command("diff")
def diff(
    ctx: typer.Context,
    *,
    a: Annotated[str, typer.Argument(metavar="A", help="The one snapshot, or a path.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other.")],
    operator: Operator = None,
    state: State = None,
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=0, help="How many rows that differ to show.")] = 20,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 3 where they differ.")] = False,
    pipeline: Pipeline = None,
    raw: Raw = False,
    scratch: Scratch = None,
    map_paths: MapPaths = None,
) -> None:
    """Compare the states of two snapshots, row by row.

    Operators are the same by id. + is only in B, - only in A, ~ in both with another value.

    Example:
        eoctl state diff orders@41 orders@42 --operator totals --rows 5
    """
    from eoctl.services.state import diff as compare  # noqa: PLC0415  (start-up)

    invocation = invocation_of(ctx)
    with (
        opened_state(invocation, a, pipeline, scratch=scratch, map_paths=map_paths) as one,
        opened_state(invocation, b, pipeline, scratch=scratch, map_paths=map_paths) as other,
    ):
        changed: list[ChangedRow] = []
        states = [pair.compare(changed, rows, raw=raw) for pair in compare(one, other, operator, state)]
    differs = any(found.differs for found in states)
    invocation.out.answer(
        "state.diff",
        {
            "a": a,
            "b": b,
            "differs": differs,
            "states": [{**fields_of(found), "differs": found.differs} for found in states],
            "rows": changed,
        },
        lambda: diff_lines(states, changed, invocation.out),
        rows="rows",
        brief=lambda: ["different" if differs else "same"],
    )
    if exit_code and differs:
        raise typer.Exit(exit_codes.ANSWER_NO)


def _filter(table: StateTable, key: str | None, key_groups: str | None, prefix: str | None) -> Filter:
    from eoctl.services.state import Filter  # noqa: PLC0415  (start-up)
    from formats.state_text import HEX, bytes_of  # noqa: PLC0415  (start-up)

    by_bytes = prefix is not None and prefix.startswith(HEX)
    return Filter(
        key=None if key is None else bytes_of(key, table.schema.key, "--key"),
        key_groups=None if key_groups is None else _groups(key_groups),
        prefix=bytes_of(prefix, "", "--prefix") if prefix is not None and by_bytes else prefix,
    )


def _groups(text: str) -> KeyGroupRange:
    from formats.errors import UsageError  # noqa: PLC0415  (start-up)
    from formats.keygroups import MAX_MAX_PARALLELISM, KeyGroupRange  # noqa: PLC0415  (start-up)

    first, dash, last = text.partition("-")
    ends = [first, last if dash else first]
    known = all(end.isascii() and end.isdecimal() and int(end) < MAX_MAX_PARALLELISM for end in ends)
    if not known or int(ends[0]) > int(ends[1]):
        raise UsageError(f"not key groups: {text!r}", hint="--key-groups 7, or --key-groups 0-15")
    return KeyGroupRange(int(ends[0]), int(ends[1]) + 1)


def _rows(holder: SourceOperator, table: StateTable, wanted: Filter, *, raw: bool) -> Iterator[Row]:
    from eoctl.services.state import scan as scan_rows  # noqa: PLC0415  (start-up)
    from formats.state_text import RowText  # noqa: PLC0415  (start-up)

    text = RowText(table.schema, raw=raw)
    for batch in scan_rows(holder, table, wanted):
        yield from text.rows(batch)
