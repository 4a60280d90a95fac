"""Redis' append-only file: rewritten, so that it holds what Redis holds and no upload that was answered.

Owns one rewrite, from asking for it to its end. It is for whoever runs a Redis of this project's own, and
says when: another's may be large, or shared.
"""

import time
from typing import Final

import redis

from broker.connection import translated
from broker.errors import BrokerUnavailable

_LOOK_S: Final = 0.05


def rewrite(client: redis.Redis, *, within_s: float) -> None:
    """Rewrite the file from what is in memory at a moment after this call; return once it is in place.

    Raises BrokerUnavailable: Redis is away or refuses it, it failed (the disk is full), or it took longer.
    """
    until = time.monotonic() + within_s
    # One that runs already began before: what it writes may have a picture that has gone since.
    while not _begin(client):
        _wait(until)
    while (state := _state(client))["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
        _wait(until)
    if state["aof_last_bgrewrite_status"] != "ok":
        raise BrokerUnavailable("Redis can't rewrite its append-only file: its log says why.")


def _begin(client: redis.Redis) -> bool:
    if _state(client)["aof_rewrite_in_progress"]:
        return False
    with translated("rewrite its append-only file"):
        client.bgrewriteaof()
    return True


def _state(client: redis.Redis) -> dict[str, int | str]:
    with translated("tell of its append-only file"):
        return dict(client.info("persistence"))


def _wait(until: float) -> None:
    if time.monotonic() > until:
        raise BrokerUnavailable("Redis has not rewritten its append-only file in time.")
    time.sleep(_LOOK_S)
