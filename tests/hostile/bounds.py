"""Runs hostile cases, each in a process of its own, and tells what each cost.

    python -m tests.hostile.bounds [GROUP...] [--match TEXT] [--json] [--slowest N]

A case may raise only the error that it expects, may grow the process by at most 256 MiB, may use at most 5 seconds of
CPU (the kernel ends it a second later), and may change nothing outside its own box. A case that waits for ever is
ended by an alarm.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from formats.errors import EoctlError
from tests.hostile.case import Action, Case
from tests.hostile.groups import GROUPS, cases_of

MAX_RSS_BYTES = 256 << 20
MAX_CPU_SECONDS = 5
MAX_WALL_SECONDS = 120
_MAX_FILE_BYTES = 1 << 30  # what a bomb may write before the disk says no
_ADDRESS_SPACE_BYTES = 16 << 30  # ends what would take the machine down


class Outcome(NamedTuple):
    """What one case came to. `fault` is empty where it came to what it should."""

    name: str
    answer: str
    rss_bytes: int
    cpu_seconds: float
    fault: str


def run_case(case: Case, scratch: Path, cpu_seconds: int = MAX_CPU_SECONDS) -> Outcome:
    """The case has run in a child of this process, in an empty directory below `scratch`."""
    box = Path(tempfile.mkdtemp(dir=scratch))
    inside = box / "inside"
    inside.mkdir()
    (box / "outside").mkdir()
    (box / "outside" / "precious").write_bytes(b"precious")
    try:
        action = case.prepare(inside)
        before = _listing(box, inside)
        answer, rss, cpu, fault = _in_child(case, action, cpu_seconds)
        if _listing(box, inside) != before:
            fault = f"{fault}; wrote outside of its box" if fault else "wrote outside of its box"
    finally:
        # What `shutil` cannot remove: directories in each other by the thousand.
        subprocess.run(["rm", "-rf", str(box)], check=True)
    return Outcome(case.name, answer, rss, cpu, fault)


def _listing(box: Path, inside: Path) -> dict[str, bytes]:
    """Everything in the box but what is inside."""
    found: dict[str, bytes] = {}
    for folder, folders, files in os.walk(box):
        folders[:] = [name for name in folders if Path(folder, name) != inside]
        found |= {str(Path(folder, name)): b"" for name in folders}
        found |= {str(path): path.read_bytes() for path in (Path(folder, name) for name in files)}
    return found


def _in_child(case: Case, action: Action, cpu_seconds: int) -> tuple[str, int, float, str]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(reader)
            os.write(writer, json.dumps(_measured(case, action, cpu_seconds)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read()
    _, status, used = os.wait4(pid, 0)
    if told:
        answer, rss, cpu, fault = json.loads(told)
        return answer, rss, cpu, fault
    ended = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
    return ended, used.ru_maxrss << 10, used.ru_utime + used.ru_stime, f"ended by {ended}"


def _measured(case: Case, action: Action, cpu_seconds: int) -> tuple[str, int, float, str]:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds + 1, cpu_seconds + 2))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    signal.alarm(MAX_WALL_SECONDS)
    before = resource.getrusage(resource.RUSAGE_SELF)
    fault = ""
    try:
        action()
        answer = "passed over"
        if case.expected is not None:
            fault = f"no {case.expected.__name__}"
    except EoctlError as error:
        answer = error.kind
        if case.expected is None or not isinstance(error, case.expected):
            fault = f"{type(error).__name__}: {error.message[:300]}"
        elif len(error.message) > 10_000:
            fault = f"a message of {len(error.message)} characters"
    except BaseException as error:  # noqa: BLE001  (whatever else it is, it is a fault)
        answer = type(error).__name__
        fault = f"{type(error).__name__}: {str(error)[:300]}"
    after = resource.getrusage(resource.RUSAGE_SELF)
    rss = (after.ru_maxrss - before.ru_maxrss) << 10
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if rss > MAX_RSS_BYTES or cpu > cpu_seconds:
        fault = f"{fault}; too much: {rss >> 20} MiB, {cpu:.1f} s".removeprefix("; ")
    return answer, rss, round(cpu, 3), fault


def run_groups(groups: Iterable[str], match: str = "", cpu_seconds: int = MAX_CPU_SECONDS) -> Iterator[Outcome]:
    with tempfile.TemporaryDirectory() as scratch:
        for group in groups:
            for case in cases_of(group):
                if match in case.name:
                    yield run_case(case, Path(scratch), cpu_seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all if none is named")
    parser.add_argument("--json", action="store_true", help="an outcome to a line")
    parser.add_argument("--cpu", type=int, default=MAX_CPU_SECONDS, metavar="S", help="seconds of CPU for each")
    parser.add_argument("--match", default="", metavar="TEXT", help="only cases with this in their name")
    parser.add_argument("--slowest", type=int, default=5, metavar="N", help="how many of the costly cases to show")
    options = parser.parse_args()
    outcomes = []
    for outcome in run_groups(options.groups or GROUPS, options.match, options.cpu):
        outcomes.append(outcome)
        if options.json:
            sys.stdout.write(json.dumps(outcome._asdict()) + "\n")
        elif outcome.fault:
            sys.stdout.write(f"FAULT {outcome.name}: {outcome.fault}\n")
    faults = sum(1 for outcome in outcomes if outcome.fault)
    if not options.json:
        for what, costs in (("MiB", lambda o: o.rss_bytes / (1 << 20)), ("s", lambda o: o.cpu_seconds)):
            for outcome in sorted(outcomes, key=costs, reverse=True)[: options.slowest]:
                sys.stdout.write(f"{costs(outcome):8.2f} {what:3} {outcome.name}: {outcome.answer}\n")
        sys.stdout.write(f"{len(outcomes)} cases, {faults} faults\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
