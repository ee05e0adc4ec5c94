"""What the simulation found, each as a story of its own."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest

from eoctl.engines.directory import DirectorySource
from eoctl.services.checkpoint import Part, Request, create_checkpoint
from eoctl.services.writers import writing
from formats.errors import CommitUnknownError
from formats.ids import TxId
from storage import layout
from storage.backend import Body, Key, SyncFailedError, Version, VersionMismatchError
from storage.edits import raise_era
from storage.head import swap_head
from storage.pins import SYNC_FAILED, Pin, PinRecord
from storage.session import Session
from storage.store import Store
from tests.support.faulty import FaultyBackend
from tests.support.places import PIPELINE, Plan, behind, memory_store, opened, write_tree
from tests.support.sweeper import Sweeper


class RefusedAfterSuccess(FaultyBackend):
    """A swap happens, its answer is that of its repetition, and what is read then is cut off."""

    swapped_once = False

    def swap(self, key: Key, body: bytes, expected: Version) -> None:
        super().swap(key, body, expected)
        self.swapped_once = True
        raise VersionMismatchError(f"{key} has changed")

    def open(self, key: Key, start: int = 0, length: int | None = None) -> BinaryIO:
        reader = super().open(key, start, length)
        return io.BytesIO(reader.read()[:-10]) if self.swapped_once else reader


class UnsyncedDisk(FaultyBackend):
    """What is created is linked, and may be lost."""

    def create(self, key: Key, body: Body) -> bool:
        super().create(key, body)
        raise SyncFailedError(f"{key} could not be synced")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return memory_store(tmp_path)


def test_a_refusal_that_cannot_be_read_back_is_no_failure(store: Store) -> None:
    opened(store)
    behind_it = behind(store, RefusedAfterSuccess(store.backend))
    edit = partial(raise_era, floor=False)
    with pytest.raises(CommitUnknownError):
        swap_head(behind_it.backend, store.head(PIPELINE), edit, store.ambient, txid=TxId("e" * 32), attempt=None)


def test_a_fenced_session_still_says_that_the_disk_failed_it(store: Store) -> None:
    writer = opened(store)
    session = Session(behind(store, UnsyncedDisk(store.backend)), PIPELINE, writer.attempt, writer.owner)
    opened(store)
    era = store.head(PIPELINE).head.era
    with pytest.raises(SyncFailedError):
        session.commit(Plan({"a": b"bytes"}))
    assert store.head(PIPELINE).head.floor == era + 1


@pytest.mark.parametrize("readable", [True, False])
def test_a_writer_that_lives_on_hears_that_the_disk_failed_somebody(
    store: Store, tmp_path: Path, *, readable: bool
) -> None:
    tree = write_tree(tmp_path / "tree", {"a": b"bytes"})
    with writing(store, PIPELINE) as writer:
        era = store.head(PIPELINE).head.era
        if readable:
            record = PinRecord(format="eoctl.pin", version=1, era=era, attempt=1, host="", process="", note=SYNC_FAILED)
            Pin(store.backend, PIPELINE, "f" * 32).refresh(record)
        else:
            store.backend.create(layout.pin(PIPELINE, "f" * 32, 1), b"{")
        create_checkpoint(writer, Request(parts=(Part(source=DirectorySource(tree)),)))
        assert store.head(PIPELINE).head.floor == era + 1


def test_a_refusal_after_which_all_traces_are_gone_is_no_failure(store: Store) -> None:
    """The commit happened, a rival took over, and gc has dropped what was committed before HEAD was read back."""
    sweeper = Sweeper(store)

    class Slow(FaultyBackend):
        def swap(self, key: Key, body: bytes, expected: Version) -> None:
            super().swap(key, body, expected)
            self.swap = super().swap  # type: ignore[method-assign]  # once
            rival = opened(store)
            sweeper.expire(store.head(PIPELINE).head.live[-1].label)
            sweeper.advance()
            assert rival.attempt == store.head(PIPELINE).head.writer.attempt
            raise VersionMismatchError(f"{key} has changed")

    writer = opened(store)
    session = Session(behind(store, Slow(store.backend)), PIPELINE, writer.attempt, writer.owner)
    with pytest.raises(CommitUnknownError):
        session.commit(Plan({"a": b"bytes"}))
