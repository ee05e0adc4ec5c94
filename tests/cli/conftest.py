"""The command line in this process, and as a process of its own."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from eoctl.cli.main import main

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def clean_environment(home: Path, **extra: str) -> dict[str, str]:
    """Nothing of whoever runs the tests, but what Python needs."""
    dropped = ("EOCTL_", "XDG_", "_EOCTL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR"):
        kept.pop(name, None)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | {"HOME": str(home), "TERM": "xterm", "LC_ALL": "C.UTF-8", "PYTHONPATH": path} | extra


class CommandLine:
    """`eoctl` with a home and a store of its own."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self.store = home / "store"
        self.program = [sys.executable, "-m", "eoctl.cli.main"]
        self._capsys = capsys

    def __call__(self, *words: str | Path) -> Done:
        """Runs the command in this process."""
        self._capsys.readouterr()
        code = main([str(word) for word in words])
        captured = self._capsys.readouterr()
        return Done(code, captured.out, captured.err)

    def ok(self, *words: str | Path) -> Done:
        """As above, for a command that has to succeed, and to have nothing to say beside its answer."""
        done = self(*words)
        assert (done.code, done.err) == (0, ""), done
        return done

    def environment(self, **extra: str) -> dict[str, str]:
        return clean_environment(self.home, EOCTL_STORE=str(self.store), **extra)

    def process(self, *words: str | Path, **extra: Any) -> Done:
        """Runs the command as a process of its own, with its output in pipes."""
        environment: Mapping[str, str] = extra.pop("environment", self.environment())
        done = subprocess.run(
            [*self.program, *map(str, words)],
            cwd=self.home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            **extra,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, which is the working directory too; no setting is set."""
    home = tmp_path / "home"
    home.mkdir()
    environment = clean_environment(home)
    for name in set(os.environ) - set(environment):
        monkeypatch.delenv(name)
    for name in ("HOME", "TERM"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def eoctl(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """The command line, with EOCTL_STORE naming a store that is not made yet."""
    monkeypatch.setenv("EOCTL_STORE", str(home / "store"))
    return CommandLine(home, capsys)


State = Callable[..., Path]


@pytest.fixture
def state(home: Path) -> State:
    """Writes a state directory: `state(a=1, b=70_000)` makes files of these sizes, of noise, in `home/state`."""

    def write(name: str = "state", /, **sizes: int) -> Path:
        folder = home / name
        folder.mkdir(exist_ok=True)
        for file, size in sizes.items():
            noise = random.Random(f"{name} {file} {size}")
            (folder / file).write_bytes(noise.randbytes(size))
        return folder

    return write


@pytest.fixture
def orders(eoctl: CommandLine, state: State) -> CommandLine:
    """A store whose pipeline `orders` has the checkpoints 1 and 2: of two files, one of which changed."""
    eoctl.ok("store", "init")
    eoctl.ok("checkpoint", "create", state(big=2_000_000, small=10), "-p", "orders", "--tag", "nightly")
    eoctl.ok("checkpoint", "create", state(small=20), "-p", "orders")
    return eoctl
