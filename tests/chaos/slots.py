"""Slots move between the nodes of a Redis Cluster: a fault of a stack whose Redis is one.

Owns that fault. How a slot moves is tests/support/redis_cluster.py's.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from redis.crc import key_slot

from broker.keys import Keys
from tests.chaos import campaign, numbers
from tests.chaos.campaign import Account
from tests.chaos.stack import ChaosStack
from tests.support.redis_cluster import RedisCluster, migrate, running_cluster

_HALFWAY_S: Final = 1.5
"""For so long at most the keys of a slot lie on two nodes: up to three times what a command waits for."""


class ClusterStack(ChaosStack):
    """Two model servers and Gunicorn over a cluster of three primaries."""

    def __init__(self, folder: Path, cluster: RedisCluster, seed: int) -> None:
        super().__init__(folder, cluster, seed)
        self._cluster = cluster
        self._key = Keys("bw:").of(numbers.MODEL).queue

    def slot_moved(self) -> None:
        """Move the model's slot in mid-batch, and stop for a while where half of its keys have moved."""
        slot, source = key_slot(self._key.encode()), self._cluster.owner_of(self._key)
        target = self._random.choice([node for node in self._cluster.primaries() if node is not source])
        self._await_batch()
        self._cluster.open_move(slot, source, target)
        keys = source.call("CLUSTER GETKEYSINSLOT", slot, 1000)
        migrate(source, target, keys[: len(keys) // 2])
        time.sleep(self._random.uniform(0, _HALFWAY_S))
        while keys := source.call("CLUSTER GETKEYSINSLOT", slot, 100):
            migrate(source, target, keys)
        self._cluster.close_move(slot, source, target)


SLOTS: Final[dict[str, Callable[[ClusterStack], None]]] = {
    "slots move between the nodes of a cluster": ClusterStack.slot_moved,
}


def run(
    fault: str, *, strikes: int, rate: float, seed: int, folder: Path, pictures: int = numbers.COUNT
) -> Account:
    """Strike a stack on a cluster of its own so often; see `campaign.strike_under_load`."""
    with running_cluster() as cluster:
        stack = ClusterStack(folder, cluster, seed)
        try:
            stack.begin()
            return campaign.strike_under_load(
                fault,
                SLOTS[fault],
                stack,
                strikes=strikes,
                rate=rate,
                seed=seed,
                folder=folder,
                pictures=pictures,
            )
        finally:
            stack.stop()
