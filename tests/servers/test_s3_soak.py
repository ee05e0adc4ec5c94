"""Everybody at once on one S3 store, killed again and again: the short form of scripts/soak."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.lane("s3")
@pytest.mark.parametrize("seed", [1])
def test_nothing_is_lost_or_wrong_in_two_minutes_of_kills(seed: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.soak_run", "--minutes", "2", "--kill-every", "6", "--seed", str(seed)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " restore" in done.stdout
