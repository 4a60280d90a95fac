"""Fixtures of real processes: a web tier over a Redis, without a model server yet."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import told_server
from tests.support.nginx import running_nginx
from tests.support.redis_server import RedisServer
from tests.support.stack import SHADE, Stack, shade, web_up


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CACHE_DIR that this run's tests share, in all of its workers."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "engines"


@pytest.fixture
def stack(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack with its web tier up and no model server yet."""
    with web_up(Stack(tmp_path, own_redis.url)) as stack:
        yield stack


@pytest.fixture
def told(own_redis: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    """A stack with a model `told` of this folder's own: its web tier up, no model server yet."""
    made = Stack(tmp_path, own_redis.url, "told")
    made.environment["MODELS_DIR"] = str(tmp_path / "models")
    told_server.write(tmp_path / "models" / "told")
    with web_up(made):
        yield made


@pytest.fixture(params=["directly", "through nginx"])
def url(request: pytest.FixtureRequest, service: Stack, tmp_path: Path) -> Iterator[str]:
    """The address of the module's `service`, or of nginx in front of it."""
    if request.param == "directly":
        yield service.url
    else:
        with running_nginx(tmp_path / "nginx", service.port) as address:
            yield address


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of the brightness SHADE, to be sent by its name."""
    path = tmp_path / "jemma.png"
    path.write_bytes(shade(SHADE))
    return path
