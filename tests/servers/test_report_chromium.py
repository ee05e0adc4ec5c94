"""The report of the billing store in a real browser, wide and narrow: nothing requested, nothing cut off, all true."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from eoctl.library import init_store
from eoctl.runtime.run import Request, run
from tests.cli.test_cli_report import Page
from tests.support import billing

ROOT = Path(__file__).parents[2]
WIDTHS = (1280, 400)
LEAST_TEXT = 8  # pixels
pytestmark = [pytest.mark.slow, pytest.mark.rocksdb]

# A page around the report: it may look into it, as both are files, and write down what the browser made of it.
AROUND = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="report.html" style="border:0;width:WIDTHpx;height:3000px"></iframe><pre id="found"></pre><script>
document.querySelector("iframe").onload = (event) => {
  const page = event.target.contentDocument, root = page.documentElement, view = event.target.contentWindow;
  const inside = (one) => one.closest(".scroll") !== null;
  const all = [...page.body.querySelectorAll("*")];
  const shown = all.filter((one) => one.children.length === 0 && one.textContent.trim() && one.tagName !== "title");
  document.getElementById("found").textContent = JSON.stringify({
    html: root.outerHTML,
    width: view.innerWidth,
    scrollWidth: root.scrollWidth,
    beyond: all.filter((one) => !inside(one) && one.getBoundingClientRect().right > view.innerWidth + 1)
      .map((one) => one.outerHTML.slice(0, 80)),
    small: shown.filter((one) => one.getBoundingClientRect().height < LEAST).map((one) => one.outerHTML.slice(0, 80)),
    cut: [...page.querySelectorAll("svg text")].filter((one) => {
      const text = one.getBoundingClientRect(), svg = one.closest("svg").getBoundingClientRect();
      return text.left < svg.left || text.right > svg.right || text.top < svg.top || text.bottom > svg.bottom + 1;
    }).map((one) => one.outerHTML.slice(0, 80)),
    resources: view.performance.getEntriesByType("resource").map((one) => one.name),
    text: page.body.innerText,
  });
};
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no chromium on PATH (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder with the page, and the document of the same moment."""
    pytest.importorskip("rocksdict")
    folder = tmp_path_factory.mktemp("report")
    store = init_store(folder / "store")
    for life in range(4):
        billing.example.made_up_events(folder / "billing" / "in", 400, first_hour=3 * life, hours=3)
        rounds = iter([False] * 8)
        stop = partial(next, rounds, True) if life % 2 else lambda: False
        pipeline = billing.example.billing(folder / "billing", interval=0.0, batch=64, parallelism=2)
        run(store._store, pipeline, Request(directory=folder / "work", stop=stop))
    words = [sys.executable, "-m", "eoctl.cli.main", "report", "-p", "billing", "--store", str(folder / "store")]
    words += ["--html", str(folder / "report.html"), "--json", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, check=True)
    return folder, json.loads(done.stdout)


def browsed(chromium: str, folder: Path, width: int) -> tuple[Any, set[str]]:
    """What the browser made of the page, and the hosts that it asked the network for."""
    (folder / "around.html").write_text(AROUND.replace("WIDTH", str(width)).replace("LEAST", str(LEAST_TEXT)))
    log = folder / f"net-{width}.json"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-sync",
        "--allow-file-access-from-files",
    ]
    options += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--log-net-log={log}",
        f"--user-data-dir={folder / 'profile'}",
    ]
    words = [chromium, *options, f"--window-size={width + 40},1400"]
    dump = [*words, "--virtual-time-budget=5000", "--dump-dom", (folder / "around.html").as_uri()]
    done = subprocess.run(dump, capture_output=True, text=True, check=True, timeout=120)
    page = _Found(done.stdout)
    text = log.read_text()
    document = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")
    asked = [str(event["params"]["url"]) for event in document["events"] if "url" in event.get("params", {})]
    hosts = {urlsplit(url).hostname or "" for url in asked if url.startswith(("http", "ws"))}
    return json.loads(page.text), hosts


class _Found(Page):
    """The text of the element with what was found."""

    text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = dict(attrs).get("id") == "found"

    def handle_data(self, data: str) -> None:
        if getattr(self, "_inside", False):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


@pytest.fixture(scope="module")
def own_hosts(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What the browser asks for by itself; and a page that asks for something is found out."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "report.html").write_text('<!doctype html><p>text<img src="http://tracker.example/pixel.png">')
    _, asked = browsed(chromium, folder, WIDTHS[0])
    assert "tracker.example" in asked
    return asked - {"tracker.example"}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_report_is_readable_asks_for_nothing_and_says_what_the_document_says(
    chromium: str, report: tuple[Path, Any], own_hosts: set[str], width: int
) -> None:
    folder, document = report
    found, asked = browsed(chromium, folder, width)
    assert asked <= own_hosts
    assert found["resources"] == []
    assert found["width"] == width
    assert found["scrollWidth"] <= width, found["beyond"]
    assert found["beyond"] == []
    assert found["small"] == []
    assert found["cut"] == []
    assert "billing: snapshots up to" in found["text"]
    page = Page(found["html"])
    newest = document["snapshots"][-1]
    assert page.named == {
        "newest_age_seconds": document["newest_age_seconds"],
        "full_bytes": newest["full_bytes"],
        "timeout_seconds": 300.0,
        **{name: document[name] for name in ("logical_bytes", "referenced_bytes", "saved_by_sharing")},
    }
    names = "snapshot kind status created_at full_bytes added_bytes stored_bytes exclusive_bytes files duration_seconds"
    assert rows_of(page, "snapshots") == [
        [str(row[name]) for name in names.split()] for row in reversed(document["snapshots"])
    ]
    assert [row[:2] for row in rows_of(page, "operators")] == [
        [one["operator"], str(one["full_bytes"])] for one in document["operators"]
    ]
    assert rows_of(page, "origins") == [
        [one["snapshot"], str(one["bytes"]), str(one["files"])] for one in document["origins"]
    ]


def rows_of(page: Page, table: str) -> list[list[str]]:
    return [row for row in page.tables[table] if row]
