"""Which keys of Redis the jobs have left. Owns what does not count: keys that are one for all jobs."""

import redis

_ONE_FOR_ALL = (":bell", ":asked", ":history", ":history:writer", ":id_secret")
"""The bell may keep a token that nobody needs; the others say what was lately."""


def keys_of_jobs(client: redis.Redis) -> set[str]:
    """The names of all keys but those."""
    names = (key.decode("latin-1") if isinstance(key, bytes) else key for key in client.keys("*"))
    return {name for name in names if not name.endswith(_ONE_FOR_ALL)}
