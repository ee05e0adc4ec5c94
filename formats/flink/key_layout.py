"""Keys as RocksDB and canonical savepoints hold them, taken apart into the columns of a row, and put together again.

    values, lists, maps   key group, key, namespace, [map key]     timers   key group, time, key, namespace

The key group is one byte where max parallelism is at most 128, else two. Where neither keys nor namespaces have a
width of their own, each is followed by its length, the low byte first, in as many bytes as it needs, at least one.

Source: Flink 2.3.0, `CompositeKeySerializationUtils`, `SerializedCompositeKeyBuilder`; the lengths as of its source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from formats.datatype import DataType, Opaque, Simple, is_known
from formats.errors import CorruptError, EoctlError, UnsupportedError
from formats.flink.keyed_header import TIMERS, StateMeta
from formats.state import BATCH_BYTES, BATCH_ROWS, row_schema
from formats.types import TimerOf, codec

if TYPE_CHECKING:
    import pyarrow as pa

ONE_BYTE_PARALLELISM = 128
TIME_BYTES = 8

_END = (1 << 31) - 1  # where a slice may be empty, pyarrow 26 fails without an end


class KeyLayout(Struct, frozen=True):
    """How the keys of one state are laid out."""

    prefix_bytes: int
    key: DataType
    namespace: DataType
    is_map: bool = False
    is_timer: bool = False

    @property
    def has_lengths(self) -> bool:
        return not self.is_timer and codec(self.key).width is None and codec(self.namespace).width is None

    @property
    def is_whole(self) -> bool:
        """What is in a key cannot be told apart: a row has all of it as its `key`."""
        namespace_width = codec(self.namespace).width
        if is_known(self.key) and is_known(self.namespace):
            return False
        return namespace_width is None or (self.is_map and codec(self.key).width is None)


def layout_of(state: StateMeta, key: DataType | None, max_parallelism: int) -> KeyLayout:
    prefix = prefix_bytes(max_parallelism)
    if state.type == TIMERS and isinstance(state.value, TimerOf):
        return KeyLayout(prefix, state.value.key, state.value.namespace, is_timer=True)
    is_map = state.options.get("KEYED_STATE_TYPE") == "MAP"
    return KeyLayout(prefix, Opaque("key") if key is None else key, state.namespace, is_map=is_map)


def prefix_bytes(max_parallelism: int) -> int:
    return 1 if max_parallelism <= ONE_BYTE_PARALLELISM else 2


def prefix_of(key_group: int, size: int) -> bytes | None:
    """What the keys of a key group begin with; None behind the last one."""
    return key_group.to_bytes(size, "big") if key_group >> 8 * size == 0 else None


def split_keys(batch: pa.RecordBatch, layout: KeyLayout, what: str) -> pa.RecordBatch:
    """Rows of a batch of (key, value); those of timers are in order of time.

    Raises: CorruptError, UnsupportedError.
    """
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    keys, values = batch["key"], batch["value"]
    least = layout.prefix_bytes + codec(layout.key).least + codec(layout.namespace).least
    least += TIME_BYTES if layout.is_timer else 0
    if not layout.is_whole and len(keys) and pc.min(pc.binary_length(keys)).as_py() < least:
        raise CorruptError(f"{what}: a key of less than {least} bytes")
    columns = [_key_groups(keys, layout.prefix_bytes), *_split(keys, layout, what), values]
    return pa.record_batch(columns, schema=row_schema())


def _key_groups(keys: pa.BinaryArray, size: int) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    parts = []
    for place in range(size):
        sliced = pc.binary_slice(keys, place, place + 1)
        offset = int.from_bytes(sliced.buffers()[1][:4], "little")
        parts.append(pa.Array.from_buffers(pa.uint8(), len(keys), [None, sliced.buffers()[2].slice(offset)]))
    high = parts[0].cast(pa.uint16())
    if size == 1:
        return high
    return pc.add(pc.multiply(high, pa.scalar(256, pa.uint16())), parts[1].cast(pa.uint16()))


def _split(keys: pa.BinaryArray, layout: KeyLayout, what: str) -> list[pa.Array]:
    """Keys, namespaces and map keys."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    start = layout.prefix_bytes
    key_width, namespace_width = codec(layout.key).width, codec(layout.namespace).width
    if layout.is_whole:
        empty = pa.repeat(pa.scalar(b"", pa.binary()), len(keys))
        return [pc.binary_slice(keys, start, _END), empty, empty]
    if layout.is_timer:
        time, start = pc.binary_slice(keys, start, start + TIME_BYTES), start + TIME_BYTES
    else:
        time = None
    if not layout.is_map and namespace_width:
        key, namespace = pc.binary_slice(keys, start, -namespace_width), pc.binary_slice(keys, -namespace_width, None)
        rest = pa.repeat(pa.scalar(b"", pa.binary()), len(keys))
    elif key_width is not None and namespace_width is not None:
        middle, end = start + key_width, start + key_width + namespace_width
        key, namespace = pc.binary_slice(keys, start, middle), pc.binary_slice(keys, middle, end)
        rest = pc.binary_slice(keys, end, _END)
    else:
        key, namespace, rest = _split_each(keys.to_pylist(), layout, start, what)
    return [key, namespace, rest if time is None else time]


def _split_each(keys: list[bytes], layout: KeyLayout, start: int, what: str) -> list[pa.Array]:
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    skip_key, skip_namespace = codec(layout.key).skip, codec(layout.namespace).skip
    has_lengths, plain = layout.has_lengths, layout.key == Simple("string")
    columns: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
    add_key, add_namespace, add_rest = (column.append for column in columns)
    try:
        for each in keys:
            middle = start + each[start] if plain else 0  # of a short string of ASCII, the first byte says it
            if not plain or not 0 < each[start] < 128 or not each[start:middle].isascii() or middle > len(each):
                middle = skip_key(each, start)
            after = _after_length(each, start, middle, what) if has_lengths else middle
            end = skip_namespace(each, after)
            add_key(each[start:middle])
            add_namespace(each[after:end])
            add_rest(each[_after_length(each, after, end, what) if has_lengths else end :])
    except UnsupportedError:
        raise
    except EoctlError as error:
        raise CorruptError(f"{what}: a key that is none: {error.message}") from error
    return [pa.array(column, pa.binary()) for column in columns]


def _length_of(size: int) -> bytes:
    return size.to_bytes(max((size.bit_length() + 7) // 8, 1), "little")


def _after_length(data: bytes, start: int, end: int, what: str) -> int:
    """The place after the length of what lies in [start, end)."""
    length = _length_of(end - start)
    if not data.startswith(length, end):
        raise CorruptError(f"{what}: a part of a key is not as long as it says")
    return end + len(length)


def join_keys(batch: pa.RecordBatch, layout: KeyLayout) -> list[bytes]:
    """The keys of rows, as RocksDB and canonical savepoints hold them."""
    groups = (group.to_bytes(layout.prefix_bytes, "big") for group in batch["key_group"].to_pylist())
    columns = (batch[name].to_pylist() for name in ("key", "namespace", "map_key"))
    rows = zip(groups, *columns, strict=True)
    if layout.is_timer:
        return [group + time + key + namespace for group, key, namespace, time in rows]
    if layout.has_lengths and not layout.is_whole:
        return [
            group + key + _length_of(len(key)) + namespace + _length_of(len(namespace)) + rest
            for group, key, namespace, rest in rows
        ]
    return [group + key + namespace + rest for group, key, namespace, rest in rows]


def sorted_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The rows sorted by all of a row's key, from rows that are sorted by key group only."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    order = [(name, "ascending") for name in ("key", "namespace", "map_key")]
    for group in by_key_group(batches):
        table = pa.Table.from_batches(group).combine_chunks()
        if not _is_sorted(table):
            table = table.take(pc.sort_indices(table, sort_keys=order)).combine_chunks()
        yield from table.to_batches()


def _is_sorted(group: pa.Table) -> bool:
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    before, after = group.slice(0, group.num_rows - 1), group.slice(1)
    in_order = pc.less(before["map_key"], after["map_key"])
    for name in ("namespace", "key"):
        equal, less = pc.equal(before[name], after[name]), pc.less(before[name], after[name])
        in_order = pc.or_(less, pc.and_(equal, in_order))
    return pc.all(in_order).as_py() is not False


def by_key_group(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The batches of one key group after the other, of rows that are sorted by key group."""
    group: list[pa.RecordBatch] = []
    current = -1
    for batch in batches:
        numbers = batch["key_group"]
        start = 0
        while start < len(numbers):
            number = numbers[start].as_py()
            if number != current and group:
                yield group
                group = []
            current = number
            stop = _end_of(numbers, start, number)
            group.append(batch.slice(start, stop - start))
            start = stop
    if group:
        yield group


def _end_of(numbers: pa.UInt16Array, start: int, number: int) -> int:
    """The place of the first number after `start` that is higher."""
    low, high = start, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if numbers[middle].as_py() > number:
            high = middle
        else:
            low = middle + 1
    return low


def gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches that are neither small nor large."""
    import pyarrow as pa  # noqa: PLC0415  (heavy)

    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield from pa.Table.from_batches(held).combine_chunks().to_batches()
            held, rows, size = [], 0, 0
    if held:
        yield from pa.Table.from_batches(held).combine_chunks().to_batches()
