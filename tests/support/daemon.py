"""A server for tests: ready when it says so, ended by its own id, and by the kernel when the tests are killed."""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LAST_LINES = 40
_PATIENCE_SECONDS = 60


def unused_port() -> int:
    """A port of loopback that nobody listens on; whoever binds it next should be quick."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Daemon:
    """The process of a server; its output is read all the time, so that it never waits for a reader."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: str,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Returns when a line of its output holds `ready`; RuntimeError with its last lines if it ends before."""
        self._stop_signal = stop_signal
        self._last: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._ready = threading.Event()
        libc = ctypes.CDLL(None)
        self._process = subprocess.Popen(
            [str(word) for word in command],
            cwd=cwd,
            env=dict(os.environ if environment is None else environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            start_new_session=True,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509  (one call, loaded before)
        )
        self._reader = threading.Thread(target=self._read, args=(ready,), daemon=True)
        self._reader.start()
        self._ready.wait()
        if self._process.poll() is not None or not self._said_ready:
            self.stop()
            raise RuntimeError(f"{command[0]} did not start:\n" + "".join(self._last))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lines(self) -> list[str]:
        """The last lines that it wrote."""
        return list(self._last)

    def kill(self) -> None:
        """As a power loss would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ended, by force if it does not end by itself."""
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE_SECONDS)
            self._process.kill()
        self._process.wait()
        self._reader.join()

    _said_ready = False

    def _read(self, ready: str) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._last.append(line)
                if not self._said_ready and ready in line:
                    self._said_ready = True
                    self._ready.set()
        self._ready.set()
