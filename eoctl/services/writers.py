"""Being a pipeline's writer: one at a time, told by pins, enforced by the attempt in HEAD."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from eoctl.services.checkpoint import Opened
from formats.errors import ConflictError
from formats.ids import PipelineId, TxId
from storage.backend import Found
from storage.edits import raise_era
from storage.head import swap_head
from storage.pins import SYNC_FAILED, Pin, PinRecord, find_lost_writes, read_pins, remove_pins
from storage.session import open_writer
from storage.store import Store

FRESH_SECONDS = 3600
_REFRESH_SECONDS = 60
_STUCK_SECONDS = 7 * 86_400  # nobody uploads one checkpoint for so long


@contextmanager
def writing(
    store: Store, pipeline: PipelineId, *, take_over: bool = False, note: str = "checkpoint create"
) -> Iterator[Opened]:
    """We are the pipeline's writer: a new attempt is ours, and a pin says so until the end of the context.

    Raises: ConflictError where a fresh pin shows another writer and `take_over` is not given.
    """
    other = live_writer(store, pipeline)
    if other is not None and not take_over:
        raise ConflictError(
            f"{pipeline} has a live writer: {other}", hint="wait for it, or fence it off with --take-over"
        )
    attempt, owner = open_writer(store, pipeline)
    pin = Pin(store.backend, pipeline, owner)
    elapsed = store.ambient.elapsed
    kept_at: list[float] = []

    def keep() -> None:
        """The pin names the era that the next session will stamp, so that gc lets it live."""
        if store.place.remote and kept_at and elapsed() - kept_at[-1] < _REFRESH_SECONDS:
            return  # far away nothing is lost by a failed sync, and a young pin may stay
        _distrust_lost_writes(store, pipeline)
        kept_at[:] = [elapsed()]
        pin.refresh(
            PinRecord(
                format="eoctl.pin",
                version=1,
                era=store.head(pipeline).head.era,
                attempt=attempt,
                host=store.ambient.host,
                process=_process(os.getpid()) or "",
                note=note[:256],
            )
        )

    keep()
    try:
        yield Opened(store, pipeline, attempt, owner, keep)
    finally:
        pin.remove()


def live_writer(store: Store, pipeline: PipelineId) -> str | None:
    """Who uploads to the pipeline now, as far as pins tell; pins of dead processes of this host are removed.

    Of this host a process that lives counts, of another a pin that is fresh by the store's clock.
    """
    dead = []
    live = None
    for found, record, age in _pins(store, pipeline):
        lives = _lives(store, record)
        if lives is False:
            dead.append(found.key)
        elif lives or abs(age) < FRESH_SECONDS:
            where = f"process {record.process.partition('.')[0]} of this host" if lives else "another host"
            live = f"attempt {record.attempt}, {record.note}, {where}"
    if dead:
        remove_pins(store.backend, dead)
    return live


def eras_in_use(store: Store, pipeline: PipelineId) -> list[int]:
    """The eras in which uploads seem to be under way: gc does well to leave the floor at them, and need not."""
    found = []
    for _, record, age in _pins(store, pipeline):
        lives = _lives(store, record)
        # A pin from the future is as good as an old one: else it would keep the floor until that time has come.
        if (lives and age < _STUCK_SECONDS) or (lives is None and abs(age) < FRESH_SECONDS):
            found.append(record.era)
    return found


def remove_old_pins(store: Store, pipeline: PipelineId) -> int:
    """Pins that nobody has refreshed for a week are gone, but for those of live processes of this host.

    Whoever lives all the same makes a new one with the next checkpoint. Returns how many.
    """
    old = [
        found.key
        for found, record, age in _pins(store, pipeline)
        if not _lives(store, record) and abs(age) >= _STUCK_SECONDS
    ]
    if old:
        remove_pins(store.backend, old)
    return len(old)


def _pins(store: Store, pipeline: PipelineId) -> Iterator[tuple[Found, PinRecord, float]]:
    """Pins of uploads, with their age by the store's clock. Notes of lost writes are none: they wait for a writer."""
    now = datetime.fromisoformat(store.ambient.now()).timestamp()
    for found, record in read_pins(store.backend, pipeline):
        if record.note != SYNC_FAILED:
            yield found, record, now - found.modified_at


def _lives(store: Store, record: PinRecord) -> bool | None:
    """Whether the process of the pin lives; None where that cannot be seen from here."""
    number = record.process.partition(".")[0]
    if record.host != store.ambient.host or not number.isdecimal():
        return None
    return _process(int(number)) == record.process


def _distrust_lost_writes(store: Store, pipeline: PipelineId) -> None:
    """Where a session left word that the disk failed it, nothing uploaded before now counts as confirmed."""
    notes = find_lost_writes(store.backend, pipeline)
    if notes:
        edit = partial(raise_era, floor=True)
        txid = TxId(store.ambient.new_id())
        swap_head(store.backend, store.head(pipeline), edit, store.ambient, txid=txid, attempt=None)
        remove_pins(store.backend, notes)


def _process(pid: int) -> str | None:
    """The process's id and start time, so that a number used again is not taken for it; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except (OSError, OverflowError):
            return None
        return f"{pid}."
    return f"{pid}.{fields[19]}"
