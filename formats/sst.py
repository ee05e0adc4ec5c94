"""The sorted table: rows of state (formats/state.py) in a Parquet file, and the merge of several.

One file holds rows of one state, strictly ascending, in row groups of at most 65,536 rows or about 8 MiB. Where a
group ends depends on the rows alone, so equal rows give equal bytes however they arrived. The footer tells the
`StateSchema` and the table's sequence number: of two tables of a subtask the larger number is newer, and its rows
replace those of equal keys; a null value says that the key is gone. Columns beside the five are for people
(formats/types_arrow.py) and are not read here. The format is told in docs/formats/sst.md.

Threads of pyarrow are not used: who wants several cores reads several tables.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Annotated, BinaryIO, ClassVar, Literal, TypeAlias

from msgspec import Meta, Struct

from formats import canonical
from formats.errors import BadManifestError, CorruptError, TooLargeError
from formats.file_pool import PooledFile
from formats.keygroups import MAX_MAX_PARALLELISM, KeyGroupRange
from formats.manifest import Count
from formats.row_order import RowKey, count_below, in_order, neighbours, refuse, row_key, telling
from formats.state import (
    BATCH_BYTES,
    BATCH_ROWS,
    COLUMNS,
    KEY_COLUMNS,
    StateSchema,
    byte_count,
    first_of,
    row_schema,
)

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"eoctl.table"
MAX_FOOTER_BYTES = 64 << 20
MAX_GROUP_BYTES = 1 << 30  # of one row group: a value may be that large
_INDEXED_BYTES = 64

TableCodec: TypeAlias = Literal["zstd", "lz4", "none"]


class RowGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Where a row group lies in the order: its rows, and its first and last key group, and key, cut at 64 bytes."""

    rows: Annotated[int, Meta(gt=0, le=BATCH_ROWS)]
    key_groups: tuple[Count, Count]
    keys: tuple[bytes, bytes]

    def may_hold(self, key_groups: KeyGroupRange | None, key: bytes | None) -> bool:
        first, last = self.key_groups
        if key_groups is not None and (last < key_groups.start or first >= key_groups.stop):
            return False
        if key is None or first != last:
            return True
        return self.keys[0] <= key and key[:_INDEXED_BYTES] <= self.keys[1]


class TableHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the footer says beside Parquet's own metadata."""

    FORMAT: ClassVar[str] = "eoctl.table"
    VERSION: ClassVar[int] = 1

    format: Literal["eoctl.table"]
    version: Literal[1]
    schema: StateSchema
    sequence: Count = 0
    groups: tuple[RowGroup, ...] = ()


class TableStats(Struct, frozen=True, kw_only=True):
    """What was written. `raw_bytes`: of keys, namespaces, map keys and values, before encoding."""

    rows: int
    tombstones: int
    raw_bytes: int
    key_groups: KeyGroupRange | None  # the first and the last that have rows; None: no rows


def write_table(
    file: BinaryIO,
    schema: StateSchema,
    batches: Iterable[pa.RecordBatch],
    *,
    sequence: int = 0,
    codec: TableCodec = "zstd",
    columns: pa.Schema | None = None,
) -> TableStats:
    """`file` holds the rows of `batches`, which are strictly ascending. `columns`: theirs, if more than five.

    Raises: BadManifestError where rows are not in order or not distinct; what `batches` raises.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.parquet as pq  # noqa: PLC0415

    columns = columns or row_schema()
    rows = tombstones = raw_bytes = 0
    groups: list[RowGroup] = []
    with pq.ParquetWriter(
        file,
        columns,
        compression=codec,
        use_dictionary=["key_group", "namespace", *(() if schema.kind in {"map", "timer"} else ("map_key",))],
        write_statistics=["key_group"],  # of the rest the head knows what is needed
        sorting_columns=pq.SortingColumn.from_ordering(columns, [(name, "ascending") for name in KEY_COLUMNS]),
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        for group, group_bytes in _row_groups(in_order(batches, schema.name)):
            writer.write_table(pa.Table.from_batches([group.cast(columns)]), row_group_size=len(group))
            rows, raw_bytes = rows + len(group), raw_bytes + group_bytes
            tombstones += group["value"].null_count
            (first, low, *_), (last, high, *_) = row_key(group, 0), row_key(group, len(group) - 1)
            keys = low[:_INDEXED_BYTES], high[:_INDEXED_BYTES]
            groups.append(RowGroup(rows=len(group), key_groups=(first, last), keys=keys))
        head = TableHead(format="eoctl.table", version=1, schema=schema, sequence=sequence, groups=tuple(groups))
        writer.add_key_value_metadata({METADATA_KEY: canonical.encode(head)})
    between = KeyGroupRange(groups[0].key_groups[0], groups[-1].key_groups[1] + 1) if groups else None
    return TableStats(rows=rows, tombstones=tombstones, raw_bytes=raw_bytes, key_groups=between)


class SortedTable:
    """A sorted table that can be read again and again: a `StateTable` that may hold tombstones.

    Raises: CorruptError where it is no Parquet, BadManifestError where it is no table of ours, UnsupportedError.
    """

    def __init__(self, file: BinaryIO | PooledFile, what: str = "a sorted table") -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415  (heavy)

        self._what = what
        with _parquet(what):
            self._parquet = pq.ParquetFile(
                file,
                thrift_string_size_limit=MAX_FOOTER_BYTES,
                thrift_container_size_limit=1 << 20,
                page_checksum_verification=True,
            )
        metadata = self._parquet.metadata
        data = (metadata.metadata or {}).get(METADATA_KEY)
        if data is None:
            raise BadManifestError(f"{what} is Parquet, but no table of state: its footer has no {METADATA_KEY!r}")
        self.head = canonical.decode(data, TableHead, what=f"the head of {what}", max_bytes=MAX_FOOTER_BYTES)
        with _parquet(what):
            found = self._parquet.schema_arrow
        if found.names[: len(COLUMNS)] != list(COLUMNS) or not found.field("key_group").type.equals("uint16"):
            raise BadManifestError(f"{what} has other columns: {', '.join(found.names)[:200]}")
        for field in row_schema():
            if not found.field(field.name).type.equals(field.type):
                raise BadManifestError(f"{what} has a column {field.name} of type {found.field(field.name).type}")
        self.rows: int = metadata.num_rows
        self._check_groups()

    def _check_groups(self) -> None:
        """Parquet's metadata and the head agree. Columns of a row group are not asked for: pyarrow may abort."""
        metadata, groups = self._parquet.metadata, self.head.groups
        if metadata.num_row_groups != len(groups) or self.rows != sum(group.rows for group in groups):
            raise BadManifestError(f"{self._what} has other row groups than its head says")
        before = 0
        for index, group in enumerate(groups):
            if not before <= group.key_groups[0] <= group.key_groups[1] < MAX_MAX_PARALLELISM:
                raise BadManifestError(
                    f"row group {index} of {self._what} has key groups out of order: {group.key_groups}"
                )
            before = group.key_groups[1]
            found = metadata.row_group(index)
            if found.num_rows != group.rows or found.num_columns != metadata.num_columns:
                raise BadManifestError(f"row group {index} of {self._what} is not as its head says")
            if found.total_byte_size > MAX_GROUP_BYTES:
                raise TooLargeError(f"row group {index} of {self._what} has {found.total_byte_size} bytes")

    @property
    def schema(self) -> StateSchema:
        return self.head.schema

    @property
    def sequence(self) -> int:
        return self.head.sequence

    @property
    def key_groups(self) -> KeyGroupRange | None:
        """From the first to the last that has rows; None: there are no rows."""
        groups = self.head.groups
        return KeyGroupRange(groups[0].key_groups[0], groups[-1].key_groups[1] + 1) if groups else None

    def scan(
        self, key_groups: KeyGroupRange | None = None, key: bytes | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows, tombstones too. Row groups that cannot hold any are not read."""
        wanted = [index for index, group in enumerate(self.head.groups) if group.may_hold(key_groups, key)]
        for batch in in_order(self._read(wanted, batch_rows), self._what):
            chosen = select(batch, key_groups, key)
            if len(chosen):
                yield chosen

    def _read(self, groups: list[int], batch_rows: int) -> Iterator[pa.RecordBatch]:
        with _parquet(self._what):
            for group in groups:  # one by one: a reader of several holds the bytes of all that it has read
                yield from self._parquet.iter_batches(batch_rows, [group], list(COLUMNS), use_threads=False)


def select(batch: pa.RecordBatch, key_groups: KeyGroupRange | None, key: bytes | None) -> pa.RecordBatch:
    """The rows of the batch that are of these key groups and this key."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    if key_groups is not None and len(batch):
        first, last = batch["key_group"][0].as_py(), batch["key_group"][-1].as_py()
        if first < key_groups.start or last >= key_groups.stop:
            start = count_below(batch, (key_groups.start, b"", b"", b""))
            batch = batch.slice(start, count_below(batch, (key_groups.stop, b"", b"", b"")) - start)
    if key is not None and len(batch):
        batch = batch.filter(pc.equal(batch["key"], bytes_scalar(key)))
    return batch


def bytes_scalar(data: bytes) -> pa.Scalar:
    """As `pa.scalar`, which imports pandas where that is installed: a third of a second."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    offsets = pa.py_buffer(array("i", [0, len(data)]))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, pa.py_buffer(data)])[0]


def merge(
    tables: Sequence[SortedTable], *, keep_tombstones: bool, key_groups: KeyGroupRange | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of `tables`, newest first, each key once: as the newest has it.

    Memory: one batch of each table, and their merge.
    """
    batch_rows = max(1024, min(BATCH_ROWS, 16 * BATCH_ROWS // max(1, len(tables))))
    return merge_batches(
        [table.scan(key_groups, batch_rows=batch_rows) for table in tables], keep_tombstones=keep_tombstones
    )


def merge_batches(
    sources: Iterable[Iterator[pa.RecordBatch]], *, keep_tombstones: bool, distinct: str = ""
) -> Iterator[pa.RecordBatch]:
    """As `merge`, of rows from anywhere. `distinct`: no two sources have a key in common, else it is refused so named.

    Each step takes from every source the rows up to the smallest of their batches' last keys: nothing that any source
    gives later is below that.
    """
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    runs = [Run(source) for source in sources]
    while runs := [run for run in runs if run.fill()]:
        bound = min(run.last for run in runs)
        pieces = [piece for run in runs if len(piece := run.take(bound))]
        batch = pieces[0] if len(pieces) == 1 else _newest(pieces, distinct)
        if not keep_tombstones and batch["value"].null_count:
            batch = batch.filter(pc.is_valid(batch["value"]))
        for start in range(0, len(batch), BATCH_ROWS):
            yield batch.slice(start, BATCH_ROWS)


class Run:
    """One source of a merge: its batch at hand, whose rows before `_at` are taken."""

    def __init__(self, source: Iterator[pa.RecordBatch]) -> None:
        self._source = source
        self._batch: pa.RecordBatch | None = None
        self._at = 0

    def fill(self) -> bool:
        """There is a row at hand; False: there is none left."""
        while self._batch is None or self._at == len(self._batch):
            self._batch, self._at = next(self._source, None), 0
            if self._batch is None:
                return False
            self.last = row_key(self._batch, len(self._batch) - 1) if len(self._batch) else (0, b"", b"", b"")
        return True

    def take(self, bound: RowKey) -> pa.RecordBatch:
        """The rows up to `bound`, inclusive."""
        assert self._batch is not None
        rest = self._batch.slice(self._at)
        count = len(rest) if self.last <= bound else count_below(rest, bound, inclusive=True)
        self._at += count
        return rest.slice(0, count)


def _newest(pieces: list[pa.RecordBatch], distinct: str) -> pa.RecordBatch:
    """The rows of all pieces in order; of equal keys the first piece's. The sort is stable, and fast on runs."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    rows = pa.concat_batches(pieces)
    names = telling(rows)
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in names]))
    same = reduce(pc.and_, (pc.equal(*neighbours(rows, name)) for name in names))
    if pc.any(same).as_py():
        if distinct:
            refuse(rows, pc.index(same, value=True).as_py() + 1, f"{distinct} have a key in common")
        rows = rows.filter(first_of(same))
    return rows


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, int]]:
    """The same rows, cut where a group reaches its limit of rows or bytes; with the bytes of each."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        start = 0
        while start < len(batch):
            part = batch.slice(start, BATCH_ROWS - rows)
            if size + _bytes_of(part) >= BATCH_BYTES:
                part = part.slice(0, _reaching(part, BATCH_BYTES - size))
            held.append(part)
            rows, size, start = rows + len(part), size + _bytes_of(part), start + len(part)
            if rows == BATCH_ROWS or size >= BATCH_BYTES:
                yield pa.concat_batches(held), size
                held, rows, size = [], 0, 0
    if held:
        yield pa.concat_batches(held), size


def _bytes_of(batch: pa.RecordBatch) -> int:
    return sum(byte_count(batch[name]) for name in COLUMNS[1:])


def _reaching(batch: pa.RecordBatch, size: int) -> int:
    """How many rows it takes until they have that many bytes, which all of them do."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415

    lengths = (pc.fill_null(pc.binary_length(batch[name]), 0) for name in COLUMNS[1:])
    ends = pc.cumulative_sum(pc.cast(reduce(pc.add, lengths), pa.int64()))
    rows: int = pc.index(pc.greater_equal(ends, size), value=True).as_py() + 1
    return rows


@contextmanager
def _parquet(what: str) -> Iterator[None]:
    """What pyarrow says of bytes, in our words."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, pa.ArrowMemoryError):
            raise
        message = f"{what} is damaged: {str(error).splitlines()[0][:200] if str(error) else type(error).__name__}"
        raise CorruptError(message, hint="eoctl savepoint verify; restore another snapshot") from error
