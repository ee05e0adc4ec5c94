"""Whether what a snapshot of Flink names can be read: RocksDB's tables by their checksums, which nothing else has."""

from __future__ import annotations

from eoctl.engines.flink import FlinkSnapshot, Piece
from formats.errors import CorruptError, UnsupportedError
from storage.os_errors import told

_CHUNK_BYTES = 1 << 20


def check_contents(snapshot: FlinkSnapshot) -> None:
    """Every file can be read, and a table's blocks match their checksums. Raises: CorruptError."""
    seen: set[str] = set()
    for piece in snapshot.pieces():
        if piece.file and piece.place not in seen:
            seen.add(piece.place)
            fault = piece.look() or content_fault(snapshot, piece)
            if fault is not None:
                hint = f"eoctl checkpoint verify {snapshot.path} tells all of it"
                raise CorruptError(f"{piece.place}: {fault}", hint=hint)


def content_fault(snapshot: FlinkSnapshot, piece: Piece) -> str | None:
    """A table's blocks match their checksums; any other file can be read to its end."""
    from formats.rocksdb_sst import Table  # noqa: PLC0415  (heavy)

    handle = piece.stream.handle
    try:
        with snapshot.paths.open(handle) as file, told(piece.file):
            if piece.stream.name.endswith(".sst"):
                Table(file, what=piece.stream.name).verify()
            else:
                while file.read(_CHUNK_BYTES):
                    pass
    except (CorruptError, UnsupportedError) as error:
        return error.message
    return None
