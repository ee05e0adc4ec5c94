"""The backend on S3 keeps what every backend promises, on a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.backend import Backend
from tests.conformance.backend_suite import KEY, BackendSuite
from tests.support.seaweed import Server, running_server

pytestmark = pytest.mark.lane("s3")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from running_server()


@pytest.fixture(scope="module")
def bucket(server: Server) -> str:
    return server.bucket()


class TestS3(BackendSuite):
    @pytest.fixture
    def backend(self, server: Server) -> Backend:
        return server.backend(server.bucket())


class TestS3BelowAPrefix(BackendSuite):
    """Tenants share a bucket."""

    @pytest.fixture
    def backend(self, server: Server, bucket: str, request: pytest.FixtureRequest) -> Backend:
        tenant = f"tenant-{abs(hash(request.node.name))}"
        server.backend(bucket, f"{tenant}-2").create(KEY, b"of another tenant")
        return server.backend(bucket, tenant)
