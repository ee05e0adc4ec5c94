"""One snapshot, explained on a screen: an overview, or the parts that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eoctl.cli.output import Output, fields_of
from eoctl.cli.quantities import age, human_bytes, human_seconds, percent, plural, second, timestamp
from eoctl.cli.table import Column, clean, cut_middle
from eoctl.services.values import ForeignRow, Inspection, Metrics, OperatorRow

_UID_LEAST, _ID_LEAST, _NAME_LEAST = 12, 9, 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What to show. The overview counts; what was asked for by name is shown in full."""

    shown: frozenset[str]
    overview: bool

    @classmethod
    def of(cls, wanted: Mapping[str, bool]) -> Parts:
        named = frozenset(name for name, is_wanted in wanted.items() if is_wanted)
        return cls(named, overview=not named)


def document_of(inspection: Inspection) -> dict[str, Any]:
    """The fields of the row, and beside them everything else."""
    value = {**fields_of(inspection.snapshot), **fields_of(inspection)}
    del value["snapshot"]
    # The row counts files under the name that lists them here; its counts stay, under names of their own.
    return value | {"file_count": inspection.snapshot.files}


def lines_of(inspection: Inspection, parts: Parts, out: Output, now: float) -> Iterator[str]:
    """The lines of the parts, each part under its heading."""
    row = inspection.snapshot
    yield out.heading(f"{clean(row.address)}  {row.kind}, {row.status}")
    sections: dict[str, Callable[[], Iterable[str]]] = {
        "": lambda: _header(inspection, out, now) if parts.overview else [],
        "operators": lambda: _operators(inspection.operators, out),
        "states": lambda: _states(inspection.operators, out),
        "files": lambda: _file_names(inspection) if not parts.overview else _file_counts(inspection, out),
        "references": lambda: _references(inspection),
        "offsets": lambda: _offsets(inspection, out),
        "transactions": lambda: _transactions(inspection, out, counts=parts.overview),
    }
    titles = {"offsets": "sources", "transactions": "sinks", "references": "files by first checkpoint"}
    only_named = {"states", "references"}
    for name, lines in sections.items():
        if name in parts.shown or not name or (parts.overview and name not in only_named):
            body = list(lines())
            if body and name:
                yield ""
                yield out.heading(titles.get(name, name).upper())
            elif name in parts.shown:
                yield ""
                yield f"no {titles.get(name, name)}"
            yield from body


def _header(inspection: Inspection, out: Output, now: float) -> list[str]:
    row, metrics = inspection.snapshot, inspection.metrics
    if isinstance(row, ForeignRow):
        return _foreign_header(inspection, out, now)
    added = human_bytes(row.added_bytes)
    created_age = age(now - timestamp(row.created_at))
    pairs = [
        ("created", f"{second(row.created_at)} UTC, {created_age} ago, by attempt {row.attempt}, from {row.engine}"),
        ("full", f"{human_bytes(row.full_bytes)} in {plural(row.files, 'file')}"),
        ("added", f"{added} in {plural(row.added_files, 'file')}, {human_bytes(metrics.stored_bytes)} of new blobs"),
        ("parent", f"{row.pipeline}@{inspection.parent}" if inspection.parent else "none"),
        ("tags", ", ".join(row.tags) or "none"),
        ("took", _took(metrics)),
    ]
    if metrics.in_flight_bytes:
        pairs.append(("in flight", human_bytes(metrics.in_flight_bytes)))
    if inspection.metadata_version is not None:
        pairs.append(("metadata", f"version {inspection.metadata_version}"))
    return out.fields(pairs)


def _foreign_header(inspection: Inspection, out: Output, now: float) -> list[str]:
    """What its own files tell: neither an attempt nor times."""
    row = inspection.snapshot
    written = f"{second(row.created_at)} UTC, {age(now - timestamp(row.created_at))} ago, by {row.engine}"
    pairs = [
        ("written", f"{written}, metadata version {inspection.metadata_version}"),
        ("id", f"{row.id}, of job {row.pipeline}" if row.pipeline else str(row.id)),
        ("full", f"{human_bytes(row.full_bytes)}, of that in {plural(row.files, 'file')} what is not in _metadata"),
        ("added", f"{human_bytes(row.added_bytes)} in {plural(row.added_files, 'new file')}"),
        ("before it", f"chk-{inspection.parent}" if inspection.parent else "nothing that is still there"),
    ]
    if inspection.metrics.in_flight_bytes:
        pairs.append(("in flight", human_bytes(inspection.metrics.in_flight_bytes)))
    return out.fields(pairs)


def _took(metrics: Metrics) -> str:
    steps = [
        ("alignment", metrics.alignment_seconds),
        ("snapshot", metrics.snapshot_seconds),
        ("upload", metrics.upload_seconds),
    ]
    told = ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in steps if seconds)
    return human_seconds(metrics.duration_seconds) + (f": {told}" if told else "")


def _operators(operators: tuple[OperatorRow, ...], out: Output) -> list[str]:
    if not operators:
        return []
    total = sum(operator.full_bytes for operator in operators)
    ordered = sorted(operators, key=lambda operator: -operator.full_bytes)

    def numbers(title: str, values: list[int], short_title: str = "") -> Column:
        return Column(title=title, short_title=short_title, cells=[str(value) for value in values], right=True)

    columns = [
        Column(title="UID", cells=[operator.uid or operator.name or "-" for operator in ordered], least=_UID_LEAST),
        Column(
            title="ID",
            cells=[operator.id for operator in ordered],
            short=[cut_middle(operator.id, _ID_LEAST, out.ellipsis) for operator in ordered],
        ),
        numbers("PARALLELISM", [operator.parallelism for operator in ordered], "PAR"),
        Column(title="MAX", cells=[str(operator.max_parallelism or "-") for operator in ordered], right=True),
        numbers("SUBTASKS", [operator.subtasks for operator in ordered], "SUB"),
        numbers("STATES", [len(operator.states) for operator in ordered]),
        numbers("FILES", [operator.files for operator in ordered]),
        Column(title="BYTES", cells=[human_bytes(operator.full_bytes) for operator in ordered], right=True),
        Column(title="%", cells=[percent(operator.full_bytes, total) for operator in ordered], right=True),
    ]
    return out.table(columns)


def _states(operators: tuple[OperatorRow, ...], out: Output) -> list[str]:
    rows = [(operator.uid or operator.id, state) for operator in operators for state in operator.states]
    if not rows:
        return []
    columns = [
        Column(title="OPERATOR", cells=[uid for uid, _ in rows], least=_UID_LEAST),
        Column(title="STATE", cells=[state.name for _, state in rows], least=_NAME_LEAST),
        Column(title="KIND", cells=[state.kind for _, state in rows]),
        Column(
            title="BYTES",
            cells=["-" if state.bytes is None else human_bytes(state.bytes) for _, state in rows],
            right=True,
        ),
        Column(
            title="ENTRIES",
            cells=["-" if state.entries is None else str(state.entries) for _, state in rows],
            right=True,
        ),
    ]
    return out.table(columns)


def _file_counts(inspection: Inspection, out: Output) -> list[str]:
    """How many files are new, from which checkpoint the others are, and how many of the parent's are gone."""
    this = str(inspection.snapshot.id)
    older = sorted(
        ((int(first), len(names)) for first, names in inspection.references.items() if first != this), reverse=True
    )
    new, obsolete = inspection.files.new, inspection.files.obsolete
    rows = [("stored by this checkpoint", len(new))]
    rows += [(f"referenced, first stored by {_name_of(inspection, first)}", count) for first, count in older]
    if inspection.parent:
        rows.append((f"obsolete: in {_name_of(inspection, inspection.parent)}, not here", len(obsolete)))
    columns = [
        Column(title="FILES", cells=[str(count) for _, count in rows], right=True),
        Column(title="WHICH", cells=[text for text, _ in rows]),
    ]
    return out.table(columns)[1:]


def _name_of(inspection: Inspection, checkpoint: int | str) -> str:
    row = inspection.snapshot
    return f"chk-{checkpoint}" if isinstance(row, ForeignRow) else f"{row.pipeline}@{checkpoint}"


def _file_names(inspection: Inspection) -> Iterator[str]:
    files = inspection.files
    for word, names in (("new", files.new), ("referenced", files.referenced), ("obsolete", files.obsolete)):
        yield from (f"{word:<10}  {clean(name)}" for name in names)


def _references(inspection: Inspection) -> Iterator[str]:
    for first, names in sorted(inspection.references.items(), key=lambda item: int(item[0])):
        yield f"{_name_of(inspection, first)}: {plural(len(names), 'file')}"
        yield from (f"  {clean(name)}" for name in names)


def _offsets(inspection: Inspection, out: Output) -> list[str]:
    return out.fields(
        (f"{clean(source.uid)} {clean(partition)}", str(position))
        for source in inspection.sources
        for partition, position in source.offsets.items()
    )


def _transactions(inspection: Inspection, out: Output, *, counts: bool) -> list[str]:
    if counts:
        return out.fields((clean(sink.uid), plural(len(sink.transactions), "transaction")) for sink in inspection.sinks)
    rows = [(sink.uid, transaction) for sink in inspection.sinks for transaction in sink.transactions]
    if not rows:
        return []
    columns = [
        Column(title="SINK", cells=[uid for uid, _ in rows], least=_UID_LEAST),
        Column(title="TRANSACTION", cells=[transaction.id for _, transaction in rows], least=_NAME_LEAST),
        Column(title="STATE", cells=[transaction.state for _, transaction in rows]),
        Column(title="CHECKPOINT", cells=[str(transaction.checkpoint) for _, transaction in rows], right=True),
    ]
    return out.table(columns)
