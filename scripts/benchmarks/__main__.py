"""The command line of `scripts/bench`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks import commands, s3, states
from scripts.benchmarks.lifecycle import Bench, progress
from scripts.benchmarks.machine import describe_machine, describe_versions
from scripts.benchmarks.measure import Runner
from scripts.benchmarks.report import Report, wrap
from scripts.benchmarks.scratch import Scratch
from scripts.benchmarks.tools import eoctl, peers

MIN_FREE_GB = 4
TIMEOUT_SECONDS = 4 * 3600


@dataclass(frozen=True, slots=True)
class Suite:
    """One subcommand; how often and after how many warm-ups it measures unless told."""

    run: commands.Benchmark
    reps: int
    warmup: int
    about: str


SUITES = {
    "rocksdb": Suite(states.rocksdb, 3, 1, "RocksDB checkpoints by hard link (--gb 1, 10)"),
    "small": Suite(states.small, 3, 1, "10,000 files of 1 to 20 KB"),
    "mutable": Suite(states.mutable, 3, 1, "one file of 1 GiB that changes in place"),
    "sparse": Suite(states.sparse, 1, 0, "full against incremental at 100 GB and 1 TB (--gb 100 1000)"),
    "startup": Suite(commands.startup, 15, 2, "the cost of starting each tool"),
    "list": Suite(commands.list_checkpoints, 9, 2, "listing 1,000 checkpoints"),
    "increment": Suite(commands.increment, 5, 1, "an increment on 100 and on 100,000 files"),
    "s3": Suite(s3.s3, 3, 1, "a state and small files on S3 (SeaweedFS), beside rclone and boto3"),
    "s3-memory": Suite(s3.s3_memory, 1, 0, "peak memory while 100 files of 64 MiB go to S3 and back"),
    "memory": Suite(states.memory, 1, 0, "peak memory as the state grows (--gb 1 10 100 1000)"),
}


def main(arguments: Sequence[str]) -> int:
    """Runs the benchmarks asked for, prints their reports, and writes the JSON after each."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = [tool.name for tool in (eoctl(), eoctl(link=True), *peers())]
    if unknown := set(options.tools or known).difference(known):
        parser.error(f"no such tool: {', '.join(sorted(unknown))} (known: {', '.join(known)})")
    work = Path(options.work or tempfile.gettempdir())
    floor = round(options.min_free_gb * 10**9)
    with Scratch(work, keep=options.keep, min_free_bytes=floor) as scratch:
        runner = Runner(scratch.fresh("runner"), timeout_seconds=options.timeout, min_free_bytes=floor)
        document: dict[str, object] = {
            "command": scratch.shown(shlex.join(["scripts/bench", *arguments])),
            "machine": describe_machine(scratch.root),
            "versions": describe_versions(),
            "quick": options.quick,
        }
        print(_heading(document, markdown=options.markdown))
        reports: list[Report] = []
        for name in SUITES if options.suite == "all" else (options.suite,):
            progress(name)
            for report in SUITES[name].run(_bench(options, name, runner, scratch)):
                reports.append(report)
                print("\n" + scratch.shown(report.render(markdown=options.markdown)), flush=True)
                if options.json:
                    whole = document | {"reports": [done.document() for done in reports]}
                    options.json.write_text(scratch.shown(json.dumps(whole, indent=1)) + "\n", encoding="utf-8")
    return 0


def _bench(options: argparse.Namespace, name: str, runner: Runner, scratch: Scratch) -> Bench:
    suite = SUITES[name]
    return Bench(
        runner=runner,
        scratch=scratch,
        reps=options.reps or (1 if options.quick else suite.reps),
        warmup=options.warmup if options.warmup is not None else 0 if options.quick else suite.warmup,
        quick=options.quick,
        sizes_gb=tuple(options.gb) if options.suite != "all" else (),
        only=tuple(options.tools),
    )


def _heading(document: dict[str, object], *, markdown: bool) -> str:
    machine, versions = document["machine"], document["versions"]
    assert isinstance(machine, dict)
    assert isinstance(versions, dict)
    where = (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] / 2**30:.0f} GiB,"
        f" {machine['kernel']}, {machine['file_system']}; load {machine['load_average_1_minute']:.1f}."
    )
    tools = "; ".join(f"{name}: {version}" for name, version in versions.items())
    quick = ["A quick run: far too small for the targets to mean anything."] if document["quick"] else []
    lines = [f"`{document['command']}`" if markdown else str(document["command"]), where, tools, *quick]
    return "\n\n".join(lines) if markdown else "\n".join(wrap(line) for line in lines)


def _parser() -> argparse.ArgumentParser:
    about = "\n".join(f"  {name:10} {suite.about}" for name, suite in SUITES.items())
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures eoctl beside its peers, tools in turn.\n\n" + about,
        epilog="example: scripts/bench rocksdb --gb 1 --reps 5 --work /mnt/disk --json rocksdb.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("suite", choices=(*SUITES, "all"), metavar="SUITE", help="one of the above, or all")
    add("--quick", action="store_true", help="tiny sizes and one repetition: shows that everything works")
    add("--reps", type=int, metavar="N", help="repetitions that count")
    add("--warmup", type=int, metavar="N", help="repetitions before, that do not")
    add("--gb", type=float, nargs="+", default=[], metavar="N", help="sizes of the state in GB (not with all)")
    add(
        "--tools",
        type=lambda text: text.split(","),
        default=[],
        metavar="A,B",
        help='only these, e.g. "eoctl,eoctl --link,restic tuned"',
    )
    add("--work", metavar="DIR", help="where to put states and repositories; it decides the file system")
    add("--keep", action="store_true", help="keep the generated states in DIR/states for the next run")
    add("--json", type=Path, metavar="FILE", help="write machine, versions, commands and every sample there")
    add("--markdown", action="store_true", help="print the tables for docs/performance.md")
    add("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="S", help="stop a command after S seconds")
    add(
        "--min-free-gb",
        type=float,
        default=MIN_FREE_GB,
        metavar="N",
        help="stop a command if the disk gets fuller",
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
