"""The demonstration, told to its end in a small version, by the script that a stranger runs."""

import os
import re
import subprocess
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "scripts" / "demo"


@pytest.mark.slow
@pytest.mark.parametrize("place", [(), ("--s3",)], ids=["disk", "s3"])
def test_everything_is_as_the_demo_tells(tmp_path: Path, place: tuple[str, ...]) -> None:
    done = subprocess.run(
        [DEMO, "--quick", *place],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout
    assert done.returncode == 0, done.stderr + told[-2000:]
    assert "a checkpoint is under way, its first blob is stored" in told
    assert "killed by signal 9" in told
    assert told.count(" 6  checkpoint") == 2, "listed before and after the kill"
    assert " 7  checkpoint" not in told, "the one that was under way is in no list"
    assert re.findall(r"(\S+) keys compared .* none wrong", told) == ["60,001", "60,001"]
    assert "== All as told" in told
    assert [
        line for line in told.splitlines() if len(line) > 80 and str(tmp_path) not in line and "s3://" not in line
    ] == []
    assert list(tmp_path.iterdir()) == [], "the demo leaves nothing behind"
