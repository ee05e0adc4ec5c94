"""The heap backend: state in dictionaries; a checkpoint writes what changed as a sorted table on top of earlier ones.

Tables are merged in the background, by the same call that writes them: two neighbours become one as soon as the newer
is at least half as large as the older. So there are about as many tables as the state has binary digits, and the
oldest, largest one is rewritten only after half of its size has been written beside it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import replace

from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.state.backend import Restored, StateSpec, TableFile
from eoctl.runtime.state.serializers import Serializer, serializer
from formats.errors import IncompatibleError
from formats.keygroups import KeyGroupRange
from formats.manifest import StateInfo
from formats.sst import SortedTable, TableCodec, merge, merge_batches, write_table
from formats.state import KEY_COLUMNS, StateSchema, row_schema

MERGE_RATIO = 0.5
_ABSENT: Any = object()
_SIGN = 1 << 63

Row = tuple[Hashable, Hashable, Hashable, Any]  # namespace, key, map key, value or _ABSENT


class HeapTable:
    """One state in memory: namespace -> key -> value."""

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self.data: dict[Hashable, dict[Hashable, Any]] = {}
        self._changed: dict[Hashable, set[Hashable]] = {}
        self._kept: set[Hashable] = set()  # namespaces of which a table on disk may hold rows
        self._value = serializer(spec.value)

    def view(self, namespace: Hashable) -> dict[Hashable, Any]:
        found = self.data.get(namespace)
        if found is None:
            found = self.data[namespace] = {}
        return found

    def touched(self, namespace: Hashable, keys: Iterable[Hashable]) -> None:
        changed = self._changed.get(namespace)
        if changed is None:
            self._changed[namespace] = set(keys)
        else:
            changed.update(keys)

    def drop(self, namespace: Hashable) -> None:
        gone = self.data.pop(namespace, {})
        if namespace in self._kept:
            self.touched(namespace, gone)
        else:
            self._changed.pop(namespace, None)

    def namespaces(self) -> Iterator[Hashable]:
        return iter([namespace for namespace, values in self.data.items() if values])

    def load(self, namespace: Hashable, key: Hashable, value: object) -> None:
        """As `view`, of what a table holds already."""
        self.view(namespace)[key] = value
        self._kept.add(namespace)

    def take(self) -> list[Row]:
        """The changes since the last call. Values that could be changed are in their bytes."""
        rows: list[Row] = []
        pairs = self.spec.kind in {"map", "timer"}
        shared = self.spec.kind == "timer" or (self._value.immutable and self.spec.kind != "list")
        for namespace, keys in self._changed.items():
            values = self.data.get(namespace, {})
            for key in keys:
                value = values.get(key, _ABSENT)
                if value is not _ABSENT and not shared:
                    value = self._value.join(value) if self.spec.kind == "list" else self._value.encode(value)
                if pairs:
                    rows.append((namespace, key[0], key[1], value))  # type: ignore[index]  # as the kind promises
                else:
                    rows.append((namespace, key, None, value))
            self._kept.add(namespace)
            if not values:
                self.data.pop(namespace, None)
                self._kept.discard(namespace)
        self._changed = {}
        return rows

    def everything_changed(self) -> None:
        """Nothing on disk counts: the next checkpoint writes it all."""
        self._changed = {namespace: set(values) for namespace, values in self.data.items()}


class HeapState:
    """Keyed state of one subtask, its files below `directory`. No name, which begins with `prefix`, is used twice."""

    def __init__(self, directory: Path, max_parallelism: int, prefix: str, codec: TableCodec = "lz4") -> None:
        self.directory = directory
        self.groups = KeyGroups(max_parallelism)
        self.codec: TableCodec = codec
        self.files: dict[str, list[TableFile]] = {}  # by state, oldest first; only the writing thread changes it
        self._prefix = prefix
        self._sequence = 0
        self._tables: dict[str, HeapTable] = {}
        self._restored: dict[str, list[Restored]] = {}
        self._key_groups: KeyGroupRange | None = None
        self._adopted = False

    def restore(self, found: Iterable[Restored], key_groups: KeyGroupRange | None) -> None:
        self._key_groups = key_groups
        for one in found:
            self._restored.setdefault(one.state, []).append(one)

    def adopt(self, files: tuple[TableFile, ...]) -> None:
        self._adopted = True
        for file in sorted(files, key=lambda file: file.sequence):
            self.files.setdefault(file.state, []).append(file)
            self._sequence = max(self._sequence, file.sequence)

    def table(self, spec: StateSpec) -> HeapTable:
        known = self._tables.get(spec.name)
        if known is not None:
            return known
        table = self._tables[spec.name] = HeapTable(spec)
        restored = self._restored.pop(spec.name, [])
        for one in restored:
            self._check(spec, one)
        rows = merge_batches(
            [merge(one.tables, keep_tombstones=False, key_groups=self._key_groups) for one in restored],
            keep_tombstones=False,
        )
        _load(table, rows)
        if restored and not self._adopted:
            table.everything_changed()
        return table

    def unclaimed(self) -> tuple[str, ...]:
        return tuple(sorted(self._restored))

    def freeze(self) -> HeapFrozen:
        taken = [(table.spec, rows) for table in self._tables.values() if (rows := table.take())]
        return HeapFrozen(self, taken)

    def describe(self) -> tuple[StateInfo, ...]:
        infos = []
        for name, table in sorted(self._tables.items()):
            spec = table.spec
            types = {"key": spec.key, "namespace": spec.namespace, "map_key": spec.map_key, "value": spec.value}
            infos.append(StateInfo(name=name, kind=spec.kind, properties={k: v for k, v in types.items() if v}))
        return tuple(infos)

    def sweep(self, keep: frozenset[str]) -> None:
        if self.directory.is_dir():
            wanted = keep | {file.name for files in self.files.values() for file in files}
            for path in self.directory.iterdir():
                if path.name not in wanted:
                    path.unlink()

    def write(self, spec: StateSpec, rows: list[Row]) -> None:
        """The rows are in a table on disk, and neighbours are merged."""
        files = self.files.setdefault(spec.name, [])
        batch = _batch(spec, rows, self.groups)
        files.append(self._write(spec, [batch]))
        while len(files) > 1 and files[-1].bytes >= MERGE_RATIO * files[-2].bytes:
            newer, older = files[-1], files[-2]
            with (self.directory / newer.name).open("rb") as one, (self.directory / older.name).open("rb") as other:
                tables = [SortedTable(one, newer.name), SortedTable(other, older.name)]
                merged = self._write(spec, merge(tables, keep_tombstones=len(files) > 2))
            files[-2:] = [merged] if merged.rows else []

    def _write(self, spec: StateSpec, batches: Iterable[pa.RecordBatch]) -> TableFile:
        self._sequence += 1
        name = f"{self._prefix}{self._sequence:08d}.parquet"
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / name
        with path.open("xb") as file:
            stats = write_table(file, schema_of(spec), batches, sequence=self._sequence, codec=self.codec)
        return TableFile(name, spec.name, stats.rows, stats.raw_bytes, self._sequence, timer=spec.kind == "timer")

    def _check(self, spec: StateSpec, restored: Restored) -> None:
        for table in restored.tables:
            wanted = schema_of(spec)
            if replace(table.schema, properties={}) != replace(wanted, properties={}):
                message = f"state {spec.name!r} was saved as {table.schema}, and is now declared as {wanted}"
                raise IncompatibleError(message, hint="give the new form another name, or the old type back")


class HeapFrozen:
    """Changes that wait to be written."""

    def __init__(self, state: HeapState, taken: list[tuple[StateSpec, list[Row]]]) -> None:
        self._state = state
        self._taken = taken

    def write(self) -> tuple[TableFile, ...]:
        for spec, rows in self._taken:
            self._state.write(spec, rows)
        self._taken = []
        return tuple(file for files in self._state.files.values() for file in files)


def schema_of(spec: StateSpec) -> StateSchema:
    """As the table's footer tells it."""
    return StateSchema(
        name=spec.name, kind=spec.kind, key=spec.key, namespace=spec.namespace, map_key=spec.map_key, value=spec.value
    )


def _itself(group: Hashable) -> int:
    assert isinstance(group, int)
    return group


def _time_bytes(time: object) -> bytes:
    """A timer's time: big-endian with the sign bit flipped, so that bytes sort as times."""
    assert isinstance(time, int)
    return ((time + _SIGN) & ((1 << 64) - 1)).to_bytes(8, "big")


def _time_of(data: bytes) -> int:
    return int.from_bytes(data, "big") - _SIGN


def _batch(spec: StateSpec, rows: list[Row], groups: KeyGroups) -> pa.RecordBatch:
    """The rows as sorted columns."""
    key, namespace, value = serializer(spec.key).encode, serializer(spec.namespace).encode, serializer(spec.value)
    group_of = groups.of if not spec.by_group else _itself
    spaces: dict[Hashable, bytes] = {}
    for row in rows:
        if row[0] not in spaces:
            spaces[row[0]] = namespace(row[0])
    if spec.kind == "timer":
        map_keys = [_time_bytes(row[2]) for row in rows]
        values = [None if row[3] is _ABSENT else b"" for row in rows]
    else:
        map_key = serializer(spec.map_key).encode
        map_keys = [map_key(row[2]) for row in rows] if spec.kind == "map" else [b""] * len(rows)
        if value.immutable and spec.kind != "list":
            values = [None if row[3] is _ABSENT else value.encode(row[3]) for row in rows]
        else:
            values = [None if row[3] is _ABSENT else row[3] for row in rows]
    columns = [
        pa.array([group_of(row[1]) for row in rows], pa.uint16()),
        pa.array([key(row[1]) for row in rows], pa.binary()),
        pa.array([spaces[row[0]] for row in rows], pa.binary()),
        pa.array(map_keys, pa.binary()),
        pa.array(values, pa.binary()),
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=row_schema())
    return batch.take(pc.sort_indices(batch, sort_keys=[(name, "ascending") for name in KEY_COLUMNS]))


def _load(table: HeapTable, batches: Iterable[pa.RecordBatch]) -> None:
    spec = table.spec
    key, value = serializer(spec.key).decode, _reader(spec, serializer(spec.value))
    map_key = _time_of if spec.kind == "timer" else serializer(spec.map_key).decode
    pairs = spec.kind in {"map", "timer"}
    spaces: dict[bytes, Hashable] = {}
    for batch in batches:
        columns = [batch[name].to_pylist() for name in ("key", "namespace", "map_key", "value")]
        for key_bytes, space, map_bytes, data in zip(*columns, strict=True):
            if space not in spaces:
                spaces[space] = serializer(spec.namespace).decode(space)
            place = (key(key_bytes), map_key(map_bytes)) if pairs else key(key_bytes)
            table.load(spaces[space], place, value(data))


def _reader(spec: StateSpec, values: Serializer) -> Any:  # noqa: ANN401  (a value of any type)
    if spec.kind == "timer":
        return lambda _: True
    return values.split if spec.kind == "list" else values.decode
