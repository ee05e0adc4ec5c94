"""Where a restore is to go: whatever lies there already stays as it is, and nothing is written through it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from eoctl.services.resolve import resolve
from eoctl.services.restore import restore
from formats.errors import EoctlError, UsageError
from tests.hostile.case import Action, Case
from tests.hostile.planted import GOOD, _tree, opened, plant
from tests.hostile.specimen import CONTENTS, PIPELINE

Build = Callable[[Path, Path], object]


def _into(name: str, expected: type[EoctlError] | None, build: Build, target: str = "work/target") -> Case:
    """`build` is given the directory `work` and the one outside."""

    def prepare(box: Path) -> Action:
        root = plant(box, {})
        work = box / "work"
        work.mkdir()
        build(work, box.parent / "outside")
        kept = _names(work)

        def go() -> None:
            store = opened(root)
            try:
                restore(store, resolve(store, f"{PIPELINE}@{GOOD}"), box / target)
            except EoctlError:
                assert _names(work) == kept, "a refused restore changed something"
                raise
            assert _tree(box / target) | CONTENTS[GOOD] == _tree(box / target)

        return go

    return Case(f"target: {name}", expected, prepare)


def _names(root: Path) -> dict[str, tuple[int, int]]:
    """Everything below `root`: its kind and mode, and its inode."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            seen = os.lstat(Path(folder, name))
            found[str(Path(folder, name))] = (seen.st_mode, seen.st_ino)
    return found


def _at_target(build: Build) -> Build:
    return lambda work, outside: build(work / "target", outside)


def _cases() -> Iterator[Case]:
    yield _into("new", None, lambda _, __: None)
    yield _into("an empty directory", None, lambda work, _: (work / "target").mkdir())
    yield _into("below directories that are not there", None, lambda _, __: None, "work/a/b/target")
    things: dict[str, Build] = {
        "a link to a directory outside": lambda path, outside: path.symlink_to(outside),
        "a link to a file outside": lambda path, outside: path.symlink_to(outside / "precious"),
        "a link to nothing outside": lambda path, outside: path.symlink_to(outside / "nothing"),
        "a link to itself": lambda path, _: path.symlink_to(path),
        "a file": lambda path, _: path.write_bytes(b"mine"),
        "an empty file": lambda path, _: path.touch(),
        "a pipe": lambda path, _: os.mkfifo(path),
        "a hard link to a file outside": lambda path, outside: os.link(outside / "precious", path),
        "a directory with a file": _filled_at(lambda path, _: (path / "x").touch()),
        "a directory with a hidden file": _filled_at(lambda path, _: (path / ".x").touch()),
        "a directory with a directory": _filled_at(lambda path, _: (path / "log").mkdir()),
        "a directory with a link where a file will be": _filled_at(
            lambda path, out: (path / "CURRENT").symlink_to(out / "precious")
        ),
        "a directory with a link where a directory will be": _filled_at(
            lambda path, out: (path / "log").symlink_to(out)
        ),
        "a directory with a hard link where a file will be": _filled_at(
            lambda path, out: os.link(out / "precious", path / "CURRENT")
        ),
        "a directory with a pipe where a file will be": _filled_at(lambda path, _: os.mkfifo(path / "CURRENT")),
    }
    for name, build in things.items():
        yield _into(name, UsageError, _at_target(build))
    yield _into("below a file", EoctlError, lambda work, _: (work / "file").touch(), "work/file/target")
    yield _into(
        "below a link to nothing", EoctlError, lambda work, _: (work / "link").symlink_to("nothing"), "work/link/target"
    )
    yield _into(
        "below a link to itself", EoctlError, lambda work, _: (work / "link").symlink_to("link"), "work/link/target"
    )
    yield _into("of a name of 300 letters", EoctlError, lambda _, __: None, "work/" + "x" * 300)
    yield _into("of a name of 250 letters", EoctlError, lambda _, __: None, "work/" + "x" * 250)
    yield _into("of a path of 5,000 letters", EoctlError, lambda _, __: None, "work/" + "x/" * 2500)
    yield _into("beside a link that looks like a leftover", None, _leftover_link)
    yield _into("beside a leftover with a link outside in it", None, _leftover)


def _filled_at(build: Build) -> Build:
    def made(path: Path, outside: Path) -> None:
        path.mkdir()
        build(path, outside)

    return made


def _leftover_link(work: Path, outside: Path) -> None:
    (work / ".target.eoctl-x").symlink_to(outside)


def _leftover(work: Path, outside: Path) -> None:
    """What a killed restore may leave is cleared away; what it links to is not."""
    (work / ".target.eoctl-x").mkdir()
    (work / ".target.eoctl-x" / "out").symlink_to(outside)
    os.link(outside / "precious", work / ".target.eoctl-x" / "precious")


CASES = list(_cases())
