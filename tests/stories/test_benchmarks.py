"""The scripts behind the figures of docs/guarantees.md and docs/billing.md run, in their short form."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.rocksdb]


def rows_of(module: str) -> list[list[str]]:
    """The table rows that the script prints."""
    words = [sys.executable, "-m", f"scripts.benchmarks.{module}", "--quick"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if "|" in line]


def test_the_costs_of_guarantees_are_measured() -> None:
    rows = {row[0]: row[1:] for row in rows_of("guarantees")}
    aligned, unaligned = ([float(cell.replace(",", "")) for cell in rows[name]] for name in ("aligned", "unaligned"))
    assert unaligned[0] < aligned[0] / 3, "steps of a checkpoint"
    assert (aligned[2], unaligned[2] > 0) == (0, True), "bytes in flight"
    assert {"two phases (files)", "upserts (SQLite)"} <= rows.keys()


def test_the_billing_example_is_measured_and_exact() -> None:
    rows = {row[0]: row[1:] for row in rows_of("billing")}
    assert {"30 s", "0.2 s"} <= rows.keys()
    assert rows["30 s"][4] == rows["0.2 s"][4] == "2,000", "invoices"
