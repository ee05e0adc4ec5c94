"""A short form of the fuzzing; the long one is `python -m tests.hostile.fuzz --count 10000000`."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from formats.canonical import decode, encode
from formats.manifest import MAX_MANIFEST_BYTES, Manifest
from tests.hostile.decoders import TARGETS, _check
from tests.hostile.fuzz import Fault, Tally, fuzz, shares
from tests.hostile.mutate import Mutator, json_seed

ROOT = Path(__file__).parents[2]


def run(count: int, seed: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.fuzz", "--count", str(count), "--seed", str(seed)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout[-5000:]
    return done.stdout


def test_a_hundred_thousand_mutants_are_refused_or_are_just_what_they_say() -> None:
    told = run(100_000, 1)
    assert "100000 mutants, 0 faults" in told
    for target in TARGETS:
        assert f"{target.name:14} accepted" in told, "no mutant came through, so nothing behind the gate was tried"


@pytest.mark.slow
def test_a_million_mutants() -> None:
    assert "1000000 mutants, 0 faults" in run(1_000_000, 2)


def test_every_target_has_its_share() -> None:
    assert sum(share for _, share in shares(1_000_003)) == 1_000_003
    assert [target.name for target, _ in shares(7, "pin")] == ["pin"]


def test_the_same_seed_gives_the_same_mutants() -> None:
    seeds = [json_seed(data) for data in TARGETS[0].seeds()]
    first, second = (Mutator(seeds, random.Random(7)) for _ in range(2))
    assert [first.mutant() for _ in range(500)] == [second.mutant() for _ in range(500)]


def test_a_seed_knows_its_values_and_parts() -> None:
    data = b'{"a":[1,"x\\"y",{}],"b":null}'
    seed = json_seed(data)
    assert sorted(data[start:end] for start, end in seed.values) == sorted(
        [b"1", b'"x\\"y"', b"{}", b'[1,"x\\"y",{}]', b"null", data]
    )
    assert sorted(data[start:end] for start, end in seed.parts) == sorted(
        [b"1", b'"x\\"y"', b"{}", b'"a":[1,"x\\"y",{}]', b'"b":null']
    )


# What the fuzzer must find


def _not_canonical(data: bytes) -> str:
    assert encode(msgspec.json.decode(data, type=Manifest)) == data
    return "accepted"


def _names_unchecked(data: bytes) -> str:
    manifest = decode(data, Manifest, what="it", max_bytes=MAX_MANIFEST_BYTES)
    _check(manifest, data)
    return "accepted"


@pytest.mark.parametrize("decoder", [_not_canonical, _names_unchecked])
def test_a_decoder_with_a_check_less_is_found_out(decoder) -> None:
    target = next(target for target in TARGETS if target.name == "manifest")
    with pytest.raises(Fault):
        fuzz(target._replace(decode=decoder), 20_000, 1, Tally())
