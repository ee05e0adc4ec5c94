"""What people install: the wheel, in an empty environment, with nothing of the source tree in reach."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"eoctl", "storage", "formats"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Installed:
    """An environment that has the wheel and what it requires, and nothing else."""

    folder: Path

    def run(self, program: str, *arguments: str, store: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("EOCTL_", "PYTHON", "XDG_"))}
        environment = kept | {"HOME": str(self.folder)} | ({"EOCTL_STORE": str(store)} if store else {})
        return subprocess.run(
            [self.folder / "venv" / "bin" / program, *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def run(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: a build leaves folders behind, and folders left behind get into a wheel.
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, cwd=source)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-input", "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return Installed(folder)


def test_the_wheel_brings_exactly_three_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    (metadata,) = {name.split("/")[0] for name in names} - PACKAGES
    assert metadata.endswith(".dist-info")
    assert {name.split("/")[0] for name in names} == PACKAGES | {metadata}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert f"{metadata}/licenses/LICENSE" in names


def test_the_wheel_holds_every_module_of_the_tree(wheel: Path) -> None:
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".py")} == modules


def test_the_installed_packages_are_those_of_the_wheel(installed: Installed) -> None:
    done = installed.run("python", "-c", "import eoctl, storage, formats; print(eoctl, storage, formats)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("site-packages") == len(PACKAGES)


def test_the_installed_command_says_its_version(installed: Installed, wheel: Path) -> None:
    done = installed.run("eoctl", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert wheel.name.split("-")[1] in done.stdout


def test_a_new_local_store_lists_no_checkpoints(installed: Installed, tmp_path: Path) -> None:
    store = tmp_path / "store"
    created = installed.run("eoctl", "store", "init", store=store)
    assert created.returncode == 0, created.stderr
    listed = installed.run("eoctl", "checkpoint", "list", "--json", store=store)
    assert (listed.returncode, listed.stderr) == (0, "")
    document = json.loads(listed.stdout)
    assert document["schema"] == "eoctl.checkpoint.list/1"
    assert document["snapshots"] == []
    told = installed.run("eoctl", "checkpoint", "list", store=store)
    assert told.returncode == 0, told.stderr


def test_a_store_that_is_not_there_is_exit_code_10(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("eoctl", "checkpoint", "list", store=tmp_path / "nothing")
    assert done.returncode == 10
    assert "nothing" in done.stderr
