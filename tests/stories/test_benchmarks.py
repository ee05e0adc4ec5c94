"""The scripts behind the figures of the docs run, each in its short form, and print the rows that the docs have.

What peers take is measured where they are; here it is eoctl alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks.skew import ALIGNMENTS, PAGE, rows_in
from tests.simulation.skew import durations

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
pytestmark = [pytest.mark.slow, pytest.mark.rocksdb]

SHORT = {
    "billing": ("--quick",),
    "flink": ("--millions", "0.02"),
    "gc_scale": ("--blobs", "2000", "--snapshots", "3"),
    "guarantees": ("--quick",),
    "large_state": ("--keys", "2000", "--updates", "3000", "--rounds", "1", "--interval", "0.02"),
    "runtime": ("--records", "40000", "--rounds", "1"),
    "savepoints": ("--millions", "0.02"),
    "upkeep": ("--files", "100", "--reps", "1", "--tools", "eoctl"),
}
ELSEWHERE = {
    "gc_plot": "tests/unit/test_gc_plot.py",
    "s3_requests": "tests/servers/test_s3_requests.py",
    "skew": "here",
}


def output_of(module: str, *words: str | Path) -> str:
    command = [sys.executable, "-m", f"scripts.benchmarks.{module}", *SHORT.get(module, ()), *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_of(output: str) -> dict[str, list[str]]:
    """The rows of printed tables, by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def test_every_script_that_the_docs_name_runs_here() -> None:
    text = "".join(page.read_text("utf-8") for page in DOCS.rglob("*.md"))
    named = set(re.findall(r"python -m scripts\.benchmarks\.(\w+)", text))
    assert named == SHORT.keys() | ELSEWHERE.keys()
    assert all(where == "here" or (ROOT / where).is_file() for where in ELSEWHERE.values())
    suites = set(re.findall(r"scripts/bench (\w[\w-]*)", text))
    assert suites - {"all"} <= set(re.findall(r"^  ([\w-]+) +\w", output_of("__main__", "--help"), re.MULTILINE))


def test_the_costs_of_guarantees_are_measured() -> None:
    rows = rows_of(output_of("guarantees"))
    aligned, unaligned = ([number(cell) for cell in rows[name]] for name in ("aligned", "unaligned"))
    assert unaligned[0] < aligned[0] / 3, "steps of a checkpoint"
    assert (aligned[2], unaligned[2] > 0) == (0, True), "bytes in flight"
    assert {"two phases (files)", "upserts (SQLite)"} <= rows.keys()


def test_the_billing_example_is_measured_and_exact() -> None:
    rows = rows_of(output_of("billing"))
    assert {"30 s", "0.2 s"} <= rows.keys()
    assert rows["30 s"][4] == rows["0.2 s"][4] == "2,000", "invoices"


def test_every_suite_beside_the_peers_is_measured(tmp_path: Path) -> None:
    words = ("all", "--quick", "--tools", "eoctl,eoctl --link", "--markdown", "--min-free-gb", "1")
    output = output_of("__main__", *words, "--work", tmp_path)
    for heading in ("RocksDB", "500 files", "One file", "16 sparse files", "Start-up", "Listing", "An increment"):
        assert re.search(rf"^\W*{heading}\b", output, re.MULTILINE), heading
    for heading in ("S3: 3 files", "S3: peak memory", "Peak memory"):
        assert heading in output
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("state", ["heap", "rocksdb"])
def test_large_state_that_changes_all_over_is_measured(state: str) -> None:
    output = output_of("large_state", "--state", state)
    assert len(rows_of(output)) > 2, output
    assert "throughput with them" in output


def test_the_runtime_is_measured_with_and_without_checkpoints() -> None:
    lines = [line for line in output_of("runtime").splitlines() if "| eoctl" in line]
    assert [line.split("|")[1].strip() for line in lines] == ["count", "count", "window", "window"]


def test_savepoints_are_measured_beside_bare_iteration() -> None:
    output = output_of("savepoints")
    for name in ("bare iteration", "savepoint create, own tables", "savepoint create, RocksDB", "state get"):
        assert name in output


def test_gc_is_measured_at_any_scale(tmp_path: Path) -> None:
    output = output_of("gc_scale", "--work", tmp_path)
    cold, warm = (line.split("|") for line in output.splitlines() if line.startswith("| 2,000"))
    assert number(cold[10]) == number(warm[10]) > 0, "deletes"
    assert number(warm[9]) < number(cold[9]), "a warm run opens no manifest again"


def test_upkeep_is_measured(tmp_path: Path) -> None:
    assert {"verify", "gc"} <= rows_of(output_of("upkeep", "--work", tmp_path)).keys()


@pytest.mark.lane("flink")
def test_a_real_flinks_state_is_measured() -> None:
    if not list(ROOT.glob(".venv-flink2.3/eoctl-jars/flink-state-processor-api-*.jar")):
        pytest.skip("no connector for savepoints beside Flink: scripts/setup-flink gets it where mvn is")
    output = output_of("flink")
    for name in ("RocksDB's tables", "Flink's SQL connector", "100,000 handles"):
        assert name in output


def test_the_table_of_skew_is_what_is_measured(tmp_path: Path) -> None:
    row = rows_in(PAGE.read_text("utf-8"))[0]
    found = (durations(tmp_path, timeout, row.skew)[0] for timeout in ALIGNMENTS.values())
    assert tuple(round(median) for median in found) == row.steps
