"""Looking into state: which states a snapshot has, their rows by key, key group or prefix, and what two differ in.

Everything streams. Bytes are decoded by their declared types; nothing is unpickled, no code of the data is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from msgspec import Struct

from eoctl.engines.states import is_readable
from eoctl.services.savepoint_build import SnapshotSource, SourceOperator
from eoctl.services.savepoint_records import schema_of
from formats.datatype import parse
from formats.errors import SnapshotNotFoundError, UnsupportedError, UsageError
from formats.keygroup_columns import can_hash, key_group
from formats.keygroups import KeyGroupRange
from formats.manifest import Manifest, OperatorState
from formats.row_order import neighbours, row_key
from formats.sst import select
from formats.state import StateSchema, StateTable, byte_count, row_schema
from formats.state_diff import difference
from formats.state_text import Row, RowText
from formats.types_arrow import decode_column

if TYPE_CHECKING:
    import pyarrow as pa


class StateListRow(Struct, frozen=True, kw_only=True):
    """One state of a snapshot. A type "" is not known; `kind` files: the operator's state is not read by rows."""

    operator: str
    operator_id: str
    name: str
    kind: str
    key: str
    namespace: str
    map_key: str
    value: str
    parallelism: int
    max_parallelism: int


class StateCount(Struct, frozen=True, kw_only=True):
    """How much there is of a state. `raw_bytes`: of keys, namespaces, map keys and values."""

    operator: str
    name: str
    rows: int
    keys: int
    raw_bytes: int
    key_groups: int


class StateDifference(Struct, frozen=True, kw_only=True):
    """One state in A and in B, counted in rows; bytes are those of keys and values."""

    operator: str
    name: str
    added: int
    removed: int
    changed: int
    same: int
    added_bytes: int
    removed_bytes: int
    changed_bytes: int

    @property
    def differs(self) -> bool:
        return bool(self.added or self.removed or self.changed)


class ChangedRow(Struct, frozen=True, kw_only=True):
    """One row that differs. `sign`: + only in B, - only in A, ~ in both, `row` as in B and `old` the value in A."""

    sign: str
    operator: str
    state: str
    row: Row
    old: object = None


class Filter(Struct, frozen=True, kw_only=True):
    """Which rows are wanted. Bytes are as they are stored."""

    key: bytes | None = None
    key_groups: KeyGroupRange | None = None
    prefix: str | bytes | None = None  # text: of a key that is text
    namespace: bytes | None = None


def list_states(source: SnapshotSource) -> tuple[StateListRow, ...]:
    """Every state of the snapshot, and the operators whose state is files."""
    rows: list[StateListRow] = []
    for operator in source.operators:
        tables = operator.open()
        rows += [_row(operator.state, table.schema) for table in tables]
        if not tables and any(subtask.files for subtask in operator.state.subtasks):
            rows.append(_row(operator.state, None))
    return tuple(rows)


def listed_in(manifest: Manifest) -> tuple[StateListRow, ...] | None:
    """As `list_states`, where the manifest alone tells it, so that no file has to be fetched; None: it does not."""
    rows: list[StateListRow] = []
    for operator in manifest.operators:
        files = any(subtask.files for subtask in operator.subtasks)
        if operator.engine.kind == "flink":
            return None  # it is in its files
        if not is_readable(operator):
            rows += [_row(operator, None)] if files else []
        elif operator.engine.kind != "eoctl" or (files and not operator.states):
            return None
        else:
            infos = sorted(operator.states, key=lambda info: (info.name, info.kind))
            rows += [_row(operator, schema_of(info)) for info in infos]
    return tuple(rows)


def find_state(source: SnapshotSource, operator: str | None, state: str | None) -> tuple[SourceOperator, StateTable]:
    """The state that is meant; what is left out has to be plain.

    Raises: SnapshotNotFoundError (no such operator or state), UnsupportedError (it is files), UsageError.
    """
    chosen = _operators(source, operator)
    found = [(one, table) for one in chosen for table in one.open() if state is None or table.schema.name == state]
    if len(found) == 1:
        return found[0]
    names = [f"--operator {one.name} --state {table.schema.name}" for one in chosen for table in one.open()]
    if not names:
        kinds = ", ".join(sorted({one.state.engine.kind for one in chosen})) or "nothing"
        message = f"the state of {operator or 'this snapshot'} is files ({kinds}), not rows"
        raise UnsupportedError(message, hint="eoctl restore writes the files")
    if not found:
        near = get_close_matches(state or "", [table.schema.name for one in chosen for table in one.open()], n=1)
        hint = f"did you mean: --state {near[0]}" if near else f"it has: {'; '.join(names[:5])}"
        raise SnapshotNotFoundError(f"there is no state {state!r}", hint=hint)
    raise UsageError(f"{len(found)} states could be meant", hint=f"one of: {'; '.join(names[:5])}")


def scan(operator: SourceOperator, table: StateTable, wanted: Filter) -> Iterator[pa.RecordBatch]:
    """The rows that the filter lets through, in order."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    limit = operator.state.max_parallelism
    groups = wanted.key_groups
    schema = table.schema
    if wanted.key is not None and groups is None and schema.keyed and limit and can_hash(schema):
        group = key_group(schema, wanted.key, limit)
        groups = KeyGroupRange(group, group + 1)
    for batch in table.scan(groups, wanted.key):
        rows = select(batch, groups, wanted.key)
        if wanted.prefix is not None:
            rows = rows.filter(_begins(schema, rows["key"], wanted.prefix))
        if wanted.namespace is not None:
            rows = rows.filter(pc.equal(rows["namespace"], wanted.namespace))
        if len(rows):
            yield rows


def count(operator: SourceOperator, table: StateTable, wanted: Filter) -> StateCount:
    """How many rows, keys and bytes the state has."""
    rows = keys = raw_bytes = groups = 0
    last: tuple[int, bytes] | None = None
    for batch in scan(operator, table, wanted):
        rows += len(batch)
        raw_bytes += _raw_bytes(batch)
        first, end = row_key(batch, 0)[:2], row_key(batch, len(batch) - 1)[:2]
        keys += _distinct_keys(batch) - (first == last)
        distinct = 1 if first[0] == end[0] else len(batch["key_group"].unique())
        groups += distinct - (last is not None and first[0] == last[0])
        last = end
    return StateCount(
        operator=str(operator.name),
        name=table.schema.name,
        rows=rows,
        keys=keys,
        raw_bytes=raw_bytes,
        key_groups=groups,
    )


def diff(a: SnapshotSource, b: SnapshotSource, operator: str | None, state: str | None) -> Iterator[StatePair]:
    """Each state that A or B has, of operators that are the same by id. Raises: SnapshotNotFoundError."""
    pairs: dict[tuple[str, str, str], StatePair] = {}
    for side, source in enumerate((a, b)):
        for one in source.operators:
            for table in one.open():
                if operator not in {None, one.state.uid, one.state.id} or state not in {None, table.schema.name}:
                    continue
                name = one.state.id, table.schema.name, table.schema.kind
                pair = pairs.setdefault(name, StatePair(str(one.name), table.schema, [None, None]))
                pair.tables[side] = table
    if not pairs and (operator is not None or state is not None):
        raise SnapshotNotFoundError(f"neither has such a state: {operator or 'any operator'}, {state or 'any state'}")
    yield from (pairs[name] for name in sorted(pairs))


class StatePair(Struct, frozen=True):
    """A state in A and in B, as far as they have it."""

    operator: str
    schema: StateSchema
    tables: list[StateTable | None]

    def compare(self, rows: list[ChangedRow], limit: int, *, raw: bool = False) -> StateDifference:
        """What differs; the first rows of it, until `rows` has `limit`, are appended there."""
        text = RowText(self.schema, raw=raw)
        counts = dict.fromkeys(("added", "removed", "changed", "same", "added_bytes", "removed_bytes"), 0)
        changed_bytes = 0
        for changes in difference(*(iter(()) if table is None else table.scan() for table in self.tables)):
            counts["same"] += changes.same
            counts["added"] += len(changes.added)
            counts["removed"] += len(changes.removed)
            counts["changed"] += len(changes.new)
            counts["added_bytes"] += _raw_bytes(changes.added)
            counts["removed_bytes"] += _raw_bytes(changes.removed)
            changed_bytes += _raw_bytes(changes.new)
            if len(rows) < limit:
                self._tell(rows, limit, text, [("+", changes.added), ("-", changes.removed)])
                old = list(text.rows(changes.old.slice(0, limit - len(rows))))
                new = list(text.rows(changes.new.slice(0, limit - len(rows))))
                rows += [
                    ChangedRow(sign="~", operator=self.operator, state=self.schema.name, row=row, old=before["value"])
                    for before, row in zip(old, new, strict=True)
                ]
        return StateDifference(operator=self.operator, name=self.schema.name, changed_bytes=changed_bytes, **counts)

    def _tell(self, rows: list[ChangedRow], limit: int, text: RowText, parts: list[tuple[str, pa.RecordBatch]]) -> None:
        for sign, batch in parts:
            rows += [
                ChangedRow(sign=sign, operator=self.operator, state=self.schema.name, row=row)
                for row in text.rows(batch.slice(0, max(0, limit - len(rows))))
            ]


def _operators(source: SnapshotSource, name: str | None) -> list[SourceOperator]:
    chosen = [one for one in source.operators if name in {None, one.state.uid, one.state.id}]
    if not chosen:
        known = [str(one.name) for one in source.operators]
        near = get_close_matches(name or "", known, n=1)
        hint = f"did you mean: --operator {near[0]}" if near else f"its operators: {', '.join(known) or 'none'}"
        raise SnapshotNotFoundError(f"{source.address} has no operator {name!r}", hint=hint)
    return chosen


def _row(state: OperatorState, schema: StateSchema | None) -> StateListRow:
    return StateListRow(
        operator=state.uid or state.id,
        operator_id=state.id,
        name="" if schema is None else schema.name,
        kind="files" if schema is None else schema.kind,
        key="" if schema is None else schema.key,
        namespace="" if schema is None else schema.namespace,
        map_key="" if schema is None else schema.map_key,
        value="" if schema is None else schema.value,
        parallelism=state.parallelism,
        max_parallelism=state.max_parallelism,
    )


def _begins(schema: StateSchema, keys: pa.Array, prefix: str | bytes) -> pa.Array:
    """Which keys begin so: as text where they are Flink's strings, else as bytes."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    if isinstance(prefix, bytes) or not schema.key:
        return pc.starts_with(keys, prefix if isinstance(prefix, bytes) else prefix.encode())
    if schema.key != "string":
        hint = "--prefix hex:6b31 compares bytes"
        raise UsageError(f"a prefix is for keys that are text; those of {schema.name} are {schema.key}", hint=hint)
    return pc.starts_with(decode_column(parse(schema.key), keys), prefix)


def _distinct_keys(batch: pa.RecordBatch) -> int:
    """How many keys the rows have, which are in order, and no two alike."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    if not byte_count(batch["namespace"]) and not byte_count(batch["map_key"]):
        return len(batch)
    same = [pc.equal(*neighbours(batch, name)) for name in ("key_group", "key")]
    return len(batch) - (pc.sum(pc.and_(*same)).as_py() or 0)


def _raw_bytes(batch: pa.RecordBatch) -> int:
    return sum(byte_count(batch[name]) for name in row_schema().names[1:])
