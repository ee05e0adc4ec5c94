"""Rules of the house that no linter knows: what may be committed, how long a module may be, what runs."""

import ast
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("eoctl", "storage", "formats")
MAX_MODULE_LINES = 400
BINARY_SUFFIXES = {".gz", ".parquet", ".png", ".sst", ".xz", ".zst"}

# Spelled in pieces, so that this file is no exception.
REGISTRY_HOSTS = re.compile(
    r"(?i)\b(?:pypi|pythonhosted|npmjs|crates|anaconda|maven|docker|ghcr|quay|gcr)[.](?:org|com|io)\b"
    r"|\b(?:proxy[.]golang|repo1?[.]maven)[.]"
)
MACHINE_PATHS = re.compile(r"(?<![\w.-])/(?:work|root|farm|home/\w+|Users/\w+)/")


def git(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"not a git checkout: {error}")
    return [line for line in done.stdout.split("\0") if line]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What is committed, or would be by `git add -A`."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [path for path in (ROOT / name for name in sorted(set(names))) if path.is_file()]


@pytest.fixture(scope="module")
def modules(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES]


def lines_matching(pattern: re.Pattern[str], files: list[Path]) -> list[str]:
    found = []
    for path in files:
        if path.suffix in BINARY_SUFFIXES:
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.split("\n"), 1) if pattern.search(text) else ():
            if match := pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {match[0]}")
    return found


def test_no_file_names_a_package_registry(files: list[Path]) -> None:
    assert lines_matching(REGISTRY_HOSTS, files) == []


def test_no_file_names_a_path_of_somebodys_machine(files: list[Path]) -> None:
    assert lines_matching(MACHINE_PATHS, files) == []


def test_every_script_has_its_run_bit(files: list[Path]) -> None:
    scripts = [path for path in files if path.read_bytes()[:2] == b"#!"]
    assert {ROOT / "scripts/setup", ROOT / "scripts/check", ROOT / "scripts/test", ROOT / ".ci/run"} <= set(scripts)
    assert [str(path) for path in scripts if not os.access(path, os.X_OK)] == []


def test_git_knows_every_run_bit(files: list[Path]) -> None:
    modes = {}
    for line in git("ls-files", "-z", "--stage"):
        mode, name = line.split(" ", 1)[0], line.split("\t", 1)[1]
        modes[ROOT / name] = mode
    assert [str(path) for path in files if os.access(path, os.X_OK) and modes.get(path, "100755") != "100755"] == []


def test_every_file_without_a_suffix_in_scripts_is_a_script(files: list[Path]) -> None:
    scripts = [path for path in files if path.parent == ROOT / "scripts" and not path.suffix]
    assert [str(path) for path in scripts if path.read_bytes()[:2] != b"#!"] == []


def test_no_module_is_too_long(modules: list[Path]) -> None:
    lengths = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8").count("\n") for path in modules}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_every_folder_of_modules_is_a_package(modules: list[Path]) -> None:
    folders = {path.parent for path in modules}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


@pytest.mark.parametrize("package", ["storage", "formats"])
def test_a_lower_package_holds_a_docstring_only(package: str) -> None:
    # What users import lives in eoctl, so that these two can move without breaking anybody.
    body = ast.parse((ROOT / package / "__init__.py").read_text("utf-8")).body
    match body:
        case [ast.Expr(value=ast.Constant(value=str()))]:
            pass
        case _:
            pytest.fail(f"{package}/__init__.py holds more than a docstring")


def test_no_test_directory_shadows_a_package(files: list[Path]) -> None:
    folders = {
        part
        for path in files
        for part in path.relative_to(ROOT).parent.parts[1:]
        if path.is_relative_to(ROOT / "tests")
    }
    assert folders & {"storage", "formats"} == set()
