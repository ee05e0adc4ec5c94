"""A second line: where no name was checked at all, still nothing is written outside of the target."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from formats.errors import EoctlError
from formats.ids import HashAlgorithm
from formats.manifest import Inline, StateFile
from storage.blobs import Blobs
from storage.extract import Extraction
from tests.hostile.decoders import stays
from tests.hostile.names import BAD_LISTS, BAD_NAMES
from tests.hostile.planted import _tree
from tests.hostile.specimen import PIPELINE
from tests.support.places import memory_place


def inline(name: str) -> StateFile:
    digest = HashAlgorithm.BLAKE3.digest(b"x")
    return StateFile(name=name, bytes=1, digest=digest, place=Inline(data=b"x"), first_stored_in=1)


def beside(root: Path) -> dict[str, bytes | None]:
    """Everything below `root` but what is in the target."""
    return {path: data for path, data in _tree(root).items() if not path.startswith("target/")}


@pytest.mark.parametrize("name", [name for name, (text, _) in BAD_NAMES.items() if len(text.encode()) < 2000])
def test_without_a_check_of_names_nothing_leaves_the_target(tmp_path: Path, monkeypatch, name) -> None:
    monkeypatch.setattr("storage.extract.check_file_names", lambda names: None)
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious")
    target.mkdir()
    blobs = Blobs(memory_place(tmp_path / "scratch").backend, PIPELINE, HashAlgorithm.BLAKE3)
    before = beside(tmp_path)
    with suppress(EoctlError, ValueError):
        Extraction(blobs=blobs).tree(target, [inline(BAD_NAMES[name][0])], [])
    assert beside(tmp_path) == before


def test_the_second_opinion_on_names_knows_what_leads_out() -> None:
    leading_out = [text for text, _ in BAD_NAMES.values() if text.startswith("/") or ".." in text.split("/")]
    assert len(leading_out) > 8
    assert not any(map(stays, leading_out))
    assert all(
        stays(name) for texts, _ in BAD_LISTS.values() for name in texts() if ".." not in name and len(name) < 4000
    )
