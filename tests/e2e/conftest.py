"""Fixtures of real processes: a web tier over a Redis, without a model server yet."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import told_server
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, web_up


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
