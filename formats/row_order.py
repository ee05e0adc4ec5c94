"""The order of rows of state: by key group, key, namespace and map key, strictly ascending."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from formats.errors import BadManifestError
from formats.state import KEY_COLUMNS, byte_count

if TYPE_CHECKING:
    import pyarrow as pa

RowKey: TypeAlias = tuple[int, bytes, bytes, bytes]


def in_order(batches: Iterable[pa.RecordBatch], what: str) -> Iterator[pa.RecordBatch]:
    """The batches that have rows, which are strictly ascending. Raises: BadManifestError."""
    import pyarrow.compute as pc  # noqa: PLC0415  (heavy)

    before: RowKey | None = None
    for batch in batches:
        if not len(batch):
            continue
        if any(batch[name].null_count for name in KEY_COLUMNS):
            raise BadManifestError(f"{what}: a row without a key")
        if before is not None and before >= row_key(batch, 0):
            refuse(batch, 0, f"{what}: {'a key twice' if before == row_key(batch, 0) else 'keys are not in order'}")
        rising = None
        for name in reversed(telling(batch)):
            left, right = neighbours(batch, name)
            below = pc.less(left, right)
            rising = below if rising is None else pc.or_(below, pc.and_(pc.equal(left, right), rising))
        if not pc.all(rising, min_count=0).as_py():
            at = pc.index(rising, value=False).as_py() + 1
            twice = row_key(batch, at) == row_key(batch, at - 1)
            refuse(batch, at, f"{what}: {'a key twice' if twice else 'keys are not in order'}")
        before = row_key(batch, len(batch) - 1)
        yield batch


def telling(batch: pa.RecordBatch) -> list[str]:
    """The columns of its keys without those that are empty in every row: they set no two rows apart."""
    return [name for name in KEY_COLUMNS if name == "key_group" or byte_count(batch[name])]


def row_key(batch: pa.RecordBatch, index: int) -> RowKey:
    """The columns that rows are sorted by."""
    key_group, key, namespace, map_key = (batch.column(name)[index].as_py() for name in KEY_COLUMNS)
    return key_group, key, namespace, map_key


def neighbours(batch: pa.RecordBatch, name: str) -> tuple[pa.Array, pa.Array]:
    """The column without its last row, and without its first."""
    column = batch.column(name)
    return column.slice(0, len(column) - 1), column.slice(1)


def count_below(batch: pa.RecordBatch, bound: RowKey, *, inclusive: bool = False) -> int:
    """How many rows are below `bound`, or at it."""
    low, high = 0, len(batch)
    while low < high:
        middle = (low + high) // 2
        at = row_key(batch, middle)
        if at < bound or (inclusive and at == bound):
            low = middle + 1
        else:
            high = middle
    return low


def refuse(batch: pa.RecordBatch, index: int, reason: str) -> None:
    key_group, key, namespace, map_key = row_key(batch, index)
    parts = {"key": key, "namespace": namespace, "map key": map_key}
    where = "".join(f", {name} {part[:40].hex()}" for name, part in parts.items() if part)
    hint = "whatever wrote it did not keep to docs/formats/sst.md: take another copy, or another snapshot"
    raise BadManifestError(f"{reason}: key group {key_group}{where}", hint=hint)
