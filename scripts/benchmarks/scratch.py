"""The folders of one run. Nothing is deleted before its end, unless the disk is short.

On ext4, creating files soon after many were deleted is many times slower, for every tool: a benchmark that
cleans up between two tools measures its own cleaning. So every repetition gets fresh folders, and old ones go
only when the next repetition would not fit; how many went is in the report.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from scripts.benchmarks.workloads import Chain

SETTLE_SECONDS = 5.0


class Scratch:
    """Makes folders below `parent`; a context manager that removes all of them at its end.

    With `keep`, generated states stay in `parent/states`, where the next run finds them.
    """

    def __init__(self, parent: Path, *, keep: bool, min_free_bytes: int) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="eoctl-bench-", dir=parent.resolve()))
        self.deletions = 0
        self._states = parent.resolve() / "states" if keep else self.root / "states"
        self._min_free_bytes = min_free_bytes
        self._count = 0
        self._retired: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    def fresh(self, label: str) -> Path:
        """A new empty folder."""
        self._count += 1
        path = self.root / f"{self._count:04d}-{label.replace(' ', '-')}"
        path.mkdir()
        return path

    def retire(self, path: Path) -> None:
        """Marks a folder as no longer needed; it stays while there is room."""
        self._retired.append(path)

    def make_room(self, needed_bytes: int) -> None:
        """Deletes retired folders, oldest first, until `needed_bytes` fit or none is left."""
        deleted = False
        while self._retired and self._free_bytes() < needed_bytes + self._min_free_bytes:
            shutil.rmtree(self._retired.pop(0), ignore_errors=True)
            os.sync()
            self.deletions += 1
            deleted = True
        if deleted:
            time.sleep(SETTLE_SECONDS)

    def state(self, kind: str, make: Callable[..., Chain], *, steps: int, **arguments: float) -> Chain:
        """The chain that `make` makes of these arguments: kept from an earlier run, or made now."""
        name = "-".join((kind, str(steps), *(f"{value:.10g}" for value in arguments.values())))
        root = self._states / name
        complete = self._states / f"{name}.complete"
        chain = Chain(root, steps)
        if complete.exists() and chain.is_whole():
            return chain
        shutil.rmtree(root, ignore_errors=True)
        self._states.mkdir(exist_ok=True)
        chain = make(root, steps=steps, **arguments)
        complete.touch()
        os.sync()
        return chain

    def shown(self, text: str) -> str:
        """The text without the names of folders that are of this machine only."""
        for path, word in ((self._states, "$STATES"), (self.root, "$RUN"), (self.root.parent, "$WORK")):
            text = re.sub(re.escape(str(path)) + r"(?![\w.-])", word, text)
        return text

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free
