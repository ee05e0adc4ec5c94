"""The system calls of a process that change or sync files, in order; and its death at the entry of any one of them.

strace attaches to a child of the fork server before the child begins. It kills at the entry of a call, so that
the call's effect does not happen. Every string in its log is in hex, so reading it back is exact.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.crash.operations import Job, started_of
from tests.support.crash.server import KillServer

# All that a file system may be changed or synced by; `?`: unknown on some machines.
_TRACED = (
    "?open ?creat openat ?openat2 ?mkdir mkdirat ?link linkat ?symlink symlinkat ?rename renameat renameat2 ?unlink"
    " unlinkat ?rmdir write pwrite64 writev pwritev pwritev2 ftruncate truncate fallocate fsync fdatasync sync syncfs"
    " sync_file_range copy_file_range sendfile ?sendfile64 splice ioctl flock"
)
_LINE = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+|\?)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>")
MAX_DATA_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. `number` counts the calls of this name from 1, as strace does; `returned` None: killed in it.

    `paths`: what its descriptors are open on, then what its strings name, made absolute. `data`: what it wrote.
    """

    name: str
    number: int
    arguments: str
    paths: tuple[str, ...]
    data: bytes
    returned: int | None

    @property
    def changes_or_syncs(self) -> bool:
        """Not a mere reading of a file, nor a terminal's ioctl."""
        match self.name:
            case "open" | "openat" | "openat2":
                return "O_CREAT" in self.arguments or "O_TRUNC" in self.arguments
            case "ioctl":
                return "FICLONE" in self.arguments
        return True

    def concerns(self, folder: Path) -> bool:
        return any(path == str(folder) or path.startswith(f"{folder}/") for path in self.paths)


def why_not() -> str | None:
    """Why processes cannot be traced here, or None."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"strace does not work here: {done.stderr.strip()[-200:]}"


def traced(
    server: KillServer, job: Job, log: Path, *, kill_at: Call | None = None, data: bool = False
) -> tuple[int, list[Call]]:
    """How the job's process ended, and its calls between its start and its acknowledgement or death."""
    pid = server.start(job)
    command = ["strace", "-f", "-y", "-xx", "-s", str(MAX_DATA_BYTES if data else 256), "-o", str(log), "-p", str(pid)]
    command += ["-e", f"trace={','.join(_TRACED.split())}", "-e", "signal=none"]
    if kill_at is not None:
        command += ["-e", f"inject={kill_at.name}:signal=SIGKILL:when={kill_at.number}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        told = strace.stderr.readline()
        assert "attached" in told, f"strace: {told}"
        code = server.go()
        strace.stderr.read()
    return code, _between(read_log(log.read_text("ascii")), started_of(job), Path(job.report))


def read_log(text: str) -> list[Call]:
    """The calls of a process of one thread."""
    numbers: Counter[str] = Counter()
    calls = []
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            assert " +++ " in line, f"not understood, or of two threads: {line[:100]} ... {line[-100:]}"
            continue
        name, arguments, returned = match[1], match[2], match[3]
        numbers[name] += 1
        strings = [bytes.fromhex(found[1].replace("\\x", "")) for found in _STRING.finditer(arguments)]
        writes = "write" in name
        open_on = [_text(found[1]) for found in _DESCRIPTOR.finditer(arguments)]
        calls.append(
            Call(
                name=name,
                number=numbers[name],
                arguments=arguments if len(arguments) < 4096 else arguments[:200],
                paths=tuple(open_on) if writes else _paths(arguments),
                data=strings[0] if writes and strings else b"",
                returned=None if returned == "?" else int(returned),
            )
        )
    return calls


def _paths(arguments: str) -> tuple[str, ...]:
    """Each name is relative to the directory descriptor before it, where there is one."""
    paths = []
    base: str | None = None
    for found in re.finditer(f"{_DESCRIPTOR.pattern}|{_STRING.pattern}", arguments):
        if found[1] is not None:
            if base is not None:
                paths.append(base)
            base = _text(found[1])
        else:
            name = _text(found[2])
            paths.append(name if name.startswith("/") or base is None else f"{base}/{name}")
            base = None
    if base is not None:
        paths.append(base)
    return tuple(paths)


def _text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal.replace("\\x", "")).decode()


def _between(calls: list[Call], start: Path, end: Path) -> list[Call]:
    at = next(number for number, call in enumerate(calls) if str(start) in call.paths)
    until = next((number for number, call in enumerate(calls) if str(end) in call.paths), len(calls))
    return [call for call in calls[at + 1 : until] if call.changes_or_syncs]
