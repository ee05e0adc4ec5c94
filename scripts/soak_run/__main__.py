"""Starts the processes, kills one of them now and then, and judges what they have left. Ends with 1 on any damage."""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eoctl import Policy, init_store, open_store
from scripts.s3_server import s3_server
from scripts.soak_run.state import difference
from scripts.soak_run.worker import COPY, PIPELINE, SOURCE, Worker

CREW = ("writer", "writer", "collector", "collector", "restorer", "restorer", "forker")
TICK_SECONDS = 0.2
END_SECONDS = 120


class Crew:
    """The processes, each with a folder of its own, started again when they were killed."""

    def __init__(self, url: str, folder: Path, rng: random.Random) -> None:
        self._url = url
        self._folder = folder
        self._rng = rng
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self.kills = 0
        self.failed: list[str] = []

    def keep(self) -> None:
        """Every place of the crew is taken; who ended by himself has failed."""
        for place, role in enumerate(CREW):
            process = self._running.get(place)
            if process is not None and process.poll() is None:
                continue
            if process is not None and process.returncode != -signal.SIGKILL:
                self.failed.append(f"{role} {place} ended with {process.returncode}")
            self._running[place] = self._start(place, role)

    def kill_one(self) -> None:
        place = self._rng.choice(sorted(self._running))
        self._running[place].kill()
        self._running[place].wait()
        self.kills += 1

    def end(self) -> None:
        """All have ended: asked to, and killed where they do not."""
        for process in self._running.values():
            process.terminate()
        deadline = time.monotonic() + END_SECONDS
        for place, process in self._running.items():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.failed.append(f"{CREW[place]} {place} does not end")
                process.kill()
                process.wait()
            if process.returncode not in {0, -signal.SIGKILL, -signal.SIGTERM}:
                self.failed.append(f"{CREW[place]} {place} ended with {process.returncode}")

    def _start(self, place: int, role: str) -> subprocess.Popen[bytes]:
        folder = self._folder / str(place)
        folder.mkdir(exist_ok=True)
        words = [role, self._url, str(folder), str(self._rng.randrange(1 << 30))]
        with (folder / "err").open("ab") as err:
            return subprocess.Popen([sys.executable, "-m", "scripts.soak_run.worker", *words], stderr=err)


def notes(folder: Path) -> Iterator[dict[str, object]]:
    """What the processes have written down; a last line that a kill has cut is left out."""
    for log in sorted(folder.glob("*/log")):
        for line in log.read_bytes().split(b"\n"):
            if line.endswith(b"}"):
                yield json.loads(line)


def judge(url: str, folder: Path) -> list[str]:
    """What is wrong with the store and with what was reported."""
    wrong = [f"damage: {note}" for note in notes(folder) if note["event"] == "DAMAGE"]
    reported = Counter(note["id"] for note in notes(folder) if note["event"] == "checkpoint")
    wrong += [f"checkpoint {number} was reported {count} times" for number, count in reported.items() if count > 1]
    store = open_store(url)
    made = {row.pipeline for row in store.pipelines()}
    if made != {PIPELINE, COPY}:
        return [*wrong, f"nothing was committed but to {sorted(made)}"]
    generations = {note["id"]: note["generation"] for note in notes(folder) if note["event"] == "checkpoint"}
    for name in (PIPELINE, COPY):
        pipeline = store.pipeline(name)
        wrong += [f"{name}: {damage}" for damage in pipeline.verify(scratch=folder / "drill").damaged]
        for row in pipeline.checkpoints():
            restored = pipeline.restore(row.id, to=folder / "judged" / name / str(row.id))
            generation = int(restored.source_offsets[SOURCE]["number"])
            if difference(Path(restored.target), generation):
                wrong.append(f"{row.address} is not what was kept")
            if generations.get(row.id, generation) != generation:
                wrong.append(f"{row.address} is of generation {generation}, and another one was reported")
        for _ in range(3):
            swept = pipeline.gc(Policy(keep_last=1), grace_seconds=0, keep_trash_seconds=0)
        if swept.error or swept.dangling or swept.young_orphans:
            wrong.append(f"{name}: gc leaves {swept.young_orphans} blobs, {swept.error} {swept.message}")
        wrong += [f"{name} after gc: {damage}" for damage in pipeline.verify(scratch=folder / "drill").damaged]
    newest = store.pipeline(PIPELINE).latest().id
    wrong += [f"checkpoint {number} was reported, and is lost" for number in reported if int(str(number)) > newest]
    return wrong


def soak(url: str, folder: Path, seconds: float, kill_seconds: float, seed: int) -> tuple[list[str], str]:
    """What went wrong, and a line about what happened."""
    crew = Crew(url, folder, random.Random(seed))
    init_store(url)
    (folder / "first").mkdir()
    first = Worker(url, folder / "first", seed)
    first.writer()
    first.forker()
    began = killed = time.monotonic()
    try:
        while (now := time.monotonic()) - began < seconds and not crew.failed:
            crew.keep()
            if now - killed >= kill_seconds:
                killed = now
                crew.kill_one()
            time.sleep(TICK_SECONDS)
    finally:
        crew.end()
    wrong = crew.failed + judge(url, folder)
    counts = Counter(str(note["event"]) for note in notes(folder))
    troubles = Counter(
        re.sub(r"[0-9]+", "N", f"{note['error']}: {note['message']}"[:150])
        for note in notes(folder)
        if note["event"] == "trouble"
    )
    for trouble, count in troubles.most_common(10):
        print(f"{count:6} {trouble}", file=sys.stderr)
    told = ", ".join(f"{count} {event}" for event, count in sorted(counts.items()))
    return wrong, f"{time.monotonic() - began:.0f} s, {crew.kills} kills; {told}"


@contextmanager
def place(*, local: bool, folder: Path) -> Iterator[str]:
    if local:
        yield str(folder / "store")
    else:
        with s3_server() as server:
            yield server.url(server.bucket(), "soak")


def main() -> int:
    """0: nothing was lost, nothing was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, metavar="M")
    parser.add_argument("--kill-every", type=float, default=30, metavar="S", help="seconds between two kills")
    parser.add_argument("--seed", type=int, default=None, help="who is killed, and what is chosen")
    parser.add_argument("--local", action="store_true", help="on disk, not on S3")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(3))
    with tempfile.TemporaryDirectory(prefix="eoctl-soak-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        with place(local=arguments.local, folder=folder) as url:
            wrong, told = soak(url, folder, 60 * arguments.minutes, arguments.kill_every, seed)
        errors = {path.parent.name: path.read_text()[-2000:] for path in folder.glob("*/err") if path.stat().st_size}
    print(f"seed {seed}: {told}")
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong:
        for place_name, text in errors.items():
            print(f"--- {place_name}\n{text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
