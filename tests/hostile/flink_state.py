"""Flink's state files, cut or changed: rows, or an error of ours.

    python -m tests.hostile.flink_state --mutations 20000 --seed 1

A mutant is one stream of one operator of the corpus: keyed state of every backend, operator state, changes, in-flight
data; tables of RocksDB mostly with their checksums switched off, so that what is behind them is reached. Everything
of the operator is then read and decoded. That may raise nothing but an EoctlError, within 5 seconds and 256 MiB
beyond what it takes to read the corpus.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import BinaryIO, NamedTuple

from eoctl.engines.flink_states import operator_states
from formats.errors import EoctlError
from formats.flink.channel import captured, read_elements
from formats.flink.handles import AbsoluteFile, Inline, RelativeFile, Segment, StreamHandle, leaf_of
from formats.flink.metadata import Operator, read_metadata, streams_of
from formats.types import decode, parse
from tests.hostile.mutate import Mutator, Seed
from tests.support.flink import CORPUS, SNAPSHOTS, WRITTEN_AT

MAX_CPU_SECONDS = 5
MAX_RSS_BYTES = 256 << 20
_FOOTER_BYTES = 53


class Victim(NamedTuple):
    """An operator, and the bytes of its streams."""

    name: str
    operator: Operator
    streams: dict[StreamHandle, bytes]


@cache
def victims() -> tuple[Victim, ...]:
    """The operators with state of the last snapshot of every case."""
    last = {snapshot.case: snapshot for snapshot in SNAPSHOTS}
    found = []
    for case, snapshot in last.items():
        with tarfile.open(CORPUS / f"{case}.tar.xz") as archive:
            files = {each.name: archive.extractfile(each).read() for each in archive if each.isfile()}  # type: ignore[union-attr]  # a file
        for operator in read_metadata(files[f"{snapshot.name}/_metadata"]).operators:
            handles = [handle for stream in streams_of(operator) if (handle := leaf_of(stream.handle)) is not None]
            streams = {handle: _bytes(handle, files, snapshot.name) for handle in handles}
            if streams:
                found.append(Victim(f"{case} {operator.id[:8]}", operator, streams))
    return tuple(found)


def _bytes(handle: StreamHandle, files: dict[str, bytes], folder: str) -> bytes:
    match handle:
        case Inline(data=data):
            return data
        case RelativeFile(path=path):
            return files[f"{folder}/{path}"]
        case AbsoluteFile(path=path):
            return files[path.removeprefix(f"file:{WRITTEN_AT}/")]
        case Segment(path=path, start=start, size=size):
            return files[path.removeprefix(f"file:{WRITTEN_AT}/")][start : start + size]
    return b""


def try_one(victim: Victim, changed: StreamHandle, data: bytes) -> bool:
    """Whether all of it was still read."""

    def open_stream(handle: StreamHandle) -> BinaryIO:
        leaf = leaf_of(handle)
        assert leaf is not None
        return io.BytesIO(data if leaf == changed else victim.streams[leaf])

    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS)
    try:
        accepted = _try_states(victim, open_stream)
        try:
            for channel in captured(victim.operator, open_stream):
                with suppress(EoctlError):  # an output may begin inside an element
                    read_elements(channel.data)
        except EoctlError:
            return False
        return accepted
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _try_states(victim: Victim, open_stream: Callable[[StreamHandle], BinaryIO]) -> bool:
    try:
        tables = operator_states(victim.operator, open_stream).tables
    except EoctlError:
        return False
    accepted = True
    for table in tables:
        schema = table.schema
        types = [parse(text) if text else None for text in (schema.key, schema.namespace, schema.map_key, schema.value)]
        try:
            for batch in table.scan():
                batch.validate(full=True)
                some = batch.slice(0, 40)
                for name, data_type in zip(("key", "namespace", "map_key", "value"), types, strict=True):
                    if data_type is not None:
                        for value in some[name].to_pylist():
                            decode(data_type, value)
        except EoctlError:
            accepted = False
    return accepted


def mutants(count: int, seed: int) -> Iterator[tuple[Victim, StreamHandle, bytes]]:
    rng = random.Random(seed)
    for number in range(count):
        victim = rng.choice(victims())
        handle = rng.choice(sorted(victim.streams, key=repr))
        data = victim.streams[handle]
        if data[-8:] == bytes.fromhex("f7cff485b741e288") and rng.random() < 0.9:
            data = data[:-_FOOTER_BYTES] + b"\0" + data[1 - _FOOTER_BYTES :]
        if number % 10 == 0:
            yield victim, handle, data[: rng.randrange(len(data) + 1)]
        else:
            yield victim, handle, Mutator([Seed(data)], rng).mutant()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    for victim in victims():
        assert try_one(victim, next(iter(victim.streams)), next(iter(victim.streams.values()))), victim.name
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    began, tried, accepted, slowest = time.process_time(), 0, 0, 0.0
    for victim, handle, data in mutants(wanted.mutations, wanted.seed):
        start = time.process_time()
        accepted += try_one(victim, handle, data)
        slowest = max(slowest, time.process_time() - start)
        tried += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    seconds = time.process_time() - began
    sys.stdout.write(
        f"{tried} tried, {accepted} read, 0 faults, {seconds:.0f} s, slowest {slowest:.2f} s, {grown >> 20} MiB more\n"
    )
    return int(grown > MAX_RSS_BYTES)


if __name__ == "__main__":
    sys.exit(main())
