"""The RocksDB backend: state beyond memory; a checkpoint is a checkpoint of RocksDB, whose tables the store shares.

One database for each subtask, one column family for each state. A key is Flink's: key group (2 bytes, big-endian), key,
namespace, map key; so Flink's tools and ours read it. Freezing flushes and hard-links; nothing is copied, and what the
store has already is not uploaded again. There is no write-ahead log: after a crash the store's checkpoint counts, not
what the directory has. Sorted tables, of a savepoint or of the heap backend, are read into it. Needs rocksdict.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Hashable, ItemsView, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, TypeAlias

from eoctl.runtime.keys import KeyGroups
from eoctl.runtime.state.backend import OldState, StateSpec, TableFile, View
from eoctl.runtime.state.columns import time_bytes, time_of
from eoctl.runtime.state.heap import HeapState
from eoctl.runtime.state.serializers import serializer
from formats.errors import IncompatibleError
from formats.keygroups import KeyGroupRange
from formats.manifest import Engine, StateFile, StateInfo

Rdict: TypeAlias = Any  # of rocksdict, an extra, whose keys and values are of any type

GROUP_BYTES = 2
BLOOM_BITS = 10  # for each key, in memory: a table without the key is passed over, but for one in a hundred
ELSEWHERE = object()  # None may be a key
_SPEC = "eoctl.spec:"  # + name, in the default column family: how a state was declared


class RocksView(MutableMapping[Hashable, Any]):
    """The entries of one namespace."""

    def __init__(self, table: RocksTable, namespace: Hashable) -> None:
        self._table = table
        self._suffix = table.namespace.encode(namespace)

    def __getitem__(self, place: Hashable) -> Any:  # noqa: ANN401  (what was put in)
        found = self._table.family.get(self._key(place))
        if found is None:
            raise KeyError(place)
        return self._table.decode(found)

    def __setitem__(self, place: Hashable, value: Any) -> None:  # noqa: ANN401  (anything the type can hold)
        self._table.family[self._key(place)] = self._table.encode(value)

    def __delitem__(self, place: Hashable) -> None:
        key = self._key(place)
        if self._table.family.get(key) is None:
            raise KeyError(place)
        del self._table.family[key]

    def __iter__(self) -> Iterator[Hashable]:
        for key in self._table.family.keys():  # noqa: SIM118  (no mapping)
            place = self._table.place(key, self._suffix)
            if place is not ELSEWHERE:
                yield place

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def items(self) -> ItemsView[Hashable, Any]:
        return RocksItems(self)

    def rows(self) -> Iterator[tuple[Hashable, Any]]:
        """Keys and values in one go over the state."""
        for key, value in self._table.family.items():
            place = self._table.place(key, self._suffix)
            if place is not ELSEWHERE:
                yield place, self._table.decode(value)

    def _key(self, place: Hashable) -> bytes:
        return self._table.key(self._suffix, place)


class RocksItems(ItemsView[Hashable, Any]):
    """Entries that are read where they lie, not looked up one by one."""

    _mapping: RocksView

    def __iter__(self) -> Iterator[tuple[Hashable, Any]]:
        return self._mapping.rows()


class RocksTable:
    """One state."""

    def __init__(self, spec: StateSpec, family: Rdict, groups: KeyGroups) -> None:
        self.spec = spec
        self.family = family
        self.namespace = serializer(spec.namespace)
        self._groups = groups
        self._keys = serializer(spec.key)
        self._map_keys = serializer(spec.map_key)
        self._values = serializer(spec.value)
        self._views: dict[Hashable, RocksView] = {}

    def view(self, namespace: Hashable) -> View:
        if namespace not in self._views:
            self._views[namespace] = RocksView(self, namespace)
        return self._views[namespace]

    def touched(self, namespace: Hashable, keys: Iterable[Hashable]) -> None:
        """It is in the database already."""

    def drain(self, namespaces: Collection[Hashable]) -> dict[Hashable, list[tuple[Any, Any]]]:
        wanted: dict[bytes, list[tuple[Any, Any]]] = {self.namespace.encode(namespace): [] for namespace in namespaces}
        sizes = {len(space) for space in wanted}
        last = self.spec.kind in {"value", "list"}  # the namespace is what a key ends with
        for data, value in self.family.items():  # as it was at the start, whatever is deleted
            if last and all(data[-size:] not in wanted for size in sizes):
                continue
            space, place = self.parse(data)
            if space in wanted:
                wanted[space].append((place, self.decode(value)))
                del self.family[data]
        for namespace in namespaces:
            self._views.pop(namespace, None)
        return dict(zip(namespaces, wanted.values(), strict=True))

    def namespaces(self) -> Iterator[Hashable]:
        spaces = {self.parse(key)[0] for key in self.family.keys()}  # noqa: SIM118  (no mapping)
        return iter([self.namespace.decode(space) for space in sorted(spaces)])

    def map_keys(self, namespace: Hashable, key: Hashable) -> list[Hashable]:
        start = self._head(key) + self.namespace.encode(namespace)
        found = []
        for data in self.family.keys(from_key=start):
            if not data.startswith(start):
                break
            found.append(self._map_keys.decode(data[len(start) :]))
        return found

    def _head(self, key: Any) -> bytes:  # noqa: ANN401  (of the declared type)
        group = key if self.spec.by_group else self._groups.of(key)
        return group.to_bytes(GROUP_BYTES, "big") + self._keys.encode(key)

    def key(self, suffix: bytes, place: Hashable) -> bytes:
        """The database's key."""
        key: Any = place
        map_key: Any = None
        if self.spec.kind in {"map", "timer"}:
            assert isinstance(place, tuple)
            key, map_key = place
        head = self._head(key) + suffix
        if self.spec.kind == "timer":
            return head + time_bytes(map_key)
        return head + self._map_keys.encode(map_key) if self.spec.kind == "map" else head

    def parse(self, data: bytes) -> tuple[bytes, Any]:
        """The namespace's bytes, and the place within it."""
        key, at = self._keys.read(data, GROUP_BYTES)
        _, end = self.namespace.read(data, at)
        if self.spec.kind == "timer":
            return data[at:end], (key, time_of(data[end:]))
        if self.spec.kind == "map":
            return data[at:end], (key, self._map_keys.decode(data[end:]))
        return data[at:end], key

    def place(self, data: bytes, suffix: bytes) -> Any:  # noqa: ANN401  (a key, or a pair)
        """As of `parse`, or `ELSEWHERE` where it is not in that namespace."""
        if self.spec.kind in {"value", "list"} and not data.endswith(suffix):
            return ELSEWHERE
        space, place = self.parse(data)
        return place if space == suffix else ELSEWHERE

    def encode(self, value: Any) -> bytes:  # noqa: ANN401  (anything the type can hold)
        if self.spec.kind == "timer":
            return b""
        return self._values.join(value) if self.spec.kind == "list" else self._values.encode(value)

    def decode(self, data: bytes) -> Any:  # noqa: ANN401  (what was put in)
        if self.spec.kind == "timer":
            return True
        return self._values.split(data) if self.spec.kind == "list" else self._values.decode(data)


class RocksState:
    """Keyed state of one subtask in a database below `directory`."""

    engine = Engine(kind="rocksdb")

    def __init__(self, directory: Path, max_parallelism: int, prefix: str) -> None:
        self.directory = directory
        self._groups = KeyGroups(max_parallelism)
        self._prefix = prefix
        self._number = self._written = 0
        self._tables: dict[str, RocksTable] = {}
        self._opened: Rdict | None = None
        self._sorted = HeapState(directory, max_parallelism, prefix)

    @property
    def _database(self) -> Rdict:
        if self._opened is None:
            self._opened = _open(self.directory / "db")
        return self._opened

    def load(self, old: Iterable[OldState], key_groups: KeyGroupRange | None) -> None:
        old = list(old)
        sorted_tables = [OldState(one.folder, tuple(filter(_is_sorted, one.files)), in_place=False) for one in old]
        self._sorted.load(sorted_tables, key_groups)
        for number, one in enumerate(old):
            names = [file.name for file in one.files if file.role == "keyed" and not _is_sorted(file)]
            if not names:
                continue
            path = self.directory / "db" if one.in_place else self.directory / f"old-{number}"
            path.mkdir(parents=True)
            for name in names:
                if one.in_place:
                    (one.folder / name).rename(path / name)
                elif name.endswith(".sst"):
                    (path / name).hardlink_to(one.folder / name)
                else:
                    shutil.copyfile(one.folder / name, path / name)  # the database writes into it when it is opened
            if not one.in_place:
                self._take_over(path, key_groups)
                shutil.rmtree(path)

    def _take_over(self, path: Path, key_groups: KeyGroupRange | None) -> None:
        """The rows of another subtask's database that are ours now."""
        source = _open(path)
        for name in _names(source):
            target, family = self._family(name), source.get_column_family(name)
            for key, value in family.items():
                if key_groups is None or int.from_bytes(key[:GROUP_BYTES], "big") in key_groups:
                    target[key] = value
        for key, value in source.items():
            self._database[key] = value
        source.close()

    def table(self, spec: StateSpec) -> RocksTable:
        if spec.name not in self._tables:
            declared, known = _told(spec), self._database.get(f"{_SPEC}{spec.name}".encode())
            if known is not None and known != declared:
                message = (
                    f"state {spec.name!r} was saved as {known.decode()}, and is now declared as {declared.decode()}"
                )
                raise IncompatibleError(message, hint="give the new form another name, or the old type back")
            family = self._family(spec.name)
            for batch in self._sorted.restored_rows(spec):
                columns = (batch[name].to_pylist() for name in ("key_group", "key", "namespace", "map_key", "value"))
                for group, key, namespace, map_key, value in zip(*columns, strict=True):
                    family[group.to_bytes(GROUP_BYTES, "big") + key + namespace + map_key] = value
            self._tables[spec.name] = RocksTable(spec, family, self._groups)
            self._database[f"{_SPEC}{spec.name}".encode()] = declared
        return self._tables[spec.name]

    def unclaimed(self) -> tuple[str, ...]:
        names = [] if self._opened is None and not (self.directory / "db").is_dir() else _names(self._database)
        return tuple(sorted({*names, *self._sorted.unclaimed()} - set(self._tables)))

    def freeze(self) -> RocksFrozen:
        from rocksdict import Checkpoint  # noqa: PLC0415  (an extra)

        if not self._tables:
            return RocksFrozen(self, self._number, self.directory, ())
        self._number += 1
        path = self.directory / f"{self._prefix}{self._number:08d}"
        Checkpoint(self._database).create_checkpoint(str(path))
        names = sorted(file.name for file in path.iterdir() if file.name != "LOCK")
        files = tuple(TableFile(name, "", 0, 0, self._number) for name in names)
        return RocksFrozen(self, self._number, path, files)

    def describe(self) -> tuple[StateInfo, ...]:
        return tuple(self._tables[name].spec.info() for name in sorted(self._tables))

    def sweep(self, keep: frozenset[str]) -> None:
        # What was frozen after the last write is not known to anybody yet.
        written = {f"{self._prefix}{number:08d}" for number in range(self._written + 1)}
        for path in self.directory.glob(f"{self._prefix}*") if self.directory.is_dir() else ():
            if path.is_dir() and path.name in written - keep:
                shutil.rmtree(path)

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def wrote(self, number: int) -> None:
        self._written = number

    def _family(self, name: str) -> Rdict:
        known = name in _names(self._database)
        database = self._database
        return _unlogged(database.get_column_family(name) if known else database.create_column_family(name, _options()))


class RocksFrozen:
    """A checkpoint of the database."""

    def __init__(self, state: RocksState, number: int, directory: Path, files: tuple[TableFile, ...]) -> None:
        self.directory = directory
        self._state = state
        self._number = number
        self._files = files

    def write(self) -> tuple[TableFile, ...]:
        self._state.wrote(self._number)
        return self._files


def _is_sorted(file: StateFile) -> bool:
    return file.name.endswith(".parquet")


def _options() -> Any:  # noqa: ANN401  (rocksdict is an extra)
    from rocksdict import BlockBasedOptions, Options  # noqa: PLC0415  (an extra)

    tables = BlockBasedOptions()
    tables.set_bloom_filter(BLOOM_BITS, False)  # noqa: FBT003  (its form)
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(tables)
    return options


def _open(path: Path) -> Rdict:
    from rocksdict import Rdict as Database  # noqa: PLC0415  (an extra)

    path.mkdir(parents=True, exist_ok=True)
    names = Database.list_cf(str(path), _options()) if (path / "CURRENT").exists() else []
    families = {name: _options() for name in names if name != "default"}
    options = _options()
    options.create_if_missing(True)  # noqa: FBT003  (its form)
    return _unlogged(Database(str(path), options, column_families=families or None))


def _unlogged(database: Rdict) -> Rdict:
    """It, with writes that a checkpoint alone makes durable."""
    from rocksdict import WriteOptions  # noqa: PLC0415  (an extra)

    writes: Any = WriteOptions()  # whose stubs have setters that it has not
    writes.disable_wal = True
    database.set_write_options(writes)
    return database


def _names(database: Rdict) -> list[str]:
    """States that the database holds: those whose declaration is there."""
    return [key[len(_SPEC) :].decode() for key, _ in database.items() if key.startswith(_SPEC.encode())]


def _told(spec: StateSpec) -> bytes:
    return f"{spec.kind}<{spec.key}, {spec.namespace}, {spec.map_key}, {spec.value}>".encode()
