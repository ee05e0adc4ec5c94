"""Whether a snapshot of Flink can be read: that every file it names is there, with its size, and RocksDB's checksums.

Only RocksDB's tables have checksums. Of any other file that is there in full nobody can tell whether it is the one that
was written: `verify` of a snapshot in the store can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eoctl.engines.flink import FlinkSnapshot, Piece
from eoctl.engines.flink_contents import content_fault
from eoctl.services.values import DamagedFile, Verification
from formats.errors import UsageError
from formats.flink.handles import size_of

LEVELS = ("quick", "full")

Progress = Callable[[int, int], None]


def verify_foreign(
    snapshots: Sequence[FlinkSnapshot],
    level: str,
    elapsed: Callable[[], float],
    progress: Progress = lambda *_: None,
) -> Verification:
    """What is missing, too short or damaged. A file that several snapshots name is looked at once.

    Raises: UsageError.
    """
    if level not in LEVELS:
        raise UsageError(
            f"a snapshot of Flink is verified at level quick or full, not {level}",
            hint="eoctl checkpoint create flink:PATH -p PIPELINE takes it into a store, which knows every level",
        )
    began = elapsed()
    by_place: dict[str, list[tuple[FlinkSnapshot, Piece]]] = {}
    for snapshot in snapshots:
        for piece in snapshot.pieces():
            if piece.file:
                by_place.setdefault(piece.place, []).append((snapshot, piece))
    total = sum(size_of(users[0][1].stream.handle) for users in by_place.values())
    damaged: list[DamagedFile] = []
    read_bytes = 0
    for place, users in sorted(by_place.items()):
        snapshot, piece = users[0]
        reason = next((fault for _, user in users if (fault := user.look()) is not None), None)
        if reason is None and level == "full":
            reason = content_fault(snapshot, piece)
            read_bytes += piece.bytes
            progress(read_bytes, total)
        if reason is not None:
            names = tuple(dict.fromkeys(str(user.path) for user, _ in users))
            damaged.append(DamagedFile(digest="", name=place, snapshots=names, reason=reason))
    return Verification(
        pipeline=next((snapshot.job for snapshot in snapshots if snapshot.job), ""),
        level=level,
        snapshots=tuple(str(snapshot.path) for snapshot in snapshots),
        checked_files=len(by_place),
        checked_bytes=read_bytes,
        damaged=tuple(damaged),
        seconds=elapsed() - began,
    )
