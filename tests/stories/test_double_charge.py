"""Double charge: the newest checkpoint of the billing example is damaged after its commits are visible.

The pipeline goes back to the one before, and computes the same invoices again. Here on files and SQLite, where the
ledger has no keys; tests/servers/test_billing_postgres.py tells it of a ledger that has.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eoctl.runtime.recovery import Choice
from eoctl.runtime.run import Request, run
from formats.errors import ConflictError
from storage.store import Store
from tests.support import billing
from tests.support.places import local_store

pytestmark = pytest.mark.rocksdb


@pytest.fixture
def charged(tmp_path: Path) -> tuple[Store, Path]:
    """Everything was charged, and then the newest checkpoint was damaged."""
    pytest.importorskip("rocksdict")
    store, folder = local_store(tmp_path), tmp_path / "billing"
    for first_hour in (0, 6):  # a checkpoint each, with charges of its own
        billing.example.made_up_events(folder / "in", 75, first_hour=first_hour)
        again(store, folder, interval=1e6, batch=16)
    billing.check_files(folder)
    billing.damage_newest(store)
    return store, folder


def again(store: Store, folder: Path, choice: Choice = Choice(), **settings: float) -> None:  # noqa: B008  (frozen)
    run(store, billing.example.billing(folder, **settings), Request(directory=folder.parent, choice=choice))


def test_forced_to_go_on_a_ledger_without_keys_charges_twice(charged: tuple[Store, Path]) -> None:
    store, folder = charged
    again(store, folder, Choice(allow_repeated_output=True))
    due = billing.expected(billing.events_in(folder / "in"))
    booked = Counter(billing.ledger_in(folder / "ledger"))
    assert booked.keys() == set(billing.bookings(due))
    assert max(booked.values()) == 2
    assert sum(cents * times for (_, _, cents), times in booked.items()) > sum(one[5] for one in due)
    assert billing.invoices_in(folder / "invoices.db") == due, "which have a key"
    assert billing.mails_in(folder / "mails") == billing.mails_of(due), "which have one too"


def test_a_ledger_without_keys_is_stopped_and_not_doubled(charged: tuple[Store, Path]) -> None:
    store, folder = charged
    with pytest.raises(ConflictError, match="is visible and would come again: ledger-2-") as error:
        again(store, folder)
    assert "take it back by hand, restore a newer checkpoint" in (error.value.hint or "")
    billing.check_files(folder)
