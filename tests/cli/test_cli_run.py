"""`eoctl run`, `eoctl txn list` and `eoctl txn audit`."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
from eoctl import Files, Generator, Options, Pipeline

pipeline = Pipeline("numbers", options=Options(interval=0.0, batch_size=8))
source = Generator(make=lambda split, first, stop: list(range(first, stop)), count=100)
pipeline.source("source", source).map("UID", lambda number: number * 2).key_by(lambda number: number % 3).count(
    "count"
).sink("files", Files("FOLDER"))
"""


@pytest.fixture(autouse=True)
def store(eoctl) -> None:
    assert eoctl("store", "init").code == 0


def written(tmp_path: Path, uid: str = "double") -> Path:
    path = tmp_path / f"{uid}.py"
    path.write_text(PIPELINE.replace("FOLDER", str(tmp_path / "out")).replace("UID", uid))
    return path


def rows(tmp_path: Path) -> int:
    return sum(path.read_text().count("\n") for path in (tmp_path / "out").glob("*.jsonl"))


def test_a_pipeline_runs_and_its_documents_have_their_fields(eoctl, tmp_path) -> None:
    file, log = written(tmp_path), tmp_path / "audit.log"
    done = eoctl("run", str(file), "--audit", str(log), "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert list(found) == [
        "schema", "pipeline", "attempt", "restored", "checkpoints", "aborted", "records", "written", "seconds"
    ]  # fmt: skip
    assert (found["schema"], found["records"], found["written"]) == ("eoctl.run/1", 100, {"files": 100})
    assert rows(tmp_path) == 100
    listed = json.loads(eoctl("txn", "list", "numbers@latest", "--json").out)
    assert list(listed) == ["schema", "snapshot", "transactions"]
    first = json.loads(eoctl("txn", "list", "numbers@1", "--jsonl").out.splitlines()[0])
    assert list(first) == ["sink", "id", "state", "checkpoint", "subtask", "attempt", "records", "fenced_by"]
    audited = eoctl("txn", "audit", str(log), "--against", "numbers@latest", "--json")
    assert list(json.loads(audited.out)) == ["schema", "file", "lines", "whole", "findings"]
    assert audited.code == 0


def test_transactions_are_pending_committed_or_zombies(eoctl, tmp_path) -> None:
    file = written(tmp_path)
    assert eoctl("run", str(file)).code == 0

    def states(snapshot: str) -> set[str]:
        return {row["state"] for row in map(json.loads, eoctl("txn", "list", snapshot, "--jsonl").out.splitlines())}

    newest = json.loads(eoctl("checkpoint", "list", "--jsonl").out.splitlines()[-1])["id"]
    held = [number for number in range(1, newest + 1) if states(f"numbers@{number}")]
    assert held
    assert states("numbers@latest") <= {"pending"}
    assert eoctl("run", str(file), "-q").code == 0
    assert states(f"numbers@{held[-1]}") <= {"committed"}


def test_a_log_that_is_not_whole_is_exit_3(eoctl, tmp_path) -> None:
    log = tmp_path / "audit.log"
    eoctl("run", str(written(tmp_path)), "--audit", str(log))
    log.write_bytes(log.read_bytes().replace(b'"records":', b'"records":1', 1))
    done = eoctl("txn", "audit", str(log))
    assert done.code == 3
    assert "line 1: the line was changed" in done.out


def test_state_without_an_operator_is_refused_remapped_or_left_behind(eoctl, tmp_path) -> None:
    assert eoctl("run", str(written(tmp_path))).code == 0
    renamed = tmp_path / "renamed.py"
    renamed.write_text(written(tmp_path).read_text().replace('"count"', '"total"'))
    done = eoctl("run", str(renamed))
    assert done.code == 15
    assert "takes the state of count" in done.err
    assert eoctl("run", str(renamed), "--remap", "count=total").code == 0
    third = tmp_path / "third.py"
    third.write_text(written(tmp_path).read_text().replace('"count"', '"third"'))
    assert eoctl("run", str(third), "--allow-non-restored-state").code == 0
    assert rows(tmp_path) == 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.py",), "no such file"),
        (("FILE:other",), "has no Pipeline called 'other'"),
        (("FILE", "--remap", "a"), "not a remap"),
        (("FILE", "--from", "others@1"), "is no snapshot of numbers"),
    ],
)
def test_a_wrong_command_is_told(eoctl, tmp_path, words, message) -> None:
    file = str(written(tmp_path))
    done = eoctl("run", *(word.replace("FILE", file) for word in words))
    assert done.code == 2
    assert message in done.err


def test_a_snapshot_that_is_not_there_is_exit_11(eoctl, tmp_path) -> None:
    assert eoctl("run", str(written(tmp_path)), "--from", "99").code == 11
    assert eoctl("run", str(written(tmp_path)), "--from", "none", "-q").code == 0


def test_a_signal_takes_a_last_checkpoint_and_the_next_run_goes_on(eoctl, tmp_path) -> None:
    endless = tmp_path / "endless.py"
    endless.write_text(
        PIPELINE.replace("FOLDER", str(tmp_path / "out")).replace("UID", "slow").replace("count=100", "count=10**9")
        + "print('begun', flush=True)\n"
    )
    command = [sys.executable, "-m", "eoctl.cli.main", "run", str(endless), "--store", str(eoctl.store), "--json"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        assert b"attempt 1" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        document = json.loads(process.stdout.read())
        assert process.wait() == 0
    assert document["written"]["files"] == document["records"] == rows(tmp_path)
    assert document["checkpoints"] >= 1
