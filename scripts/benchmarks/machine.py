"""What a result depends on besides the code: the machine and the versions of everything measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

VERSION_COMMANDS = {
    "eoctl": ("--version",),
    "restic": ("version",),
    "borg": ("--version",),
    "rsync": ("--version",),
    "rclone": ("version",),
    "cp": ("--version",),
}
LIBRARIES = ("rocksdict", "blake3", "zstandard", "pyarrow", "typer")


def search_path() -> str:
    """Where programs are looked up: beside this interpreter, where eoctl is installed, and then on PATH."""
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))


def find_program(name: str) -> str | None:
    """The path of a program, or None where it is not installed."""
    return shutil.which(name, path=search_path())


def describe_machine(directory: Path) -> dict[str, object]:
    """Facts about this machine, and about the file system below `directory`."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _line_of(Path("/proc/cpuinfo"), "model name"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": _file_system(directory),
        "free_bytes": shutil.disk_usage(directory).free,
        "load_average_1_minute": os.getloadavg()[0],
    }


def describe_versions() -> dict[str, str]:
    """The version of every tool and library, or `missing`."""
    versions = {"python": platform.python_version()}
    for name, arguments in VERSION_COMMANDS.items():
        versions[name] = _tool_version(name, arguments)
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "missing"
    return versions


def _tool_version(name: str, arguments: tuple[str, ...]) -> str:
    program = find_program(name)
    if program is None:
        return "missing"
    try:
        done = subprocess.run((program, *arguments), capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unusable: {type(error).__name__}"
    first = done.stdout.strip().partition("\n")[0]
    return first if done.returncode == 0 and first else f"unusable: exit {done.returncode}"


def _file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`: the longest mount point above it."""
    best, found = "", "unknown"
    target = str(directory.resolve())
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, point, kind, *_ = line.split(" ")
        above = target == point or target.startswith(point.rstrip("/") + "/")
        if above and len(point) >= len(best):
            best, found = point, kind
    return found


def _line_of(path: Path, field: str) -> str:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
