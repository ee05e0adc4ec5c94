"""The backend in memory keeps what every backend promises."""

from pathlib import Path

import pytest

from storage.backend import Backend
from storage.backends.memory import MemoryBackend
from tests.conformance.backend_suite import BackendSuite
from tests.support.faulty import CountingBackend, FaultyBackend


class TestMemory(BackendSuite):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend(clock=lambda: 0.0)


class TestMemoryBehindNoFaults(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return CountingBackend(FaultyBackend(MemoryBackend(clock=lambda: 0.0)))
