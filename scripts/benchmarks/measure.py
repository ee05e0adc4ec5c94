"""Measures one command from outside: wall, cpu and peak memory of its process tree.

A command that exits with anything but 0, runs too long, or fills the disk is stopped and gives a void sample.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.machine import search_path

Command = tuple[str, ...]

LAUNCHER = Path(__file__).with_name("launcher.py")
POLL_SECONDS = 0.5
DROPPED_VARIABLES = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
DROPPED_PREFIXES = ("EOCTL_", "XDG_", "RESTIC_", "BORG_", "RCLONE_", "RSYNC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one operation cost. `error` is empty, or says why the sample is void."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    error: str = ""

    def plus(self, later: Sample) -> Sample:
        """The two in sequence: times add up, the larger peak counts, the first error stays."""
        return Sample(
            wall_seconds=self.wall_seconds + later.wall_seconds,
            cpu_seconds=self.cpu_seconds + later.cpu_seconds,
            peak_bytes=max(self.peak_bytes, later.peak_bytes),
            error=self.error or later.error,
        )


def tool_environment(home: Path) -> dict[str, str]:
    """An environment in which no tool finds the user's settings, caches or repositories."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in DROPPED_VARIABLES and not name.startswith(DROPPED_PREFIXES)
    }
    return kept | {
        "PATH": search_path(),
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "NO_COLOR": "1",
        "RESTIC_PASSWORD": "benchmark",
        "RESTIC_CACHE_DIR": str(home / "restic-cache"),
        "BORG_BASE_DIR": str(home / "borg"),
        "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
        "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
    }


class Runner:
    """Runs measured commands one at a time; `directory` holds what the last one printed."""

    def __init__(self, directory: Path, *, timeout_seconds: float, min_free_bytes: int) -> None:
        self._directory = directory
        self._timeout_seconds = timeout_seconds
        self._min_free_bytes = min_free_bytes
        self._environment = tool_environment(directory / "home")
        (directory / "home").mkdir(parents=True, exist_ok=True)

    def add_environment(self, values: Mapping[str, str]) -> None:
        """Every command from now on has these variables, too."""
        self._environment |= values

    def output(self) -> str:
        """The standard output of the last command."""
        return self._stdout.read_text(encoding="utf-8", errors="replace")

    def run_all(self, commands: tuple[Command, ...], cwd: Path | None = None) -> Sample:
        """The sum of all commands in turn; stops at the first that fails."""
        total = Sample()
        for command in commands:
            total = total.plus(self.run(command, cwd))
            if total.error:
                break
        return total

    def run(self, command: Command, cwd: Path | None = None) -> Sample:
        """One measured command. What was written before is on disk first, so that nobody pays for another."""
        os.sync()
        result = self._directory / "result"
        result.unlink(missing_ok=True)
        start = time.perf_counter()
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            process = subprocess.Popen(
                (sys.executable, "-I", "-S", str(LAUNCHER), str(result), *command),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=self._environment, cwd=cwd or self._directory, start_new_session=True,
            )  # fmt: skip
            stopped = self._wait(process)
        if stopped:
            return Sample(wall_seconds=time.perf_counter() - start, error=stopped)
        if not result.exists():
            return Sample(error=self._complaint(process.returncode))
        code, wall, cpu, peak = result.read_text(encoding="ascii").split()
        return Sample(
            wall_seconds=float(wall),
            cpu_seconds=float(cpu),
            peak_bytes=int(peak),
            error=self._complaint(int(code)) if int(code) else "",
        )

    @property
    def _stdout(self) -> Path:
        return self._directory / "stdout"

    @property
    def _stderr(self) -> Path:
        return self._directory / "stderr"

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """Empty once the process has ended by itself, else why it was stopped."""
        deadline = time.monotonic() + self._timeout_seconds
        try:
            while True:
                try:
                    process.wait(POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    if time.monotonic() > deadline:
                        return f"stopped after {self._timeout_seconds:.0f} s"
                    if shutil.disk_usage(self._directory).free < self._min_free_bytes:
                        return "stopped: the disk was nearly full"
                else:
                    return ""
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _complaint(self, code: int) -> str:
        lines = self._stderr.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"exit {code}: {said[-1]}" if said else f"exit {code}"
