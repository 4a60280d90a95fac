"""A key for a request. Owns the fixture that adds one."""

from collections.abc import Callable

import pytest
import redis

from broker.keys import Keys
from tests.support.api_keys import add_key


@pytest.fixture
def add(client: redis.Redis, keys: Keys) -> Callable[..., dict[str, str]]:
    """Adds a key with such fields, and gives the header field with it."""
    return lambda name, **fields: {"X-API-Key": add_key(client, keys, name, **fields)}
