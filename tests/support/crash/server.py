"""A fork server: one warm process of which every job gets a copy, so that hundreds of them may be killed in a minute.

`python -m tests.support.crash.server` reads lines: a job, which it answers with the process id of a child that
waits; then `go`, which it answers with how the child ended, once it has. The child is reaped by then, as a killed
process's parent would.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.support.crash.operations import Job, perform

ROOT = Path(__file__).parents[3]
_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


class KillServer:
    """Runs jobs one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, job: Job) -> int:
        """A process that will perform the job when told to go: its id."""
        return int(self._ask(job.encode()))

    def go(self) -> int:
        """How the process ended: 0, or minus the signal that killed it."""
        return int(self._ask("go"))

    def run(self, job: Job) -> int:
        self.start(job)
        return self.go()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextlib.contextmanager
def kill_server() -> Iterator[KillServer]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.crash.server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield KillServer(process)
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    import zstandard  # noqa: F401  (warm: what the storage imports late)

    import storage.blocks  # noqa: F401

    while line := sys.stdin.readline():
        waits, goes = os.pipe()
        child = os.fork()
        if child == 0:
            _child(Job.decode(line), waits)
        os.close(waits)
        _say(child)
        sys.stdin.readline()
        os.write(goes, b"g")
        os.close(goes)
        _, status = os.waitpid(child, 0)
        _say(os.waitstatus_to_exitcode(status))


def _child(job: Job, waits: int) -> None:
    code = 1
    try:
        # Where the kernel lets only a parent trace, let strace, our sibling, do so as well.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
        os.read(waits, 1)
        perform(job)
        code = 0
    except BaseException:  # noqa: BLE001  (told, then this process is over)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
