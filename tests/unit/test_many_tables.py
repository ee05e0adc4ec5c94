"""State in more tables than the process may open files: all of it is read, merged, saved, and hashed anew."""

from __future__ import annotations

import resource
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from eoctl.services.savepoint import Wish, create_folder
from eoctl.services.savepoint_sources import source_of_folder, source_of_snapshot
from formats.file_pool import MAX_OPEN, FilePool
from formats.keygroups import java_string_hash, key_group_of
from formats.state import StateSchema
from tests.support.states import MAX_PARALLELISM, Operator, Row, content, table_checkpoint
from tests.support.stores import at, new_store

SUM = StateSchema(name="sum", kind="value", key="string", value="long")
LIST = StateSchema(name="pending", kind="operator-list")


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Room for the files of one pool and some more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + MAX_OPEN + 16, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rows() -> tuple[Row, ...]:
    names = [f"k{n}" for n in range(300)]
    return tuple(
        (
            key_group_of(java_string_hash(name), MAX_PARALLELISM),
            bytes([len(name) + 1]) + name.encode(),
            b"",
            b"",
            bytes(8),
        )
        for name in names
    )


@pytest.mark.slow
@pytest.mark.usefixtures("few_descriptors")
def test_a_state_of_more_tables_than_files_may_be_open(tmp_path: Path) -> None:
    store = new_store(tmp_path, memory=False)
    elements = tuple((subtask, struct.pack(">i", 0), b"", b"", b"e") for subtask in range(110))
    operator = Operator(states=((SUM, rows()), (LIST, elements)), parallelism=110)
    table_checkpoint(store, "orders", {"totals": operator}, tmp_path / "sources")
    with source_of_snapshot(store, at(store, "orders@1")) as source, ThreadPoolExecutor(1) as pool:
        before = content(source)
        assert sorted(map(len, before.values())) == [110, 300]
        for name, wish in {"plain": Wish(), "pooled": Wish(executor=pool)}.items():
            create_folder(source, tmp_path / name, wish, elapsed=store.ambient.elapsed)
            assert content(source_of_folder(tmp_path / name)[1]) == before
        assert (tmp_path / "plain/savepoint.json").read_bytes() == (tmp_path / "pooled/savepoint.json").read_bytes()


def test_a_pool_opens_again_what_it_closed(tmp_path: Path) -> None:
    opened: list[str] = []

    def open_file(name: str) -> BinaryIO:
        opened.append(name)
        return (tmp_path / name).open("rb")

    for name in "abc":
        (tmp_path / name).write_text(f"file {name}")
    with FilePool(limit=2) as pool:
        files = {name: pool.add(partial(open_file, name)) for name in "abc"}
        assert [files[name].read(4) for name in "abcab"] == [b"file"] * 3 + [b" a", b" b"]
        pool.close()
        assert files["a"].seek(-1, 2) == 5
        assert (files["a"].read(), files["a"].tell()) == (b"a", 6)
    assert "".join(opened) == "abcaba"
