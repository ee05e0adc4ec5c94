"""The benchmarks that take a chain of checkpoints through the life cycle of every tool."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from scripts.benchmarks.lifecycle import (
    ALLOCATED,
    BYTES,
    BYTES_AFTER_GC,
    LATER_ROWS,
    LIVE_BYTES,
    Bench,
    LifeCycle,
    progress,
)
from scripts.benchmarks.machine import find_program
from scripts.benchmarks.report import MB, SUBJECT, Report, cost_table
from scripts.benchmarks.results import Results
from scripts.benchmarks.rocksdb_state import KEYS_IN_A_GB, make_rocksdb_state
from scripts.benchmarks.targets import full_to_incremental, mutable_targets, rocksdb_targets, small_targets
from scripts.benchmarks.tools import Tool, eoctl, peers, split_missing
from scripts.benchmarks.trees import tree_size
from scripts.benchmarks.workloads import Chain, make_mutable_file, make_small_files, make_tables

GB = 10**9
TABLE_BYTES = 64 * MB
LARGE_GB = 5
SNAPSHOT_ROWS = ("full", "incremental")
BYTE_ROWS = (BYTES, BYTES_AFTER_GC, LIVE_BYTES)


def rocksdb(bench: Bench) -> Iterator[Report]:
    """RocksDB checkpoints by hard link."""
    for gb in bench.sizes_gb or (0.02 if bench.quick else 1.0,):
        large = gb > LARGE_GB
        keys = round(gb * KEYS_IN_A_GB)
        update = 0.01 if large else 0.02
        progress(f"making a RocksDB state of {keys:,} keys")
        chain = bench.scratch.state(
            "rocksdb",
            make_rocksdb_state,
            steps=4 if large or bench.quick else 10,
            keys=keys,
            update=update,
            table_mb=1 if bench.quick else 32,
        )
        tools, results = _measure(bench, chain, (eoctl(), eoctl(link=True), *peers()), LATER_ROWS)
        yield Report(
            name=f"rocksdb {gb:g} GB",
            title=f"RocksDB state of {gb:g} GB, {update:.0%} of the keys rewritten per step",
            notes=(_describe(chain), *_method(bench, tools)),
            table=cost_table(results, (*SNAPSHOT_ROWS, *LATER_ROWS, *BYTE_ROWS), tools),
            targets=rocksdb_targets(results, gb),
            results=results,
        )


def small(bench: Bench) -> Iterator[Report]:
    """Many small files."""
    files = 500 if bench.quick else 10_000
    rows = ("list", "restore", "verify", "gc")
    chain = bench.scratch.state("small", make_small_files, steps=3 if bench.quick else 10, files=files)
    tools, results = _measure(bench, chain, (eoctl(), *peers()), rows)
    yield Report(
        name="small",
        title=f"{files:,} files of 1 to 20 KB, 5% rewritten per step",
        notes=(_describe(chain), *_method(bench, tools)),
        table=cost_table(results, (*SNAPSHOT_ROWS, *rows, *BYTE_ROWS), tools),
        targets=small_targets(results),
        results=results,
    )


def mutable(bench: Bench) -> Iterator[Report]:
    """One page file."""
    size = 16 << 20 if bench.quick else 1 << 30
    rows = ("list", "restore", "verify")
    chain = bench.scratch.state("mutable", make_mutable_file, steps=4, size_bytes=size)
    tools, results = _measure(bench, chain, (eoctl(), *peers()), rows)
    yield Report(
        name="mutable",
        title=f"One file of {size >> 20:,} MiB, 1% of its 4 KiB pages rewritten per step",
        notes=(_describe(chain), *_method(bench, tools)),
        table=cost_table(results, (*SNAPSHOT_ROWS, *rows, BYTES), tools),
        targets=mutable_targets(results),
        results=results,
    )


def sparse(bench: Bench) -> Iterator[Report]:
    """Full against incremental on states larger than the disk."""
    for gb in bench.sizes_gb or ((1.0,) if bench.quick else (100.0, 1000.0)):
        files = max(4, round(gb * GB / TABLE_BYTES))
        fraction = 0.001 if gb >= 1000 else 0.005
        new_files = max(1, round(files * fraction))
        progress(f"making {files:,} sparse files")
        chain = bench.scratch.state(
            "sparse", make_tables, steps=4, files=files, file_bytes=TABLE_BYTES, new_files=new_files
        )
        known = (eoctl(), eoctl(link=True)) if bench.only else (eoctl(),)
        tools, results = _measure(bench, chain, known, ())
        new = f"{new_files} new and {new_files} dropped files per step"
        yield Report(
            name=f"sparse {gb:g} GB",
            title=f"{files:,} sparse files of {TABLE_BYTES // MB} MB, {gb:g} GB by length",
            notes=(f"{new}: {new_files / files:.2%} of the bytes.", *_method(bench, tools)),
            table=cost_table(results, (*SNAPSHOT_ROWS, BYTES, ALLOCATED), tools),
            targets=full_to_incremental(results, gb),
            results=results,
        )


def memory(bench: Bench) -> Iterator[Report]:
    """Peak memory of create and restore as the state grows."""
    results = Results()
    rows: list[str] = []
    names: list[str] = []
    for gb in bench.sizes_gb or ((0.02, 0.1, 1.0) if bench.quick else (1.0, 10.0, 100.0, 1000.0)):
        real = gb <= (0.1 if bench.quick else 10)
        label = f"{gb:g} GB {'real' if real else 'sparse'}"
        files = max(1, round(gb * GB / TABLE_BYTES))
        file_bytes = min(TABLE_BYTES, round(gb * GB))
        progress(f"making a state of {label}")
        chain = bench.scratch.state(
            "tables", make_tables, steps=1, files=files, file_bytes=file_bytes, new_files=0, filled=real
        )
        known = (eoctl(), *(tool for tool in peers() if real and "tuned" in tool.name))
        tools, found = _measure(bench, chain, known, ("restore",))
        names = list(dict.fromkeys((*names, *tools)))
        for before, row in (("full", f"create {label}"), ("restore", f"restore {label}")):
            rows.append(row)
            results.take_row(before, found, row)
        results.missing = found.missing or results.missing
    yield Report(
        name="memory",
        title="Peak memory of create and restore",
        notes=(f"Tables of {TABLE_BYTES // MB} MB; the sparse ones are given by their length.",),
        table=cost_table(results, rows, names),
        results=results,
    )


def _measure(bench: Bench, chain: Chain, known: Sequence[Tool], rows: Sequence[str]) -> tuple[list[str], Results]:
    """The names of all tools asked for, and the results of those that are installed."""
    wanted = [tool for tool in known if not bench.only or tool.name in bench.only]
    present, missing = split_missing(wanted)
    results = Results(missing=missing)
    LifeCycle(bench, chain, rows).measure(present, results)
    return [tool.name for tool in wanted], results


def _describe(chain: Chain) -> str:
    first, last = (tree_size(chain.checkpoint(step)) for step in (1, chain.steps))
    new = [chain.new_bytes(step) / MB for step in range(2, chain.steps + 1)]
    return (
        f"{chain.steps} checkpoints of {first.logical_bytes / MB:.0f} to {last.logical_bytes / MB:.0f} MB in"
        f" {first.files:,} to {last.files:,} files; files new in a step: {min(new):.1f} to {max(new):.1f} MB,"
        f" median {statistics.median(new):.1f} MB."
    )


def _method(bench: Bench, names: Sequence[str]) -> tuple[str, ...]:
    syncs = {
        tool.name: tool.syncs
        for tool in (eoctl(), eoctl(link=True), *peers())
        if tool.name in names and find_program(tool.program)
    }
    durable = "; ".join(f"{name}: {what}" for name, what in syncs.items())
    notes = (
        f"Life cycles: {bench.reps}, and {bench.warmup} before to warm up; tools in turn, page cache warm.",
        f"Medians; a ratio is {SUBJECT} / that tool; a peak is that of the largest process, 8 MiB at least.",
        f"Made durable before the command returns: {durable}.",
    )
    if bench.scratch.deletions:
        return (
            *notes,
            f"The disk was short: {bench.scratch.deletions} old folders were deleted during the run.",
        )
    return notes
