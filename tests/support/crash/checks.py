"""What must be true of a store after any crash: it opens, lists, and every root is whole, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from eoctl.ambient import system_ambient
from eoctl.library import PipelineHandle
from formats.errors import SnapshotNotFoundError, StoreNotFoundError
from formats.head import Head, roots
from formats.manifest import files_of
from storage.backends.urls import open_place
from storage.blobs import Blobs
from storage.store import Store, open_store
from tests.support.crash.operations import PIPELINE

Files: TypeAlias = Mapping[str, bytes]  # name below the root -> content


@dataclass(frozen=True, slots=True)
class Seen:
    """A pipeline as a fresh process finds it; None: there is no store or no pipeline yet."""

    head: Head | None
    roots: Mapping[str, Files]  # label -> files by OPERATOR/SUBTASK/NAME

    @property
    def live(self) -> list[str]:
        return [] if self.head is None else [entry.label for entry in self.head.live]

    @property
    def trash(self) -> list[str]:
        return [] if self.head is None else [trashed.entry.label for trashed in self.head.trash]

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """What never goes back (I3)."""
        return (0, 0, 0, 0) if self.head is None else _counters(self.head)


def look(root: Path) -> Seen:
    """The pipeline, with every file of every root read to its end, which checks its digest.

    Raises: what a store that is not whole raises.
    """
    try:
        store = reopened(root)
        head = store.head(PIPELINE).head
    except (StoreNotFoundError, SnapshotNotFoundError):
        return Seen(None, {})
    assert [pipeline.name for pipeline in store.pipelines()] == [PIPELINE.name]
    listed = PipelineHandle(store, PIPELINE).checkpoints()
    assert {row.address for row in listed} == {f"{PIPELINE}@{entry.label}" for entry in roots(head)}
    blobs = Blobs(store.backend, PIPELINE, store.hash)
    found = {}
    for entry in roots(head):
        manifest = store.manifest(head, entry)
        found[entry.label] = {
            f"{operator.uid}/{subtask.index}/{file.name}": b"".join(blobs.content(file))
            for operator, subtask, file in files_of(manifest)
            if subtask is not None
        }
    return Seen(head, found)


def reopened(root: Path) -> Store:
    """The store through a handle of its own, as a new process opens it."""
    ambient = system_ambient()
    return open_store(open_place(str(root), ambient.new_id()[:12]), ambient)


def check(root: Path, before: Seen, expected: Mapping[str, Files]) -> Seen:
    """Nothing that was acknowledged is lost, no counter went back, and what is there is what was handed over."""
    seen = look(root)
    missing = set(before.roots) - set(seen.roots)
    assert missing == set(), f"acknowledged, and lost: {missing}"
    for label, files in seen.roots.items():
        assert files == expected[label], f"{PIPELINE}@{label} is not what was stored"
    assert all(now >= then for now, then in zip(seen.counters, before.counters, strict=True))
    return seen


def files_at(root: Path) -> Files:
    """Every file below `root`, of a state as it was handed over (a part without a number is subtask 0) or restored."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            parts = list(path.relative_to(root).parts)
            if not parts[1].isdecimal():
                parts.insert(1, "0")
            found["/".join(parts)] = path.read_bytes()
    return found


def calls_of(report: Path) -> list[str]:
    """The storage calls of a process that has acknowledged."""
    return [str(call) for call in json.loads(report.read_text())]


def clone(store: Path, to: Path) -> Path:
    """A copy of a store, or of none, that shares its files: a store never writes into one."""
    if store.exists():
        shutil.copytree(store, to, copy_function=os.link)
    return to


def _counters(head: Head) -> tuple[int, int, int, int]:
    return (head.seq, head.era, head.floor, head.writer.attempt)
