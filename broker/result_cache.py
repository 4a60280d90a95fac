"""The response cache in Redis: results of earlier jobs, and the jobs that run now, by what they are asked.

Owns how long a result is kept, and the bound on all that is kept of a model. What a digest covers, and when a
result answers a request, is web/cached_inference.py's.
"""

import contextlib
import logging
import math
import time
from typing import Final, TypeVar

import redis

from broker import channels, codec
from broker.connection import translated
from broker.errors import BrokerUnavailable, MalformedMessage
from broker.keys import Keys
from broker.messages import Result
from broker.producer import RequestName
from broker.scripts import lua
from telemetry import logs

_LOG = logging.getLogger(__name__)

MAX_RESULT_BYTES: Final = 64 * 1024
"""A larger result is not kept: classes and boxes take 0.5 to 20 KB, a picture or raw outputs megabytes."""

OVERHEAD_BYTES: Final = 512
"""What an entry takes in Redis besides its result: its name twice, and its place in two tables."""

_NAME_S: Final = 10
"""For so long after its end a job is still found by those that began to decode the same picture before it."""

_AWAY_S: Final = 1.0
"""For so long Redis is believed to be away: each of 64 pictures would find that out again in 0.9 s."""

_DIGEST: Final = "-"
"""The name of a shared job is a digest itself: no other request has the same."""

_ResultT = TypeVar("_ResultT", bound=Result)


def shared_name(digest: str) -> RequestName:
    """The name of the job that answers this digest: no Idempotency-Key makes one, for those end in `:N`."""
    return RequestName(digest, _DIGEST, is_shared=True)


class ResultCache:
    """Results of the models, each for `ttl_s`, `most_bytes` a model. Safe to share between threads."""

    def __init__(self, client: redis.Redis, keys: Keys, *, ttl_s: int, most_bytes: int) -> None:
        self.ttl_s = ttl_s
        self._redis = client
        self._keys = keys
        self._most_bytes = most_bytes
        self._away_until = -math.inf
        self._keep_script = client.register_script(lua("keep"))

    def find(self, model: str, digest: str, kind: type[_ResultT]) -> _ResultT | str | None:
        """The result that is kept, or else the id of the job that runs for the same.

        Raises BrokerUnavailable.
        """
        keys = self._keys.of(model)
        with translated("look up a kept result"):
            result, name = self._redis.mget([keys.cached(digest), keys.request(digest)])
        if isinstance(result, bytes):
            with contextlib.suppress(MalformedMessage):
                return codec.decode(result, kind)
        return name.decode().partition(" ")[2] if isinstance(name, bytes) else None

    def keep(self, model: str, digest: str, result: Result, *, is_answer: bool) -> bool:
        """Keep a job's result if it `is_answer` for others and small, and wake those that share the job.

        Returns whether it is kept. A Redis that is full or away keeps nothing: the answer does not need it.
        """
        if time.monotonic() < self._away_until:
            return False
        keys, value = self._keys.of(model), codec.encode(result)
        size = len(value) + OVERHEAD_BYTES if is_answer and len(value) <= MAX_RESULT_BYTES else 0
        try:
            with translated("keep a result"):
                told = channels.of_part(self._redis, self._keys, keys)
                reply = self._keep_script(
                    keys=[keys.cache, keys.cached(digest), keys.request(digest)],
                    args=[
                        *(digest, result.id, value, told.prefix + result.id, size),
                        *(self.ttl_s, self._most_bytes, keys.cached_prefix, _NAME_S, told.command),
                    ],
                )
                part = self._keys.of(model, result.id)
                if part is not keys and told.command == "SPUBLISH":  # where the job's pollers listen
                    told = channels.of_part(self._redis, self._keys, part)
                    self._redis.spublish(told.prefix + result.id, value)
        except BrokerUnavailable as error:
            if not error.is_refusal:
                self._away_until = time.monotonic() + _AWAY_S
            about = logs.about(job_id=result.id, model=model)
            _LOG.debug(
                "the result of job %s of %s is not kept: %s", result.id, model, error.detail, extra=about
            )
            return False
        return bool(reply == b"kept")
