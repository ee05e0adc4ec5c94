"""Runs commands and shows them: the exact command, then what it really printed, on 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import struct
import subprocess
import tempfile
import termios
import textwrap
from collections.abc import Sequence
from pathlib import Path

COLUMNS = 80


class NotAsToldError(Exception):
    """Something did not happen as the story says."""


def heading(text: str) -> None:
    _print(f"\n== {text}\n")


def tell(text: str) -> None:
    """A short explanation, in a paragraph of its own."""
    _print(f"{textwrap.fill(' '.join(text.split()), COLUMNS)}\n")


class Shell:
    """Commands in one directory, with one environment."""

    def __init__(self, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EOCTL_")}
        self.folder = folder
        self.environment = {**kept, "NO_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "dumb", "LC_ALL": "C.UTF-8"}

    def export(self, name: str, value: str) -> None:
        _print(f"$ export {name}={value}")
        self.environment[name] = value

    def run(self, *command: str, ends: int = 0) -> str:
        """What the command printed; it is shown, and ended as told.

        Raises: NotAsToldError.
        """
        _print(f"$ {shlex.join(command)}")
        return self.quietly(*command, ends=ends, show=True)

    def quietly(self, *command: str, ends: int = 0, show: bool = False) -> str:
        """Its stdout is a terminal of 80 columns, because that is what a person has; no progress bars on stderr."""
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        with tempfile.TemporaryFile("w+") as notes:
            with subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=its, stderr=notes
            ) as process:
                os.close(its)
                output = _read_all(mine)
            os.close(mine)
            notes.seek(0)
            output += notes.read()
        if show:
            _print(output)
        expect(process.returncode == ends, f"{shlex.join(command)} ended with {process.returncode}, not {ends}:\n{output}")
        return output


class Process:
    """A program that does what it is told on stdin, and answers each line with one of its own."""

    def __init__(self, shell: Shell, name: str, command: Sequence[str]) -> None:
        _print(f"$ {shlex.join(command)} &")
        self._name = name
        self._process = subprocess.Popen(
            command,
            cwd=shell.folder,
            env=shell.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.heard()

    def heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().rstrip("\n")
        expect(line != "", f"the {self._name} ended: {self._process.poll()}")
        _print(f"[{self._name} {self.pid}] {line}")
        return line

    def wait(self) -> int:
        """How it ended: minus the number of the signal that killed it."""
        return self._process.wait()

    def stop(self) -> None:
        """It is gone, whatever it was doing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def expect(truth: object, otherwise: str) -> None:
    """Raises: NotAsToldError."""
    if not truth:
        raise NotAsToldError(otherwise)


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux says that nobody holds the other end any more
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n")


def _print(text: str) -> None:
    print(text, flush=True)
