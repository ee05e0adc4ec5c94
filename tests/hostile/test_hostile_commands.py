"""What the command line says of bad input: the promised exit code, one line, and no traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eoctl.cli.main import main
from formats.canonical import encode
from tests.hostile.case import edited, packed
from tests.hostile.heads import PLAIN as HEAD_PLAIN
from tests.hostile.manifests import PLAIN, SUBTASK
from tests.hostile.planted import HEAD, Changes, plant, with_manifest
from tests.support.examples import STORE_RECORD

Said = tuple[int, str, str]
Run = Callable[..., Said]

CLIMBING = packed(edited(PLAIN, ((*SUBTASK, "files", 0, "name"), "../../outside"))())
NEWER = packed(edited(PLAIN, (("version",), 2))())
BOMB = packed(b" " * (64 << 20))
READERS = (
    ("restore", "orders@4", "--to", "target"),
    ("checkpoint", "inspect", "orders@4"),
    ("checkpoint", "files", "orders@4"),
    ("checkpoint", "diff", "orders@3", "orders@4"),
    ("checkpoint", "explain", "orders@4"),
)


@pytest.fixture
def eoctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with a home of its own, whose store holds these values."""
    for name in [name for name in os.environ if name.startswith(("EOCTL_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words: str, changes: Changes | None = None) -> Said:
        if not (tmp_path / "store").exists():
            plant(tmp_path, changes or {})
        capsys.readouterr()
        code = main([*words, "--store", "store"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert "\x1b" not in said.out + said.err
        assert not (tmp_path / "target").exists() or code == 0
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("words", READERS, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize(
    ("stored", "expected"), [(CLIMBING, 13), (BOMB, 13), (NEWER, 14)], ids=["name", "bomb", "newer"]
)
def test_a_bad_manifest_is_refused_by_whatever_reads_it(eoctl: Run, words, stored, expected) -> None:
    code, out, err = eoctl(*words, changes=with_manifest(stored))
    assert (code, out) == (expected, "")
    assert err.startswith("error: ")
    assert len(err.splitlines()) <= 2


def test_a_bad_manifest_is_found_by_verify_and_hides_nothing_else(eoctl: Run) -> None:
    code, out, _ = eoctl("checkpoint", "verify", "-p", "orders", "--json", changes=with_manifest(CLIMBING))
    assert code == 3
    assert [found["snapshots"] for found in json.loads(out)["damaged"]] == [["orders@4"]]
    assert eoctl("checkpoint", "list", "-p", "orders")[0] == 0
    assert eoctl("restore", "orders@3", "--to", "target")[0] == 0


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"", 13),
        (b"{}", 13),
        (b"<html>", 13),
        (edited(HEAD_PLAIN, (("floor",), 99))(), 13),
        (edited(HEAD_PLAIN, (("version",), 2))(), 14),
        (edited(HEAD_PLAIN, (("pipeline",), "other"))(), 13),
    ],
)
@pytest.mark.parametrize(
    "words", [*READERS, ("checkpoint", "list", "-p", "orders"), ("pipeline", "show", "-p", "orders")]
)
def test_a_bad_head_stops_every_command_of_its_pipeline(eoctl: Run, words, head, expected) -> None:
    assert eoctl(*words, changes={HEAD: head})[0] == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 13),
        (b"{}", 13),
        (edited(json.loads(encode(STORE_RECORD)), (("version",), 2))(), 14),
        (edited(json.loads(encode(STORE_RECORD)), (("features",), ["moons"]))(), 14),
        (None, 10),
    ],
)
def test_a_bad_store_is_opened_by_nothing(eoctl: Run, data, expected) -> None:
    assert eoctl("checkpoint", "list", changes={"store.json": data})[0] == expected


def _file(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def _tree(**files: bytes) -> Callable[[Path], object]:
    def build(path: Path) -> None:
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)

    return build


def _linked(path: Path) -> None:
    path.mkdir()
    (path / "x").symlink_to("/etc/passwd")


SOURCES: dict[str, tuple[int, str, Callable[[Path], object]]] = {
    "a directory with a link": (17, "bad", _linked),
    "a directory with a line feed in a name": (17, "bad", _tree(**{"a\nb": b"x"})),
    "a directory with a control in a name": (17, "bad", _tree(**{"\x1b[31m": b"x"})),
    "a file for a directory": (2, "bad", _file(b"x")),
    "no database": (2, "sqlite:bad", _file(b"x" * 5000)),
    "an empty database": (2, "sqlite:bad", _file(b"")),
    "no RocksDB": (2, "rocksdb:bad", Path.mkdir),
    "a RocksDB that names a file above": (13, "rocksdb:bad", _tree(**{"CURRENT": b"../x\n", "OPTIONS-1": b""})),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_bad_source_is_refused(eoctl: Run, tmp_path: Path, name) -> None:
    expected, source, build = SOURCES[name]
    build(tmp_path / "bad")
    code, out, _ = eoctl("checkpoint", "create", source, "-p", "orders")
    assert (code, out) == (expected, "")


@pytest.mark.parametrize("data", [b"", b"[]", rb'{"\ud800":{}}', b'{"a":{"b":NaN}}', b"[" * 100_000])
def test_bad_offsets_are_refused(eoctl: Run, tmp_path: Path, data) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "offsets").write_bytes(data)
    assert eoctl("checkpoint", "create", "state", "-p", "orders", "--offsets", "offsets")[0] == 17


@pytest.mark.parametrize("data", [b"\0", b"a = " + b"[" * 10_000, b"a = " + b"1" * 5000, b"#" * 20_000])
def test_a_bad_config_file_is_refused(tmp_path: Path, eoctl: Run, data) -> None:
    (tmp_path / ".config" / "eoctl").mkdir(parents=True)
    (tmp_path / ".config" / "eoctl" / "config.toml").write_bytes(data)
    assert main(["checkpoint", "list"]) == 2


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to("nothing"), _tree(x=b"x")])
def test_a_target_that_is_taken_stays_as_it_is(eoctl: Run, tmp_path: Path, make) -> None:
    make(tmp_path / "taken")
    assert eoctl("restore", "orders@4", "--to", "taken")[0] == 2
    assert eoctl("restore", "orders@4", "--to", "target")[0] == 0
