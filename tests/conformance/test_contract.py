"""Two releases with different contracts on one Redis: each says so, and neither touches the other's jobs."""

import pytest
import redis

from broker import contract
from broker.clock import RedisClock
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.registry import Registry
from tests.support import fakes
from tests.support.fakes import KEY_TTL_S, MODEL, READY


def test_the_first_worker_writes_the_version_and_each_renewal_keeps_it(
    client: redis.Redis, keys: Keys
) -> None:
    lease = fakes.lease(client, keys)
    lease.register(READY)
    assert client.get(keys.contract) == contract.VERSION
    client.expire(keys.contract, 5)
    lease.announce(READY)
    assert KEY_TTL_S - 5 <= client.ttl(keys.contract) <= KEY_TTL_S


def test_a_worker_of_another_release_does_not_register(client: redis.Redis, keys: Keys) -> None:
    client.set(keys.contract, "another")
    with pytest.raises(BrokerUnavailable, match=r"bw:contract is another, this release's is 4.*KEY_PREFIX"):
        fakes.lease(client, keys).register(READY)
    assert client.get(keys.contract) == b"another"
    assert not client.exists(keys.of(MODEL).workers, keys.of(MODEL).states)
    assert not client.exists(keys.models)


def test_a_web_process_of_another_release_answers_for_no_model_until_the_other_has_gone(
    client: redis.Redis, keys: Keys
) -> None:
    fakes.lease(client, keys).register(READY)
    client.set(keys.contract, "another")
    registry = Registry(client, keys, RedisClock())
    with pytest.raises(BrokerUnavailable, match="another release of Batchwire"):
        registry.models(fresh=True)
    client.delete(keys.contract)
    assert list(registry.models(fresh=True)) == [MODEL]
