"""Where results are told: the command that publishes them, and the channel.

Owns that choice alone. On one Redis, and in a cluster of Redis 6.2, the channels of a frontend and of a job
that is polled have no model in their names. In a cluster of Redis 7, or Valkey, they are sharded: a plain
PUBLISH would send each result to all nodes, a sharded channel stays on the node of the model's slot.
"""

from dataclasses import dataclass

import redis

from broker.cluster import has_sharded_channels
from broker.keys import Keys, ModelKeys


@dataclass(frozen=True, slots=True)
class ResultChannels:
    """The channels on which results of one model are told."""

    command: str
    prefix: str
    """What comes before the frontend's id, or the job's."""


def of_part(client: redis.Redis, keys: Keys, part: ModelKeys) -> ResultChannels:
    """Those of this model, or shard of its queue. Raises what redis-py does: it may ask which Redis it is."""
    if has_sharded_channels(client):
        return ResultChannels("SPUBLISH", part.results_channel_prefix)
    return ResultChannels("PUBLISH", keys.results_channel_prefix)
