"""The S3 server of the tests ends with them, also when they are killed."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lane("s3")

ROOT = Path(__file__).parents[2]
STARTED = """
from tests.support.seaweed import running_server
server = next(servers := running_server())
print(server.pid, server.directory, flush=True)
input()
"""


def test_a_killed_test_run_leaves_no_server(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", STARTED], env=environment, text=True, **pipes) as tests:  # type: ignore[call-overload]  # of str
        assert tests.stdout is not None
        pid, directory = tests.stdout.readline().split()
        server = os.pidfd_open(int(pid))
        assert tmp_path in Path(directory).parents
        tests.kill()
    # It is no child of ours; its descriptor can be read once it has ended, which the kernel sees to.
    assert select.select([server], [], [], 60)[0] == [server]
    os.close(server)
