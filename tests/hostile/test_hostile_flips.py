"""A short form of the bit flips; the long one is `python -m tests.hostile.flips --count 100000`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from storage import layout
from storage.blob_check import Checked
from tests.hostile import flips
from tests.hostile.flips import FAULTS, UNHARMED, UNSEEN, Specimen, run, try_flip
from tests.hostile.specimen import CONTENTS, PIPELINE


def outcomes(count: int, seed: int, scratch: Path) -> Counter[tuple[str, str]]:
    return Counter((kind, outcome) for _, _, kind, outcome in run(count, seed, scratch))


def check(found: Counter[tuple[str, str]]) -> None:
    # HEAD has no digest of its own: a bit of a number or of a nonce may make another lawful HEAD.
    faults = {key: n for key, n in found.items() if key[1] in FAULTS and key != ("HEAD", UNSEEN)}
    assert faults == {}


def test_flipped_bits_are_reported_and_never_served(tmp_path: Path) -> None:
    found = outcomes(300, 1, tmp_path)
    check(found)
    assert found.total() == 300


@pytest.mark.slow
def test_many_flipped_bits(tmp_path: Path) -> None:
    check(outcomes(5000, 2, tmp_path))


def test_the_specimen_has_every_kind_of_value(tmp_path: Path) -> None:
    specimen = Specimen(tmp_path)
    assert set(specimen.kinds.values()) == {
        "HEAD",
        "manifest",
        "pack of files",
        "pack with blocks",
        "whole, raw",
        "whole, zstd",
    }
    needed = {label for key in specimen.keys for label in specimen.labels(key, 8)}
    assert needed == set(CONTENTS)
    dead = [
        key for key in specimen.keys if not all(specimen.labels(key, at) for at in range(len(specimen.values[key][0])))
    ]
    assert dead, "no byte that nobody needs"


def test_a_dead_byte_of_a_pack_is_reported_and_hurts_nobody(tmp_path: Path) -> None:
    specimen = Specimen(tmp_path)
    key = next(key for key in specimen.keys if specimen.kinds[key] == "pack of files")
    assert specimen.labels(key, 0) == []
    specimen.flip(key, 0)
    assert flips.reported(specimen.store, tmp_path) == frozenset({"nobody"})
    specimen.heal()
    assert flips.reported(specimen.store, tmp_path) is None
    assert all(flips.restored(specimen.store, label, tmp_path) == UNHARMED for label in CONTENTS)


# What the flips must find


def test_a_verification_that_trusts_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(blobs, key, size, contents) -> Checked:
        return Checked(key, size, "", frozenset(), sound=True)

    monkeypatch.setattr("eoctl.services.verify.check_blob", blind)
    assert UNSEEN in {outcome for _, _, _, outcome in run(100, 3, tmp_path)}


def test_a_restore_that_trusts_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specimen = Specimen(tmp_path)
    entry = specimen.head.live[-1]
    whole = next(key for key in specimen.keys if specimen.kinds[key] == "whole, raw")
    assert entry.label in CONTENTS
    assert whole != layout.head(PIPELINE).path

    def trusting(reader, file):
        yield from reader._parts(file)

    monkeypatch.setattr("storage.blobs.Blobs.content", trusting)
    import random

    assert flips.WRONG in {try_flip(specimen, whole, bit, random.Random(1)) for bit in range(0, 400, 8)}
