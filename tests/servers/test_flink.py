"""What our commands write for Flink is restored by Flink, value by value; and what must not be restored is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from eoctl import Files, Pipeline, ValueState, json_lines
from eoctl.cli.main import main
from eoctl.engines.flink import open_snapshot
from eoctl.runtime.pipeline import Options
from eoctl.runtime.run import Request, run
from eoctl.services.savepoint_sources import source_of_snapshot
from eoctl.services.state import Filter, find_state, scan
from formats.errors import IncompatibleError
from formats.state_text import RowText
from tests.support.flink import JOB, unpack
from tests.support.flink_oracle import Oracle, totals
from tests.support.places import local_store
from tests.support.stores import at

pytestmark = pytest.mark.slow

CANNOT_MAP = "Cannot map checkpoint/savepoint state for operator"
MISSING = "FileNotFoundException"
AT_500, AT_700, AT_800 = (500, 500), (700, 700), (800, 800)
NEWEST = {"a-crash": ("chk-3", AT_500), "a-changelog": ("chk-4", AT_700), "a-filemerging": ("chk-4", AT_800)}
UNALIGNED = (1125, 1128)


@pytest.fixture(scope="module")
def flink(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle(tmp_path_factory.mktemp("lab"))


def eoctl(*words: str | Path) -> None:
    assert main([str(word) for word in words]) == 0


def job_of(case: str, into: Path) -> Path:
    return unpack(case, into) / "checkpoints" / JOB


def mapped(case: str, folder: Path) -> str:
    return f"file:/tmp/eoctl-corpus/{case}={folder}"


def test_a_renamed_operator_takes_its_state(flink: Oracle, tmp_path: Path) -> None:
    savepoint = next((unpack("a-savepoint-native", tmp_path) / "savepoints").iterdir())
    renamed = {"order-totals": "totals", "order-audit": "audit"}
    eoctl("flink", "remap", savepoint, "--to", tmp_path / "to", "--remap", "order-totals=totals", "--remap",
          "order-audit=audit")  # fmt: skip
    flink.restores(tmp_path / "to", AT_800, uids=renamed)
    flink.refuses(tmp_path / "to", because=CANNOT_MAP)
    flink.refuses(savepoint, uids=renamed, because=CANNOT_MAP)


def test_a_renamed_sink_takes_its_committer_along(flink: Oracle, tmp_path: Path) -> None:
    case = unpack("a-savepoint-canonical", tmp_path)
    savepoint = next((case / "savepoints").iterdir())
    eoctl("flink", "remap", savepoint, "--to", tmp_path / "to", "--remap", "order-sink=sink")
    flink.restores(tmp_path / "to", AT_800, uids={"order-sink": "sink"}, sink=case / "out")
    flink.refuses(tmp_path / "to", sink=case / "out", because=CANNOT_MAP)


def test_an_incremental_checkpoint_is_renamed_where_its_files_are(flink: Oracle, tmp_path: Path) -> None:
    job = job_of("a-crash", tmp_path)
    eoctl("flink", "remap", job / "chk-3", "--to", tmp_path / "to", "--remap", "order-window=window")
    flink.restores(tmp_path / "to", AT_500, uids={"order-window": "window"})
    shutil.rmtree(job / "shared")
    flink.refuses(tmp_path / "to", uids={"order-window": "window"}, because=MISSING)


def test_dropped_state_is_gone(flink: Oracle, tmp_path: Path) -> None:
    savepoint = next((unpack("a-savepoint-native", tmp_path) / "savepoints").iterdir())
    eoctl("flink", "remap", savepoint, "--to", tmp_path / "to", "--drop", "order-totals")
    answer = flink.ask(tmp_path / "to")
    assert answer.code == 0, answer.failure
    assert "restored" not in answer.told
    assert sum(int(count) for _, count in answer.told["audit"]) == sum(AT_800)


def test_a_relocated_folder_restores_where_it_is_and_nowhere_else(flink: Oracle, tmp_path: Path) -> None:
    folder = unpack("a-filemerging", tmp_path / "old") / "checkpoints"
    eoctl("flink", "relocate", folder, tmp_path / "new")
    shutil.rmtree(folder)
    flink.restores(tmp_path / "new" / JOB / "chk-4", AT_800)
    (tmp_path / "new").rename(tmp_path / "moved")
    flink.refuses(tmp_path / "moved" / JOB / "chk-4", because=MISSING)
    eoctl("flink", "relocate", tmp_path / "moved", tmp_path / "again")
    flink.restores(tmp_path / "again" / JOB / "chk-4", AT_800)


def test_a_changelog_is_relocated_with_its_changes(flink: Oracle, tmp_path: Path) -> None:
    folder = unpack("a-changelog", tmp_path / "old")
    eoctl("flink", "relocate", folder, tmp_path / "new")
    shutil.rmtree(folder)
    snapshot = tmp_path / "new" / "checkpoints" / JOB / "chk-4"
    settings = {
        "state.changelog.enabled": "true",
        "state.changelog.storage": "filesystem",
        "state.changelog.dstl.dfs.base-path": f"file://{tmp_path}/base",
        "dstl.dfs.base-path": f"file://{tmp_path}/base",
    }
    flink.restores(snapshot, AT_700, settings=settings)
    shutil.rmtree(tmp_path / "new" / "dstl")
    flink.refuses(snapshot, settings=settings, because=MISSING)


@pytest.mark.parametrize("case", ["a-crash", "a-filemerging"])
def test_an_exported_checkpoint_restores_from_anywhere(flink: Oracle, tmp_path: Path, case: str) -> None:
    name, positions = NEWEST[case]
    eoctl("flink", "export", job_of(case, tmp_path / "old") / name, "--to", tmp_path / "to")
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "to").rename(tmp_path / "elsewhere")
    flink.restores(tmp_path / "elsewhere", positions)
    table = next(
        piece for piece in open_snapshot(tmp_path / "elsewhere").pieces() if piece.stream.name.endswith(".sst")
    )
    Path(table.file).unlink()
    flink.refuses(tmp_path / "elsewhere", because=MISSING)


def test_an_exported_checkpoint_is_rescaled(flink: Oracle, tmp_path: Path) -> None:
    eoctl("flink", "export", job_of("a-crash", tmp_path) / "chk-3", "--to", tmp_path / "to")
    flink.restores(tmp_path / "to", AT_500, parallelism=3)
    flink.restores(tmp_path / "to", AT_500, parallelism=4)
    flink.refuses(tmp_path / "to", max_parallelism=256, because="Max parallelism mismatch")


@pytest.mark.parametrize("case", ["a-crash", "a-changelog", "a-filemerging"])
def test_a_canonical_export_restores_with_either_backend(flink: Oracle, tmp_path: Path, case: str) -> None:
    folder = unpack(case, tmp_path)
    name, positions = NEWEST[case]
    newest = folder / "checkpoints" / JOB / name
    eoctl("flink", "export", newest, "--to", tmp_path / "to", "--canonical", "--map-path", mapped(case, folder))
    flink.restores(tmp_path / "to", positions)
    flink.restores(tmp_path / "to", positions, backend="hashmap", parallelism=3)


def test_rocksdb_state_that_is_not_canonical_is_for_rocksdb_only(flink: Oracle, tmp_path: Path) -> None:
    eoctl("flink", "export", job_of("a-crash", tmp_path) / "chk-3", "--to", tmp_path / "to")
    assert flink.ask(tmp_path / "to", backend="hashmap").code == 3


def test_an_export_for_an_older_flink_is_restored_by_it(flink: Oracle, tmp_path: Path) -> None:
    newest = job_of("a-filemerging", tmp_path) / "chk-4"
    eoctl("flink", "export", newest, "--to", tmp_path / "v4", "--canonical", "--metadata-version", "4")
    eoctl("flink", "export", newest, "--to", tmp_path / "v6", "--canonical")
    flink.restores(tmp_path / "v4", AT_800, flink="1.20")
    flink.restores(tmp_path / "v4", AT_800)
    assert flink.ask(tmp_path / "v6", flink="1.20").code == 3


@pytest.mark.parametrize("version", [3, 4, 5])
def test_in_flight_data_is_kept_in_older_versions(flink: Oracle, tmp_path: Path, version: int) -> None:
    newest = job_of("a-unaligned", tmp_path) / "chk-2"
    eoctl("flink", "export", newest, "--to", tmp_path / "to", "--metadata-version", str(version))
    flink.restores(tmp_path / "to", UNALIGNED, in_flight=True, backend="hashmap")
    if version == 4:
        flink.restores(tmp_path / "to", UNALIGNED, in_flight=True, backend="hashmap", flink="1.20")


def test_what_was_in_the_store_restores_when_flinks_folder_is_gone(
    flink: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))
    eoctl("store", "init")
    eoctl("checkpoint", "create", f"flink:{job_of('a-crash', tmp_path / 'old').parent}", "-p", "orders", "--follow")
    shutil.rmtree(tmp_path / "old")
    for number, positions in ((1, (300, 300)), (3, AT_500)):
        eoctl("restore", f"orders@{number}", "--to", tmp_path / f"restored-{number}")
        flink.restores(tmp_path / f"restored-{number}", positions)
    eoctl("flink", "export", "orders@3", "--to", tmp_path / "canonical", "--canonical")
    flink.restores(tmp_path / "canonical", AT_500, backend="hashmap")
    eoctl("flink", "remap", "orders@3", "--to", tmp_path / "renamed", "--remap", "order-totals=totals")
    flink.restores(tmp_path / "renamed", AT_500, uids={"order-totals": "totals"})
    flink.refuses(tmp_path / "renamed", because=CANNOT_MAP)


def test_files_that_are_no_orphans_are_all_that_a_restore_needs(flink: Oracle, tmp_path: Path) -> None:
    folder = unpack("a-crash", tmp_path / "old") / "checkpoints"
    eoctl("flink", "orphans", folder, "--delete", "--expect", "10", "--older-than", "7d")
    eoctl("flink", "relocate", folder, tmp_path / "new")
    for number, positions in ((1, (300, 300)), (2, (300, 300)), (3, AT_500)):
        flink.restores(tmp_path / "new" / JOB / f"chk-{number}", positions)


def test_a_portable_savepoint_comes_back_to_flink(flink: Oracle, tmp_path: Path) -> None:
    newest = job_of("a-crash", tmp_path) / "chk-3"
    eoctl("savepoint", "create", newest, "--to", tmp_path / "portable", "--remap", "order-totals=totals")
    eoctl("flink", "export", tmp_path / "portable", "--to", tmp_path / "to")
    flink.restores(tmp_path / "to", AT_500, uids={"order-totals": "totals"})
    flink.restores(tmp_path / "to", AT_500, uids={"order-totals": "totals"}, backend="hashmap", parallelism=3)
    flink.refuses(tmp_path / "to", because=CANNOT_MAP)


def test_a_savepoint_of_another_max_parallelism_is_restored_with_that(flink: Oracle, tmp_path: Path) -> None:
    newest = job_of("a-crash", tmp_path) / "chk-3"
    eoctl("savepoint", "create", newest, "--to", tmp_path / "portable", "--max-parallelism", "256")
    eoctl("flink", "export", tmp_path / "portable", "--to", tmp_path / "to", "--metadata-version", "4")
    flink.restores(tmp_path / "to", AT_500, max_parallelism=256)
    flink.restores(tmp_path / "to", AT_500, max_parallelism=256, flink="1.20")
    flink.refuses(tmp_path / "to", because="Max parallelism mismatch")


OURS = """
from eoctl import Files, ListState, MapState, Pipeline, ValueState, json_lines

pipeline = Pipeline("shop")


def count(context, record):
    number, sums, counts = record["n"], context.state("total"), context.state("per-item")
    sums.set(sums.get(0) + number)
    counts.put(f"item-{number % 5}", counts.get_entry(f"item-{number % 5}", 0) + 1)
    if number % 50 == 0:
        context.state("recent").append(f"order-{number}")


states = [ValueState("total", "long"), MapState("per-item", "string", "long"), ListState("recent", "string")]
numbers = pipeline.source("numbers", json_lines("in/*.jsonl"))
users = numbers.key_by(lambda record: f"user-{record['n'] * 7 % 211}", type="string")
users.process("order-totals", count, states=states).sink("out", Files("out"))
"""


@pytest.mark.parametrize("version", ["2.3", "1.20"])
def test_a_pipeline_of_ours_goes_on_in_flink(
    flink: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    emitted = [*range(500), *range(4000, 4500)]
    (tmp_path / "in" / "numbers.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in emitted))
    (tmp_path / "ours.py").write_text(OURS)
    eoctl("store", "init")
    eoctl("run", "ours.py")
    eoctl("flink", "export", "shop@latest", "--to", tmp_path / "to", "--metadata-version", "4")
    answer = flink.ask(tmp_path / "to", flink=version, backend="hashmap")
    assert answer.code == 0, answer.failure
    assert sorted(answer.told["restored"]) == sorted(totals(emitted))
    flink.refuses(tmp_path / "to", flink=version, uids={"order-totals": "totals"}, because=CANNOT_MAP)


def test_a_savepoint_of_flink_goes_on_in_a_pipeline_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EOCTL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    savepoint = next((unpack("a-savepoint-canonical", tmp_path) / "savepoints").iterdir())
    (tmp_path / "in").mkdir()
    left = [*range(800, 4000), *range(4800, 8000)]
    (tmp_path / "in" / "numbers.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in left))
    (tmp_path / "ours.py").write_text(OURS)
    eoctl("store", "init")
    eoctl("savepoint", "create", savepoint, "-p", "shop", "--name", "from-flink")
    refused = main(["run", "ours.py", "--from", "shop@from-flink"])
    assert refused == IncompatibleError.exit_code  # other operators and timers by the clock would be left behind
    eoctl("run", "ours.py", "--from", "shop@from-flink", "--allow-non-restored-state")

    def rows(state: str) -> list[dict[str, Any]]:
        capsys.readouterr()
        eoctl(
            "state", "scan", "shop@latest", "--operator", "order-totals", "--state", state, "--limit", "9999", "--json"
        )
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return found

    sums = {row["key"]: row["value"] for row in rows("total")}
    items: dict[str, dict[str, int]] = {}
    for row in rows("per-item"):
        items.setdefault(row["key"], {})[row["map_key"]] = row["value"]
    recent: dict[str, list[str]] = {}
    for row in rows("recent"):
        recent.setdefault(row["key"], []).append(row["value"])
    told = {
        (user, str(total), f"{{{', '.join(f'{item}={count}' for item, count in sorted(items[user].items()))}}}",
         f"[{', '.join(sorted(recent.get(user, [])))}]")
        for user, total in sums.items()
    }  # fmt: skip
    assert sorted(told) == sorted(totals(range(8000)))


def test_timers_of_ours_are_registered_in_flink(flink: Oracle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "numbers.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in range(20_000)))
    pipeline = Pipeline("shop", options=Options(interval=0.0, batch_size=32))

    def remind(context: Any, record: Any) -> None:
        context.state("total").set(context.state("total").get(0) + record["n"])
        context.set_timer(4 * 10**12 + record["n"])

    users = pipeline.source("numbers", json_lines("in/*.jsonl")).key_by(
        lambda record: f"user-{record['n'] % 211}", type="string"
    )
    users.process("order-totals", remind, states=[ValueState("total", "long")]).sink("out", Files("out"))
    store, rounds = local_store(tmp_path), iter([False] * 2)
    run(store, pipeline, Request(directory=tmp_path / "work", stop=lambda: next(rounds, True)))
    monkeypatch.setenv("EOCTL_STORE", store.place.url)
    eoctl("flink", "export", "shop@latest", "--to", tmp_path / "to")
    with source_of_snapshot(store, at(store, "shop@latest")) as source:
        operator, table = find_state(source, "order-totals", "_timer_state/event_user-timers")
        text = RowText(table.schema)
        ours = [row for batch in scan(operator, table, Filter()) for row in text.rows(batch)]
    assert len(ours) > 30
    told = flink.ask(tmp_path / "to", backend="hashmap").told["timer"]
    assert sorted(told) == sorted(("event", str(row["key"]), str(row["map_key"])) for row in ours)
