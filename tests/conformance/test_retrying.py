"""The backend with patience: all that a backend promises, and how long its patience lasts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from formats.errors import OutcomeUnknownError, UnavailableError
from storage.backend import Backend, BusyError, CopyOf, Key, LocalFile, version_of
from storage.backends.memory import MemoryBackend
from storage.backends.retrying import BUDGET_SECONDS, EARNED_SECONDS, LONGEST_SECONDS, Budget, RetryingBackend
from tests.conformance.backend_suite import HEAD, KEY, BackendSuite, content, names


class Busy(MemoryBackend):
    """Refuses so many calls of each verb; a listing breaks off after so many items."""

    def __init__(self, refusals: int, error: type[Exception] = BusyError) -> None:
        super().__init__(clock=lambda: 0.0)
        self.refusals = refusals
        self.error = error
        self.calls: list[str] = []

    def _refuse(self, verb: str) -> None:
        self.calls.append(verb)
        if self.calls.count(verb) <= self.refusals:
            raise self.error(f"{verb} is refused by the test")

    def stat(self, key):
        self._refuse("stat")
        return super().stat(key)

    def open(self, key, start=0, length=None):
        self._refuse("open")
        return super().open(key, start, length)

    def create(self, key, body):
        self._refuse("create")
        return super().create(key, body)

    def swap(self, key, body, expected):
        self._refuse("swap")
        return super().swap(key, body, expected)

    def list(self, prefix, **more):
        for item in super().list(prefix, **more):
            self._refuse("list")
            yield item

    def delete(self, keys):
        self._refuse("delete")
        return super().delete(keys)


def patient(inner: Backend, waits: list[float] | None = None, seconds: float = BUDGET_SECONDS) -> RetryingBackend:
    waits = [] if waits is None else waits
    return RetryingBackend(inner, Budget(waits.append, random.Random(1), seconds))


class TestRetryingBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> Backend:
        return patient(MemoryBackend(clock=lambda: 0.0))


class TestRetryingABusyBackend(BackendSuite):
    """Each verb is refused twice before it works. A swap is not tried again here, so that one is not busy."""

    @pytest.fixture
    def backend(self) -> Backend:
        busy = Busy(2)
        busy.swap = lambda *arguments: MemoryBackend.swap(busy, *arguments)  # type: ignore[method-assign]
        return patient(busy)


def test_a_busy_call_is_made_again_after_a_while(tmp_path: Path) -> None:
    waits: list[float] = []
    busy = Busy(3)
    backend = patient(busy, waits)
    handed_over = tmp_path / "file"
    handed_over.write_bytes(b"of a file")
    assert backend.create(KEY, LocalFile(handed_over))
    assert busy.calls == ["create"] * 4
    assert 0.1 <= waits[0] <= 0.2 <= waits[1] <= 0.4 <= waits[2] <= 0.8
    assert content(backend, KEY) == b"of a file"
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_gone_when_patience_is_at_its_end(tmp_path: Path) -> None:
    handed_over = tmp_path / "file"
    handed_over.write_bytes(b"1")
    with pytest.raises(BusyError):
        patient(Busy(10**6)).create(KEY, LocalFile(handed_over))
    assert [*tmp_path.iterdir()] == []


def test_patience_is_one_for_all_calls() -> None:
    waits: list[float] = []
    backend = patient(Busy(10**6), waits)
    for number in range(50):
        with pytest.raises(BusyError):
            backend.stat(Key(f"p/{number}"))
    assert BUDGET_SECONDS - LONGEST_SECONDS <= sum(waits) <= BUDGET_SECONDS
    assert max(waits) <= LONGEST_SECONDS


def test_success_gives_patience_back() -> None:
    waits: list[float] = []
    busy = Busy(10**6)
    backend = patient(busy, waits, seconds=10)
    with pytest.raises(BusyError):
        backend.stat(KEY)
    spent = sum(waits)
    busy.refusals = 0
    for _ in range(int(10 / EARNED_SECONDS)):
        backend.stat(KEY)
    busy.refusals, busy.calls = 10**6, []
    with pytest.raises(BusyError):
        backend.stat(KEY)
    assert sum(waits) > max(10, spent)


@pytest.mark.parametrize("error", [UnavailableError, OutcomeUnknownError])
@pytest.mark.parametrize("verb", ["stat", "open", "create", "delete"])
def test_what_is_not_surely_refused_for_now_is_not_repeated(error, verb) -> None:
    busy = Busy(1, error)
    backend = patient(busy)
    arguments = {"create": (KEY, b"1"), "delete": ([KEY],)}.get(verb, (KEY,))
    with pytest.raises(error):
        getattr(backend, verb)(*arguments)
    assert busy.calls == [verb]


def test_a_swap_is_never_repeated() -> None:
    busy = Busy(0)
    busy.create(HEAD, b"1")
    busy.refusals = 1
    with pytest.raises(BusyError):
        patient(busy).swap(HEAD, b"2", version_of(b"1"))
    assert busy.calls.count("swap") == 1


def test_a_listing_goes_on_where_it_broke_off() -> None:
    busy = Busy(0)
    for number in range(6):
        busy.create(Key(f"p/o/{number}"), b"1")
    busy.refusals = 4
    assert names(patient(busy), "p") == [f"p/o/{number}" for number in range(6)]


def test_a_copy_is_made_again() -> None:
    busy = Busy(0)
    busy.create(KEY, b"1")
    busy.refusals, busy.calls = 2, []
    assert patient(busy).create(Key("p/copy"), CopyOf(KEY))
    assert busy.calls == ["create"] * 3
