"""A real Flink that says whether it restores a folder: the job of the corpus in a mini cluster, a JVM a question.

The job tells its state as it was restored, before the first record, and at its end. What is right follows from its
definition and from how far its source had come: nothing here is read from a snapshot.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("flink_job") / "RestoreOrders.java"
HOMES = {"2.3": ("FLINK_HOME_23", ".venv-flink2.3"), "1.20": ("FLINK_HOME_120", ".venv-flink1.20")}
MORE_JARS = "eoctl-jars"  # what scripts/setup-flink puts beside pip's
TIMEOUT_SECONDS = 600
NUMBERS, HALF, USERS = 8000, 4000, 211
WINDOW_SECONDS = 600
EVENT_TIMER, PROCESSING_TIMER = 4_000_000_000_000, 4_102_444_800_000

_OPEN = ("lang", "util", "util.concurrent", "net", "io", "nio", "lang.reflect", "text", "time",
         "util.concurrent.atomic", "util.concurrent.locks")  # fmt: skip


class Answer(NamedTuple):
    """What the job told: the lines of each word, without it. `code` 0: it ran to its end; 3: it did not."""

    code: int
    told: dict[str, list[tuple[str, ...]]]

    @property
    def failure(self) -> str:
        return " ".join(line[0] for line in self.told.get("failed", []))


class Oracle:
    """Asks Flink. Without Flink or Java the test is skipped."""

    def __init__(self, cache: Path) -> None:
        try:
            java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=True).stderr
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no Java on PATH")
        if not any(f'version "{number}' in java for number in range(17, 30)):
            pytest.skip(f"Java 17 is needed: {java.splitlines()[0]}")
        self._cache = cache
        self._runs = 0
        self._jars = {version: _jars_of(version) for version in HOMES}

    def has_s3(self, flink: str = "2.3") -> bool:
        """Its plugin for S3 is there."""
        return "-s3-fs-" in self._jars[flink]

    def ask(
        self,
        snapshot: Path | str | None,
        *,
        uids: Mapping[str, str] = {},
        backend: str = "rocksdb",
        parallelism: int = 2,
        max_parallelism: int = 128,
        flink: str = "2.3",
        sink: Path | None = None,
        settings: Mapping[str, str] = {},
        words: Mapping[str, str] = {},
    ) -> Answer:
        """The job was restored from the folder or URL, if there is one, and ran as far as it could.

        `words`: more that the program is told.
        """
        self._runs += 1
        scratch = self._cache / f"run-{self._runs}"
        scratch.mkdir(parents=True)
        told_words = {
            **({} if snapshot is None else {"from": snapshot if isinstance(snapshot, str) else f"file://{snapshot}"}),
            "uids": ",".join(f"{old}>{new}" for old, new in uids.items()),
            "parallelism": str(parallelism),
            "max": str(max_parallelism),
            "tmp": str(scratch),
            "set.state.backend.type": backend,
            **{f"set.{name}": value for name, value in settings.items()},
            **({} if sink is None else {"sink": str(sink)}),
            **words,
        }
        opened = [f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPEN]
        place = f"{self._compiled(flink)}:{self._jars[flink]}"
        done = subprocess.run(
            ["java", "-Xmx1g", "-XX:TieredStopAtLevel=1", *opened, "-cp", place, "RestoreOrders"]
            + [f"{name}={value}" for name, value in told_words.items()],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode in {0, 3}, done.stderr[-3000:]
        told: dict[str, list[tuple[str, ...]]] = {}
        for line in done.stdout.splitlines():
            word, *fields = line.split("\t")
            told.setdefault(word, []).append(tuple(fields))
        return Answer(done.returncode, told)

    def restores(
        self, snapshot: Path, positions: tuple[int, int], *, in_flight: bool = False, **options: object
    ) -> None:
        """Raises: AssertionError unless every value is right. `in_flight`: what was restored is not all there was."""
        answer = self.ask(snapshot, **options)  # type: ignore[arg-type]  # they are those of `ask`
        assert answer.code == 0, answer.failure
        emitted = [*range(positions[0]), *range(HALF, HALF + positions[1])]
        if not in_flight:
            assert sorted(answer.told["restored"]) == sorted(totals(emitted))
            assert sorted(answer.told["timer"]) == sorted(_timers(emitted))
            assert sum(int(count) for _, count in answer.told["audit"]) == len(emitted)
        assert sorted(answer.told["final"]) == sorted(totals(range(NUMBERS)))
        assert {user for user, _ in answer.told["fired"]} == {_user(number) for number in range(NUMBERS)}
        assert set(answer.told.get("rule", [])) in (set(), {(f"rule-{rule}", str(100 * rule)) for rule in range(6)})
        windows = {(user, int(start)): int(total) for user, start, total in answer.told["window"]}
        expected = _windows()
        assert windows == {key: expected[key] for key in windows}
        open_since = min(positions) * 1000
        assert {key for key in expected if key[1] + WINDOW_SECONDS * 1000 > open_since} <= windows.keys()

    def refuses(self, snapshot: Path, *, because: str, **options: object) -> None:
        """Raises: AssertionError unless Flink refuses for that reason."""
        answer = self.ask(snapshot, **options)  # type: ignore[arg-type]  # they are those of `ask`
        assert answer.code == 3
        assert because in answer.failure, answer.failure

    def _compiled(self, flink: str) -> Path:
        classes = self._cache / f"classes-{flink}"
        if not classes.exists():
            classes.mkdir(parents=True)
            subprocess.run(["javac", "-nowarn", "-d", classes, "-cp", self._jars[flink], PROGRAM], check=True)
        return classes


def _jars_of(version: str) -> str:
    variable, folder = HOMES[version]
    places = [Path(os.environ[variable])] if variable in os.environ else []
    places += sorted((ROOT / folder).glob("lib/python3*/site-packages/pyflink"))
    for place in places:
        jars = [jar for name in ("flink-dist", "flink-connector-files", "log4j") for jar in
                sorted((place / "lib").glob(f"{name}-*.jar"))]  # fmt: skip
        if jars:
            more = [
                jar for folder in (place, *place.parents[:4]) for jar in sorted((folder / MORE_JARS).glob("*-s3-*.jar"))
            ]
            return os.pathsep.join(map(str, [*jars, *more]))
    pytest.skip(f"no Flink {version}: scripts/setup-flink makes {folder}, or {variable} names a pyflink folder")


def _user(number: int) -> str:
    return f"user-{number * 7 % USERS}"


def totals(numbers: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """User, total, items, recent orders, as the job tells them."""
    by_user: dict[str, list[int]] = {}
    for number in numbers:
        by_user.setdefault(_user(number), []).append(number)
    for user, own in by_user.items():
        items = Counter(f"item-{number % 5}" for number in own)
        recent = sorted(f"order-{number}" for number in own if number % 50 == 0)
        told = ", ".join(f"{item}={count}" for item, count in sorted(items.items()))
        yield user, str(sum(own)), f"{{{told}}}", f"[{', '.join(recent)}]"


def _timers(numbers: Iterable[int]) -> Iterator[tuple[str, ...]]:
    for user in {_user(number) for number in numbers}:
        yield "event", user, str(EVENT_TIMER + len(user))
        yield "processing", user, str(PROCESSING_TIMER)


def _windows() -> dict[tuple[str, int], int]:
    """User and start of a window -> the sum of its numbers."""
    sums: dict[tuple[str, int], int] = {}
    for number in range(NUMBERS):
        second = number % HALF
        key = (_user(number), (second - second % WINDOW_SECONDS) * 1000)
        sums[key] = sums.get(key, 0) + number
    return sums
