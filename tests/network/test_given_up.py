"""A command that was given up because no answer came is not done later, when the network is back."""

import struct
from pathlib import Path

import pytest

from broker.connection import connect, translated
from broker.errors import BrokerUnavailable
from tests.chaos import hosts
from tests.chaos.hosts import REDIS
from tests.support.network import CLIENTS, Network
from tests.support.waiting import eventually

pytestmark = [pytest.mark.network, pytest.mark.timeout(60)]

ESTABLISHED, TIME_WAIT = "01", "06"


def _connections_to(network: Network) -> list[str]:
    """The states of this machine's connections to Redis, those that were closed and not forgotten too."""
    address = bytes(map(int, network.address(REDIS).split(".")))
    remote = f"{struct.unpack('<I', address)[0]:08X}:{hosts.REDIS_PORT:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [fields[3] for fields in lines if fields[2] == remote and fields[3] != TIME_WAIT]


def test_a_write_that_was_given_up_is_never_done() -> None:
    with (
        Network([REDIS]) as network,
        hosts.redis_on(network) as redis,
        connect(redis.network_url, timeout_s=0.9) as client,
    ):
        client.rpush("list", "before")
        network.drop(source=CLIENTS, target=REDIS)
        with pytest.raises(BrokerUnavailable, match="in time"), translated("take it"):
            client.rpush("list", "given up")
        network.mend()
        # What the kernel still repeats is gone, one way or the other.
        eventually(lambda: not _connections_to(network))
        assert client.lrange("list", 0, -1) == [b"before"]
        assert _connections_to(network) == [ESTABLISHED]
