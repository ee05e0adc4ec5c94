"""What tests/conftest.py says at the end of a run about lanes that did not run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough

CONFTEST = Path(__file__).parents[1] / "conftest.py"
SETTINGS = """
[pytest]
addopts = --import-mode=importlib -p no:cacheprovider -ra
markers =
    lane(name):
    slow:
"""
KAFKA = """
import pytest

@pytest.mark.parametrize("number", [1, 2])
def test_broker(number):
    pytest.skip("no broker")
"""
UNIT = """
import pytest

@pytest.mark.slow
def test_long():
    pass

@pytest.mark.lane("time-travel")
def test_named():
    pytest.skip("no flux capacitor")

def test_plain():
    pytest.skip("in no lane")
"""


def run_pytest(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    servers = folder / "tests" / "servers"
    servers.mkdir(parents=True)
    shutil.copy(CONFTEST, folder / "tests")
    (folder / "pytest.ini").write_text(SETTINGS)
    (servers / "test_kafka.py").write_text(KAFKA)
    (servers / "test_flink.py").write_text("import pytest\npytest.skip('no Java', allow_module_level=True)\n")
    (folder / "tests" / "test_unit.py").write_text(UNIT)
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "EOCTL_TEST_LANES"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        cwd=folder,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("workers", [(), ("-n", "2", "--dist", "loadgroup")], ids=["alone", "with workers"])
def test_the_last_lines_name_every_lane_that_did_not_run(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run_pytest(tmp_path, "-m", "not slow", *workers)
    assert done.stdout.splitlines()[-5:-1] == [
        "SKIPPED LANE flink: no Java (tests: 1)",
        "SKIPPED LANE kafka: no broker (tests: 2)",
        "SKIPPED LANE slow: left out by -m 'not slow' (tests: 1)",
        "SKIPPED LANE time-travel: no flux capacitor (tests: 1)",
    ]
    assert done.returncode == 0


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "with workers"])
def test_a_skipped_lane_fails_a_run_in_ci(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run_pytest(tmp_path, *workers, CI="true")
    assert "SKIPPED LANE kafka: no broker (tests: 2)" in done.stdout.splitlines()
    assert "SKIPPED LANE slow" not in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_run_that_leaves_lanes_out_on_purpose_says_nothing(tmp_path: Path) -> None:
    done = run_pytest(tmp_path, "-m", "not slow", CI="true", EOCTL_TEST_LANES="ignore")
    assert "LANE" not in done.stdout
    assert done.returncode == 0
