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
ROWS = 50


class NotAsToldError(Exception):
    """Something did not happen as the story says."""


def expect(truth: object, otherwise: str) -> None:
    """Raises: NotAsToldError."""
    if not truth:
        raise NotAsToldError(otherwise)


class Screen:
    """Blocks of lines with one empty line between two."""

    def __init__(self) -> None:
        self._pause = self._begun = False

    def heading(self, text: str) -> None:
        self.block(f"== {text} {'=' * (COLUMNS - len(text) - 4)}")

    def tell(self, text: str) -> None:
        """A paragraph."""
        self.block(textwrap.fill(" ".join(text.split()), COLUMNS))

    def block(self, text: str) -> None:
        self._pause = True
        self.line(text)
        self._pause = True

    def line(self, text: str) -> None:
        """One more line of what is being shown."""
        if self._pause and self._begun:
            print()
        print(text, flush=True)
        self._pause, self._begun = False, True


class Shell:
    """Commands in one directory, with one environment."""

    def __init__(self, screen: Screen, folder: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EOCTL_")}
        self.screen = screen
        self.folder = folder
        self.environment = {**kept, "NO_COLOR": "1", "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8"}

    def export(self, name: str, value: str) -> None:
        self.screen.block(f"$ export {name}={shlex.quote(value)}")
        self.environment[name] = value

    def run(self, command: str) -> str:
        """What the command printed; it is shown, and has succeeded.

        Raises: NotAsToldError.
        """
        output = self.quietly(command)
        self.screen.block(f"$ {command}\n{output}".rstrip())
        return output

    def quietly(self, command: str) -> str:
        """Its stdout is a terminal of 80 columns, because that is what a person has; its stderr is a file.

        Raises: NotAsToldError.
        """
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        with tempfile.TemporaryFile("w+") as notes:
            with subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=its,
                stderr=notes,
            ) as process:
                os.close(its)
                output = _read_all(mine)
            os.close(mine)
            notes.seek(0)
            output += notes.read()
        expect(process.returncode == 0, f"{command}\nended with {process.returncode}:\n{output}")
        return output


class Program:
    """A program that does what it is told on stdin, and answers each line with one of its own."""

    def __init__(self, shell: Shell, name: str, command: Sequence[str]) -> None:
        self._screen = shell.screen
        self._screen.block(f"$ {shlex.join(command)} &")
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
        """The next line that it says."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().rstrip("\n")
        expect(line, f"the {self._name} has ended: {self._process.poll()}")
        self._screen.line(f"[{self._name} {self.pid}] {line}")
        return line

    def wait(self) -> int:
        """How it ended: minus the number of the signal that killed it."""
        code = self._process.wait()
        how = f"killed by signal {-code}" if code < 0 else f"ended with {code}"
        self._screen.line(f"[{self._name} {self.pid}] {how}")
        return code

    def stop(self) -> None:
        """It is gone, whatever it was doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except OSError:  # how Linux says that nobody holds the other end any more
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode("utf-8", "replace").replace("\r\n", "\n")
