"""What Flink's `_metadata` says when it is cut or changed: an error of ours with its byte, or just these bytes.

    python -m tests.hostile.flink --mutations 1000000 --seed 1
    python -m tests.hostile.flink --truncations

Truncations are those of every `_metadata` of the corpus, at every byte. A mutant may raise nothing but an EoctlError
that says its byte, within 5 seconds and 256 MiB; what is accepted is written as the same bytes again.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator

from formats.errors import EoctlError
from formats.flink.metadata import read_metadata
from formats.flink.writer import write_metadata
from tests.hostile.mutate import Mutator, Seed
from tests.support.flink import metadata_files

MAX_CPU_SECONDS = 5
MAX_RSS_BYTES = 256 << 20


def try_one(data: bytes) -> bool:
    """Whether it was accepted. Raises: AssertionError where it was not told as it should be."""
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
    try:
        metadata = read_metadata(data)
    except EoctlError as error:
        if not 0 <= int(str(error.facts["offset"])) <= len(data):
            raise AssertionError(error.message) from error
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert write_metadata(metadata) == data
    return True


def truncations(step: int = 1) -> Iterator[bytes]:
    """Every beginning of every file, or each `step`th."""
    for _, data in metadata_files():
        for size in range(0, len(data), step):
            yield data[:size]


def mutants(count: int, seed: int) -> Iterator[bytes]:
    mutator = Mutator([Seed(data) for _, data in metadata_files()], random.Random(seed))
    for _ in range(count):
        yield mutator.mutant()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=0)
    parser.add_argument("--truncations", action="store_true")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    began, tried, accepted = time.process_time(), 0, 0
    sources = [mutants(wanted.mutations, wanted.seed)]
    if wanted.truncations:
        sources.append(truncations(wanted.step))
    for source in sources:
        for data in source:
            accepted += try_one(data)
            tried += 1
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    seconds = time.process_time() - began
    sys.stdout.write(f"{tried} tried, {accepted} accepted, 0 faults, {seconds:.0f} s, {rss >> 20} MiB\n")
    return int(rss > MAX_RSS_BYTES)


if __name__ == "__main__":
    sys.exit(main())
