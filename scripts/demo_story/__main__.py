"""The story: checkpoints of a live RocksDB state, a writer that is killed in the middle of one, a restore, a check.

Every command is shown as it is run, with what it really printed. Ends with 1 when anything is not as told.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from scripts.demo_story.console import NotAsToldError, Program, Screen, Shell, expect
from scripts.demo_story.orders import NOTE_BYTES

FROM_OUTSIDE = 3
FROM_INSIDE = 3
COMPLETE = FROM_OUTSIDE + FROM_INSIDE


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

    def __init__(self, screen: Screen, folder: Path, size: Size, store: str = "store") -> None:
        self._store = store
        self._screen = screen
        self._shell = Shell(screen, folder)
        self._size = size
        self._programs: list[Program] = []

    def tell(self) -> None:
        """Raises: NotAsToldError."""
        try:
            writer = self._begin()
            self._checkpoint_from_outside(writer)
            self._checkpoint_from_inside(writer)
            self._look()
            self._kill(writer)
            offset = self._restore()
            self._go_on(offset)
        finally:
            for program in self._programs:
                program.stop()

    def _begin(self) -> Program:
        self._screen.heading("1. A store, and a program that keeps state in RocksDB")
        self._shell.export("EOCTL_STORE", self._store)
        self._shell.run("eoctl store init")
        self._screen.tell(
            f"""The writer takes in a stream of orders. It keeps {self._size.customers:,} customers in RocksDB, about
            {self._size.megabytes} MB, and stays alive with the database open. Offset: the number of the order that
            comes next."""
        )
        writer, _ = self._start("state")
        writer.ask(f"orders {self._size.customers}")
        return writer

    def _checkpoint_from_outside(self, writer: Program) -> None:
        self._screen.heading("2. Checkpoints from outside, beside the live writer")
        self._screen.tell(
            """eoctl takes a consistent state of the open database: its tables by hard link, its logs cut at one moment.
            Where the source stands is recorded with it. The first checkpoint stores everything, the next ones only
            what is new."""
        )
        for number in range(1, FROM_OUTSIDE + 1):
            if number > 1:
                writer.ask(f"orders {self._size.orders}")
            self._shell.run("eoctl checkpoint create rocksdb:state -p orders --offsets offsets.json")
        self._expect_checkpoints(FROM_OUTSIDE)

    def _checkpoint_from_inside(self, writer: Program) -> None:
        self._screen.heading("3. Checkpoints from inside, by the Python API")
        self._screen.tell(
            """A program can commit its own checkpoints; whoever wrote to the pipeline before is fenced off then. From
            here on the writer does so:"""
        )
        self._screen.block(
            "    with store.pipeline('orders').writer() as writer:\n"
            "        writer.checkpoint(RocksdbCheckpoint(database), offsets=...)"
        )
        writer.ask("attempt")
        for _ in range(FROM_INSIDE):
            writer.ask(f"orders {self._size.orders}")
            writer.ask("checkpoint")
        self._expect_checkpoints(COMPLETE)

    def _look(self) -> None:
        self._screen.heading("4. What there is, what it consists of, and who needs what")
        self._shell.run("eoctl checkpoint list -p orders")
        self._shell.run("eoctl checkpoint inspect orders@latest")
        self._screen.tell("What changed between the last two, file by file:")
        self._shell.run(f"eoctl checkpoint diff orders@{COMPLETE - 1} orders@{COMPLETE}")
        self._screen.tell("Who else needs the files of the first one, and what deleting it would free:")
        self._shell.run("eoctl checkpoint explain orders@1")

    def _kill(self, writer: Program) -> None:
        self._screen.heading("5. kill -9, in the middle of a checkpoint")
        self._screen.tell("The writer begins one more checkpoint. When its first file is in the store, it is killed.")
        writer.ask(f"orders {self._size.orders}")
        midway = writer.ask("checkpoint die")
        expect("under way" in midway, "the writer is not in the middle of a checkpoint")
        self._shell.run(f"kill -9 {writer.pid}")
        expect(writer.wait() == -signal.SIGKILL, "the writer was not killed")
        self._screen.tell(
            "A checkpoint exists as a whole or not at all. The list shows complete ones; this one is not:"
        )
        self._shell.run("eoctl checkpoint list -p orders")
        self._expect_checkpoints(COMPLETE)

    def _restore(self) -> int:
        """Returns the offset that the newest checkpoint has recorded."""
        self._screen.heading("6. Restore, and check every key")
        self._screen.tell("Say the disk of the writer is lost, too. What is left is the store:")
        self._shell.run("rm -r state offsets.json")
        self._shell.run("eoctl restore orders@latest --to restored")
        offset = self._recorded_offset()
        expect(offset == self._size.customers + (COMPLETE - 1) * self._size.orders, f"the offset is {offset}")
        self._screen.tell(
            """The checker opens the restored RocksDB and compares every key and value with what the orders before that
            offset make, computed again from the stream alone: an order lost or counted twice would show."""
        )
        self._check("restored", offset)
        return offset

    def _go_on(self, offset: int) -> None:
        self._screen.heading("7. Go on from there")
        self._screen.tell(
            """A new writer opens the restored state. What the dead one had taken in after its last checkpoint is read
            again from the recorded offset, and counts once."""
        )
        writer, said = self._start("restored")
        expect(f"at offset {offset:,}" in said, "the restored state is at another offset")
        writer.ask(f"orders {2 * self._size.orders}")
        self._shell.run("eoctl checkpoint create rocksdb:restored -p orders --offsets offsets.json")
        self._expect_checkpoints(COMPLETE + 1)
        self._screen.tell("Nothing of the dead attempt is in it. Restored once more, every key is right:")
        self._shell.run("eoctl restore orders@latest --to again")
        self._check("again", offset + 2 * self._size.orders)

    def _start(self, state: str) -> tuple[Program, str]:
        """A writer of that state, and what it says first."""
        module = ("python", "-m", "scripts.demo_story.writer")
        options = ("--store", self._store, "--keys", str(self._size.customers))
        writer = Program(self._shell, "writer", (*module, state, *options))
        self._programs.append(writer)
        return writer, writer.heard()

    def _check(self, state: str, offset: int) -> None:
        customers = self._size.customers
        module = "python -m scripts.demo_story.check"
        said = self._shell.run(f"{module} {state} --keys {customers} --offset {offset}")
        expect(f"{customers + 1:,} keys compared" in said and "none wrong" in said, "keys are missing")

    def _expect_checkpoints(self, count: int) -> None:
        document = json.loads(self._shell.quietly("eoctl checkpoint list -p orders --json"))
        found = [(row["id"], row["status"]) for row in document["snapshots"]]
        expect(found == [(number, "complete") for number in range(1, count + 1)], f"the checkpoints are {found}")

    def _recorded_offset(self) -> int:
        document = json.loads(self._shell.quietly("eoctl checkpoint inspect orders@latest --json"))
        (source,) = document["sources"]
        return int(source["offsets"]["partition-0"])


@contextmanager
def _server(screen: Screen) -> Iterator[str]:
    """The URL for a store on a server that lives as long as the story."""
    from scripts.s3_server import s3_server  # noqa: PLC0415  (the other story needs none of it)

    screen.tell("A SeaweedFS server is started on unused ports of loopback, with its data in a folder of its own.")
    with s3_server() as server:
        yield server.url(server.bucket(), "demo")


def main() -> int:
    """0: everything was as told."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK.megabytes} MB, not {FULL.megabytes}")
    parser.add_argument("--s3", action="store_true", help="on a real S3 server (SeaweedFS), not on disk")
    parser.add_argument("--keep", action="store_true", help="leave the store and the states")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    # So that the folder goes and the writer ends, whatever ends this.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="eoctl."))
    began = time.monotonic()
    try:
        with _server(screen) if arguments.s3 else nullcontext("store") as store:
            Story(screen, folder, size, store).tell()
    except NotAsToldError as error:
        print(f"\nNOT AS TOLD: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if arguments.keep:
            screen.block(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    screen.heading("All as told")
    screen.tell(
        f"""{COMPLETE + 1} checkpoints of {size.customers:,} customers, a kill -9 in the middle of one more, two
        restores with every key compared, in {time.monotonic() - began:.0f} seconds."""
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
