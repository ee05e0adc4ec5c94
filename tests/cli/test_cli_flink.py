"""`eoctl flink`: what it tells of real snapshots, and what it writes."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from eoctl.engines.flink import open_snapshot
from eoctl.engines.flink_paths import Mapping
from eoctl.engines.flink_states import flink_states
from formats.flink.handles import AbsoluteFile, RelativeFile, SavepointKeyGroups, Segment
from formats.flink.metadata import read_metadata, streams_of
from formats.flink.rewrite import change_streams
from formats.flink.writer import write_metadata
from formats.ids import operator_id
from tests.cli.conftest import CommandLine
from tests.support.flink import CASES, JOB, unpack

UIDS = ("orders-source", "rules-source", "orders-parse", "order-totals", "order-window", "order-audit", "order-rules")
WEEK = 7 * 86400


def answered(eoctl: CommandLine, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = eoctl(*words, "--json")
    assert done.code == code, done
    found: dict[str, Any] = json.loads(done.out)
    assert found["schema"] == f"eoctl.{words[0]}.{words[1]}/1"
    return found


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def metadata_of(folder: Path) -> Any:
    return read_metadata((folder / "_metadata").read_bytes())


@pytest.fixture
def crash(tmp_path: Path) -> Path:
    return unpack("a-crash", tmp_path)


@pytest.fixture
def uids(tmp_path: Path) -> Path:
    path = tmp_path / "uids.txt"
    path.write_text("# the job\n" + "\n".join([*UIDS, "order-sink"]) + "\n")
    return path


# orphans


@pytest.mark.parametrize("case", CASES)
def test_only_a_crash_leaves_orphans(eoctl: CommandLine, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path)
    before = tree(folder)
    found = answered(eoctl, "flink", "orphans", folder)
    assert found["missing"] == []
    places = sorted(orphan["path"].removeprefix(f"{folder}/checkpoints/{JOB}/") for orphan in found["orphans"])
    if case == "a-crash":
        assert [place.partition("/")[0] for place in places] == ["chk-4"] * 2 + ["shared"] * 8
        assert found["orphan_bytes"] == sum((Path(orphan["path"])).stat().st_size for orphan in found["orphans"])
        assert found["snapshots"] == 3
    else:
        assert places == []
    assert tree(folder) == before


def test_orphans_of_several_jobs_that_share_files_are_those_that_no_job_names(
    eoctl: CommandLine, tmp_path: Path
) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints"
    other = folder / ("c" * 32)
    (folder / JOB / "chk-8").rename(tmp_path / "chk-8")
    alone = {orphan["path"] for orphan in answered(eoctl, "flink", "orphans", folder)["orphans"]}
    assert len(alone) > 5
    # A job that was restored from chk-8 in claim mode goes on naming the old job's files.
    other.mkdir()
    (tmp_path / "chk-8").rename(other / "chk-9")
    assert answered(eoctl, "flink", "orphans", folder)["orphans"] == []
    elsewhere = tmp_path / "elsewhere" / ("c" * 32)
    elsewhere.parent.mkdir()
    other.rename(elsewhere)
    assert {orphan["path"] for orphan in answered(eoctl, "flink", "orphans", folder)["orphans"]} == alone
    assert answered(eoctl, "flink", "orphans", folder, "--live-job", elsewhere)["orphans"] == []


def test_a_job_by_itself_has_no_orphans_that_another_job_names(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints"
    claimed = folder / ("c" * 32)
    claimed.mkdir()
    (folder / JOB / "chk-8").rename(claimed / "chk-9")
    for place in (folder / JOB, folder / JOB / "shared"):
        assert answered(eoctl, "flink", "orphans", place)["orphans"] == []
    shutil.rmtree(claimed)
    alone = answered(eoctl, "flink", "orphans", folder / JOB)["orphans"]
    assert len(alone) > 5
    assert answered(eoctl, "flink", "orphans", folder / JOB / "shared")["orphans"] == alone


def test_a_file_that_is_named_by_a_path_that_leads_nowhere_is_no_orphan(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-savepoint-native", tmp_path)
    savepoint = next((folder / "savepoints").iterdir())
    names = [file.name for file in savepoint.iterdir() if file.name != "_metadata"]
    # As a job that claimed the savepoint would name them, from a machine where all of it lies elsewhere.
    claimed = tmp_path / "elsewhere" / JOB / "chk-9"
    claimed.mkdir(parents=True)
    metadata = metadata_of(savepoint)
    absolute = change_streams(
        metadata,
        lambda handle: (
            AbsoluteFile(f"hdfs://name/x/{handle.path}", handle.size) if isinstance(handle, RelativeFile) else handle
        ),
    )
    (claimed / "_metadata").write_bytes(write_metadata(absolute))
    (savepoint / "_metadata").unlink()
    found = answered(eoctl, "flink", "orphans", folder)["orphans"]
    assert sorted(Path(orphan["path"]).name for orphan in found) == sorted(names)
    assert answered(eoctl, "flink", "orphans", folder, "--live-job", claimed.parent)["orphans"] == []


def test_what_a_live_job_may_be_writing_is_no_orphan(eoctl: CommandLine, crash: Path) -> None:
    job = crash / "checkpoints" / JOB
    assert answered(eoctl, "flink", "orphans", crash, "--live-job", job)["orphans"] == []
    newest = (job / "chk-3" / "_metadata").stat().st_mtime
    old = job / "shared" / "left-behind"
    old.write_bytes(b"x")
    os.utime(old, (newest - 10, newest - 10))
    assert [orphan["path"] for orphan in answered(eoctl, "flink", "orphans", crash, "--live-job", job)["orphans"]] == [
        str(old)
    ]


def test_nothing_but_flinks_own_places_is_looked_at(eoctl: CommandLine, crash: Path) -> None:
    for name in ("notes.txt", "checkpoints/notes.txt", f"checkpoints/{JOB}/notes.txt", "out/part-0"):
        (crash / name).parent.mkdir(exist_ok=True)
        (crash / name).write_text("mine")
    assert len(answered(eoctl, "flink", "orphans", crash)["orphans"]) == 10


def test_orphans_are_deleted_when_their_number_is_known(eoctl: CommandLine, crash: Path) -> None:
    kept = {name for name in tree(crash) if "chk-4" not in name}
    for words in (["--delete"], ["--delete", "--expect", "10"], ["--delete", "--older-than", "7d"]):
        assert eoctl("flink", "orphans", crash, *words).code == 2
    wrong = eoctl("flink", "orphans", crash, "--delete", "--expect", "9", "--older-than", "7d")
    assert (wrong.code, "10 orphans, where 9 were expected" in wrong.err) == (3, True)
    dry = answered(eoctl, "flink", "orphans", crash, "--delete", "--expect", "10", "--older-than", "7d", "--dry-run")
    assert (dry["action"], dry["changed_files"], len(tree(crash))) == ("none", 0, len(kept) + 2)
    done = answered(eoctl, "flink", "orphans", crash, "--delete", "--expect", "10", "--older-than", "7d")
    assert (done["action"], done["changed_files"]) == ("deleted", 10)
    assert answered(eoctl, "flink", "orphans", crash)["orphans"] == []
    assert len(tree(crash)) == len(kept) - 8
    assert not (crash / "checkpoints" / JOB / "chk-4").exists()
    assert answered(eoctl, "checkpoint", "verify", crash)["damaged"] == []


def test_young_orphans_stay(eoctl: CommandLine, crash: Path) -> None:
    young = crash / "checkpoints" / JOB / "shared" / "young"
    young.write_bytes(b"x")
    found = answered(eoctl, "flink", "orphans", crash, "--older-than", "7d")
    assert len(found["orphans"]) == 10
    assert len(answered(eoctl, "flink", "orphans", crash)["orphans"]) == 11


def test_quarantined_orphans_lie_where_they_can_be_moved_back_from(eoctl: CommandLine, crash: Path) -> None:
    before = tree(crash / "checkpoints")
    aside = crash.parent / "aside"
    inside = eoctl("flink", "orphans", crash / "checkpoints", "--quarantine", crash / "checkpoints" / "aside")
    assert (inside.code, "lies below the root" in inside.err) == (2, True)
    done = answered(eoctl, "flink", "orphans", crash / "checkpoints", "--quarantine", aside)
    assert (done["action"], done["changed_files"]) == ("quarantined", 10)
    assert len(tree(aside)) == 10
    assert tree(aside) | tree(crash / "checkpoints") == before


def test_a_metadata_that_cannot_be_read_stops_everything_but_the_report(eoctl: CommandLine, crash: Path) -> None:
    damaged = crash / "checkpoints" / JOB / "chk-2" / "_metadata"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    before = tree(crash)
    for words in (["--delete", "--expect", "10", "--older-than", "7d"], ["--quarantine", crash.parent / "aside"], []):
        done = eoctl("flink", "orphans", crash, *words)
        assert (done.code, "at byte" in done.err) == (13, True)
    assert tree(crash) == before


def test_missing_files_are_told(eoctl: CommandLine, crash: Path) -> None:
    victim = next(
        Path(piece.file)
        for piece in open_snapshot(crash / "checkpoints" / JOB / "chk-3").pieces()
        if isinstance(piece.stream.handle, AbsoluteFile)
    )
    victim.unlink()
    assert answered(eoctl, "flink", "orphans", crash)["missing"] == [str(victim)]


# can-delete


def test_a_checkpoint_can_go_and_its_shared_files_cannot(eoctl: CommandLine, tmp_path: Path) -> None:
    job = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints" / JOB
    found = answered(eoctl, "flink", "can-delete", job / "chk-1")
    assert (found["safe"], found["blocked_by"], found["other_snapshots"]) == (True, [], 7)
    assert found["frees_bytes"] == sum(map(len, tree(job / "chk-1").values()))
    shared = next(
        Path(piece.file)
        for piece in open_snapshot(job / "chk-8").pieces()
        if isinstance(piece.stream.handle, AbsoluteFile)
    )
    blocked = answered(eoctl, "flink", "can-delete", shared, code=3)
    assert blocked["safe"] is False
    assert str(job / "chk-8") in {blocker["snapshot"] for blocker in blocked["blocked_by"]}
    assert {blocker["file"] for blocker in blocked["blocked_by"]} == {str(shared)}
    whole = answered(eoctl, "flink", "can-delete", job)
    assert (whole["safe"], whole["notes"]) == (True, [f"no other checkpoint of job {JOB} is left then"])


def test_what_deleting_leaves_are_just_the_orphans_that_are_there_then(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints"
    told = answered(eoctl, "flink", "can-delete", folder / JOB / "chk-3")
    shutil.rmtree(folder / JOB / "chk-3")
    found = answered(eoctl, "flink", "orphans", folder)
    assert (len(found["orphans"]), found["orphan_bytes"]) == (told["leaves_orphans"], told["orphan_bytes"])


def test_a_job_whose_files_another_one_claimed_cannot_go(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints"
    claimed = folder / ("c" * 32)
    claimed.mkdir()
    (folder / JOB / "chk-8").rename(claimed / "chk-9")
    found = answered(eoctl, "flink", "can-delete", folder / JOB, code=3)
    assert {blocker["snapshot"] for blocker in found["blocked_by"]} == {str(claimed / "chk-9")}
    assert eoctl("flink", "can-delete", folder / "nothing").code == 11


def test_whoever_may_have_claimed_a_savepoint_is_to_be_looked_for(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-savepoint-native", tmp_path)
    savepoint = next((folder / "savepoints").iterdir())
    found = answered(eoctl, "flink", "can-delete", savepoint)
    assert (found["safe"], found["other_snapshots"], "--root finds that" in found["notes"][0]) == (True, 0, True)
    whole = answered(eoctl, "flink", "can-delete", savepoint, "--root", folder)
    assert (whole["safe"], whole["other_snapshots"], whole["notes"]) == (True, 1, [])


# uid-hash, preflight


def test_the_hash_of_a_uid_is_flinks(eoctl: CommandLine) -> None:
    found = answered(eoctl, "flink", "uid-hash", "order-totals", "Sink Committer: order-sink")
    assert [row["id"] for row in found["operators"]] == [
        "64d13d9aa16aa0e7527f2a20c03a2a05",
        "96b7a69bfe8190d92dd03ea8de868725",
    ]
    assert eoctl("flink", "uid-hash", "order-totals", "-q").out == "64d13d9aa16aa0e7527f2a20c03a2a05\n"


@pytest.mark.parametrize("case", ["a-rocksdb-incremental/checkpoints/J/chk-8", "a-flink120/checkpoints/J/chk-3"])
def test_a_job_with_the_same_uids_fits(eoctl: CommandLine, tmp_path: Path, uids: Path, case: str) -> None:
    name, _, place = case.partition("/")
    snapshot = unpack(name, tmp_path) / place.replace("J", JOB)
    found = answered(eoctl, "flink", "preflight", snapshot, "--uids", uids)
    assert (found["fits"], found["unmapped"], found["suggestions"], found["starts_empty"]) == (True, [], {}, [])


@pytest.mark.parametrize("case", ["a-rocksdb-incremental/checkpoints/J/chk-8", "a-flink120/checkpoints/J/chk-3"])
def test_renamed_operators_are_told_with_what_was_meant(
    eoctl: CommandLine, tmp_path: Path, uids: Path, case: str
) -> None:
    name, _, place = case.partition("/")
    snapshot = unpack(name, tmp_path) / place.replace("J", JOB)
    uids.write_text(
        uids.read_text()
        .replace("order-totals", "order-totals-v2")
        .replace("order-sink", "order-sink-v2")
        .replace("orders-parse", "another")
    )
    found = answered(eoctl, "flink", "preflight", snapshot, "--uids", uids, code=3)
    lost = ("order-totals", "order-sink", "Sink Committer: order-sink")
    assert {each["id"] for each in found["unmapped"]} == {operator_id(uid) for uid in lost}
    assert found["suggestions"] == {operator_id(uid): f"{uid}-v2" for uid in lost}
    assert found["starts_empty"] == ["another", "order-totals-v2", "order-sink-v2"]
    assert found["dropped_bytes"] == sum(each["bytes"] for each in found["unmapped"]) > 0


def test_max_parallelism_has_to_be_the_same(eoctl: CommandLine, tmp_path: Path) -> None:
    snapshot = unpack("a-crash", tmp_path) / "checkpoints" / JOB / "chk-3"
    job = [{"uid": uid, "parallelism": 4} for uid in (*UIDS, "order-sink")]
    file = tmp_path / "operators.json"
    file.write_text(json.dumps(job))
    assert answered(eoctl, "flink", "preflight", snapshot, "--operators", file)["fits"] is True
    job[2]["max_parallelism"] = 256  # of orders-parse, which has no state
    job[3]["parallelism"] = 500
    file.write_text(json.dumps(job))
    found = answered(eoctl, "flink", "preflight", snapshot, "--operators", file, code=3)
    assert {conflict["uid"]: conflict["reason"] for conflict in found["parallelism"]} == {
        "orders-parse": "max parallelism 256 in the job, 128 in the snapshot",
        "order-totals": "parallelism 500 in the job, max parallelism 128 in the snapshot",
    }
    assert found["unmapped"] == []


@pytest.mark.parametrize("text", ["{}", "[{}]", '[{"id": "xyz"}]', "[", "[]", '[{"uid": 1}]', "\udcff"])
def test_a_list_of_operators_that_is_none_is_refused(eoctl: CommandLine, tmp_path: Path, text: str) -> None:
    snapshot = unpack("a-transcoded", tmp_path) / "v3"
    file = tmp_path / "operators.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert eoctl("flink", "preflight", snapshot, "--operators", file).code == 17
    assert eoctl("flink", "preflight", snapshot).code == 2
    assert eoctl("flink", "preflight", snapshot, "--uids", tmp_path / "nothing").code == 2


# remap


def test_a_remap_renames_ids_and_uids_and_takes_the_committer_along(eoctl: CommandLine, tmp_path: Path) -> None:
    job = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints" / JOB
    before = tree(job)
    to = tmp_path / "renamed"
    done = answered(
        eoctl, "flink", "remap", job / "chk-8", "--to", to, "--remap", "order-totals=totals", "--remap",
        "order-sink=sink", "--drop", "order-rules",
    )  # fmt: skip
    assert done["remapped"] == {
        "order-totals": "totals", "order-sink": "sink", "Sink Committer: order-sink": "Sink Committer: sink",
    }  # fmt: skip
    assert done["dropped"] == ["order-rules"]
    old, new = metadata_of(job / "chk-8"), metadata_of(to)
    expected = [done["remapped"].get(operator.uid, operator.uid) for operator in old.operators]
    expected.remove("order-rules")
    assert [operator.uid for operator in new.operators] == expected
    assert [operator.id for operator in new.operators] == [operator_id(uid) for uid in expected]
    assert tree(job) == before
    # Its own files came along; those of the job are named where they lie now.
    assert answered(eoctl, "checkpoint", "verify", to, "--map-path", f"{job}={job}")["damaged"] == []
    names = {stream.handle.path for operator in new.operators for stream in streams_of(operator)
             if isinstance(stream.handle, AbsoluteFile)}  # fmt: skip
    assert all(name.startswith(f"file:{job}/shared/") for name in names)


def test_a_remap_of_an_old_version_knows_uids_by_their_hashes(eoctl: CommandLine, tmp_path: Path) -> None:
    savepoint = next((unpack("a-flink120", tmp_path) / "savepoints").iterdir())
    mapping = tmp_path / "mapping.toml"
    mapping.write_text('[remap]\n"order-sink" = "sink"\n')
    done = answered(eoctl, "flink", "remap", savepoint, "--to", tmp_path / "to", "--map", mapping)
    assert len(done["remapped"]) == 2
    ids = {operator.id for operator in metadata_of(tmp_path / "to").operators}
    assert {operator_id("sink"), operator_id("Sink Committer: sink")} <= ids
    assert not {operator_id("order-sink"), operator_id("Sink Committer: order-sink")} & ids


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--remap", "nobody=x"], "has no operator 'nobody'"),
        (["--remap", "order-totals=order-window"], "would both become"),
        (["--remap", f"order-sink={'0' * 32}"], "committer of 'order-sink' has an id of its own"),
        (["--remap", "order-totals=a", "--drop", "order-totals"], "dropped and remapped"),
    ],
)
def test_a_remap_that_does_not_fit_writes_nothing(
    eoctl: CommandLine, tmp_path: Path, words: list[str], message: str
) -> None:
    savepoint = next((unpack("a-savepoint-canonical", tmp_path) / "savepoints").iterdir())
    done = eoctl("flink", "remap", savepoint, "--to", tmp_path / "to", *words)
    assert (done.code, message in done.err) == (15, True), done.err
    assert not (tmp_path / "to").exists()


def test_two_operators_swap_their_state(eoctl: CommandLine, tmp_path: Path) -> None:
    savepoint = next((unpack("a-savepoint-native", tmp_path) / "savepoints").iterdir())
    words = ["--remap", "order-totals=order-window", "--remap", "order-window=order-totals"]
    eoctl.ok("flink", "remap", savepoint, "--to", tmp_path / "to", *words)
    old = {operator.uid: operator.subtasks for operator in metadata_of(savepoint).operators}
    new = {operator.uid: operator.subtasks for operator in metadata_of(tmp_path / "to").operators}
    assert new["order-totals"] == old["order-window"]
    assert new["order-window"] == old["order-totals"]


# relocate, export


@pytest.mark.parametrize("case", CASES)
def test_a_relocated_folder_names_only_files_of_its_own(eoctl: CommandLine, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path / "old")
    before = tree(folder)
    to = tmp_path / "new" / "place"
    done = eoctl("flink", "relocate", folder, to, "--json")
    assert done.code == 0, done
    assert tree(folder) == before
    assert {name for name in tree(to) if not name.endswith("_metadata")} == {
        name for name in before if not name.endswith("_metadata")
    }
    shutil.rmtree(folder)
    for path in json.loads(done.out)["snapshots"]:
        for operator in metadata_of(Path(path)).operators:
            for stream in streams_of(operator):
                if isinstance(stream.handle, AbsoluteFile | Segment):
                    assert stream.handle.path.startswith(f"file:{to}/")
                    assert Path(stream.handle.path.removeprefix("file:")).is_file()
    assert answered(eoctl, "checkpoint", "verify", to)["damaged"] == []


def test_a_folder_that_lacks_files_is_not_relocated(eoctl: CommandLine, tmp_path: Path) -> None:
    job = unpack("a-crash", tmp_path) / "checkpoints" / JOB
    done = eoctl("flink", "relocate", job / "chk-3", tmp_path / "to")
    assert (done.code, "needs a file outside of" in done.err) == (15, True)
    assert not (tmp_path / "to").exists()
    assert eoctl("flink", "relocate", job, job / "below").code == 2


def test_a_relocated_folder_may_be_told_by_another_name(eoctl: CommandLine, tmp_path: Path) -> None:
    job = unpack("a-filemerging", tmp_path) / "checkpoints"
    eoctl("flink", "relocate", job, tmp_path / "to", "--as", "s3://bucket/flink/")
    data = (tmp_path / "to" / JOB / "chk-4" / "_metadata").read_bytes()
    assert b"file:" not in data
    assert b"s3://bucket/flink/" + JOB.encode() + b"/taskowned/" in data


@pytest.mark.parametrize("case", CASES)
def test_an_exported_folder_holds_all_that_it_names(eoctl: CommandLine, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path)
    before = tree(folder)
    mapping = f"file:/tmp/eoctl-corpus/{case}={folder}"
    for number, metadata in enumerate(sorted(folder.rglob("_metadata"))):
        to = tmp_path / f"to-{number}"
        eoctl.ok("flink", "export", metadata.parent, "--to", to, "--map-path", mapping)
        elsewhere = tmp_path / f"elsewhere-{number}"
        to.rename(elsewhere)
        handles = [stream.handle for operator in metadata_of(elsewhere).operators for stream in streams_of(operator)]
        assert not [handle for handle in handles if isinstance(handle, AbsoluteFile | Segment)]
        named = {handle.path for handle in handles if isinstance(handle, RelativeFile)}
        assert named == {name for name in tree(elsewhere) if name != "_metadata"}
        assert answered(eoctl, "checkpoint", "verify", elsewhere)["damaged"] == []
    assert tree(folder) == before


def test_an_export_for_an_older_flink(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-unaligned", tmp_path) / "checkpoints" / JOB / "chk-2"
    for number in (3, 4, 5, 6):
        done = answered(eoctl, "flink", "export", folder, "--to", tmp_path / f"v{number}", "--metadata-version",
                        str(number))  # fmt: skip
        assert done["metadata_version"] == metadata_of(tmp_path / f"v{number}").version == number
    for version in ("2", "7"):
        assert eoctl("flink", "export", folder, "--to", tmp_path / "no", "--metadata-version", version).code == 14
    assert not (tmp_path / "no").exists()
    old = unpack("a-transcoded", tmp_path) / "v3"
    assert eoctl("flink", "export", old, "--to", tmp_path / "no", "--metadata-version", "6").code == 15


def test_a_damaged_snapshot_is_not_exported(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints" / JOB
    min((folder / "shared").iterdir()).write_bytes(b"")
    codes = {eoctl("flink", "export", folder / f"chk-{n}", "--to", tmp_path / f"to-{n}").code for n in range(1, 9)}
    assert codes == {0, 13}
    assert not list(tmp_path.glob(".to-*"))
    assert eoctl("flink", "export", folder / "chk-1", "--to", folder).code == 2


def test_a_linked_export_shares_the_files(eoctl: CommandLine, tmp_path: Path) -> None:
    folder = unpack("a-crash", tmp_path) / "checkpoints" / JOB
    eoctl.ok("flink", "export", folder / "chk-3", "--to", tmp_path / "to", "--link")
    assert answered(eoctl, "checkpoint", "verify", tmp_path / "to")["damaged"] == []


@pytest.mark.parametrize("case", CASES)
def test_a_canonical_export_holds_the_same_rows(eoctl: CommandLine, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path)
    newest = max(folder.rglob("_metadata")).parent
    mappings = (Mapping(f"file:/tmp/eoctl-corpus/{case}", folder),)
    to = tmp_path / "to"
    eoctl.ok(
        "flink", "export", newest, "--to", to, "--canonical", "--map-path", f"file:/tmp/eoctl-corpus/{case}={folder}"
    )
    before, after = (keyed_rows(open_snapshot(each, mappings)) for each in (newest, to))
    assert before == after
    assert any(before.values())
    handles = [subtask.managed_keyed for operator in metadata_of(to).operators for subtask in operator.subtasks]
    assert {type(handle) for handle in handles} == {SavepointKeyGroups, type(None)}


def keyed_rows(snapshot: Any) -> dict[tuple[str, str], list[Any]]:
    """Operator and state -> its rows."""
    found = {}
    for operator in flink_states(snapshot.metadata, snapshot.paths.open):
        for table in operator.tables:
            if not table.schema.kind.startswith(("operator", "broadcast")):
                rows = [row for batch in table.scan() for row in batch.to_pylist()]
                found[operator.id, table.schema.name] = rows
    return found


def test_inspect_tells_where_sources_stand_and_what_sinks_have_to_commit(eoctl: CommandLine, tmp_path: Path) -> None:
    case = unpack("a-savepoint-canonical", tmp_path)
    found = answered(eoctl, "checkpoint", "inspect", next((case / "savepoints").iterdir()))
    assert {source["uid"]: source["offsets"] for source in found["sources"]} == {
        "orders-source": {"1": 800, "2": 4800},
        "rules-source": {"1": 2, "2": 5},
    }
    (sink,) = found["sinks"]
    assert sink["uid"] == "order-sink"
    assert [(row["state"], row["checkpoint"]) for row in sink["transactions"]] == [("pending", 2), ("pending", 2)]
    assert all(row["id"].startswith("/tmp/eoctl-corpus/") for row in sink["transactions"])


def test_a_difference_names_no_namespace_where_there_is_none(eoctl: CommandLine, tmp_path: Path) -> None:
    job = unpack("a-rocksdb-incremental", tmp_path) / "checkpoints" / JOB
    told = eoctl("state", "diff", job / "chk-7", job / "chk-8", "--operator", "order-totals", "--state", "per-item").out
    assert "user-79 item-2" in told
    assert "null" not in told


@pytest.mark.slow
def test_a_state_of_kryo_keeps_only_itself_from_being_counted(eoctl: CommandLine, tmp_path: Path) -> None:
    with tarfile.open(Path(__file__).parents[1] / "golden" / "flink-zoo" / "zoo.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    snapshots = sorted((tmp_path / "z-snappy" / "savepoints").iterdir())
    done = [eoctl("state", "count", snapshot, "--json") for snapshot in snapshots]
    assert sorted(each.code for each in done) == [0, 14]  # canonical, and of the HashMap backend
    counted = {each.code: {row["name"]: row["rows"] for row in json.loads(each.out)["states"]} for each in done}
    assert counted[0].pop("strange") == 10
    assert counted[14] == counted[0]
    assert "'strange' holds opaque<Zoo$Strange>" in next(each.err for each in done if each.code == 14)
