"""Processes that stand still, as a paused machine or a debugger makes them."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path


def stand_still(process: subprocess.Popen[bytes]) -> bool:
    """It is stopped, and in no lock: one in there would hold up everybody, until it is let go on or ended.

    False: it was over before.
    """
    while True:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if process.poll() is not None:
            return False
        if not _is_in_a_lock(process.pid):
            return True
        process.send_signal(signal.SIGCONT)


SQLITES_BYTE = 1 << 30  # from which on SQLite locks; RocksDB has its lock, at 0, for as long as it is open


def _is_in_a_lock(pid: int) -> bool:
    """Of a store's HEAD, or of SQLite."""
    held = (line.split() for line in Path("/proc/locks").read_text("ascii").splitlines())
    return any(words[4] == str(pid) and (words[1] == "FLOCK" or int(words[6]) >= SQLITES_BYTE) for words in held)
