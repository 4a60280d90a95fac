"""API keys for tests. Owns how one is made without the operator's command."""

from typing import Any

import redis

from broker.api_keys import ApiKey, ApiKeyStore
from broker.keys import Keys
from web.keys import secret


def add_key(client: redis.Redis, keys: Keys, name: str, **fields: Any) -> str:  # noqa: ANN401 - of ApiKey
    """Add a key of this name, with these fields of ApiKey; return its text."""
    text, digest = secret.fresh(0)
    ApiKeyStore(client, keys).add(ApiKey(name=name, secrets=(digest,), created_at=0, **fields))
    return text
