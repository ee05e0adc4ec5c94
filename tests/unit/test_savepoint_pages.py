"""What the pages say of savepoints and tables: their examples can be read, other tools open what is written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import fields

from formats import savepoint, sst, state
from formats.canonical import decode
from formats.savepoint import decode_head
from formats.types_arrow import TypedColumns
from tests.support.states import batch_of

ROOT = Path(__file__).parents[2]
KEYS = ROOT / "docs/formats"


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def canonical(text: str) -> bytes:
    return json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def test_the_example_of_a_savepoint_head_can_be_read() -> None:
    (example,) = blocks("docs/formats/savepoint.md", "json")
    assert decode_head(canonical(example)).operators[0].tables[0].schema.name == "total"


def test_the_example_of_a_tables_head_can_be_read() -> None:
    (example,) = blocks("docs/formats/sst.md", "json")
    head = decode(canonical(example), sst.TableHead, what="the example", max_bytes=1 << 16)
    assert head.groups[0].may_hold(None, b"x")


@pytest.mark.parametrize(
    ("page", "records"),
    [
        ("sst", (sst.TableHead, sst.RowGroup, state.StateSchema)),
        (
            "savepoint",
            (
                *(savepoint.SavepointHead, savepoint.Origin, savepoint.SavepointOperator, savepoint.SavepointTable),
                *(savepoint.SavepointSubtask, savepoint.SavepointFile),
            ),
        ),
    ],
)
def test_every_field_is_on_its_page(page: str, records: tuple[type[Struct], ...]) -> None:
    named = set(re.findall(r"`([^`\n]+)`", (KEYS / f"{page}.md").read_text("utf-8")))
    assert {field.encode_name for record in records for field in fields(record)} - named == set()


@pytest.mark.parametrize("tool", ["duckdb", "polars", "pandas"])
def test_one_line_opens_a_table(tool: str, tmp_path: Path) -> None:
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    (example,) = blocks("docs/savepoints.md", "oneliners")
    (line,) = [line for line in example.splitlines() if line.startswith(f"import {tool};")]
    schema = state.StateSchema(name="total", kind="value", key="string", value="long")
    rows = [(n % 7, b"\x03" + b"k%d" % n, b"", b"", n.to_bytes(8, "big")) for n in range(10)]
    path = tmp_path / "backup/8eeed16b661251f13cfc6a3c5e75c420/total.parquet"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        columns = TypedColumns(schema)
        sst.write_table(file, schema, [columns(batch_of(rows))], columns=columns.schema)
    done = subprocess.run(
        [sys.executable, "-c", line],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert all(f"k{n}" in done.stdout for n in (7, 8, 9))
