"""State of any snapshot whose rows can be read, as a canonical savepoint of Flink: from a laptop to a cluster.

Each operator keeps its uid, its key groups and its types; a job with these uids and states of these names and types
restores it, with either backend. Types go over as Flink's own serializers: a state of a type that Flink has none of is
refused by name, and can be dropped before. Where a source of ours stands says nothing to a source of Flink.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from eoctl.engines.flink import METADATA
from eoctl.services.foreign_write import Written
from eoctl.services.savepoint_build import SnapshotSource, SourceOperator
from formats.binary import Buffer
from formats.datatype import DataType, JoinedOf, NullableOf, describe, parse
from formats.errors import IncompatibleError
from formats.flink.handles import Inline, Mode, OperatorHandle, RelativeFile, SavepointKeyGroups, StreamHandle
from formats.flink.key_layout import layout_of
from formats.flink.keyed_header import Header, state_of, write_keyed_header
from formats.flink.metadata import Metadata, Operator, Subtask
from formats.flink.savepoint_properties import CANONICAL_SAVEPOINT
from formats.flink.writer import write_metadata
from formats.ids import OperatorId
from formats.keygroups import KeyGroupRange, range_of
from formats.savepoint import COORDINATOR
from formats.state import StateSchema, StateTable
from storage.extract import fresh_directory, sync_tree
from storage.os_errors import told

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 6
DEFAULT_MAX_PARALLELISM = 128  # of Flink, for few subtasks

_MODES = {"operator-list": Mode.SPLIT, "operator-union": Mode.UNION, "broadcast": Mode.BROADCAST}
_TIMERS = "_timer_state/"
_THERE, _NOTHING = b"\0", b""


def export_state(
    source: SnapshotSource,
    target: Path,
    *,
    version: int | None = None,
    checkpoint_id: int = 1,
    progress: Callable[[int], None] = lambda _: None,
) -> Written:
    """`target` is a canonical savepoint of Flink. `progress` is told the bytes so far.

    Raises: IncompatibleError (records in flight, raw state), InvalidInputError (a type that Flink has not),
    CorruptError, UnsupportedError, UsageError, NoSpaceError.
    """
    notes: list[str] = []
    with fresh_directory(target) as temporary:
        writer = _Writer(temporary, notes, progress)
        operators = tuple(map(writer.operator, source.operators))
        number = VERSION if version is None else version
        metadata = Metadata(VERSION, checkpoint_id, (), operators, CANONICAL_SAVEPOINT, None)
        data = write_metadata(metadata, number)
        with told(temporary):
            (temporary / METADATA).write_bytes(data)
        sync_tree(temporary, writer.files + 1)
    if source.sources:
        notes.append("where our sources stand is not part of it: start Flink's where these stood")
    return Written(
        source=source.address,
        target=str(target),
        snapshots=(str(target),),
        files=writer.files + 1,
        bytes=writer.bytes + len(data),
        metadata_version=number,
        remapped={},
        dropped=(),
        rewritten_paths=0,
        notes=tuple(notes),
    )


class _Writer:
    """One savepoint's files."""

    def __init__(self, folder: Path, notes: list[str], progress: Callable[[int], None]) -> None:
        self.files = 0
        self.bytes = 0
        self._folder = folder
        self._notes = notes
        self._progress = progress

    def operator(self, source: SourceOperator) -> Operator:
        state = source.state
        tables = [_in_flinks_form(table) for table in source.open()]
        most = state.max_parallelism or DEFAULT_MAX_PARALLELISM
        parallelism = min(max(state.parallelism, 1), most)
        keyed = [table for table in tables if table.schema.keyed and self._is_flinks(table, source)]
        others = [table for table in tables if not table.schema.keyed]
        lists = _rows_of(others, parallelism)
        subtasks = []
        for index in range(parallelism):
            groups = range_of(index, parallelism, most)
            subtasks.append(
                Subtask(
                    index,
                    managed_operator=self._operator_state(state.id, index, others, lists[index]),
                    managed_keyed=self._keyed(f"{state.id}-{index}", keyed, groups, most),
                )
            )
        return Operator(
            id=OperatorId(state.id),
            parallelism=parallelism,
            max_parallelism=most,
            coordinator=_carried(source),
            subtasks=tuple(subtasks),
            uid=state.uid,
            name=state.name,
        )

    def _is_flinks(self, table: StateTable, source: SourceOperator) -> bool:
        """Timers of ours have no service in Flink that would fire them."""
        if table.schema.kind != "timer" or table.schema.name.startswith(_TIMERS):
            return True
        self._notes.append(f"timers {table.schema.name!r} of {source.name} are left out: Flink would not know of them")
        return False

    def _keyed(
        self, name: str, tables: Sequence[StateTable], groups: KeyGroupRange, max_parallelism: int
    ) -> SavepointKeyGroups | None:
        from formats.flink.canonical import write_canonical  # noqa: PLC0415  (heavy)

        if not tables:
            return None
        key = parse(tables[0].schema.key)
        metas = [state_of(table.schema) for table in tables]
        header = Buffer()
        write_keyed_header(header, Header(compressed=False, key=key, states=tuple(metas)))
        place = self._folder / f"keyed-{name}"
        with told(place), place.open("xb") as file:
            states = [
                (layout_of(meta, key, max_parallelism), table.scan(groups))
                for meta, table in zip(metas, tables, strict=True)
            ]
            offsets = write_canonical(file, bytes(header.data), groups, states)
            size = file.tell()
        return SavepointKeyGroups(groups.start, offsets, self._written(place, size))

    def _operator_state(
        self, identity: str, index: int, tables: Sequence[StateTable], rows: Sequence[Sequence[tuple[bytes, bytes]]]
    ) -> OperatorHandle | None:
        from formats.flink.operator_state import write_operator_state  # noqa: PLC0415  (heavy)

        if not any(rows):
            return None
        place = self._folder / f"operator-{identity}-{index}"
        with told(place), place.open("xb") as file:
            lists = write_operator_state(
                file,
                [
                    (table.schema.name, _MODES[table.schema.kind], _serializers(table), own)
                    for table, own in zip(tables, rows, strict=True)
                ],
            )
            size = file.tell()
        return OperatorHandle(lists, self._written(place, size))

    def _written(self, place: Path, size: int) -> RelativeFile:
        self.files += 1
        self.bytes += size
        self._progress(self.bytes)
        return RelativeFile(place.name, size)


class _Rewritten:
    """A table of ours as Flink would have it: values of a map say that they are there."""

    def __init__(self, table: StateTable, schema: StateSchema) -> None:
        self.schema = schema
        self._table = table

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa  # noqa: PLC0415  (heavy)
        import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

        for batch in self._table.scan(key_groups, key):
            if self.schema.kind != "map":
                yield batch
                continue
            flagged = pc.binary_join_element_wise(pa.scalar(_THERE, pa.binary()), batch["value"], _NOTHING)
            place = batch.schema.get_field_index("value")
            yield batch.set_column(place, batch.schema.field(place), flagged)


def _in_flinks_form(table: StateTable) -> StateTable:
    """Our runtime's lists name the type of an element, and its maps hold no null; the bytes are else the same."""
    schema = table.schema
    if schema.kind not in {"list", "map"} or not schema.value:
        return table
    value = parse(schema.value)
    if schema.kind == "list" and not isinstance(value, JoinedOf):
        return _Rewritten(table, replace(schema, value=describe(JoinedOf(value))))
    if schema.kind == "map" and not isinstance(value, NullableOf):
        return _Rewritten(table, replace(schema, value=describe(NullableOf(value))))
    return table


def _rows_of(tables: Sequence[StateTable], parallelism: int) -> list[list[list[tuple[bytes, bytes]]]]:
    """For each subtask, of each table, its rows; broadcast state is everybody's."""
    found: list[list[list[tuple[bytes, bytes]]]] = [[[] for _ in tables] for _ in range(parallelism)]
    for place, table in enumerate(tables):
        for group, key, value in _rows(table):
            everybody = table.schema.kind == "broadcast"
            for subtask in range(parallelism) if everybody else (group % parallelism,):
                found[subtask][place].append((key, value))
    return found


def _rows(table: StateTable) -> Iterator[tuple[int, bytes, bytes]]:
    for batch in table.scan():
        yield from zip(*(batch[name].to_pylist() for name in ("key_group", "key", "value")), strict=True)


def _serializers(table: StateTable) -> dict[str, DataType]:
    serializers = {"VALUE_SERIALIZER": parse(table.schema.value)}
    if table.schema.kind == "broadcast":
        serializers["KEY_SERIALIZER"] = parse(table.schema.key)
    return serializers


def _carried(source: SourceOperator) -> StreamHandle | None:
    """The coordinator's state, which is carried as it is. Raises: IncompatibleError for what cannot be."""
    for subtask in source.state.subtasks:
        for file in subtask.files:
            raise IncompatibleError(
                f"operator {source.name} has what is no rows of state, or records in flight: {file.name}",
                hint="eoctl savepoint create --drop leaves an operator out; of records in flight take a savepoint",
            )
    for file in source.state.coordinator:
        place = source.files / COORDINATOR / file.name
        with told(place):
            return Inline("coordinator", place.read_bytes())
    return None
