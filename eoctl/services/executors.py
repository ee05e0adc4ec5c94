"""Who writes the tables of a savepoint: this process, processes of this machine, or a Dask cluster.

Each is an executor in the sense of `concurrent.futures`. Its workers have to see the directories that this process
sees: the scratch space of the store, and the place that is written to.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from eoctl.services.savepoint_build import SnapshotSource
from formats.errors import UnavailableError, UnsupportedError, UsageError

DASK = "dask://"
MAX_PROCESSES = 256
WORKERS_SECONDS = 30  # for a cluster's first worker to come
WORTH_BYTES = 64 << 20  # of state: to start processes takes as long as to write some of it


@contextmanager
def executor_of(text: str | None, state_bytes: int = 0) -> Iterator[Executor | None]:
    """The executor that `text` names: a number of processes, 0 for this one; `dask://HOST:PORT`; None: as it pays.

    Raises: UsageError, UnsupportedError (Dask is not installed), UnavailableError (no such cluster).
    """
    if text is not None and text.startswith(DASK):
        with _dask(text) as executor:
            yield executor
        return
    if text is not None and (not (text.isascii() and text.isdecimal()) or int(text) > MAX_PROCESSES):
        raise UsageError(f"not an executor: {text!r}", hint=f"a number of processes, or {DASK}HOST:PORT")
    cores = len(os.sched_getaffinity(0))
    processes = int(text) if text is not None else cores if cores > 1 and state_bytes >= WORTH_BYTES else 0
    if processes == 0:
        yield None
        return
    # Not forked: Arrow's threads do not survive that.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@contextmanager
def _dask(url: str) -> Iterator[Executor]:
    try:
        distributed: Any = import_module("distributed")  # optional, and without types
    except ImportError as error:
        raise UnsupportedError("Dask is not installed", hint="pip install distributed") from error
    try:
        client = distributed.Client(f"tcp://{url.removeprefix(DASK)}", timeout="10s")
    except (OSError, ValueError) as error:
        raise UnavailableError(f"no Dask cluster at {url}: {error}", hint="dask scheduler --port 8786") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(f"the Dask cluster at {url} has no workers", hint="dask worker HOST:8786") from error
        yield client.get_executor(pure=False)


def state_bytes(source: SnapshotSource) -> int:
    """How large the state is, as far as its files tell that are on this machine."""
    return sum(
        file.stat().st_size for operator in source.operators for file in operator.files.rglob("*") if file.is_file()
    )
