"""A directory as a source: what is taken, what is refused, and what counts as settled."""

import os
import socket
from pathlib import Path

import pytest

from eoctl.engines.directory import DirectorySource, capture_tree, source_file, tick_ns
from eoctl.engines.source import Captured
from formats.errors import AccessDeniedError, BadNameError, UsageError
from formats.manifest import Engine
from storage.packing import Layout, layout_of

SECOND_NS = 1_000_000_000
HUNDREDTH_NS = 10_000_000

not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def captured(root: Path) -> Captured:
    with DirectorySource(root).capture() as found:
        return found


def names(root: Path) -> list[str]:
    return [file.name for file in captured(root).files]


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def settled(root: Path, *, mtime_ns: int, now_ns: int) -> bool:
    path = write(root / "f")
    os.utime(path, ns=(mtime_ns, mtime_ns))
    return source_file("f", path.stat(), now_ns).settled


def test_files_come_sorted_by_name_with_directories_spelled_by_slashes(root: Path) -> None:
    for name in ("b", "a/z", "a/b/c", "B", "a.txt", "ä"):
        write(root / name)
    assert names(root) == sorted(["B", "a.txt", "a/b/c", "a/z", "b", "ä"])


def test_hidden_files_are_files(root: Path) -> None:
    write(root / ".hidden/.file")
    assert names(root) == [".hidden/.file"]


def test_a_file_is_listed_with_its_size_and_stamp(root: Path) -> None:
    status = write(root / "f", b"four").stat()
    (file,) = captured(root).files
    assert file.bytes == 4
    assert file.stamp == f"{status.st_dev:x}.{status.st_ino:x}.{status.st_mtime_ns:x}"


def test_a_file_written_again_has_another_stamp(root: Path) -> None:
    path = write(root / "f")
    before = captured(root).files[0].stamp
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    assert captured(root).files[0].stamp != before


def test_tables_are_stored_whole_and_other_files_as_blocks(root: Path) -> None:
    write(root / "000001.sst")
    write(root / "state.bin")
    assert [layout_of(file.name) for file in captured(root).files] == [Layout.WHOLE, Layout.BLOCKS]


def test_the_engine_is_what_the_caller_says(root: Path) -> None:
    assert captured(root).engine == Engine(kind="directory")
    assert capture_tree(root, Engine(kind="other")).engine == Engine(kind="other")


def test_files_are_read_below_the_root_that_was_named(root: Path) -> None:
    write(root / "a/f", b"content")
    found = captured(root)
    assert (found.root / found.files[0].name).read_bytes() == b"content"


def test_directories_that_hold_nothing_are_kept(root: Path) -> None:
    for name in ("z", "a/b/c", "full"):
        (root / name).mkdir(parents=True)
    write(root / "full/f")
    assert captured(root).empty_directories == ("a/b/c", "z")


def test_an_empty_root_is_no_empty_directory(root: Path) -> None:
    found = captured(root)
    assert (found.files, found.empty_directories) == ((), ())


def test_hard_links_are_files_like_any_other(root: Path) -> None:
    first = write(root / "first")
    (root / "second").hardlink_to(first)
    one, two = captured(root).files
    assert (one.name, two.name) == ("first", "second")
    assert one.stamp == two.stamp


@pytest.mark.parametrize("target", ["f", "missing", "directory", "link"])
def test_a_symbolic_link_is_refused_wherever_it_points(root: Path, target: str) -> None:
    write(root / "f")
    (root / "directory").mkdir()
    (root / "below").mkdir()
    (root / "below/link").symlink_to(root / target if target != "link" else "link")
    with pytest.raises(BadNameError, match="a symbolic link: 'below/link'"):
        captured(root)


def test_the_root_itself_may_be_reached_by_a_symbolic_link(root: Path, tmp_path: Path) -> None:
    write(root / "f")
    (tmp_path / "link").symlink_to(root)
    assert names(tmp_path / "link") == ["f"]


def test_a_named_pipe_is_refused(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(BadNameError, match="a device, socket or pipe: 'pipe'"):
        captured(root)


def test_a_socket_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(BadNameError, match="a device, socket or pipe: 'socket'"):
            captured(root)


def test_a_directory_that_does_not_exist_is_the_users_mistake(root: Path) -> None:
    with pytest.raises(UsageError, match="no such directory") as raised:
        captured(root / "missing")
    assert raised.value.hint


def test_a_file_is_no_directory(root: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        captured(write(root / "f"))


@not_as_root
def test_a_directory_that_may_not_be_listed_is_named(root: Path) -> None:
    write(root / "closed/f")
    (root / "closed").chmod(0)
    try:
        with pytest.raises(AccessDeniedError, match="closed"):
            captured(root)
    finally:
        (root / "closed").chmod(0o700)


@not_as_root
def test_a_root_that_may_not_be_listed_is_named(root: Path) -> None:
    root.chmod(0)
    try:
        with pytest.raises(AccessDeniedError, match="state"):
            captured(root)
    finally:
        root.chmod(0o700)


def test_a_file_that_may_not_be_read_is_listed_all_the_same(root: Path) -> None:
    # Who reads it says so, and names it; a listing needs no permission for the file.
    write(root / "f").chmod(0)
    assert names(root) == ["f"]


def test_a_file_is_settled_once_the_clock_that_stamps_files_has_moved_on(root: Path) -> None:
    mtime = 1_700_000_000 * SECOND_NS + 123_456_789
    assert not settled(root, mtime_ns=mtime, now_ns=mtime)
    assert settled(root, mtime_ns=mtime, now_ns=mtime + 1)


def test_a_time_in_whole_seconds_may_hide_a_write_for_two_of_them(root: Path) -> None:
    # Some file systems keep even seconds only: a later write within two seconds may show the same time.
    mtime = 1_700_000_000 * SECOND_NS
    assert not settled(root, mtime_ns=mtime, now_ns=mtime + 2 * SECOND_NS - 1)
    assert settled(root, mtime_ns=mtime, now_ns=mtime + 2 * SECOND_NS)


def test_a_time_in_whole_hundredths_may_hide_a_write_for_one_of_them(root: Path) -> None:
    mtime = 1_700_000_000 * SECOND_NS + 3 * HUNDREDTH_NS
    assert not settled(root, mtime_ns=mtime, now_ns=mtime + HUNDREDTH_NS - 1)
    assert settled(root, mtime_ns=mtime, now_ns=mtime + HUNDREDTH_NS)


def test_a_time_in_the_future_is_never_settled(root: Path) -> None:
    path = write(root / "f")
    future = path.stat().st_mtime_ns + 3600 * SECOND_NS + 1
    os.utime(path, ns=(future, future))
    assert not captured(root).files[0].settled


def test_an_old_file_is_settled(root: Path) -> None:
    os.utime(write(root / "f"), ns=(1, 1))
    assert captured(root).files[0].settled


def test_the_clock_is_not_ahead_of_the_one_that_stamps_files(root: Path) -> None:
    now = tick_ns()
    assert now <= write(root / "f").stat().st_mtime_ns
