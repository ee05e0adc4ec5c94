"""The column families of RocksDB directories as state: one state for each, its keys and values as they are.

Where the directory holds just the tables that MANIFEST names, and its logs are empty, the tables are read directly
(formats/rocksdb_sst.py). Else RocksDB itself reads, through a handle that writes nothing. What a foreign application
means by its bytes is not known here, nor key groups: a row's key group is the subtask, its key the whole key. What the
runtime means by them is (rocksdb_keyed.py).
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from msgspec import Struct

from eoctl.engines.rocksdb_keyed import is_of_the_runtime, keyed_tables
from eoctl.engines.rocksdb_manifest import read_version
from eoctl.engines.states import FolderOf
from formats.errors import CorruptError, UnsupportedError
from formats.file_pool import FilePool
from formats.keygroups import KeyGroupRange
from formats.manifest import OperatorState
from formats.rocksdb_merge import merge_tables
from formats.rocksdb_sst import Table
from formats.sst import bytes_scalar
from formats.state import BATCH_BYTES, BATCH_ROWS, StateSchema, StateTable, row_schema

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION = "partition"  # property of a schema; "subtask": key groups are not known, so rows stay where they are
MERGE_OPERANDS = "compact the database inside its application (compact_range), take a checkpoint, and try again"

_TABLE = re.compile(r"([0-9]+)\.(?:sst|ldb)\Z")
_LOG = re.compile(r"[0-9]+\.log\Z")

Pairs = Callable[[bytes | None], Iterator["pa.RecordBatch"]]  # of this key, or all: columns `key` and `value`


class RocksdbTable(Struct, frozen=True, kw_only=True):
    """A column family over all subtasks."""

    schema: StateSchema
    subtasks: tuple[tuple[int, Pairs], ...]

    def scan(self, key_groups: KeyGroupRange | None = None, key: bytes | None = None) -> Iterator[pa.RecordBatch]:
        for index, pairs in self.subtasks:
            if key_groups is None or index in key_groups:
                for batch in pairs(key):
                    yield from _rows(index, batch, key)


def rocksdb_tables(operator: OperatorState, folder_of: FolderOf) -> tuple[StateTable, ...]:
    """A state for each column family that has rows in any subtask, or is not the default one."""
    if is_of_the_runtime(operator):
        kept = [subtask for subtask in operator.subtasks if subtask.files]
        return keyed_tables(operator, {one.index: _families(folder_of(operator, one)) for one in kept})
    found: dict[str, list[tuple[int, Pairs]]] = {}
    for subtask in sorted(operator.subtasks, key=lambda subtask: subtask.index):
        for family, pairs in _families(folder_of(operator, subtask)).items():
            found.setdefault(family, []).append((subtask.index, pairs))
    schemas = {name: StateSchema(name=name, kind="value", properties={PARTITION: "subtask"}) for name in found}
    return tuple(RocksdbTable(schema=schemas[name], subtasks=tuple(parts)) for name, parts in sorted(found.items()))


def _families(folder: Path) -> dict[str, Pairs]:
    if not (folder / "CURRENT").is_file():
        raise CorruptError(f"no RocksDB directory: {folder.name} has no CURRENT")
    current = (folder / "CURRENT").read_bytes()[:256].decode("utf-8", "replace").strip()
    if not re.fullmatch("MANIFEST-[0-9]+", current) or not (folder / current).is_file():
        raise CorruptError(f"CURRENT in {folder.name} names no MANIFEST: {current[:60]!r}")
    version = read_version(folder / current, (folder / current).stat().st_size)
    tables = {int(match[1]): path for path in folder.iterdir() if (match := _TABLE.match(path.name))}
    logs = [path for path in folder.iterdir() if _LOG.match(path.name) and path.stat().st_size]
    if logs or version.blobs or tables.keys() != version.tables.keys():
        return {family: partial(_by_rocksdb, folder, family) for family in version.families}
    by_family: dict[str, list[Path]] = {family: [] for family in version.families}
    for number, path in sorted(tables.items()):
        with path.open("rb") as file:
            table = Table(file, what=path.name)
            if table.column_family not in by_family or path.stat().st_size != version.tables[number]:
                raise CorruptError(f"{path.name} is not the table that MANIFEST names")
            by_family[table.column_family].append(path)
    return {family: partial(_by_tables, paths) for family, paths in by_family.items()}


def _by_tables(paths: list[Path], key: bytes | None = None) -> Iterator[pa.RecordBatch]:
    with FilePool() as pool:
        tables = [Table(pool.add(partial(_open, path)), what=path.name) for path in paths]
        try:
            yield from merge_tables(tables, start=key, stop=None if key is None else key + b"\0")
        except UnsupportedError as error:
            error.hint = error.hint or MERGE_OPERANDS
            raise


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _by_rocksdb(folder: Path, family: str, _: bytes | None = None) -> Iterator[pa.RecordBatch]:
    """All that RocksDB reads, write-ahead logs included; it creates its own log files, in a directory that is ours."""
    try:
        from rocksdict import AccessType, Options, Rdict, ReadOptions  # noqa: PLC0415  (an extra)
    except ImportError as error:
        message = "the state is in RocksDB's write-ahead log, which only RocksDB reads: rocksdict is not installed"
        raise UnsupportedError(message, hint="pip install 'eoctl[rocksdb]'") from error
    try:
        options = Options(raw_mode=True)
        families = {name: Options(raw_mode=True) for name in Rdict.list_cf(str(folder))}
        database = Rdict(str(folder), options, families, access_type=AccessType.read_only())
    except Exception as error:
        raise CorruptError(f"RocksDB does not open what was captured: {str(error)[:300]}") from error
    try:
        yield from _all(database.get_column_family(family).iter(ReadOptions()))
    finally:
        database.close()


def _all(rows: Any) -> Iterator[pa.RecordBatch]:  # noqa: ANN401  (rocksdict's iterator, untyped)
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    rows.seek_to_first()
    keys: list[bytes] = []
    values: list[bytes] = []
    size = 0
    while rows.valid():
        keys.append(bytes(rows.key()))
        values.append(bytes(rows.value()))
        size += len(keys[-1]) + len(values[-1])
        if len(keys) == BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.record_batch([pa.array(keys, pa.binary()), pa.array(values, pa.binary())], ["key", "value"])
            keys, values, size = [], [], 0
        rows.next()
    try:
        rows.status()
    except Exception as error:
        if "merge" in str(error).lower():
            message = f"merge operands, which only their application can apply: {str(error)[:200]}"
            raise UnsupportedError(message, hint=MERGE_OPERANDS) from error
        raise CorruptError(f"RocksDB cannot read on: {str(error)[:300]}") from error
    if keys:
        yield pa.record_batch([pa.array(keys, pa.binary()), pa.array(values, pa.binary())], ["key", "value"])


def _rows(subtask: int, pairs: pa.RecordBatch, key: bytes | None) -> Iterable[pa.RecordBatch]:
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    if key is not None:
        pairs = pairs.filter(pc.equal(pairs["key"], bytes_scalar(key)))
    if not len(pairs):
        return
    count = len(pairs)
    # Not from Python values: that imports pandas where it is installed.
    empty = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(bytes(4 * count + 4)), pa.py_buffer(b"")])
    groups = pa.Array.from_buffers(pa.uint16(), count, [None, pa.py_buffer(array("H", [subtask]) * count)])
    columns = [groups, pairs["key"], empty, empty, pairs["value"]]
    rows = pa.record_batch(columns, schema=row_schema())
    for start in range(0, count, BATCH_ROWS):
        yield rows.slice(start, BATCH_ROWS)
