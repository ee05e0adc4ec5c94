"""The crash sweep (tests/unit/test_crash_sweep.py), on a real S3 server: killed after every backend call."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.backend import Backend, Place
from tests.support.seaweed import Prefixes, Server, running_server
from tests.unit import test_crash_sweep
from tests.unit.test_crash_sweep import World

pytestmark = pytest.mark.lane("s3")

lived_in = test_crash_sweep.lived_in
test_a_checkpoint_killed_anywhere_is_whole_or_not_there = (
    test_crash_sweep.test_a_checkpoint_killed_anywhere_is_there_whole_or_not_at_all_and_is_taken_once
)
test_what_a_killed_checkpoint_left_is_garbage = (
    test_crash_sweep.test_what_a_killed_checkpoint_left_behind_is_garbage_and_nothing_else_is
)
test_a_first_checkpoint_killed_anywhere_leaves_a_pipeline_or_none = (
    test_crash_sweep.test_a_first_checkpoint_killed_anywhere_leaves_a_pipeline_or_none
)
test_an_init_killed_anywhere_leaves_a_store_or_none = (
    test_crash_sweep.test_an_init_killed_anywhere_leaves_a_store_or_none
)
test_an_edit_killed_anywhere_was_done_or_not = (
    test_crash_sweep.test_an_edit_killed_anywhere_was_done_or_not_and_can_be_done_again
)
test_a_hold_killed_anywhere_keeps_what_it_holds = (
    test_crash_sweep.test_a_hold_killed_anywhere_keeps_what_it_holds_through_expiry_and_gc
)
test_gc_killed_anywhere_leaves_only_garbage = test_crash_sweep.test_gc_killed_anywhere_leaves_only_garbage


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture(scope="module")
def prefixes(server: Server) -> Prefixes:
    return Prefixes(server)


class S3World(World):
    """A store in a bucket, put back by copies on the server."""

    def __init__(self, tmp_path: Path, prefixes: Prefixes) -> None:
        super().__init__(tmp_path, "S3")
        self._prefixes = prefixes
        self._prefix = self._saved = prefixes.copy("nothing")

    def keep(self) -> None:
        self._saved = self._prefixes.copy(self._prefix)

    def put_back(self) -> None:
        self._prefix = self._prefixes.copy(self._saved)

    def place(self, backend: Backend | None = None) -> Place:
        place = self._prefixes.place(self.tree.parent / "scratch" / str(next(self._processes)), self._prefix)
        return Place(
            url=place.url, backend=backend or place.backend, scratch=place.scratch, make_folders=place.make_folders
        )


@pytest.fixture
def world(tmp_path: Path, prefixes: Prefixes) -> World:
    return S3World(tmp_path, prefixes)
