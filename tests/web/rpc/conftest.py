"""gRPC's server over a real Redis, beside the web tier and its worker in this process."""

from collections.abc import Iterator

import pytest

from settings import Settings
from tests.support.fakes import MODEL
from tests.support.service import Service
from tests.web.rpc.client import RpcClient
from web.rpc.server import RpcServer


@pytest.fixture
def server(service: Service, redis_url: str, environment: dict[str, str]) -> Iterator[RpcServer]:
    """A server with the settings of the web tier; the worker may be at work or not."""
    assert service
    settings = Settings.from_env(
        {"REDIS_URL": redis_url, "MODELS": f"{MODEL},never", "REQUEST_TIMEOUT_S": "20", **environment}
    )
    server = RpcServer(settings, port=0, patience_s=2.0)
    server.start()
    assert server.jobs.replies.is_subscribed(20)
    yield server
    server.stop(within_s=0)
    server.jobs.producer._redis.close()


@pytest.fixture
def rpc(server: RpcServer) -> Iterator[RpcClient]:
    """A client of it."""
    with RpcClient(server.port) as client:
        yield client
