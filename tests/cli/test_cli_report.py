"""`eoctl report`: the figures, the page, and that they are the same."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine, State


class Page(HTMLParser):
    """What a reader gets of the page: exact values by name, and tables by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.named: dict[str, float] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._table: list[list[str]] | None = None
        self._cell: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if "data-name" in found:
            self.named[str(found["data-name"])] = float(str(found["data-value"]))
        if tag == "table":
            self._table = self.tables.setdefault(str(found["id"]), [])
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag == "td" and self._table is not None:
            self._table[-1].append(str(found.get("data-value", "")))
            self._cell = "" if "data-value" in found else "text"

    def handle_data(self, data: str) -> None:
        if self._cell == "text" and self._table and self._table[-1]:
            self._table[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in {"td", "table"}:
            self._cell = None


@pytest.fixture
def grown(eoctl: CommandLine, state: State) -> CommandLine:
    """Three checkpoints of two operators, of which `joins` grows."""
    eoctl.ok("store", "init")
    state("totals", b=200_000)
    for count in (1, 2, 3):
        state("joins", **{f"f{number}": 100_000 for number in range(count)})
        eoctl.ok("checkpoint", "create", "joins=joins", "totals=totals", "-p", "orders")
    return eoctl


def document(eoctl: CommandLine, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(eoctl.ok("report", *words, "--json").out)
    return found


def test_growth_operators_and_sharing_are_told(grown: CommandLine) -> None:
    found = document(grown)
    assert [row["full_bytes"] for row in found["snapshots"]] == [300_000, 400_000, 500_000]
    assert [row["added_bytes"] for row in found["snapshots"]] == [300_000, 100_000, 100_000]
    assert found["snapshots"][-1]["operators"] == {"joins": 300_000, "totals": 200_000}
    assert found["operators"] == [
        {"operator": "joins", "full_bytes": 300_000, "growth_bytes": 200_000},
        {"operator": "totals", "full_bytes": 200_000, "growth_bytes": 0},
    ]
    assert [(one["snapshot"], one["bytes"]) for one in found["origins"]] == [
        ("1", 300_000), ("2", 100_000), ("3", 100_000),
    ]  # fmt: skip
    assert found["logical_bytes"] == 1_200_000
    assert 0.5 < found["saved_by_sharing"] < 0.6


def test_a_report_up_to_a_snapshot_does_not_know_later_ones(grown: CommandLine) -> None:
    found = document(grown, "orders@2")
    assert (found["newest"], len(found["snapshots"])) == ("2", 2)
    assert found["logical_bytes"] == 700_000


def test_every_figure_of_the_page_is_that_of_the_document(grown: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "orders.html"
    found = json.loads(grown.ok("report", "-p", "orders", "--html", str(path), "--json", "-q").out)
    page = Page(path.read_text())
    newest = found["snapshots"][-1]
    assert page.named == {
        "newest_age_seconds": found["newest_age_seconds"],
        "full_bytes": newest["full_bytes"],
        "logical_bytes": found["logical_bytes"],
        "referenced_bytes": found["referenced_bytes"],
        "saved_by_sharing": found["saved_by_sharing"],
    }
    rows = [row for row in page.tables["snapshots"] if row]
    names = ("snapshot", "kind", "status", "created_at", "full_bytes", "added_bytes", "stored_bytes",
             "exclusive_bytes", "files", "duration_seconds")  # fmt: skip
    assert rows == [[str(row[name]) for name in names] for row in reversed(found["snapshots"])]
    assert [row[:2] for row in page.tables["operators"] if row] == [
        [share["operator"], str(share["full_bytes"])] for share in found["operators"]
    ]
    assert [row for row in page.tables["origins"] if row] == [
        [one["snapshot"], str(one["bytes"]), str(one["files"])] for one in found["origins"]
    ]


def test_the_page_loads_and_runs_nothing(grown: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "orders.html"
    grown.ok("report", "-p", "orders", "--html", str(path), "-q")
    text = path.read_text()
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not {"href", "src", "srcset", "action"} & {name for _, found in page.tags for name in found}
    assert not re.search(r"url\(|@import|https?:", text)
    assert "default-src 'none'" in text


def test_names_from_outside_are_only_text(eoctl: CommandLine, state: State, tmp_path: Path) -> None:
    eoctl.ok("store", "init")
    state("s", a=10)
    name = "<script>alert(1)</script>"
    eoctl.ok("checkpoint", "create", f"{name}=s", "-p", "orders")
    path = tmp_path / "orders.html"
    eoctl.ok("report", "--html", str(path), "-q")
    assert "<script" not in path.read_text()


def test_a_page_that_cannot_be_written_leaves_what_was_there(grown: CommandLine, tmp_path: Path) -> None:
    done = grown("report", "--html", str(tmp_path / "no" / "orders.html"))
    assert done.code == 2
    assert "no such directory" in done.err


def test_one_snapshot_alone_is_a_report_too(eoctl: CommandLine, state: State, tmp_path: Path) -> None:
    eoctl.ok("store", "init")
    state("s")
    eoctl.ok("checkpoint", "create", "s", "-p", "orders")
    path = tmp_path / "orders.html"
    assert "0 B in full" in eoctl.ok("report").out
    assert eoctl("report", "--html", str(path)).err == f"notice: wrote {path}\n"
    assert "<svg" in path.read_text()
