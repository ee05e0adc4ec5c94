"""What a command imports: a module that nobody needs costs every start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine

HEAVY = {"boto3", "botocore", "pyarrow", "pydantic", "rich", "rocksdict", "zstandard"}
SERVICES = {"eoctl.services", "storage", "msgspec", "blake3"}
DUMP = (
    "import sys; from eoctl.cli.main import main; code = main(sys.argv[1:]); "
    "print(*sys.modules, file=sys.stderr); sys.exit(code)"
)


def modules_of(eoctl: CommandLine, *words: str | Path) -> set[str]:
    """What is imported once the command has run."""
    eoctl.program = [sys.executable, "-c", DUMP]
    done = eoctl.process(*words)
    assert done.code == 0, done
    return set(done.err.split())


def test_version_imports_neither_typer_nor_anything_that_works(eoctl: CommandLine) -> None:
    found = modules_of(eoctl, "--version")
    assert found & (HEAVY | SERVICES | {"typer", "click", "json", "dataclasses", "inspect"}) == set()
    assert {name for name in found if name.startswith("eoctl")} == {
        "eoctl",
        "eoctl.cli",
        "eoctl.cli.exit_codes",
        "eoctl.cli.main",
        "eoctl.version",
    }


@pytest.mark.parametrize(
    "words", [("--help",), ("checkpoint", "--help"), ("checkpoint", "create", "--help"), ("restore", "--help")]
)
def test_help_imports_no_service(eoctl: CommandLine, words: tuple[str, ...]) -> None:
    assert modules_of(eoctl, *words) & (HEAVY | SERVICES) == set()


def test_the_list_of_all_commands_imports_no_command(eoctl: CommandLine) -> None:
    found = modules_of(eoctl, "--help")
    assert found & {f"eoctl.cli.{name}" for name in ("checkpoint", "checkpoint_create", "restore", "store")} == set()


def test_listing_imports_nothing_heavy(orders: CommandLine) -> None:
    assert modules_of(orders, "checkpoint", "list") & (HEAVY | {"blake3"}) == set()


@pytest.mark.parametrize("words", [("checkpoint", "inspect", "1"), ("checkpoint", "files", "1")])
def test_reading_a_manifest_needs_zstandard_and_nothing_else(orders: CommandLine, words: tuple[str, ...]) -> None:
    assert modules_of(orders, *words) & HEAVY <= {"zstandard"}


def test_creating_a_checkpoint_of_a_directory_needs_no_engine(orders: CommandLine) -> None:
    assert modules_of(orders, "checkpoint", "create", "state", "-p", "orders") & HEAVY <= {"zstandard"}


def test_the_garbage_collector_is_off_in_the_program_only(home: Path, eoctl: CommandLine) -> None:
    told = (
        "import atexit, gc, sys; from eoctl.cli.main import main; "
        "atexit.register(lambda: print(gc.isenabled(), file=sys.stderr)); {}"
    )
    for call, enabled in (("sys.argv = ['eoctl', '--version']; main()", "False"), ("main(['--version'])", "True")):
        done = subprocess.run(
            [sys.executable, "-c", told.format(call)],
            env=eoctl.environment(),
            cwd=home,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.strip() == enabled


@pytest.mark.parametrize(("words", "code"), [("['--version']", 0), ("['nope']", 2)])
def test_the_program_ends_at_once_but_for_what_was_registered(eoctl: CommandLine, words: str, code: int) -> None:
    script = (
        "import atexit, sys; from eoctl.cli.main import main; atexit.register(lambda: print('registered')); "
        f"sys.argv[1:] = {words}; main(); print('never reached')"
    )
    eoctl.program = [sys.executable, "-c", script]
    done = eoctl.process()
    assert done.code == code
    assert done.lines[-1:] == ["registered"]


def test_the_program_waits_for_threads_that_have_something_to_finish(eoctl: CommandLine) -> None:
    script = (
        "import sys, threading; from eoctl.cli.main import main; go = threading.Event(); "
        "threading.Thread(target=lambda: (go.wait(), print('finished'))).start(); "
        "sys.argv[1:] = ['--version']; main(); go.set()"
    )
    eoctl.program = [sys.executable, "-c", script]
    assert eoctl.process().lines == ["eoctl 0.1.0", "finished"]
