"""Backpressure: how long checkpoints take beside a subtask ten times slower than the others. In steps, not seconds."""

from pathlib import Path
from xml.etree import ElementTree as ET

from scripts.benchmarks.skew import PAGE, PICTURE, draw, rows_in
from tests.simulation.skew import durations


def test_unaligned_checkpoints_do_not_wait_for_a_slow_subtask_and_aligned_ones_do(tmp_path: Path) -> None:
    aligned, nothing = durations(tmp_path, None, 1)
    aligned_skewed, _ = durations(tmp_path, None, 10)
    unaligned, _ = durations(tmp_path, 0.0, 1)
    unaligned_skewed, in_flight = durations(tmp_path, 0.0, 10)
    assert aligned_skewed > 3 * aligned, (aligned, aligned_skewed)
    assert unaligned_skewed <= 1.5 * unaligned, (unaligned, unaligned_skewed)
    assert unaligned_skewed < aligned_skewed / 3
    assert (nothing, in_flight > 0) == (0, True), "that is the price"


def test_the_committed_picture_is_that_of_the_committed_table() -> None:
    rows = rows_in(PAGE.read_text("utf-8"))
    assert [row.skew for row in rows] == [1, 2, 5, 10, 20]
    assert PICTURE.read_text("utf-8") == draw(rows)
    lines = [*ET.fromstring(draw(rows)).iter("{http://www.w3.org/2000/svg}polyline")]
    assert [str(line.get("points")).count(",") for line in lines] == [5, 5, 5]
