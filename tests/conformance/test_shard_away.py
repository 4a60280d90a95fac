"""Four shards on four nodes of a real cluster, one of which goes: the others' jobs do not wait for it."""

import os
import signal
import time
from pathlib import Path

import pytest

from broker.connection import connect
from broker.errors import BrokerUnavailable
from broker.keys import Keys
from broker.messages import Pace, Result
from model_server.serving.worker import Worker
from tests.conformance.test_shards import Web, _join
from tests.support import fakes
from tests.support.fakes import MODEL, FakeEngine
from tests.support.redis_cluster import running_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SHARDS = 4


def _run(worker: Worker, web: Web, jobs: list[str], *, within_s: float = 30.0) -> None:
    """Until these jobs have their results."""
    waiting, until = set(jobs), time.monotonic() + within_s
    while waiting:
        assert time.monotonic() < until, f"{len(waiting)} jobs have no results"
        fakes.step(worker)
        waiting = {each for each in waiting if not isinstance(web.producer.poll(MODEL, each), Result)}


def _ids(web: Web, shard: int, count: int) -> list[str]:
    return [each.id for each in web.enqueue(count, shard=shard)]


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_node_that_is_away_stops_its_own_shard_alone(tmp_path: Path, keys: Keys, how: str) -> None:
    with running_cluster(primaries=SHARDS) as cluster, connect(cluster.url, timeout_s=1) as client:
        engine = FakeEngine()
        worker = fakes.worker(client, keys, engine, tmp_path, shards=SHARDS)
        worker.pipeline.engine = engine
        _join(worker)
        web = Web(client, keys)
        own = keys.of(MODEL)
        nodes = [cluster.owner_of(own.of_shard(shard).queue) for shard in range(SHARDS)]
        home = cluster.owner_of(own.queue)
        gone = next(shard for shard in range(SHARDS) if nodes[shard] is not home)
        others = [shard for shard in range(SHARDS) if nodes[shard] is not nodes[gone]]
        assert len(others) == SHARDS - 1
        kept = _ids(web, gone, 3)
        if how == "killed":
            nodes[gone].until_written()
            nodes[gone].stop(kill=True)
        else:
            os.kill(nodes[gone].pid, signal.SIGSTOP)
        _run(worker, web, [each for shard in others for each in _ids(web, shard, 5)])
        web.now += 1  # the queue is asked
        web.producer.admit(MODEL, size=1000, timeout_s=60, pace=Pace(rate=100.0))
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            _ids(web, gone, 1)
        assert time.monotonic() - began < 20
        if how == "killed":
            nodes[gone].start()
        else:
            os.kill(nodes[gone].pid, signal.SIGCONT)
        _until_back(web, gone)
        _run(worker, web, [*kept, *_ids(web, gone, 2)])
        worker.leave()


def _until_back(web: Web, shard: int) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            _ids(web, shard, 1)
        except BrokerUnavailable:
            assert time.monotonic() < until
        else:
            return
