"""The backend on disk: what every backend promises, and what only a disk can break.

Power loss cannot be had in a test; its stand-ins are the order of the system calls, recorded by strace, and an
fsync that fails.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from formats.errors import (
    AccessDeniedError,
    CommitUnknownError,
    EoctlError,
    NoSpaceError,
)
from storage.backend import (
    Backend,
    BusyError,
    CopyOf,
    Key,
    KeyAbsentError,
    LocalFile,
    Reach,
    SyncFailedError,
    Unfinished,
    version_of,
)
from storage.backends import local
from storage.backends.local import LocalBackend
from tests.conformance.backend_suite import HEAD, KEY, BackendSuite, content, names
from tests.support.faulty import FaultyBackend

ROOT = Path(__file__).parents[2]
OTHER = Key("p/orders/o/3f/other.1")


class TestLocal(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return LocalBackend(tmp_path / "store", "test")


class TestLocalWithItsOwnScratch(BackendSuite):
    """Files are handed over from where `create` only has to link them."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return LocalBackend(tmp_path / "store", "test")

    @pytest.fixture
    def scratch(self, backend: LocalBackend) -> Path:
        backend.scratch.mkdir(parents=True, exist_ok=True)
        return backend.scratch


class TestLocalBehindNoFaults(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return FaultyBackend(LocalBackend(tmp_path / "store", "test"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def backend(root: Path) -> LocalBackend:
    return LocalBackend(root, "test")


def left_behind(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "tmp").iterdir()) if (root / "tmp").exists() else []


# Other processes


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that has imported everything and waits for a line."""
    lines = [
        "import json, sys",
        "from pathlib import Path",
        "from formats.errors import *",
        "from storage.backend import *",
        "from storage.backends.local import LocalBackend",
        "print('ready', flush=True)",
        "sys.stdin.readline()",
        code,
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", "\n".join(lines), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each printed after all were let go at once."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return printed


CREATES = """
backend = LocalBackend(Path(sys.argv[1]), sys.argv[2])
won = [n for n in range(200) if backend.create(Key(f"p/race/{n % 7}/{n}"), sys.argv[2].encode() * 1000)]
print(json.dumps(won))
"""

SWAPS = """
backend = LocalBackend(Path(sys.argv[1]), sys.argv[2])
key, done = Key("p/orders/HEAD"), 0
while done < 64:
    with backend.open(key) as file:
        seen = file.read()
    value = json.loads(seen) + [f"{sys.argv[2]}{done}"]
    try:
        backend.swap(key, json.dumps(value).encode(), version_of(seen))
    except VersionMismatchError:
        continue
    done += 1
"""


def test_of_creates_by_two_processes_exactly_one_wins(root: Path, backend: LocalBackend) -> None:
    processes = [start(CREATES, root, name) for name in ("a", "b")]
    won_a, won_b = (json.loads(printed) for printed in finish(processes))
    assert sorted(won_a + won_b) == list(range(200))
    for number in range(200):
        winner = b"a" if number in won_a else b"b"
        assert content(backend, Key(f"p/race/{number % 7}/{number}")) == winner * 1000
    assert left_behind(root) == []


def test_two_processes_that_race_for_a_value_lose_no_update(root: Path, backend: LocalBackend) -> None:
    backend.create(HEAD, b"[]")
    finish([start(SWAPS, root, name) for name in ("a", "b")])
    updates = json.loads(content(backend, HEAD))
    for name in ("a", "b"):
        assert [update for update in updates if update[0] == name] == [f"{name}{number}" for number in range(64)]
    assert len(updates) == 128
    assert left_behind(root) == []


def test_a_lock_that_is_not_let_go_of_is_told_with_its_holder(
    root: Path, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "LOCK_TRIES", 3)
    assert backend.create(HEAD, b"first")
    with (root / f"{HEAD}.lock").open("wb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match=f"HEAD.lock is held by process {os.getpid()}, and not let go of"):
            backend.swap(HEAD, b"second", version_of(b"first"))
        assert content(backend, HEAD) == b"first"
    backend.swap(HEAD, b"second", version_of(b"first"))


def test_a_process_killed_while_it_swaps_leaves_no_lock_behind(root: Path, backend: LocalBackend) -> None:
    backend.create(HEAD, b"[]")
    for _ in range(3):
        process = start(SWAPS, root, "a")
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        before = len(content(backend, HEAD))
        while len(content(backend, HEAD)) == before and process.poll() is None:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seen = content(backend, HEAD)
        backend.swap(HEAD, b"[]", version_of(seen))
    assert content(backend, HEAD) == b"[]"


# No space, no permission


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.lane("mount")
@pytest.mark.parametrize("form", ["bytes", "file", "copy"])
def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path, tmp_path: Path, form) -> None:
    root = small_disk / "store"
    backend = LocalBackend(root, "test")
    size = (600 << 10) if form == "copy" else (2 << 20)
    body: bytes | LocalFile | CopyOf = bytes(size)
    if form == "copy":
        backend.create(OTHER, bytes(size))
        body = CopyOf(OTHER)
    elif form == "file":
        handed_over = tmp_path / "file"
        handed_over.write_bytes(bytes(size))
        body = LocalFile(handed_over)
    with pytest.raises(NoSpaceError):
        backend.create(KEY, body)
    assert backend.stat(KEY) is None
    assert left_behind(root) == []
    assert backend.create(Key("p/small"), b"there is space for this") is True


@pytest.mark.lane("mount")
def test_a_swap_on_a_full_disk_leaves_the_value_as_it_was(small_disk: Path) -> None:
    root = small_disk / "store"
    backend = LocalBackend(root, "test")
    backend.create(HEAD, b"one")
    with pytest.raises(NoSpaceError):
        backend.swap(HEAD, bytes(2 << 20), version_of(b"one"))
    assert content(backend, HEAD) == b"one"
    assert left_behind(root) == []
    backend.swap(HEAD, b"two", version_of(b"one"))


@pytest.mark.lane("mount")
def test_a_read_only_disk_can_be_read_and_refuses_the_rest(small_disk: Path) -> None:
    root = small_disk / "store"
    backend = LocalBackend(root, "test")
    backend.create(HEAD, b"one")
    backend.swap(HEAD, b"two", version_of(b"one"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    backend = LocalBackend(root, "other")
    assert content(backend, HEAD) == b"two"
    assert names(backend, "p") == [HEAD.path]
    with pytest.raises(AccessDeniedError):
        backend.create(KEY, b"1")
    with pytest.raises(AccessDeniedError):
        backend.swap(HEAD, b"three", version_of(b"two"))
    with pytest.raises(AccessDeniedError):
        backend.delete([HEAD])
    assert content(backend, HEAD) == b"two"


@pytest.mark.parametrize("verb", ["create", "swap"])
def test_a_file_size_limit_is_no_space(root: Path, backend: LocalBackend, verb) -> None:
    backend.create(HEAD, b"one")
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
backend = LocalBackend(Path(sys.argv[1]), "limited")
try:
    if {verb!r} == "create":
        backend.create(Key("p/orders/o/big"), bytes(20_000))
    else:
        backend.swap(Key("p/orders/HEAD"), bytes(20_000), version_of(b"one"))
except NoSpaceError as error:
    print("no space")
"""
    assert finish([start(code, root)]) == ["no space\n"]
    assert names(backend, "p") == [HEAD.path]
    assert content(backend, HEAD) == b"one"
    assert left_behind(root) == []


def test_a_folder_without_permission_is_told_as_such(root: Path, backend: LocalBackend) -> None:
    backend.create(HEAD, b"one")
    for folder in (root, root / "tmp", root / "p", root / "p/orders"):
        folder.chmod(0o555)
    code = """
import os
os.chdir(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)
backend = LocalBackend(Path("."), "other")
for refused in (
    lambda: backend.create(Key("p/orders/o/new"), b"1"),
    lambda: backend.swap(Key("p/orders/HEAD"), b"two", version_of(b"one")),
    lambda: backend.delete([Key("p/orders/HEAD")]),
):
    try:
        refused()
    except AccessDeniedError as error:
        print("denied")
print(backend.open(Key("p/orders/HEAD")).read().decode())
"""
    try:
        assert finish([start(code, root)]) == ["denied\ndenied\ndenied\none\n"]
    finally:
        for folder in (root, root / "tmp", root / "p", root / "p/orders"):
            folder.chmod(0o755)


# What lies there and is not ours


def test_a_symbolic_link_under_a_blobs_name_is_not_followed(root: Path, backend: LocalBackend, tmp_path: Path) -> None:
    backend.create(OTHER, b"1")
    secret = tmp_path / "secret"
    secret.write_bytes(b"nobody's business")
    (root / KEY.path).symlink_to(secret)
    for read in (lambda: backend.open(KEY), lambda: backend.open(KEY, 0, 5), lambda: backend.create(KEY, b"2")):
        with pytest.raises(EoctlError):
            read()
    assert backend.stat(KEY) is None
    assert names(backend, "p") == [OTHER.path]
    backend.delete([KEY])
    assert secret.read_bytes() == b"nobody's business"


def test_a_symbolic_link_in_place_of_head_is_not_followed(root: Path, backend: LocalBackend, tmp_path: Path) -> None:
    backend.create(OTHER, b"1")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"one")
    (root / HEAD.path).symlink_to(elsewhere)
    with pytest.raises(EoctlError):
        backend.swap(HEAD, b"two", version_of(b"one"))
    assert elsewhere.read_bytes() == b"one"


def test_strange_files_in_the_store_disturb_no_listing(root: Path, backend: LocalBackend) -> None:
    backend.create(KEY, b"1")
    for name in (".DS_Store", "a file", "back~", "\udcff", "p/.hidden", "p/orders/o/3f/a b", "tmp/.nfs0001"):
        (root / name).write_bytes(b"?")
    (root / "p/.snapshot").mkdir()
    (root / "p/lost found").mkdir()
    assert names(backend, "p") == [KEY.path]
    assert names(backend, "p", Reach.FOLDERS) == ["p/orders"]
    assert names(backend, "p", Reach.UNFINISHED) == []


def test_a_write_that_never_finished_is_listed_and_can_be_deleted(root: Path, backend: LocalBackend) -> None:
    backend.create(KEY, b"1")
    (root / "tmp/dead.7").write_bytes(b"half of")
    (unfinished,) = backend.list(Key("p"), reach=Reach.UNFINISHED)
    assert isinstance(unfinished, Unfinished)
    assert unfinished.key == Key("tmp/dead.7")
    backend.delete([unfinished, unfinished])
    assert left_behind(root) == []
    assert content(backend, KEY) == b"1"


def test_an_unreadable_place_is_none_of_pythons_own_errors(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"a file in place of the store's folder")
    backend = LocalBackend(tmp_path / "store", "test")
    assert backend.stat(KEY) is None
    with pytest.raises(KeyAbsentError):
        backend.open(KEY)
    with pytest.raises(EoctlError):
        backend.create(KEY, b"1")
    assert names(backend, "p") == []


# An fsync that fails


class Disk:
    """What `os.fsync` was asked to sync, by path below the store; fails where `broken` says."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[str] = []
        self.broken: dict[str, int] = {}
        self._root = str(root)
        self._real = os.fsync
        monkeypatch.setattr("os.fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        name = path.removeprefix(self._root).lstrip("/") if path.startswith(self._root) else path
        self.synced.append(name)
        for start_, number in self.broken.items():
            if name.startswith(start_) and (start_.endswith("/") or name == start_):
                raise OSError(number, os.strerror(number))
        self._real(descriptor)


@pytest.fixture
def disk(root: Path, backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> Disk:
    backend.create(OTHER, b"1")
    backend.create(HEAD, b"one")
    return Disk(root, monkeypatch)


FOLDER = "p/orders/o/3f"


@pytest.mark.parametrize("broken", ["tmp/", FOLDER])
def test_a_create_whose_fsync_fails_is_no_success(root: Path, backend: LocalBackend, disk: Disk, broken) -> None:
    disk.broken = {broken: errno.EIO}
    with pytest.raises(SyncFailedError):
        backend.create(KEY, b"2")
    assert len(disk.synced) == (1 if broken == "tmp/" else 2)  # nothing is synced again after a failure
    assert (root / KEY.path).exists() == (broken == FOLDER)
    assert left_behind(root) == []


@pytest.mark.parametrize("broken", [OTHER.path, FOLDER])
def test_a_value_that_was_there_counts_only_once_it_is_synced(backend: LocalBackend, disk: Disk, broken) -> None:
    assert backend.create(OTHER, b"2") is False
    assert {OTHER.path, FOLDER} <= set(disk.synced)  # whoever linked it may have died before
    disk.broken = {broken: errno.EIO}
    with pytest.raises(SyncFailedError):
        backend.create(OTHER, b"2")


def test_a_swap_whose_bytes_could_not_be_synced_did_not_happen(root: Path, backend: LocalBackend, disk: Disk) -> None:
    disk.broken = {"tmp/": errno.EIO}
    with pytest.raises(SyncFailedError):
        backend.swap(HEAD, b"two", version_of(b"one"))
    disk.broken = {}
    assert content(backend, HEAD) == b"one"
    assert left_behind(root) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_swap_whose_folder_could_not_be_synced_is_unknown(backend: LocalBackend, disk: Disk, number) -> None:
    disk.broken = {"p/orders": number}
    with pytest.raises(CommitUnknownError):
        backend.swap(HEAD, b"two", version_of(b"one"))


def test_a_head_whose_folder_cannot_be_synced_is_not_read(backend: LocalBackend, disk: Disk) -> None:
    backend.swap(HEAD, b"two", version_of(b"one"))
    disk.synced.clear()
    assert content(backend, HEAD) == b"two"
    assert disk.synced == ["p/orders"]
    disk.broken = {"p/orders": errno.EIO}
    with pytest.raises(SyncFailedError):
        backend.open(HEAD)


def test_reading_a_blob_syncs_nothing(backend: LocalBackend, disk: Disk) -> None:
    content(backend, OTHER)
    content(backend, OTHER, 0, 1)
    backend.stat(OTHER)
    names(backend, "p")
    assert disk.synced == []


def test_a_disk_that_is_found_full_at_fsync_is_full(root: Path, backend: LocalBackend, disk: Disk) -> None:
    disk.broken = {"tmp/": errno.ENOSPC}
    with pytest.raises(NoSpaceError):
        backend.create(KEY, b"2")
    assert backend.stat(KEY) is None
    assert left_behind(root) == []


def test_a_name_that_could_not_be_synced_for_lack_of_space_is_not_trusted(backend: LocalBackend, disk: Disk) -> None:
    # The name is there and the failure was told once: whoever comes next would take it for durable.
    disk.broken = {FOLDER: errno.ENOSPC}
    with pytest.raises(SyncFailedError):
        backend.create(KEY, b"2")


def test_folders_made_ahead_are_durable_up_to_the_root(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "p/orders").mkdir(parents=True)  # by a process that died before it synced anything
    disk = Disk(tmp_path, monkeypatch)
    backend = LocalBackend(root, "test")
    backend.make_folders([Key("p/orders/o/00"), Key("p/orders/o/01"), Key("p/orders/m")])
    assert {"store/p/orders/o", "store/p/orders", "store/p", "store", ""} <= set(disk.synced)
    assert len(disk.synced) <= 16
    disk.synced.clear()
    for number in range(20):
        backend.create(Key(f"p/orders/o/00/{number}"), b"1")
    assert len([name for name in disk.synced if name == "store/p/orders/o/00"]) == 20
    assert len(disk.synced) <= 42  # each its bytes and its folder; then `tmp`, once


def test_folders_above_the_store_that_cannot_be_synced_do_not_matter(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A read-only image as the root of the file system refuses every fsync of a directory.
    backend = LocalBackend(root, "test")
    backend.create(OTHER, b"1")
    disk = Disk(tmp_path.parent, monkeypatch)
    disk.broken = dict.fromkeys(["/", str(tmp_path.parents[1]), ""], errno.EINVAL)
    backend.make_folders([Key("p/orders/o/00"), Key("p/orders/m")])
    assert backend.create(Key("p/orders/m/1"), b"1") is True


# The order of system calls


def traced(tmp_path: Path, root: Path, code: str) -> list[tuple[str, str]]:
    """The calls that matter, as (call, path below the store), in order."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom storage.backend import *\n"
        "from storage.backends.local import LocalBackend\n"
        "backend = LocalBackend(Path(sys.argv[1]), 'traced')\n"
        f"{code}\n"
    )
    log = tmp_path / "log"
    calls = "fsync,fdatasync,link,linkat,rename,renameat,renameat2,flock,unlink,unlinkat"
    done = subprocess.run(
        [strace, "-f", "-y", "-s", "4096", "-e", f"trace={calls}", "-o", log, sys.executable, script, root],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    found = []
    for line in log.read_text().splitlines():
        if match := re.search(r"\b(\w+)\((.*)\)\s+= (?!-1 (?!EEXIST))", line):
            paths = re.findall(rf'[<"]{re.escape(str(root))}/?([^>"]*)[>"]', match[2])
            if paths:
                found.append((match[1].removesuffix("at2").removesuffix("at"), paths[-1]))
    return found


@pytest.mark.lane("strace")
def test_a_create_syncs_the_bytes_then_links_then_syncs_the_folder(tmp_path: Path, root: Path) -> None:
    LocalBackend(root, "test").create(OTHER, b"1")
    calls = traced(tmp_path, root, "assert backend.create(Key('p/orders/o/3f/some.1'), b'2')")
    assert calls == [
        ("fsync", "tmp/traced.0"),
        ("link", KEY.path),
        ("fsync", FOLDER),
        ("unlink", "tmp/traced.0"),
    ]


@pytest.mark.lane("strace")
def test_a_create_of_what_is_there_syncs_it_before_it_counts(tmp_path: Path, root: Path) -> None:
    LocalBackend(root, "test").create(OTHER, b"1")
    calls = traced(tmp_path, root, f"assert not backend.create(Key({OTHER.path!r}), b'2')")
    assert calls == [
        ("fsync", "tmp/traced.0"),
        ("link", OTHER.path),
        ("fsync", OTHER.path),
        ("fsync", FOLDER),
        ("unlink", "tmp/traced.0"),
    ]


@pytest.mark.lane("strace")
def test_a_create_in_a_new_folder_syncs_what_holds_the_folder_first(tmp_path: Path, root: Path) -> None:
    calls = traced(tmp_path, root, f"backend.create(Key({KEY.path!r}), b'2')")
    synced = [path for call, path in calls if call == "fsync"]
    # The store's own folder, whose name its parent holds, is out of sight of `root` in this log.
    assert synced[-5:] == ["p", "p/orders", "p/orders/o", "tmp/traced.0", FOLDER]
    assert calls.index(("fsync", "p/orders/o")) < calls.index(("link", KEY.path))
    assert "" in synced


@pytest.mark.lane("strace")
def test_a_swap_syncs_the_bytes_then_renames_then_syncs_the_folder_under_its_lock(tmp_path: Path, root: Path) -> None:
    LocalBackend(root, "test").create(HEAD, b"one")
    calls = traced(tmp_path, root, "backend.swap(Key('p/orders/HEAD'), b'two', version_of(b'one'))")
    assert calls == [
        ("flock", "p/orders/HEAD.lock"),
        ("fsync", "tmp/traced.0"),
        ("rename", "p/orders/HEAD"),
        ("fsync", "p/orders"),
    ]


@pytest.mark.lane("strace")
def test_whoever_reads_a_head_syncs_its_folder(tmp_path: Path, root: Path) -> None:
    backend = LocalBackend(root, "test")
    backend.create(HEAD, b"one")
    backend.swap(HEAD, b"two", version_of(b"one"))
    calls = traced(tmp_path, root, "assert backend.open(Key('p/orders/HEAD')).read() == b'two'")
    assert calls == [("fsync", "p/orders")]


@pytest.mark.lane("strace")
def test_a_head_that_was_never_swapped_is_synced_by_its_reader_too(tmp_path: Path, root: Path) -> None:
    # Whoever linked it may have died before it synced the folder.
    LocalBackend(root, "test").create(HEAD, b"one")
    calls = traced(tmp_path, root, "assert backend.open(Key('p/orders/HEAD')).read() == b'one'")
    assert calls == [("fsync", "p/orders")]
