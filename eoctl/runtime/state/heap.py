"""The heap backend: state in dictionaries; a checkpoint writes what changed as a sorted table on top of earlier ones.

Tables are merged in the background, by the same call that writes them: two neighbours become one as soon as the newer
is at least half as large as the older. So there are about as many tables as the state has binary digits, and the
oldest, largest one is rewritten only after half of its size has been written beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec.structs import replace

from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.state.backend import OldState, Restored, StateSpec, TableFile
from eoctl.runtime.state.columns import ABSENT, Change, batch_of, time_of
from eoctl.runtime.state.flinks import has_flags, in_our_words, is_clock_timers, without_flags
from eoctl.runtime.state.serializers import Serializer, serializer
from formats.errors import IncompatibleError
from formats.keygroups import KeyGroupRange
from formats.manifest import Engine, StateInfo
from formats.sst import SortedTable, TableCodec, merge, merge_batches, write_table
from formats.state import StateSchema

MERGE_RATIO = 0.5


class HeapTable:
    """One state in memory: namespace -> key -> value."""

    def __init__(self, spec: StateSpec) -> None:
        self.spec = spec
        self.data: dict[Hashable, dict[Hashable, Any]] = {}
        self._changed: dict[Hashable, set[Hashable]] = {}
        self._kept: set[Hashable] = set()  # namespaces of which a table on disk may hold rows
        self._maps: dict[Hashable, dict[Hashable, dict[Hashable, None]]] = {}  # as `map_keys`, once it was asked for
        self._value = serializer(spec.value)

    def view(self, namespace: Hashable) -> dict[Hashable, Any]:
        found = self.data.get(namespace)
        if found is None:
            found = self.data[namespace] = {}
        return found

    def touched(self, namespace: Hashable, keys: Iterable[Hashable]) -> None:
        if namespace in self._maps:
            keys = list(keys)
            self._index(namespace, keys)
        changed = self._changed.get(namespace)
        if changed is None:
            self._changed[namespace] = set(keys)
        else:
            changed.update(keys)

    def drain(self, namespaces: Collection[Hashable]) -> dict[Hashable, list[tuple[Any, Any]]]:
        found = {}
        for namespace in namespaces:
            gone = self.data.pop(namespace, {})
            self._maps.pop(namespace, None)
            if namespace in self._kept:
                self.touched(namespace, gone)
            else:
                self._changed.pop(namespace, None)
            found[namespace] = list(gone.items())
        return found

    def namespaces(self) -> Iterator[Hashable]:
        return iter([namespace for namespace, values in self.data.items() if values])

    def map_keys(self, namespace: Hashable, key: Hashable) -> list[Hashable]:
        if namespace not in self._maps:
            self._maps[namespace] = {}
            self._index(namespace, self.view(namespace))
        return list(self._maps[namespace].get(key, ()))

    def _index(self, namespace: Hashable, places: Iterable[Any]) -> None:
        data, maps = self.view(namespace), self._maps[namespace]
        for key, map_key in places:
            if (key, map_key) in data:
                maps.setdefault(key, {})[map_key] = None
            elif key in maps:
                maps[key].pop(map_key, None)
                if not maps[key]:
                    del maps[key]

    def load(self, namespace: Hashable, key: Hashable, value: object) -> None:
        """As `view`, of what a table holds already."""
        self.view(namespace)[key] = value
        self._kept.add(namespace)

    def take(self) -> list[Change]:
        """The changes since the last call. Values that could be changed are in their bytes."""
        changes: list[Change] = []
        shared = self.spec.kind == "timer" or (self._value.immutable and self.spec.kind != "list")
        encode: Callable[[Any], bytes] = self._value.join if self.spec.kind == "list" else self._value.encode
        for namespace, keys in self._changed.items():
            found = self.data.get(namespace, {})
            places = list(keys)
            values = list(map(found.get, places, repeat(ABSENT)))
            if not shared:
                values = [value if value is ABSENT else encode(value) for value in values]
            if places:
                changes.append((namespace, places, values))
            self._kept.add(namespace)
            if not found:
                self._kept.discard(namespace)
        self._changed = {}
        return changes

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
        self.engine = Engine(kind="eoctl")
        self._prefix = prefix
        self._sequence = 0
        self._tables: dict[str, HeapTable] = {}
        self._restored: dict[str, list[Restored]] = {}
        self._key_groups: KeyGroupRange | None = None
        self._adopted = False

    def load(self, old: Iterable[OldState], key_groups: KeyGroupRange | None) -> None:
        files: list[TableFile] = []
        restored: list[Restored] = []
        for one in old:
            tables: dict[str, list[SortedTable]] = {}
            for file in one.files:
                if file.role in {"keyed", "timer"}:
                    table = SortedTable(pa.memory_map(str(one.folder / file.name)), file.name)
                    name, timer = table.schema.name, table.schema.kind == "timer"
                    tables.setdefault(name, []).append(table)
                    files.append(TableFile(file.name, name, table.rows, file.bytes, table.sequence, timer=timer))
            for name, found in tables.items():
                if is_clock_timers(name):
                    files = [file for file in files if file.state != name]
                    continue
                restored.append(Restored(name, tuple(sorted(found, key=lambda table: -table.sequence))))
            if one.in_place:
                self.adopt(tuple(files))
        self.restore(restored, key_groups)

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
        restored = self._restored.get(spec.name, [])
        _load(table, self.restored_rows(spec))
        foreign = any(one.tables[0].schema.value != spec.value for one in restored)
        if foreign:  # no table of ours goes on top of one of Flink's
            self.files.pop(spec.name, None)
        if restored and (foreign or not self._adopted):
            table.everything_changed()
        return table

    def restored_rows(self, spec: StateSpec) -> Iterator[pa.RecordBatch]:
        """What was restored of the state, in the order of its keys; once. Raises: IncompatibleError."""
        restored = self._restored.pop(spec.name, [])
        for one in restored:
            self._check(spec, one)
        return merge_batches([self._rows(spec, one) for one in restored], keep_tombstones=False)

    def unclaimed(self) -> tuple[str, ...]:
        return tuple(sorted(self._restored))

    def freeze(self) -> HeapFrozen:
        taken = [(table.spec, changes) for table in self._tables.values() if (changes := table.take())]
        return HeapFrozen(self, taken)

    def describe(self) -> tuple[StateInfo, ...]:
        return tuple(self._tables[name].spec.info() for name in sorted(self._tables))

    def sweep(self, keep: frozenset[str]) -> None:
        if self.directory.is_dir():
            wanted = keep | {file.name for files in self.files.values() for file in files}
            for path in self.directory.iterdir():
                if path.name not in wanted:
                    path.unlink()

    def close(self) -> None:
        """Nothing is open."""

    def write(self, spec: StateSpec, changes: list[Change]) -> None:
        """The changes are in a table on disk, and neighbours are merged."""
        files = self.files.setdefault(spec.name, [])
        files.append(self._write(spec, [batch_of(spec, changes, self.groups)]))
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

    def _rows(self, spec: StateSpec, restored: Restored) -> Iterator[pa.RecordBatch]:
        rows = merge(restored.tables, keep_tombstones=False, key_groups=self._key_groups)
        saved = restored.tables[0].schema
        return without_flags(saved, rows) if has_flags(saved) and saved.value != spec.value else rows

    def _check(self, spec: StateSpec, restored: Restored) -> None:
        for table in restored.tables:
            wanted = schema_of(spec)
            saved = replace(table.schema, properties={})
            if wanted not in (saved, in_our_words(saved)) or saved.value != restored.tables[0].schema.value:
                message = f"state {spec.name!r} was saved as {table.schema}, and is now declared as {wanted}"
                raise IncompatibleError(message, hint="give the new form another name, or the old type back")


class HeapFrozen:
    """Changes that wait to be written."""

    def __init__(self, state: HeapState, taken: list[tuple[StateSpec, list[Change]]]) -> None:
        self._state = state
        self.directory = state.directory
        self._taken = taken

    def write(self) -> tuple[TableFile, ...]:
        for spec, changes in self._taken:
            self._state.write(spec, changes)
        self._taken = []
        return tuple(file for files in self._state.files.values() for file in files)


def schema_of(spec: StateSpec) -> StateSchema:
    """As the table's footer tells it."""
    return StateSchema(
        name=spec.name, kind=spec.kind, key=spec.key, namespace=spec.namespace, map_key=spec.map_key, value=spec.value
    )


def _load(table: HeapTable, batches: Iterable[pa.RecordBatch]) -> None:
    spec = table.spec
    key, value = serializer(spec.key).decode, _reader(spec, serializer(spec.value))
    map_key = time_of if spec.kind == "timer" else serializer(spec.map_key).decode
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
