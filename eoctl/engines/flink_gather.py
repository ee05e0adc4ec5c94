"""All that a snapshot of Flink names, brought into one folder of ours: what export writes, and what import takes in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from eoctl.engines.flink import METADATA, FlinkSnapshot
from eoctl.engines.flink_paths import Located, fault_of
from formats.errors import CorruptError
from formats.flink.handles import Inline, RelativeFile, StreamHandle
from formats.flink.metadata import Metadata
from formats.flink.rewrite import change_streams
from formats.names import check_file_name
from storage.os_errors import told

_CHUNK_BYTES = 1 << 20


class Tally(Struct):
    """How far it is. `rewritten`: handles that name another place than before."""

    files: int = 0
    total_bytes: int = 0
    moving_bytes: int = 0
    rewritten: int = 0


def gather(
    snapshot: FlinkSnapshot,
    metadata: Metadata,
    folder: Path,
    tally: Tally,
    made: frozenset[str] = frozenset(),
    *,
    take: Callable[[Located, Path, Tally], object],
    progress: Callable[[], None] = lambda: None,
) -> Metadata:
    """Every file that `metadata`, of the snapshot, names is taken to `folder`; what it then has to say.

    `made`: files that are there already. `take` does it for one: `copy`, say.
    Raises: CorruptError, AccessDeniedError, UnsupportedError, and what copying raises.
    """
    names: dict[tuple[str, int, int], str] = {}
    taken: set[str] = {METADATA, *made}

    def change(handle: StreamHandle) -> StreamHandle:
        if isinstance(handle, Inline) or (isinstance(handle, RelativeFile) and handle.path in made):
            return handle
        located = whole(snapshot, handle)
        key = (located.path, located.start, -1 if located.whole else located.size)
        name = names.get(key)
        if name is None:
            name = names[key] = _free_name(located, taken)
            take(located, folder / name, tally)
            progress()
        changed = RelativeFile(name, located.size)
        tally.rewritten += changed != handle
        return changed

    return change_streams(metadata, change)


def whole(snapshot: FlinkSnapshot, handle: StreamHandle) -> Located:
    """Where the handle's bytes lie, all of them. Raises: CorruptError, AccessDeniedError, UnsupportedError."""
    located = snapshot.paths.locate(handle)
    assert located is not None
    if (fault := fault_of(located, exact=False)) is not None:
        raise CorruptError(f"{located.path} {fault}", hint=f"eoctl checkpoint verify {snapshot.path} tells all of it")
    return located


def copy(located: Located, target: Path, tally: Tally, *, link: bool = False) -> str:
    """The bytes are at `target`, a new file; or it is another name of the whole file, where that can be.

    Returned is the version that was copied, "" where nothing tells it.
    """
    version = ""
    with told(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if not (link and located.whole and located.files.is_local and _linked(located.path, target)):
        # A part of a merged file may be large: it is not opened as a part.
        with located.files.open(located.path) as source, told(located.path), target.open("xb") as out:
            if located.whole:
                shutil.copyfileobj(source, out, _CHUNK_BYTES)
            else:
                source.seek(located.start)
                left = located.size
                while left and (piece := source.read(min(left, _CHUNK_BYTES))):
                    out.write(piece)
                    left -= len(piece)
            version = located.files.version_of(source)
    tally.files += 1
    tally.total_bytes += target.stat().st_size
    return version


def _linked(path: str, target: Path) -> bool:
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:  # another file system, or links are not allowed
        return False
    return True


def _free_name(located: Located, taken: set[str]) -> str:
    base = located.path.rpartition("/")[2]
    if not located.whole:
        base = f"{base}-{located.start}"
    name, number = base, 1
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    taken.add(name)
    check_file_name(name)
    return name
