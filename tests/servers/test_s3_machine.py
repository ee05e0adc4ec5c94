"""The store as a state machine (tests/properties/test_store_machine.py), on a real S3 server."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.properties import test_store_machine
from tests.properties.test_store_machine import LocalStoreMachine, runs
from tests.support.seaweed import Prefixes, running_server

pytestmark = pytest.mark.lane("s3")

LONG = os.environ.get("EOCTL_TEST_LONG") == "1"


class S3StoreMachine(LocalStoreMachine):
    """In a bucket: each run below a prefix of its own."""


@pytest.fixture(scope="module", autouse=True)
def in_a_bucket() -> Iterator[None]:
    """What the machine takes for a disk is a bucket."""
    with contextlib.closing(running_server()) as servers, pytest.MonkeyPatch.context() as patch:
        prefixes = Prefixes(next(servers))
        patch.setattr(test_store_machine, "local_place", lambda root: prefixes.place(root / "tmp"))
        yield


TestOnS3 = S3StoreMachine.TestCase
TestOnS3.settings = settings(runs(150 if LONG else 10), suppress_health_check=[HealthCheck.too_slow])
