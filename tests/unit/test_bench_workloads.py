"""The benchmarks' states are reproducible, and no result is invented."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from scripts.benchmarks import tools
from scripts.benchmarks.measure import Runner, Sample
from scripts.benchmarks.report import Target
from scripts.benchmarks.results import Results
from scripts.benchmarks.targets import against
from scripts.benchmarks.trees import tree_difference, tree_size, walk_files
from scripts.benchmarks.workloads import Chain, make_mutable_file, make_small_files, make_tables

Make = Callable[[Path], Chain]

MAKERS: dict[str, Make] = {
    "small files": lambda root: make_small_files(root, files=40, steps=3),
    "one mutable file": lambda root: make_mutable_file(root, size_bytes=1 << 20, steps=3),
    "sparse tables": lambda root: make_tables(root, files=20, file_bytes=1 << 20, steps=3, new_files=2),
    "filled tables": lambda root: make_tables(root, files=4, file_bytes=10_000, steps=3, new_files=1, filled=True),
}
every_state = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def fingerprint(chain: Chain) -> dict[str, str]:
    """Every name of the chain, with the digest of its bytes."""
    return {
        str(Path(entry.path).relative_to(chain.root)): hashlib.sha256(Path(entry.path).read_bytes()).hexdigest()
        for step in range(1, chain.steps + 1)
        for entry in walk_files(chain.checkpoint(step))
    }


def inodes(folder: Path) -> dict[str, int]:
    return {str(Path(entry.path).relative_to(folder)): entry.inode() for entry in walk_files(folder)}


@every_state
def test_the_same_arguments_give_the_same_names_and_bytes(make: Make, tmp_path: Path) -> None:
    assert fingerprint(make(tmp_path / "one")) == fingerprint(make(tmp_path / "two"))


@every_state
def test_every_step_changes_something(make: Make, tmp_path: Path) -> None:
    chain = make(tmp_path / "state")
    assert tree_difference(chain.checkpoint(1), chain.checkpoint(2)) != ""


def test_an_unchanged_small_file_is_a_hard_link(tmp_path: Path) -> None:
    chain = make_small_files(tmp_path / "state", files=40, steps=2, fraction=0.1)
    before, after = inodes(chain.checkpoint(1)), inodes(chain.checkpoint(2))
    assert before.keys() == after.keys()
    assert sum(before[name] != after[name] for name in before) == 4


def test_a_step_of_tables_adds_files_drops_as_many_and_links_the_rest(tmp_path: Path) -> None:
    chain = make_tables(tmp_path / "state", files=20, file_bytes=1 << 20, steps=2, new_files=3)
    before, after = inodes(chain.checkpoint(1)), inodes(chain.checkpoint(2))
    assert (len(before.keys() - after.keys()), len(after.keys() - before.keys())) == (3, 3)
    assert all(before[name] == after[name] for name in before.keys() & after.keys())
    assert chain.new_bytes(2) == 3 << 20


@pytest.mark.rocksdb
def test_a_rocksdb_state_has_the_same_entries_again_and_links_its_tables(tmp_path: Path) -> None:
    rocksdict = pytest.importorskip("rocksdict")
    from scripts.benchmarks.rocksdb_state import make_rocksdb_state

    entries = []
    for name in ("one", "two"):
        chain = make_rocksdb_state(tmp_path / name, keys=2000, steps=2, update=0.1, table_mb=1)
        before, after = inodes(chain.checkpoint(1)), inodes(chain.checkpoint(2))
        tables = {table for table in before if table.endswith(".sst")}
        assert tables
        assert all(before[table] == after[table] for table in tables & after.keys())
        database = rocksdict.Rdict(str(chain.checkpoint(2)), options=rocksdict.Options(raw_mode=True))
        entries.append(list(database.items()))
        database.close()
    assert len(entries[0]) == 2000
    assert entries[0] == entries[1]


def test_sparse_tables_differ_and_take_next_to_no_space(tmp_path: Path) -> None:
    chain = make_tables(tmp_path / "state", files=20, file_bytes=1 << 20, steps=1, new_files=0)
    assert len(set(fingerprint(chain).values())) == 20
    assert tree_size(chain.checkpoint(1)).logical_bytes == 20 << 20
    assert chain.unique_allocated_bytes() <= 20 * 8192


def test_a_checkpoint_is_shown_at_one_path_and_put_back(tmp_path: Path) -> None:
    chain = make_small_files(tmp_path / "state", files=5, steps=2)
    before = inodes(chain.checkpoint(2))
    with chain.shown(2) as shown:
        assert (shown, inodes(shown), chain.is_whole()) == (chain.current, before, False)
    assert (inodes(chain.checkpoint(2)), chain.is_whole()) == (before, True)


@pytest.mark.parametrize("damage", ["byte", "length", "missing", "extra"])
def test_a_tree_that_differs_is_found(damage: str, tmp_path: Path) -> None:
    make = partial(make_tables, files=3, file_bytes=1 << 20, steps=1, new_files=0)
    left, right = (make(tmp_path / name).checkpoint(1) for name in ("left", "right"))
    assert tree_difference(left, right) == ""
    victim = right / "000002.sst"
    match damage:
        case "byte":
            with victim.open("r+b") as file:
                file.seek(700_000)
                file.write(b"x")
        case "length":
            with victim.open("r+b") as file:
                file.truncate(4096)
        case "missing":
            victim.unlink()
        case "extra":
            (right / "000009.sst").write_bytes(b"")
    assert tree_difference(left, right) != ""


def test_peers_that_are_not_installed_are_named_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    present, missing = tools.split_missing((tools.eoctl(), *tools.peers()))
    assert present == ()
    assert missing == ("eoctl", *(peer.name for peer in tools.peers()))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("sh", "-c", "echo no such store >&2; exit 10"), "exit 10: no such store"),
        (("no-such-tool",), "exit 127"),
    ],
)
def test_a_failed_command_gives_a_void_sample(command: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    runner = Runner(tmp_path, timeout_seconds=60, min_free_bytes=0)
    assert runner.run(command).error.startswith(reason)


def test_a_command_that_hangs_is_stopped(tmp_path: Path) -> None:
    runner = Runner(tmp_path, timeout_seconds=0.1, min_free_bytes=0)
    assert runner.run(("sleep", "60")).error.startswith("stopped")


def test_one_void_sample_makes_the_row_and_its_target_void() -> None:
    results = Results()
    for error in ("", "restored differently: a"):
        results.add("restore", "eoctl", Sample(wall_seconds=1.0, error=error))
        results.add("restore", "restic", Sample(wall_seconds=2.0))
    assert results.median("restore", "eoctl", "wall_seconds") is None
    assert against(results, "restore", 0.6, "restic").met is None


def test_a_target_counts_the_better_of_two_peers() -> None:
    results = Results()
    for tool, wall in (("eoctl", 1.0), ("restic", 8.0), ("restic tuned", 4.0)):
        results.add("full", tool, Sample(wall_seconds=wall))
    target = against(results, "full", 0.3, "restic", "restic tuned")
    assert target == Target(text="full: eoctl / best restic, wall", measured=0.25, limit=0.3)
    assert target.met
