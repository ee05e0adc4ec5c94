"""Real checkpoints and savepoints of Flink, out of tests/golden/flink; and handles of every kind."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).parents[1] / "golden" / "flink"
WRITTEN_AT = "/tmp/eoctl-corpus"  # the prefix of every absolute path in the corpus
JOB = "a0000000000000000000000000000001"
CASES = tuple(sorted(path.name.removesuffix(".tar.xz") for path in CORPUS.glob("*.tar.xz")))


class Snapshot(NamedTuple):
    """A row of the corpus' own table of snapshots. `positions`: how far the two ranges of the source had come."""

    case: str
    path: str
    version: int
    id: int
    bytes: int
    positions: tuple[int, int]
    files: int

    @property
    def name(self) -> str:
        return f"{self.case}/{self.path}"


def _snapshots() -> Iterator[Snapshot]:
    table = (CORPUS / "README.md").read_text("utf-8").partition("\n## Snapshots\n")[2]
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 7 and cells[2].isdecimal():
            case, path, version, number, size, positions, files = cells
            first, second = re.findall(r"\d+", positions)
            place = path.replace("/J/", f"/{JOB}/")
            yield Snapshot(case, place, int(version), int(number), int(size), (int(first), int(second)), int(files))


SNAPSHOTS = tuple(_snapshots())


def unpack(case: str, into: Path) -> Path:
    """The case's folder below `into`."""
    with tarfile.open(CORPUS / f"{case}.tar.xz") as archive:
        archive.extractall(into, filter="data")
    return into / case


def metadata_files() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every `_metadata` of the corpus, without unpacking it."""
    for case in CASES:
        with tarfile.open(CORPUS / f"{case}.tar.xz") as archive:
            for member in archive:
                if member.name.endswith("/_metadata"):
                    file = archive.extractfile(member)
                    assert file is not None
                    yield member.name.removesuffix("/_metadata"), file.read()


def expected(case: Path, position: int) -> dict[str, object]:
    """What the keyed state of order-totals holds at that position of both ranges."""
    found: dict[str, object] = json.loads((case / f"expected-L{position}.json").read_text("utf-8"))
    return found
