"""Flink's folders: what is found below a root, and where handles may lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eoctl.engines.flink import find_folders, is_snapshot, open_snapshot
from eoctl.engines.flink_paths import Mapping, Paths, fault_of, named_root, paths_of
from formats.errors import AccessDeniedError, CorruptError, EoctlError, SnapshotNotFoundError, UnsupportedError
from formats.flink.handles import AbsoluteFile, EmptySegment, Inline, RelativeFile, Scope, Segment
from tests.support.flink import JOB, SNAPSHOTS, WRITTEN_AT, unpack

OTHER_JOB = "b" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one job, a checkpoint of it and a secret beside them."""
    folder = tmp_path / "checkpoints"
    for name in ("shared", "taskowned", "chk-7"):
        (folder / JOB / name).mkdir(parents=True)
    (folder / JOB / "shared" / "one").write_bytes(b"0123456789")
    (folder / JOB / "chk-7" / "two").write_bytes(b"abc")
    (folder / "secret").write_text("secret")
    (tmp_path / "outside").write_text("outside")
    return folder


def paths(root: Path, *mappings: Mapping) -> Paths:
    return paths_of(root / JOB / "chk-7", mappings)


def located(found: Paths, handle: Any) -> str:
    place = found.locate(handle)
    assert place is not None
    return place.path


def test_relative_and_absolute_handles_lead_to_the_files(root: Path) -> None:
    found = paths(root)
    assert located(found, RelativeFile("two", 3)) == str(root / JOB / "chk-7" / "two")
    for spelled in (f"file:{root}", f"file://{root}", f"file://localhost{root}", str(root), f"FILE:{root}"):
        assert located(found, AbsoluteFile(f"{spelled}/{JOB}/shared/one", 10)) == str(root / JOB / "shared" / "one")
    segment = Segment(f"file:{root}/{JOB}/shared/one", 2, 3, Scope.SHARED, "x")
    with found.open(segment) as part:
        assert part.read() == b"234"
    with found.open(Inline("x", b"inline")) as inline, found.open(EmptySegment()) as empty:
        assert (inline.read(), empty.read()) == (b"inline", b"")
    assert found.locate(Inline("x", b"")) is None


@pytest.mark.parametrize(
    "name",
    [
        "../../secret", "/etc/passwd", "..", ".", "", "a/../../../secret", "a//b", "two\0",
        "shared/../../../../outside", "./two",
    ],
)  # fmt: skip
def test_a_relative_handle_never_leaves_its_folder(root: Path, name: str) -> None:
    with pytest.raises(AccessDeniedError, match="leads out of"):
        paths(root).locate(RelativeFile(name, 1))


@pytest.mark.parametrize(
    "name",
    [
        "file:/etc/passwd", "/etc/passwd", "file:{root}/secret", "file:{root}/../outside", "file:{root}/{job}/secret",
        "file:{root}/{job}/shared/../../secret", "file:{root}/{job}/shared/..", "file:{root}/{job}/shared/",
        "file:{root}/{job}/other/one", "file:{root}/{job}/shared/\0", "relative", "file:relative", "file://host/etc/x",
        "file:{root}/../../{job}/shared/../../../../etc/passwd", "",
    ],
)  # fmt: skip
def test_an_absolute_handle_never_leaves_the_jobs_folders(root: Path, name: str) -> None:
    with pytest.raises(EoctlError) as error:
        paths(root).locate(AbsoluteFile(name.format(root=root, job=JOB), 1))
    assert isinstance(error.value, AccessDeniedError | UnsupportedError)


@pytest.mark.parametrize("name", ["s3://bucket/x", "hdfs://host:8020/x", "http://127.0.0.1:1/x", "jar:file:/x!/y"])
def test_no_other_place_is_asked(root: Path, name: str) -> None:
    with pytest.raises(UnsupportedError, match="another file system"):
        paths(root).locate(AbsoluteFile(name, 1))


def test_links_that_lead_away_are_not_followed(root: Path, tmp_path: Path) -> None:
    (root / JOB / "chk-7" / "link").symlink_to(tmp_path / "outside")
    (root / JOB / "shared" / "link").symlink_to(tmp_path / "outside")
    (root / JOB / "shared" / "near").symlink_to(root / "secret")
    (root / JOB / "shared" / "good").symlink_to(root / JOB / "shared" / "one")
    (root / OTHER_JOB).mkdir()
    (root / OTHER_JOB / "shared").symlink_to(tmp_path)
    found = paths(root)
    for handle in (
        RelativeFile("link", 7),
        AbsoluteFile(f"file:{root}/{JOB}/shared/link", 7),
        AbsoluteFile(f"file:{root}/{JOB}/shared/near", 7),
        AbsoluteFile(f"file:{root}/{OTHER_JOB}/shared/outside", 7),
    ):
        with pytest.raises(AccessDeniedError):
            found.locate(handle)
    assert located(found, AbsoluteFile(f"file:{root}/{JOB}/shared/good", 10)) == str(root / JOB / "shared" / "one")


def test_a_moved_snapshot_finds_its_files_from_the_jobs_folder_on(root: Path) -> None:
    for old in ("file:/old/place", "s3://bucket/flink", "hdfs://host/x"):
        place = paths(root).locate(AbsoluteFile(f"{old}/{JOB}/shared/one", 10))
        assert place is not None
        assert (place.path, place.moved) == (str(root / JOB / "shared" / "one"), True)
    with pytest.raises(AccessDeniedError):
        paths(root).locate(AbsoluteFile(f"file:/old/place/{OTHER_JOB}/shared/one", 10))


def test_a_mapping_allows_a_place_and_no_more(root: Path, tmp_path: Path) -> None:
    found = paths(root, Mapping("s3://bucket/flink", tmp_path), Mapping("s3://bucket/flink/deep", root))
    assert located(found, AbsoluteFile("s3://bucket/flink/outside", 7)) == str(tmp_path / "outside")
    assert located(found, AbsoluteFile("s3://bucket/flink/deep/secret", 6)) == str(root / "secret")
    for name in ("s3://bucket/flinkier/outside", "s3://other/flink/outside", "s3://bucket/flink/../outside"):
        with pytest.raises(EoctlError):
            found.locate(AbsoluteFile(name, 7))
    plain = paths(root, Mapping(f"file:{tmp_path}", tmp_path))
    place = plain.locate(AbsoluteFile(f"{tmp_path}/outside", 7))
    assert place is not None
    assert (place.path, place.moved) == (str(tmp_path / "outside"), False)


def test_a_named_root_allows_all_that_lies_below(root: Path) -> None:
    found = paths_of(root / JOB / "chk-7", (), named_root(root))
    assert located(found, AbsoluteFile(f"file:{root}/secret", 6)) == str(root / "secret")
    with pytest.raises(AccessDeniedError):
        found.locate(AbsoluteFile(f"file:{root}/../outside", 7))


def test_of_several_folders_of_one_job_the_nearest_is_meant(tmp_path: Path) -> None:
    for case in ("a", "b"):
        (tmp_path / case / JOB / "shared").mkdir(parents=True)
        (tmp_path / case / JOB / "chk-1").mkdir()
    found = paths_of(tmp_path / "b" / JOB / "chk-1", (), named_root(tmp_path))
    assert located(found, AbsoluteFile(f"file:/x/{JOB}/shared/y", 1)) == str(tmp_path / "b" / JOB / "shared" / "y")


def test_what_is_missing_or_of_another_size_is_told(root: Path) -> None:
    found = paths(root)

    def fault(handle: Any) -> str | None:
        place = found.locate(handle)
        assert place is not None
        return fault_of(place)

    shared = f"file:{root}/{JOB}/shared"
    assert fault(RelativeFile("two", 3)) is None
    assert fault(RelativeFile("nothing", 3)) == "is missing"
    assert fault(RelativeFile("two", 4)) == "has 3 bytes, not 4"
    assert fault(RelativeFile("two", 2)) == "has 3 bytes, not 2"
    assert fault(Segment(f"{shared}/one", 8, 2, Scope.SHARED, "")) is None
    assert fault(Segment(f"{shared}/one", 8, 3, Scope.SHARED, "")) == "has 10 bytes, not 11"
    with pytest.raises(CorruptError, match="is missing"):
        found.open(RelativeFile("nothing", 3))


@pytest.mark.parametrize("case", sorted({snapshot.case for snapshot in SNAPSHOTS}))
def test_every_file_of_the_corpus_is_found_where_it_was_unpacked(case: str, tmp_path: Path) -> None:
    folder = unpack(case, tmp_path)
    root = named_root(folder)
    found = {Path(str(path)).relative_to(tmp_path).as_posix() for path in find_folders(folder) if is_snapshot(path)}
    assert found == {snapshot.name for snapshot in SNAPSHOTS if snapshot.case == case}
    for name in found:
        snapshot = open_snapshot(tmp_path / name, (), root)
        pieces = [piece for piece in snapshot.pieces() if piece.file]
        assert [piece.look() for piece in pieces] == [None] * len(pieces)
        assert all(Path(piece.file).is_relative_to(folder) for piece in pieces)
        assert len(pieces) == next(each.files for each in SNAPSHOTS if each.name == name)


def test_a_half_written_checkpoint_is_found_and_is_no_snapshot(tmp_path: Path) -> None:
    folder = unpack("a-crash", tmp_path)
    chk4 = folder / "checkpoints" / JOB / "chk-4"
    assert [str(path) for path in find_folders(folder) if not is_snapshot(path)] == [str(chk4)]
    with pytest.raises(SnapshotNotFoundError, match="not a complete checkpoint"):
        open_snapshot(chk4)


def test_checkpoints_are_found_in_the_order_of_their_numbers(root: Path) -> None:
    for number in (10, 9, 100):
        (root / JOB / f"chk-{number}").mkdir()
    assert [path.name for path in find_folders(root)] == ["chk-7", "chk-9", "chk-10", "chk-100"]


def test_a_snapshot_may_be_named_by_its_metadata(tmp_path: Path) -> None:
    folder = unpack("a-savepoint-native", tmp_path)
    savepoint = next((folder / "savepoints").iterdir())
    one, two = open_snapshot(savepoint), open_snapshot(savepoint / "_metadata")
    assert one == two
    assert (one.is_savepoint, one.job, one.metadata.checkpoint_id) == (True, "", 2)
    with pytest.raises(SnapshotNotFoundError, match="no snapshot of Flink"):
        open_snapshot(folder)


def test_the_paths_of_the_corpus_are_those_it_was_written_at(tmp_path: Path) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path)
    snapshot = open_snapshot(folder / "checkpoints" / JOB / "chk-8")
    names = {piece.stream.handle.path for piece in snapshot.pieces() if isinstance(piece.stream.handle, AbsoluteFile)}
    assert all(name.startswith(f"file:{WRITTEN_AT}/a-rocksdb-incremental/") for name in names)
    assert all(piece.located is not None and piece.located.moved for piece in snapshot.pieces()
               if isinstance(piece.stream.handle, AbsoluteFile))  # fmt: skip
