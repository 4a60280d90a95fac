"""The channels of results, as the Redis of a test has them: sharded in a cluster."""

import contextlib
from collections.abc import Iterator

import redis
from redis.client import PubSub

from broker import channels
from broker.cluster import node_of, nodes
from broker.keys import Keys


@contextlib.contextmanager
def subscription(client: redis.Redis, keys: Keys, model: str, name: str) -> Iterator[PubSub]:
    """A context: subscribed to what is told of a model's results to a frontend, or a job's pollers."""
    told = channels.of_part(client, keys, keys.of(model))
    channel = told.prefix + name
    with node_of(client, channel).pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
        if told.command == "SPUBLISH":
            pubsub.ssubscribe(channel)
        else:
            pubsub.subscribe(channel)
        pubsub.get_message(timeout=5)
        yield pubsub


def publish(client: redis.Redis, keys: Keys, model: str, name: str, message: bytes) -> None:
    """Tell a frontend, or a polled job's clients."""
    told = channels.of_part(client, keys, keys.of(model))
    client.execute_command(told.command, told.prefix + name, message)  # type: ignore[no-untyped-call]


def subscribers(client: redis.Redis, keys: Keys, model: str, name: str) -> int:
    """How many listen."""
    told = channels.of_part(client, keys, keys.of(model))
    channel = told.prefix + name
    if told.command == "SPUBLISH":
        return int(node_of(client, channel).pubsub_shardnumsub(channel)[0][1])
    return sum(int(node.pubsub_numsub(channel)[0][1]) for node in nodes(client))
