"""The directory of files on their way to S3: of one process, gone with it, never taken from another that lives."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from formats.errors import UnavailableError
from storage.backends.scratch import scratch_directory

OPENED = "from storage.backends.scratch import scratch_directory\npath = scratch_directory()\nprint(path, flush=True)\n"


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def run(code: str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OPENED + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        **options,
    )


def test_it_is_new_and_private_and_gone_at_the_end(temporary: Path) -> None:
    with run("(path / 'file').write_text('x')\n") as process:
        out, _ = process.communicate()
    path = Path(out.strip())
    assert path.parent == temporary
    assert list(temporary.iterdir()) == []
    assert scratch_directory().stat().st_mode & 0o777 == 0o700


def test_what_a_killed_process_left_is_removed_by_the_next_and_nothing_of_the_living(temporary: Path) -> None:
    with run("input()") as living, run("(path / 'file').write_text('x')\ninput()") as dying:
        assert living.stdout is not None
        assert dying.stdout is not None
        stays, goes = (Path(process.stdout.readline().strip()) for process in (living, dying) if process.stdout)
        dying.kill()
        dying.wait()
        assert goes.exists()
        ours = scratch_directory()
        assert sorted(temporary.iterdir()) == sorted([stays, ours])
        living.communicate("\n")
    assert not stays.exists()


def test_no_place_for_it_is_told_as_such(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "none"))
    with pytest.raises(UnavailableError, match="No such file or directory"):
        scratch_directory()


def test_the_end_of_a_child_takes_nothing_from_its_parent() -> None:
    code = "import os\nif os.fork() == 0:\n    raise SystemExit\nos.wait()\nprint(path.exists(), flush=True)\n"
    with run(code) as process:
        out, _ = process.communicate()
    assert out.splitlines()[1] == "True"


def test_many_that_begin_at_once_take_nothing_from_each_other() -> None:
    code = "import sys\nfor _ in range(200):\n    assert scratch_directory().exists()\n"
    processes = [run(code) for _ in range(4)]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0] * 4
    assert list(Path(tempfile.gettempdir()).iterdir()) == []
