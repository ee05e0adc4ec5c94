"""Whether a savepoint's folder is whole: every byte against its digest, every row against the rules of its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eoctl.engines.flink_files import Place
from eoctl.engines.flink_paths import Mapping
from eoctl.services.resolve import Resolved
from eoctl.services.savepoint_build import SnapshotSource, within
from eoctl.services.savepoint_records import head_of
from eoctl.services.savepoint_sources import read_head, savepoint_at, source_at_path, source_of_folder
from eoctl.services.savepoint_values import SavepointCheck, SavepointDamage
from eoctl.services.verify import verify
from formats.errors import BadManifestError, CorruptError, EoctlError
from formats.keygroup_columns import misplaced
from formats.savepoint import SavepointHead, SavepointOperator, SavepointTable, parts_of
from formats.state import StateTable
from storage.blobs import digest_of
from storage.os_errors import told
from storage.store import Store


def check_folder(path: Path, *, elapsed: Callable[[], float]) -> SavepointCheck:
    """What is wrong with the files of the folder. Raises: what reading the head raises."""
    began = elapsed()
    head = read_head(path)
    damaged = {place: reason for place, reason in _files(path, head) if reason}
    rows = tables = 0
    if not damaged:
        _, source = source_of_folder(path)
        for saved, operator in zip(head.operators, source.operators, strict=True):
            expected = {(table.schema.name, table.schema.kind): table for table in saved.tables}
            for name, table in expected.items():
                tables += 1
                try:
                    found = [one for one in operator.open() if (one.schema.name, one.schema.kind) == name]
                    rows += _rows(saved, table, found)
                except EoctlError as error:
                    damaged[table.path] = error.message
    return SavepointCheck(
        path=str(path),
        tables=tables,
        rows=rows,
        files=sum(1 for _ in parts_of(head)),
        bytes=sum(size for _, size, _ in parts_of(head)),
        damaged=tuple(SavepointDamage(path=place, reason=reason) for place, reason in sorted(damaged.items())),
        seconds=elapsed() - began,
    )


def refuse_damage(path: Path, *, elapsed: Callable[[], float]) -> None:
    """The folder is whole. Raises: CorruptError; what reading the head raises."""
    if damaged := check_folder(path, elapsed=elapsed).damaged:
        message = f"{path}/{damaged[0].path}: {damaged[0].reason}"
        raise CorruptError(message, hint=f"eoctl savepoint verify {path}; take another copy, or another snapshot")


@contextmanager
def whole_source(
    path: Path | Place, mappings: tuple[Mapping, ...], *, elapsed: Callable[[], float]
) -> Iterator[SnapshotSource]:
    """As `source_at_path`; of a savepoint's folder every byte and every row is checked first."""
    folder = savepoint_at(path)
    if folder is not None:
        refuse_damage(folder, elapsed=elapsed)
    with source_at_path(path, mappings) as source:
        yield source


def check_in_store(store: Store, resolved: Resolved) -> SavepointCheck:
    """As `verify --level full` of this snapshot, whose report is kept. Raises: UnsupportedError, what verify raises."""
    manifest = store.manifest(resolved.head, resolved.entry)
    head = head_of(manifest)
    found = verify(store, resolved.pipeline, resolved, "full", scratch=store.place.scratch)
    tables = [table for operator in head.operators for table in operator.tables]
    return SavepointCheck(
        path=resolved.address,
        tables=len(tables),
        rows=sum(table.rows for table in tables),
        files=found.checked_files,
        bytes=found.checked_bytes,
        damaged=tuple(SavepointDamage(path=one.name, reason=one.reason) for one in found.damaged),
        seconds=found.seconds,
    )


def _files(path: Path, head: SavepointHead) -> Iterator[tuple[str, str]]:
    for place, size, digest in parts_of(head):
        file = path / place
        if file.is_symlink() or not file.is_file():
            yield place, "it is missing"
            continue
        with told(file), file.open("rb") as opened:
            found = file.stat().st_size
            if found != size:
                yield place, f"it has {found} bytes, not {size}"
            elif digest_of(opened, head.hash) != digest:
                yield place, "it does not match its digest"
    known = {place for place, _, _ in parts_of(head)}
    for file in sorted(path.rglob("*.parquet")):
        name = file.relative_to(path).as_posix()
        if name not in known:
            yield name, "the head does not name it"


def _rows(operator: SavepointOperator, table: SavepointTable, found: list[StateTable]) -> int:
    """How many rows the table has. Raises: BadManifestError, CorruptError where they break a rule."""
    if len(found) != 1 or found[0].schema != table.schema:
        raise BadManifestError("the table is of another state than the head says")
    limit = operator.max_parallelism if table.schema.keyed and not table.schema.properties.get("partition") else 0
    rows = 0
    for batch in within(found[0].scan(), limit, table.schema.name):
        rows += len(batch)
        if limit and (at := misplaced(table.schema, batch, limit)) is not None:
            group, key = batch["key_group"][at].as_py(), batch["key"][at].as_py()
            raise BadManifestError(f"a key outside of its key group: {key[:40].hex()} in key group {group}")
    if rows != table.rows:
        raise BadManifestError(f"{rows} rows, not {table.rows}")
    return rows
