"""A RocksDB directory captured beside its writer: whatever the writer does meanwhile, the capture is a prefix."""

import errno
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eoctl.engines import rocksdb
from eoctl.engines.rocksdb import TRIES, RocksdbCheckpoint, RocksdbSource
from eoctl.engines.source import Captured
from formats.errors import (
    CorruptError,
    EoctlError,
    SourceChangedError,
    UnavailableError,
    UnsupportedError,
    UsageError,
)
from formats.manifest import StateInfo
from storage.packing import Layout

pytest.importorskip("rocksdict")
import rocksdict

pytestmark = pytest.mark.rocksdb

ALL = os.environ.get("EOCTL_TEST_ALL") == "1"
COUNTER = struct.Struct(">Q")
STEPS = ("options", "looked", "listed", "tables", "logs")
INSIDE = STEPS[1:]  # steps after which a change of MANIFEST must not go unseen


def options(**settings: object) -> rocksdict.Options:
    made = rocksdict.Options(raw_mode=True)
    made.create_if_missing(True)
    made.create_missing_column_families(True)
    made.set_disable_auto_compactions(True)  # so that a test decides what happens when
    for name, value in settings.items():
        getattr(made, f"set_{name}")(value)
    return made


class Writer:
    """A database with a counter that every batch raises in both column families."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.path, self.count, self._settings = path, 0, settings
        self.open()

    def open(self) -> None:
        families = {"counts": options(**self._settings)}
        if (self.path / "CURRENT").exists():
            known = rocksdict.Rdict.list_cf(str(self.path))
            families = {name: options(**self._settings) for name in known if name != "default"}
        self.database = rocksdict.Rdict(str(self.path), options(**self._settings), column_families=families)

    def close(self) -> None:
        self.database.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def write(self, batches: int = 1) -> None:
        for _ in range(batches):
            self.count += 1
            batch = rocksdict.WriteBatch(raw_mode=True)
            for name in ("default", "counts"):
                family = self.database.get_column_family_handle(name)
                batch.put(b"counter", COUNTER.pack(self.count), family)
                batch.put(b"at %d" % self.count, bytes(100), family)
            self.database.write(batch)

    def flush(self, *names: str) -> None:
        for name in names or ("default", "counts"):
            family = self.database.get_column_family(name)
            family.flush()
            family.close()

    def compact(self) -> None:
        self.flush()
        self.database.compact_range(None, None)

    def add_family(self) -> None:
        name = f"family {len(rocksdict.Rdict.list_cf(str(self.path)))}"
        self.database.create_column_family(name, options(**self._settings)).close()

    def drop_family(self) -> None:
        self.database.drop_column_family(max(rocksdict.Rdict.list_cf(str(self.path))))


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path / "db")
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Writer(tmp_path_factory.mktemp("template") / "db")
    made.write(3)
    made.flush()
    made.write(2)
    made.close()
    return made.path


@pytest.fixture
def closed(template: Path, tmp_path: Path) -> Path:
    """A database with tables in both column families."""
    return shutil.copytree(template, tmp_path / "db")


def no_wait(_seconds: float) -> None: ...


def no_step(_name: str) -> None: ...


def source(path: Path, *, verify: bool = False, step: Callable[[str], None] = no_step) -> RocksdbSource:
    return RocksdbSource(path, verify=verify, wait=no_wait, step=step)


def once(step: str, action: Callable[[], object]) -> Callable[[str], None]:
    """A hook that acts the first time that `step` is done."""
    todo = [action]

    def hook(name: str) -> None:
        if name == step and todo:
            todo.pop()()

    return hook


def counters(captured: Captured, to: Path) -> tuple[int, int]:
    """What a database opened on a copy of exactly the captured files says."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for file in captured.files:
        shutil.copyfile(captured.root / file.name, to / file.name)
        assert (to / file.name).stat().st_size == file.bytes
    with rocksdict.Rdict(str(to)) as database:
        family = database.get_column_family("counts")
        found = [opened.get(b"counter") for opened in (database, family)]
        family.close()
    first, second = (COUNTER.unpack(value)[0] if value else 0 for value in found)
    return first, second


def names(captured: Captured) -> set[str]:
    return {file.name for file in captured.files}


def newest(path: Path, pattern: str) -> Path:
    return max(path.glob(pattern))


def log_beside(path: Path, number: int) -> Path:
    return path / f"{number:06d}.log"


def log_number(path: Path) -> int:
    return int(newest(path, "*.log").stem)


def left_over(path: Path) -> list[Path]:
    return list(path.parent.glob(".eoctl-capture-*"))


def take(path: Path, *, verify: bool = False, step: Callable[[str], None] = no_step) -> None:
    with source(path, verify=verify, step=step).capture():
        pass


# What is captured


def test_a_closed_database_is_captured_whole(closed: Path, tmp_path: Path) -> None:
    with source(closed).capture() as captured:
        assert counters(captured, tmp_path / "copy") == (5, 5)


def test_a_database_is_captured_beside_its_writer_with_what_is_only_in_the_log(writer: Writer, tmp_path: Path) -> None:
    writer.write(3)
    writer.flush("counts")
    writer.write(4)
    with source(writer.path).capture() as captured:
        writer.write(5)
        writer.compact()
        assert counters(captured, tmp_path / "copy") == (7, 7)


def test_names_are_those_of_the_database_and_what_is_private_to_the_writer_is_left_out(closed: Path) -> None:
    expected = {path.name for path in closed.iterdir()} - {"LOCK", "LOG"}
    older = {path.name for path in closed.glob("OPTIONS-*")} - {newest(closed, "OPTIONS-*").name}
    with source(closed).capture() as captured:
        assert names(captured) == expected - older - {path.name for path in closed.glob("LOG.*")}
        assert {"CURRENT", "IDENTITY", "rocksdict-config.json"} < names(captured)
        assert captured.empty_directories == ()


def test_it_says_what_it_is(closed: Path) -> None:
    with source(closed).capture() as captured:
        assert captured.engine.kind == "rocksdb"
        assert captured.engine.version.count(".") == 2
        assert captured.engine.properties == {
            "captured": "links",
            "column_families": "default,counts",
            "tries": "1",
        }
        assert captured.role == "keyed"
        assert captured.states == (
            StateInfo(name="default", kind="column-family"),
            StateInfo(name="counts", kind="column-family"),
        )
        assert captured.layout is Layout.WHOLE


def test_tables_keep_their_stamps_from_capture_to_capture_and_the_rest_is_fresh(closed: Path) -> None:
    with source(closed).capture() as one:
        first = {file.name: file.stamp for file in one.files}
        assert all((one.root / name).stat().st_nlink == 1 for name in first if not name.endswith(".sst"))
    with source(closed).capture() as two:
        second = {file.name: file.stamp for file in two.files}
    assert {name for name in first if first[name] == second[name]} == {path.name for path in closed.glob("*.sst")}


def test_exactly_the_live_tables_are_captured(writer: Writer) -> None:
    for _ in range(3):
        writer.write(20)
        writer.flush()
    writer.compact()
    writer.write()
    writer.flush("counts")
    (writer.path / "999999.sst").write_bytes(b"a table that is being written")
    with source(writer.path).capture() as captured:
        live = {table["name"].lstrip("/") for table in writer.database.live_files()}
        assert {name for name in names(captured) if name.endswith(".sst")} == live


def test_blob_files_are_captured(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db", enable_blob_files=True, min_blob_size=10)
    writer.write(3)
    writer.flush()
    (writer.path / "999999.blob").write_bytes(b"a file that is being written")
    with source(writer.path, verify=True).capture() as captured:
        blobs = {name for name in names(captured) if name.endswith(".blob")}
        assert blobs == {path.name for path in writer.path.glob("*.blob")} - {"999999.blob"} != set()
        writer.close()
        assert counters(captured, tmp_path / "copy") == (3, 3)


def test_a_long_manifest_is_read_to_its_end(writer: Writer, tmp_path: Path) -> None:
    block_bytes = 32 << 10
    while newest(writer.path, "MANIFEST-*").stat().st_size < 2 * block_bytes:
        key = random.Random(writer.count).randbytes(5000)  # what bounds a table stands in MANIFEST
        writer.database[key] = b""
        writer.write()
        writer.flush()
        if writer.count % 4 == 0:
            writer.compact()
    with source(writer.path).capture() as captured:
        live = {table["name"].lstrip("/") for table in writer.database.live_files()}
        assert live <= names(captured)
        assert counters(captured, tmp_path / "copy") == (writer.count, writer.count)


@pytest.mark.parametrize("name", ["a#b:c", 'quo"ted', "back\\slash", "[brackets]", "two\nlines", "ünï", "a,b"])
def test_a_column_family_may_have_any_name(tmp_path: Path, name: str) -> None:
    families = {name: options()}
    with rocksdict.Rdict(str(tmp_path / "db"), options(), column_families=families):
        pass
    with source(tmp_path / "db", verify=True).capture() as captured:
        assert {state.name for state in captured.states} == {"default", name}


def test_dropped_column_families_and_their_tables_are_left_out(writer: Writer) -> None:
    writer.add_family()
    family = writer.database.get_column_family("family 2")
    family[b"key"] = b"value"
    family.flush()
    family.close()
    writer.drop_family()
    with source(writer.path).capture() as captured:
        assert [state.name for state in captured.states] == ["default", "counts"]
        assert not any(name.endswith(".sst") for name in names(captured))


def test_more_column_families_than_a_property_can_name_are_counted(tmp_path: Path) -> None:
    families = {f"{number}".zfill(600): options() for number in range(8)}
    with rocksdict.Rdict(str(tmp_path / "db"), options(), column_families=families):
        pass
    with source(tmp_path / "db").capture() as captured:
        assert captured.engine.properties["column_families"] == "9"
        assert len(captured.states) == 9


def test_the_newest_log_is_cut_where_it_ended_when_it_was_looked_at(writer: Writer, tmp_path: Path) -> None:
    writer.write(2)
    before = newest(writer.path, "*.log").stat().st_size
    with source(writer.path, step=once("looked", lambda: writer.write(3))).capture() as captured:
        assert captured.engine.properties["tries"] == "1"
        (log,) = (file for file in captured.files if file.name.endswith(".log"))
        assert log.bytes == before
        assert counters(captured, tmp_path / "copy") == (2, 2)


def test_a_record_torn_at_the_end_of_the_newest_log_is_dropped_by_recovery(writer: Writer, tmp_path: Path) -> None:
    writer.write(2)
    log = newest(writer.path, "*.log")
    shutil.copytree(writer.path, tmp_path / "torn")
    os.truncate(tmp_path / "torn" / log.name, log.stat().st_size - 1)
    with source(tmp_path / "torn").capture() as captured:
        assert counters(captured, tmp_path / "copy") == (1, 1)


def test_a_database_that_was_moved_is_captured_though_its_options_name_the_old_place(
    closed: Path, tmp_path: Path
) -> None:
    moved = closed.rename(tmp_path / "moved")
    with source(moved).capture() as captured:
        assert counters(captured, tmp_path / "copy") == (5, 5)


def test_a_checkpoint_that_was_never_opened_is_a_database_too(writer: Writer, tmp_path: Path) -> None:
    writer.write(3)
    rocksdict.Checkpoint(writer.database).create_checkpoint(str(tmp_path / "checkpoint"))
    for log in (tmp_path / "checkpoint").glob("*.log"):
        log.unlink()
    with source(tmp_path / "checkpoint").capture() as captured:
        assert counters(captured, tmp_path / "copy") == (3, 3)


def test_a_capture_is_a_database_again(closed: Path, tmp_path: Path) -> None:
    with source(closed).capture() as one:
        shutil.copytree(one.root, tmp_path / "restored")
    with source(tmp_path / "restored").capture() as two:
        assert names(two) == names(one)
        assert counters(two, tmp_path / "copy") == (5, 5)


def test_the_database_is_found_through_a_symbolic_link(closed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/link").symlink_to(closed)
    with source(tmp_path / "elsewhere/link").capture() as captured:
        assert captured.root.parent.parent == tmp_path
        assert captured.engine.properties["captured"] == "links"


# Interference between the steps of a try


ACTIONS: dict[str, Callable[[Writer], None]] = {
    "flushes": lambda writer: writer.flush(),
    "flushes one family": lambda writer: writer.flush("counts"),
    "compacts": Writer.compact,
    "reopens": Writer.reopen,
    "adds a family": Writer.add_family,
}


PAIRS = [(step, action) for step in STEPS for action in ACTIONS if ALL or step == "tables" or action == "flushes"]


@pytest.mark.parametrize(("step", "action"), PAIRS)
def test_a_change_of_manifest_while_a_try_goes_on_makes_another_try(
    writer: Writer, tmp_path: Path, step: str, action: str
) -> None:
    writer.write(3)
    writer.flush()
    writer.write(3)
    writer.flush("default")
    writer.write(3)

    def interfere() -> None:
        writer.write()
        ACTIONS[action](writer)
        writer.write()

    with source(writer.path, step=once(step, interfere)).capture() as captured:
        assert step == "options" or int(captured.engine.properties["tries"]) >= 2
        assert counters(captured, tmp_path / "copy") == (11, 11)
        assert len(captured.states) == len(rocksdict.Rdict.list_cf(str(writer.path)))


@pytest.mark.parametrize("step", STEPS)
def test_a_write_needs_no_other_try(writer: Writer, tmp_path: Path, step: str) -> None:
    writer.write(3)
    with source(writer.path, step=once(step, lambda: writer.write(2))).capture() as captured:
        assert captured.engine.properties["tries"] == "1"
        expected = 5 if step == "options" else 3
        assert counters(captured, tmp_path / "copy") == (expected, expected)


@pytest.mark.parametrize("seed", range(100 if ALL else 2))
def test_whatever_happens_at_any_step_the_capture_is_a_prefix_that_holds_all_that_was_there(
    writer: Writer, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    chances = [Writer.write, *ACTIONS.values()]

    def interfere(_step: str) -> None:
        if rng.random() < 0.2:
            writer.write(rng.randrange(3))
            rng.choice(chances)(writer)

    for _ in range(5):
        writer.write(rng.randrange(1, 4))
        rng.choice(chances)(writer)
        low = writer.count
        with source(writer.path, step=interfere).capture() as captured:
            first, second = counters(captured, tmp_path / "copy")
            assert first == second
            assert low <= first <= writer.count


@pytest.mark.parametrize("step", INSIDE)
def test_a_table_that_vanishes_makes_another_try(writer: Writer, tmp_path: Path, step: str) -> None:
    for _ in range(2):
        writer.write()
        writer.flush()
    before = set(writer.path.glob("*.sst"))

    def replace_tables() -> None:
        writer.compact()
        assert not before <= set(writer.path.glob("*.sst"))

    with source(writer.path, step=once(step, replace_tables)).capture() as captured:
        assert int(captured.engine.properties["tries"]) >= 2
        assert counters(captured, tmp_path / "copy") == (2, 2)


def test_a_table_that_nobody_needs_may_vanish(closed: Path) -> None:
    obsolete = closed / "000001.sst"
    obsolete.write_bytes(b"deleted soon")
    with source(closed, step=once("listed", obsolete.unlink)).capture() as captured:
        assert captured.engine.properties["tries"] == "1"


@pytest.mark.parametrize("step", INSIDE)
def test_an_older_log_that_grows_makes_another_try(writer: Writer, tmp_path: Path, step: str) -> None:
    # With `manual_wal_flush` the end of a log may be written when its successor exists already.
    writer.write(2)
    older = newest(writer.path, "*.log")
    writer.flush("counts")
    writer.write(2)
    assert older.exists()
    assert newest(writer.path, "*.log") != older

    def grow() -> None:
        with older.open("ab") as log:
            log.write(bytes(7))

    with source(writer.path, step=once(step, grow)).capture() as captured:
        assert captured.engine.properties["tries"] == "2"
        assert (captured.root / older.name).stat().st_size == older.stat().st_size
        assert counters(captured, tmp_path / "copy") == (4, 4)


@pytest.mark.parametrize("step", INSIDE)
def test_a_log_that_is_deleted_makes_another_try(writer: Writer, step: str) -> None:
    writer.write()
    old = log_beside(writer.path, 1)
    old.write_bytes(b"")
    with source(writer.path, step=once(step, old.unlink)).capture() as captured:
        assert captured.engine.properties["tries"] == "2"
        assert old.name not in names(captured)


@pytest.mark.parametrize("step", INSIDE)
def test_the_newest_log_that_shrinks_makes_another_try(writer: Writer, step: str) -> None:
    writer.write()
    last = log_beside(writer.path, log_number(writer.path) + 100)
    last.write_bytes(bytes(100))
    with source(writer.path, step=once(step, lambda: os.truncate(last, 0))).capture() as captured:
        assert captured.engine.properties["tries"] == "2"
    assert not left_over(writer.path)


@pytest.mark.parametrize("step", INSIDE)
def test_a_log_born_after_the_listing_is_left_out(writer: Writer, tmp_path: Path, step: str) -> None:
    writer.write(2)
    born = log_beside(writer.path, log_number(writer.path) + 1)
    hook = once(step, lambda: shutil.copyfile(newest(writer.path, "*.log"), born))
    with source(writer.path, step=hook).capture() as captured:
        assert captured.engine.properties["tries"] == "1"
        assert born.name not in names(captured)
        assert counters(captured, tmp_path / "copy") == (2, 2)


@pytest.mark.parametrize("step", INSIDE)
def test_a_log_that_shows_late_before_the_newest_makes_another_try(writer: Writer, step: str) -> None:
    # A listing may miss what is born while it goes on, though it shows what is born later.
    writer.write(2)
    late = log_beside(writer.path, log_number(writer.path) - 1)
    with source(writer.path, step=once(step, late.touch)).capture() as captured:
        assert captured.engine.properties["tries"] == "2"
        assert late.name in names(captured)


def test_options_that_lag_behind_manifest_make_another_try(writer: Writer) -> None:
    behind = newest(writer.path, "OPTIONS-*").read_bytes()
    writer.add_family()
    path = newest(writer.path, "OPTIONS-*")
    present = path.read_bytes()
    path.write_bytes(behind)
    hook = once("logs", lambda: path.write_bytes(present))
    with source(writer.path, step=hook).capture() as captured:
        assert captured.engine.properties["tries"] == "2"
        assert len(captured.states) == 3


def test_a_source_that_never_rests_is_given_up_with_advice(closed: Path) -> None:
    waits: list[float] = []
    manifest = newest(closed, "MANIFEST-*")

    def touch(step: str) -> None:
        if step == "tables":
            os.utime(manifest, ns=(1, manifest.stat().st_mtime_ns + 1))

    with pytest.raises(SourceChangedError, match=f"in each of {TRIES} tries.*MANIFEST changed") as raised:
        RocksdbSource(closed, wait=waits.append, step=touch).capture().__enter__()
    assert "RocksdbCheckpoint" in str(raised.value.hint)
    assert waits == sorted(waits)
    assert (len(waits), waits[0], waits[-1]) == (TRIES, 0.001, 0.05)
    assert not left_over(closed)


# What is refused


def test_a_directory_without_current_is_no_rocksdb(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a RocksDB directory"):
        take(tmp_path)
    with pytest.raises(UsageError, match="not a RocksDB directory"):
        take(tmp_path / "missing")


def test_a_directory_without_options_is_not_supported(closed: Path) -> None:
    for path in closed.glob("OPTIONS-*"):
        path.unlink()
    with pytest.raises(UnsupportedError, match="no OPTIONS file"):
        take(closed)


@pytest.mark.parametrize("content", [b"", b"MANIFEST-", b"../MANIFEST-000001\n", b"\xff\xfe"])
def test_a_current_that_names_no_manifest_is_damage(closed: Path, content: bytes) -> None:
    (closed / "CURRENT").write_bytes(content)
    with pytest.raises(CorruptError, match="names no MANIFEST"):
        take(closed)


def test_recycled_logs_are_not_supported(tmp_path: Path) -> None:
    Writer(tmp_path / "db", recycle_log_file_num=2).close()
    with pytest.raises(UnsupportedError, match="recycle_log_file_num") as raised:
        take(tmp_path / "db")
    assert "RocksdbCheckpoint" in str(raised.value.hint)


def test_recovery_that_bears_no_torn_record_is_not_supported(tmp_path: Path) -> None:
    Writer(tmp_path / "db", wal_recovery_mode=rocksdict.DBRecoveryMode.absolute_consistency()).close()
    with pytest.raises(UnsupportedError, match="kAbsoluteConsistency"):
        take(tmp_path / "db")


def test_logs_elsewhere_are_not_supported(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "db", wal_dir=str(tmp_path / "logs"))
    writer.write()
    with pytest.raises(UnsupportedError, match=r"wal_dir=.*/logs"):
        take(writer.path)
    writer.close()


def test_logs_elsewhere_are_noticed_though_old_ones_are_here(tmp_path: Path) -> None:
    Writer(tmp_path / "db").close()
    writer = Writer(tmp_path / "db", wal_dir=str(tmp_path / "logs"))
    writer.write()
    old = log_beside(writer.path, 4)
    old.touch()
    with pytest.raises(UnsupportedError, match="wal_dir"):
        take(writer.path)
    writer.close()


def test_tables_elsewhere_are_not_supported(tmp_path: Path) -> None:
    paths = [rocksdict.DBPath(str(tmp_path / "tables"), 1 << 30)]
    writer = Writer(tmp_path / "db", db_paths=paths)
    writer.write()
    writer.flush()
    with pytest.raises(UnsupportedError, match="db_paths"):
        take(writer.path)
    writer.close()


def test_a_lost_table_is_noticed(closed: Path) -> None:
    newest(closed, "*.sst").unlink()
    with pytest.raises(UnsupportedError, match="elsewhere, or lost"):
        take(closed)


def test_a_table_that_is_not_as_long_as_manifest_says_is_damage(closed: Path) -> None:
    table = newest(closed, "*.sst")
    os.truncate(table, table.stat().st_size - 1)
    with pytest.raises(CorruptError, match=r"table \d+ .* bytes \(MANIFEST: \d+\)"):
        take(closed)


@pytest.mark.parametrize("pattern", ["*.sst", "*.log", "MANIFEST-*"])
def test_symbolic_links_are_refused(closed: Path, tmp_path: Path, pattern: str) -> None:
    path = newest(closed, pattern)
    path.symlink_to(path.rename(tmp_path / "moved"))
    with pytest.raises(UnsupportedError, match="symbolic links"):
        take(closed)


def test_every_damage_to_manifest_is_told_or_harmless(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocksdb, "_WAIT_SECONDS", (0.0,))
    manifest = newest(closed, "MANIFEST-*")
    content = manifest.read_bytes()
    places = range(0, len(content), 1 if ALL else 16)
    damaged = [content[:length] for length in places]
    for at in places:
        changed = {0, 0xFF, content[at] ^ 1} - {content[at]}
        damaged += [content[:at] + bytes([byte]) + content[at + 1 :] for byte in sorted(changed)]
    for bad in damaged:
        manifest.write_bytes(bad)
        try:
            take(closed)
        except EoctlError:
            assert not left_over(closed)


def test_a_manifest_field_of_the_future_is_refused_unless_it_may_be_ignored(closed: Path) -> None:
    manifest = newest(closed, "MANIFEST-*")
    content = manifest.read_bytes()
    # Tag 8300 (two bytes of 7 bits, low first) holds a string of one byte; tag 500 is not known.
    manifest.write_bytes(content + struct.pack("<IHB", 0, 4, 1) + b"\xec\x40\x01x")
    take(closed)
    manifest.write_bytes(content + struct.pack("<IHB", 0, 3, 1) + b"\xf4\x03\x01")
    with pytest.raises(UnsupportedError, match="tag 500"):
        take(closed)
    manifest.write_bytes(content + struct.pack("<IHB", 0, 1, 9) + b"x")
    with pytest.raises(UnsupportedError, match="unknown kind 9"):
        take(closed)


# Where links are impossible


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP])
def test_files_are_copied_where_they_cannot_be_linked(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    writer.write(2)
    writer.flush()
    writer.write(2)
    held = newest(writer.path, "*.sst")
    (writer.path / "999999.sst").write_bytes(b"half")

    def interfere() -> None:
        writer.flush("counts")
        (writer.path / "999999.sst").write_bytes(b"half and more")

    with source(writer.path, step=once("tables", interfere)).capture() as captured:
        assert captured.engine.properties["captured"] == "copy"
        assert int(captured.engine.properties["tries"]) >= 2
        assert (captured.root / held.name).stat().st_ino != held.stat().st_ino
        assert "999999.sst" not in names(captured)
        assert counters(captured, tmp_path / "copy") == (4, 4)


def test_a_table_copied_while_it_was_written_is_copied_again(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    writer.write(2)
    writer.flush()
    # Half of the table that the next flush will make is there already.
    number = max(int(path.stem) for path in writer.path.glob("*.*") if path.stem.isdigit())
    halves = [writer.path / f"{number + ahead:06d}.sst" for ahead in range(1, 9)]
    for half in halves:
        half.write_bytes(b"half")

    def flush() -> None:
        writer.write()
        writer.flush()

    with source(writer.path, step=once("tables", flush)).capture() as captured:
        assert counters(captured, tmp_path / "copy") == (3, 3)


def test_another_place_is_used_where_no_directory_can_be_made_beside(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tempfile.mkdtemp

    def refuse(*, prefix: str, dir: Path) -> str:  # noqa: A002
        if dir == closed.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir))
        return make(prefix=prefix, dir=dir)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with source(closed).capture() as captured:
        assert captured.root.is_relative_to(elsewhere)
        assert counters(captured, tmp_path / "copy") == (5, 5)
    assert not list(elsewhere.iterdir())

    monkeypatch.setattr(tempfile, "tempdir", str(closed.parent))
    with pytest.raises(UnavailableError, match="no private directory can be made"):
        take(closed)


# Verification


def test_verification_opens_a_copy_and_leaves_the_capture_as_it_is(closed: Path, tmp_path: Path) -> None:
    with source(closed).capture() as captured:
        expected = names(captured)
    with source(closed, verify=True).capture() as captured:
        assert names(captured) == expected == {path.name for path in captured.root.iterdir()}
        assert counters(captured, tmp_path / "copy") == (5, 5)


def test_verification_reads_what_a_listing_cannot_see(closed: Path) -> None:
    table = newest(closed, "*.sst")
    content = bytearray(table.read_bytes())
    content[5:50] = bytes(45)
    table.write_bytes(content)
    take(closed)
    with pytest.raises(CorruptError, match=r"does not open: .*[Cc]orruption"):
        take(closed, verify=True)
    assert not left_over(closed)


def test_verification_without_rocksdict_says_what_to_install(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rocksdict", None)
    take(closed)
    with pytest.raises(UnsupportedError, match="rocksdict") as raised:
        take(closed, verify=True)
    assert raised.value.hint == "pip install eoctl[rocksdb]"


def test_the_module_loads_without_rocksdict() -> None:
    code = "import sys, eoctl.engines.rocksdb; sys.exit('rocksdict' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(rocksdb.__file__).parents[2], check=True)


# The private directory


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_nothing_is_left_when_the_reader_fails(closed: Path, error: type[BaseException]) -> None:
    def read() -> None:
        with source(closed).capture() as captured:
            assert left_over(closed) == [captured.root.parent]
            raise error

    with pytest.raises(error):
        read()
    assert not left_over(closed)


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_left_when_a_step_is_interrupted(closed: Path, step: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take(closed, step=once(step, interrupt))
    assert not left_over(closed)


KILLED = """
import os, signal, sys
from pathlib import Path
from eoctl.engines.rocksdb import RocksdbSource
with RocksdbSource(Path(sys.argv[1])).capture():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_capture_left_is_removed_by_the_next(closed: Path) -> None:
    root = Path(rocksdb.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(closed)], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = left_over(closed)
    with source(closed).capture() as captured:
        assert left_over(closed) == [captured.root.parent] != [left]


def test_a_directory_that_was_left_before_it_was_locked_is_removed_too(closed: Path) -> None:
    (closed.parent / ".eoctl-capture-x").mkdir()
    take(closed)
    assert not left_over(closed)


def test_a_capture_leaves_another_that_goes_on_alone(closed: Path, tmp_path: Path) -> None:
    with source(closed).capture() as one, source(closed).capture() as two:
        assert set(left_over(closed)) == {one.root.parent, two.root.parent}
        assert counters(one, tmp_path / "copy") == counters(two, tmp_path / "copy") == (5, 5)


def test_a_link_that_is_named_like_a_leftover_is_not_followed(closed: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (closed.parent / ".eoctl-capture-x").symlink_to(tmp_path / "precious")
    take(closed)
    assert (tmp_path / "precious").is_dir()
    assert not list((tmp_path / "precious").iterdir())


# From inside


def test_a_checkpoint_holds_the_state_as_of_now(writer: Writer, tmp_path: Path) -> None:
    writer.write(3)
    writer.flush("counts")
    writer.write(2)
    with RocksdbCheckpoint(writer.database).capture() as captured:
        writer.write(2)
        writer.compact()
        assert counters(captured, tmp_path / "copy") == (5, 5)
        assert captured.root.parent.parent == writer.path.parent
        assert captured.engine.kind == "rocksdb"
        assert captured.engine.properties == {"captured": "checkpoint", "column_families": "default,counts"}
        assert captured.role == "keyed"
        assert [state.name for state in captured.states] == ["default", "counts"]
        assert captured.layout is Layout.WHOLE
    assert not left_over(writer.path)


def test_tables_keep_their_stamps_from_checkpoint_to_checkpoint(writer: Writer) -> None:
    writer.write(3)
    stamps = []
    for _ in range(2):
        with RocksdbCheckpoint(writer.database).capture() as captured:
            stamps.append({file.name: file.stamp for file in captured.files if file.name.endswith(".sst")})
    assert stamps[0] == stamps[1] != {}


def test_a_checkpoint_that_cannot_be_made_says_why(writer: Writer) -> None:
    writer.write()
    writer.flush()
    newest(writer.path, "*.sst").unlink()
    with pytest.raises(UnavailableError, match=r"no checkpoint of .*No such file"):
        RocksdbCheckpoint(writer.database).capture().__enter__()
    assert not left_over(writer.path)


def test_a_checkpoint_by_a_handle_that_is_not_for_writing_is_refused(writer: Writer) -> None:
    writer.write()
    reader = rocksdict.Rdict(str(writer.path), options(), {"counts": options()}, rocksdict.AccessType.read_only(False))
    with pytest.raises(UnavailableError, match=r"no checkpoint of .*read only"):
        RocksdbCheckpoint(reader).capture().__enter__()
    reader.close()
