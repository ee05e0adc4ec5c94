"""A snapshot's files on this machine, as the engines that read state want them.

Below a directory of ours lie OPERATOR-ID/SUBTASK/FILE, and OPERATOR-ID/coordinator/FILE; it is gone at the end.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from formats.errors import CorruptError
from formats.ids import HashAlgorithm
from formats.manifest import OperatorState, StateFile, SubtaskState, Whole
from formats.savepoint import COORDINATOR
from storage.blobs import Blobs, digest_of
from storage.extract import Extraction
from storage.os_errors import told
from storage.store import Store

Chosen = Callable[[StateFile], bool]


@contextmanager
def extracted(
    store: Store,
    blobs: Blobs,
    operators: Iterable[OperatorState],
    scratch: Path | None = None,
    *,
    chosen: Chosen = lambda _: True,
    verified: bool = True,
) -> Iterator[Path]:
    """The files lie below the directory. Where the store is on this disk they are its own, so only to be read.

    Not `verified`: those that are shared with the store are not read to compare their digests.
    Raises: CorruptError, BlobGoneError, NoSpaceError, AccessDeniedError.
    """
    parent = scratch or store.place.scratch
    with told(parent):
        parent.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=f"{store.ambient.new_id()}.state-", dir=parent)
    with work as name:
        root = Path(name)
        extraction = Extraction(blobs=blobs, link=True, remote=store.place.remote)
        for operator in operators:
            for folder, files in _trees(operator):
                wanted = [file for file in files if chosen(file)]
                (root / operator.id / folder).mkdir(parents=True)
                extraction.tree(root / operator.id / folder, wanted, ())
                if verified and extraction.done.linked_files:
                    _check(root / operator.id / folder, wanted, store.hash)
        yield root


def folder_of(root: Path) -> Callable[[OperatorState, SubtaskState], Path]:
    """Where `extracted` has put the files of a subtask."""
    return lambda operator, subtask: root / operator.id / str(subtask.index)


def _trees(operator: OperatorState) -> Iterator[tuple[str, tuple[StateFile, ...]]]:
    for subtask in operator.subtasks:
        yield str(subtask.index), subtask.files
    if operator.coordinator:
        yield COORDINATOR, operator.coordinator


def _check(folder: Path, files: list[StateFile], algorithm: HashAlgorithm) -> None:
    """What was taken over without reading has its digest."""
    for file in files:
        if isinstance(file.place, Whole) and file.place.codec == "raw":
            with (folder / file.name).open("rb") as opened:
                if digest_of(opened, algorithm) != file.digest:
                    message = f"a file does not match its digest: {file.name} ({file.digest})"
                    raise CorruptError(message, hint="eoctl checkpoint verify; restore another snapshot")
