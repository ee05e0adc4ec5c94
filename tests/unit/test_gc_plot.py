"""The picture of what gc costs is drawn from the table beside it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from scripts.benchmarks.gc_plot import PAGE, PICTURE, Run, draw, runs_in

TABLE = """
| blobs | snapshots | run | seconds | cpu s | peak MiB | requests | list | open | delete | other |
|---|---|---|---|---|---|---|---|---|---|---|
| 1,000 | 1 | cold | 0.02 | 0.01 | 29.0 | 9 | 3 | 3 | 1 | 2 |
| 100,000 | 1 | cold | 1.2 | 1.1 | 80.0 | 160 | 105 | 3 | 50 | 2 |
| 100,000 | 10 apart | warm | 1.2 | 1.0 | 80.0 | 159 | 105 | 2 | 50 | 2 |
"""


def test_the_table_is_read() -> None:
    runs = runs_in(TABLE)
    assert runs[0] == Run(blobs=1000, snapshots=1, apart=False, warm=False, cpu_seconds=0.01, requests=9)
    assert [(run.style, run.warm, run.requests) for run in runs] == [
        ("s1", False, 9),
        ("s1", False, 160),
        ("apart", True, 159),
    ]


def test_every_run_is_a_point_in_both_panels() -> None:
    drawn = draw(runs_in(TABLE))
    picture = ET.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    lines = [path.get("d") for path in picture.iter(f"{name}path") if path.get("class") == "s1"]
    assert sum(str(line).count(" ") == 3 for line in lines) == 2
    assert len([*picture.iter(f"{name}circle")]) == 2
    assert draw(runs_in(TABLE)) == drawn


def test_the_committed_picture_is_that_of_the_committed_table() -> None:
    runs = runs_in(PAGE.read_text("utf-8"))
    assert {(run.blobs, run.snapshots) for run in runs} >= {(blobs, 10) for blobs in (1_000, 10_000, 100_000)}
    assert PICTURE.read_text("utf-8") == draw(runs)
    assert len(PICTURE.read_bytes()) < 10_000
