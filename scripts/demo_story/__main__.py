"""The story: checkpoints of a live RocksDB state, a writer that is killed in the middle of one, a restore, a check.

Every command is shown as it is run, with what it really printed. Ends with 1 when anything is not as told.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.demo_story.console import NotAsToldError, Process, Shell, expect, heading, tell
from scripts.demo_story.orders import NOTE_BYTES

FROM_OUTSIDE = 3
FROM_INSIDE = 3


@dataclass(frozen=True, slots=True)
class Size:
    """How many customers there are, and how many orders come between two checkpoints."""

    customers: int
    orders: int

    @property
    def megabytes(self) -> int:
        return self.customers * (NOTE_BYTES + 32) // 1_000_000


FULL = Size(customers=500_000, orders=20_000)
QUICK = Size(customers=60_000, orders=6_000)


class Story:
    """One telling, in one folder."""

    def __init__(self, folder: Path, size: Size) -> None:
        self._shell = Shell(folder)
        self._size = size
        self._writers: list[Process] = []

    def tell(self) -> None:
        try:
            self._begin()
            self._checkpoint_from_outside()
            self._checkpoint_from_inside()
            self._look()
            self._kill()
            offset = self._restore()
            self._resume(offset)
        finally:
            for writer in self._writers:
                writer.stop()

    def _begin(self) -> None:
        heading("1. A store, and a program that keeps state in RocksDB")
        self._shell.run("eoctl", "store", "init", "store")
        self._shell.export("EOCTL_STORE", "store")
        tell(
            f"""\n The writer takes in a stream of orders. It keeps {self._size.customers:,} customers in RocksDB, about
            {self._size.megabytes} MB, and stays alive with the database open. Offset: the number of the next order."""
        )
        self._start("state")
        self._orders(self._size.customers)

    def _checkpoint_from_outside(self) -> None:
        heading("2. Checkpoints from outside, beside the live writer")
        tell(
            """eoctl takes a consistent state of the open database: tables by hard link, logs cut at one moment. Where the
            source stands is recorded with it. The first checkpoint stores everything, the next ones only what is new."""
        )
        for number in range(1, FROM_OUTSIDE + 1):
            if number > 1:
                self._orders(self._size.orders)
            source = ("rocksdb:state", "-p", "orders", "--offsets", "offsets.json")
            self._shell.run("eoctl", "checkpoint", "create", *source)
        self._expect_checkpoints(FROM_OUTSIDE)

    def _checkpoint_from_inside(self) -> None:
        heading("3. Checkpoints from inside, by the Python API")
        tell(
            """A program can commit its own checkpoints: `with pipeline.writer() as w: w.checkpoint(RocksdbCheckpoint(db),
            offsets=...)`. It opens an attempt, and whoever wrote before it cannot commit any more."""
        )
        self._writer.ask("attempt")
        for _ in range(FROM_INSIDE):
            self._orders(self._size.orders)
            self._writer.ask("checkpoint")
        self._expect_checkpoints(FROM_OUTSIDE + FROM_INSIDE)

    def _look(self) -> None:
        heading("4. What there is, what it consists of, and who needs what")
        last = FROM_OUTSIDE + FROM_INSIDE
        self._shell.run("eoctl", "checkpoint", "list", "-p", "orders")
        self._shell.run("eoctl", "checkpoint", "inspect", "orders@latest")
        tell("What changed between the last two, file by file:")
        self._shell.run("eoctl", "checkpoint", "diff", f"orders@{last - 1}", f"orders@{last}")
        tell("Who else needs the files of the first one, and what deleting it would free:")
        self._shell.run("eoctl", "checkpoint", "explain", "orders@1")

    def _kill(self) -> None:
        heading("5. kill -9, in the middle of a checkpoint")
        self._orders(self._size.orders)
        tell("\nThe writer begins one more checkpoint. When its first file is in the store, it is killed:")
        midway = self._writer.ask("checkpoint die")
        expect("under way" in midway, "the writer is not in the middle of a checkpoint")
        self._shell.run("kill", "-9", str(self._writer.pid))
        expect(self._writer.wait() == -9, "the writer was not killed")
        tell("A checkpoint exists as a whole or not at all. The list shows complete ones only, and this one is not there:")
        self._shell.run("eoctl", "checkpoint", "list", "-p", "orders")
        self._expect_checkpoints(FROM_OUTSIDE + FROM_INSIDE)

    def _restore(self) -> int:
        heading("6. Restore, and check every key")
        tell("Say the disk of the writer is lost, too. What is left is the store:")
        self._shell.run("rm", "-rf", "state")
        self._shell.run("eoctl", "restore", "orders@latest", "--to", "restored")
        self._shell.run("eoctl", "checkpoint", "inspect", "orders@latest", "--offsets")
        offset = self._recorded_offset()
        last = FROM_OUTSIDE + FROM_INSIDE
        expect(offset == self._size.customers + (last - 1) * self._size.orders, f"the offset is {offset}")
        tell(
            """The checker opens the restored RocksDB and compares every key and value with what the orders before that
            offset must have made, computed again from the stream alone: lost or doubled orders would show."""
        )
        self._check("restored", offset)
        return offset

    def _resume(self, offset: int) -> None:
        heading("7. Go on from there")
        tell(
            """A new writer opens the restored state. The offset in the database is the one that the checkpoint recorded, so
            the orders that the dead writer had taken in after it are read again, each taking effect once."""
        )
        said = self._start("restored")
        expect(f"at offset {offset:,}" in said, "the restored state is at another offset")
        self._orders(2 * self._size.orders)
        number = FROM_OUTSIDE + FROM_INSIDE + 1
        self._shell.run(
            "eoctl", "checkpoint", "create", "rocksdb:restored", "-p", "orders", "--offsets", "offsets.json"
        )
        self._expect_checkpoints(number)
        tell("Nothing of the dead attempt is in it. Restored once more, every key is right:")
        self._shell.run("eoctl", "restore", f"orders@{number}", "--to", "again")
        self._check("again", offset + 2 * self._size.orders)

    def _start(self, state: str) -> str:
        module = ("python", "-m", "scripts.demo_story.writer")
        options = ("--store", "store", "--customers", str(self._size.customers))
        self._writer = Process(self._shell, "writer", (*module, state, *options))
        self._writers.append(self._writer)
        return self._writer.heard()

    def _orders(self, count: int) -> None:
        self._writer.ask(f"orders {count}")

    def _check(self, state: str, offset: int) -> None:
        module = ("python", "-m", "scripts.demo_story.check")
        said = self._shell.run(
            *module, state, "--offset", str(offset), "--customers", str(self._size.customers)
        )
        expect(f"{self._size.customers + 1:,} keys compared" in said and "none wrong" in said, "keys are missing")

    def _expect_checkpoints(self, count: int) -> None:
        document = json.loads(self._shell.quietly("eoctl", "checkpoint", "list", "-p", "orders", "--json"))
        found = [(row["id"], row["status"]) for row in document["snapshots"]]
        expect(found == [(number, "complete") for number in range(1, count + 1)], f"the checkpoints are {found}")

    def _recorded_offset(self) -> int:
        document = json.loads(self._shell.quietly("eoctl", "checkpoint", "inspect", "orders@latest", "--json"))
        (source,) = document["sources"]
        return int(source["offsets"]["partition-0"])


def main() -> int:
    """0: everything was as told."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a state of 25 MB instead of 200 MB")
    parser.add_argument("--keep", action="store_true", help="leave the folder with the store and all states")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    folder = Path(tempfile.mkdtemp(prefix="eoctl-demo."))
    began = time.monotonic()
    try:
        tell("eoctl keeps checkpoints of state, shares what they have in common, and gives them back byte for byte.")
        Story(folder, size).tell()
    except NotAsToldError as error:
        print(f"\nNOT AS TOLD: {error}", file=sys.stderr)
        return 1
    finally:
        if arguments.keep:
            print(f"\nkept: {shlex.quote(str(folder))}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    heading("All as told")
    tell(
        f"""{FROM_OUTSIDE + FROM_INSIDE + 1} checkpoints of {size.customers:,} customers, one kill -9, two restores with every
        key compared, in {time.monotonic() - began:.0f} seconds."""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
