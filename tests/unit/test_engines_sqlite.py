"""A SQLite database captured beside its writer: one file, as of one commit, its pages where they were."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from eoctl.engines import sqlite
from eoctl.engines.source import Captured
from eoctl.engines.sqlite import SqliteSource
from formats.errors import (
    AccessDeniedError,
    CorruptError,
    EoctlError,
    NoSpaceError,
    UnavailableError,
    UsageError,
)
from formats.manifest import BLOCK_BYTES
from storage.packing import Layout

JOURNAL_MODES = ["delete", "wal", "truncate", "persist"]
PAGE_BYTES = 4096


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=0)


@contextmanager
def written(path: Path, journal_mode: str = "delete", rows: int = 2000) -> Iterator[sqlite3.Connection]:
    """An open database of some hundred KiB with a row in each of two tables per batch."""
    with closing(connect(path)) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        connection.execute(f"PRAGMA journal_mode = {journal_mode}")
        connection.execute("PRAGMA user_version = 7")
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, body BLOB)")
        connection.execute("CREATE TABLE counts (id INTEGER PRIMARY KEY, body BLOB)")
        insert(connection, rows)
        yield connection


def insert(connection: sqlite3.Connection, rows: int) -> None:
    connection.execute("BEGIN")
    for _ in range(rows):
        connection.execute("INSERT INTO orders (body) VALUES (zeroblob(200))")
        connection.execute("INSERT INTO counts (body) VALUES (zeroblob(2))")
    connection.execute("COMMIT")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "state.db"
    with written(made):
        pass
    return made


def source(path: Path, *, verify: bool = False) -> SqliteSource:
    return SqliteSource(path, verify=verify, timeout_seconds=0)


def take(path: Path, *, verify: bool = False) -> bytes:
    """The bytes of the one file captured."""
    with source(path, verify=verify).capture() as captured:
        (file,) = captured.files
        content = (captured.root / file.name).read_bytes()
        assert len(content) == file.bytes
        return content


def counts(captured: Captured, to: Path) -> tuple[int, int]:
    """How many rows the captured database holds, once it is checked."""
    (file,) = captured.files
    shutil.copyfile(captured.root / file.name, to)
    with closing(connect(to)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        orders, counts = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("orders", "counts")
        )
    return orders, counts


def left_over(path: Path) -> list[Path]:
    return list(path.parent.glob(".eoctl-capture-*"))


def changed_blocks(one: bytes, two: bytes) -> list[int]:
    starts = range(0, max(len(one), len(two)), BLOCK_BYTES)
    return [
        start // BLOCK_BYTES for start in starts if one[start : start + BLOCK_BYTES] != two[start : start + BLOCK_BYTES]
    ]


def page(path: Path, number: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek((number - 1) * PAGE_BYTES)
        file.write(content)


# What is captured


@pytest.mark.parametrize("journal_mode", JOURNAL_MODES)
def test_a_live_database_is_captured_as_of_its_last_commit(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "state.db"
    with written(path, journal_mode, rows=100) as writer, source(path).capture() as captured:
        insert(writer, 10)
        assert counts(captured, tmp_path / "copy") == (100, 100)


def test_what_is_only_in_the_write_ahead_log_is_captured(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with written(path, "wal", rows=10) as writer:
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        insert(writer, 5)
        assert path.with_name("state.db-wal").stat().st_size > 0
        with source(path).capture() as captured:
            assert counts(captured, tmp_path / "copy") == (15, 15)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_what_is_not_committed_is_not_captured(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "state.db"
    with written(path, journal_mode, rows=10) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO orders (body) VALUES (1)")
        with source(path).capture() as captured:
            assert counts(captured, tmp_path / "copy") == (10, 10)
        writer.execute("COMMIT")


def test_it_says_what_it_is(path: Path) -> None:
    with source(path).capture() as captured:
        assert captured.engine.kind == "sqlite"
        assert captured.engine.version == sqlite3.sqlite_version
        assert captured.engine.properties == {
            "journal_mode": "delete",
            "page_size": str(PAGE_BYTES),
            "user_version": "7",
        }
        (file,) = captured.files
        assert file.name == "state.db"
        assert captured.layout is Layout.BLOCKS
        assert file.bytes == path.stat().st_size
        assert captured.empty_directories == ()


def test_the_journal_mode_is_captured_with_the_database(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with written(path, "wal") as _writer, source(path, verify=True).capture() as captured:
        assert captured.engine.properties["journal_mode"] == "wal"
        shutil.copyfile(captured.root / "state.db", tmp_path / "copy.db")
    with closing(connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert copy.execute("PRAGMA user_version").fetchone() == (7,)


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_change_in_place_changes_its_block_and_the_first(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "state.db"
    with written(path, journal_mode, rows=5000) as writer:
        before = take(path)
        assert len(before) > 10 * BLOCK_BYTES
        writer.execute("UPDATE orders SET body = randomblob(200) WHERE id = 2500")
        after = take(path)
    # The header is on the first page.
    assert len(changed_blocks(before, after)) <= 2
    assert changed_blocks(before, after) != [0]


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_the_same_database_gives_the_same_bytes(tmp_path: Path, journal_mode: str) -> None:
    path = tmp_path / "state.db"
    with written(path, journal_mode):
        assert changed_blocks(take(path), take(path)) == []


def test_pages_that_were_deleted_keep_their_place(path: Path) -> None:
    with closing(connect(path)) as writer:
        writer.execute("DELETE FROM counts")
    assert len(take(path)) == path.stat().st_size


@pytest.mark.parametrize("name", ["state with space.db", "50%.db", "a?b#c.db", "ünï.sqlite3", "'quoted'"])
def test_a_database_may_have_any_name(tmp_path: Path, name: str) -> None:
    with written(tmp_path / name, rows=1):
        pass
    with source(tmp_path / name).capture() as captured:
        assert [file.name for file in captured.files] == [name]
        assert counts(captured, tmp_path / "copy") == (1, 1)


def test_the_database_is_found_by_a_relative_path_and_through_a_symbolic_link(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    assert take(Path("state.db")) == take(path)
    (path.parent / "below").mkdir()
    (path.parent / "below/link.db").symlink_to(path)
    with source(Path("below/link.db")).capture() as captured:
        assert captured.files[0].name == "link.db"
        assert captured.root.parent.parent == path.parent


def test_a_capture_leaves_the_locks_that_this_process_holds(path: Path) -> None:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('CREATE TABLE t (c)')"
    with closing(connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with source(path).capture():
            done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr
        writer.execute("COMMIT")


def test_the_source_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with written(path):
        pass
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    take(path, verify=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.db"]


# What is refused


def test_a_file_that_does_not_exist_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file") as raised:
        take(tmp_path / "missing.db")
    assert raised.value.hint
    assert not list(tmp_path.iterdir())


def test_a_directory_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a SQLite database"):
        take(tmp_path)


@pytest.mark.parametrize("content", [b"", b"SQLite", b"something else that is long enough" * 100])
def test_a_file_of_another_kind_is_no_database(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UsageError, match="not a SQLite database"):
        take(tmp_path / "f")


def test_a_header_with_nothing_sensible_behind_it_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(UsageError, match="not a SQLite database"):
        take(tmp_path / "f")


def test_a_database_that_was_cut_is_damaged(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10 * PAGE_BYTES)
    with pytest.raises(CorruptError, match="is damaged") as raised:
        take(path)
    assert "integrity_check" in str(raised.value.hint)
    assert not left_over(path)


def test_a_schema_that_cannot_be_read_is_damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(bytes(PAGE_BYTES - 100))
    with pytest.raises(CorruptError, match="is damaged"):
        take(path)


def test_a_damaged_page_is_found_where_verification_was_asked_for(path: Path) -> None:
    page(path, 20, b"\xff" * PAGE_BYTES)
    take(path)
    with pytest.raises(CorruptError, match="is damaged"):
        take(path, verify=True)
    assert not left_over(path)


@pytest.mark.parametrize("lock", ["BEGIN EXCLUSIVE", "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; COMMIT"])
@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_a_lock_that_does_not_go_away_is_named(tmp_path: Path, journal_mode: str, lock: str) -> None:
    path = tmp_path / "state.db"
    with written(path, journal_mode) as writer:
        for statement in lock.split("; "):
            writer.execute(statement)
        if lock.startswith("PRAGMA"):
            insert(writer, 1)
        if journal_mode == "wal" and lock == "BEGIN EXCLUSIVE":
            take(path)  # a reader of a write-ahead log is not in the way of a writer
            return
        with pytest.raises(UnavailableError, match="locked by another process") as raised:
            take(path)
        assert "WAL" in str(raised.value.hint)
    assert not left_over(path)


def test_a_lock_that_comes_while_the_copy_is_made_ends_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        with pytest.raises(sqlite3.OperationalError, match="locked") as raised:
            sqlite._give_up_if_locked(status, 1, 1)
        assert raised.value.sqlite_errorcode == status
    sqlite._give_up_if_locked(sqlite3.SQLITE_OK, 1, 1)
    sqlite._give_up_if_locked(sqlite3.SQLITE_DONE, 0, 1)


def test_a_writer_can_not_tear_a_copy_that_takes_many_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    monkeypatch.setattr(sqlite, "_STEP_PAGES", 3)
    give_up = sqlite._give_up_if_locked
    with written(path, "wal", rows=500) as writer:

        def write_on(status: int, remaining: int, total: int) -> None:
            give_up(status, remaining, total)
            insert(writer, 20)

        monkeypatch.setattr(sqlite, "_give_up_if_locked", write_on)
        with source(path).capture() as captured:
            assert counts(captured, tmp_path / "copy") == (500, 500)
        assert writer.execute("SELECT count(*) FROM orders").fetchone()[0] > 600


KILLED_WRITER = """
import os, signal, sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("PRAGMA cache_size = 1")
writer.execute("PRAGMA cache_spill = 1")
writer.execute("BEGIN")
writer.execute("UPDATE orders SET body = zeroblob(201)")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_database_left_in_the_middle_of_a_transaction_must_be_recovered_first(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED_WRITER, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.with_name("state.db-journal").stat().st_size > 0
    with pytest.raises(UnavailableError, match="in the middle of a transaction") as raised:
        take(path)
    assert raised.value.hint == f'let SQLite recover it: sqlite3 {path} "PRAGMA user_version"'
    with closing(connect(path)) as connection:
        connection.execute("PRAGMA user_version").fetchone()
    with source(path).capture() as captured:
        assert counts(captured, tmp_path / "copy") == (2000, 2000)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, NoSpaceError),
        (sqlite3.SQLITE_IOERR, UnavailableError),
        (sqlite3.SQLITE_IOERR_READ, UnavailableError),
        (sqlite3.SQLITE_CANTOPEN, UnavailableError),
        (sqlite3.SQLITE_PERM, AccessDeniedError),
        (sqlite3.SQLITE_CORRUPT_VTAB, CorruptError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, UnavailableError),
        (sqlite3.SQLITE_NOTADB, UsageError),
    ],
)
def test_what_sqlite_says_is_told_by_its_kind(path: Path, code: int, kind: type[EoctlError]) -> None:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    assert type(sqlite._error_of(error, path)) is kind
    assert "state.db" in sqlite._error_of(error, path).message


def test_an_error_without_a_code_is_told_all_the_same(path: Path) -> None:
    assert "odd" in sqlite._error_of(sqlite3.ProgrammingError("odd"), path).message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(AccessDeniedError, match=r"state\.db"):
        take(path)


# The private directory


def test_nothing_is_left_when_the_reader_fails(path: Path) -> None:
    def read() -> None:
        with source(path).capture() as captured:
            assert left_over(path) == [captured.root.parent]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read()
    assert not left_over(path)


KILLED = """
import os, signal, sys
from pathlib import Path
from eoctl.engines.sqlite import SqliteSource
with SqliteSource(Path(sys.argv[1])).capture():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_capture_left_is_removed_by_the_next(path: Path) -> None:
    root = Path(sqlite.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert left_over(path)
    take(path)
    assert not left_over(path)


def test_a_new_directory_is_taken_where_another_capture_swept_it_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, swept = sqlite._locks, list[Path]()

    def lock_too_late(descriptor: int) -> bool:
        if not swept:
            swept.extend(left_over(path))
            shutil.rmtree(swept[0])
        return lock(descriptor)

    monkeypatch.setattr(sqlite, "_locks", lock_too_late)
    with source(path).capture() as captured:
        assert left_over(path) == [captured.root.parent] != swept


def test_where_nothing_can_be_locked_nothing_is_left(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent))
    monkeypatch.setattr(sqlite, "_locks", lambda _descriptor: False)
    with pytest.raises(UnavailableError, match="no private directory can be made"):
        take(path)
    assert not left_over(path)
