"""Runs one command and writes what it cost; started as a script of its own for every measured command.

The kernel counts the memory of a parent at the time of `exec` into the peak of its child. This process
imports next to nothing, so that the floor under every peak is its own few MB, not the size of the harness.

usage: launcher.py RESULT PROGRAM [ARGUMENT...]
RESULT gets one line: exit code, wall seconds, cpu seconds (user + system, descendants included), peak bytes
(of the largest process in the tree).
"""

import os
import sys
import time

NOT_FOUND = 127


def main() -> int:
    """The command's result is in the file named first; returns the command's exit code."""
    result, command = sys.argv[1], sys.argv[2:]
    start = time.perf_counter()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    code = os.waitstatus_to_exitcode(status)
    with open(result, "w", encoding="ascii") as file:  # noqa: PTH123 (pathlib is most of what it would import)
        file.write(f"{code} {wall:.6f} {usage.ru_utime + usage.ru_stime:.6f} {usage.ru_maxrss * 1024}\n")
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
